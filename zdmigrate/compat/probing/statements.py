"""Probes that are made from a version's recorded statements: values for their parameters."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

from psycopg import postgres

from zdmigrate.compat.footprint import Parameter, Statement
from zdmigrate.compat.probing import binding, values
from zdmigrate.compat.probing.binding import Place
from zdmigrate.compat.probing.probes import Probe
from zdmigrate.compat.probing.rows import Row, Samples
from zdmigrate.postgres.shapes import Column, Relation, Shapes
from zdmigrate.sqltext import ident, tokens

__all__ = ["as_insert", "variants", "written"]

NEW = values.FIRST + 8_000
_PAD = "x"
_COPY_IN = re.compile(
    r'\s*COPY\s+(?:BINARY\s+)?(?P<target>(?:"(?:[^"]|"")*"|[^\s("])+)\s*'
    r'(?:\((?P<columns>(?:"(?:[^"]|"")*"|[^)"])*)\))?\s+FROM\s',
    re.IGNORECASE,
)


def as_insert(statement: Statement, shapes: Shapes) -> Statement | None:
    """The INSERT that does to the table what a ``COPY FROM`` does with each row: a check sends COPY none."""
    found = _COPY_IN.match(statement.sql)
    relations = _relations(statement, shapes)
    if found is None or not relations:
        return None
    listed = [token.name for token in tokens(found["columns"] or "") if token.name is not None]
    given = listed or [column.name for column in relations[0].columns]
    # COPY may also give numbers to GENERATED ALWAYS AS IDENTITY; here the server does.
    refused = {column.name for column in relations[0].columns if column.generated or column.identity == "a"}
    names = [name for name in given if name not in refused]
    if not names:
        return None
    columns, values_ = ", ".join(map(ident, names)), ", ".join(f"${number}" for number in range(1, len(names) + 1))
    sql = f"INSERT INTO {found['target']} ({columns}) VALUES ({values_})"
    return Statement(sql=sql, prepared=False, places=statement.places)


def written(sql: str, shapes: Shapes) -> Relation | None:
    """The relation that a statement writes; None for one that only reads."""
    target = binding.target_of(sql)
    return None if target is None else shapes.find(target[1], target[0])


def variants(statement: Statement, samples: Samples, shapes: Shapes, taken_for: Sequence[int]) -> Iterator[Probe]:
    """The statement with values, several ways: the first that the server accepts at home is taken everywhere.

    `taken_for` are the types that the server takes the parameters for. What was recorded as it was comes first, then
    texts as long as the longest, then plain values, then NULLs.
    """
    relations = _relations(statement, shapes)
    columns = frozenset(column.name for relation in relations for column in relation.columns)
    places = binding.columns_of(statement.sql, columns)
    # Files may be written by hand: what is not said of a parameter is not known.
    seen = itertools.chain(statement.parameters, itertools.repeat(Parameter()))
    chosen = [
        _Choice(
            parameter=parameter, place=places.get(number), type=_names(oid),
            of=_holder(relations, places.get(number), samples),
        )
        for number, (oid, parameter) in enumerate(zip(taken_for, seen, strict=False), start=1)
    ]  # fmt: skip
    tried: set[tuple[str | None, ...]] = set()
    for given in (
        tuple(choice.recorded for choice in chosen),
        tuple(choice.padded for choice in chosen),
        tuple(choice.plain for choice in chosen),
        tuple(None if choice.parameter.null else choice.plain for choice in chosen),
        tuple(choice.typed for choice in chosen),
    ):
        if given not in tried:
            tried.add(given)
            yield probe_of(statement, given)


def probe_of(statement: Statement, given: tuple[str | None, ...]) -> Probe:
    """The statement with these values."""
    return Probe(
        subject=_short(statement.sql), sql=statement.sql, values=given, types=declared(statement),
        place=statement.places[0] if statement.places else None, warm=statement.prepared,
    )  # fmt: skip


def declared(statement: Statement) -> tuple[str, ...]:
    """The widest type that the driver was seen to declare for each parameter."""
    return tuple(max(p.types, key=_width, default="unknown") for p in statement.parameters)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A parameter, the column it is for, and rows of that column's relation: (one that is there, a new one)."""

    parameter: Parameter
    place: Place | None
    type: str
    of: tuple[Column, Row, Row] | None

    @property
    def recorded(self) -> str | None:
        """A value that was seen, where values were kept."""
        return self.parameter.samples[0] if self.parameter.samples else self.plain

    @property
    def plain(self) -> str | None:
        """The column's value in a new row, where it is written, else in one that is there."""
        if self.of is None or self.place is None:
            return self.typed
        column, existing, made = self.of
        if self.type.startswith("_") and not column.base.startswith("_"):
            found = existing.get(column.name)
            return None if found is None else "{" + values.quoted(found) + "}"
        row = made if self.place.written else existing
        return row.get(column.name, self.typed)

    @property
    def padded(self) -> str | None:
        """As long as the longest text that was seen."""
        plain = self.plain
        stretched = self.of is not None and self.place is not None and self.place.written
        if plain is None or not stretched or self.type not in ("text", "varchar", "bpchar"):
            return plain
        return plain.ljust(self.parameter.longest, _PAD)

    @property
    def typed(self) -> str | None:
        """Any value of the type that the server takes it for."""
        return values.typical(Column(name="", type=self.type, base=self.type), 1)


def _relations(statement: Statement, shapes: Shapes) -> list[Relation]:
    named = (shapes.find(name, schema) for schema, name in binding.relations_of(statement.sql))
    return [relation for relation in named if relation is not None]


def _holder(relations: list[Relation], place: Place | None, samples: Samples) -> tuple[Column, Row, Row] | None:
    if place is None:
        return None
    for relation in relations:
        column = relation.column(place.column)
        if column is not None:
            return column, next(iter(samples.existing(relation)), {}), samples.make(relation, NEW)
    return None


def _names(oid: int) -> str:
    info = postgres.types.get(oid)
    if info is None:
        return "text"
    return info.name if info.oid == oid else f"_{info.name}"


_WIDTHS = ("unknown", "bool", "int2", "int4", "int8", "numeric", "float8")


def _width(type_: str) -> int:
    return _WIDTHS.index(type_) if type_ in _WIDTHS else len(_WIDTHS)


def _short(sql: str) -> str:
    return sql if len(sql) <= 80 else sql[:77] + "…"
