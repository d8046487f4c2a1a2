"""Values that a Python function of the migration file computes.

Rows are read, the function is called while no transaction is open, and what it returned is written where what it was given
is still so: compare-and-set. The server compares an image of what it sent, so no value has to survive the way through Python
and back, and types without ``=`` do. A row is looked for at the place where it was read; one that was updated meanwhile is
elsewhere, and is read again. So no key is needed, and a row is never another one: the value depends on nothing but the image.

Values are written as their text, which the type's input function takes or refuses: ``1.5`` is no integer, and a text that is
too long is not cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Json, Jsonb

from zdmigrate.backfill.bad_rows.quarantine import Failure
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Row
from zdmigrate.backfill.statements import Filling
from zdmigrate.errors import Drift, ZdmigrateError
from zdmigrate.plan import RowWork, Transform
from zdmigrate.wording import counted

Function = Callable[[Any], Any]
"""Takes a list of rows, each a mapping from the names that it reads to values; returns a value for each."""

MOST_ROWS = 1000
"""About how many rows a function is given at once: they are in memory, however wide they are."""

_EXTERNAL, _NULL, _UNFIT = "38000", "22004", "22000"
"""SQLSTATEs: external routine exception, null value not allowed, data exception."""

# Sent and compared in the database's own encoding, whatever that is.
_IMAGE = (
    "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to("
    "(ROW({}))::text, pg_catalog.getdatabaseencoding())), 'base64')"
)

_READ = "SELECT ctid::text, {image}, {reads} FROM ONLY {relation} WHERE {which} AND ({unfilled})"

# -1 is "any length": the assignment to the column then refuses what is too long.
_TYPE = (
    "SELECT pg_catalog.format_type(atttypid, -1), atttypid IN ('json'::regtype, 'jsonb'::regtype) "
    "FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attname = {column} AND NOT attisdropped"
)

_WRITE = """
UPDATE ONLY {relation} SET {column} = CAST(zd_value AS {type})
FROM ROWS FROM (
  pg_catalog.unnest({tids}::tid[]), pg_catalog.unnest({images}::text[]), pg_catalog.unnest({values}::text[])
) AS zd_computed(zd_tid, zd_image, zd_value)
WHERE ctid = zd_tid AND ({unfilled}) AND {image} = zd_image
"""

_FREE = (
    "ctid = ANY(ARRAY(SELECT ctid FROM ONLY {relation} WHERE ctid = ANY({tids}::tid[]) AND ({unfilled}) "
    "FOR NO KEY UPDATE SKIP LOCKED))"
)


_LEAVES = """
SELECT leaf.oid::bigint, space.nspname, leaf.relname
FROM pg_catalog.pg_class AS leaf JOIN pg_catalog.pg_namespace AS space ON space.oid = leaf.relnamespace
WHERE leaf.relkind = 'r' AND (leaf.oid = to_regclass({table})
    OR leaf.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass({table}))))
"""


class FunctionBroken(ZdmigrateError):
    """A function does not keep to what is asked of it, whatever the rows are."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value as text, for a row that had this image when it was read at `tid`."""

    tid: str
    image: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What a function made of rows. The type's name is as the server spells it."""

    type: str
    values: tuple[Value, ...] = ()
    failures: tuple[Failure, ...] = ()


class Computing:
    """Calls a function for rows that are read with `read`; `connection` says how values are written."""

    def __init__(
        self, connection: psycopg.Connection[Any], function: Function,
        read: Callable[[Relation, sql.Composed], list[Row]],
    ) -> None:  # fmt: skip
        self._connection, self._function, self._read = connection, function, read
        self._types: dict[int, tuple[str, bool]] = {}

    def compute(self, rows: RowWork, relation: Relation, which: sql.Composable) -> Computed:
        """Values for the unfilled rows among those that `which` takes. Nothing is held while the function runs.

        Raises:
            FunctionBroken: it does not return one value for each row.
            psycopg.Error: as from any read; with SQLSTATE 38000 where psycopg has no value of Python for one of the server's.
        """
        transform = _transform(rows)
        query = sql.SQL(_READ).format(
            image=_image(transform), reads=_reads(transform), relation=relation.identifier, which=which,
            unfilled=sql.SQL(rows.unfilled),
        )  # fmt: skip
        found = [_Given(tid, image, _named(transform, values)) for tid, image, *values in self._rows(relation, query)]
        type_, is_json = self._type(relation, transform.column)
        results = list(_results(self._function, found))
        writing = _Writing(self._connection, is_json=is_json)
        written = [writing.of(result) for result in results if isinstance(result, _Result)]
        failed = [result for result in (*results, *written) if isinstance(result, Failure)]
        values_ = tuple(value for value in written if isinstance(value, Value))
        return Computed(type=type_, values=values_, failures=tuple(failed))

    def filling(self, rows: RowWork, relation: Relation, computed: Computed) -> Filling:
        """Write what was computed where it still holds."""
        transform, tids = _transform(rows), sql.Literal([value.tid for value in computed.values])
        unfilled = sql.SQL(rows.unfilled)
        write = sql.SQL(_WRITE).format(
            relation=relation.identifier, column=sql.Identifier(transform.column), type=sql.SQL(computed.type),
            tids=tids, images=sql.Literal([value.image for value in computed.values]),
            values=sql.Literal([value.text for value in computed.values]), unfilled=unfilled, image=_image(transform),
        )  # fmt: skip
        free = sql.SQL(_FREE).format(relation=relation.identifier, tids=tids, unfilled=unfilled)
        return Filling(write, lambda: sql.SQL("{} AND {}").format(write, free))

    def _rows(self, relation: Relation, query: sql.Composed) -> list[Row]:
        try:
            return self._read(relation, query)
        except psycopg.DataError as error:
            if error.sqlstate is not None:
                raise
            # 'infinity' of a timestamp, a year of five digits: the server's values are more than Python's.
            raise errors.ExternalRoutineException(f"psycopg cannot read the row: {error}") from None

    def _type(self, relation: Relation, column: str) -> tuple[str, bool]:
        """The column's type, and whether it holds JSON."""
        if relation.oid not in self._types:
            query = sql.SQL(_TYPE).format(oid=sql.Literal(relation.oid), column=sql.Literal(column))
            found = self._read(relation, query)
            if not found:
                raise Drift(f"{relation} has no column {column} any more", hint="zdmigrate status")
            self._types[relation.oid] = (found[0][0], found[0][1])
        return self._types[relation.oid]


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """A row as the function gets it."""

    tid: str
    image: str
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Result:
    given: _Given
    value: Any
    function: str


