"""A migration and a catalog snapshot in, a plan out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import zdmigrate
from zdmigrate import schema
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import UsageError, ZdmigrateError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Gate, Mode, PhasePlan, Plan, Step, TableEstimate, Window
from zdmigrate.planning import reshape, telling
from zdmigrate.planning.draft import Draft, TableDraft, Unanswered
from zdmigrate.planning.parts import ChangePlan, Needs, Scope, TableSteps, Target
from zdmigrate.sqltext import AmbiguousName


class PlannedChange(Protocol):
    """What the planner needs of a change."""

    def targets(self) -> tuple[Target, ...]: ...
    def plan(self, scope: Scope) -> ChangePlan: ...
    def one_shot(self, scope: Scope) -> object: ...


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
    def shadow_reads(self) -> ShadowReads | None: ...
    @property
    def checksum(self) -> str: ...


def plan(migration: Planned, snapshot: schema.Snapshot) -> Plan:
    """The steps, gates, hazards and windows of a migration against one catalog.

    Raises:
        zdmigrate.errors.Unsafe: it does not fit the catalog, or two changes contradict each other; `change` says which.
        Unanswered: the server must be asked something first.
    """
    draft = Draft(snapshot)
    parts = list(_parts(migration, draft))
    tables = [reshape.steps(_scope(migration, draft, table.place), table) for table in draft.tables]
    if draft.questions:
        raise Unanswered(draft.questions)
    window = combine(part.window for part in parts)
    steps = list(_in_order(parts, tables))
    everything: list[Needs] = [*tables, *parts]
    own_gates = [*(gate for part in everything for gate in part.gates), *_publication_gates(steps, snapshot)]
    phases = tuple(
        PhasePlan(phase=phase, steps=tuple(s for s in steps if s.phase is phase), gates=tuple(gates))
        for phase in PHASES[1:]
        if (gates := _gates(migration, phase, steps, own_gates, window)) or any(s.phase is phase for s in steps)
    )
    targets = [str(target) for change in migration.changes for target in change.targets()]
    return Plan(
        migration=migration.id,
        checksum=migration.checksum,
        server_version=snapshot.server_version,
        window=window,
        phases=phases,
        touches=tuple(dict.fromkeys((*targets, *(name for part in everything for name in part.objects)))),
        reads=tuple(dict.fromkeys(name for part in everything for name in part.reads)),
        hazards=(
            *(hazard for table, part in zip(draft.tables, tables, strict=True) for hazard in _about_table(table, part)),
            *(hazard for change, part in zip(migration.changes, parts, strict=True) for hazard in _about(change, part)),
            *_warm_connections(steps),
        ),
        estimates=tuple(
            TableEstimate(table=table.shown, rows=table.live.rows, bytes=table.live.bytes)
            for table in draft.tables
            if not table.fresh
        ),
        comparisons=tuple(table.comparison for table in tables if table.comparison is not None),
        undoable_until=next((s.phase.previous for s in steps if s.irreversible), Phase.CONTRACT),
        shapes=telling.shapes(draft),
        tool_version=zdmigrate.__version__,
    )


def questions(migration: Planned, snapshot: schema.Snapshot) -> tuple[schema.Question, ...]:
    """What the server must be asked before the migration can be planned against the snapshot."""
    try:
        plan(migration, snapshot)
    except Unanswered as unanswered:
        return unanswered.questions
    except ZdmigrateError:
        pass  # it is said when the plan is made
    return ()


def one_shot_questions(migration: Planned, snapshot: schema.Snapshot, position: int) -> tuple[schema.Question, ...]:
    """What the server must be asked before the change at `position` can say its one-shot DDL."""
    scope = scope_of(migration, snapshot, position)
    try:
        migration.changes[position].one_shot(scope)
    except Unanswered as unanswered:
        return unanswered.questions
    except ZdmigrateError:
        pass  # it is said when the DDL is asked for
    return scope.draft.questions


def _parts(migration: Planned, draft: Draft) -> Iterator[ChangePlan]:
    for position, change in enumerate(migration.changes):
        try:
            yield change.plan(_scope(migration, draft, position))
        except AmbiguousName as error:
            refused = UsageError(str(error))
            refused.change = position
            raise refused from error
        except ZdmigrateError as error:
            error.change = position
            raise


def _in_order(parts: Sequence[ChangePlan], tables: Sequence[TableSteps]) -> Iterator[Step]:
    """In each phase what the tables' new shapes need, then the changes' own steps, then what closes the phase.

    Tables that the migration makes come before everything in `expand`.
    """
    for phase in PHASES[1:]:
        groups = (
            [step for part in parts for step in part.steps if step.makes_table],
            [step for table in tables for step in table.first],
            [step for part in parts for step in part.steps if not step.makes_table],
            [step for table in tables for step in table.last],
        )
        yield from (step for group in groups for step in group if step.phase is phase)


def _scope(migration: Planned, draft: Draft, position: int) -> Scope:
    return Scope(snapshot=draft.snapshot, migration=migration.id, position=position, sync=migration.sync, draft=draft)


def scope_of(migration: Planned, snapshot: schema.Snapshot, position: int) -> Scope:
    """What the change at `position` may look at by itself."""
    return _scope(migration, Draft(snapshot), position)


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
    found += _dual_writers(migration, phase, steps, window)
    if phase is Phase.SWITCH_READS and any(step.mode is Mode.VERIFY for step in steps):
        found.append(Gate(name="verified", phase=phase, detail="every row is filled", overridable=False))
    if phase is Phase.SWITCH_READS and migration.shadow_reads is not None:
        demand = migration.shadow_reads
        found.append(Gate(name="shadow_reads", phase=phase, detail=str(demand), demand=demand))
    if any(step.takes_away for step in here):
        soak = "retire_soak" if phase is Phase.CONTRACT else "soak"
        found.append(
            Gate(name=soak, phase=phase, detail="the phase before was complete for as long as the policy says")
        )
    if _first_beyond(window.old_until, phase, steps):
        found.append(Gate(name="drained", phase=phase, detail="no instance of version N is alive"))
    if _first_before(_survived_from(migration, window), phase, here):
        detail = "no instance of version N+1 is alive"
        found.append(Gate(name="drained", phase=phase, detail=detail, direction=Direction.BACKWARD))
    return found


def _dual_writers(migration: Planned, phase: Phase, steps: list[Step], window: Window) -> Iterator[Gate]:
    """With ``sync="app"``: who writes both shapes, and whether anybody was found who did not."""
    here = any(step.phase is phase for step in steps)
    if migration.sync != "app" or not here:
        return
    if phase is Phase.BACKFILL:
        yield Gate(name="dual_writers", phase=phase, detail="every version that is alive writes both shapes")
        if window.new_from is not Phase.BACKFILL:
            return
        back = "every version that is alive and needs the new shape writes both"
        yield Gate(name="dual_writers", phase=phase, detail=back, direction=Direction.BACKWARD)
    elif phase.position > Phase.BACKFILL.position and any(step.mode is Mode.VERIFY for step in steps):
        detail = "nobody has left the two shapes different since every row was verified"
        yield Gate(name="dual_writers", phase=phase, detail=detail)


def _survived_from(migration: Planned, window: Window) -> Phase:
    """The first state in which those live on that need the new shape: who writes both needs it to be there, not full."""
    by_both = migration.sync == "app" and window.new_from is Phase.BACKFILL
    return Phase.DUAL_WRITE if by_both else window.new_from


def _first_before(survived_from: Phase, phase: Phase, here: list[Step]) -> bool:
    """Whether undoing the phase leads to before that state."""
    return bool(here) and phase.previous.position < survived_from.position <= phase.position


def _publication_gates(steps: list[Step], snapshot: schema.Snapshot) -> Iterator[Gate]:
    """A subscriber that lacks a column which the publisher has stops (manual, section 29.9.2)."""
    for phase, does, remedy in (
        (Phase.EXPAND, "ADD COLUMN", "add the column on the subscribers first"),
        (Phase.SWITCH_READS, "RENAME COLUMN", "rename the columns on the subscribers at the same moment"),
        (Phase.RETIRE, "RENAME COLUMN", "rename the columns on the subscribers at the same moment"),
    ):
        found = {lock.table for s in steps if s.phase is phase and does in "".join(s.do) for lock in s.locks}
        for table in snapshot.tables:
            if table.publications and f"{table.schema}.{table.name}" in found:
                detail = (
                    f"{table.schema}.{table.name} is published by {', '.join(table.publications)} without a column list: "
                    f'{remedy}, then --override publication="done"'
                )
                yield Gate(name="publication", phase=phase, detail=detail, exit_code=6)


def _first_beyond(old_until: Phase, phase: Phase, steps: list[Step]) -> bool:
    beyond = [s.phase for s in steps if s.phase.position > old_until.position]
    return bool(beyond) and phase is min(beyond, key=lambda p: p.position)


def _about_table(table: TableDraft, part: TableSteps) -> Iterator[Hazard]:
    yield from (dataclasses.replace(hazard, about=(table.live.name,)) for hazard in part.hazards)


def _about(change: PlannedChange, part: ChangePlan) -> Iterator[Hazard]:
    locked = (lock.name for step in part.steps for lock in step.locks)
    tables = tuple(dict.fromkeys((*(target.table for target in change.targets()), *locked)))
    yield from (dataclasses.replace(hazard, about=tables) for hazard in part.hazards)


_CHANGES_COLUMNS = re.compile(r"^ALTER TABLE .*\b(?:(?:ADD|DROP|RENAME) COLUMN|ALTER COLUMN .* TYPE) ", re.DOTALL)


def _warm_connections(steps: list[Step]) -> tuple[Hazard, ...]:
    """What statements that were prepared before meet when columns come and go."""
    columns = [s for s in steps if any(_CHANGES_COLUMNS.search(text) for text in s.do)]
    changing = [s.phase for s in columns if not s.makes_table]
    return tuple(
        Hazard(
            id="C23", phase=phase,
            message="SELECT *, RETURNING *, and COPY or INSERT … SELECT * without a column list, prepared on connections "
            "that were open before, fail with 0A000 when a column comes, goes or is renamed",
            remedy="name the columns, or connect with prepare_threshold=None; SQLAlchemy's ORM names them",
        )
        for phase in dict.fromkeys(changing)
    )  # fmt: skip
