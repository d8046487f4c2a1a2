"""What an ``sa.Table`` says, as DDL text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zdmigrate.changes.base import require_name, text_or_none
from zdmigrate.changes.declared import foreign_target
from zdmigrate.errors import UsageError
from zdmigrate.planning import names
from zdmigrate.sqltext import ident, literal, tokens

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine.interfaces import Dialect


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Enum:
    """An enum type that a column has; `brought` where SQLAlchemy would create it with the table."""

    schema: str
    name: str
    labels: tuple[str, ...]
    brought: bool

    @property
    def create(self) -> str:
        """The statement that makes it."""
        return f"CREATE TYPE {ident(self.schema, self.name)} AS ENUM ({', '.join(map(literal, self.labels))})"

    @property
    def create_if_missing(self) -> str:
        """The statement that makes it where nobody has, and fails where it has other labels."""
        name, labels = ident(self.schema, self.name), ", ".join(map(literal, self.labels))
        made = (
            f"SELECT ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype({literal(name)}) "
            "ORDER BY enumsortorder)"
        )
        wrong = f"RAISE EXCEPTION 'the type % exists with other labels', {literal(name)}"
        body = (
            f"BEGIN IF to_regtype({literal(name)}) IS NULL THEN {self.create}; "
            f"ELSIF ({made}) <> ARRAY[{labels}] THEN {wrong}; END IF; END"
        )
        return f"DO {literal(body)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key: `add` is the statement that makes it, and `comment` the one that comments it."""

    name: str
    columns: tuple[str, ...]
    target: tuple[str, str]
    referenced: tuple[str, ...]
    add: str
    keeps: bool
    """Whether a row that is referred to cannot be deleted: no ON DELETE that says otherwise."""
    comment: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableDDL:
    """A table as statements: without its foreign keys and enum types, which have their own."""

    schema: str
    name: str
    columns: tuple[str, ...]
    statements: tuple[str, ...]
    enums: tuple[Enum, ...]
    foreign_keys: tuple[ForeignKey, ...]


def of(what: sa.Table | str, items: tuple[Any, ...], schema: str | None, comment: str | None) -> TableDDL:
    """The DDL of a table, or of one made of columns and constraints. What names no schema is in `schema`.

    Raises:
        UsageError: an argument is wrong, or the table has what CreateTable does not make.
    """
    import sqlalchemy as sa

    if schema is not None:
        require_name(schema, "CreateTable: schema")
    if isinstance(what, sa.Table):
        if items or comment is not None:
            raise UsageError("CreateTable: an sa.Table has its own columns, constraints and comment")
        if schema is not None and what.schema not in (None, schema):
            raise UsageError(f"CreateTable: {what.fullname} is in schema {what.schema}, and schema= says {schema}")
        table = what
    else:
        name = require_name(what, "CreateTable: the table")
        wrong = [type(i).__name__ for i in items if not isinstance(i, (sa.Column, sa.Constraint, sa.Index))]
        if wrong:
            raise UsageError(f"CreateTable: {name} is made of columns, constraints and indexes, not of {wrong[0]}")
        try:
            table = sa.Table(name, sa.MetaData(), *items, comment=comment)
        except sa.exc.SQLAlchemyError as error:
            raise UsageError(f"CreateTable: {name}: {error}") from error
    return _Compiler(table, table.schema or schema or "public").made()


