"""The folders of migrations_examples/: their databases, and what `bootstrap` makes of them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import catalog_compare
from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.demo.example import Example
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer
from zdmigrate.sqltext import ident

FOLDER = Path(__file__).parents[2] / "migrations_examples"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))

Rows = Mapping[str, list[dict[str, Any]]]
"""Rows by table, as JSON values."""

Columns = Mapping[str, frozenset[str]]
"""Columns by table."""

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%'
AND n.nspname NOT IN ('information_schema', 'zdmigrate') ORDER BY 1, 2
"""


def read_rows(connection: psycopg.Connection[Any]) -> Rows:
    """Every row of every table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for schema, name in connection.execute(_TABLES).fetchall():
        query = f"SELECT to_jsonb(t) FROM {ident(schema, name)} t"
        found[f"{schema}.{name}"] = [row for (row,) in connection.execute(query.encode()).fetchall()]
    return found


@dataclass(frozen=True, slots=True)
class Final:
    """What a seeded database is in the end. `volatile` are columns by table that no two runs agree on (``now()``)."""

    catalog: catalog_compare.Catalog
    rows: Rows
    volatile: Columns

    def difference(self, rows: Rows) -> list[str]:
        """Rows that are not on both sides, for people."""
        lines = [f"{'-' if table in self.rows else '+'} table {table}" for table in {*self.rows} ^ {*rows}]
        for table in sorted({*self.rows} & {*rows}):
            mine, theirs = (Counter(self.stable(table, row) for row in side[table]) for side in (self.rows, rows))
            lines += [f"- {table} {row}" for row in (mine - theirs).elements()]
            lines += [f"+ {table} {row}" for row in (theirs - mine).elements()]
        return lines

    def stable(self, table: str, row: Mapping[str, Any]) -> str:
        """A row as text, without what is volatile."""
        return json.dumps({key: row[key] for key in sorted(row) if key not in self.volatile.get(table, ())})


class Bench:
    """Databases for examples, on one server: seeded ones, fresh copies of them, and what they become in the end."""

    def __init__(self, server: ScratchServer) -> None:
        self._server = server
        self._examples: dict[str, Example] = {}
        self._templates: set[str] = set()
        self._finals: dict[str, Final] = {}
        self._numbers = itertools.count(1)

    def example(self, name: str) -> Example:
        """An example that this server can run; the test is skipped where it cannot."""
        if name not in self._examples:
            self._examples[name] = Example.load(FOLDER / name)
        example = self._examples[name]
        if self._server.major not in example.majors:
            supported = ", ".join(map(str, example.majors))
            pytest.skip(f"{name} is for PostgreSQL {supported}, this is {self._server.major}")
        return example

    @contextlib.contextmanager
    def database(self, example: Example, phase: Phase = Phase.NONE) -> Iterator[Database]:
        """A database with schema, data and control schema, where the migration has come to `phase`."""
        template = self._template(example, phase)
        copy = Database(self._server, f"{template}_{next(self._numbers)}")
        self._server.create_database(copy.name, template)
        try:
            yield copy
        finally:
            self._server.drop_database(copy.name)

    def _template(self, example: Example, phase: Phase) -> str:
        name = f"example_{example.name}" + ("" if phase is Phase.NONE else f"_{phase.value}")
        if name not in self._templates:
            made = Database(self._server, name)
            self._server.create_database(name, None if phase is Phase.NONE else self._template(example, Phase.NONE))
            if phase is Phase.NONE:
                with connect(made) as connection:
                    connection.execute(example.seed().encode())
            with project(example, made) as opened:
                if phase is Phase.NONE:
                    opened.init(environment="development", app_role=None, confirmed=True)
                else:
                    outcome = opened.advance([], target=phase, overrides=example.overrides)
                    assert outcome.exit_code == 0, outcome
            self._templates.add(name)
        return name

    def final(self, example: Example) -> Final:
        """What `bootstrap` makes of the seeded database."""
        if example.name not in self._finals:
            (catalog, rows, numbered), (_, again, _) = self._bootstrapped(example), self._bootstrapped(example)
            volatile = {
                table: frozenset(_differing(rows[table], again[table])) | numbered.get(table, frozenset())
                for table in rows
            }
            self._finals[example.name] = Final(catalog, rows, volatile)
        return self._finals[example.name]

    def _bootstrapped(self, example: Example) -> tuple[catalog_compare.Catalog, Rows, Columns]:
        with self.database(example) as database, connect(database) as connection:
            with project(example, database) as opened:
                outcome = opened.bootstrap()
            assert outcome.exit_code == 0, outcome
            return settled_catalog(connection), read_rows(connection), _numbered(connection)


def settled_catalog(connection: psycopg.Connection[Any]) -> catalog_compare.Catalog:
    """The catalog without the read switches: one at 0 % is as good as none."""
    return catalog_compare.read(connection, ignore=("read switch",))


def project(example: Example, database: Database) -> contextlib.AbstractContextManager[Project]:
    """The engine on an example's migrations."""
    return Project.open(Config(url=database.url, dir=example.migrations), report=lambda _: None)


def _numbered(connection: psycopg.Connection[Any]) -> Columns:
    """Columns that number the rows but are no key: which row gets which number is a matter of luck."""
    found = connection.execute(
        """
        SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE a.attidentity <> '' AND NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey::smallint[]))
        GROUP BY 1
        """
    ).fetchall()
    return {table: frozenset(names) for table, names in found}


def _differing(rows: list[dict[str, Any]], again: list[dict[str, Any]]) -> Iterator[str]:
    for key in {key for row in rows for key in row}:
        if Counter(json.dumps(row.get(key)) for row in rows) != Counter(json.dumps(row.get(key)) for row in again):
            yield key
