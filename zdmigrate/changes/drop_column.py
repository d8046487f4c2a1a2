"""Drop a column."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import Window
from zdmigrate.planning import loosen
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, refuse_dependents
from zdmigrate.sqltext import ident


@dataclasses.dataclass(frozen=True, init=False)
class DropColumn(Change):
    """Drop a column: ``DropColumn("users", "nickname")``.

    Version N+1 neither reads nor writes it. It is first renamed out of the way (`retire`, undone in milliseconds)
    and dropped in `contract`. Where it is NOT NULL without a default, N+1's inserts need a value: `down` is the SQL
    expression over the row that gives it (a trigger sets it); without `down` the column is made nullable, which must
    be accepted because version N then reads NULLs.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: until the drop. Its indexes and constraints go with it; what belongs
    to other objects (views, foreign keys of other tables) is refused.
    """

    table: str
    column: str
    down: str | None
    schema: str

    def __init__(self, table: str, column: str, *, down: str | None = None, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropColumn: {field}"))
        object.__setattr__(self, "down", declared_sql(down, "DropColumn: down"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropColumn", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        if table.column(self.column) is None:
            return OneShot(there=True)
        return OneShot(alter(table, f"DROP COLUMN {ident(self.column)}"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        self._refuse(table.live, column)
        required = column.not_null and column.default is None and not column.identity and not column.generated
        if self.down is not None:
            scope.expression(table.live, f"({table.initial(self.down)})::{column.type}")
        down = self.down if required else None
        table.drop(self.column, down)
        if not required or down is not None:
            new_from = Phase.NONE if down is None else Phase.DUAL_WRITE
            return ChangePlan(window=Window(old_until=Phase.SWITCH_READS, new_from=new_from))
        return dataclasses.replace(
            loosen.not_null(scope, table.live, column, remedy="give DropColumn a down= expression"),
            window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.EXPAND),
        )

    def _refuse(self, table: catalog.Table, column: catalog.Column) -> None:
        shown = f"{self.schema}.{self.table}.{self.column}"
        if column.name in table.partition_columns:
            raise Unsafe(f"{shown} is part of the partition key", hint="create a table with another key instead")
        if any((i.primary or i.replica_identity) and column.name in i.columns for i in table.indexes):
            raise Unsafe(f"{shown} is part of the primary key or replica identity", hint="change the key first")
        refuse_dependents(table, column.name, doing="dropped")