class _Compiler:
    def __init__(self, table: sa.Table, schema: str) -> None:
        self.table, self.schema, self.dialect = table, schema, _dialect()
        self.name = require_name(str(self.table.name), "CreateTable: the table")

    def made(self) -> TableDDL:
        import sqlalchemy as sa

        self._refuse()
        enums = tuple(dict.fromkeys(self._enums()))
        try:
            statements = tuple(self._statements())
            keys = tuple(self._foreign_keys())
        except sa.exc.SQLAlchemyError as error:
            raise UsageError(f"CreateTable: {self.name}: {error}") from error
        columns = tuple(str(column.name) for column in self.table.columns)
        return TableDDL(
            schema=self.schema, name=self.name, columns=columns, statements=statements, enums=enums, foreign_keys=keys
        )

    def _refuse(self) -> None:
        """What the statement would lack, or what nobody but SQLAlchemy would make."""
        prefixes = {str(prefix).upper() for prefix in self.table._prefixes}
        found = []
        if not self.table.columns:
            found.append("no columns")
        if prefixes & {"TEMPORARY", "TEMP"}:
            found.append("the prefix TEMPORARY")
        if self.table.dialect_options["postgresql"]["inherits"]:
            found.append("postgresql_inherits, and inheritance is not supported")
        found += [wrong for column in self.table.columns for wrong in self._wrong_with(column)]
        found += [
            f"the index {index.name} with postgresql_concurrently, while the table is empty: leave it out"
            for index in self.table.indexes
            if index.dialect_options["postgresql"]["concurrently"]
        ]
        if found:
            raise UsageError(f"CreateTable: {self.name} has {'; '.join(found)}")

    def _wrong_with(self, column: sa.Column[Any]) -> Iterator[str]:
        import sqlalchemy as sa
        from sqlalchemy.dialects import postgresql

        type_ = _inner(column.type, self.dialect)
        if isinstance(type_, sa.types.NullType):
            yield f"the column {column.name} without a type"
        if isinstance(type_, postgresql.DOMAIN) and type_.create_type:
            yield f"the domain {type_.name}: create it before, and give it create_type=False"
        if isinstance(column.default, sa.Sequence):
            yield f"the sequence {column.default.name}: use sa.Identity()"

    def _enums(self) -> Iterator[Enum]:
        from sqlalchemy.dialects import postgresql

        for column in self.table.columns:
            type_ = _inner(column.type, self.dialect)
            if isinstance(type_, postgresql.ENUM):
                if not type_.name:
                    raise UsageError(f"CreateTable: the enum type of {self.name}.{column.name} has no name")
                yield Enum(
                    schema=type_.schema or self.schema, name=str(type_.name), labels=tuple(type_.enums),
                    brought=bool(type_.create_type),
                )  # fmt: skip

    def _statements(self) -> Iterator[str]:
        import sqlalchemy as sa

        yield self._text(sa.schema.CreateTable(self.table, include_foreign_key_constraints=[]))
        target = ident(self.schema, self.name)
        if text_or_none(self.table.comment, f"CreateTable: the comment of {self.name}") is not None:
            yield f"COMMENT ON TABLE {target} IS {literal(self.table.comment or '')}"
        for column in self.table.columns:
            if text_or_none(column.comment, f"CreateTable: the comment of {self.name}.{column.name}") is not None:
                yield f"COMMENT ON COLUMN {target}.{ident(str(column.name))} IS {literal(column.comment or '')}"
        for index in sorted(self.table.indexes, key=lambda index: str(index.name)):
            yield self._text(sa.schema.CreateIndex(index))
        for constraint in sorted(self.table.constraints, key=lambda constraint: str(constraint.name)):
            if constraint.comment is not None and not isinstance(constraint, sa.ForeignKeyConstraint):
                yield self._commented(constraint)

    def _commented(self, constraint: sa.Constraint) -> str:
        if not isinstance(constraint.name, str):
            raise UsageError(f"CreateTable: {self.name} has a constraint with a comment, but without a name")
        target = ident(self.schema, self.name)
        text_or_none(constraint.comment, f"CreateTable: the comment of {constraint.name}")
        return f"COMMENT ON CONSTRAINT {ident(constraint.name)} ON {target} IS {literal(constraint.comment or '')}"

    def _foreign_keys(self) -> Iterator[ForeignKey]:
        """Named as the server would name them, so that each can be looked for.

        SQLAlchemy compiles none whose table it does not know, and migrations name tables that nobody mapped.
        """
        preparer = self.dialect.identifier_preparer
        quoted = {key: None if key.name is None else preparer.format_constraint(key) for key in self._keys()}
        taken = frozenset(_unquoted(text) for text in quoted.values() if text is not None)
        for key, text in quoted.items():
            columns = tuple(str(column.name) for column in key.columns)
            name = _unquoted(text) if text else names.conventional(self.name, "_".join(columns), "fkey", taken)
            taken |= {name}
            table, referenced = _target(key.elements[0])[0], tuple(_target(element)[1] for element in key.elements)
            schema, _, target = table.rpartition(".")
            home = ident(self.schema, self.name)
            constraint = f"CONSTRAINT {ident(name)} FOREIGN KEY ({', '.join(map(ident, columns))})"
            references = f"REFERENCES {ident(schema or self.schema, target)} ({', '.join(map(ident, referenced))})"
            yield ForeignKey(
                name=name, columns=columns, target=(schema or self.schema, target), referenced=referenced,
                keeps=(key.ondelete or "NO ACTION").upper() in ("NO ACTION", "RESTRICT"),
                add=f"ALTER TABLE {home} ADD {' '.join([constraint, references, *self._rules(key)])}",
                comment=None if key.comment is None else
                f"COMMENT ON CONSTRAINT {ident(name)} ON {home} IS {literal(key.comment)}",
            )  # fmt: skip

    def _keys(self) -> list[sa.ForeignKeyConstraint]:
        return sorted(self.table.foreign_key_constraints, key=lambda key: list(key.column_keys))

    def _rules(self, key: sa.ForeignKeyConstraint) -> Iterator[str]:
        for rule, text in (("MATCH", key.match), ("ON DELETE", key.ondelete), ("ON UPDATE", key.onupdate)):
            if text is not None:
                if not _ACTION.fullmatch(text):
                    raise UsageError(f"CreateTable: {self.name}: {text!r} cannot follow {rule}")
                yield f"{rule} {text}"
        if key.deferrable is not None:
            yield "DEFERRABLE" if key.deferrable else "NOT DEFERRABLE"
        if key.initially is not None:
            if key.initially.upper() not in ("DEFERRED", "IMMEDIATE"):
                raise UsageError(f"CreateTable: {self.name}: {key.initially!r} cannot follow INITIALLY")
            yield f"INITIALLY {key.initially}"

    def _text(self, element: sa.schema.ExecutableDDLElement) -> str:
        """One line, whatever whitespace this release of SQLAlchemy prints: checksums are made of it."""
        made = element.compile(
            dialect=self.dialect, schema_translate_map={None: self.schema}, render_schema_translate=True
        )
        pieces = [" " if piece.kind in ("space", "comment") else piece.text for piece in tokens(str(made))]
        return "".join(p for i, p in enumerate(pieces) if p != " " or pieces[i - 1 : i] != [" "]).strip()


