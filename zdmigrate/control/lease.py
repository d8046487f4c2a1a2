"""The expiring right to work on one migration, with a fencing token.

A row, not a session advisory lock: poolers strand those. Three rules make it safe:

* every transaction that writes takes FOR KEY SHARE on the row *with its epoch* (`Lease.fence`). A takeover changes
  the epoch, which is a key update and waits for that transaction; afterwards the old holder finds no row, so a zombie
  cannot commit. A heartbeat changes no key and waits for nobody;
* statements that cannot carry the fence (CONCURRENTLY, VALIDATE) run on a backend that is recorded in the lease.
  A takeover ends that backend and waits until it is gone before it looks at anything;
* expiry is by the database's clock. A holder whose recorded backend is gone has no session left and is replaced at
  once; one whose backend lives is waited for until its lease has run out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Protocol

import psycopg
from psycopg import sql

from zdmigrate.control.fence import Fence, lost
from zdmigrate.control.store import Store
from zdmigrate.errors import Contended, LeaseHeld, Unsafe
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection, Cursor

_POLL = 0.2


class Lease:
    """A lease that is held. `fence` goes first in every transaction that writes."""

    def __init__(self, store: Store, connection: Connection, key: int, epoch: int, ttl: timedelta) -> None:
        self._store = store
        self._connection = connection
        self._ttl = ttl
        self._lost = threading.Event()
        self._stop = threading.Event()
        self.key = key
        self.epoch = epoch
        held = sql.SQL("SELECT FROM {} WHERE migration = {} AND epoch = {}").format(
            sql.Identifier(store.schema, "lease"), sql.Literal(key), sql.Literal(epoch)
        )
        self.fence = Fence(held=held, is_lost=self._lost.is_set)

    @property
    def is_lost(self) -> bool:
        """Whether a heartbeat found that somebody took over."""
        return self._lost.is_set()

    def beat(self, connection: Connection) -> bool:
        """Extend the lease; False where it is no longer ours."""
        statement = (
            f"UPDATE {self._store.table('lease')} SET expires_at = clock_timestamp() + %s "
            "WHERE migration = %s AND epoch = %s"
        )
        return connection.execute(statement.encode(), (self._ttl, self.key, self.epoch)).rowcount == 1

    def keep(self, connect: Callable[[], Connection]) -> None:
        """The heartbeat: runs until `stop`, on connections of its own; cancels our work when the lease is lost.

        A connection that breaks is replaced, for as long as the lease lasts without it.
        """
        ttl, beaten = self._ttl.total_seconds(), time.monotonic()
        while time.monotonic() - beaten < ttl:
            with contextlib.suppress(psycopg.Error, Unsafe), connect() as connection:
                asked = time.monotonic()
                while self.beat(connection):
                    beaten = asked
                    if self._stop.wait(ttl / 3):
                        return
                    asked = time.monotonic()
                break
            if self._stop.wait(ttl / 30):
                return
        self._lost.set()
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=5)

    def was_taken_over(self, connect: Callable[[], Connection]) -> bool:
        """Ask on a new connection whose lease it is now; False where there is no answer."""
        statement = f"SELECT epoch FROM {self._store.table('lease')} WHERE migration = %s"
        with contextlib.suppress(psycopg.Error), connect() as connection:
            return connection.execute(statement.encode(), (self.key,)).fetchone() != (self.epoch,)
        return False

    def stop(self) -> None:
        """End the heartbeat."""
        self._stop.set()

    def release(self) -> None:
        """Give the lease back, so that the next holder need not wait."""
        statement = (
            f"UPDATE {self._store.table('lease')} SET expires_at = clock_timestamp(), holder = NULL, backend = NULL, "
            "backend_start = NULL WHERE migration = %s AND epoch = %s"
        )
        with contextlib.suppress(psycopg.Error):
            self._connection.execute(statement.encode(), (self.key, self.epoch))


class Right(Protocol):
    """The right to write on behalf of a lease: one's own, or another's that was joined."""

    key: int
    fence: Fence

    @property
    def is_lost(self) -> bool:
        """Whether it is known to have ended."""


class Joined:
    """Somebody else's lease, of a backfill that is helped. It ends when theirs runs out or passes on, or the backfill ends.

    A takeover waits for the transactions of those who have joined as for those of the holder.
    """

    def __init__(self, store: Store, connection: Connection, key: int, epoch: int) -> None:
        self._connection = connection
        self.key = key
        self.epoch = epoch
        held = sql.SQL(
            "SELECT FROM {lease} WHERE migration = {key} AND epoch = {epoch} AND expires_at > pg_catalog.clock_timestamp() "
            "AND EXISTS (SELECT FROM {migration} AS m WHERE m.key = {key} AND m.running = 'backfill')"
        )
        names = {name: sql.Identifier(store.schema, name) for name in ("lease", "migration")}
        self.fence = Fence(held=held.format(**names, key=sql.Literal(key), epoch=sql.Literal(epoch)))

    @property
    def is_lost(self) -> bool:
        """Asks; for the thread that the connection belongs to."""
        with self._connection.cursor() as cursor:
            return cursor.execute(self.fence.held.as_string(cursor).encode()).rowcount != 1


def join(store: Store, connection: Connection, key: int) -> Joined | None:
    """The right to help whoever holds the lease; None where nobody does."""
    statement = (
        f"SELECT epoch FROM {store.table('lease')} "
        "WHERE migration = %s AND holder IS NOT NULL AND expires_at > clock_timestamp()"
    )
    row = connection.execute(statement.encode(), (key,)).fetchone()
    return None if row is None else Joined(store, connection, key, row[0])


@contextlib.contextmanager
def hold(
    store: Store,
    connection: Connection,
    connect: Callable[[], Connection],
    key: int,
    *,
    holder: str,
    ttl: timedelta,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Acquire the lease of a migration, keep it alive, and give it back.

    Raises:
        LeaseHeld: another process is alive and works on it.
    """
    lease = _acquire(store, connection, key, holder=holder, ttl=ttl, sleep=sleep)
    thread = threading.Thread(target=lease.keep, args=(connect,), name="zdmigrate heartbeat", daemon=True)
    try:
        thread.start()
        yield lease
    except psycopg.Error as error:
        # Our heartbeat cancelled the work, or a takeover ended its session: not a broken server.
        if lease.is_lost or (connection.closed and lease.was_taken_over(connect)):
            raise lost() from error
        raise
    finally:
        lease.stop()
        if thread.is_alive():  # a signal may come before it runs
            thread.join()
        if not connection.closed:
            lease.release()


