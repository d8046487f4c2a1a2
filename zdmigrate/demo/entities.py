"""What the models of versions N and N+1 have in common: entities, whose rows both versions read and write.

An entity is a class of N and its counterpart in N+1 (or a class of only one of them), with the classes that belong to
the same row (*satellites*: what one version keeps in a table of its own, and the other in a column). A field is an
attribute of both, under whatever names, or of one version alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from zdmigrate.demo.example import OPERATIONS, Derived, Example, Values
from zdmigrate.demo.workload import Version
from zdmigrate.errors import UsageError

__all__ = ["Attribute", "Entity", "Field", "Reference", "Satellite", "attributes_of", "other", "table_of"]


def other(version: Version) -> Version:
    """N's other version is N+1."""
    return Version.NEXT if version is Version.N else Version.N


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A column as one version maps it."""

    cls: type[Any]
    name: str
    column: sa.Column[Any] = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return f"{self.cls.__name__}.{self.name}"

    @property
    def mapped(self) -> Any:
        """For statements."""
        return getattr(self.cls, self.name)

    @property
    def numbered(self) -> bool:
        """Whether the database numbers the rows with it."""
        column = self.column
        table = column.table
        assert isinstance(table, sa.Table)
        return column.identity is not None or (column is table.autoincrement_column and not column.foreign_keys)

    @property
    def read_only(self) -> bool:
        """Whether the database refuses to be given a value."""
        return self.column.computed is not None or (
            self.column.identity is not None and bool(self.column.identity.always)
        )

    @property
    def required(self) -> bool:
        """Whether an INSERT must give it a value."""
        column = self.column
        by_itself = column.nullable or column.default is not None or column.server_default is not None
        return not (by_itself or self.numbered or self.read_only)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A value of a row, in the versions that have it.

    `make` is None where values cannot be made (a reference gives them, or the database). `derive` says what the field
    holds when the version that does not have it has written the row, `nulls` what becomes of a NULL that not every
    version can hold.
    """

    name: str
    attributes: Mapping[Version, Attribute]
    make: Values | None
    chosen: bool
    derive: Derived | None = None
    nulls: object = None

    @property
    def only(self) -> Version | None:
        """The one version that has it, or None."""
        return next(iter(self.attributes)) if len(self.attributes) == 1 else None

    @property
    def holds_null(self) -> bool:
        """Whether NULL means the same to every version."""
        return all(attribute.column.nullable for attribute in self.attributes.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key of either version: `fields` hold `remote` of a row of the entity named `entity`."""

    fields: tuple[str, ...]
    entity: str
    remote: tuple[str, ...]
    unique: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Satellite:
    """A class of one version whose row belongs to the entity's row; `join` pairs its attributes with the entity's."""

    cls: type[Any]
    join: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entity:
    """Rows that are known to one or both versions. `identity` are the fields by which every version finds a row."""

    name: str
    classes: Mapping[Version, type[Any]]
    satellites: Mapping[Version, tuple[Satellite, ...]]
    fields: Mapping[str, Field]
    identity: tuple[str, ...]
    references: tuple[Reference, ...]
    allowed: frozenset[str]

    def of(self, version: Version) -> list[Field]:
        """The fields that a version has."""
        return self._of[version]

    def only(self, version: Version) -> list[Field]:
        """The fields that no other version has."""
        return [field for field in self.of(version) if field.only is version]

    def generated(self, version: Version) -> list[Field]:
        """The fields that the server computes from others, whoever writes those."""
        return [field for field in self.of(version) if field.attributes[version].column.computed is not None]

    def mine(self, version: Version) -> list[Field]:
        """The fields in the version's own table, without satellites."""
        return [field for field in self.of(version) if field.attributes[version].cls is self.classes[version]]

    def writable(self, version: Version) -> list[Field]:
        """What an UPDATE may set."""
        return [
            field
            for field in self.of(version)
            if field.name not in self.identity
            and not field.attributes[version].read_only
            and not field.attributes[version].numbered
            and (field.make is not None or self.reference(field.name) is not None)
        ]

    def unique_keys(self, version: Version) -> list[tuple[str, ...]]:
        """Sets of fields that ``ON CONFLICT`` can name, the primary key among them."""
        names = {field.attributes[version].column: field.name for field in self.mine(version)}
        found = [columns for columns in _unique(table_of(self.classes[version])) if all(c in names for c in columns)]
        return [
            tuple(names[column] for column in columns)
            for columns in found
            if not any(self.fields[names[column]].attributes[version].read_only for column in columns)
        ]

    def reference(self, field: str) -> Reference | None:
        """The foreign key that a field is part of."""
        return next((reference for reference in self.references if field in reference.fields), None)

    @functools.cached_property
    def _of(self) -> dict[Version, list[Field]]:
        return {v: [field for field in self.fields.values() if v in field.attributes] for v in Version}


def table_of(cls: type[Any]) -> sa.Table:
    """The table of a mapped class."""
    table = sa.inspect(cls).local_table
    assert isinstance(table, sa.Table)
    return table


def attributes_of(cls: type[Any]) -> dict[str, Attribute]:
    """The mapped columns of a class."""
    found = {}
    for prop in sa.inspect(cls).column_attrs:
        column = prop.columns[0]
        if isinstance(column, sa.Column):
            found[prop.key] = Attribute(cls=cls, name=prop.key, column=column)
    return found


def _unique(table: sa.Table) -> Iterator[tuple[sa.Column[Any], ...]]:
    if len(table.primary_key.columns):
        yield tuple(table.primary_key.columns)
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint) and not constraint.deferrable:
            yield tuple(constraint.columns)
    for index in table.indexes:
        plain = all(isinstance(expression, sa.Column) for expression in index.expressions)
        if index.unique and plain and index.dialect_kwargs.get("postgresql_where") is None:
            yield tuple(index.columns)


def unique_columns(cls: type[Any]) -> set[frozenset[str]]:
    """The unique sets of columns of a class, by name."""
    return {frozenset(column.name for column in columns) for columns in _unique(table_of(cls))}


def allowed_operations(example: Example, names: set[str]) -> frozenset[str]:
    """What an application does with a class under any of these names.

    Raises:
        UsageError: the facts name a class that does not exist.
    """
    for name in example.operations:
        if name not in example.old and name not in example.new:
            raise UsageError(f"{example.folder / 'example.py'}: OPERATIONS names {name}, which neither version maps")
    given = [operations for name, operations in example.operations.items() if name in names]
    return frozenset(given[0] if given else OPERATIONS)
