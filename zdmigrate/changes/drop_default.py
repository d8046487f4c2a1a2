"""Take a column's default away."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Window
from zdmigrate.planning import probes
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, refuse_given, transaction_step
from zdmigrate.sqltext import ident


@dataclasses.dataclass(frozen=True, init=False)
class DropDefault(Change):
    """Take a column's default away: ``DropDefault("users", "country")``.

    Version N may leave the column out of its INSERTs, so it is done in `contract`, when N is gone. N+1 gives the column
    a value itself, from the start.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: sets it again. Refused: generated and identity columns. A sequence that
    the default drew from stays, owned by the column. Manual: ALTER TABLE, "DROP DEFAULT".
    """

    table: str
    column: str
    schema: str

    def __init__(self, table: str, column: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropDefault: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropDefault", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        drop = alter(table, f"ALTER COLUMN {ident(self.column)} DROP DEFAULT")
        return OneShot(drop, there=column.default is None and not column.identity)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        refuse_given(table.live, column, doing="without a value of its own")
        scope.draft.claim(f"the default of {table.shown}.{self.column}", f"dropped by change {scope.position + 1}")
        if column.default is None:
            raise Unsafe(f"{table.shown}.{self.column} has no default")
        name = f"ALTER COLUMN {ident(table.settled(self.column))}"
        step = transaction_step(
            scope, Phase.CONTRACT, f"default.{self.column}", f"{self.column} has no default any more",
            probe=probes.default(table.live, self.column, None),
            do=[alter(table.live, f"{name} DROP DEFAULT")],
            undo=[alter(table.live, f"{name} SET DEFAULT {column.default}")],
            locks=on(table.live, LockMode.ACCESS_EXCLUSIVE),
            takes_away=True,
        )  # fmt: skip
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE))
