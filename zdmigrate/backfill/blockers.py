"""Who holds the lock that a batch waited for. Pure: queries and their rendering.

A batch has given up when this is asked, so `pg_blocking_pids` of our own session has no answer any more. A row's
locker is in its xmax instead: a transaction, or a group of them (section 66.1 of the manual, Transactions and
Identifiers), and every transaction holds a lock on its own id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql

_LONGEST_QUERY = 120

# A prepared transaction has no pid; its locks share a virtual transaction with the lock on its transaction id.
_HOLDERS = """
SELECT blocking.pid, prepared.gid, coalesce(activity.xact_start, prepared.prepared),
       now() - coalesce(activity.xact_start, prepared.prepared),
       activity.state, coalesce(activity.usename, prepared.owner)::text, activity.application_name, activity.query
FROM (SELECT DISTINCT * FROM blocking) AS blocking
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = blocking.pid
LEFT JOIN pg_catalog.pg_locks AS own ON blocking.pid IS NULL AND own.locktype = 'transactionid'
     AND own.virtualtransaction = blocking.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
WHERE blocking.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
ORDER BY 3 NULLS LAST
LIMIT 5
"""

_ROW_LOCKERS = """
WITH blocking AS (
    SELECT lock.pid, lock.virtualtransaction
    FROM pg_catalog.pg_locks AS lock
    WHERE lock.locktype = 'transactionid' AND lock.granted AND lock.transactionid IN ({lockers})
)
"""

# Those who wait for such a lock are in the way too, and behind them whoever they wait for.
_TABLE_LOCKERS = """
WITH RECURSIVE tree AS (
    SELECT {table}::regclass::oid AS oid
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN tree ON inhparent = tree.oid
), conflicting AS (
    SELECT lock.* FROM pg_catalog.pg_locks AS lock JOIN tree ON lock.relation = tree.oid
    WHERE lock.locktype = 'relation' AND lock.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND lock.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND lock.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
), blocking(pid, virtualtransaction) AS (
    SELECT pid, CASE WHEN pid IS NULL THEN virtualtransaction END FROM conflicting
    UNION
    SELECT before.pid, NULL FROM conflicting, unnest(pg_catalog.pg_blocking_pids(conflicting.pid)) AS before(pid)
    WHERE NOT conflicting.granted AND before.pid <> 0
)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A session, or a prepared transaction (`gid`), that holds or waits for a lock."""

    pid: int | None
    gid: str | None
    since: datetime | None
    age: timedelta | None
    state: str | None
    user: str | None
    application: str | None
    query: str | None

    def __str__(self) -> str:
        who = f"prepared transaction {self.gid!r}" if self.gid is not None else f"pid {self.pid}"
        about = [text for text in (self.user, self.application, self.state) if text]
        parts = [f"{who} ({', '.join(about)})" if about else who]
        if self.since is not None and self.age is not None:
            parts.append(
                f"in its transaction since {self.since:%Y-%m-%d %H:%M:%S %Z} ({self.age.total_seconds():.0f} s)"
            )
        if self.query:
            parts.append(f"last query: {_short(self.query)}")
        return ", ".join(parts)

    @property
    def remedy(self) -> str:
        """What ends it."""
        if self.gid is not None:
            return "ROLLBACK PREPARED '" + self.gid.replace("'", "''") + "'"
        return f"SELECT pg_terminate_backend({self.pid})"


def of_row(relation: sql.Identifier, tid: str) -> sql.Composed:
    """A query for the holders of a lock on a row that one transaction alone has locked."""
    lockers = sql.SQL("SELECT xmax FROM ONLY {} WHERE ctid = {}::tid").format(relation, sql.Literal(tid))
    return sql.SQL(_ROW_LOCKERS + _HOLDERS).format(lockers=lockers)


def of_shared_row(relation: sql.Identifier, tid: str) -> sql.Composed:
    """The same for a row that several have locked; it fails where that is not so."""
    lockers = sql.SQL(
        "SELECT member.xid FROM ONLY {} AS r, pg_catalog.pg_get_multixact_members(r.xmax::text::xid) AS member "
        "WHERE r.ctid = {}::tid"
    ).format(relation, sql.Literal(tid))
    return sql.SQL(_ROW_LOCKERS + _HOLDERS).format(lockers=lockers)


def of_table(quoted: str) -> sql.Composed:
    """A query for those who hold, or wait for, a lock on the table or a partition that keeps writers out."""
    return sql.SQL(_TABLE_LOCKERS + _HOLDERS).format(table=sql.Literal(quoted))


def holders(rows: Sequence[tuple[Any, ...]]) -> list[Holder]:
    """What the queries returned."""
    return [
        Holder(pid=pid, gid=gid, since=since, age=age, state=state, user=user, application=application, query=query)
        for pid, gid, since, age, state, user, application, query in rows
    ]


def described(found: Sequence[Holder]) -> str:
    """All of them in one line."""
    return "; ".join(f"held by {holder}" for holder in found) or "nobody is seen to hold a lock, they may take too long"


def remedy(found: Sequence[Holder]) -> str:
    """A hint."""
    if not found:
        return "run the command again"
    return f"wait for it to end, or end it ({found[0].remedy}), then run the command again"


def _short(query: str) -> str:
    line = " ".join(query.split())
    return line if len(line) <= _LONGEST_QUERY else line[: _LONGEST_QUERY - 1] + "…"
