"""Backfills and quarantined rows as text and JSON. Pure: values in, text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

from zdmigrate.cli.rendering import moment
from zdmigrate.engine.quarantining import outcomes, result_text
from zdmigrate.engine.steering import limit_text
from zdmigrate.errors import Contended, Waiting
from zdmigrate.wording import counted, sized, spoken

if TYPE_CHECKING:
    from zdmigrate.backfill.bad_rows.quarantine import Entry
    from zdmigrate.backfill.control import Control, Process, Table
    from zdmigrate.engine.quarantining import Listing, Retried
    from zdmigrate.engine.steering import BackfillStatus

Redact = Callable[[str], str]

# Backfills -----------------------------------------------------------------------------------------------------------


def status_json(status: BackfillStatus, redact: Redact) -> dict[str, Any]:
    """A backfill's entry in the document. Durations are seconds, sizes bytes."""
    found: dict[str, Any] = cleaned(dataclasses.asdict(status), redact)
    return found


def status_text(status: BackfillStatus) -> str:
    """A block: where it stands, what was said, the tables, the processes."""
    return "".join(f"{line}\n" for line in _status_lines(status))


def _status_lines(status: BackfillStatus) -> Iterator[str]:
    yield f"{status.id}  {status.phase}{', backfill is under way' if status.under_way else ''}"
    if status.hold:
        yield f"  hold     {status.hold.reason} ({status.hold.by}, {moment(status.hold.since)})"
    yield from _control_lines(status.control)
    yield from (f"  table    {_table_text(table)}" for table in status.tables)
    if status.under_way and not status.processes:
        yield "  process  none"
    for process in status.processes:
        yield from _process_lines(process)
    if status.quarantined:
        rows = counted(status.quarantined, "row")
        yield f"  rows     {rows} could not be filled: zdmigrate quarantine list {status.id}"


def _control_lines(control: Control) -> Iterator[str]:
    if control.paused:
        since = moment(control.paused_at) if control.paused_at else ""
        yield f"  paused   {control.reason or 'no reason given'} ({control.paused_by}, {since})"
    if control.limits:
        said = ", ".join(f"{name} {limit_text(name, value)}" for name, value in control.limits.items())
        by = f" ({control.changed_by}, {moment(control.changed_at)})" if control.changed_at else ""
        yield f"  set      {said}{by}"


def _table_text(table: Table) -> str:
    if table.done:
        return f"{table.name}: done, {table.rows:,} rows"
    share = f" ({100 * table.page // table.pages} %)" if table.pages else ""
    return f"{table.name}: {table.rows:,} rows, page {table.page:,} of {table.pages:,}{share}"


def _process_lines(process: Process) -> Iterator[str]:
    yield f"  process  {process.host} (process {process.pid}), since {moment(process.started_at)}{_silence(process)}"
    document = process.document if isinstance(process.document, Mapping) else {}
    if pace := ", ".join(_pace(document)):
        yield f"           {pace}"
    if strategy := document.get("strategy"):
        yield f"           {strategy}{f': {why}' if (why := document.get('why')) else ''}"
    throttles = document.get("throttles")
    for throttle in throttles if isinstance(throttles, list) else []:
        if isinstance(throttle, Mapping) and throttle.get("healthy") is False:
            yield f"  stopped  {_throttle_text(throttle)}"
            yield from (f"           {said}" for name in ("reason", "hint") if (said := throttle.get(name)))


def _silence(process: Process) -> str:
    if process.expired_for is None:
        return ""
    return f"; its lease ran out {spoken(process.expired_for)} ago: what it had claimed is free"


_PACE: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("rows", lambda value: f"{value:,.0f} rows"),
    ("rows_per_second", lambda value: f"{value:,.0f} rows/s"),
    ("eta_seconds", lambda value: f"{_spoken(value)} to go"),
    ("wal_bytes_per_second", lambda value: f"{sized(value)}/s of WAL"),
    ("p95_ms", lambda value: f"p95 {value:.0f} ms"),
    ("lag_bytes", lambda value: f"lag {sized(value)}"),
    ("lag_seconds", lambda value: f"{value:.1f} s behind"),
    ("workers", lambda value: f"{value:.0f} at work"),
)
_LONGEST = timedelta(days=36500).total_seconds()


def _pace(document: Mapping[str, Any]) -> Iterator[str]:
    """What a process says in numbers, as far as it says so: another version may say something else."""
    for name, text in _PACE:
        value = document.get(name)
        if _is_number(value):
            yield text(value)


