"""Rename a constraint."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Window
from zdmigrate.planning import indexes, probes
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, init=False)
class RenameConstraint(Change):
    """Rename a constraint, and its index with it: ``RenameConstraint("orders", "orders_code_key", "one_code_per_order")``.

    An application knows the name where it says ``ON CONFLICT ON CONSTRAINT`` or looks at it in an error. So version N must
    be gone (`retire`), and version N+1 should use neither name: ``ON CONFLICT (columns)`` works all the time.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: renames it back. Refused: inherited constraints, names that are taken.
    Manual: ALTER TABLE, "RENAME".
    """

    table: str
    old: str
    new: str
    schema: str

    def __init__(self, table: str, old: str, new: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("old", old), ("new", new), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"RenameConstraint: {field}"))
        if old == new:
            raise UsageError(f"RenameConstraint: the constraint {old!r} has that name already")

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(self.schema, self.table, item=name) for name in (self.old, self.new))

    def describe(self) -> dict[str, Any]:
        return {"change": "RenameConstraint", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        there = {k.name for k in table.constraints} & {self.old, self.new}
        if len(there) != 1:
            has = "both constraints" if there else "neither of the constraints"
            raise Drift(f"{self.schema}.{self.table} has {has} {self.old} and {self.new}")
        if there == {self.new}:
            return OneShot(there=True)
        return OneShot(alter(table, f"RENAME CONSTRAINT {ident(self.old)} TO {ident(self.new)}"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        constraint, live = table.constraint(self.old), table.live
        if constraint.inherited:
            raise Unsafe(f"the constraint {self.old} of {table.shown} is inherited", hint="rename the parent's")
        if self.new in table.names_taken:
            raise Unsafe(f"{table.shown} already has a constraint or index {self.new!r}", hint="choose another name")
        if constraint.kind == "n" and any(table.moved(name) for name in constraint.columns):
            raise Unsafe(
                f"{self.old} is the NOT NULL of {constraint.columns[0]}, which the same migration changes",
                hint="rename it in a migration of its own",
            )
        indexed = any(i.constraint == self.old for i in live.indexes)
        if indexed and scope.taken([(self.schema, self.new)]):
            raise Unsafe(f"the name {self.schema}.{self.new} is taken", hint="choose another name")
        step = transaction_step(
            scope, Phase.RETIRE, f"rename.{self.old}", f"rename the constraint {self.old} to {self.new}",
            probe=probes.constraint_renamed(live, self.old, self.new),
            do=[alter(live, f"RENAME CONSTRAINT {ident(self.old)} TO {ident(self.new)}")],
            undo=[alter(live, f"RENAME CONSTRAINT {ident(self.new)} TO {ident(self.old)}")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE), takes_away=True,
        )  # fmt: skip
        if indexed:
            for name in (self.old, self.new):
                scope.draft.claim(indexes.name_claim(self.schema, name), f"changed by change {scope.position + 1}")
            taken = literal(f"the name {self.new} is taken in schema {self.schema}")
            found = f"SELECT {taken} WHERE to_regclass({literal(ident(self.schema, self.new))}) IS NOT NULL"
            step = dataclasses.replace(step, refused_by=found)
        table.rename_constraint(self.old, self.new)
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.NONE))
