"""The matrix of phases and versions."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from zdmigrate.compat.report import Application, Cell, Counts, Report, Run, State, Version, proven_window
from zdmigrate.compat.summary.windows import Window, window
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction

__all__ = ["Mark", "Matrix", "Row", "Square", "mark", "matrices"]


class Mark(enum.StrEnum):
    """What a cell shows; the value is its word."""

    WORKS = "works"
    RECONNECT = "reconnect"
    SUPPRESSED = "suppressed"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    OUTSIDE = "outside"

    @property
    def symbol(self) -> str:
        """One character that says the same without colour."""
        return _SYMBOLS[self]

    @property
    def meaning(self) -> str:
        """A legend's line."""
        return _MEANINGS[self]


_SYMBOLS = {
    Mark.WORKS: "✓", Mark.RECONNECT: "↻", Mark.SUPPRESSED: "≈", Mark.BROKEN: "✗", Mark.UNKNOWN: "?", Mark.OUTSIDE: "–",
}  # fmt: skip
_MEANINGS = {
    Mark.WORKS: "proven",
    Mark.RECONNECT: "works on new connections; what fails on old ones was announced and accepted",
    Mark.SUPPRESSED: "fails, and a suppression says why that does not count",
    Mark.BROKEN: "fails where the changes say that it works",
    Mark.UNKNOWN: "could not be checked",
    Mark.OUTSIDE: "fails outside its window, as predicted",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One version after one phase: reached forwards, and come back to by reverting (None where nobody went)."""

    forward: Mark | None
    reverted: Mark | None

    @property
    def agrees(self) -> bool:
        """Whether one mark says it all."""
        return None in (self.forward, self.reverted) or self.forward is self.reverted

    @property
    def mark(self) -> Mark | None:
        """That mark."""
        return self.forward or self.reverted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A phase of the matrix."""

    phase: Phase
    old: Square
    new: Square

    def square(self, version: Version) -> Square:
        """A version's."""
        return self.old if version is Version.OLD else self.new


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Phases by versions of one application, on servers that agree."""

    application: Application
    servers: tuple[str, ...]
    rows: tuple[Row, ...]
    window: Window
    counts: tuple[tuple[tuple[str, ...], Counts], ...]
    """How much was done, on which servers."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Those that occur, each once, for a legend."""
        there = {m for row in self.rows for square in (row.old, row.new) for m in (square.forward, square.reverted)}
        return tuple(mark for mark in Mark if mark in there)


def matrices(report: Report) -> list[Matrix]:
    """One for each application and set of servers that agree, in the order of the runs."""
    groups: dict[object, list[Run]] = {}
    for run in report.runs:
        key = (run.application, run.predicted, run.reached, _rows(run), proven_window(run))
        groups.setdefault(key, []).append(run)
    return [_matrix(runs) for runs in groups.values()]


def _matrix(runs: Sequence[Run]) -> Matrix:
    counts: dict[Counts, list[str]] = {}
    for run in runs:
        counts.setdefault(run.counts, []).append(run.server)
    return Matrix(
        application=runs[0].application,
        servers=tuple(run.server for run in runs),
        rows=_rows(runs[0]),
        window=window(runs[0]),
        counts=tuple((tuple(servers), done) for done, servers in counts.items()),
    )


def _rows(run: Run) -> tuple[Row, ...]:
    phases = dict.fromkeys(state.phase for state in run.reached)
    return tuple(
        Row(phase=phase, old=_square(run, Version.OLD, phase), new=_square(run, Version.NEW, phase))
        for phase in sorted(phases, key=lambda phase: phase.position)
    )


def _square(run: Run, version: Version, phase: Phase) -> Square:
    forward, reverted = (
        mark(run, version, state) if (state := State(phase=phase, direction=direction)) in run.reached else None
        for direction in (Direction.FORWARD, Direction.BACKWARD)
    )
    return Square(forward=forward, reverted=reverted)


def mark(run: Run, version: Version, state: State) -> Mark:
    """The cell's verdict; what breaks outside of the predicted window is told apart."""
    cell = run.cell(version, state)
    if cell is Cell.BROKEN and not run.predicts(version, state):
        return Mark.OUTSIDE
    return Mark(cell.value)
