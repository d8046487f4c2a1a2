"""Who stands in the way of a lock."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from zdmigrate.plan import LockMode, TableLock
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

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
    """A transaction that holds a conflicting lock. `pid` is None for a prepared transaction."""

    table: str
    pid: int | None
    age: timedelta | None
    text: str

    def __str__(self) -> str:
        since = "" if self.age is None else f", open for {self.age.total_seconds():.1f} s"
        who = f"pid {self.pid}" if self.pid is not None else "a prepared transaction"
        return f"{who} on {self.table}{since}: {self.text}"


# pg_partition_tree would itself wait for whoever holds ACCESS EXCLUSIVE: the very thing to be reported.
_QUERY = """
WITH RECURSIVE wanted(oid) AS (
    SELECT to_regclass(named.name)::oid FROM unnest(%s::text[]) named(name)
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN wanted w ON i.inhparent = w.oid)
SELECT n.nspname || '.' || c.relname, l.pid, clock_timestamp() - a.xact_start,
       CASE WHEN l.pid IS NULL
            THEN coalesce((SELECT 'gid ' || quote_literal(x.gid) FROM pg_prepared_xacts x
                           WHERE l.virtualtransaction = '-1/' || x.transaction::text), 'unknown')
            ELSE concat_ws(' ', a.usename, a.application_name, '(' || a.state || ')', left(a.query, %s)) END,
       l.mode
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation IN (SELECT oid FROM wanted)
ORDER BY a.xact_start NULLS FIRST
"""


def find(connection: Connection, locks: Sequence[TableLock], *, older_than: timedelta = timedelta(0)) -> list[Blocker]:
    """Transactions that hold a lock which conflicts with one of `locks`, oldest first."""
    names = [ident(lock.schema, lock.name) for lock in locks]
    conflicting = {mode for lock in locks for mode in _CONFLICTS[lock.mode]}
    rows: list[Any] = connection.execute(_QUERY, (names, _QUERY_LENGTH)).fetchall()
    found: dict[tuple[int | None, str], Blocker] = {}
    for table, pid, age, text, mode in rows:
        if mode in conflicting and (age is None or age >= older_than):
            found.setdefault((pid, table), Blocker(table=table, pid=pid, age=age, text=" ".join(text.split())))
    return list(found.values())
