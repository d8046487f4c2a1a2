"""Rename a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, TableLock, Window
from zdmigrate.planning import dependents, probes, usertriggers
from zdmigrate.planning.parts import ChangePlan, Scope, Target, on, transaction_step
from zdmigrate.planning.stand_in import StandIn
from zdmigrate.sqltext import ident

Writes = Literal["upsert", "copy"]


@dataclasses.dataclass(frozen=True, init=False)
class RenameTable(Change):
    """Rename a table: ``RenameTable("users", "people")``.

    Both names can be used until `contract`. One of them is the table's, with all that it can do, and the other one a
    view's: until `switch_reads` version N has the table and version N+1 the view, and then the other way round. In
    `switch_reads` the two swap their names in one transaction. The table keeps its indexes, keys, triggers,
    policies, sequences and everything that depends on it; their names stay as they are.

    Through the view, what PostgreSQL's automatically updatable views cannot do fails: the plan lists it, and the gate
    `view_limits` waits until somebody accepts it. ``writes="copy"`` chooses COPY … FROM through the view instead of
    ON CONFLICT, which exclude each other there.

    Locks: ACCESS EXCLUSIVE on table and view in `switch_reads`, catalog only. Undo: from every phase, `contract`
    included. Refused: any other change of the same migration to the table. Manual: CREATE VIEW, "Updatable Views".
    """

    old: str
    new: str
    schema: str
    writes: Writes

    def __init__(self, old: str, new: str, *, schema: str = "public", writes: Writes = "upsert") -> None:
        for field, value in (("old", old), ("new", new), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"RenameTable: {field}"))
        if old == new:
            raise UsageError(f"RenameTable: the table {old!r} has that name already")
        if writes not in ("upsert", "copy"):
            raise UsageError(f'RenameTable: writes must be "upsert" or "copy", got {writes!r}')
        object.__setattr__(self, "writes", writes)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.old), Target(self.schema, self.new))

    def describe(self) -> dict[str, Any]:
        return {"change": "RenameTable", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        old, new = (scope.any_table(self.schema, name) for name in (self.old, self.new))
        if old is not None and new is not None:
            raise Drift(f"{self.schema} has both {self.old} and {self.new}", hint="drop one of them")
        if new is not None:
            return OneShot(there=True)
        return OneShot(self._rename(scope.live_table(self.schema, self.old).name, self.new), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        draft = scope.whole_table(self.schema, self.old, "renamed")
        table = draft.live
        self._refuse(scope, table)
        scope.draft.remove(draft, self.old, "renamed")
        scope.draft.put(draft, self.new)
        draft.close("is renamed")
        view = StandIn(table=table, scope=scope, copies=self.writes == "copy")
        hazards = tuple(self._limits(view))
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE, new_from=Phase.EXPAND),
            steps=(self._beside(scope, view), self._swap(scope, view), self._alone(scope, view)),
            hazards=hazards,
            gates=(*map(_gate, hazards), *self._gates(table)),
        )

    def _refuse(self, scope: Scope, table: catalog.Table) -> None:
        shown = f"{self.schema}.{self.old}"
        if scope.any_table(self.schema, self.new) is not None or scope.draft.find(self.schema, self.new) is not None:
            raise Unsafe(
                f"{self.schema}.{self.new} is there already",
                hint="choose another name; if it is the table that is meant, record the migration as adopted: "
                "zdmigrate bootstrap",
            )
        if not table.may_create:
            raise Unsafe(
                f"{scope.snapshot.role} may not create relations in schema {self.schema}, which renaming {shown} needs",
                hint=f"GRANT CREATE ON SCHEMA {ident(self.schema)} TO {ident(table.owner)}",
            )
        if table.rules:
            raise Unsafe(
                f"{shown} has the rewrite rules {', '.join(table.rules)}, which do not see what comes through a view",
                hint="replace them by triggers first",
            )

    # The steps. Each probe knows all four states: nothing yet, the view beside the table, names swapped, view gone.

    def _beside(self, scope: Scope, view: StandIn) -> Step:
        """Version N+1 gets its name."""
        return transaction_step(
            scope, Phase.EXPAND, f"view.{self.new}", f"let {self.new} be a view of {self.old}",
            probe=self._probe(view, todo="start", done=("beside", "swapped", "alone")),
            do=view.create(self.new, base=self.old), undo=view.drop(self.new),
            locks=on(view.table, LockMode.ACCESS_SHARE),
            undo_locks=self._locks(self.new),
        )  # fmt: skip

    def _swap(self, scope: Scope, view: StandIn) -> Step:
        """Table and view change their names: nobody ever finds neither."""
        between = scope.name("swap", self.new, self.schema, self.old)
        function = (view.function(self.new),) if view.copies else ()
        back = (view.function(self.old),) if view.copies else ()
        return transaction_step(
            scope, Phase.SWITCH_READS, f"swap.{self.new}", f"the table takes the name {self.new}, the view {self.old}",
            probe=self._probe(view, todo="beside", done=("swapped", "alone")),
            # The view first: whoever uses it has locked it before the table.
            do=[
                self._rename(self.new, between, "VIEW"), self._rename(self.old, self.new),
                self._rename(between, self.old, "VIEW"), *function,
            ],
            undo=[
                self._rename(self.old, between, "VIEW"), self._rename(self.new, self.old),
                self._rename(between, self.new, "VIEW"), *back,
            ],
            locks=self._locks(self.new, self.old), undo_locks=self._locks(self.old, self.new),
        )  # fmt: skip

    def _alone(self, scope: Scope, view: StandIn) -> Step:
        """The old name goes."""
        step = transaction_step(
            scope, Phase.CONTRACT, f"drop.{self.old}", f"drop the view {self.old}",
            probe=self._probe(view, todo="swapped", done=("alone",)),
            do=view.drop(self.old), undo=view.create(self.old, base=self.new),
            locks=self._locks(self.old),
            undo_locks=(TableLock(schema=self.schema, name=self.new, mode=LockMode.ACCESS_SHARE),),
            takes_away=True,
        )  # fmt: skip
        return dataclasses.replace(step, refused_by=dependents.in_the_way(self.schema, self.old))

    def _probe(self, view: StandIn, *, todo: str, done: tuple[str, ...]) -> str:
        """One query for all steps; whatever else took the old name after `contract` is nobody's business here."""
        old, new = (probes.is_table(self.schema, name) for name in (self.old, self.new))
        states = {
            "start": f"{old} AND {probes.is_free(self.schema, self.new)}",
            "beside": f"{old} AND {view.is_at(self.new, self.old)}",
            "swapped": f"{new} AND {view.is_at(self.old, self.new)}",
            "alone": f"{new} AND NOT {view.is_at(self.old, self.new, exact=False)}",
        }
        lost = f"{self.schema}.{self.old} and {self.schema}.{self.new} are not the table and its view any more"
        return probes.either(" OR ".join(f"({states[name]})" for name in done), states[todo], lost)

    def _rename(self, before: str, after: str, kind: str = "TABLE") -> str:
        return f"ALTER {kind} {ident(self.schema, before)} RENAME TO {ident(after)}"

    def _locks(self, *names: str) -> tuple[TableLock, ...]:
        return tuple(TableLock(schema=self.schema, name=name, mode=LockMode.ACCESS_EXCLUSIVE) for name in names)

    def _limits(self, view: StandIn) -> Iterator[Hazard]:
        """What fails through the view: for N+1 first, then for N."""
        for phase, version, name in ((Phase.EXPAND, "N+1", self.new), (Phase.SWITCH_READS, "N", self.old)):
            until = Phase.SWITCH_READS if phase is Phase.EXPAND else Phase.CONTRACT
            yield Hazard(
                id="C04", phase=phase, accept="view_limits",
                message=f"from {phase} to {until}, {self.schema}.{name} is a view, through which version {version} cannot "
                f"use {view.limits()}",
                remedy=f'make sure that version {version} does not, then accept it: --override view_limits="reason"',
            )  # fmt: skip

    def _gates(self, table: catalog.Table) -> Iterator[Gate]:
        remedy = f"let it use {self.new} (both names can be used since switch_reads)"
        yield from usertriggers.naming(table, Phase.CONTRACT, remedy)
        listed = [d.identity for d in table.dependents if d.kind.startswith("publication")]
        published = sorted({*table.publications, *listed})
        if published:
            detail = (
                f"{self.schema}.{self.old} is published ({', '.join(published)}), and subscribers find their table by its "
                f'name: rename it on the subscribers at the same moment, then --override publication="done"'
            )
            yield Gate(name="publication", phase=Phase.SWITCH_READS, detail=detail, exit_code=6)


def _gate(hazard: Hazard) -> Gate:
    return Gate(name="view_limits", phase=hazard.phase, detail=f"{hazard.message}; {hazard.remedy}", exit_code=6)
