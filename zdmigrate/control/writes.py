"""Writes that triggers on the application's tables have noted: reads of ``write_note``."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from zdmigrate.postgres.session import NAME, Connection, Cursor
from zdmigrate.sqltext import ident

KEPT = timedelta(days=7)
"""How long notes are kept that no gate asks for any more."""

_AT_MOST = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What one application and role have written through one side: how often it was noted, and the last time.

    `side` is a `zdmigrate.planning.sync.Side`. `recent`: not longer ago than was asked for. `retired`: an instance whose
    sessions have that name has said goodbye since. `statement` is without its values; None where the server knows none.
    """

    application: str
    role: str
    side: str
    at: datetime
    count: int
    table: str
    backend: int
    statement: str | None
    recent: bool
    retired: bool


def through(
    connection: Connection, schema: str, migration: str, side: str, *, since: datetime, recent: timedelta
) -> list[Write]:
    """Writes through a shape, alone or with the other one, since a moment; but for the tool's own. Newest first."""
    where = "n.migration = %s AND n.side IN (%s, 'both') AND n.at >= %s AND n.application NOT LIKE %s"
    return _read(connection, schema, where, (migration, side, since, f"{NAME}%"), recent)


def diverging(connection: Connection, schema: str, migration: str, *, recent: timedelta) -> list[Write]:
    """Writes that lately left the two shapes different. Newest first."""
    where = "n.diverged AND n.migration = %s AND n.at > clock_timestamp() - %s::interval"
    return _read(connection, schema, where, (migration, recent), recent)


def unverified(connection: Connection, schema: str, migration: str, key: int, sides: tuple[str, ...]) -> list[Write]:
    """Writes that left the two shapes different, and that the last verification may not have seen. Newest first."""
    where = f"""n.diverged AND n.migration = %s AND n.side = ANY (%s) AND NOT EXISTS (
        SELECT FROM {ident(schema, "migration")} AS m WHERE m.key = %s AND pg_visible_in_snapshot(n.xact, m.verified_from))"""
    return _read(connection, schema, where, (migration, list(sides), key), KEPT)


def prune(cursor: Cursor, schema: str) -> None:
    """Forget what is old, but for divergence that a migration in flight must still answer for."""
    statement = f"""
DELETE FROM {ident(schema, "write_note")} AS n WHERE n.at < clock_timestamp() - %s::interval AND NOT (
    n.diverged AND EXISTS (
        SELECT FROM {ident(schema, "migration")} AS m
        WHERE m.id = n.migration AND m.phase <> 'contract'
          AND NOT coalesce(pg_visible_in_snapshot(n.xact, m.verified_from), false)
    ))"""
    cursor.execute(statement.encode(), (KEPT,))


def _read(connection: Connection, schema: str, where: str, values: tuple[Any, ...], recent: timedelta) -> list[Write]:
    statement = f"""
SELECT w.*, w.at > clock_timestamp() - %s::interval, EXISTS (
    SELECT FROM {ident(schema, "app_instance")} AS i
    WHERE left(i.application || '/' || i.version, 63) = w.application AND i.retired_at >= w.at
)
FROM (
    SELECT n.application, n.role, n.side, max(n.at) AS at, count(*), (array_agg(n.table_name ORDER BY n.number DESC))[1],
           (array_agg(n.backend ORDER BY n.number DESC))[1], (array_agg(n.statement ORDER BY n.number DESC))[1]
    FROM {ident(schema, "write_note")} AS n WHERE {where}
    GROUP BY 1, 2, 3 ORDER BY max(n.at) DESC LIMIT {_AT_MOST}
) AS w"""
    rows = connection.execute(statement.encode(), (recent, *values)).fetchall()
    names = [field.name for field in dataclasses.fields(Write)]
    return [Write(**dict(zip(names, row, strict=True))) for row in rows]
