"""Add a column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name
from zdmigrate.errors import UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, RowQueries, Window
from zdmigrate.planning import probes
from zdmigrate.planning.draft import DraftColumn, Fill, TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclasses.dataclass(frozen=True, init=False)
class AddColumn(Change):
    """Add a column: ``AddColumn("users", sa.Column("locale", sa.Text, nullable=False), backfill="'en'")``.

    A constant or STABLE ``server_default`` is added at once, NOT NULL included: PostgreSQL 11 and later rewrite
    nothing for it. A volatile one, or `backfill` (a SQL expression over the row's other columns), is filled in batches;
    until `contract` a trigger fills what version N inserts. NOT NULL is proven before it is set.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: drops the column, which loses what N+1 wrote: refused without
    ``--allow-lossy`` where there is any. Keys, unique, indexes, foreign keys, identity and generated columns are
    refused.
    """

    table: str
    name: str
    type: str
    nullable: bool
    default: str | None
    comment: str | None
    backfill: str | None
    schema: str

    def __init__(
        self, table: str, column: sa.Column[Any], *, backfill: str | None = None, schema: str = "public"
    ) -> None:
        facts = _column_facts(column)
        values = {"table": require_name(table, "AddColumn: table"), "schema": require_name(schema, "AddColumn: schema")}
        for field, value in {**facts, **values, "backfill": declared_sql(backfill, "AddColumn: backfill")}.items():
            object.__setattr__(self, field, value)
        if not self.nullable and self.default is None and backfill is None:
            raise UsageError(
                f"AddColumn: {table}.{self.name} is NOT NULL, but nothing says what rows without a value get",
                hint="give the column a server_default, or AddColumn a backfill=",
            )

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "AddColumn", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        if table.column(self.name) is not None:
            return OneShot(there=True)
        null = "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        if self.backfill is None:
            add = alter(table, f"ADD COLUMN {self._definition()}{default}{null}")
            return OneShot(add, *self._comment(table), there=False)
        statements = [
            alter(table, f"ADD COLUMN {self._definition()}"),
            f"UPDATE {ident(self.schema, self.table)} SET {ident(self.name)} = {self.backfill}",
        ]
        if default:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET{default}"))
        if null:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET NOT NULL"))
        return OneShot(*statements, *self._comment(table), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        table.refuse_taken(self.name)
        type_ = scope.type_name(self.type)
        volatile = False
        for text in (self.default, self.backfill):
            if text is not None:
                facts = scope.expression(table.live, self._cast(table.initial(text)))
                volatile = volatile or (text is self.default and facts.volatile)
        if self.backfill is None and not volatile:
            return self._at_once(scope, table, type_)
        return self._filled(scope, table, type_)

    def _at_once(self, scope: Scope, table: TableDraft, type_: str) -> ChangePlan:
        live, null = table.live, "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        step = transaction_step(
            scope, Phase.EXPAND, f"add.{self.name}", f"add {self.name}",
            probe=probes.column(live, self.name, type_=type_),
            do=[alter(live, f"ADD COLUMN {self._definition()}{default}{null}"), *self._comment(live)],
            undo=[alter(live, f"DROP COLUMN {ident(self.name)}")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        table.add(self._drafted(type_, computed=False))
        window = Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND)
        return ChangePlan(steps=(dataclasses.replace(step, undo_loses=self._loses(live)),), window=window)

    def _loses(self, table: catalog.Table) -> RowQueries:
        """Rows whose value nothing would bring back."""
        shown, name = literal(f"{table.schema}.{table.name}"), ident(self.name)
        same = (
            ""
            if self.default is None
            else f" AND pg_catalog.record_image_ne(ROW({name}), ROW({self._cast(self.default)}))"
        )
        query = (
            f"SELECT format('row %s of %s has a value of its own in %s', ctid, {shown}, {literal(self.name)}) "
            f"FROM {ident(table.schema, table.name)} WHERE {name} IS NOT NULL{same} LIMIT 5"
        )
        return ((Phase.NONE, query),)

    def _filled(self, scope: Scope, table: TableDraft, type_: str) -> ChangePlan:
        """The column's values are computed, row by row."""
        text = table.initial(self.backfill if self.backfill is not None else self.default or "NULL")
        facts = scope.expression(table.live, self._cast(text))
        fill = Fill(
            name=self.name,
            type=type_,
            value=f"({text})::{self.type}",
            not_null=not self.nullable,
            # A NULL in a NOT NULL column is unfilled, whatever the expression would say, and a volatile one must not
            # be asked twice.
            null_is_unfilled=not self.nullable or facts.volatile,
            definition=self._definition(),
            settings=self._comment(table.live),
            default=self.default,
            serves_old=self.default is not None,
        )
        table.add(self._drafted(type_, computed=True, value=f"({text})::{self.type}"), fill)
        taken = self.default is None
        hazard = self._explicit_null()
        detail = f"{hazard.message}; {hazard.remedy}"
        gate = Gate(name="explicit_null", phase=Phase.DUAL_WRITE, detail=detail, exit_code=6)
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE if taken else Phase.CONTRACT, new_from=Phase.BACKFILL),
            hazards=(hazard,) if self.nullable else (),
            gates=(gate,) if self.nullable else (),
        )

    def _drafted(self, type_: str, *, computed: bool, value: str | None = None) -> DraftColumn:
        return DraftColumn(
            name=self.name, type=type_, physical=self.name, value=value or ident(self.name), not_null=not self.nullable,
            default=self.default, fresh=True, computed=computed,
        )  # fmt: skip

    def _definition(self) -> str:
        return f"{ident(self.name)} {self.type}"

    def _comment(self, table: catalog.Table) -> tuple[str, ...]:
        if self.comment is None:
            return ()
        return (f"COMMENT ON COLUMN {ident(table.schema, table.name, self.name)} IS {literal(self.comment)}",)

    def _cast(self, text: str) -> str:
        return f"({text})::{self.type}"

    def _explicit_null(self) -> Hazard:
        message = f"until contract, a NULL that N+1 writes into {self.name} is replaced by the backfill's value"
        remedy = 'make the column NOT NULL, or accept it: --override explicit_null="reason"'
        return Hazard(id="C29", phase=Phase.DUAL_WRITE, message=message, remedy=remedy, accept="explicit_null")


def _column_facts(column: sa.Column[Any]) -> dict[str, Any]:
    """What an ``sa.Column`` says, as text; refuses what this change does not build."""
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql

    if not isinstance(column, sa.Column):
        raise UsageError(f"AddColumn: the second argument must be a sqlalchemy.Column, got {type(column).__name__}")
    name = require_name(column.name, "AddColumn: the column's name")
    found = {
        "primary_key=True": column.primary_key,
        "unique=True": bool(column.unique),
        "index=True": bool(column.index),
        "a foreign key": bool(column.foreign_keys),
        "a generated value": column.computed is not None,
        "an identity": column.identity is not None,
        "a constraint": bool(column.constraints),
    }
    wrong = [what for what, there in found.items() if there]
    if wrong:
        raise UsageError(f"AddColumn: {name} has {', '.join(wrong)}, which AddColumn does not build")
    if isinstance(column.type, sa.types.NullType):
        raise UsageError(f"AddColumn: {name} has no type")
    # Not the paramstyle of a driver, for which every percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    default = postgresql.base.PGDDLCompiler(dialect, None).get_column_default_string(column)  # type: ignore[arg-type]
    return {
        "name": name,
        "type": column.type.compile(dialect=dialect),
        "nullable": bool(column.nullable),
        "default": default,
        "comment": column.comment,
    }
