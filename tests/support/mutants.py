"""Plans with a mistake in them, of the kinds that people make by hand."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Mode, Plan, Step

Mutation = Callable[[Plan], Plan]

_DOWN = r"IF new_written(?: AND NOT old_written)? THEN"
"""Where the trigger decides whether the new shape was written: before `switch_reads`, and after it."""
_ASSIGNED = rf'({_DOWN}\s+(?:BEGIN\s+)?NEW\."[^"]+" := )[^;]+;'
_CONSTRAINS = re.compile(r"ADD CONSTRAINT|SET NOT NULL|VALIDATE CONSTRAINT")
_UNIQUE = re.compile(r"DROP INDEX|DROP CONSTRAINT")


def no_trigger(plan: Plan) -> Plan:
    """Old and new shape side by side, and nobody keeps them equal."""
    return _with(plan, (step for step in plan.steps() if not _creates_trigger(step)))


def up_only(plan: Plan) -> Plan:
    """What version N+1 writes does not come back."""
    return _rewritten(plan, _DOWN, "IF false THEN")


def down_only(plan: Plan) -> Plan:
    """What version N writes does not arrive."""
    return _rewritten(plan, _DOWN, "IF true THEN")


def wrong_down(plan: Plan) -> Plan:
    """Version N gets nothing where it should get what version N+1 wrote."""
    return _rewritten(plan, _ASSIGNED, r"\1NULL;")


def no_backfill(plan: Plan) -> Plan:
    """Rows that were there before stay as they are, and nobody looks."""
    return _with(plan, (step for step in plan.steps() if step.mode not in (Mode.BACKFILL, Mode.VERIFY)))


def constraints_first(plan: Plan) -> Plan:
    """The new shape's constraints before its trigger."""
    return _with(plan, _moved(plan, lambda s: s.phase is Phase.BACKFILL and _says(s, _CONSTRAINS), Phase.EXPAND))


def contract_early(plan: Plan) -> Plan:
    """The drop while version N lives."""
    return _with(plan, _moved(plan, lambda s: s.phase in (Phase.RETIRE, Phase.CONTRACT), Phase.BACKFILL))


def unique_gone_early(plan: Plan) -> Plan:
    """An index goes while ON CONFLICT needs it."""
    return _with(plan, _moved(plan, lambda s: s.takes_away and _says(s, _UNIQUE), Phase.EXPAND))


MUTATIONS: tuple[Mutation, ...] = (
    no_trigger, up_only, down_only, no_backfill, constraints_first, contract_early, unique_gone_early, wrong_down,
)  # fmt: skip


def _creates_trigger(step: Step) -> bool:
    return any(statement.startswith("CREATE TRIGGER") for statement in step.do)


def _says(step: Step, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(statement) for statement in step.do)


def _changed(step: Step, change: Callable[[str], str]) -> Step:
    return dataclasses.replace(step, do=tuple(map(change, step.do)), probe=change(step.probe))


def _rewritten(plan: Plan, old: str, new: str) -> Plan:
    return _with(plan, (_changed(step, lambda text: re.sub(old, new, text)) for step in plan.steps()))


def _moved(plan: Plan, which: Callable[[Step], bool], to: Phase) -> Iterator[Step]:
    for step in plan.steps():
        yield dataclasses.replace(step, phase=to) if which(step) else step


def _with(plan: Plan, steps: Iterable[Step]) -> Plan:
    found = list(steps)
    phases = []
    for phase in PHASES[1:]:
        part = plan.phase(phase)
        mine = tuple(step for step in found if step.phase is phase)
        if mine or part.gates:
            phases.append(dataclasses.replace(part, steps=mine))
    irreversible = next((step.phase.previous for step in found if step.irreversible), Phase.CONTRACT)
    return dataclasses.replace(plan, phases=tuple(phases), undoable_until=irreversible)
