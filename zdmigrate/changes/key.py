"""What an index is made of, as migration files say it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

from zdmigrate import schema as catalog
from zdmigrate.changes.base import declared_sql, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.planning import carry, constraints, indexes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import Scope
from zdmigrate.sqltext import ident, index_tail, literal

Name = str | tuple[str, str]
"""A name that the search_path finds (pg_catalog, public), or schema and name."""


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Key:
    """One key of an index: ``Key("email", opclass="text_pattern_ops")``, ``Key.sql("lower(email)", order="desc")``.

    A plain column may be given as its name alone. `opclass` and `collation` are names, or pairs of schema and name;
    `options` are the operator class's parameters (``{"siglen": 32}``).
    """

    column: str | None
    expression: str | None
    opclass: Name | None
    options: tuple[tuple[str, str], ...]
    order: Literal["asc", "desc"] | None
    nulls: Literal["first", "last"] | None
    collation: Name | None

    def __init__(
        self,
        column: str,
        *,
        opclass: Name | None = None,
        options: Mapping[str, object] | None = None,
        order: Literal["asc", "desc"] | None = None,
        nulls: Literal["first", "last"] | None = None,
        collation: Name | None = None,
    ) -> None:
        require_name(column, "Key: column")
        self._fill(column, None, opclass, options, order, nulls, collation)

    @classmethod
    def sql(
        cls,
        expression: str,
        *,
        opclass: Name | None = None,
        options: Mapping[str, object] | None = None,
        order: Literal["asc", "desc"] | None = None,
        nulls: Literal["first", "last"] | None = None,
        collation: Name | None = None,
    ) -> Key:
        """A key that is computed: a SQL expression over the row's columns."""
        made = cls.__new__(cls)
        text = declared_sql("" if expression is None else expression, "Key.sql: the expression")
        made._fill(None, text, opclass, options, order, nulls, collation)
        return made

    def _fill(
        self,
        column: str | None,
        expression: str | None,
        opclass: object,
        options: object,
        order: object,
        nulls: object,
        collation: object,
    ) -> None:
        if order not in (None, "asc", "desc"):
            raise UsageError(f'Key: order must be "asc" or "desc", got {order!r}')
        if nulls not in (None, "first", "last"):
            raise UsageError(f'Key: nulls must be "first" or "last", got {nulls!r}')
        if options and opclass is None:
            raise UsageError("Key: options are parameters of an opclass, and none is given")
        for field, value in (
            ("column", column), ("expression", expression), ("opclass", _name(opclass, "Key: opclass")),
            ("options", settings(options, "Key: options")), ("order", order), ("nulls", nulls),
            ("collation", _name(collation, "Key: collation")),
        ):  # fmt: skip
            object.__setattr__(self, field, value)

    @property
    def value(self) -> str:
        """The key's value as an expression over the row."""
        body = ident(self.column) if self.column is not None else f"({self.expression})"
        return body if self.collation is None else f"{body} COLLATE {_quoted(self.collation)}"

    @property
    def text(self) -> str:
        """The key as ``CREATE INDEX`` takes it."""
        parts = [self.value]
        if self.opclass is not None:
            parts.append(_quoted(self.opclass) + (f" ({_listed(self.options)})" if self.options else ""))
        parts += [self.order.upper()] if self.order else []
        parts += [f"NULLS {self.nulls.upper()}"] if self.nulls else []
        return " ".join(parts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """The definition from the access method on, and what the server calls the index's columns.

    `certain`: both are the server's own words.
    """

    tail: str
    columns: tuple[str, ...]
    certain: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An index but for its name and table."""

    keys: tuple[Key, ...]
    unique: bool
    method: str
    include: tuple[str, ...]
    where: str | None
    storage: tuple[tuple[str, str], ...]
    nulls_not_distinct: bool
    tablespace: str | None

    @classmethod
    def checked(
        cls,
        what: str,
        keys: Iterable[object],
        *,
        unique: bool,
        method: str,
        include: Iterable[str],
        where: str | None,
        with_: Mapping[str, object] | None,
        nulls_not_distinct: bool,
        tablespace: str | None,
    ) -> Definition:
        """What was given to a change called `what`.

        Raises:
            UsageError: something of it cannot be.
        """
        made = tuple(_key(key, what) for key in keys)
        if not made:
            raise UsageError(
                f"{what}: an index needs at least one key", hint='name columns, or use Key.sql("lower(a)")'
            )
        if isinstance(include, str):
            raise UsageError(f"{what}: include must be a list of columns, got {include!r}")
        for flag, value in (("unique", unique), ("nulls_not_distinct", nulls_not_distinct)):
            if not isinstance(value, bool):
                raise UsageError(f"{what}: {flag} must be True or False, got {value!r}")
        if nulls_not_distinct and not unique:
            raise UsageError(f"{what}: nulls_not_distinct is for unique indexes")
        return cls(
            keys=made,
            unique=unique,
            method=require_name(method, f"{what}: method"),
            include=tuple(require_name(name, f"{what}: include") for name in include),
            where=declared_sql(where, f"{what}: where"),
            storage=settings(with_, f"{what}: with_"),
            nulls_not_distinct=nulls_not_distinct,
            tablespace=None if tablespace is None else require_name(tablespace, f"{what}: tablespace"),
        )

    @property
    def tail(self) -> str:
        """The definition from the access method on, without the tablespace."""
        parts = [f"{ident(self.method)} ({', '.join(key.text for key in self.keys)})"]
        parts += [f"INCLUDE ({', '.join(map(ident, self.include))})"] if self.include else []
        parts += ["NULLS NOT DISTINCT"] if self.nulls_not_distinct else []
        parts += [f"WITH ({_listed(self.storage)})"] if self.storage else []
        parts += [f"WHERE {self.where}"] if self.where is not None else []
        return " ".join(parts)

    @property
    def shown(self) -> str:
        """The index without a name, for people."""
        keys = ", ".join(key.column or key.expression or "" for key in self.keys)
        return f"{'unique ' * self.unique}index ({keys})" + ("" if self.where is None else f" where {self.where}")

    def canonical(self, scope: Scope, table: TableDraft) -> Canonical:
        """The server's text of it in the table's new shape; our own while it has not been asked.

        Raises:
            Unsafe: the server refuses it.
        """
        placed = self.tail if self.tablespace is None else indexes.with_tablespace(self.tail, self.tablespace)
        create = f"CREATE {'UNIQUE ' * self.unique}INDEX ON {{table}} USING {placed}"
        tried = scope.trial(table.live, constraints.on_copy(table, create))
        if tried.definition is None:
            return Canonical(tail=self.tail, columns=("unknown",), certain=False)
        return Canonical(tail=index_tail(tried.definition), columns=tried.columns, certain=True)

    def duplicates(self, table: catalog.Table) -> str:
        """A query for values that a unique index could not hold."""
        keys = [key.value for key in self.keys]
        return indexes.duplicates(table, keys, predicate=self.where, nulls_distinct=not self.nulls_not_distinct)

    def refuse_unpartitionable(self, table: catalog.Table) -> None:
        """A unique index must tell apart what lies in different partitions.

        Raises:
            Unsafe: a column of the partition key is missing.
        """
        plain = {key.column for key in self.keys}
        missing = sorted(set(table.partition_columns) - plain)
        if self.unique and table.partitioned and missing:
            raise Unsafe(
                f"a unique index on {table.schema}.{table.name} must have the partition key's columns among its keys: "
                f"{', '.join(missing)} missing",
                hint="add them to the keys",
            )

    def columns(self, table: TableDraft) -> tuple[str, ...]:
        """The columns that it mentions, by their names in the new shape.

        Raises:
            Unsafe: there is no such column.
        """
        found = [key.column for key in self.keys if key.column is not None]
        found += self.include
        for name in found:
            table.column(name)
        for text in (*(key.expression for key in self.keys), self.where):
            found += sorted(table.named_in(text or ""))
        return tuple(dict.fromkeys(found))


def final_tail(table: TableDraft, index: catalog.Index) -> str:
    """An index's definition once the names of columns have changed."""
    renamed = {c.live.name: c.name for c in table.columns if c.live is not None and c.live.name != c.name}
    return carry.rename_in(index.tail, renamed, f"index {index.name}")


def settings(given: object, what: str) -> tuple[tuple[str, str], ...]:
    """Storage parameters by name: numbers, booleans and texts.

    Raises:
        UsageError: it is not a mapping of those.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise UsageError(f"{what} must be a mapping, got {given!r}")
    found = []
    for name, value in given.items():
        if not isinstance(value, str | int | float):
            raise UsageError(f"{what}: {name!r} must be a number, a text or a boolean, got {value!r}")
        shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
        found.append((require_name(name, f"{what}: a name"), shown))
    return tuple(found)


def _listed(given: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{ident(name)} = {literal(value)}" for name, value in given)


def _key(given: object, what: str) -> Key:
    if isinstance(given, Key):
        return given
    if isinstance(given, str):
        return Key(require_name(given, f"{what}: a key"))
    raise UsageError(
        f"{what}: a key must be a column's name or a Key, not a {type(given).__name__}",
        hint='an expression is Key.sql("lower(email)")',
    )


def _name(given: object, what: str) -> Name | None:
    if given is None:
        return None
    if isinstance(given, tuple) and len(given) == 2:
        return require_name(given[0], what), require_name(given[1], what)
    return require_name(given, what)


def _quoted(name: Name) -> str:
    return ident(name) if isinstance(name, str) else ident(*name)
