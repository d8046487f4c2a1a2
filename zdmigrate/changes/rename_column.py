"""Rename a column."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Window
from zdmigrate.planning import rebinding, reshape
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, refuse_type
from zdmigrate.sqltext import ident


@dataclasses.dataclass(frozen=True, init=False)
class RenameColumn(Change):
    """Rename a column: ``RenameColumn("users", "user_email", "email_address")``.

    A shadow column under the new name is built beside the old one, with copies of its indexes, and both are kept equal
    while versions N and N+1 run. When N is gone, the column itself takes the new name, with all that depends on it:
    keys, constraints, views, policies, statistics, privileges. The shadow is dropped at the end. The catalog ends as
    ``ALTER TABLE … RENAME COLUMN`` would have left it. With ``sync="app"`` the new column survives, and takes over what
    `ChangeType` would take over, too: what version N+1 wrote is in it alone.

    Locks: ACCESS EXCLUSIVE, catalog only, a few times; see ``zdmigrate plan``. Undo: from every phase up to
    `retire`, without losing what N+1 wrote. Refused: generated columns and partition keys.
    """

    table: str
    old: str
    new: str
    schema: str

    def __init__(self, table: str, old: str, new: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("old", old), ("new", new), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"RenameColumn: {field}"))
        if old == new:
            raise UsageError(f"RenameColumn: the column {old!r} has that name already")

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.old), Target(self.schema, self.table, self.new))

    def describe(self) -> dict[str, Any]:
        return {"change": "RenameColumn", "schema": self.schema, "table": self.table, "old": self.old, "new": self.new}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        old, new = table.column(self.old), table.column(self.new)
        if old is not None and new is not None:
            raise Drift(f"{self.schema}.{self.table} has both {self.old} and {self.new}", hint="drop one of them")
        if old is None and new is None:
            raise Drift(f"{self.schema}.{self.table} has neither {self.old} nor {self.new}")
        if old is None:
            return OneShot(there=True)
        return OneShot(alter(table, f"RENAME COLUMN {ident(self.old)} TO {ident(self.new)}"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.old)
        self._refuse(table.live, column)
        table.rename(self.old, self.new)
        if scope.sync == "app":
            self._keep_new(scope, table, column)
        accepted = reshape.explicit_null(column, self.new)
        return ChangePlan(
            window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL),
            hazards=() if accepted is None else accepted[:1],
            gates=() if accepted is None else accepted[1:],
        )

    def _keep_new(self, scope: Scope, table: TableDraft, column: catalog.Column) -> None:
        """Let the new column survive. In the old one is not what version N+1 writes: nothing in the database brings it there.

        Raises:
            Unsafe: something cannot be carried to it.
        """
        if table.is_replaced(self.new):
            return
        reshape.refuse_unreplaceable(table, column, doing='renamed with sync="app"')
        rebinding.refuse(scope, table.live, column.name, column.type)
        name = ident(self.new)
        table.replace(self.new, type_=column.type, up=name, down=name, beside=self.new, default=column.default)

    def _refuse(self, table: catalog.Table, column: catalog.Column) -> None:
        shown = f"{self.schema}.{self.table}.{self.old}"
        if column.generated:
            raise Unsafe(
                f"{shown} is a generated column, which is NULL while triggers look at it",
                hint="drop it, and add one of the new name",
            )
        if column.name in table.partition_columns:
            raise Unsafe(
                f"{shown} is part of the partition key, and a row finds its partition before triggers look at it",
                hint="keep the column's name",
            )
        reshape.refuse_unhashable(table, column)
        refuse_type(column.type, column.type_brings)
