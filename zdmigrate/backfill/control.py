"""What was said to a backfill from another terminal, and what its processes say of themselves.

A worker reads its row once a second: one SELECT by primary key, which waits for nobody. No batch ever locks that row, so
nobody who steers waits for a batch, not even for one that waits for somebody else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from zdmigrate.postgres.session import Connection, Cursor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How a backfill is steered. None everywhere: as configured.

    Attributes:
        paused: no batch begins; a process stays, and looks again every second.
        reason: why it is paused.
        rate: bytes of WAL per second that all processes may write together.
        workers: how many of each process may be active.
        target_latency: of a batch, at the 95th percentile.
        max_lag: bytes that a standby may be behind.
        max_lag_time: how long a standby may be behind.
        standbys: the names of those that must be there.
        paused_by: the database role that paused it, `paused_at` when.
        changed_by: the one that said something last, `changed_at` when.
    """

    paused: bool = False
    reason: str | None = None
    rate: int | None = None
    workers: int | None = None
    target_latency: timedelta | None = None
    max_lag: int | None = None
    max_lag_time: timedelta | None = None
    standbys: tuple[str, ...] | None = None
    paused_by: str | None = None
    paused_at: datetime | None = None
    changed_by: str | None = None
    changed_at: datetime | None = None

    @property
    def pause(self) -> str:
        """Who has paused it, since when and why, for people."""
        since = "" if self.paused_at is None else f" since {self.paused_at:%Y-%m-%d %H:%M} UTC"
        why = f": {self.reason}" if self.reason else ""
        return f"paused{since}{f' by {self.paused_by}' if self.paused_by else ''}{why}"

    @property
    def limits(self) -> dict[str, Any]:
        """What is not as configured, by name."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}


LIMITS = ("rate", "workers", "target_latency", "max_lag", "max_lag_time", "standbys")
"""What can be set; the rest is said by pausing."""
_SAID = ("paused", "reason", *LIMITS)
_BY = ("paused_by", "paused_at", "changed_by", "changed_at")

_READ = "SELECT {names}, {by} FROM {table} WHERE migration = {migration}"
_MAKE = "INSERT INTO {table} (migration) VALUES ({migration}) ON CONFLICT DO NOTHING"
_WRITE = """
UPDATE {table} SET ({names}, changed_by, changed_at) = ROW ({values}, session_user, clock_timestamp()),
    paused_by = CASE WHEN paused AND {paused} THEN paused_by WHEN {paused} THEN session_user END,
    paused_at = CASE WHEN paused AND {paused} THEN paused_at WHEN {paused} THEN clock_timestamp() END
WHERE migration = {migration}
"""


def read(connection: Connection | Cursor, *, control_schema: str, migration: int) -> Control:
    """What applies now. Locks nothing."""
    return _fetch(connection, _names(control_schema, migration), _READ)


def lock(cursor: Cursor, *, control_schema: str, migration: int) -> Control:
    """What applies now, until the caller's transaction ends: two who steer at once do so one after the other."""
    names = _names(control_schema, migration)
    cursor.execute(sql.SQL(_MAKE).format(**names))
    return _fetch(cursor, names, _READ + " FOR UPDATE")


def write(cursor: Cursor, control: Control, *, control_schema: str, migration: int) -> None:
    """Say it, in the transaction that has called `lock`. Who says it, and when, is the server's to tell."""
    values = (getattr(control, name) for name in _SAID)
    listed = (list(value) if isinstance(value, tuple) else value for value in values)
    text = sql.SQL(", ").join(map(sql.Literal, listed))
    names = _names(control_schema, migration)
    cursor.execute(sql.SQL(_WRITE).format(**names, values=text, paused=sql.Literal(control.paused)))


def _fetch(where: Connection | Cursor, names: Mapping[str, sql.Composable], query: str) -> Control:
    row = where.execute(sql.SQL(query).format(**names)).fetchone()
    if row is None:
        return Control()
    found = dict(zip((*_SAID, *_BY), row, strict=True))
    standbys = found.pop("standbys")
    return Control(**found, standbys=None if standbys is None else tuple(standbys))


def _names(control_schema: str, migration: int) -> dict[str, sql.Composable]:
    return {
        "table": sql.Identifier(control_schema, "backfill_control"),
        "migration": sql.Literal(migration),
        "names": sql.SQL(", ").join(map(sql.Identifier, _SAID)),
        "by": sql.SQL(", ").join(map(sql.Identifier, _BY)),
    }


# Processes -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that takes part, or did. `document` is what it says of itself; its form is its own.

    `expired_for` is how long ago it should have been heard of; what it had claimed is free again. None: it is heard of.
    """

    process: int
    step: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    expires_at: datetime
    expired_for: timedelta | None
    document: Mapping[str, Any]


_PROCESSES = """
SELECT process, step, host, pid, started_at, seen_at, expires_at,
       CASE WHEN expires_at <= clock_timestamp() THEN clock_timestamp() - expires_at END, document
FROM {table} WHERE migration = {migration} ORDER BY process
"""


def processes(connection: psycopg.Connection[Any], *, control_schema: str, migration: int) -> list[Process]:
    """Those of a migration, the oldest first."""
    table = sql.Identifier(control_schema, "backfill_process")
    query = sql.SQL(_PROCESSES).format(table=table, migration=sql.Literal(migration))
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query).fetchall()
    names = [field.name for field in dataclasses.fields(Process)]
    return [Process(**dict(zip(names, row, strict=True))) for row in rows]


# Tables --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How far the backfill of a table or partition is, in pages and rows."""

    name: str
    rows: int
    page: int
    pages: int
    done: bool


# What is claimed and not done does not count as done.
_TABLES_OF = {"backfill": "backfill", "window": "backfill_window"}
_TABLES = """
SELECT relation_name, (state.rows + under_way.rows)::bigint, (page - under_way.pages)::bigint, bound, done
FROM {backfill} AS state, LATERAL (
    SELECT coalesce(sum(w.rows), 0) AS rows,
           coalesce(sum(w.pages * (w.stripes - w.stripe) / w.stripes) FILTER (WHERE w.page >= 0), 0) AS pages
    FROM {window} AS w WHERE (w.migration, w.step, w.relation) = (state.migration, state.step, state.relation)
) AS under_way
WHERE migration = {migration} ORDER BY 1
"""


def tables(connection: psycopg.Connection[Any], *, control_schema: str, migration: int) -> list[Table]:
    """The tables and partitions that were begun."""
    names = {name: sql.Identifier(control_schema, table) for name, table in _TABLES_OF.items()}
    query = sql.SQL(_TABLES).format(**names, migration=sql.Literal(migration))
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query).fetchall()
    return [
        Table(name=name, rows=filled, page=page, pages=bound, done=done) for name, filled, page, bound, done in rows
    ]
