"""Drop an index."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.changes.key import final_tail
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import RowQueries, Window
from zdmigrate.planning import indexes
from zdmigrate.planning.parts import ChangePlan, Scope, Target, item_name
from zdmigrate.sqltext import ident

_HINT = "DropConstraint drops the constraint with its index"


@dataclasses.dataclass(frozen=True, init=False)
class DropIndex(Change):
    """Drop an index: ``DropIndex("users_email_idx", table="users")``.

    In `contract`, CONCURRENTLY, when the queries of version N that need it are gone.

    Locks: SHARE UPDATE EXCLUSIVE; a partitioned table, for which there is no concurrent form, ACCESS EXCLUSIVE with all
    its partitions, catalog only. Undo: builds it again, CONCURRENTLY. Refused: indexes of constraints, the replica
    identity, and those that foreign keys rest on. Manual: DROP INDEX.
    """

    name: str
    table: str
    schema: str

    def __init__(self, name: str, *, table: str, schema: str = "public") -> None:
        for field, value in (("name", name), ("table", table), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropIndex: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropIndex", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        if table.index(self.name) is None:
            return OneShot(there=True)
        indexes.existing(table, self.name, hint=_HINT)
        return OneShot(f"DROP INDEX {ident(self.schema, self.name)}", there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        found = indexes.existing(table.live, self.name, hint=_HINT)
        indexes.refuse_needed(table.live, found, doing="dropped")
        needed = scope.draft.needed_by(item_name(self.schema, self.table, self.name))
        if needed:
            raise Unsafe(
                f"the index {self.name} of {table.shown} cannot be dropped: {', '.join(needed)} of the same migration needs it",
                hint="keep one of the two",
            )
        index = indexes.of(table.live, found, later=(final_tail(table, found),))
        for at, name in index.names(table.live).items():
            scope.draft.claim(indexes.claim(at[0], name), f"dropped by change {scope.position + 1}")
        step = index.drop(scope, table.live, Phase.CONTRACT, oids=found.oids, rebuilt=found.valid)
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE),
            steps=(dataclasses.replace(step, undo_blocked=not_unique_any_more(table.live, found)),),
            objects=tuple(item_name(self.schema, self.table, name) for name in index.names(table.live).values()),
            hazards=(no_longer_arbitrates(table.live, found),) if found.unique else (),
        )


def not_unique_any_more(table: catalog.Table, index: catalog.Index) -> RowQueries:
    """Rows that a unique index could not hold if it were built again."""
    if not (index.unique and index.valid):
        return ()
    query = indexes.duplicates(
        table, index.keys, predicate=index.predicate, nulls_distinct=not index.nulls_not_distinct
    )
    return ((Phase.NONE, query),)


def no_longer_arbitrates(table: catalog.Table, index: catalog.Index) -> Hazard:
    """What version N+1 must not count on."""
    keys = ", ".join(index.keys)
    return Hazard(
        id="C17", phase=Phase.CONTRACT,
        message=f"once {index.name} is gone, ON CONFLICT ({keys}) on {table.schema}.{table.name} fails with 42P10, and "
        "nothing refuses duplicates",
        remedy="let version N+1 do without both, or create another unique index before",
    )  # fmt: skip
