"""What a check found: states, findings, the matrix, the deploy windows, and the verdict. Values only."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable, Iterator, Sequence

from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Window

__all__ = [
    "Application", "Cell", "Counts", "Finding", "Layer", "Report", "Run", "State", "Suppression", "Unproven", "Version",
    "predicts", "proven_window",
]  # fmt: skip


class Layer(enum.StrEnum):
    """What found it, in the order in which they are asked."""

    PHASE = "phase"
    """The phase itself failed on the scratch server."""
    CATALOG = "catalog"
    """A mapped table or column is not there, or is of another kind."""
    PREPARE = "prepare"
    """The server refuses the statement before it is executed."""
    EXECUTE = "execute"
    """The statement, or a generated round trip, fails with values."""
    CROSS = "cross"
    """What one version writes, the other reads otherwise, or cannot read."""
    WARM = "warm"
    """It fails on connections that had it prepared before the phase."""
    COMMAND = "command"
    """The project's own command (``--run-old``, ``--run-new``) failed."""


class Version(enum.StrEnum):
    """Which of the two."""

    OLD = "old"
    NEW = "new"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The schema after a phase was completed, or after a revert came back to it."""

    phase: Phase
    direction: Direction = Direction.FORWARD

    def __str__(self) -> str:
        return self.phase.value if self.direction is Direction.FORWARD else f"{self.phase} (reverted)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One pair of footprints. The labels are the footprints' versions, the digests tell them apart for certain."""

    name: str
    old: str
    new: str
    old_digest: str
    new_digest: str

    def label(self, version: Version) -> str:
        """What people call the version."""
        return self.old if version is Version.OLD else self.new


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Somebody knows better: `reason` is shown, and after `expires` it is void."""

    reason: str
    expires: dt.date
    application: str | None = None
    version: Version | None = None
    phase: Phase | None = None
    layer: Layer | None = None
    hazard: str | None = None
    sqlstate: str | None = None
    contains: str | None = None
    """A part of the statement's text or of the object's name."""

    def covers(self, application: str, finding: Finding) -> bool:
        """Whether it is about this finding: everything that it names must be so."""
        pairs = (
            (self.application, application), (self.version, finding.version), (self.phase, finding.state.phase),
            (self.layer, finding.layer), (self.hazard, finding.hazard), (self.sqlstate, finding.sqlstate),
        )  # fmt: skip
        text = f"{finding.subject}\n{finding.statement or ''}"
        return all(a is None or a == b for a, b in pairs) and (self.contains is None or self.contains in text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a version cannot do in a state.

    `subject` is the object or the probe (``public.users.email``, ``insert_minimal of public.users``), `hazard` an id
    of the published list where one fits, `place` the ``file:line`` where the statement was recorded. `announced`: the
    plan names this very failure and asks for consent to it, so it does not count.
    """

    version: Version
    state: State
    layer: Layer
    subject: str
    message: str
    remedy: str
    hazard: str | None = None
    sqlstate: str | None = None
    statement: str | None = None
    place: str | None = None
    announced: bool = False
    suppressed: str | None = None
    """The reason why it does not count."""

    @property
    def counts(self) -> bool:
        """Whether it closes the state for the version."""
        return not self.announced and self.suppressed is None


class Cell(enum.StrEnum):
    """What a version may do in a state."""

    WORKS = "works"
    RECONNECT = "reconnect"
    """It works on new connections; what fails on old ones was announced and consented to."""
    SUPPRESSED = "suppressed"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    """It could not be checked."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """Something that could not be checked, and why: never the same as fine."""

    version: Version | None
    subject: str
    reason: str
    place: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much was done. `everywhere` are statements that touch what changes and ran in every state and layer, `once`
    the others; `prepared_only` of them could be prepared, but not executed, with made values."""

    everywhere: int = 0
    once: int = 0
    prepared_only: int = 0
    executions: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One application on one server: its findings, and what could not be checked.

    `predicted` is the plans' window, `reached` are the states that exist, in order, forwards and then backwards.
    """

    application: Application
    server: str
    """``PostgreSQL 17.5``."""
    predicted: Window
    reached: tuple[State, ...]
    findings: tuple[Finding, ...] = ()
    unproven: tuple[Unproven, ...] = ()
    counts: Counts = Counts()

    def predicts(self, version: Version, state: State) -> bool:
        """Whether the changes say that the version works in the state."""
        return predicts(self.predicted, version, state)

    def cell(self, version: Version, state: State) -> Cell:
        """The verdict for one version in one state."""
        mine = [f for f in self.findings if f.version is version and f.state == state]
        if any(finding.counts for finding in mine):
            return Cell.BROKEN
        if any(each.version in (None, version) for each in self.unproven):
            return Cell.UNKNOWN
        if any(finding.suppressed is not None for finding in mine):
            return Cell.SUPPRESSED
        return Cell.RECONNECT if any(finding.layer is Layer.WARM for finding in mine) else Cell.WORKS

    def proven(self, version: Version) -> tuple[Phase, ...]:
        """The phases in which the version works, forwards and backwards."""
        return tuple(
            phase
            for phase in PHASES
            if (states := [s for s in self.reached if s.phase is phase])
            and all(self.cell(version, state) not in (Cell.BROKEN, Cell.UNKNOWN) for state in states)
        )

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings in states in which the changes say that the version works: a difference."""
        return tuple(f for f in self.findings if f.counts and self.predicts(f.version, f.state))

    @property
    def exit_code(self) -> int:
        """0 compatible, 6 not, 1 could not check; what is known to break wins over what is not known."""
        if self.broken:
            return 6
        return 1 if self.unproven else 0


def predicts(window: Window, version: Version, state: State) -> bool:
    """Whether the state is in the version's part of the window."""
    position = state.phase.position
    return position <= window.old_until.position if version is Version.OLD else position >= window.new_from.position


def proven_window(run: Run) -> tuple[Phase | None, Phase | None]:
    """(the last phase through which the old version works, the first from which the new one does), None for never."""
    old, new = run.proven(Version.OLD), run.proven(Version.NEW)
    until = None
    for phase in _reached(run.reached):
        if phase not in old:
            break
        until = phase
    since = None
    for phase in reversed(_reached(run.reached)):
        if phase not in new:
            break
        since = phase
    return until, since


def _reached(states: Iterable[State]) -> Sequence[Phase]:
    return sorted({state.phase for state in states}, key=lambda phase: phase.position)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a check says. `plans` are (migration, hash of its plan)."""

    plans: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    void: tuple[tuple[Suppression, str], ...] = ()
    """Suppressions that did nothing, and why: unused, or expired."""

    @property
    def exit_code(self) -> int:
        """The most severe of the runs': 6 before 1."""
        codes = {run.exit_code for run in self.runs}
        return next((code for code in (6, 1) if code in codes), 0)

    def findings(self) -> Iterator[tuple[Run, Finding]]:
        """All of them, those that count first."""
        for counts in (True, False):
            for run in self.runs:
                for finding in run.findings:
                    if (finding in run.broken) is counts:
                        yield run, finding
