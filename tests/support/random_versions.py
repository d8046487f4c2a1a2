"""An application that knows what a database's catalog says, and writes all of its tables in every way."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import psycopg

from tests.support.random_tables import ID, value
from zdmigrate.sqltext import ident

MADE_UP = 100_000
"""Ids that the application gives rows by itself begin here."""
KEPT = 500_000
_numbers = itertools.count(1000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str
    needed: bool
    """Whether an INSERT must give a value."""
    nullable: bool
    written: bool

    @property
    def sql(self) -> str:
        return ident(self.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as one version knows it. `arbiter`: the id is its primary key."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    numbered: bool
    arbiter: bool

    @property
    def sql(self) -> str:
        return ident(self.schema, self.name)

    def full(self, number: int) -> dict[str, str]:
        return {c.name: value(c.name, c.type, str(number)) for c in self.columns if c.written}

    def least(self, number: int) -> dict[str, str]:
        return {c.name: value(c.name, c.type, str(number)) for c in self.columns if c.written and c.needed}

    def nulls(self, number: int) -> dict[str, str]:
        return self.full(number) | {c.name: "NULL" for c in self.columns if c.written and c.nullable}

    def insert(self, values: dict[str, str], id_: int | None) -> str:
        values = values if id_ is None else {ID: str(id_), **values}
        if not values:
            return f"INSERT INTO {self.sql} DEFAULT VALUES RETURNING {ID}"
        names, given = ", ".join(map(ident, values)), ", ".join(values.values())
        return f"INSERT INTO {self.sql} ({names}) VALUES ({given}) RETURNING {ID}"


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """Its tables."""

    relations: tuple[Relation, ...]

    def work(self, connection: psycopg.Connection[Any], *, upserts: bool) -> None:
        """Insert rows of every kind, read them, change them, read again, delete them."""
        for relation in self.relations:
            for values in (relation.full, relation.least, relation.nulls):
                self._row(connection, relation, values(next(_numbers)), upserts=upserts)

    def _row(
        self, connection: psycopg.Connection[Any], relation: Relation, values: dict[str, str], *, upserts: bool
    ) -> None:
        own = None if relation.numbered else MADE_UP + next(_numbers)
        id_ = _one(connection, relation.insert(values, own))
        self._expect(connection, relation, id_, values)
        number = next(_numbers)
        written = [c for c in relation.columns if c.written]
        if written:
            column = written[number % len(written)]
            now = {column.name: value(column.name, column.type, str(number))}
            change = f"{column.sql} = {now[column.name]}"
            connection.execute(f"UPDATE {relation.sql} SET {change} WHERE {ID} = {id_}".encode())
            self._expect(connection, relation, id_, now)
            if upserts and relation.arbiter:
                full = relation.full(next(_numbers))
                updated = ", ".join(f"{ident(name)} = excluded.{ident(name)}" for name in full)
                insert = relation.insert(full, id_).removesuffix(f" RETURNING {ID}")
                connection.execute(f"{insert} ON CONFLICT ({ID}) DO UPDATE SET {updated}".encode())
                self._expect(connection, relation, id_, full)
        connection.execute(f"DELETE FROM {relation.sql} WHERE {ID} = {id_}".encode())

    def _expect(
        self, connection: psycopg.Connection[Any], relation: Relation, id_: int, values: dict[str, str]
    ) -> None:
        types = {c.name: c.type for c in relation.columns}
        for name, wanted in values.items():
            if wanted == "NULL":  # what a backfill makes of it is announced
                continue
            same = f"NOT record_image_ne(ROW({ident(name)}::{types[name]}), ROW(({wanted})::{types[name]}))"
            found = connection.execute(
                f"SELECT {same}, {ident(name)}::text FROM {relation.sql} WHERE {ID} = {id_}".encode()
            ).fetchone()
            assert found is not None, f"the row {id_} of {relation.sql} is gone"
            assert found[0], f"{relation.sql}.{name}: {wanted} was written, {found[1]} is read"

    def keep(self, connection: psycopg.Connection[Any], place: int) -> None:
        """A row for each table, the same one for the same `place`."""
        for relation in self.relations:
            id_ = KEPT + place
            connection.execute(relation.insert(relation.full(id_), id_).encode())


_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', NOT a.attnotnull,
       a.attgenerated = '' AND a.attidentity <> 'a',
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'zdmigrate')
ORDER BY n.nspname, c.relname, a.attnum
"""


def version(connection: psycopg.Connection[Any]) -> Version:
    """The version that knows all that is there."""
    found = []
    rows = connection.execute(_COLUMNS.encode()).fetchall()
    for (schema_name, name), group in itertools.groupby(rows, lambda row: (row[0], row[1])):
        columns, numbered, arbiter = [], True, False
        for _, _, column, type_, needed, nullable, written, keyed in group:
            if column == ID:
                numbered, arbiter = not needed, keyed
                continue
            columns.append(Column(name=column, type=type_, needed=needed, nullable=nullable, written=written))
        found.append(
            Relation(schema=schema_name, name=name, columns=tuple(columns), numbered=numbered, arbiter=arbiter)
        )
    return Version(tuple(found))


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])
