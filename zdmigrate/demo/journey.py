"""An example's way through the phases, with each version at work exactly where the plans say that it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from zdmigrate.demo.example import Example
from zdmigrate.demo.workload import Version
from zdmigrate.engine.outcome import Outcome
from zdmigrate.engine.project import Project
from zdmigrate.errors import ZdmigrateError
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan

__all__ = ["Journey", "Workers"]


class Workers(Protocol):
    """Who works meanwhile: `zdmigrate.demo.traffic.Traffic`, or what a test puts in its place."""

    stage: str

    def assign(self, live: Iterable[Version]) -> None:
        """Let these versions work, and no others."""

    def end_next(self) -> None:
        """N+1's shape goes."""


class Journey:
    """Moves all migrations of an example, one phase at a time."""

    def __init__(self, project: Project, example: Example, workers: Workers) -> None:
        self.plans: list[Plan] = project.plan([])
        self.phase = Phase.NONE
        self.windows = [(plan.window.old_until, plan.window.new_from) for plan in self.plans]
        self._project = project
        self._example = example
        self._workers = workers

    @property
    def last_reversible(self) -> Phase:
        """The furthest phase from which all plans can be undone."""
        return min((plan.undoable_until for plan in self.plans), key=lambda phase: phase.position)

    def works(self, version: Version, phase: Phase) -> bool:
        """Whether all plans say that a version works once `phase` is complete."""
        if version is Version.N:
            return all(phase.position <= until.position for until, _ in self.windows)
        return all(phase.position >= begin.position for _, begin in self.windows)

    def has_steps(self, phase: Phase) -> bool:
        """Whether any plan does something in a phase."""
        return any(plan.phase(phase).steps for plan in self.plans)

    def begin(self) -> None:
        """Put to work who works before the first phase."""
        self._workers.stage = str(Phase.NONE)
        self._workers.assign(self._live(Phase.NONE))

    def forward(self, target: Phase, then: Callable[[Phase], None] = lambda _: None) -> None:
        """Advance to `target`; `then` is called when each phase is complete and everybody is at work.

        Raises:
            ZdmigrateError: the engine refused.
        """
        for phase in self.phase.until(target):
            self._between(phase, str(phase))
            self._accept(self._project.advance([], target=phase, overrides=self._example.overrides))
            self._arrive(phase)
            then(phase)

    def back(self, target: Phase, then: Callable[[Phase], None] = lambda _: None) -> None:
        """Revert to `target`, one phase after the other, the last migration first.

        Raises:
            ZdmigrateError: the engine refused.
        """
        for undone in self.phase.back_to(target):
            phase = undone.previous
            self._between(phase, f"back to {phase}")
            if self.works(Version.NEXT, undone) and not self.works(Version.NEXT, phase):
                self._workers.end_next()
            for plan in reversed(self.plans):
                self._accept(
                    self._project.revert(
                        plan.migration, target=phase, overrides=self._example.overrides, allow_lossy=True
                    )
                )
                self._accept(self._project.unhold(plan.migration))
            self._arrive(phase)
            then(phase)

    def _between(self, phase: Phase, stage: str) -> None:
        """While the steps run, only versions may work that work before and after them."""
        self._workers.assign(self._live(self.phase) & self._live(phase))
        self._workers.stage = stage

    def _arrive(self, phase: Phase) -> None:
        self.phase = phase
        self._workers.assign(self._live(phase))

    def _live(self, phase: Phase) -> frozenset[Version]:
        return frozenset(version for version in Version if self.works(version, phase))

    def _accept(self, outcome: Outcome) -> None:
        for status in outcome.migrations:
            if status.exit_code:
                raise ZdmigrateError(
                    f"{self._example.name}: {status.id} ends with exit code {status.exit_code}: {status.message}",
                    hint=status.hint,
                )
