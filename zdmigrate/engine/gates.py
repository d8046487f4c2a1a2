"""Whether a phase may start, forwards or backwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.control.policy import Policy
from zdmigrate.control.store import Record, Store
from zdmigrate.engine.outcome import GateState
from zdmigrate.errors import Unsafe, UsageError, Waiting, ZdmigrateError
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Gate, Plan
from zdmigrate.postgres.session import Connection
from zdmigrate.wording import counted, spoken

_ABOUT_APPLICATIONS = ("drained", "dual_writers", "shadow_reads")

_NAMED = 3
"""Rows that the gate of the quarantine names."""

Judge = Callable[[Plan, Phase], str | None]
"""Evidence of a check: why a phase must not be completed on it; None where it may."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where gates get their answers. `evidence` is what the command was given, None for nothing.

    `keeping`: a look at the server's statistics may be kept for the next one to compare with.
    """

    connection: Connection
    store: Store
    policy: Policy
    overrides: Mapping[str, str]
    evidence: Judge | None = None
    keeping: bool = False


def check(
    gates: Iterable[Gate], record: Record, requires: tuple[str, ...], facts: Facts
) -> list[tuple[Gate, GateState]]:
    """Every gate with its state."""
    return [(gate, _state(gate, record, requires, facts)) for gate in gates]


def of(plan: Plan, phase: Phase, direction: Direction) -> list[Gate]:
    """The gates in front of completing, or undoing, a phase."""
    return [gate for gate in plan.phase(phase).gates if gate.direction is direction]


def of_evidence(plan: Plan, phase: Phase, facts: Facts) -> list[Gate]:
    """The gate in front of completing a phase that nothing proves. It is no part of the plan: evidence is about plans."""
    if not plan.phase(phase).steps or (facts.evidence is None and not facts.policy.evidence):
        return []
    missing = "the environment's policy asks for it: zdmigrate check --evidence FILE, then advance --evidence FILE"
    refused = missing if facts.evidence is None else facts.evidence(plan, phase)
    return [] if refused is None else [Gate(name="evidence", phase=phase, detail=refused, exit_code=Unsafe.exit_code)]


def of_quarantine(record: Record, phase: Phase, facts: Facts) -> list[Gate]:
    """The gate in front of every phase after the backfill while rows wait for somebody. No part of the plan either."""
    if phase.position < Phase.SWITCH_READS.position:
        return []
    connection, schema = facts.connection, facts.store.schema
    number = quarantine.open_count(connection, control_schema=schema, migration=record.key)
    if number == 0:
        return []
    named = quarantine.entries(connection, control_schema=schema, migration=record.key, limit=_NAMED)
    first = quarantine.described(named)
    detail = (
        f"{counted(number, 'row')} could not be filled: {first}{'; …' if number > _NAMED else ''}. See them with zdmigrate "
        f"quarantine list {record.id}, correct them, then: zdmigrate quarantine retry {record.id}"
    )
    return [Gate(name="quarantine", phase=phase, detail=detail, overridable=False)]


def check_next(plan: Plan, record: Record, requires: tuple[str, ...], facts: Facts) -> list[tuple[Gate, GateState]]:
    """The gates of the next phase that has any."""
    for phase in record.phase.until(Phase.CONTRACT):
        found = of(plan, phase, Direction.FORWARD)
        found += of_quarantine(record, phase, facts) + of_evidence(plan, phase, facts)
        if found or plan.phase(phase).steps:
            return check(found, record, requires, facts)
    return []


def refusal(checked: list[tuple[Gate, GateState]], phase: Phase) -> ZdmigrateError | None:
    """The error of the gates that do not hold: unsafe before waiting."""
    closed = [(gate, state) for gate, state in checked if not state.satisfied]
    if not closed:
        return None
    text = "; ".join(f"{state.name}: {state.detail}" for _, state in closed)
    overridable = [gate.name for gate, _ in closed if gate.overridable]
    hint = None
    if overridable:
        hint = "if you know better: " + " ".join(f'--override {name}="reason"' for name in overridable)
    error = Unsafe if any(gate.exit_code == Unsafe.exit_code for gate, _ in closed) else Waiting
    return error(f"{phase} waits: {text}", hint=hint)


OVERRIDABLE = frozenset(
    (
        "drained", "dual_writers", "evidence", "exclusion_scan", "explicit_null", "functions", "identity_numbers",
        "immediate_unique", "old_reads_null", "publication", "replica_identity", "retire_soak", "rewrite", "shadow_reads", "soak",
        "table_triggers", "view_limits", "warm_connections",
    )
)  # fmt: skip
FIRM = frozenset(("quarantine", "requires", "verified"))


def refuse_unknown(overrides: Mapping[str, str]) -> None:
    """An override that names no gate is a typing error, not a permission.

    Raises:
        UsageError: with the names that exist.
    """
    for name in overrides:
        if name in FIRM:
            raise UsageError(f"the gate {name!r} cannot be overridden")
        if name not in OVERRIDABLE:
            raise UsageError(f"there is no gate {name!r}", hint=f"gates: {', '.join(sorted(OVERRIDABLE))}")


def _state(gate: Gate, record: Record, requires: tuple[str, ...], facts: Facts) -> GateState:
    if gate.overridable and gate.name in facts.overrides:
        return GateState(name=gate.name, satisfied=True, detail=f"overridden: {facts.overrides[gate.name]}")
    satisfied, detail = _answer(gate, record, requires, facts)
    return GateState(name=gate.name, satisfied=satisfied, detail=detail)


def _answer(gate: Gate, record: Record, requires: tuple[str, ...], facts: Facts) -> tuple[bool, str]:
    if gate.query is not None:
        found = [str(row[0]) for row in facts.connection.execute(gate.query.encode()).fetchall()]
        return not found, gate.detail if found else "nothing is in the way any more"
    if gate.name in _ABOUT_APPLICATIONS:
        from zdmigrate.engine import proving  # an advance that has nothing to do asks none of them

        return proving.answer(gate, record, facts)
    match gate.name:
        case "verified":
            return record.verified, gate.detail if record.verified else "not every row was verified yet"
        case "soak":
            return _soaked(facts.policy.soak, record)
        case "retire_soak":
            return _soaked(facts.policy.retire_soak, record)
        case "requires":
            return _required(gate, requires, facts)
        case _:  # to be accepted by somebody: only an override satisfies it
            return False, gate.detail


def _soaked(soak: timedelta, record: Record) -> tuple[bool, str]:
    left = soak - record.phase_age
    if left <= timedelta(0):
        return True, f"{record.phase} is complete since {record.phase_since:%Y-%m-%d %H:%M} UTC"
    return False, f"{record.phase} has to soak for {spoken(soak)}; {spoken(left)} to go"


def _required(gate: Gate, requires: tuple[str, ...], facts: Facts) -> tuple[bool, str]:
    records = {record.id: record for record in facts.store.records(facts.connection)}
    behind = [id_ for id_ in requires if id_ not in records or records[id_].phase.position < gate.phase.position]
    return not behind, gate.detail if not behind else f"{', '.join(behind)} must complete {gate.phase} first"
