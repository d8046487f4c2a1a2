"""Build indexes anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Mode, Step, TableLock, Window
from zdmigrate.planning import indexes, probes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, item_name, transaction_step
from zdmigrate.sqltext import ident

_NEEDED = "needed by a Reindex"


@dataclasses.dataclass(frozen=True, init=False)
class Reindex(Change):
    """Build an index anew, or all of a table's: ``Reindex("users_email_idx", table="users")``, ``Reindex(table="users")``.

    For bloat, corruption, and collations of a new version. CONCURRENTLY in `backfill`, one index after the other, each
    partition's by itself. What an interrupted one leaves behind (``…_ccnew``, ``…_ccold``) is dropped.

    Locks: SHARE UPDATE EXCLUSIVE. Undo: there is nothing to undo. Refused: indexes of exclusion constraints, which
    cannot be built concurrently; without a name they are left out, like invalid ones and the TOAST table's. Manual:
    REINDEX, Rebuilding Indexes Concurrently.
    """

    name: str | None
    table: str
    schema: str

    def __init__(self, name: str | None = None, *, table: str, schema: str = "public") -> None:
        object.__setattr__(self, "name", None if name is None else require_name(name, "Reindex: name"))
        for field, value in (("table", table), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"Reindex: {field}"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.name or "reindex"),)

    def describe(self) -> dict[str, Any]:
        return {"change": "Reindex", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        self._chosen(scope.live_table(self.schema, self.table))
        return OneShot(there=None)

    def plan(self, scope: Scope) -> ChangePlan:
        draft = scope.table(self.schema, self.table)
        table = draft.live
        for index in self._chosen(table):
            scope.draft.claim(indexes.name_claim(self.schema, index.name), _NEEDED)
        chosen = tuple(index for index in self._chosen(table) if not self._goes(scope, draft, index))
        return ChangePlan(
            window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE),
            steps=tuple(step for index in chosen for step in self._steps(scope, table, index)),
            objects=tuple(item_name(self.schema, self.table, index.name) for index in chosen),
        )

    def _chosen(self, table: catalog.Table) -> tuple[catalog.Index, ...]:
        excluding = {k.name for k in table.constraints if k.kind == "x"}
        if self.name is None:
            return tuple(i for i in table.indexes if i.valid and i.constraint not in excluding)
        index = table.index(self.name)
        if index is None:
            known = ", ".join(i.name for i in table.indexes) or "none"
            raise Unsafe(f"{self.schema}.{self.table} has no index {self.name!r}", hint=f"its indexes are: {known}")
        if index.constraint in excluding:
            raise Unsafe(
                f"{self.name} belongs to an exclusion constraint, and cannot be built anew while others write",
                hint=f"REINDEX INDEX {ident(self.schema, self.name)} while nobody uses the table",
            )
        return (index,)

    def _goes(self, scope: Scope, table: TableDraft, index: catalog.Index) -> bool:
        """Whether the migration drops or replaces it anyway.

        Raises:
            Unsafe: it is this index that is to be built anew.
        """
        claimed = scope.draft.claimed(indexes.claim(self.schema, index.name))
        dropped = index.constraint is not None and table.drops_constraint(index.constraint)
        if self.name is not None and dropped:
            raise Unsafe(
                f"{self.name} is dropped by the same migration, with its constraint", hint="keep one of the two"
            )
        if self.name is not None and claimed is not None:
            raise Unsafe(
                f"index {self.schema}.{self.name} is already {claimed}, in the same migration",
                hint="keep one of the two",
            )
        return dropped or claimed is not None

    def _steps(self, scope: Scope, table: catalog.Table, index: catalog.Index) -> Iterator[Step]:
        names = indexes.of(table, index).names(table)
        leaves = [(p.schema, p.name) for p in table.partitions if not p.partitioned]
        for at in leaves if table.partitioned else [(table.schema, table.name)]:
            if at in names:
                yield from _rebuilt(scope, at, (at[0], names[at]), index.oids)


def _rebuilt(scope: Scope, table: indexes.Relation, index: indexes.Relation, oids: tuple[int, ...]) -> Iterator[Step]:
    shown = ".".join(table)
    clear = _clear(table, index)
    yield Step(
        id=scope.step_id(Phase.BACKFILL, f"reindex.{'.'.join(index)}"),
        title=f"build {index[1]} on {shown} anew while everybody goes on writing",
        phase=Phase.BACKFILL,
        mode=Mode.AUTOCOMMIT,
        probe=probes.index_rebuilt(table, index, oids),
        do=(f"REINDEX INDEX CONCURRENTLY {ident(*index)}",),
        repair=(clear,),
        locks=(TableLock(schema=table[0], name=table[1], mode=LockMode.SHARE_UPDATE_EXCLUSIVE),),
        scans=True,
    )
    yield transaction_step(
        scope, Phase.BACKFILL, f"remains.{'.'.join(index)}",
        f"drop what an interrupted build of {index[1]} left behind, if one was",
        probe=probes.index_remains(table, index), do=[clear],
        locks=(TableLock(schema=table[0], name=table[1], mode=LockMode.ACCESS_EXCLUSIVE),),
    )  # fmt: skip


def _clear(table: indexes.Relation, index: indexes.Relation) -> str:
    """Who holds the lock knows that nobody is building; what was found before may be somebody's work."""
    return (
        "DO $zd$\nDECLARE\n  left_over record;\nBEGIN\n"
        f"  LOCK TABLE {ident(*table)} IN ACCESS EXCLUSIVE MODE;\n"
        f"  FOR left_over IN {probes.rebuild_remains(table, index)} LOOP\n"
        "    EXECUTE format('DROP INDEX %I.%I', left_over.nspname, left_over.relname);\n"
        "  END LOOP;\nEND\n$zd$"
    )