def _results(function: Function, rows: Sequence[_Given]) -> Iterator[_Result | Failure]:
    """The function's values; where it raises, it is called again for both halves, down to the row that is to blame."""
    if not rows:
        return
    try:
        values = _called(function, [dict(row.values) for row in rows])
    except FunctionBroken:
        raise
    # Whatever the author's function raises is about its rows; sys.exit(0) would end the command as if all were filled.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        if len(rows) == 1:
            yield Failure.saying(rows[0].tid, _EXTERNAL, f"{type(error).__name__}: {error}")
            return
        middle = len(rows) // 2
        yield from _results(function, rows[:middle])
        yield from _results(function, rows[middle:])
        return
    yield from (_Result(row, value, function.__name__) for row, value in zip(rows, values, strict=True))


def _called(function: Function, rows: list[dict[str, Any]]) -> list[Any]:
    wanted = len(rows)  # the list is the function's from here on
    returned, name = function(rows), function.__name__
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise FunctionBroken(
            f"{name}() returned {type(returned).__name__}, and not a list of values",
            hint="it gets a list of rows, and returns one value for each, in their order",
        )
    values = list(returned)
    if len(values) != wanted:
        raise FunctionBroken(
            f"{name}() returned {counted(len(values), 'value')} for {counted(wanted, 'row')}; nothing of them was written",
            hint="return one value for each row, in their order; where= says which rows need none",
        )
    return values


class _Writing:
    """Values as the server's types read them. For `is_json`, what is no wrapper of psycopg's is the JSON value itself."""

    def __init__(self, connection: psycopg.Connection[Any], *, is_json: bool) -> None:
        self._transformer, self._encoding = Transformer(connection), connection.info.encoding
        self._is_json = is_json

    def of(self, result: _Result) -> Value | Failure:
        """A row's value, or why it is none."""
        tid, value = result.given.tid, result.value
        if value is None:
            return Failure.saying(tid, _NULL, f"{result.function}() returned None")
        try:
            return Value(tid=tid, image=result.given.image, text=self._text(value))
        except Exception as error:  # noqa: BLE001  # psycopg asks the value, which may be of any class
            kind = type(value).__name__
            return Failure.saying(tid, _UNFIT, f"{result.function}() returned {kind}, which cannot be written: {error}")

    def _text(self, value: object) -> str:
        adapted = Json(value) if self._is_json and not isinstance(value, Json | Jsonb) else value
        dumped = self._transformer.get_dumper(adapted, PyFormat.TEXT).dump(adapted)
        if dumped is None:
            raise ValueError("it stands for NULL")
        return bytes(dumped).decode(self._encoding)


def _transform(rows: RowWork) -> Transform:
    assert rows.transform is not None
    return rows.transform


def _named(transform: Transform, values: Sequence[Any]) -> dict[str, Any]:
    return {name: value for (name, _), value in zip(transform.reads, values, strict=True)}


def _reads(transform: Transform) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(text)) for _, text in transform.reads)


def _image(transform: Transform) -> sql.Composed:
    return sql.SQL(_IMAGE).format(_reads(transform))


def fill_all(cursor: psycopg.Cursor[Any], function: Function, rows: RowWork) -> Failure | None:
    """Fill a table of few rows in the caller's transaction; the first failure, if there is one, after which it must end.

    Raises:
        FunctionBroken, psycopg.Error: as `Computing.compute`.
    """

    def read(_: Relation, query: sql.Composed) -> list[Row]:
        return cursor.execute(query, prepare=False).fetchall()

    computing = Computing(cursor.connection, function, read)
    table = sql.Literal(sql.Identifier(rows.schema, rows.table).as_string(cursor))
    for oid, schema, name in cursor.execute(sql.SQL(_LEAVES).format(table=table)).fetchall():
        relation = Relation(oid=oid, schema=schema, name=name)
        computed = computing.compute(rows, relation, sql.SQL("true"))
        if computed.failures:
            return computed.failures[0]
        cursor.execute(computing.filling(rows, relation, computed).waiting, prepare=False)
    return None
