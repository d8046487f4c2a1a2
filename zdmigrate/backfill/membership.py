"""The process's own row among those that share a backfill: what it has claimed is its own while this row is fresh."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill.progress import Snapshot

_JOIN = """
INSERT INTO {table} (migration, step, host, pid, backend, backend_start, expires_at)
SELECT {migration}, {step}, {host}, {pid}, session.pid, session.backend_start, clock_timestamp() + {ttl}
FROM pg_catalog.pg_stat_activity AS session WHERE session.pid = pg_catalog.pg_backend_pid()
RETURNING process
"""

# Whoever went long ago is of no interest to `status` either; its windows were taken over.
_FORGET = "DELETE FROM {table} WHERE migration = {migration} AND expires_at < clock_timestamp() - interval '1 hour'"

_COMPANY = """
SELECT (
    SELECT count(*) FROM {table}
    WHERE (migration, step) = ({migration}, {step}) AND process <> {process} AND expires_at > clock_timestamp()
), coalesce(sum(claimed.rows + under_way.rows), 0)::bigint, coalesce(sum(claimed.page - under_way.pages), 0)::bigint,
    coalesce(sum(claimed.bound), 0)::bigint
FROM {backfill} AS claimed, LATERAL (
    SELECT coalesce(sum(w.rows), 0) AS rows, coalesce(sum(w.pages * (w.stripes - w.stripe) / w.stripes)
           FILTER (WHERE w.page >= 0), 0) AS pages
    FROM {window} AS w WHERE (w.migration, w.step, w.relation) = (claimed.migration, claimed.step, claimed.relation)
) AS under_way
WHERE (migration, step) = ({migration}, {step})
"""

# What is spent is added up here and not by the batches: it is worth no lock of theirs. A process that is killed takes along
# what it spent since its last beat.
_BEAT = """
WITH spent AS (
    UPDATE {cost} SET wal_bytes = wal_bytes + {wal}, seconds = seconds + {seconds}
    WHERE (migration, step) = ({migration}, {step})
), mine AS (
    UPDATE {table} SET seen_at = clock_timestamp(), expires_at = clock_timestamp() + {ttl}, document = {document}::jsonb
    WHERE process = {process}
)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """How many other processes take part, and how far all of them have come, earlier ones too."""

    others: int
    rows: int
    pages_done: int
    pages_total: int


class Membership:
    """This process, as the others see it. For one thread at a time."""

    def __init__(
        self, connection: psycopg.Connection[Any], *, control_schema: str, migration: int, step: str, ttl: timedelta,
        leads: bool,
    ) -> None:  # fmt: skip
        """Take part, as long as this connection lives and `beat` is called more often than `ttl`.

        Args:
            connection: the first worker's; the process has gone when its session has.
            leads: whether its time is the step's: several that work side by side take no longer than one.
        """
        self._leads = leads
        self._names: dict[str, sql.Composable] = {
            "table": sql.Identifier(control_schema, "backfill_process"),
            "cost": sql.Identifier(control_schema, "backfill_cost"),
            "backfill": sql.Identifier(control_schema, "backfill"),
            "window": sql.Identifier(control_schema, "backfill_window"),
            "migration": sql.Literal(migration),
            "step": sql.Literal(step),
            "host": sql.Literal(socket.gethostname()),
            "pid": sql.Literal(os.getpid()),
            "ttl": sql.Literal(ttl),
        }
        self._told = (0, 0.0)
        connection.execute(self._sql(_FORGET))
        row = connection.execute(self._sql(_JOIN)).fetchone()
        assert row is not None
        self.process = int(row[0])

    def beat(self, connection: psycopg.Connection[Any], now: Snapshot, document: Mapping[str, Any]) -> Company:
        """Stay, say how it goes, and what was spent since the last beat."""
        wal, seconds = now.wal_bytes or 0, now.elapsed_seconds
        statement = self._sql(
            _BEAT + _COMPANY, process=sql.Literal(self.process), document=sql.Literal(json.dumps(document)),
            wal=sql.Literal(wal - self._told[0]), seconds=sql.Literal((seconds - self._told[1]) if self._leads else 0.0),
        )  # fmt: skip
        company = _company(connection, statement)
        self._told = (wal, seconds)
        return company

    def company(self, connection: psycopg.Connection[Any]) -> Company:
        """Look, and say nothing."""
        return _company(connection, self._sql(_COMPANY, process=sql.Literal(self.process)))

    def leave(self, connection: psycopg.Connection[Any]) -> None:
        """Take part no longer: what is still claimed is free."""
        connection.execute(
            self._sql("DELETE FROM {table} WHERE process = {process}", process=sql.Literal(self.process))
        )

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)


def _company(connection: psycopg.Connection[Any], statement: sql.Composed) -> Company:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return Company(others=row[0], rows=row[1], pages_done=row[2], pages_total=row[3])
