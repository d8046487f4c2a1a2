"""What an ``sa.Column`` declares, as text: no SQLAlchemy object reaches a plan."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate.changes.base import require_name
from zdmigrate.errors import UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa


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
    from sqlalchemy.dialects import postgresql

    if not isinstance(column, sa.Column):
        raise UsageError(f"{change}: the second argument must be a sqlalchemy.Column, got {type(column).__name__}")
    name = require_name(column.name, f"{change}: the column's name")
    if isinstance(column.type, sa.types.NullType):
        raise UsageError(f"{change}: {name} has no type")
    # Not the paramstyle of a driver, for which every percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    compiler = postgresql.base.PGDDLCompiler(dialect, None)  # type: ignore[arg-type]
    return {
        "name": name,
        "type": column.type.compile(dialect=dialect),
        "nullable": bool(column.nullable),
        "default": compiler.get_column_default_string(column),
        "comment": column.comment,
        "generated": _generated(column, compiler, f"{change}: {name}"),
        "identity": _identity(column, compiler, f"{change}: {name}"),
    }


def _generated(column: sa.Column[Any], compiler: Any, what: str) -> Generated | None:
    if column.computed is None:
        return None
    if column.computed.persisted is None:
        raise UsageError(
            f"{what}: say whether the generated value is stored",
            hint="sa.Computed(…, persisted=True), or persisted=False for a virtual column (PostgreSQL 18)",
        )
    text = compiler.sql_compiler.process(column.computed.sqltext, include_table=False, literal_binds=True)
    return Generated(expression=text, stored=column.computed.persisted)


def _identity(column: sa.Column[Any], compiler: Any, what: str) -> Identity | None:
    if column.identity is None:
        return None
    if column.nullable:
        raise UsageError(f"{what} is an identity, which is never NULL", hint="leave nullable= out")
    return Identity(always=bool(column.identity.always), options=compiler.get_identity_options(column.identity))
