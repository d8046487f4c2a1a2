"""What the statements that the server counts say about a shape that is about to go."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from zdmigrate.app.shapes import Shape, Trait
from zdmigrate.control import statements as counts
from zdmigrate.control.statements import Counted, Look, Reading
from zdmigrate.control.store import Record, Store
from zdmigrate.engine import statements
from zdmigrate.engine.draining import Findings
from zdmigrate.postgres.session import Connection
from zdmigrate.wording import counted


def look(
    connection: Connection, store: Store, record: Record, leaving: Shape, *, grace: timedelta, keeping: bool
) -> Findings:
    """Compare with the last look: what has run since then, or was found to have less than `grace` ago, speaks against it.

    `keeping`: this look is kept for the next one, in a transaction of its own that waits for nobody.
    """
    all_traits = record.shapes.old if leaving is Shape.OLD else record.shapes.new
    traits = statements.nameable(all_traits)
    if not traits:
        return Findings(unseen=("statements: no name tells the shapes apart",))
    reading = counts.read(connection, statements.words(traits))
    if reading.at is None:
        return Findings(unseen=(f"statements: {reading.problem}",))
    found = {c.key: c for c in reading.counted if statements.touches(c.text, traits, reading.reserved)}
    before = counts.last(connection, store, record.key, leaving)
    after = counts.compared(before, reading.at, found.values(), reading.forgotten)
    kept = counts.keep(connection, store, record.key, leaving, after) if keeping else None
    against = tuple(_ran(after, found, reading.at - grace))
    blind = [*_blind(traits, all_traits, reading, before)]
    blind += [f"this look could not be kept: {kept}"] if kept else []
    unseen = (f"statements: {', '.join(blind)}",) if blind else ()
    if before is None:
        waits = (
            f"are counted from {_at(after.since)} on" if keeping and kept is None else "are counted once advance looks"
        )
        return Findings(unseen=(f"statements before that: they {waits}", *unseen))
    moments = (before.since, reading.reset, *(mark.ran_at for mark in after.marks.values()))
    noted = () if against else (f"no statement has named it since {_at(max(filter(None, moments)))}",)
    return Findings(against=against, noted=noted, unseen=unseen)


def _ran(after: Look, found: dict[counts.Key, Counted], newest: datetime) -> Iterator[str]:
    lately = [(mark.ran_at, key, mark.ran) for key, mark in after.marks.items() if mark.ran_at and mark.ran_at > newest]
    for _, key, ran in sorted(lately, reverse=True):
        statement = found.get(key)
        times = f"ran {counted(ran, 'time')} since {_at(after.since)}"
        if statement is None:
            yield f"a statement {times}, and the server has forgotten it since"
        else:
            yield f"statement of role {statement.role}, {times}: {statements.cut(statement.text)}"


def _blind(traits: tuple[Trait, ...], every: tuple[Trait, ...], reading: Reading, before: Look | None) -> Iterator[str]:
    """What names do not tell, and what the server does not say."""
    if any(trait.column is not None for trait in traits):
        yield "SELECT *"
    if len(traits) < len(every):
        yield "those that differ only in a type"
    if reading.track == "none":
        yield "none is counted (pg_stat_statements.track = none)"
    elif reading.track != "all":
        yield "those in functions"
    if reading.hidden:
        yield f"{reading.hidden} runs of other roles' (GRANT pg_read_all_stats)"
    if reading.lost:
        yield f"{reading.lost} without their text"
    first = None if before is None else before.forgotten
    if first is not None and reading.forgotten and reading.forgotten != first:  # 0 after a reset
        yield "those that made room for others meanwhile (pg_stat_statements.max)"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
