"""Which versions of an application can run on the database as it is. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.app.shapes import Needs, Shape, classify
from zdmigrate.control.instances import Version
from zdmigrate.control.store import Record
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Window


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether a version works with one migration as it stands. `why` where it does not, or nobody knows.

    `least` is the state to go to for it, backwards or forwards; None where no state is known to help.
    """

    migration: str
    phase: Phase
    shape: Shape
    works: bool
    why: str = ""
    least: Phase | None = None
    running: Phase | None = None

    @property
    def reached(self) -> Phase:
        """The last phase of which something may have been done."""
        return self.phase if self.running is None else self.running


def standing(record: Record, window: Window, needs: Needs | None, version: Version | None) -> Standing:
    """What one migration means for a version.

    A phase that is under way counts as done and as not done: nobody knows where it is.
    """
    shape = _shape(record, needs, version)
    states = (record.phase,) if record.running is None else (record.phase, record.running)
    works = all(_works(shape, window, state) for state in states)
    if works:
        return Standing(migration=record.id, phase=record.phase, shape=shape, works=True)
    return Standing(
        migration=record.id, phase=record.phase, shape=shape, works=False, why=_why(record, shape, window),
        least=_least(record, shape, window), running=record.running,
    )  # fmt: skip


def absent(needs: Needs, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """What the version maps and the catalog does not have; `columns` are (schema, table, column) triples of the catalog."""
    tables: dict[tuple[str, str], set[str]] = {}
    for home, table, column in columns:
        tables.setdefault((home, table), set()).add(column)
        tables.setdefault(("", table), set()).add(column)
    found = []
    for needed in needs:
        there = tables.get((needed.schema or "", needed.name))
        shown = needed.name if needed.schema is None else f"{needed.schema}.{needed.name}"
        if there is None:
            found.append(shown)
        else:
            found += [f"{shown}.{column.name}" for column in needed.columns if column.name not in there]
    return found


def _shape(record: Record, needs: Needs | None, version: Version | None) -> Shape:
    shape = classify(needs, record.shapes)
    if shape is Shape.UNKNOWN and record.phase is Phase.CONTRACT and version is not None:
        # Nobody saw it before the old shape was gone: it was made for what came after.
        return Shape.NEW if version.first_seen > record.phase_since else shape
    return shape


def _works(shape: Shape, window: Window, state: Phase) -> bool:
    early, late = state.position < window.new_from.position, state.position > window.old_until.position
    match shape:
        case Shape.EITHER:
            return True
        case Shape.OLD:
            return not late
        case Shape.NEW:
            return not early
        case Shape.BOTH:
            return state.position >= Phase.EXPAND.position and not late
        case _:
            return not early and not late


def _why(record: Record, shape: Shape, window: Window) -> str:
    at = f"{record.id} is at {record.phase}" + (f", {record.running} is under way" if record.running else "")
    match shape:
        case Shape.OLD:
            return f"{at}: the old shape works until {window.old_until}"
        case Shape.NEW:
            return f"{at}: the new shape works from {window.new_from}"
        case Shape.BOTH:
            return f"{at}: it needs both shapes, which are there from expand until {window.old_until}"
        case _:
            return (
                f"{at}: nobody knows which shape it needs, and only one works here (both do from {window.new_from} until "
                f"{window.old_until})"
            )


def _least(record: Record, shape: Shape, window: Window) -> Phase | None:
    """The nearest state in which it works, that is left by undoing or completing phases."""
    here = record.phase.position
    fitting = [state for state in PHASES if _works(shape, window, state)]
    back = [state for state in fitting if state.position <= here]
    if back:
        return max(back, key=lambda state: state.position)
    return min(fitting, key=lambda state: state.position, default=None)
