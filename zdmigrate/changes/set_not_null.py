"""Make a column NOT NULL."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Window
from zdmigrate.planning import notnull
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, init=False)
class SetNotNull(Change):
    """Make a column NOT NULL: ``SetNotNull("users", "country", backfill="'??'")``.

    `backfill` is a SQL expression over the row that replaces NULLs: those that are there, and until `contract` those
    that version N goes on writing (a trigger does that). NOT NULL is proven without a scan under ACCESS EXCLUSIVE, in
    `backfill`. Without it there must be no NULLs, and since N may write some, NOT NULL comes in `contract`, when N is
    gone; rows that are NULL then are named before anything is done.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: drops NOT NULL; what was NULL before `backfill` keeps its value.
    Manual: ALTER TABLE, "SET NOT NULL".
    """

    table: str
    column: str
    backfill: str | None
    schema: str

    def __init__(self, table: str, column: str, *, backfill: str | None = None, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"SetNotNull: {field}"))
        text = declared_sql(backfill, "SetNotNull: backfill")
        if text is not None and text.strip().lower() == "null":
            raise UsageError("SetNotNull: a backfill of NULL fills nothing", hint="leave it out, or give a value")
        object.__setattr__(self, "backfill", text)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "SetNotNull", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        if column.not_null:
            return OneShot(there=True)
        name = ident(self.column)
        fill = f"UPDATE {ident(self.schema, self.table)} SET {name} = {self.backfill} WHERE {name} IS NULL"
        filled = () if self.backfill is None else (fill,)
        return OneShot(*filled, alter(table, f"ALTER COLUMN {name} SET NOT NULL"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.column(self.column)
        if column.not_null:
            raise Unsafe(f"{table.shown}.{self.column} is NOT NULL already")
        if column.fresh:
            raise Unsafe(
                f"{table.shown}.{self.column} is added by the same migration", hint="add it with nullable=False"
            )
        if self.backfill is None:
            return self._at_the_end(scope, table)
        scope.expression(table.live, f"({table.initial(self.backfill)})::{column.type}")
        table.fill(self.column, self.backfill, not_null=True)
        hazard = Hazard(
            id="C09", phase=Phase.DUAL_WRITE,
            message=f"a NULL that version N writes into {self.column} becomes the backfill's value",
            remedy="let version N tolerate the value, or leave backfill= out and wait until N is gone",
        )  # fmt: skip
        return ChangePlan(window=Window(old_until=Phase.RETIRE, new_from=Phase.BACKFILL), hazards=(hazard,))

    def _at_the_end(self, scope: Scope, table: TableDraft) -> ChangePlan:
        live, phase = table.live, table.strict_phase([self.column])
        made = notnull.conventional(live, table.settled(self.column))
        steps = list(notnull.proven(scope, live, self.column, phase, made=made))
        nulls = (
            f"SELECT format('row %s of %s is NULL in %s', ctid, {literal(table.shown)}, {literal(self.column)}) "
            f"FROM {ident(live.schema, live.name)} WHERE {ident(self.column)} IS NULL LIMIT 5"
        )
        steps[0] = dataclasses.replace(steps[0], refused_by=nulls, takes_away=True)
        table.require(self.column, not_null=True)
        return ChangePlan(window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE), steps=tuple(steps))
