"""Rows that cannot be filled: set aside, so that the others go on; the phases after the backfill wait for them.

An entry names a row by its primary key, as the types' own text, or by its ctid where the table has no key, with the
file that the ctid belongs to: a table that is rewritten gives its rows other ones. The server's message is kept, which
may quote the value at which it failed; its DETAIL, which may show the whole row, never is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from zdmigrate.backfill.relations import Relation
from zdmigrate.errors import ZdmigrateError

CTID, FILENODE = "ctid", "filenode"
"""The names in a key that is none; ctid cannot be a column's."""

_LONGEST_MESSAGE = 1000
_LONGEST_VALUE = 1000
_SHOWN = 3
_LONGEST_SHOWN = 200


class QuarantineFull(ZdmigrateError):
    """More rows cannot be filled than may be: most likely the expression is wrong, and not the rows."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the row at `tid` cannot be filled."""

    tid: str
    sqlstate: str
    message: str

    @classmethod
    def of(cls, tid: str, error: psycopg.Error) -> Failure:
        """What may be kept of an error."""
        message = error.diag.message_primary or (type(error).__name__ if error.pgresult else str(error))
        return cls.saying(tid, error.sqlstate or "", message)

    @classmethod
    def saying(cls, tid: str, sqlstate: str, message: str) -> Failure:
        """With as much of the message as is kept."""
        return cls(tid=tid, sqlstate=sqlstate, message=_cut(message, _LONGEST_MESSAGE))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row that was set aside. `data` are the values of the columns that the configuration names, as text."""

    number: int
    step: str
    relation: int
    relation_name: str
    key: Mapping[str, str]
    sqlstate: str
    message: str
    data: Mapping[str, str | None] | None
    at: datetime
    attempts: int
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None

    @property
    def has_key(self) -> bool:
        """Whether the row can be found again wherever it goes."""
        return CTID not in self.key

    @property
    def row(self) -> str:
        """The row for people, as errors name it."""
        if not self.has_key:
            return f"{self.relation_name} ctid {self.key[CTID]}"
        values = _cut(", ".join(self.key.values()), _LONGEST_SHOWN)
        return f"{self.relation_name} ({', '.join(self.key)})=({values})"

    def __str__(self) -> str:
        return f"{self.row}: {self.message} (SQLSTATE {self.sqlstate})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many rows may be open before the backfill stops.

    Whichever is less: `rows`, or the `share` of the table's rows; but a few, in the smallest table too.
    """

    rows: int = 1000
    share: float = 0.1

    _FEW = 10

    def of(self, table_rows: int | None) -> int:
        """The number for a table of so many rows by the catalog's statistics; None where nobody knows."""
        if table_rows is None or table_rows < 0:
            return self.rows
        return min(self.rows, max(self._FEW, int(self.share * table_rows)))


# Setting aside -------------------------------------------------------------------------------------------------------

