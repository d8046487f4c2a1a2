"""Give a column a default."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Window
from zdmigrate.planning import probes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, refuse_given, transaction_step
from zdmigrate.sqltext import ident

_TRIED = "zd_default"


@dataclasses.dataclass(frozen=True, init=False)
class SetDefault(Change):
    """Give a column a default: ``SetDefault("users", "country", "'DE'")``.

    `default` is SQL: a constant in quotes, or an expression. A column without a default gets it in `expand`; from then
    on it also stands in rows that version N inserts without the column. Where it takes the place of another default,
    version N relies on that one, so it changes in `contract`. Rows that are there keep what they have.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: the default of before. Refused: generated and identity columns.
    Manual: ALTER TABLE, "SET DEFAULT".
    """

    table: str
    column: str
    default: str
    schema: str

    def __init__(self, table: str, column: str, default: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"SetDefault: {field}"))
        text = declared_sql(default, "SetDefault: default")
        if text is None or text.strip().lower() == "null":
            raise UsageError("SetDefault: a default of NULL is none", hint=f'DropDefault("{table}", "{column}")')
        object.__setattr__(self, "default", text)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "SetDefault", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        wanted = self._canonical(scope, table, column.type)
        there = None if wanted is None else column.default == wanted
        return OneShot(self._set(table, self.column, self.default), there=there)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        refuse_given(table.live, column, doing="given a default")
        scope.draft.claim(f"the default of {table.shown}.{self.column}", f"set by change {scope.position + 1}")
        facts = scope.expression(table.live, f"({self.default})::{table.column(self.column).type}")
        wanted = self._canonical(scope, table.live, table.column(self.column).type)
        if wanted is not None and wanted == column.default:
            return ChangePlan(window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE))
        if column.default is not None:
            return self._another(scope, table, column, wanted)
        if table.is_replaced(self.column):
            raise Unsafe(
                f"the type of {table.shown}.{self.column} is changed by the same migration",
                hint="set the default before the type, or in a migration of its own",
            )
        part = self._first(scope, table.live, column, wanted)
        table.amend(self.column, default=wanted or self.default, default_volatile=facts.volatile)
        return part

    def _first(self, scope: Scope, table: catalog.Table, column: catalog.Column, wanted: str | None) -> ChangePlan:
        """In `expand`, under the name that the column has now."""
        step = transaction_step(
            scope, Phase.EXPAND, f"default.{self.column}", f"rows without a value in {self.column} get {self.default}",
            probe=probes.default(table, column.number, wanted, instead_of_none=True),
            do=[self._set(table, column.name, self.default)],
            undo=[alter(table, f"ALTER COLUMN {ident(column.name)} DROP DEFAULT")],
            locks=on(table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND))

    def _another(self, scope: Scope, table: TableDraft, column: catalog.Column, wanted: str | None) -> ChangePlan:
        """In `contract`, under the column's final name."""
        name = table.settled(self.column)
        if not table.is_replaced(self.column):
            table.depend([self.column], "a default", f"{self.default} that the same migration sets")
        step = transaction_step(
            scope, Phase.CONTRACT, f"default.{self.column}", f"rows without a value in {self.column} get {self.default}",
            probe=probes.default(table.live, name, wanted),
            do=[self._set(table.live, name, self.default)],
            undo=[self._set(table.live, name, column.default or "NULL")],
            locks=on(table.live, LockMode.ACCESS_EXCLUSIVE),
            takes_away=True,
        )  # fmt: skip
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE))

    def _canonical(self, scope: Scope, table: catalog.Table, type_: str) -> str | None:
        """The server's own text of the default; None while it has not been asked."""
        add = f"ALTER TABLE {{table}} ADD COLUMN {ident(_TRIED)} {type_} DEFAULT {self.default}"
        return dict(scope.trial(table, add).defaults).get(_TRIED)

    def _set(self, table: catalog.Table, name: str, default: str) -> str:
        return alter(table, f"ALTER COLUMN {ident(name)} SET DEFAULT {default}")
