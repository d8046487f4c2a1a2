"""Plans and outcomes as text, Markdown and JSON. Pure: values in, text out."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zdmigrate import plan_words as words

if TYPE_CHECKING:
    from zdmigrate.backfill.forecasts.forecast import Forecast
    from zdmigrate.compat.evidence import Beside
    from zdmigrate.control.store import HistoryEntry
    from zdmigrate.engine.outcome import MigrationStatus
    from zdmigrate.engine.reporting import Event
    from zdmigrate.plan import PhasePlan, Plan, Step

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


def plan_json(plan: Plan, beside: Beside | None = None, forecasts: Sequence[Forecast] = ()) -> dict[str, Any]:
    """A plan's entry in the document of `zdmigrate plan`: the stored plan's JSON, with what follows from it."""
    proven = {} if beside is None else {"evidence": dataclasses.asdict(beside)}
    costs = [forecast.to_json() for forecast in forecasts]
    return {**plan.to_json(), "automatic_target": plan.automatic_target, "forecasts": costs, **proven}


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
    since = f", since {moment(status.since)}" if status.since else ""
    away = "" if status.here else "  (its file is not in this directory)"
    yield f"{status.id:<{width}}  {status.phase}{running}{since}{away}"
    if status.title:
        yield f"  {status.title}"
    if status.lease:
        yield f"  lease   {status.lease}"
    if status.hold:
        yield f"  hold    {status.hold.reason} ({status.hold.by}, {moment(status.hold.since)})"
    for gate in status.gates:
        yield f"  gate    {gate.name}: {'holds' if gate.satisfied else 'does not hold'}: {gate.detail}"
    if status.message:
        yield f"  {_verdict(status.exit_code):<7} {status.message}"
    if status.hint:
        yield f"  hint    {status.hint}"
    if status.quarantined:
        waiting = (
            "1 row could not be filled, and waits"
            if status.quarantined == 1
            else (f"{status.quarantined:,} rows could not be filled, and wait")
        )
        yield f"  rows    {waiting} in quarantine"
    if status.compared:
        from zdmigrate.engine.comparing import summed_up  # of the engine, which is loaded where there is a status

        yield f"  shadow  {summed_up(status.compared)}"
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
            moment(entry.at),
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


def moment(value: datetime) -> str:
    """A time for people."""
    return value.isoformat(sep=" ", timespec="seconds")


# Plans


def plan_text(plan: Plan, beside: Beside | None = None, forecasts: Sequence[Forecast] = ()) -> str:
    """A plan for a terminal, with what evidence says beside it, and what filling rows will cost."""
    lines = [plan.migration, *(f"  {fact}" for fact in _facts(plan, beside))]
    for part in plan.phases:
        lines += ["", *_phase_text(plan, part, beside, forecasts)]
    return "\n".join(lines) + "\n"


def _facts(plan: Plan, beside: Beside | None) -> list[str]:
    return [*words.facts(plan), *(() if beside is None else beside.facts)]


def _proven(part: PhasePlan, beside: Beside | None) -> str | None:
    return None if beside is None else beside.phases.get(part.phase)


def _step_facts(plan: Plan, step: Step, forecasts: Sequence[Forecast]) -> Iterator[tuple[str, str]]:
    yield from words.step_facts(plan, step)
    for forecast in forecasts:
        if forecast.step == step.id:
            yield from (("cost", line) for line in forecast.lines())


def _phase_text(plan: Plan, part: PhasePlan, beside: Beside | None, forecasts: Sequence[Forecast]) -> Iterator[str]:
    nothing = "" if part.steps else "  (nothing to do)"
    proven = _proven(part, beside)
    yield f"{part.phase}{nothing}{f'  ({proven})' if proven else ''}"
    for gate in part.gates:
        yield f"  gate  {words.gate_text(gate)}"
    for hazard in plan.hazards:
        if hazard.phase is part.phase:
            yield f"  warn  {hazard.id}: {hazard.message}"
            yield f"        {hazard.remedy}{words.acceptance(hazard.accept)}"
    for number, step in enumerate(part.steps, start=1):
        yield f"  {number}. {step.title}  [{step.id}]"
        yield from (f"       {line}" for line in words.step_sql(step))
        for name, text in _step_facts(plan, step, forecasts):
            yield f"     {name:<5} {text}"
        yield from (f"       {line}" for line in words.undo_sql(step))


def plan_markdown(plan: Plan, beside: Beside | None = None, forecasts: Sequence[Forecast] = ()) -> str:
    """A plan for a pull request, with what evidence says beside it, and what filling rows will cost."""
    lines = [f"## {words.inline(plan.migration)}", "", *(f"- {words.inline(fact)}" for fact in _facts(plan, beside))]
    for part in plan.phases:
        lines += ["", f"### {part.phase}", *_phase_markdown(plan, part, beside, forecasts)]
    return "\n".join(lines) + "\n"


def _phase_markdown(plan: Plan, part: PhasePlan, beside: Beside | None, forecasts: Sequence[Forecast]) -> Iterator[str]:
    proven = _proven(part, beside)
    notes = [f"- {words.inline(proven)}"] if proven else []
    notes += [f"- **gate** {words.inline(words.gate_text(gate))}" for gate in part.gates]
    notes += [
        f"- **{words.inline(hazard.id)}** {words.inline(hazard.message)} *{words.inline(hazard.remedy)}*"
        + words.inline(words.acceptance(hazard.accept))
        for hazard in plan.hazards
        if hazard.phase is part.phase
    ]
    if notes:
        yield from ("", *notes)
    if not part.steps:
        yield from ("", "Nothing to do.")
    for number, step in enumerate(part.steps, start=1):
        yield from ("", f"{number}. {words.inline(step.title)} (`{step.id}`)", "")
        yield from (f"   {line}".rstrip() for line in words.fenced(words.step_sql(step)))
        yield ""
        yield from (f"   - **{name}** {words.inline(text)}" for name, text in _step_facts(plan, step, forecasts))
        if undo := words.undo_sql(step):
            yield ""
            yield from (f"     {line}".rstrip() for line in words.fenced(undo))


def plans_sql(plans: Sequence[Plan]) -> str:
    """The forward SQL of several plans, nothing else; for reading, not for running by hand."""
    return "\n".join(f"-- migration {plan.migration}\n{plan.to_sql()}" for plan in plans)
