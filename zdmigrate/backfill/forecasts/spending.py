"""What a step was expected to cost when it began, kept for whoever ends it, and what it has cost.

What processes spend is added up in the same row, by `zdmigrate.backfill.membership`.
"""

from __future__ import annotations

import dataclasses

import msgspec
from psycopg import sql

from zdmigrate.backfill.forecasts.forecast import Difference, Forecast, Outcome, compared
from zdmigrate.plan import RowWork
from zdmigrate.postgres.session import Connection, Cursor

_SIZE = """
SELECT coalesce(sum(pg_relation_size(leaf.oid) + CASE WHEN leaf.reltoastrelid = 0 THEN 0
                    ELSE coalesce(pg_relation_size(leaf.reltoastrelid), 0) END), 0)::bigint,
       coalesce(sum(pg_indexes_size(leaf.oid)), 0)::bigint
FROM (SELECT to_regclass({table})::oid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass({table}))) AS part(oid)
JOIN pg_class AS leaf ON leaf.oid = part.oid
WHERE leaf.relkind = 'r'
"""

_KEEP = """
INSERT INTO {cost} (migration, step, forecast, heap_bytes, index_bytes)
VALUES ({migration}, {step}, {forecast}::jsonb, {heap}, {indexes}) ON CONFLICT DO NOTHING
"""

_READ = "SELECT forecast::text, wal_bytes, seconds, heap_bytes, index_bytes FROM {cost} WHERE {key}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of a table with all its partitions: what holds its rows, and its indexes."""

    heap: int
    indexes: int


def size(cursor: Cursor, rows: RowWork) -> Size:
    """How large a table is now. Locks: ACCESS SHARE on it."""
    table = sql.Literal(sql.Identifier(rows.schema, rows.table).as_string())
    row = cursor.execute(sql.SQL(_SIZE).format(table=table)).fetchone()
    assert row is not None
    return Size(heap=row[0], indexes=row[1])


class Spending:
    """The row of one step."""

    def __init__(self, *, control_schema: str, migration: int, step: str) -> None:
        names: dict[str, sql.Composable] = {"migration": sql.Literal(migration), "step": sql.Literal(step)}
        self._names = names | {
            "cost": sql.Identifier(control_schema, "backfill_cost"),
            "key": sql.SQL("(migration, step) = ({migration}, {step})").format(**names),
        }

    def is_kept(self, connection: Connection) -> bool:
        """Whether it was begun, by an earlier run perhaps."""
        return connection.execute(self._sql(_READ)).fetchone() is not None

    def keep(self, cursor: Cursor, forecast: Forecast | None, before: Size) -> None:
        """Write down how it begins, unless somebody has."""
        text = None if forecast is None else msgspec.json.encode(forecast).decode()
        values = {"forecast": text, "heap": before.heap, "indexes": before.indexes}
        cursor.execute(self._sql(_KEEP, **{name: sql.Literal(value) for name, value in values.items()}))

    def differences(self, connection: Connection, rows: int, now: Size | None) -> tuple[Difference, ...]:
        """How it came, beside what was expected; empty where nothing was.

        Args:
            now: the table's size before indexes are built on it; None where nobody knows.
        """
        row = connection.execute(self._sql(_READ)).fetchone()
        if row is None or row[0] is None:
            return ()
        text, wal, seconds, heap, indexes = row
        outcome = Outcome(rows=rows, wal_bytes=wal, seconds=seconds)
        if now is not None:
            outcome = dataclasses.replace(outcome, heap_bytes=now.heap - heap, index_bytes=now.indexes - indexes)
        return compared(msgspec.json.decode(text, type=Forecast), outcome)

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)