_KEY = """
SELECT attribute.attname
FROM pg_catalog.pg_index AS index
CROSS JOIN LATERAL pg_catalog.unnest(index.indkey) WITH ORDINALITY AS part(number, position)
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = part.number
WHERE index.indrelid = {oid} AND index.indisprimary AND part.position <= index.indnkeyatts
ORDER BY part.position
"""

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
WHERE attrelid = {oid} AND attname = ANY({names}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

# By a list of ctids: a scan of exactly those rows, whatever the planner thinks of the join.
_RECORD = """
INSERT INTO {table} AS entry (migration, step, relation, relation_name, key, sqlstate, message, data)
SELECT {migration}, {step}, {oid}, {name}, {key}, failed.sqlstate, failed.message, {data}
FROM ONLY {relation} AS r
JOIN ROWS FROM (
  pg_catalog.unnest({tids}::tid[]), pg_catalog.unnest({states}::text[]), pg_catalog.unnest({messages}::text[])
) AS failed(tid, sqlstate, message) ON failed.tid = r.ctid
WHERE r.ctid = ANY({tids}::tid[])
ON CONFLICT (migration, step, relation, key) WHERE resolved_at IS NULL DO UPDATE
SET attempts = entry.attempts + 1, sqlstate = excluded.sqlstate, message = excluded.message, data = excluded.data
RETURNING xmax = 0
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Where a step of a migration sets rows aside. `columns` are those whose values may be kept."""

    control_schema: str
    migration: int
    step: str
    columns: tuple[str, ...] = ()

    def record(self, cursor: psycopg.Cursor[Any], relation: Relation, failures: Sequence[Failure]) -> int:
        """Set rows aside in the caller's transaction; the number of those that were not yet.

        A row that is no longer at its place has been written meanwhile, which the sync trigger saw: it is passed over.
        Takes ACCESS SHARE on the relation, and a row lock on the entries.
        """
        if not failures:
            return 0
        with cursor.connection.cursor(row_factory=tuple_row) as own:
            statement = sql.SQL(_RECORD).format(
                table=sql.Identifier(self.control_schema, "quarantine"),
                migration=sql.Literal(self.migration),
                step=sql.Literal(self.step),
                oid=sql.Literal(relation.oid),
                name=sql.Literal(str(relation)),
                relation=relation.identifier,
                key=_object(_key_of(own, relation)),
                data=self._data(own, relation),
                tids=sql.Literal([failure.tid for failure in failures]),
                states=sql.Literal([failure.sqlstate for failure in failures]),
                messages=sql.Literal([failure.message for failure in failures]),
            )
            return sum(new for (new,) in own.execute(statement, prepare=False).fetchall())

    def tids(self, connection: psycopg.Connection[Any], relation: Relation) -> sql.Composed:
        """A query for the places of the relation's rows that are set aside by this step; a condition may follow."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            key = _object(_key_of(cursor, relation, relation.name))
        # Not as a join: without statistics the planner takes each row to be compared with each entry.
        return sql.SQL(
            "SELECT ctid::text FROM ONLY {relation} WHERE (EXISTS (SELECT FROM {open} AND zd_entry.key = {key})) IS TRUE"
        ).format(relation=relation.identifier, open=self._open(relation), key=key)

    def _open(self, relation: Relation) -> sql.Composed:
        return sql.SQL(
            "{} AS zd_entry WHERE zd_entry.migration = {} AND zd_entry.step = {} AND zd_entry.relation = {} "
            "AND zd_entry.resolved_at IS NULL"
        ).format(
            sql.Identifier(self.control_schema, "quarantine"), sql.Literal(self.migration), sql.Literal(self.step),
            sql.Literal(relation.oid),
        )  # fmt: skip

    def _data(self, cursor: psycopg.Cursor[Any], relation: Relation) -> sql.Composable:
        query = sql.SQL(_COLUMNS).format(oid=sql.Literal(relation.oid), names=sql.Literal(list(self.columns)))
        names = [name for (name,) in cursor.execute(query, prepare=False).fetchall()] if self.columns else []
        if not names:
            return sql.NULL
        cut = sql.SQL("pg_catalog.left({}::text, {})")
        return _object({name: cut.format(sql.Identifier("r", name), sql.Literal(_LONGEST_VALUE)) for name in names})


def _key_of(cursor: psycopg.Cursor[Any], relation: Relation, row: str = "r") -> dict[str, sql.Composable]:
    """Expressions over the row of that name. A type's own text is what its input takes, which a cast to text may not be."""
    text = sql.SQL("pg_catalog.format('%s', {})")
    names = cursor.execute(sql.SQL(_KEY).format(oid=sql.Literal(relation.oid)), prepare=False).fetchall()
    if names:
        return {name: text.format(sql.Identifier(row, name)) for (name,) in names}
    filenode = sql.SQL("pg_catalog.pg_relation_filenode({})").format(sql.Literal(relation.oid))
    return {CTID: text.format(sql.Identifier(row, CTID)), FILENODE: text.format(filenode)}


def _object(values: Mapping[str, sql.Composable]) -> sql.Composed:
    """Names and texts as one jsonb, however many there are."""
    texts = sql.SQL(", ").join(values.values())
    return sql.SQL("pg_catalog.jsonb_object({}::text[], ARRAY[{}]::text[])").format(sql.Literal(list(values)), texts)


# Looking -------------------------------------------------------------------------------------------------------------

_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))


