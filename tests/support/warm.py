"""Connections that were open, and had prepared statements, before a phase changed the schema."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.dialects import postgresql

from zdmigrate.demo.entities import table_of
from zdmigrate.demo.example import Example
from zdmigrate.demo.workload import Version

SWAP, STAR = "C11", "C23"
"""Hazards: a column changes its type under its name; columns come, go or are renamed."""
EXECUTIONS = 3
"""With ``prepare_threshold=1`` the second execution prepares."""


_DIALECT: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """A query of one version; `star` does not name its columns."""

    version: Version
    sql: str
    star: bool


class WarmClients:
    """One connection for each statement, as long as its version lives: `zdmigrate.demo.journey` tells them when.

    `failed` counts, by stage and statement, what failed with 0A000 when it was repeated after the stage's steps. A
    connection on which something failed is replaced, as a pool does when the application is restarted.
    """

    def __init__(self, example: Example, conninfo: str) -> None:
        self.stage = ""
        self.failed: Counter[tuple[str, Statement]] = Counter()
        self.repeated: Counter[str] = Counter()
        self._conninfo = conninfo
        models = {Version.N: example.old, Version.NEXT: example.new}
        self._statements = [
            statement
            for version, classes in models.items()
            for cls in classes.values()
            for statement in (
                Statement(version, str(sa.select(cls).compile(dialect=_DIALECT)), star=False),
                Statement(version, f"SELECT * FROM {_quoted(table_of(cls))}", star=True),
            )
        ]
        self._connections: dict[Statement, psycopg.Connection[tuple[Any, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def assign(self, live: Iterable[Version]) -> None:
        """Called before the steps of a phase with those who live through it, and afterwards with those who live on."""
        alive = frozenset(live)
        for statement in [s for s in self._connections if s.version not in alive]:
            self._connections.pop(statement).close()
        for statement, connection in list(self._connections.items()):
            self._repeat(statement, connection)
        for statement in self._statements:
            if statement.version in alive and statement not in self._connections:
                self._connections[statement] = self._warmed(statement)

    def end_next(self) -> None:
        """`assign` has seen to it."""

    def _repeat(self, statement: Statement, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.repeated[self.stage] += 1
        try:
            connection.execute(statement.sql.encode())
        except errors.FeatureNotSupported:  # 0A000
            self.failed[self.stage, statement] += 1
            self._connections.pop(statement).close()

    def _warmed(self, statement: Statement) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=1)
        for _ in range(EXECUTIONS):
            connection.execute(statement.sql.encode())
        row = connection.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()
        assert row == (1,), f"not prepared: {statement.sql}"
        return connection


def _quoted(table: sa.Table) -> str:
    return str(_DIALECT.identifier_preparer.format_table(table))
