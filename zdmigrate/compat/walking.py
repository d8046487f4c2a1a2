"""The phases, one after the other, on a scratch database: forwards, and back as far as they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from zdmigrate.config import Config
from zdmigrate.engine import gates
from zdmigrate.engine.outcome import MigrationStatus
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Plan

__all__ = ["Stopped", "Walk", "last_reversible"]

_ACCEPTED = dict.fromkeys(gates.OVERRIDABLE, "compatibility check")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A phase did not come to its end."""

    migration: str
    message: str


class Walk:
    """The migrations of a check on one database, all of them in the same phase at any time.

    Between two calls no connection is open, so that the database may be copied. The engine is the real one; gates are
    passed, because what they wait for cannot happen on a scratch database.
    """

    def __init__(self, config: Config, ids: Sequence[str]) -> None:
        self._config = config
        self.ids = tuple(ids)

    def begin(self) -> tuple[Plan, ...]:
        """Create the control schema, and plan. The migrations have changed nothing yet."""

        def work(project: Project) -> tuple[Plan, ...]:
            project.init(environment="development", app_role=None, confirmed=True)
            return tuple(project.plan(self.ids))

        return self._with_project(work)

    def advance(self, phase: Phase) -> Stopped | None:
        """Complete a phase."""

        def work(project: Project) -> Stopped | None:
            return _stopped(project.advance(self.ids, target=phase, overrides=_ACCEPTED).migrations)

        return self._with_project(work)

    def revert(self, phase: Phase) -> Stopped | None:
        """Come back to a phase, the last migration first."""

        def work(project: Project) -> Stopped | None:
            for id_ in reversed(self.ids):
                reverted = project.revert(id_, target=phase, overrides=_ACCEPTED, allow_lossy=True)
                if (stopped := _stopped(reverted.migrations)) is not None:
                    return stopped
                project.unhold(id_)
            return None

        return self._with_project(work)

    def _with_project(self, work: Callable[[Project], _T]) -> _T:
        with Project.open(self._config, report=lambda _: None) as project:
            return work(project)


def _stopped(statuses: Sequence[MigrationStatus]) -> Stopped | None:
    failed = next((status for status in statuses if status.exit_code != 0), None)
    return (
        None if failed is None else Stopped(migration=failed.id, message=failed.message or "it did not come to its end")
    )


def last_reversible(plans: Sequence[Plan]) -> Phase:
    """How far all of them may go and still come back."""
    return PHASES[min((min(p.undoable_until.position, Phase.RETIRE.position) for p in plans), default=0)]
