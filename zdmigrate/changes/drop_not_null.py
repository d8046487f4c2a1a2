"""Let a column be NULL."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.planning import loosen
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter
from zdmigrate.sqltext import ident


@dataclasses.dataclass(frozen=True, init=False)
class DropNotNull(Change):
    """Let a column be NULL: ``DropNotNull("users", "phone")``.

    It is done in `expand`. Version N then reads the NULLs that N+1 writes, which must be accepted (gate
    ``old_reads_null``).

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: NOT NULL is proven without a scan under ACCESS EXCLUSIVE; rows that are
    NULL by then are named, and nothing is undone before they have a value. Refused: columns of the primary key or the
    replica identity, and identity columns. Manual: ALTER TABLE, "DROP NOT NULL".
    """

    table: str
    column: str
    schema: str

    def __init__(self, table: str, column: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropNotNull: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropNotNull", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        if not scope.live_column(table, self.column).not_null:
            return OneShot(there=True)
        return OneShot(alter(table, f"ALTER COLUMN {ident(self.column)} DROP NOT NULL"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        shown = f"{table.shown}.{self.column}"
        if not column.not_null and table.column(self.column).not_null:
            raise Unsafe(f"{shown} is made NOT NULL by the same migration", hint="keep one of the two")
        if not column.not_null:
            raise Unsafe(f"{shown} may be NULL already")
        self._refuse(table.live, column)
        part = loosen.not_null(scope, table.live, column, remedy="let version N cope with NULL in a release before")
        table.amend(self.column, not_null=False)
        table.require(self.column, not_null=False)
        return part

    def _refuse(self, table: catalog.Table, column: catalog.Column) -> None:
        shown = f"{self.schema}.{self.table}.{self.column}"
        if column.identity:
            raise Unsafe(f"{shown} is an identity column, which is never NULL", hint="give N+1 another column")
        if any((i.primary or i.replica_identity) and column.name in i.columns for i in table.indexes):
            raise Unsafe(f"{shown} is part of the primary key or replica identity", hint="change the key first")
