"""Filling a row that was set aside once more, by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors, sql

from zdmigrate.backfill import statements
from zdmigrate.backfill.bad_rows import failures, quarantine
from zdmigrate.backfill.bad_rows.quarantine import Entry, Failure
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.transforming import Computing, Function
from zdmigrate.plan import RowWork
from zdmigrate.planning.sync import SEARCH_PATH
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection, Cursor


class Result(enum.StrEnum):
    """How it ended for a row; only `failed` and `busy` leave the entry open."""

    FILLED = "filled"
    WAS_FILLED = "was_filled"
    """Somebody has filled it meanwhile, or what it holds needs no filling any more."""
    GONE = "gone"
    UNKNOWN = "unknown"
    """Nobody can tell any more which row it was: it had no key and the table was rewritten, or the key is another one."""
    FAILED = "failed"
    BUSY = "busy"
    """Somebody holds the row or the table, or has changed the row meanwhile; nothing was written."""
    SETTLED = "settled"
    """Somebody else has settled the entry in between."""


_RESOLUTIONS = {
    Result.FILLED: "filled by a retry",
    Result.WAS_FILLED: "was filled already",
    Result.GONE: "the row is gone",
    Result.UNKNOWN: "nobody can tell which row it was: the table was rewritten, or has another key",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of an entry. `failure` is the new one, where there is one."""

    entry: Entry
    result: Result
    failure: Failure | None = None

    @property
    def is_open(self) -> bool:
        """Whether the row is still waited for."""
        return self.result in (Result.FAILED, Result.BUSY)

    @property
    def is_certain(self) -> bool:
        """Whether it is known what became of the row. One that has no key may have gone to another place."""
        return self.result is not Result.UNKNOWN and (self.entry.has_key or self.result is not Result.GONE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Computed:
    """What a function made of an entry's row, if there was one: the statement that writes it, or why there is none."""

    write: sql.Composed | None = None
    failure: Failure | None = None


_NOW = """
SELECT space.nspname, relation.relname, pg_catalog.pg_relation_filenode(relation.oid)::text
FROM pg_catalog.pg_class AS relation
JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
WHERE relation.oid = {oid}
  AND (relation.oid = to_regclass({table})
       OR relation.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass({table}))))
"""

_TYPES = """
SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
WHERE attrelid = {oid} AND attname = ANY({names}) AND attnum > 0 AND NOT attisdropped
"""

_FIND = "SELECT ctid::text FROM ONLY {relation} WHERE {key} FOR NO KEY UPDATE"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecondTry:
    """Tries entries again, each in a short transaction of its own.

    Args:
        guard: called first in each transaction; raises where the migration is not in its backfill any more, and keeps it
            there until the transaction ends.
        lock_timeout: longest wait for a row that somebody else has locked.
        doubt: called in the transaction that settles an entry of whose row nobody knows whether it is filled.
        suppress: whether the role may keep the table's own triggers from firing.
        function: finds what a `Transform` refers to. It is called while no transaction is open.
    """

    connection: Connection
    control_schema: str
    guard: Callable[[Cursor], None]
    doubt: Callable[[Cursor], None]
    lock_timeout: timedelta
    statement_timeout: timedelta
    suppress: bool
    function: Callable[[str], Function] | None = None

    def fill(self, entry: Entry, rows: RowWork) -> Tried:
        """Fill the row if it still has to be, and settle the entry.

        Takes ROW EXCLUSIVE on the table, and locks on the row and the entry.
        """
        try:
            computed = None if rows.transform is None else self._computed(entry, rows)
            with self._transaction() as cursor:
                self.guard(cursor)
                current = quarantine.fetch(cursor, control_schema=self.control_schema, number=entry.number)
                if current is None:
                    return Tried(entry=entry, result=Result.SETTLED)
                return self._settle(cursor, self._try(cursor, current, rows, computed))
        except failures.CONTENTION:
            return Tried(entry=entry, result=Result.BUSY)

    def _transaction(self, *, read_only: bool = False) -> contextlib.AbstractContextManager[Cursor]:
        return session.transaction(
            self.connection, lock_timeout=self.lock_timeout, statement_timeout=self.statement_timeout,
            search_path=SEARCH_PATH, read_only=read_only,
        )  # fmt: skip

    def _try(self, cursor: Cursor, entry: Entry, rows: RowWork, computed: _Computed | None) -> Tried:
        located = self._locate(cursor, entry, rows)
        if isinstance(located, Tried):
            return located
        relation, key = located
        try:
            place = _find(cursor, relation, key)
        except errors.DataError:  # the key's columns have other types now
            return Tried(entry=entry, result=Result.UNKNOWN)
        if place is None:
            return Tried(entry=entry, result=Result.GONE)
        if computed is not None and computed.failure is not None:
            return Tried(entry=entry, result=Result.FAILED, failure=computed.failure)
        which = statements.row(place)
        write = statements.fill(rows, relation, which) if computed is None else computed.write
        tried = self._fill(cursor, entry, relation, place, write)
        if tried.result is Result.WAS_FILLED and computed is not None and _needs_it(cursor, rows, relation, which):
            return Tried(entry=entry, result=Result.BUSY)
        return tried

    def _locate(self, cursor: Cursor, entry: Entry, rows: RowWork) -> Tried | tuple[Relation, sql.Composable]:
        """The relation that has the row, and the row's condition."""
        found = cursor.execute(_now(entry, rows, self.connection)).fetchone()
        if found is None:
            return Tried(entry=entry, result=Result.GONE)
        schema, name, filenode = found
        if not entry.has_key and entry.key[quarantine.FILENODE] != filenode:
            return Tried(entry=entry, result=Result.UNKNOWN)
        key = _condition(cursor, entry)
        if key is None:
            return Tried(entry=entry, result=Result.UNKNOWN)
        return Relation(oid=entry.relation, schema=schema, name=name), key

    def _computed(self, entry: Entry, rows: RowWork) -> _Computed:
        """What the function makes of the row as it is now, which is not locked."""
        assert rows.transform is not None
        assert self.function is not None
        computing = Computing(self.connection, self.function(rows.transform.function), self._read)
        with self._transaction(read_only=True) as cursor:
            located = self._locate(cursor, entry, rows)
        if isinstance(located, Tried):  # said again under the guard
            return _Computed()
        try:
            computed = computing.compute(rows, *located)
        except psycopg.Error as error:
            if not failures.is_of_a_row(error):
                raise
            return _Computed(failure=Failure.of("", error))
        write = computing.filling(rows, located[0], computed).waiting
        return _Computed(write=write, failure=computed.failures[0] if computed.failures else None)

    def _read(self, _: Relation, query: sql.Composed) -> list[tuple[Any, ...]]:
        with self._transaction(read_only=True) as cursor:
            return cursor.execute(query, prepare=False).fetchall()

    def _fill(self, cursor: Cursor, entry: Entry, relation: Relation, tid: str, write: sql.Composed | None) -> Tried:
        """By ctid, which the row's lock keeps: no other row's expression is evaluated on the way."""
        if write is None:
            return Tried(entry=entry, result=Result.WAS_FILLED)
        try:
            with cursor.connection.transaction():
                if self.suppress:
                    cursor.execute(statements.suppress_triggers(relation))
                filled = cursor.execute(write, prepare=False).rowcount
        except psycopg.Error as error:
            if not failures.is_of_a_row(error):
                raise
            return Tried(entry=entry, result=Result.FAILED, failure=Failure.of(tid, error))
        return Tried(entry=entry, result=Result.FILLED if filled else Result.WAS_FILLED)

    def _settle(self, cursor: Cursor, tried: Tried) -> Tried:
        number = tried.entry.number
        if tried.result is Result.BUSY:
            return tried
        if tried.failure is not None:
            quarantine.failed_again(cursor, number, tried.failure, control_schema=self.control_schema)
        else:
            quarantine.settle(cursor, [number], _RESOLUTIONS[tried.result], control_schema=self.control_schema)
        if not tried.is_certain:
            self.doubt(cursor)
        return tried


def _now(entry: Entry, rows: RowWork, connection: psycopg.Connection[Any]) -> sql.Composed:
    """The relation's name and file now; no row where it is gone, or no longer part of the table."""
    table = sql.Literal(sql.Identifier(rows.schema, rows.table).as_string(connection))
    return sql.SQL(_NOW).format(oid=sql.Literal(entry.relation), table=table)


def _find(cursor: Cursor, relation: Relation, key: sql.Composable) -> str | None:
    """Where the row is, locked; None where it is gone."""
    with cursor.connection.transaction():
        row = cursor.execute(sql.SQL(_FIND).format(relation=relation.identifier, key=key)).fetchone()
    return None if row is None else str(row[0])


def _needs_it(cursor: Cursor, rows: RowWork, relation: Relation, which: sql.Composable) -> bool:
    """Whether the row is unfilled, though what was computed did not fit it: it is another one since it was read."""
    return cursor.execute(statements.tids(rows, relation, which)).rowcount > 0


def _condition(cursor: Cursor, entry: Entry) -> sql.Composable | None:
    """A condition for the row; None where the relation has not all columns of the key."""
    if not entry.has_key:
        return statements.row(entry.key[quarantine.CTID])
    names = sql.Literal(list(entry.key))
    found = cursor.execute(sql.SQL(_TYPES).format(oid=sql.Literal(entry.relation), names=names)).fetchall()
    types = {name: sql.SQL(type_) for name, type_ in found}
    if len(types) < len(entry.key):
        return None
    pairs = (_equals(name, value, types[name]) for name, value in entry.key.items())
    return sql.SQL(" AND ").join(pairs)


def _equals(name: str, value: str, type_: sql.Composable) -> sql.Composed:
    return sql.SQL("{} = CAST({} AS {})").format(sql.Identifier(name), sql.Literal(value), type_)
