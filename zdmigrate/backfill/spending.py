"""What a step was expected to cost when it began, kept for whoever ends it, and what it has cost.

What processes spend is added up in the same row, by `zdmigrate.backfill.membership`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from psycopg import sql

from zdmigrate.backfill.forecast import Difference, Forecast, Outcome, compared
from zdmigrate.plan import RowWork
from zdmigrate.postgres.session import Connection, Cursor

_SIZES = """
SELECT coalesce(sum(pg_relation_size(leaf.oid) + CASE WHEN leaf.reltoastrelid = 0 THEN 0
                    ELSE coalesce(pg_relation_size(leaf.reltoastrelid), 0) END), 0)::bigint AS heap,
       coalesce(sum(pg_indexes_size(leaf.oid)), 0)::bigint AS indexes
FROM (SELECT to_regclass({table})::oid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass({table}))) AS part(oid)
JOIN pg_class AS leaf ON leaf.oid = part.oid
WHERE leaf.relkind = 'r'
"""

_IS_KEPT = "SELECT FROM {cost} WHERE {key}"

_KEEP = """
INSERT INTO {cost} (migration, step, forecast, heap_bytes, index_bytes)
SELECT {migration}, {step}, {forecast}::jsonb, size.heap, size.indexes FROM ({sizes}) AS size
ON CONFLICT DO NOTHING
"""

_SPENT = """
SELECT cost.forecast::text, cost.wal_bytes, cost.seconds, size.heap - cost.heap_bytes, size.indexes - cost.index_bytes
FROM {cost} AS cost, ({sizes}) AS size WHERE {key}
"""


class Spending:
    """The row of one step."""

    def __init__(self, *, control_schema: str, migration: int, step: str, rows: RowWork) -> None:
        names: dict[str, sql.Composable] = {"migration": sql.Literal(migration), "step": sql.Literal(step)}
        table = sql.Literal(sql.Identifier(rows.schema, rows.table).as_string())
        self._names = names | {
            "cost": sql.Identifier(control_schema, "backfill_cost"),
            "key": sql.SQL("(migration, step) = ({migration}, {step})").format(**names),
            "sizes": sql.SQL(_SIZES).format(table=table),
        }

    def begin(
        self,
        connection: Connection,
        write: Callable[[Callable[[Cursor], object]], None],
        forecast: Callable[[], Forecast | None],
    ) -> None:
        """Keep the forecast and the table's size, unless an earlier run has: then it is not even made.

        Args:
            write: runs what it is given in a transaction that may write.
        """
        if connection.execute(self._sql(_IS_KEPT)).fetchone() is None:
            found = forecast()
            text = None if found is None else msgspec.json.encode(found).decode()
            write(lambda cursor: cursor.execute(self._sql(_KEEP, forecast=sql.Literal(text))))

    def differences(self, connection: Connection, rows: int) -> tuple[Difference, ...]:
        """How it came, beside what was expected; empty where nothing was. To be asked before indexes are built."""
        row = connection.execute(self._sql(_SPENT)).fetchone()
        if row is None or row[0] is None:
            return ()
        text, wal, seconds, heap, indexes = row
        outcome = Outcome(rows=rows, wal_bytes=wal, heap_bytes=heap, index_bytes=indexes, seconds=seconds)
        return compared(msgspec.json.decode(text, type=Forecast), outcome)

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)
