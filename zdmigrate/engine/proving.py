"""The gates about applications: what is asked of the database, and of the rules that judge it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from zdmigrate.app.shapes import Shape
from zdmigrate.control import instances, shadows, writes
from zdmigrate.control.store import Record
from zdmigrate.engine import comparing, draining, dual_writing, statement_looks, withholding
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Gate

if TYPE_CHECKING:
    from zdmigrate.engine.gates import Facts

INSTANCE_GRACE = timedelta(minutes=15)
"""An instance whose heartbeat stopped without a goodbye counts as alive for this long."""

DIVERGED_LATELY = timedelta(minutes=10)
"""How long nobody may have left the two shapes different before a backfill of ``sync="app"``."""

_NOT_ASKED = "the environment's policy does not ask for it"


def answer(gate: Gate, record: Record, facts: Facts) -> tuple[bool, str]:
    """Whether the gate is open, and why."""
    match gate.name:
        case "drained":
            return _drained(gate, record, facts)
        case "dual_writers":
            return _dual_writers(gate, record, facts)
        case _:
            return _compared(gate, record, facts)


def _drained(gate: Gate, record: Record, facts: Facts) -> tuple[bool, str]:
    """Nobody needs the shape that goes."""
    leaving = Shape.OLD if gate.direction is Direction.FORWARD else Shape.NEW
    known = _known(record, leaving, facts)
    if facts.policy.drained:
        known = dataclasses.replace(known, findings=tuple(_findings(record, leaving, facts)))
    verdict = draining.judge(known)
    if not facts.policy.drained and not verdict.against:
        return True, _NOT_ASKED
    return verdict.proven, draining.said(verdict, leaving)


def reported(record: Record, leaving: Shape, facts: Facts) -> draining.Verdict:
    """The verdict by what applications say of themselves, and what was declared; of nothing that only may be."""
    return draining.judge(dataclasses.replace(_known(record, leaving, facts), sessions=(), writes=()))


def _compared(gate: Gate, record: Record, facts: Facts) -> tuple[bool, str]:
    """Both reads were compared often enough, and agree."""
    assert gate.demand is not None
    found = shadows.compared(facts.connection, facts.store.schema, record, gate.demand.within)
    return comparing.judged(gate.demand, found)


def _dual_writers(gate: Gate, record: Record, facts: Facts) -> tuple[bool, str]:
    """``sync="app"``: whoever writes, writes both shapes."""
    forward = gate.direction is Direction.FORWARD
    if forward and (withheld := writes.withheld(facts.connection, facts.store.schema)):
        return False, dual_writing.unheard(withheld, record.id)
    if gate.phase is Phase.BACKFILL:
        return _all_write_both(record, facts, forward=forward)
    return _none_was_forgotten(gate, record, facts)


def _all_write_both(record: Record, facts: Facts, *, forward: bool) -> tuple[bool, str]:
    """Before the backfill: who is alive, and lately wrote."""
    # Going back, the old shape gets the authority: who writes it alone harms nobody.
    wrong = frozenset((Shape.NEW, Shape.UNKNOWN, *((Shape.OLD,) if forward else ())))
    known = _known(record, Shape.NEW, facts)
    since = facts.store.completed_at(facts.connection, record.id, Phase.DUAL_WRITE) or known.since
    lately: Sequence[writes.Write] = ()
    if forward and facts.policy.drained:
        lately = writes.diverging(facts.connection, facts.store.schema, record.id, recent=DIVERGED_LATELY)
    verdict = dual_writing.judge(dataclasses.replace(known, since=since, writes=lately), wrong)
    if not facts.policy.drained and not verdict.against:
        return True, _NOT_ASKED
    return verdict.proven, dual_writing.said(verdict)


def _none_was_forgotten(gate: Gate, record: Record, facts: Facts) -> tuple[bool, str]:
    """After the verification: what it may not have seen."""
    connection, schema = facts.connection, facts.store.schema
    # From switch_reads on the new shape has the authority, and version N+1 may write it alone.
    sides = ("old", "both") if gate.phase.position > Phase.SWITCH_READS.position else ("old", "new", "both")
    found = writes.unverified(connection, schema, record.id, record.key, sides)
    said = [dual_writing.forgotten(found, record.id)] if found else []
    # Once the old shape is out of the way its guard is gone, and no verification could tell any more.
    steps = () if record.plan is None else record.plan.steps()
    settled = gate.phase is Phase.CONTRACT and any(step.renames for step in steps)
    if not settled and (missed := writes.missed(connection, schema, record.key)) > 0:
        said.append(dual_writing.missed(missed, record.id))
    return not said, "; ".join(said) or "no write has left the two shapes different"


def _known(record: Record, leaving: Shape, facts: Facts) -> draining.Facts:
    connection, store = facts.connection, facts.store
    plan = record.plan
    assert plan is not None
    # Forwards: since when there has been something to deploy instead. Backwards: since N+1 works no better than N.
    since = store.completed_at(connection, record.id, plan.window.new_from) if leaving is Shape.OLD else None
    known = draining.Facts(
        migration=record.id,
        project=store.project,
        shapes=record.shapes,
        leaving=leaving,
        since=since or record.phase_since,
        tables=tuple(sorted({(lock.schema, lock.name) for step in plan.steps() for lock in step.locks})),
        groups=instances.live(connection, store.schema, record.id, INSTANCE_GRACE),
        versions=instances.versions(connection, store.schema),
        sessions=(),
    )
    if not facts.policy.drained:
        return known
    return dataclasses.replace(
        known,
        sessions=instances.sessions(connection, known.tables),
        writes=writes.through(
            connection, store.schema, record.id, leaving, since=known.since, recent=INSTANCE_GRACE
        ),
    )  # fmt: skip


def _findings(record: Record, leaving: Shape, facts: Facts) -> Iterator[draining.Findings]:
    connection, store = facts.connection, facts.store
    yield statement_looks.look(connection, store, record, leaving, grace=INSTANCE_GRACE, keeping=facts.keeping)
    if leaving is Shape.OLD:
        yield withholding.findings(connection, store, record)
