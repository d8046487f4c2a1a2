"""Drop a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, Window
from zdmigrate.planning import dependents, names, probes, usertriggers
from zdmigrate.planning.parts import (
    ChangePlan,
    Scope,
    Target,
    alter,
    on,
    on_referenced,
    transaction_step,
)
from zdmigrate.sqltext import ident

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE


@dataclasses.dataclass(frozen=True, init=False)
class DropTable(Change):
    """Drop a table: ``DropTable("faxes")``.

    Version N+1 does not use it. `retire` renames it out of the way, so that whoever still needs it fails while the way
    back takes milliseconds; `contract` drops it, with its rows, indexes, partitions and the sequences that it owns.

    Locks: ACCESS EXCLUSIVE, catalog only; each of its foreign keys is dropped in a transaction of its own, because that
    locks the referenced table too. Undo: until the drop. What belongs to others (views, foreign keys of other tables,
    functions and columns of its row type) is refused: nothing is dropped by CASCADE. Manual: DROP TABLE.
    """

    table: str
    schema: str

    def __init__(self, table: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropTable: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropTable", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        if scope.any_table(self.schema, self.table) is None:
            return OneShot(there=True)
        table = scope.live_table(self.schema, self.table)
        return OneShot(f"DROP TABLE {ident(table.schema, table.name)}", there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        draft = scope.whole_table(self.schema, self.table, "dropped")
        table = draft.live
        allowed = tuple(_also_dropped(scope, table))
        self._refuse(scope, table, allowed)
        scope.draft.remove(draft, self.table, "dropped")
        retired = dataclasses.replace(table, name=_retired(scope, self.schema, self.table))
        before = dependents.in_the_way(self.schema, self.table, besides=allowed)
        retired_too = tuple((home, _retired(scope, home, name), key) for home, name, key in allowed)
        after = dependents.in_the_way(self.schema, retired.name, besides=(*allowed, *retired_too))
        first, *others = [*self._foreign_keys(scope, table, retired), self._drop(scope, retired)]
        return ChangePlan(
            window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.NONE),
            steps=(
                dataclasses.replace(self._retire(scope, table, retired), refused_by=before),
                dataclasses.replace(first, refused_by=after),
                *others,
            ),
            gates=tuple(self._gates(table)),
        )

    def _refuse(self, scope: Scope, table: catalog.Table, allowed: tuple[tuple[str, str, str], ...]) -> None:
        found = [r.identity for r in table.reliant if r.constraint not in allowed]
        if found:
            raise Unsafe(
                f"{self.schema}.{self.table} cannot be dropped: {', '.join(found)} depend on it",
                hint="drop or change those in a migration before this one; nothing is dropped by CASCADE",
            )
        if not table.may_create:
            raise Unsafe(
                f"{scope.snapshot.role} may not rename relations in schema {self.schema}, which retiring "
                f"{self.schema}.{self.table} needs",
                hint=f"GRANT CREATE ON SCHEMA {ident(self.schema)} TO {ident(table.owner)}",
            )

    def _retire(self, scope: Scope, table: catalog.Table, retired: catalog.Table) -> Step:
        here, away = (probes.is_table(self.schema, t.name) for t in (table, retired))
        lost = f"neither {self.schema}.{table.name} nor {self.schema}.{retired.name} is a table"
        return transaction_step(
            scope, Phase.RETIRE, f"retire.{self.table}", f"rename {self.table} out of the way",
            probe=probes.either(away, here, lost),
            do=[alter(table, f"RENAME TO {ident(retired.name)}")],
            undo=[alter(retired, f"RENAME TO {ident(table.name)}")],
            locks=on(table, ACCESS_EXCLUSIVE), undo_locks=on(retired, ACCESS_EXCLUSIVE), takes_away=True,
        )  # fmt: skip

    def _foreign_keys(self, scope: Scope, table: catalog.Table, retired: catalog.Table) -> Iterator[Step]:
        for key in table.constraints:
            if key.kind == "f" and key.references != (table.schema, table.name):
                yield transaction_step(
                    scope, Phase.CONTRACT, f"drop.{key.name}", f"drop the foreign key {key.name} of {self.table}",
                    probe=probes.constraint_gone(retired, key.name, "f"),
                    do=[alter(retired, f"DROP CONSTRAINT {ident(key.name)}")],
                    locks=(*on(retired, ACCESS_EXCLUSIVE), *on_referenced(key, ACCESS_EXCLUSIVE)),
                    takes_away=True, irreversible=True,
                )  # fmt: skip

    def _drop(self, scope: Scope, retired: catalog.Table) -> Step:
        return transaction_step(
            scope, Phase.CONTRACT, f"drop.{self.table}", f"drop what was {self.table}",
            probe=probes.either(
                probes.is_free(self.schema, retired.name), probes.is_table(self.schema, retired.name),
                f"{self.schema}.{retired.name} is not a table any more",
            ),
            do=[f"DROP TABLE {ident(self.schema, retired.name)}"],
            locks=on(retired, ACCESS_EXCLUSIVE), takes_away=True, irreversible=True,
        )  # fmt: skip

    def _gates(self, table: catalog.Table) -> Iterator[Gate]:
        yield from usertriggers.naming(table, Phase.RETIRE, "let it do without")
        listed = [d.identity for d in table.dependents if d.kind.startswith("publication")]
        published = sorted({*table.publications, *listed})
        if published:
            detail = (
                f"{self.schema}.{self.table} is published ({', '.join(published)}): its rows stay on the subscribers, "
                f'which must not need it any more; then --override publication="done"'
            )
            yield Gate(name="publication", phase=Phase.RETIRE, detail=detail, exit_code=6)


def _retired(scope: Scope, schema_name: str, name: str) -> str:
    """What a table is called between `retire` and `contract`, whichever change drops it."""
    return names.generated("old", name, scope.migration, schema_name, name)


def _also_dropped(scope: Scope, table: catalog.Table) -> Iterator[tuple[str, str, str]]:
    """The foreign keys that changes before this one drop, by themselves or with their tables: they go first."""
    for reliant in table.reliant:
        if reliant.constraint is not None:
            schema_name, name, key = reliant.constraint
            other = scope.draft.find(schema_name, name)
            if scope.draft.gone(schema_name, name) == "dropped" or (other is not None and other.drops_constraint(key)):
                yield reliant.constraint
