"""One migration through its phases, forwards and backwards, while its lease is held.

A phase that is under way is always written as "the one before is complete, this one is running", in both directions:
whoever comes after a crash can go on either way, because every step is probed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import psycopg

from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.control.store import Moment, Record, Store
from zdmigrate.engine import acknowledging, gates, switching
from zdmigrate.engine.executor import Executor
from zdmigrate.engine.reporting import Event, EventKind
from zdmigrate.engine.switching import Ramp
from zdmigrate.errors import Drift, Irreversible, Progressed, Unsafe, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Mode, Plan, Step, queries_in
from zdmigrate.planning import sync
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Cursor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What both directions need."""

    plan: Plan
    requires: tuple[str, ...]
    executor: Executor
    facts: gates.Facts
    out_of_time: Callable[[], bool]
    ramp: Ramp | None = None

    @property
    def _store(self) -> Store:
        return self.facts.store

    def _record(self) -> Record:
        record = self._store.record(self.facts.connection, self.plan.migration)
        assert record is not None
        return record

    def advance(self, target: Phase) -> None:
        """Complete every phase up to `target`.

        Raises:
            Waiting, Unsafe: a gate or a hold; Progressed: out of time; and what steps raise.
        """
        for phase in self._record().phase.until(target):
            record = self._record()
            self._refuse_hold(record)
            self._pass_gates(phase, Direction.FORWARD, record)
            self._refuse_unsynced(record)
            self._refuse_impossible(phase)
            if phase is Phase.SWITCH_READS and self.ramp is not None:
                switching.climb(self.facts.connection, self._store, record, self.ramp)
            self._forward(record, phase)

    def check_revert(self, target: Phase, *, allow_lossy: bool) -> None:
        """Ask everything that could refuse a revert, before anything is done.

        Raises:
            Irreversible: something was dropped.
            Unsafe: a value would be lost; it names rows.
            Waiting: a version that is alive would break.
        """
        record = self._record()
        phases = _phases_back(record, target)
        if record.phase.position > self.plan.undoable_until.position and phases:
            raise Irreversible(
                f"{self.plan.migration} has dropped the old shape; it cannot be reverted",
                hint="write a new migration the other way round",
            )
        self._refuse_dropped(phases)
        self._refuse_lost_functions(phases)
        for phase in phases:
            self._pass_gates(phase, Direction.BACKWARD, record)
        self._refuse_losses(phases, allow_lossy=allow_lossy)

    def revert(self, target: Phase, *, allow_lossy: bool) -> None:
        """Undo every phase after `target`, the last one first. Ask `check_revert` before.

        Raises:
            Irreversible: a phase that was under way had dropped something.
            Unsafe: a value was written meanwhile that would be lost; the phase is undone, and it is still there.
        """
        for phase in _phases_back(self._record(), target):
            self._backward(self._record(), phase, allow_lossy=allow_lossy)

    def _forward(self, record: Record, phase: Phase) -> None:
        part = self.plan.phase(phase)
        since: Moment | None = None
        if part.steps:
            self._announce(phase, f"{phase} …")
            with self.executor.held.fenced() as cursor:
                self._store.start_phase(cursor, record.key, state=record.phase, running=phase)
                if phase is Phase.BACKFILL:
                    self._store.set_verified(cursor, record.key, verified=False)
                self._log(cursor, phase, "start", "started")
            self._await_applications(phase, Direction.FORWARD)
            for step in part.steps:
                self._refuse_hold(self._record())
                if self.out_of_time():
                    raise Progressed(f"out of time before {step.title}", hint="run the command again")
                if step.mode is Mode.VERIFY and since is None:
                    since = self._store.moment(self.facts.connection)
                self._do(phase, step)
        if phase is Phase.BACKFILL:
            self._refuse_unsynced(record)  # from here on N+1 may be deployed
        with self.executor.held.fenced() as cursor:
            self._store.complete_phase(cursor, record.key, before=record.phase, after=phase)
            if phase is Phase.BACKFILL:
                self._store.set_verified(cursor, record.key, verified=True, since=since)
            self._log(cursor, phase, "complete", "done")
        self._announce(phase, f"{phase} is complete")

    def _do(self, phase: Phase, step: Step) -> None:
        if "dual_writers" in self.facts.overrides:
            step = dataclasses.replace(step, asked_within=None)
        try:
            self.executor.do(step)
        except Unsafe as error:
            if isinstance(error.__cause__, psycopg.IntegrityError):
                self._refuse_impossible(phase, where="cannot go on")  # rows that were written meanwhile
            raise

    def _backward(self, record: Record, phase: Phase, *, allow_lossy: bool) -> None:
        self._announce(phase, f"undoing {phase} …")
        with self.executor.held.fenced() as cursor:
            # From here on the phase counts as not complete, whatever happens.
            if record.phase is phase:
                self._store.complete_phase(cursor, record.key, before=phase, after=phase.previous)
            self._store.start_phase(cursor, record.key, state=phase.previous, running=phase)
            if phase in (Phase.BACKFILL, Phase.DUAL_WRITE):
                self._store.set_verified(cursor, record.key, verified=False)
                self._store.forget_backfill(cursor, record.key)
                self._store.forget_steering(cursor, record.key)
            if phase is Phase.BACKFILL:
                self._store.close_switch(cursor, record.id)  # nobody may read what will not be full
            self._log(cursor, phase, "revert", "started")
        self._await_applications(phase, Direction.BACKWARD)
        for step in reversed(self.plan.phase(phase).steps):
            self.executor.undo(step)
        if not allow_lossy:
            again = [query for step in self.plan.phase(phase).steps for query in step.undo_asked_after]
            self._refuse_lost(self._rows_named(again))
        with self.executor.held.fenced() as cursor:
            self._store.start_phase(cursor, record.key, state=phase.previous, running=None)
            self._log(cursor, phase, "revert", "done")
        self._announce(phase, f"{phase} is undone")

    def _await_applications(self, phase: Phase, direction: Direction) -> None:
        """Before something is taken away, or built on what applications do."""
        found = {gate.name for gate in gates.of(self.plan, phase, direction)}
        if "drained" in found or ("dual_writers" in found and phase is Phase.BACKFILL):
            acknowledging.wait(
                self.facts.connection, self._store, self._record(), say=lambda said: self._announce(phase, said),
                out_of_time=self.out_of_time,
            )  # fmt: skip
            # Who came, or fell silent, meanwhile.
            again = [gate for gate in gates.of(self.plan, phase, direction) if gate.name in ("drained", "dual_writers")]
            error = gates.refusal(gates.check(again, self._record(), self.requires, self.facts), phase)
            if error is not None:
                raise error

    def _pass_gates(self, phase: Phase, direction: Direction, record: Record) -> None:
        found = gates.of(self.plan, phase, direction)
        if direction is Direction.FORWARD:  # going back must wait for neither
            found += gates.of_quarantine(record, phase, self.facts) + gates.of_evidence(self.plan, phase, self.facts)
        checked = gates.check(found, record, self.requires, self.facts)
        error = gates.refusal(checked, phase)
        if error is not None:
            raise error
        used = [state for gate, state in checked if gate.overridable and gate.name in self.facts.overrides]
        if used:
            with self.executor.held.fenced() as cursor:
                for state in used:
                    self._log(
                        cursor, phase, "override", "accepted", f"{state.name}: {self.facts.overrides[state.name]}"
                    )

    def _refuse_dropped(self, phases: Sequence[Phase]) -> None:
        """A `contract` that was interrupted may have dropped something already."""
        for phase in phases:
            for step in self.plan.phase(phase).steps:
                if step.irreversible:
                    self.executor.refuse_done(step)

    def _refuse_lost_functions(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            for step in self.plan.phase(phase).steps:
                if step.undo_mode is Mode.PYTHON and self.executor.probe(step) == "done":
                    for reference in step.undo:
                        self.executor.held.function(reference)

    def _refuse_losses(self, phases: Sequence[Phase], *, allow_lossy: bool) -> None:
        done = [s for p in phases for s in self.plan.phase(p).steps if s.undo_loses or s.undo_blocked]
        done = [step for step in done if not step.is_probed or self.executor.probe(step) == "done"]
        named = self._names_of(phases)
        blocked = self._rows_named([q for step in done for q in queries_in(step.undo_blocked, named)])
        if blocked:
            raise Unsafe(
                f"the old shape cannot hold what version N+1 wrote: {'; '.join(blocked)}",
                hint="give these rows a value that it can hold, then run the command again",
            )
        lost = [] if allow_lossy else self._rows_named([q for step in done for q in queries_in(step.undo_loses, named)])
        self._refuse_lost(lost)

    def _refuse_lost(self, lost: Sequence[str]) -> None:
        if lost:
            raise Unsafe(
                f"reverting would lose what version N+1 wrote: {'; '.join(lost)}",
                hint="move those values first, or give them up: --allow-lossy",
            )

    def _names_of(self, phases: Sequence[Phase]) -> Phase:
        """The last of the phases whose change of names has happened."""
        renaming = [
            s for p in phases for s in self.plan.phase(p).steps if s.renames and self.executor.probe(s) == "done"
        ]
        return max((step.phase for step in renaming), key=lambda phase: phase.position, default=Phase.NONE)

    def _rows_named(self, queries: Sequence[str | None]) -> list[str]:
        """The answers of the queries, each once. They may read a whole table."""
        found: list[str] = []
        with session.settings(self.facts.connection, statement_timeout="0", search_path=sync.SEARCH_PATH):
            for query in dict.fromkeys(queries):
                if query:
                    try:
                        found += [str(row[0]) for row in self.facts.connection.execute(query.encode()).fetchall()]
                    except psycopg.DataError as error:  # a cast that raises where another one would round
                        found.append(f"a value does not fit: {error.diag.message_primary}")
        return list(dict.fromkeys(found))

    def _refuse_impossible(self, phase: Phase, *, where: str = "cannot begin") -> None:
        """Rows that a step of the phase could not live with; better said before it begins.

        Raises:
            Unsafe: names some of them.
        """
        steps = [step for step in self.plan.phase(phase).steps if step.refused_by]
        found = self._rows_named([step.refused_by for step in steps if self.executor.probe(step) != "done"])
        if found:
            raise Unsafe(
                f"{phase} {where}: {'; '.join(found)}",
                hint="change that, then run the command again",
            )

    def _refuse_unsynced(self, record: Record) -> None:
        """What keeps the shapes equal must be in place before anything is built on it."""
        if record.phase.position >= Phase.DUAL_WRITE.position and record.running is not Phase.CONTRACT:
            # `contract` itself removes it, and may have been interrupted after that.
            for step in self.plan.phase(Phase.DUAL_WRITE).steps:
                if step.is_probed and self.executor.probe(step) != "done":
                    raise Drift(
                        f"{record.id}: {step.title}: the triggers are gone",
                        hint=f"rows may have diverged: zdmigrate revert {record.id} --to expand, then advance again",
                    )

    def _refuse_hold(self, record: Record) -> None:
        if record.hold_reason is not None:
            raise Waiting(
                f"on hold since {record.hold_since:%Y-%m-%d %H:%M} UTC by {record.hold_by}: {record.hold_reason}",
                hint=f"zdmigrate unhold {record.id}",
            )

    def _log(self, cursor: Cursor, phase: Phase, action: str, outcome: str, detail: str | None = None) -> None:
        event = AuditEvent(migration=self.plan.migration, action=action, outcome=outcome, phase=phase, detail=detail)
        self._store.log(cursor, event)

    def _announce(self, phase: Phase, message: str) -> None:
        self.executor.held.report(
            Event(kind=EventKind.PHASE, migration=self.plan.migration, message=message, phase=phase)
        )


def _phases_back(record: Record, target: Phase) -> tuple[Phase, ...]:
    state = record.phase if record.running is None else record.running
    return state.back_to(target)
