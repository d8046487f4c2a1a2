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


def missed(connection: Connection, schema: str, key: int) -> int:
    """How many notes of divergence could not be made since the last verification began."""
    statement = f"""
SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END - coalesce(m.verified_missed, 0)
FROM {ident(schema, "missed_notes")} AS s, {ident(schema, "migration")} AS m WHERE m.key = %s"""
    row = connection.execute(statement.encode(), (key,)).fetchone()
    return 0 if row is None else int(row[0])


def withheld(connection: Connection, schema: str) -> list[str]:
    """Statements that give everybody the rights to note writes, where somebody has taken them."""
    rights = """
SELECT format('GRANT USAGE ON SCHEMA %%I TO PUBLIC', n.nspname) FROM pg_namespace AS n
WHERE n.nspname = %(schema)s AND NOT has_schema_privilege('public', n.oid, 'USAGE')
UNION ALL
SELECT format('GRANT EXECUTE ON FUNCTION %%s TO PUBLIC', p.oid::regprocedure)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.proname IN ('note_write', 'note_missed')
  AND NOT has_function_privilege('public', p.oid, 'EXECUTE')
ORDER BY 1 DESC"""
    return [str(row[0]) for row in connection.execute(rights, {"schema": schema}).fetchall()]


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
