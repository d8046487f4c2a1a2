"""Waiting until applications know what is about to happen: the lease rule.

An instance relies on what its last heartbeat told it for as long as its lease lasts. So whoever takes a shape away first
records that it is about to, and then waits until every instance within its lease has said that it knows. That takes a
heartbeat or two; an instance that is stopped, or cut off, is waited for until its lease has run out.

A heartbeat that is under way when it is recorded may still tell what was before, and prolong a lease, in a transaction that
nobody sees yet. So the table is locked once, for an instant: whoever comes after that is told the new state, and whoever was
before is seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import psycopg

from zdmigrate.control import instances
from zdmigrate.control.store import Record, Store
from zdmigrate.errors import Contended, Progressed, Waiting
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection
from zdmigrate.wording import counted

_LOOK = 0.2
_MARGIN = 5.0
"""Seconds beyond the longest lease: heartbeats renew it, and each brings news."""
_LOCK = timedelta(seconds=1)
"""Heartbeats wait so long at most; applications do not."""
_TRIES = 10


def wait(
    connection: Connection, store: Store, record: Record, *, say: Callable[[str], None], out_of_time: Callable[[], bool]
) -> None:
    """Until all know the migration's present state. Locks: SHARE on ``app_instance``, for an instant.

    Raises:
        Waiting: an instance goes on reporting, and does not take note: a request or a job keeps what it knew before.
        Contended: somebody holds a lock on the table of instances.
        Progressed: out of time.
    """
    _let_pass(connection, store)
    behind = _behind(connection, store, record)
    if not behind:
        return
    waited = {name for name, _ in behind}  # who registers from now on is told the present state
    until = time.monotonic() + max(left for _, left in behind) + _MARGIN
    names = _named(sorted(waited))
    say(f"waits until {counted(len(behind), 'instance')} know of it, or their leases have run out: {names}")
    while left := sorted(name for name, _ in _behind(connection, store, record) if name in waited):
        if time.monotonic() > until:
            raise Waiting(
                f"{record.id}: {_named(left)} have not taken note of {record.running or record.phase}: what they read is "
                "pinned, by a request or a job that goes on",
                hint="wait for it to end, or end it; then run the command again",
            )
        if out_of_time():
            raise Progressed("out of time while applications had not taken note yet", hint="run the command again")
        time.sleep(_LOOK)


def _behind(connection: Connection, store: Store, record: Record) -> list[tuple[str, float]]:
    return instances.behind(connection, store.schema, store.project, {record.id: record.version})


def _let_pass(connection: Connection, store: Store) -> None:
    """Wait for the heartbeats that are under way."""
    for _ in range(_TRIES):
        try:
            with session.transaction(connection, lock_timeout=_LOCK) as cursor:
                cursor.execute(f"LOCK TABLE {store.table('app_instance')} IN SHARE MODE".encode())
        except psycopg.errors.LockNotAvailable:
            time.sleep(_LOOK)
        else:
            return
    raise Contended(
        f"somebody holds a lock on {store.table('app_instance')}, and heartbeats cannot be waited for",
        hint="end that transaction (pg_locks), then run the command again",
    )


def _named(names: list[str]) -> str:
    return "; ".join(names[:3]) + ("; …" if len(names) > 3 else "")
