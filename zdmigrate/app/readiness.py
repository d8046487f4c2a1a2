"""Whether the database is as a version needs it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from zdmigrate.app.shapes import Needs, Shape, classify
from zdmigrate.app.snapshot import MigrationState, Snapshot
from zdmigrate.phases import Phase

_FULL = Phase.BACKFILL
"""The phase from which on the new shape can be read and written."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`ready`, or what is `missing`: a sentence for each migration."""

    ready: bool
    missing: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ready


def readiness(snapshot: Snapshot, requires: Mapping[str, str], needs: Needs | None) -> Readiness:
    """Whether every migration in `requires` has completed its phase, and those whose new shape is needed, ``backfill``.

    A migration that has dropped what is needed is missing something, too. Without a snapshot nothing is known, and nobody
    is ready; with one whose lease has run out, what was known last counts: a database that is away for a minute must not
    take all instances out of the balancer.
    """
    if not snapshot.told:
        return Readiness(ready=False, missing=("the database has not answered yet: is the control schema there?",))
    missing = []
    for id_, phase in requires.items():
        state = snapshot.migrations.get(id_)
        if state is None:
            missing.append(f"{id_} has not begun: run zdmigrate advance --to {phase}")
        elif state.phase.position < Phase(phase).position:
            missing.append(f"{id_} has to complete {phase}, {_stands(state)}")
    for id_, state in snapshot.migrations.items():
        shape = classify(needs, state.shapes)
        wanted = {Shape.NEW: _FULL, Shape.BOTH: Phase.EXPAND}.get(shape, Phase.NONE)
        if id_ not in requires and state.phase.position < wanted.position:
            missing.append(f"{id_} has to complete {wanted}, {_stands(state)}")
        if shape in (Shape.OLD, Shape.BOTH) and (
            state.phase.position >= Phase.RETIRE.position or state.running is Phase.RETIRE
        ):
            missing.append(f"{id_} has taken away what this version needs, {_stands(state)}")
    return Readiness(ready=not missing, missing=tuple(missing))


def _stands(state: MigrationState) -> str:
    worker = f" ({state.holder})" if state.holder else ""
    under_way = "nothing is under way" if state.running is None else f"{state.running} is under way{worker}"
    return f"and is at {state.phase}: {under_way}"
