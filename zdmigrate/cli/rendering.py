"""Plans and outcomes as text, Markdown and JSON. Pure: values in, text out."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.control.store import HistoryEntry
    from zdmigrate.engine.outcome import MigrationStatus
    from zdmigrate.engine.reporting import Event
    from zdmigrate.plan import Gate, Mode, PhasePlan, Plan, Step, TableEstimate, TableLock

FORMAT = 1


# JSON


def document(*, exit_code: int = 0, migrations: Sequence[object] = (), **facts: object) -> str:
    """The one document of a command: always with `format`, `exit_code` and `migrations`."""
    values = {"format": FORMAT, "exit_code": exit_code, **facts, "migrations": list(migrations)}
    return json.dumps(values, default=_plain, ensure_ascii=False, indent=2)


def error_json(message: str, hint: str | None, exit_code: int) -> str:
    """The document of a command that failed before there was anything to say about a migration."""
    return document(exit_code=exit_code, error={"message": message, "hint": hint})


def line_json(**facts: object) -> str:
    """One line of NDJSON."""
    return json.dumps(facts, default=_plain, ensure_ascii=False)


def event_json(event: Event, *, redact: Callable[[str], str], at: datetime) -> str:
    """An event as a line of NDJSON."""
    return line_json(**{**dataclasses.asdict(event), "message": redact(event.message), "at": at})


def status_json(status: MigrationStatus) -> dict[str, Any]:
    """A migration's entry in the document."""
    return dataclasses.asdict(status)


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan's entry in the document of `zdmigrate plan`: the stored plan's JSON, with what follows from it."""
    return {**plan.to_json(), "automatic_target": plan.automatic_target}


def _plain(value: object) -> object:
    match value:
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Path():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")


# Outcomes


def event_text(event: Event) -> str:
    """An event as a line for people."""
    share = f" ({100 * event.done // event.total} %)" if event.done is not None and event.total else ""
    phase = f"{event.phase}: " if event.phase and event.kind != "phase" else ""
    return f"{event.migration + ': ' if event.migration else ''}{phase}{event.message}{share}"


def statuses_text(statuses: Sequence[MigrationStatus]) -> str:
    """A block per migration: where it stands, what stops it, what comes next."""
    width = max((len(status.id) for status in statuses), default=0)
    return "".join(line + "\n" for status in statuses for line in _status_lines(status, width))


def _status_lines(status: MigrationStatus, width: int) -> Iterator[str]:
    running = f", {status.running} is under way" if status.running else ""
    since = f", since {_moment(status.since)}" if status.since else ""
    away = "" if status.here else "  (its file is not in this directory)"
    yield f"{status.id:<{width}}  {status.phase}{running}{since}{away}"
    if status.title:
        yield f"  {status.title}"
    if status.lease:
        yield f"  lease   {status.lease}"
    if status.hold:
        yield f"  hold    {status.hold.reason} ({status.hold.by}, {_moment(status.hold.since)})"
    for gate in status.gates:
        yield f"  gate    {gate.name}: {'holds' if gate.satisfied else 'does not hold'}: {gate.detail}"
    if status.message:
        yield f"  {_verdict(status.exit_code):<7} {status.message}"
    if status.hint:
        yield f"  hint    {status.hint}"
    for command in status.next:
        yield f"  next    {shlex.join(command)}"


_VERDICTS = {
    1: "failed", 2: "usage", 3: "partly", 4: "waits", 5: "busy", 6: "unsafe", 7: "drift", 8: "final",
}  # fmt: skip


def _verdict(exit_code: int) -> str:
    return _VERDICTS.get(exit_code, "note")


def history_text(entries: Sequence[HistoryEntry]) -> str:
    """The audit as aligned lines."""
    rows = [
        (
            _moment(entry.at),
            entry.migration or "-",
            entry.step or entry.phase or "-",
            entry.action,
            entry.outcome or "-",
            "-" if entry.duration_ms is None else f"{entry.duration_ms:,.0f} ms",
            f"{entry.actor}@{entry.host}" + (f" [{entry.deployment}]" if entry.deployment else ""),
            entry.detail or "",
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(8)] if rows else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "".join(line + "\n" for line in lines)


def _moment(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


# Plans


def plan_text(plan: Plan) -> str:
    """A plan for a terminal."""
    lines = [plan.migration, *(f"  {fact}" for fact in _facts(plan))]
    for part in plan.phases:
        lines += ["", *_phase_text(plan, part)]
    return "\n".join(lines) + "\n"


def _phase_text(plan: Plan, part: PhasePlan) -> Iterator[str]:
    nothing = "" if part.steps else "  (nothing to do)"
    yield f"{part.phase}{nothing}"
    for gate in part.gates:
        yield f"  gate  {_gate(gate)}"
    for hazard in plan.hazards:
        if hazard.phase is part.phase:
            yield f"  warn  {hazard.id}: {hazard.message}"
            yield f"        {hazard.remedy}{_acceptance(hazard.accept)}"
    for number, step in enumerate(part.steps, start=1):
        yield f"  {number}. {step.title}  [{step.id}]"
        yield from (f"       {line}" for line in step_sql(step))
        for name, text in _step_facts(plan, step):
            yield f"     {name:<5} {text}"
        yield from (f"       {line}" for line in _undo_sql(step))


def plan_markdown(plan: Plan) -> str:
    """A plan for a pull request."""
    lines = [f"## {_inline(plan.migration)}", "", *(f"- {_inline(fact)}" for fact in _facts(plan))]
    for part in plan.phases:
        lines += ["", f"### {part.phase}", *_phase_markdown(plan, part)]
    return "\n".join(lines) + "\n"


def _phase_markdown(plan: Plan, part: PhasePlan) -> Iterator[str]:
    notes = [f"- **gate** {_inline(_gate(gate))}" for gate in part.gates]
    notes += [
        f"- **{_inline(hazard.id)}** {_inline(hazard.message)} *{_inline(hazard.remedy)}*"
        + _inline(_acceptance(hazard.accept))
        for hazard in plan.hazards
        if hazard.phase is part.phase
    ]
    if notes:
        yield from ("", *notes)
    if not part.steps:
        yield from ("", "Nothing to do.")
    for number, step in enumerate(part.steps, start=1):
        yield from ("", f"{number}. {_inline(step.title)} (`{step.id}`)", "")
        yield from (f"   {line}".rstrip() for line in _fenced(step_sql(step)))
        yield ""
        yield from (f"   - **{name}** {_inline(text)}" for name, text in _step_facts(plan, step))
        if undo := _undo_sql(step):
            yield ""
            yield from (f"     {line}".rstrip() for line in _fenced(undo))


def plans_sql(plans: Sequence[Plan]) -> str:
    """The forward SQL of several plans, nothing else; for reading, not for running by hand."""
    return "\n".join(f"-- migration {plan.migration}\n{plan.to_sql()}" for plan in plans)


def step_sql(step: Step) -> list[str]:
    """The exact statements of a step, with its transaction."""
    # Plan.to_sql knows how a step reads; two comment lines come first.
    from zdmigrate.phases import Phase
    from zdmigrate.plan import PhasePlan, Plan, Window

    alone = Plan(
        migration="",
        checksum="",
        server_version=0,
        window=Window(old_until=Phase.NONE, new_from=Phase.NONE),
        phases=(PhasePlan(phase=step.phase, steps=(step,)),),
        touches=(),
    )
    return alone.to_sql().split("\n", 2)[2].splitlines()


def _facts(plan: Plan) -> Iterator[str]:
    yield f"PostgreSQL {_server(plan.server_version)}, plan {plan.hash[:12]}"
    yield f"version N works through {plan.window.old_until}, version N+1 from {plan.window.new_from} on"
    yield f"advance without --to stops after {plan.automatic_target}"
    yield _undo_window(plan)
    for estimate in plan.estimates:
        yield f"{estimate.table}: about {_amount(estimate)}"
    if plan.hazards:
        yield f"warnings: {len(plan.hazards)}"


def _undo_window(plan: Plan) -> str:
    from zdmigrate.phases import PHASES

    if plan.undoable_until is PHASES[-1]:
        return "can be undone from every phase: zdmigrate revert"
    return f"can be undone until {plan.undoable_until} (zdmigrate revert); what comes after it is final"


def _step_facts(plan: Plan, step: Step) -> Iterator[tuple[str, str]]:
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


def _undo_sql(step: Step) -> list[str]:
    if step.irreversible or not step.undo:
        return []
    return step_sql(dataclasses.replace(step, do=step.undo, mode=step.undo_mode, rows=None))


def _blocked(lock: TableLock, mode: Mode) -> str:
    if lock.mode.blocks == "nothing" or mode not in ("transaction", "python"):
        return f"blocks {lock.mode.blocks}"
    return f"blocks {lock.mode.blocks} for an instant, and nobody waits longer than the lock timeout"


def _work(plan: Plan, step: Step) -> str:
    from zdmigrate.plan import Mode

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
    sizes = [f"{each.table}: {_amount(each)}" for each in _touched(plan, step)] if step.rows or step.scans else []
    return ", ".join([how, *([] if step.mode is Mode.VERIFY else [what]), *sizes])


def _touched(plan: Plan, step: Step) -> list[TableEstimate]:
    tables = {lock.table for lock in step.locks}
    if step.rows is not None:
        tables.add(f"{step.rows.schema}.{step.rows.table}")
    return [estimate for estimate in plan.estimates if estimate.table in tables] or list(plan.estimates)


def _gate(gate: Gate) -> str:
    from zdmigrate.plan import Direction

    when = "before" if gate.direction is Direction.FORWARD else "before undoing"
    override = _acceptance(gate.name) if gate.overridable else "; cannot be overridden"
    return f"{gate.name} ({when} {gate.phase}, else exit {gate.exit_code}): {gate.detail}{override}"


def _acceptance(gate: str | None) -> str:
    return "" if gate is None else f'; to pass it: --override {gate}="reason"'


def _amount(estimate: TableEstimate) -> str:
    return f"{estimate.rows:,} rows, {_size(estimate.bytes)}"


def _size(count: int) -> str:
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" or size >= 100 else f"{size:.1f} {units[0]}"


def _server(version: int) -> str:
    return f"{version // 10000}.{version % 10000}"


_SPECIAL = str.maketrans({character: "\\" + character for character in "\\`*_[]<>|#"})


def _inline(text: str) -> str:
    return " ".join(text.split()).translate(_SPECIAL)


def _fenced(lines: Sequence[str]) -> Iterator[str]:
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    yield f"{fence}sql"
    yield from lines
    yield fence
