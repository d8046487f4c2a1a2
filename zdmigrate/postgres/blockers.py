"""Who stands in the way of a lock."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from zdmigrate.plan import LockMode, TableLock
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident, literal

_QUERY_LENGTH = 120
_WEAKEST_CONFLICT = {
    # lock mode -> the modes that it conflicts with (manual, table 13.2), as pg_locks names them
    LockMode.ACCESS_SHARE: ("AccessExclusiveLock",),
    LockMode.ROW_SHARE: ("ExclusiveLock", "AccessExclusiveLock"),
    LockMode.ROW_EXCLUSIVE: ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
}
_ALL = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip
_CONFLICTS = {
    **_WEAKEST_CONFLICT,
    LockMode.SHARE_UPDATE_EXCLUSIVE: _ALL[3:],
    LockMode.SHARE: tuple(m for m in _ALL[2:] if m != "ShareLock"),
    LockMode.SHARE_ROW_EXCLUSIVE: _ALL[2:],
    LockMode.EXCLUSIVE: _ALL[1:],
    LockMode.ACCESS_EXCLUSIVE: _ALL,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A transaction that holds a conflicting lock.

    `pid` is None for a prepared transaction, whose name is `gid`; `age` is None where the role may not see it;
    `table` is None where it is not a lock on a table, but its snapshot. `autovacuum`: the server's own maintenance, the
    one session that belongs to no role.
    """

    table: str | None
    pid: int | None
    gid: str | None
    age: timedelta | None
    text: str
    autovacuum: bool = False

    def __str__(self) -> str:
        since = "" if self.age is None else f", open for {self.age.total_seconds():.1f} s"
        who = f"pid {self.pid}" if self.pid is not None else "a prepared transaction"
        where = "" if self.table is None else f" on {self.table}"
        return f"{who}{where}{since}: {self.text}"

    @property
    def remedy(self) -> str:
        """What ends it."""
        if self.gid is not None:
            return f"ROLLBACK PREPARED {literal(self.gid)}"
        return f"SELECT pg_terminate_backend({self.pid})"


# pg_partition_tree would itself wait for whoever holds ACCESS EXCLUSIVE: the very thing to be reported.
_QUERY = """
WITH RECURSIVE wanted(oid) AS (
    SELECT to_regclass(named.name)::oid FROM unnest(%s::text[]) named(name)
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN wanted w ON i.inhparent = w.oid)
SELECT n.nspname || '.' || c.relname, l.pid, x.gid, clock_timestamp() - coalesce(a.xact_start, x.prepared),
       CASE WHEN l.pid IS NULL THEN 'gid ' || coalesce(quote_literal(x.gid), 'unknown')
            ELSE concat_ws(' ', a.usename, a.application_name, '(' || a.state || ')', left(a.query, %s)) END,
       l.pid IS NOT NULL AND a.pid IS NOT NULL AND a.usesysid IS NULL, l.mode
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.locktype = 'transactionid'
     AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation IN (SELECT oid FROM wanted)
ORDER BY 4 DESC NULLS LAST
"""

_SNAPSHOTS = """
SELECT NULL, a.pid, NULL, clock_timestamp() - a.xact_start,
       concat_ws(' ', a.usename, a.application_name, '(' || a.state || ')', left(a.query, %s))
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND clock_timestamp() - a.xact_start >= %s
UNION ALL
SELECT NULL, NULL, x.gid, clock_timestamp() - x.prepared, 'gid ' || quote_literal(x.gid)
FROM pg_prepared_xacts x WHERE x.database = current_database() AND clock_timestamp() - x.prepared >= %s
ORDER BY 4 DESC
"""


def find(connection: Connection, locks: Sequence[TableLock], *, older_than: timedelta | None = None) -> list[Blocker]:
    """Transactions that hold a lock which conflicts with one of `locks`, oldest first.

    With `older_than`, those of an unknown age are left out: that is every session of another role where ours is not
    a member of pg_read_all_stats, and one that has just ended.
    """
    names = [ident(lock.schema, lock.name) for lock in locks]
    conflicting = {mode for lock in locks for mode in _CONFLICTS[lock.mode]}
    rows: list[Any] = connection.execute(_QUERY, (names, _QUERY_LENGTH)).fetchall()
    found: dict[tuple[Any, ...], Blocker] = {}
    for *row, autovacuum, mode in rows:
        blocker = dataclasses.replace(_blocker(row), autovacuum=autovacuum)
        if mode in conflicting and (older_than is None or (blocker.age is not None and blocker.age >= older_than)):
            found.setdefault((blocker.pid, blocker.gid, blocker.table), blocker)
    return list(found.values())


def snapshots(connection: Connection, *, older_than: timedelta) -> list[Blocker]:
    """Old transactions of the database, oldest first: CREATE INDEX CONCURRENTLY waits for them, whatever they do."""
    return [_blocker(row) for row in connection.execute(_SNAPSHOTS, (_QUERY_LENGTH, older_than, older_than)).fetchall()]


def _blocker(row: Sequence[Any]) -> Blocker:
    table, pid, gid, age, text = row
    return Blocker(table=table, pid=pid, gid=gid, age=age, text=" ".join(text.split()))