# What a foreign key does, and for which columns: SET NULL ("a", b).
_ACTION = re.compile(
    r"(?:FULL|PARTIAL|SIMPLE|RESTRICT|CASCADE|NO ACTION|SET (?:NULL|DEFAULT)(?: *\((?:[\w, ]|\"(?:[^\"]|\"\")*\")+\))?)",
    re.IGNORECASE,
)


def _dialect() -> Dialect:
    from sqlalchemy.dialects import postgresql

    # Not the paramstyle of a driver, for which every percent sign would be doubled; and a backslash in a string is one.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect._backslash_escapes = False
    return dialect


def _inner(type_: sa.types.TypeEngine[Any], dialect: Dialect) -> sa.types.TypeEngine[Any]:
    """What the server gets: without decorators and arrays."""
    import sqlalchemy as sa

    while isinstance(type_, sa.types.TypeDecorator):
        type_ = type_.load_dialect_impl(dialect)
    found = type_.dialect_impl(dialect)
    return _inner(found.item_type, dialect) if isinstance(found, sa.types.ARRAY) else found


def _unquoted(text: str) -> str:
    """The name of an identifier as SQLAlchemy prints it."""
    return next(tokens(text)).name or text


def _target(element: sa.ForeignKey) -> tuple[str, str]:
    """The table, with its schema where it is given, and the column that a foreign key points to."""
    *table, column = foreign_target(element, "CreateTable")
    return ".".join(table), column
