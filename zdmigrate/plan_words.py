"""How a plan is worded, wherever it is shown: facts, gates, locks, undo; and text that Markdown takes as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Gate, Mode, PhasePlan, Plan, Step, TableEstimate, TableLock, Window
from zdmigrate.wording import size


def step_sql(step: Step) -> list[str]:
    """The exact statements of a step, with its transaction."""
    # Plan.to_sql knows how a step reads; two comment lines come first.
    alone = Plan(
        migration="",
        checksum="",
        server_version=0,
        window=Window(old_until=Phase.NONE, new_from=Phase.NONE),
        phases=(PhasePlan(phase=step.phase, steps=(step,)),),
        touches=(),
    )
    return alone.to_sql().split("\n", 2)[2].splitlines()


def facts(plan: Plan) -> Iterator[str]:
    """What one must know of a plan before reading its phases."""
    yield f"PostgreSQL {_server(plan.server_version)}, plan {plan.hash[:12]}"
    yield f"version N works through {plan.window.old_until}, version N+1 from {plan.window.new_from} on"
    yield f"advance without --to stops after {plan.automatic_target}"
    yield _undo_window(plan)
    for estimate in plan.estimates:
        yield f"{estimate.table}: about {amount(estimate)}"
    if plan.hazards:
        yield f"warnings: {len(plan.hazards)}"


def _undo_window(plan: Plan) -> str:
    if plan.undoable_until is PHASES[-1]:
        return "can be undone from every phase: zdmigrate revert"
    return f"can be undone until {plan.undoable_until} (zdmigrate revert); what comes after it is final"


def step_facts(plan: Plan, step: Step) -> Iterator[tuple[str, str]]:
    """(``lock``, ``work`` or ``undo``, what it means) of a step."""
    for lock in step.locks:
        yield "lock", f"{lock.mode} on {lock.table}: {_blocked(lock, step.mode)}"
    if not step.locks:
        yield "lock", "none that the application notices"
    yield "work", _work(plan, step)
    yield "undo", _undo(step)


def _undo(step: Step) -> str:
    if step.irreversible:
        return "not possible: this is final"
    if not step.undo:
        return "nothing to take back"
    locks = [f"{lock.mode} on {lock.table}: {_blocked(lock, step.undo_mode)}" for lock in step.undo_locks]
    lossy = ["refused where it would lose values, unless --allow-lossy is given"] if step.undo_loses else []
    lossy += ["refused while rows hold what the old shape cannot"] if step.undo_blocked else []
    return "; ".join([*(locks or ["no lock that the application notices"]), *lossy])


def undo_sql(step: Step) -> list[str]:
    """The statements that take a step back; none where there is nothing to take back, or no way."""
    if step.irreversible or not step.undo:
        return []
    return step_sql(dataclasses.replace(step, do=step.undo, mode=step.undo_mode, rows=None))


def _blocked(lock: TableLock, mode: Mode) -> str:
    if lock.mode.blocks == "nothing" or mode not in ("transaction", "python"):
        return f"blocks {lock.mode.blocks}"
    return f"blocks {lock.mode.blocks} for an instant, and nobody waits longer than the lock timeout"


def _work(plan: Plan, step: Step) -> str:
    how = {
        Mode.TRANSACTION: "one transaction",
        Mode.AUTOCOMMIT: "outside of a transaction",
        Mode.PYTHON: "a function of the migration file, in transactions",
        Mode.BACKFILL: "in small batches",
        Mode.VERIFY: "reads every row, changes nothing",
    }[step.mode]
    what = {
        (False, False): "no scan, no rewrite",
        (True, False): "scans the table, no rewrite",
        (False, True): "rewrites the table",
        (True, True): "scans and rewrites the table",
    }[step.scans, step.rewrites]
    if step.authored:
        what = "as the migration's author wrote it" + (", which may rewrite a table" if step.rewrites else "")
    sizes = [f"{each.table}: {amount(each)}" for each in _touched(plan, step)] if step.rows or step.scans else []
    return ", ".join([how, *([] if step.mode is Mode.VERIFY else [what]), *sizes])


def _touched(plan: Plan, step: Step) -> list[TableEstimate]:
    tables = {lock.table for lock in step.locks}
    if step.rows is not None:
        tables.add(f"{step.rows.schema}.{step.rows.table}")
    return [estimate for estimate in plan.estimates if estimate.table in tables] or list(plan.estimates)


def gate_text(gate: Gate) -> str:
    """A gate: when it is asked, what it asks for, how to pass it."""
    when = "before" if gate.direction is Direction.FORWARD else "before undoing"
    override = acceptance(gate.name) if gate.overridable else "; cannot be overridden"
    return f"{gate.name} ({when} {gate.phase}, else exit {gate.exit_code}): {gate.detail}{override}"


def acceptance(gate: str | None) -> str:
    """How to accept what a hazard or gate stops for; empty where nothing has to be accepted."""
    return "" if gate is None else f'; to pass it: --override {gate}="reason"'


def amount(estimate: TableEstimate) -> str:
    """Rows and size, for people."""
    return f"{estimate.rows:,} rows, {size(estimate.bytes)}"


def _server(version: int) -> str:
    return f"{version // 10000}.{version % 10000}"


SPECIAL = str.maketrans({character: "\\" + character for character in "\\`*_[]<>|#~&"})


def inline(text: str) -> str:
    """Text in one line of Markdown, in which nothing is markup."""
    return " ".join(text.split()).translate(SPECIAL)


def fenced(lines: Sequence[str]) -> Iterator[str]:
    """A block of SQL that nothing in it can close."""
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    yield f"{fence}sql"
    yield from lines
    yield fence