def open_count(connection: psycopg.Connection[Any], *, control_schema: str, migration: int) -> int:
    """How many rows of a migration are set aside and not yet settled."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE migration = {} AND resolved_at IS NULL")
    with connection.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query.format(sql.Identifier(control_schema, "quarantine"), sql.Literal(migration)))
        row = found.fetchone()
    return 0 if row is None else int(row[0])


def entries(
    connection: psycopg.Connection[Any],
    *,
    control_schema: str,
    migration: int,
    limit: int | None = None,
    after: int = 0,
    settled: bool = False,
) -> list[Entry]:
    """The open entries with numbers above `after`, the oldest first; with `settled`, the others too."""
    query = sql.SQL("SELECT {} FROM {} WHERE migration = {} AND number > {} AND ({}) ORDER BY number LIMIT {}").format(
        sql.SQL(", ").join(map(sql.Identifier, _FIELDS)),
        sql.Identifier(control_schema, "quarantine"),
        sql.Literal(migration),
        sql.Literal(after),
        sql.SQL("true" if settled else "resolved_at IS NULL"),
        sql.Literal(limit),
    )
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [entry_of(row) for row in cursor.execute(query).fetchall()]


def fetch(cursor: psycopg.Cursor[Any], *, control_schema: str, number: int) -> Entry | None:
    """One open entry, locked until the caller's transaction ends; None where it is settled or gone."""
    query = sql.SQL("SELECT {} FROM {} WHERE number = {} AND resolved_at IS NULL FOR UPDATE").format(
        sql.SQL(", ").join(map(sql.Identifier, _FIELDS)),
        sql.Identifier(control_schema, "quarantine"),
        sql.Literal(number),
    )
    row = cursor.execute(query).fetchone()
    return None if row is None else entry_of(row)


def entry_of(row: Sequence[Any]) -> Entry:
    """A row of the table, in the order of the fields."""
    return Entry(**dict(zip(_FIELDS, row, strict=True)))


def refuse_above(connection: psycopg.Connection[Any], limit: int, *, control_schema: str, migration: int) -> None:
    """Stop where too many rows were set aside. Counts them: not for every batch.

    Raises:
        QuarantineFull: with the first messages.
    """
    number = open_count(connection, control_schema=control_schema, migration=migration)
    if number > limit:
        first = entries(connection, control_schema=control_schema, migration=migration, limit=_SHOWN)
        raise QuarantineFull(
            f"{number:,} rows cannot be filled, and {limit:,} may be; the first: {described(first)}",
            hint="correct the rows, or the expression in the migration; or allow more: backfill.quarantine_limit and "
            "backfill.quarantine_share in the configuration",
        )


def described(found: Iterable[Entry]) -> str:
    """Some of them in one line."""
    return "; ".join(map(str, found))


# Settling ------------------------------------------------------------------------------------------------------------


def settle(cursor: psycopg.Cursor[Any], numbers: Sequence[int], resolution: str, *, control_schema: str) -> list[int]:
    """Close open entries; the numbers of those that were."""
    statement = sql.SQL(
        "UPDATE {} SET resolved_at = clock_timestamp(), resolved_by = session_user, resolution = {} "
        "WHERE number = ANY({}::bigint[]) AND resolved_at IS NULL RETURNING number"
    ).format(sql.Identifier(control_schema, "quarantine"), sql.Literal(resolution), sql.Literal(list(numbers)))
    return sorted(number for (number,) in cursor.execute(statement).fetchall())


def failed_again(cursor: psycopg.Cursor[Any], number: int, failure: Failure, *, control_schema: str) -> None:
    """Note that an open entry's row could not be filled once more."""
    statement = sql.SQL(
        "UPDATE {} SET attempts = attempts + 1, sqlstate = {}, message = {} WHERE number = {} AND resolved_at IS NULL"
    ).format(
        sql.Identifier(control_schema, "quarantine"),
        sql.Literal(failure.sqlstate),
        sql.Literal(failure.message),
        sql.Literal(number),
    )
    cursor.execute(statement)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
