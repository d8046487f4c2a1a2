"""A migration and a catalog snapshot in, a plan out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import zdmigrate
from zdmigrate import schema
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Gate, Mode, PhasePlan, Plan, Step, TableEstimate, Window
from zdmigrate.planning.parts import ChangePlan, Scope, Target
from zdmigrate.sqltext import AmbiguousName


class PlannedChange(Protocol):
    """What the planner needs of a change."""

    def targets(self) -> tuple[Target, ...]: ...
    def plan(self, scope: Scope) -> ChangePlan: ...


class Planned(Protocol):
    """What the planner needs of a migration."""

    @property
    def id(self) -> str: ...
    @property
    def changes(self) -> Sequence[PlannedChange]: ...
    @property
    def requires(self) -> tuple[str, ...]: ...
    @property
    def sync(self) -> str: ...
    @property
    def checksum(self) -> str: ...


def plan(migration: Planned, snapshot: schema.Snapshot) -> Plan:
    """The steps, gates, hazards and windows of a migration against one catalog.

    Raises:
        zdmigrate.errors.Unsafe: it does not fit the catalog.
    """
    parts: list[ChangePlan] = []
    for position, change in enumerate(migration.changes):
        scope = scope_of(migration, snapshot, position)
        try:
            parts.append(change.plan(scope))
        except AmbiguousName as error:
            raise UsageError(f"{migration.id}: {error}") from error
    _refuse_entangled(migration, parts)
    window = combine(part.window for part in parts)
    steps = [step for part in parts for step in part.steps]
    own_gates = [*(gate for part in parts for gate in part.gates), *_publication_gates(steps, snapshot)]
    phases = tuple(
        PhasePlan(phase=phase, steps=tuple(s for s in steps if s.phase is phase), gates=tuple(gates))
        for phase in PHASES[1:]
        if (gates := _gates(migration, phase, steps, own_gates, window)) or any(s.phase is phase for s in steps)
    )
    targets = [target for change in migration.changes for target in change.targets()]
    tables = {(t.schema, t.table): snapshot.table(t.schema, t.table) for t in targets}
    return Plan(
        migration=migration.id,
        checksum=migration.checksum,
        server_version=snapshot.server_version,
        window=window,
        phases=phases,
        touches=(*(str(target) for target in targets), *(name for part in parts for name in part.objects)),
        reads=tuple(name for part in parts for name in part.reads),
        hazards=tuple(h for part in parts for h in part.hazards) + _warm_connections(steps),
        estimates=tuple(
            TableEstimate(table=f"{t.schema}.{t.name}", rows=t.rows, bytes=t.bytes) for t in tables.values() if t
        ),
        undoable_until=next((s.phase.previous for s in steps if s.irreversible), Phase.CONTRACT),
        tool_version=zdmigrate.__version__,
    )


def _refuse_entangled(migration: Planned, parts: Sequence[ChangePlan]) -> None:
    """Changes of one migration that would pull the ground from under each other.

    Raises:
        Unsafe: names what they share.
    """
    targets = {str(target) for change in migration.changes for target in change.targets()}
    read = sorted({name for part in parts for name in part.reads} & targets)
    claimed = Counter(name for part in parts for name in part.objects)
    shared = sorted(name for name, count in claimed.items() if count > 1)
    if read or shared:
        raise Unsafe(
            f"several of its changes need {', '.join(read + shared)}",
            hint="put them into migrations of their own, one after the other",
        )


def scope_of(migration: Planned, snapshot: schema.Snapshot, position: int) -> Scope:
    """What the change at `position` may look at."""
    return Scope(snapshot=snapshot, migration=migration.id, position=position, sync=migration.sync)


def combine(windows: Iterable[Window]) -> Window:
    """The window of several changes: N works while all its parts do, N+1 from when all of them do."""
    found = list(windows)
    return Window(
        old_until=min((w.old_until for w in found), key=lambda p: p.position, default=Phase.CONTRACT),
        new_from=max((w.new_from for w in found), key=lambda p: p.position, default=Phase.NONE),
    )


def _gates(migration: Planned, phase: Phase, steps: list[Step], own: list[Gate], window: Window) -> list[Gate]:
    """The gates of a phase: those of its changes, and those that follow from what its steps do."""
    found = [gate for gate in own if gate.phase is phase]
    here = [step for step in steps if step.phase is phase]
    if migration.requires:
        detail = f"{', '.join(migration.requires)} completed {phase}"
        found.append(Gate(name="requires", phase=phase, detail=detail, overridable=False))
    if migration.sync == "app" and phase is Phase.BACKFILL and here:
        detail = 'every live version writes both shapes (sync="app"), and the guard counted no divergence'
        found.append(Gate(name="dual_writers", phase=phase, detail=detail))
    if phase is Phase.SWITCH_READS and any(step.mode is Mode.VERIFY for step in steps):
        found.append(Gate(name="verified", phase=phase, detail="every row is filled", overridable=False))
    if any(step.takes_away for step in here):
        soak = "retire_soak" if phase is Phase.CONTRACT else "soak"
        found.append(
            Gate(name=soak, phase=phase, detail="the phase before was complete for as long as the policy says")
        )
    if _first_beyond(window.old_until, phase, steps):
        found.append(Gate(name="drained", phase=phase, detail="no instance of version N is alive"))
    if here and phase.previous.position < window.new_from.position <= phase.position:
        detail = "no instance of version N+1 is alive"
        found.append(Gate(name="drained", phase=phase, detail=detail, direction=Direction.BACKWARD))
    return found


def _publication_gates(steps: list[Step], snapshot: schema.Snapshot) -> Iterator[Gate]:
    """A subscriber that lacks a column which the publisher has stops (manual, section 29.9.2)."""
    grown = {lock.table for s in steps if s.phase is Phase.EXPAND and "ADD COLUMN" in "".join(s.do) for lock in s.locks}
    for table in snapshot.tables:
        if table.publications and f"{table.schema}.{table.name}" in grown:
            detail = (
                f"{table.schema}.{table.name} is published by {', '.join(table.publications)} without a column list: add the "
                'column on the subscribers first, then --override publication="done"'
            )
            yield Gate(name="publication", phase=Phase.EXPAND, detail=detail, exit_code=6)


def _first_beyond(old_until: Phase, phase: Phase, steps: list[Step]) -> bool:
    beyond = [s.phase for s in steps if s.phase.position > old_until.position]
    return bool(beyond) and phase is min(beyond, key=lambda p: p.position)


def _warm_connections(steps: list[Step]) -> tuple[Hazard, ...]:
    """DESIGN of the warm-connection hazard: what `SELECT *` meets when columns come and go."""
    changing = [s.phase for s in steps if any("COLUMN" in text for text in s.do) and s.phase is not Phase.BACKFILL]
    return tuple(
        Hazard(
            id="C23", phase=phase,
            message="SELECT *, RETURNING *, and COPY or INSERT … SELECT * without a column list, prepared on connections "
            "that were open before, fail with 0A000 when a column comes, goes or is renamed",
            remedy="name the columns, or connect with prepare_threshold=None; SQLAlchemy's ORM names them",
        )
        for phase in dict.fromkeys(changing)
    )  # fmt: skip
