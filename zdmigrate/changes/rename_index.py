"""Rename an index."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.changes.key import final_tail
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, TableLock, Window
from zdmigrate.planning import indexes, probes
from zdmigrate.planning.parts import ChangePlan, Scope, Target, transaction_step
from zdmigrate.sqltext import ident

_HINT = "RenameConstraint renames both"


@dataclasses.dataclass(frozen=True, init=False)
class RenameIndex(Change):
    """Rename an index: ``RenameIndex("users_email_idx", "users_login", table="users")``.

    Applications do not name indexes, so it is done in `expand`. The parts of a partitioned index keep their names.

    Locks: SHARE UPDATE EXCLUSIVE on the index, catalog only; the table is not locked. Undo: renames back. Refused:
    indexes of constraints, and a name that is taken. Manual: ALTER INDEX.
    """

    old: str
    new: str
    table: str
    schema: str

    def __init__(self, old: str, new: str, *, table: str, schema: str = "public") -> None:
        for field, value in (("old", old), ("new", new), ("table", table), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"RenameIndex: {field}"))
        if old == new:
            raise UsageError(f"RenameIndex: the index {old!r} has that name already")

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(self.schema, self.table, item=name) for name in (self.old, self.new))

    def describe(self) -> dict[str, Any]:
        return {"change": "RenameIndex", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        old, new = table.index(self.old), table.index(self.new)
        if (old is None) is (new is None):
            how = "neither" if old is None else "both"
            raise Drift(f"{self.schema}.{self.table} has {how} of the indexes {self.old} and {self.new}")
        if old is None:
            return OneShot(there=True)
        indexes.existing(table, self.old, hint=_HINT)
        return OneShot(self._rename(self.old, self.new), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        index = indexes.existing(table.live, self.old, hint=_HINT)
        if scope.taken([(self.schema, self.new)]):
            raise Unsafe(f"the name {self.schema}.{self.new} is taken", hint="choose another name")
        for name in (self.old, self.new):
            renamed = f"renamed by change {scope.position + 1}"
            scope.draft.claim(indexes.claim(self.schema, name), renamed)
            scope.draft.claim(indexes.name_claim(self.schema, name), renamed)
        step = transaction_step(
            scope, Phase.EXPAND, f"rename.{self.old}", f"rename the index {self.old} to {self.new}",
            probe=probes.index_renamed(
                (self.schema, self.table), (self.schema, self.old), (self.schema, self.new),
                (index.tail, final_tail(table, index)), unique=index.unique, oids=index.oids,
            ),
            do=[self._rename(self.old, self.new)], undo=[self._rename(self.new, self.old)],
            locks=(TableLock(schema=self.schema, name=self.old, mode=LockMode.SHARE_UPDATE_EXCLUSIVE),),
            undo_locks=(TableLock(schema=self.schema, name=self.new, mode=LockMode.SHARE_UPDATE_EXCLUSIVE),),
        )  # fmt: skip
        return ChangePlan(window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE), steps=(step,))

    def _rename(self, old: str, new: str) -> str:
        return f"ALTER INDEX {ident(self.schema, old)} RENAME TO {ident(new)}"
