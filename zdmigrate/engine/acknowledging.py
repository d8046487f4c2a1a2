"""Waiting until applications know what is about to happen: the lease rule.

An instance relies on what its last heartbeat told it for as long as its lease lasts. So whoever takes a shape away first
records that it is about to, and then waits until every instance within its lease has said that it knows. That takes a
heartbeat or two; an instance that is stopped, or cut off, is waited for until its lease has run out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from zdmigrate.control import instances
from zdmigrate.control.store import Record, Store
from zdmigrate.errors import Progressed, Waiting
from zdmigrate.postgres.session import Connection
from zdmigrate.wording import counted

_LOOK = 0.2
_MARGIN = 5.0
"""Seconds beyond the longest lease: heartbeats renew it, and each brings news."""


def wait(
    connection: Connection, store: Store, record: Record, *, say: Callable[[str], None], out_of_time: Callable[[], bool]
) -> None:
    """Until all know the migration's present state.

    Raises:
        Waiting: an instance goes on reporting, and does not take note: a request or a job keeps what it knew before.
        Progressed: out of time.
    """
    until: float | None = None
    while behind := instances.behind(connection, store.schema, store.project, {record.id: record.version}):
        names = "; ".join(name for name, _ in behind[:3]) + ("; …" if len(behind) > 3 else "")
        if until is None:
            until = time.monotonic() + max(left for _, left in behind) + _MARGIN
            say(f"waits until {counted(len(behind), 'instance')} know of it, or their leases have run out: {names}")
        elif time.monotonic() > until:
            raise Waiting(
                f"{record.id}: {names} have not taken note of {record.running or record.phase}: what they read is pinned, by a "
                "request or a job that goes on",
                hint="wait for it to end, or end it; then run the command again",
            )
        if out_of_time():
            raise Progressed("out of time while applications had not taken note yet", hint="run the command again")
        time.sleep(_LOOK)
