"""Deploy windows: what is proven beside what the changes predict, in words that a release manager uses."""

from __future__ import annotations

import dataclasses
import enum

from zdmigrate.compat.report import Cell, Run, Version, proven_window
from zdmigrate.compat.summary.phrases import Code, Words, name
from zdmigrate.phases import PHASES, Phase

__all__ = ["Compared", "Window", "window", "window_words"]


class Compared(enum.StrEnum):
    """A proven window beside the predicted one."""

    SAME = "same"
    NARROWER = "narrower"
    """The changes promise more than what works: exit code 6."""
    WIDER = "wider"
    """More works than the changes promise. No error, and nothing to rely on."""
    UNPROVEN = "unproven"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The deploy windows: proven, predicted, and how they compare."""

    proven: Words
    predicted: Words
    compared: Compared


def window_words(old: str, new: str, until: Phase | None, since: Phase | None) -> Words:
    """The deploy window as a release manager says it."""
    return (*_deploy(new, since), "; ", *_retire(old, until))


def _deploy(new: str, since: Phase | None) -> Words:
    match since:
        case None:
            return (f"{new} is proven for no phase and must not be deployed",)
        case Phase.NONE:
            return (f"{new} may be deployed at any time",)
        case _:
            return (f"{new} may be deployed from ", Code(since), " on")


def _retire(old: str, until: Phase | None) -> Words:
    match until:
        case None:
            return (f"{old} is not proven to work even before the first phase",)
        case Phase.CONTRACT:
            return (f"{old} may stay",)
        case _:
            return (f"{old} must be gone before ", Code(PHASES[until.position + 1]))


def window(run: Run) -> Window:
    """A run's."""
    old, new = (name(run.application, version) for version in Version)
    return Window(
        proven=_proven(run, old, new),
        predicted=window_words(old, new, run.predicted.old_until, run.predicted.new_from),
        compared=_compared(run),
    )


def _proven(run: Run, old: str, new: str) -> Words:
    until, since = proven_window(run)
    parts: list[Words] = [
        (f"nothing is proven about {new}",) if since is None and _unknown(run, Version.NEW) else _deploy(new, since),
        (f"nothing is proven about {old}",) if until is None and _unknown(run, Version.OLD) else _retire(old, until),
    ]
    last = _last(run)
    through: Words = () if last is Phase.CONTRACT else (" (checked through ", Code(last), ")")
    never: Words = ()
    if until is not None and since is not None and until.position < since.position:
        never = (f"; no phase suits both: {old} must be gone before {new} comes",)
    return (*parts[0], "; ", *parts[1], *never, *through)


def _compared(run: Run) -> Compared:
    if run.broken:
        return Compared.NARROWER
    if run.unproven:
        return Compared.UNPROVEN
    until, since = proven_window(run)
    last = _last(run).position
    promised = (min(run.predicted.old_until.position, last), run.predicted.new_from.position)
    works = (-1 if until is None else until.position, len(PHASES) if since is None else since.position)
    return Compared.WIDER if works[0] > promised[0] or works[1] < promised[1] else Compared.SAME


def _unknown(run: Run, version: Version) -> bool:
    return any(run.cell(version, state) is Cell.UNKNOWN for state in run.reached)


def _last(run: Run) -> Phase:
    return max((state.phase for state in run.reached), key=lambda phase: phase.position, default=Phase.NONE)
