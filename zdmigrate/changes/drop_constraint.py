"""Drop a constraint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Window
from zdmigrate.planning import probes
from zdmigrate.planning.draft import Drop, TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, item_name, on, on_referenced, transaction_step
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, init=False)
class DropConstraint(Change):
    """Drop a constraint by its name: ``DropConstraint("orders", "orders_code_key")``.

    It goes in `contract`, when version N is gone: N may rely on it (``ON CONFLICT``, ON DELETE, values that it need not
    look at). Until then it binds version N+1 too.

    Locks: ACCESS EXCLUSIVE, catalog only; for a foreign key on both tables. Undo: none. Refused: keys that foreign keys or
    views depend on, the replica identity, NOT NULL, and constraints of an inheritance parent. Manual: ALTER TABLE,
    "DROP CONSTRAINT".
    """

    table: str
    name: str
    schema: str

    def __init__(self, table: str, name: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("name", name), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropConstraint: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropConstraint", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        if all(k.name != self.name for k in table.constraints):
            return OneShot(there=True)
        return OneShot(alter(table, f"DROP CONSTRAINT {ident(self.name)}"), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        constraint = table.constraint(self.name)
        self._refuse(scope, table, constraint)
        table.drop_constraint(self.name)
        live = table.live
        step = transaction_step(
            scope, Phase.CONTRACT, f"drop.{self.name}", f"drop the constraint {self.name}",
            probe=probes.constraint_gone(live, self.name, constraint.kind),
            do=[alter(live, f"DROP CONSTRAINT {ident(self.name)}")],
            locks=(*on(live, LockMode.ACCESS_EXCLUSIVE), *_others(live, constraint)),
            takes_away=True, irreversible=True,
        )  # fmt: skip
        return ChangePlan(
            steps=(step,), window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE), hazards=(_announced(constraint),),
            gates=tuple(_identity(live, constraint)),
        )  # fmt: skip

    def _refuse(self, scope: Scope, table: TableDraft, constraint: catalog.Constraint) -> None:
        shown = f"the constraint {self.name} of {table.shown}"
        if constraint.kind == "n":
            raise Unsafe(
                f"{shown} is the NOT NULL of {', '.join(constraint.columns)}",
                hint="use DropNotNull, which can be undone",
            )
        if constraint.inherited:
            raise Unsafe(f"{shown} is inherited", hint="drop it from the parent")
        if any(i.constraint == self.name and i.replica_identity for i in table.live.indexes):
            raise Unsafe(
                f"{shown} is the table's replica identity: UPDATE and DELETE would fail while it is published",
                hint="choose another one first: SetReplicaIdentity",
            )
        gone = [name for name in constraint.columns if isinstance(table.moved(name), Drop)]
        if gone:
            raise Unsafe(
                f"{shown} goes with the column {gone[0]}, which the same migration drops", hint="leave one out"
            )
        dropped = {
            f"the foreign key {k.name} of {each.shown}"
            for each in scope.draft.tables
            for k in each.live.constraints
            if each.drops_constraint(k.name)
        }
        left = [needed for needed in constraint.needed_by if needed not in dropped]
        left += scope.draft.needed_by(item_name(self.schema, self.table, self.name))
        if left:
            raise Unsafe(
                f"{shown} cannot be dropped: {', '.join(left)} depend on it",
                hint="drop those before it; nothing is ever dropped by CASCADE",
            )


def _announced(constraint: catalog.Constraint) -> Hazard:
    def lost(*, id: str, what: str) -> Hazard:  # noqa: A002
        return Hazard(
            id=id, phase=Phase.CONTRACT, message=f"without {constraint.name} ({constraint.definition}) {what}",
            remedy="see to it that version N+1 needs it no longer",
        )  # fmt: skip

    match constraint.kind:
        case "c":
            return lost(id="C14", what="values come in that it forbade")
        case "f":
            return lost(id="C18", what="rows may point nowhere, and nobody does what its ON DELETE and ON UPDATE did")
        case _:
            return lost(
                id="C17", what="ON CONFLICT on its columns fails with 42P10, and duplicates come in; its index goes"
            )


def _others(table: catalog.Table, constraint: catalog.Constraint) -> tuple[Any, ...]:
    """A foreign key locks the table that it points to as well (its triggers there go)."""
    mine = on(table, LockMode.ACCESS_EXCLUSIVE)
    return tuple(lock for lock in on_referenced(constraint, LockMode.ACCESS_EXCLUSIVE) if lock not in mine)


def _identity(table: catalog.Table, constraint: catalog.Constraint) -> Iterator[Gate]:
    """A published table whose rows nothing identifies refuses every UPDATE and DELETE (manual, section 29.1)."""
    if constraint.kind != "p":
        return
    tree = f"SELECT relid FROM pg_partition_tree(to_regclass({literal(ident(table.schema, table.name))}))"
    bare = (
        "SELECT DISTINCT format('%I.%I is published by %I', p.schemaname, p.tablename, p.pubname) "
        "FROM pg_publication_tables p JOIN pg_publication b ON b.pubname = p.pubname AND (b.pubupdate OR b.pubdelete) "
        "JOIN pg_namespace n ON n.nspname = p.schemaname "
        "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename AND c.relreplident = 'd' "
        f"WHERE c.oid IN ({tree} UNION SELECT to_regclass({literal(ident(table.schema, table.name))}))"
    )
    yield Gate(
        name="publication", phase=Phase.CONTRACT, exit_code=6, query=bare,
        detail=f"{table.schema}.{table.name} is published, and without its primary key every UPDATE and DELETE fails: "
        "choose another replica identity first",
    )  # fmt: skip
