"""What an ``sa.Column`` declares, as text: no SQLAlchemy object reaches a plan."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate.changes.add_check import AddCheck
from zdmigrate.changes.add_foreign_key import AddForeignKey
from zdmigrate.changes.add_unique import AddUnique
from zdmigrate.changes.base import finished, require_name, text_or_none
from zdmigrate.changes.create_index import CreateIndex
from zdmigrate.errors import UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

Inline = AddCheck | AddForeignKey | AddUnique | CreateIndex
"""What a column brings along, as changes of their own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """``GENERATED ALWAYS AS (expression)``, stored or virtual."""

    expression: str
    stored: bool

    @property
    def text(self) -> str:
        """Over the columns as the migration names them."""
        return self.over(self.expression)

    def over(self, expression: str) -> str:
        """The same over other names."""
        return f"GENERATED ALWAYS AS ({expression}) {'STORED' if self.stored else 'VIRTUAL'}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``GENERATED … AS IDENTITY``; `options` are those of its sequence."""

    always: bool
    options: str

    @property
    def text(self) -> str:
        """As the column's definition has it."""
        kind = "ALWAYS" if self.always else "BY DEFAULT"
        return f"GENERATED {kind} AS IDENTITY" + (f" ({self.options})" if self.options else "")


def column_facts(column: sa.Column[Any], change: str) -> dict[str, Any]:
    """Name, type, nullable, default, comment, generated and identity.

    Raises:
        UsageError: it is no column, or declares what `change` does not build.
    """
    import sqlalchemy as sa

    if not isinstance(column, sa.Column):
        raise UsageError(f"{change}: the second argument must be a sqlalchemy.Column, got {type(column).__name__}")
    name = require_name(column.name, f"{change}: the column's name")
    if column.primary_key:
        raise UsageError(f"{change}: {name} has primary_key=True", hint="add the column, then AddPrimaryKey")
    if isinstance(column.type, sa.types.NullType):
        raise UsageError(f"{change}: {name} has no type")
    compiler = _compiler()
    default = compiler.get_column_default_string(column)
    return {
        "name": name,
        "type": finished(column.type.compile(dialect=compiler.dialect), f"{change}: the type of {name}"),
        "nullable": bool(column.nullable),
        "default": None if default is None else finished(default, f"{change}: the server_default of {name}"),
        "comment": text_or_none(column.comment, f"{change}: the comment of {name}"),
        "generated": _generated(column, compiler, f"{change}: {name}"),
        "identity": _identity(column, compiler, f"{change}: {name}"),
    }


def inline(column: sa.Column[Any], table: str, schema: str, change: str) -> tuple[Inline, ...]:
    """The constraints and the index of a column, named as the server or SQLAlchemy names them."""
    import sqlalchemy as sa

    name = require_name(column.name, f"{change}: the column's name")
    virtual = column.computed is not None and not column.computed.persisted
    if virtual and (column.unique or column.index or column.foreign_keys):
        raise UsageError(f"{change}: {name} is virtual, and PostgreSQL has neither indexes nor keys on such columns")
    compiler, found = _compiler(), list[Inline]()
    for constraint in sorted(column.constraints, key=lambda c: c._creation_order):
        if not isinstance(constraint, sa.CheckConstraint):
            raise UsageError(
                f"{change}: {name} has a {type(constraint).__name__}, which belongs to a change of its own"
            )
        text = compiler.sql_compiler.process(constraint.sqltext, include_table=False, literal_binds=True)
        found.append(AddCheck(table, _name(constraint.name), text, schema=schema))
    found += [_foreign_key(key, name, table, schema) for key in sorted(column.foreign_keys, key=str)]
    if column.unique and not column.index:
        found.append(AddUnique(table, name, schema=schema))
    if column.index:
        where = "" if schema == "public" else f"{schema}_"
        called = require_name(f"ix_{where}{table}_{name}", f"{change}: the index of {name}")
        found.append(CreateIndex(table, called, name, unique=bool(column.unique), schema=schema))
    return tuple(found)


def _compiler() -> Any:
    from sqlalchemy.dialects import postgresql

    # Not the paramstyle of a driver, for which every percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return postgresql.base.PGDDLCompiler(dialect, None)  # type: ignore[arg-type]


def _foreign_key(key: sa.ForeignKey, column: str, table: str, schema: str) -> AddForeignKey:
    *where, ref_table, ref_column = foreign_target(key, f"AddColumn: {column}")
    return AddForeignKey(
        table, column, ref_table, ref_column, name=_name(key.name), ref_schema=where[0] if where else schema,
        on_delete=key.ondelete, on_update=key.onupdate, deferrable=key.deferrable, initially=key.initially,
        match=key.match, schema=schema,
    )  # fmt: skip


def foreign_target(key: sa.ForeignKey, what: str) -> list[str]:
    """The schema, where it is given, the table and the column that a foreign key points to."""
    found = key.target_fullname.rsplit(".", 2)
    if len(found) < 2 or not all(found):
        raise UsageError(
            f"{what}: a foreign key points to a table's column, not to {key.target_fullname!r}",
            hint='sa.ForeignKey("users.id")',
        )
    return found


def _name(given: object) -> str | None:
    """A name that is given, and not one that a MetaData's convention would make."""
    return str(given) if isinstance(given, str) else None


def _generated(column: sa.Column[Any], compiler: Any, what: str) -> Generated | None:
    if column.computed is None:
        return None
    if column.computed.persisted is None:
        raise UsageError(
            f"{what}: say whether the generated value is stored",
            hint="sa.Computed(…, persisted=True), or persisted=False for a virtual column (PostgreSQL 18)",
        )
    text = finished(
        compiler.sql_compiler.process(column.computed.sqltext, include_table=False, literal_binds=True), what
    )
    return Generated(expression=text, stored=column.computed.persisted)


def _identity(column: sa.Column[Any], compiler: Any, what: str) -> Identity | None:
    if column.identity is None:
        return None
    if column.nullable:
        raise UsageError(f"{what} is an identity, which is never NULL", hint="leave nullable= out")
    return Identity(always=bool(column.identity.always), options=compiler.get_identity_options(column.identity))