def _throttle_text(throttle: Mapping[str, Any]) -> str:
    threshold = throttle.get("threshold")
    allowed = "" if threshold is None else f" (allowed {threshold})"
    stopped = throttle.get("stopped_seconds")
    since = f", for {_spoken(stopped)}" if _is_number(stopped) else ""
    return f"{throttle.get('name')}: {throttle.get('value')}{allowed}{since}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _spoken(seconds: float) -> str:
    return spoken(timedelta(seconds=min(seconds, _LONGEST)))


# Quarantine ----------------------------------------------------------------------------------------------------------


def listing_json(listing: Listing, redact: Redact) -> dict[str, Any]:
    """A migration's entry in the document."""
    entries = [entry_json(entry, redact) for entry in listing.entries]
    return {"id": listing.id, "open": listing.open, "entries": entries}


def entry_json(entry: Entry, redact: Redact) -> dict[str, Any]:
    """A row that was set aside; `row` is its name as messages have it."""
    found: dict[str, Any] = cleaned({**dataclasses.asdict(entry), "row": entry.row}, redact)
    return found


def listing_text(listing: Listing) -> str:
    """A line for each row, below their migration."""
    left = listing.open - sum(entry.resolved_at is None for entry in listing.entries)
    lines = [f"{listing.id}  {counted(listing.open, 'row')} in quarantine"]
    for entry in listing.entries:
        lines += _entry_lines(entry)
    if left > 0:
        lines.append(f"  … and {left:,} more: --limit {len(listing.entries) + left}")
    return "".join(f"{line}\n" for line in lines)


def _entry_lines(entry: Entry) -> Iterator[str]:
    attempts = "" if entry.attempts == 1 else f", {entry.attempts} attempts"
    yield f"  {entry.number}  {entry} [{moment(entry.at)}{attempts}]"
    if entry.data:
        values = (f"{name}={'NULL' if value is None else repr(value)}" for name, value in entry.data.items())
        yield f"      data     {', '.join(values)}"
    if entry.resolved_at is not None:
        yield f"      settled  {entry.resolution} ({entry.resolved_by}, {moment(entry.resolved_at)})"


def retried_json(retried: Retried, redact: Redact) -> dict[str, Any]:
    """What a retry did, row by row."""
    rows = [
        {
            "number": tried.entry.number,
            "row": redact(tried.entry.row),
            "result": tried.result,
            "sqlstate": tried.failure and tried.failure.sqlstate,
            "message": tried.failure and redact(tried.failure.message),
        }
        for tried in retried.tried
    ]
    return {"id": retried.id, "open": retried.open, "verify": retried.doubtful, "rows": rows}


def retried_text(retried: Retried) -> str:
    """The sums, and the rows that are left."""
    if not retried.tried:
        return ""
    lines = [f"{retried.id}  {outcomes(retried.tried)}"]
    for tried in retried.tried:
        if tried.failure is not None:
            said = f"{tried.failure.message} (SQLSTATE {tried.failure.sqlstate})"
            lines.append(f"  {tried.entry.number}  {tried.entry.row}: {said}")
        elif tried.is_open:
            lines.append(f"  {tried.entry.number}  {tried.entry.row}: {result_text(tried.result)}")
    if retried.doubtful:
        lines.append(f"  next    zdmigrate verify {retried.id}    (rows without a key may have gone elsewhere)")
    return "".join(f"{line}\n" for line in lines)


def retried_code(retried: Retried | None) -> int:
    """Waiting while rows fail, contended while they are only locked."""
    tried = () if retried is None else retried.tried
    if any(each.failure is not None for each in tried):
        return Waiting.exit_code
    return Contended.exit_code if any(each.is_open for each in tried) else 0


def resolved_text(listing: Listing) -> str:
    """What was settled by hand, and what that means."""
    return (
        f"{listing.id}  {counted(len(listing.entries), 'row')} settled, {listing.open} in quarantine\n"
        f"  next    zdmigrate verify {listing.id}    (once the backfill is complete)\n"
    )


def cleaned(value: Any, redact: Redact) -> Any:
    """`value` with every text in it redacted."""
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: cleaned(each, redact) for key, each in value.items()}
        case list() | tuple():
            return [cleaned(each, redact) for each in value]
        case _:
            return value