_READ = """
SELECT l.epoch, l.holder, l.acquired_at, l.expires_at, l.expires_at <= clock_timestamp(), l.backend, l.backend_start,
       EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.backend
               AND (a.backend_start IS NULL OR a.backend_start = l.backend_start))
FROM {lease} l WHERE l.migration = %s
"""


def _acquire(
    store: Store, connection: Connection, key: int, *, holder: str, ttl: timedelta, sleep: Callable[[float], None]
) -> Lease:
    """Take a lease that is free, expired, or whose holder's session is gone; wait for one that no longer beats."""
    first_expiry: datetime | None = None
    while True:
        row = connection.execute(_READ.replace("{lease}", store.table("lease")).encode(), (key,)).fetchone()
        assert row is not None
        epoch, other, since, expires, expired, backend, backend_start, alive = row
        if other is None or expired or not alive:
            if backend is not None and alive:
                _end_backend(connection, backend, backend_start, sleep)
            if _take(store, connection, key, epoch, holder=holder, ttl=ttl):
                return Lease(store, connection, key, epoch + 1, ttl)
            continue
        first_expiry = first_expiry or expires
        if expires > first_expiry:
            raise LeaseHeld(
                f"{other} works on this migration since {since:%Y-%m-%d %H:%M:%S} UTC",
                hint="run: zdmigrate status; to fill rows with it: zdmigrate backfill work",
            )
        sleep(_POLL)


def _take(store: Store, connection: Connection, key: int, epoch: int, *, holder: str, ttl: timedelta) -> bool:
    """Move the epoch on; waits for a transaction of the old holder that is under way."""
    statement = (
        f"UPDATE {store.table('lease')} SET epoch = epoch + 1, holder = %s, acquired_at = clock_timestamp(), "
        "expires_at = clock_timestamp() + %s, backend = pg_backend_pid(), "
        "backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) "
        "WHERE migration = %s AND epoch = %s"
    )
    # The server ends an idle transaction of ours after five seconds: nothing can hold the row for longer than this.
    with session.transaction(connection, lock_timeout=timedelta(seconds=60)) as cursor:
        return cursor.execute(statement.encode(), (holder, ttl, key, epoch)).rowcount == 1


def _end_backend(connection: Connection, pid: int, started: datetime, sleep: Callable[[float], None]) -> None:
    """End the server process of a holder that no longer beats, and wait until it is gone."""
    # The start of another role's session is not shown without pg_read_all_stats.
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid = %s AND (backend_start IS NULL OR backend_start = %s)"
    )
    for _ in range(int(30 / _POLL)):
        try:
            if connection.execute(query.encode(), (pid, started)).fetchone() is None:
                return
        except psycopg.errors.InsufficientPrivilege as error:
            raise Contended(
                f"the server process {pid} of an earlier run belongs to another role",
                hint=f"end it as that role, or as superuser: SELECT pg_terminate_backend({pid})",
            ) from error
        sleep(_POLL)
    raise Contended(
        f"the server process {pid} of an earlier run does not end",
        hint=f"look at pg_stat_activity for pid {pid}; then run the command again",
    )


def holder_name(host: str, pid: int, started: datetime) -> str:
    """How a holder shows itself to the one who waits."""
    return f"{host} (process {pid}, started {started:%Y-%m-%d %H:%M:%S} UTC)"


def now(cursor: Cursor | Connection) -> datetime:
    """The database's clock."""
    row = cursor.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    stamp: datetime = row[0]
    return stamp
