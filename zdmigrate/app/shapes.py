"""Which shape of a migration a version of an application uses, told by the names that its models map. Pure.

Old and new shape are told apart by *traits*: a table, a column, a column's type, or that it may be NULL, that only one of
them has. What a version *needs* is the tables and columns that it maps. Where the shapes have no trait to tell them apart
(a CHECK, an index), or a version does not say what it needs, the answer is `Shape.UNKNOWN`, which gates do not take for fine.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class Shape(enum.StrEnum):
    """What a version uses of a migration."""

    OLD = "old"
    NEW = "new"
    BOTH = "both"
    """It needs both at once: its models map what only the old one has, and what only the new one has."""
    EITHER = "either"
    """It works with either: it maps nothing of what differs, or follows a read switch and says so."""
    UNKNOWN = "unknown"

    def needs(self, shape: Shape) -> bool:
        """Whether such a version may fail where `shape` (old or new) is not there. What is unknown may."""
        return self in (shape, Shape.BOTH, Shape.UNKNOWN)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """What only one shape has. `column` None: the table itself; `type`, `nullable`: where only these differ."""

    schema: str
    table: str
    column: str | None = None
    type: str | None = None
    nullable: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The traits of both shapes of a migration. Without any, versions cannot be told apart."""

    old: tuple[Trait, ...] = ()
    new: tuple[Trait, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        return {side: [_sparse(trait) for trait in traits] for side, traits in (("old", self.old), ("new", self.new))}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> Shapes:
        """What `to_json` made; nothing for None."""
        sides = document or {}
        old, new = (tuple(Trait(**trait) for trait in sides.get(side, ())) for side in ("old", "new"))
        return cls(old=old, new=new)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A column that a version maps. `type` is its DDL, empty where the models do not say it."""

    name: str
    type: str = ""
    nullable: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NeededTable:
    """A table that a version maps. Without `schema` the search path finds it: it is taken for a table of any."""

    name: str
    schema: str | None = None
    columns: tuple[Needed, ...] = ()


Needs = tuple[NeededTable, ...]


def needs_to_json(needs: Needs) -> list[Any]:
    """Plain values; `needs_from_json` reads them."""
    return [[t.schema, t.name, [[c.name, c.type, c.nullable] for c in t.columns]] for t in needs]


def needs_from_json(document: Iterable[Any]) -> Needs:
    """What `needs_to_json` made."""
    return tuple(
        NeededTable(
            schema=home,
            name=name,
            columns=tuple(Needed(name=c, type=type_, nullable=null) for c, type_, null in columns),
        )
        for home, name, columns in document
    )


def classify(needs: Needs | None, shapes: Shapes) -> Shape:
    """Which shape a version with these needs uses; None: it did not say what it needs."""
    if needs is None or not (shapes.old or shapes.new):
        return Shape.UNKNOWN
    old, new = ([_answer(needs, trait) for trait in traits] for traits in (shapes.old, shapes.new))
    if None in (*old, *new):  # a type that nobody can compare
        return Shape.UNKNOWN
    if any(old) and any(new):
        return Shape.BOTH
    return Shape.OLD if any(old) else Shape.NEW if any(new) else Shape.EITHER


def _answer(needs: Needs, trait: Trait) -> bool | None:
    """Whether a version with these needs uses what has the trait; None where it cannot be told."""
    tables = [t for t in needs if t.name == trait.table and t.schema in (None, trait.schema)]
    if trait.column is None:
        return bool(tables)
    columns = [c for table in tables for c in table.columns if c.name == trait.column]
    if trait.type is not None:
        found = [_canonical(column.type) for column in columns]
        if "" in found:
            return None
        return _canonical(trait.type) in found
    if trait.nullable is not None:
        return any(column.nullable is trait.nullable for column in columns)
    return bool(columns)


_ALIASES = {
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "serial": "integer",
    "bigserial": "bigint",
    "smallserial": "smallint",
    "float": "double precision",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "char": "character",
    "bpchar": "character",
    "decimal": "numeric",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
}


def _canonical(type_: str) -> str:
    """``VARCHAR(50)`` as the server calls it: ``character varying(50)``."""
    text = " ".join(type_.lower().replace('"', "").split())
    array = ""
    while text.endswith("[]"):
        text, array = text[:-2].rstrip(), "[]"  # the server does not tell dimensions apart
    head, paren, tail = text.partition("(")
    modifier, _, after = tail.partition(")")
    name = f"{head.strip()}{f' {after.strip()}' if after.strip() else ''}".removeprefix("public.")
    modifier = modifier.replace(" ", "")
    name = _ALIASES.get(name, name)
    if name == "numeric" and paren and "," not in modifier:
        modifier += ",0"
    return f"{name}{f'({modifier})' if paren else ''}{array}"


def _sparse(trait: Trait) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(trait).items() if value is not None}
