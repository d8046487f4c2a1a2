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

_JOIN = """
INSERT INTO {table} (migration, step, host, pid, backend, backend_start, expires_at)
SELECT {migration}, {step}, {host}, {pid}, session.pid, session.backend_start, clock_timestamp() + {ttl}
FROM pg_catalog.pg_stat_activity AS session WHERE session.pid = pg_catalog.pg_backend_pid()
RETURNING process
"""

# Whoever went long ago is of no interest to `status` either; its windows were taken over.
_FORGET = "DELETE FROM {table} WHERE migration = {migration} AND expires_at < clock_timestamp() - interval '1 hour'"

_BEAT = """
UPDATE {table} SET seen_at = clock_timestamp(), expires_at = clock_timestamp() + {ttl}, document = {document}::jsonb
WHERE process = {process}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This process, as the others see it."""

    table: sql.Identifier
    process: int
    ttl: timedelta

    @classmethod
    def join(
        cls, connection: psycopg.Connection[Any], *, control_schema: str, migration: int, step: str, ttl: timedelta
    ) -> Membership:
        """Take part, as long as this connection lives and `beat` is called more often than `ttl`.

        The process that holds the connection's transaction is the one whose windows they are: a connection in autocommit.
        """
        table = sql.Identifier(control_schema, "backfill_process")
        names: dict[str, sql.Composable] = {
            "table": table,
            "migration": sql.Literal(migration),
            "step": sql.Literal(step),
            "host": sql.Literal(socket.gethostname()),
            "pid": sql.Literal(os.getpid()),
            "ttl": sql.Literal(ttl),
        }
        connection.execute(sql.SQL(_FORGET).format(**names))
        row = connection.execute(sql.SQL(_JOIN).format(**names)).fetchone()
        assert row is not None
        return cls(table=table, process=int(row[0]), ttl=ttl)

    def beat(self, connection: psycopg.Connection[Any], document: Mapping[str, Any]) -> None:
        """Stay, and say how it goes."""
        statement = sql.SQL(_BEAT).format(
            table=self.table, ttl=sql.Literal(self.ttl), document=sql.Literal(json.dumps(document)),
            process=sql.Literal(self.process),
        )  # fmt: skip
        connection.execute(statement)

    def leave(self, connection: psycopg.Connection[Any]) -> None:
        """Take part no longer: what is still claimed is free."""
        connection.execute(sql.SQL("DELETE FROM {} WHERE process = {}").format(self.table, sql.Literal(self.process)))
