"""How long a migration makes an application wait: every example on a large table, in use all the time.

``python -m benchmarks.blocking --rows 2000000 [--back] [--example NAME]...`` on a scratch server. Prints a Markdown table.
What is measured:

* **Longest query**: four sessions in processes of their own read a row, change another column of one, and delete one and
  insert it again, all by the primary key, one query every few milliseconds; as version N, and from the phase on that
  takes the old shape away, as N+1. The step is the one that was running when the query began. No two sessions write the
  same row. A query that fails is an error of the migration, and fails the example.
* **Longest hold**: how long one transaction held ACCESS EXCLUSIVE on a relation that was there before the phase, as
  pg_locks shows it to another process about once a millisecond, as "at least – at most" (see tests/support/lockwatch.py).
  The time that the migration itself waited for the lock is not in it: whoever queues behind it shows in the longest query.
* **Without a migration**: the same sessions and queries before it begins: how long all but one in a thousand took, and
  the longest. It says what the machine alone does.

An example fails, and with it the program, where a hold certainly lasted longer than 50 ms, and also longer than all but
one in a thousand queries without a migration: where the machine itself makes so many wait, the hold says nothing.

The seed is written with fsync off; it is on while something is measured, so that a hold includes the flush of its commit.
The sessions have synchronous_commit off: what they wait for is not the disk. `--back` goes forward as far as it can be
undone, back again, and forward once more through all phases.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from benchmarks.foreground import Foreground, Latency, Measured, columns, foreground
from tests.support.examples import FOLDER, NAMES
from tests.support.lockwatch import Hold, Watched, lockwatch, longest
from zdmigrate.config import Config
from zdmigrate.demo.example import Example
from zdmigrate.engine.outcome import Outcome
from zdmigrate.engine.project import Project
from zdmigrate.engine.reporting import Event, EventKind
from zdmigrate.errors import ZdmigrateError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Plan
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

LIMIT = 0.050
BASELINE = "without a migration"
PAUSE = "not measured"
SETTINGS = {
    "autovacuum": "off",  # it takes locks of its own, and would differ from run to run
    "maintenance_work_mem": "256MB",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "wal_level": "replica",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """One phase, done or undone."""

    phase: Phase
    back: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """Moves that make one row of the table."""

    title: str
    moves: tuple[Move, ...]


@dataclasses.dataclass(slots=True)
class Timeline:
    """What ran when: (begin, leg, what), in order of time."""

    entries: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    leg: str = ""

    def note(self, what: str) -> None:
        self.entries.append((time.monotonic(), self.leg, what))

    def at(self, moment: float) -> tuple[str, str]:
        """The leg and the step of a moment."""
        index = bisect.bisect_right(self.entries, moment, key=lambda entry: entry[0]) - 1
        return self.entries[max(index, 0)][1:]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table."""

    example: str
    leg: str
    noise: float
    longest_noise: float
    query: Latency
    query_step: str
    hold: Hold | None
    hold_step: str
    gap: float
    errors: tuple[str, ...]

    @property
    def complaints(self) -> Iterator[str]:
        for error in self.errors:
            yield f"{self.example}, {self.leg}: a query failed: {error}"
        if self.hold is not None and self.hold.at_least > max(LIMIT, self.noise):
            yield f"{self.example}, {self.leg}: ACCESS EXCLUSIVE for more than {LIMIT * 1000:.0f} ms in {self.hold_step}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--back", action="store_true", help="also back again")
    parser.add_argument("--baseline", type=float, default=10.0, help="seconds of foreground without a migration")
    parser.add_argument("--example", action="append", help="only this one; may be repeated")
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    arguments = parser.parse_args()
    if unknown := set(arguments.example or ()) - set(NAMES):
        parser.error(f"no such example: {', '.join(sorted(unknown))}")
    chosen = [Example.load(FOLDER / name) for name in arguments.example or NAMES]
    results: list[Result] = []
    complaints: list[str] = []
    with ScratchServer.start(find_binaries(arguments.major), settings=SETTINGS) as server:
        for example in chosen:
            if server.major in example.majors:
                try:
                    results += measure(server, example, arguments.rows, arguments.baseline, back=arguments.back)
                except ZdmigrateError as error:
                    complaints.append(f"{example.name}: {error.message}")
        print(markdown(results, arguments.rows, server.major))
    if not results:
        complaints.append(f"nothing was measured: no chosen example runs on PostgreSQL {server.major}, or none ended")
    complaints += [complaint for result in results for complaint in result.complaints]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def measure(server: ScratchServer, example: Example, rows: int, baseline: float, *, back: bool) -> list[Result]:
    """One example, in a database of its own."""
    began = time.monotonic()
    server.create_database(example.name)
    try:
        seed(server, example, rows)
        results = journey(server, example, baseline, back=back)
    finally:
        server.drop_database(example.name)
    print(f"{example.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return results


def seed(server: ScratchServer, example: Example, rows: int) -> None:
    fsync(server, "off")
    with server.connect(example.name) as connection:
        connection.execute(example.seed(rows).encode())
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    fsync(server, "on")


def fsync(server: ScratchServer, value: str) -> None:
    with server.connect() as connection:
        connection.execute(f"ALTER SYSTEM SET fsync = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")


def journey(server: ScratchServer, example: Example, baseline: float, *, back: bool) -> list[Result]:
    timeline = Timeline()

    def report(event: Event) -> None:
        if event.kind is EventKind.STEP:
            timeline.note(f"{event.phase}: {event.message}")

    config = Config(url=server.url(example.name), dir=example.migrations, lock_budget=timedelta(minutes=5))
    with (
        server.connect(example.name) as connection,
        Project.open(config, report=report) as project,
        lockwatch(server.conninfo(), example.name) as locks,
        foreground(server.conninfo(example.name)) as (sessions, measured),
    ):
        project.init(environment="development", app_role=None, confirmed=True)
        plans = project.plan([])
        sessions.play(example.old, touched(example, plans))
        timeline.leg = BASELINE
        timeline.note("nothing")
        time.sleep(baseline)
        legs = itinerary(plans, back=back)
        for leg in legs:
            for move in leg.moves:
                timeline.leg = PAUSE
                timeline.note("between two phases")
                locks.know(connection)
                play_for(move, sessions, example, plans)
                timeline.leg = leg.title
                timeline.note(f"{move.phase}: begin")
                go(project, move, example, plans)
        timeline.leg = PAUSE
        timeline.note("the end")
    return [result(example, leg, timeline, measured, locks) for leg in legs]


def itinerary(plans: Sequence[Plan], *, back: bool) -> list[Leg]:
    forward = Leg(title="forward", moves=tuple(Move(phase) for phase in PHASES[1:]))
    if not back:
        return [forward]
    furthest = min((plan.undoable_until for plan in plans), key=lambda phase: phase.position)
    there = tuple(Move(phase) for phase in PHASES[1 : furthest.position + 1])
    return [
        Leg(title="forward", moves=there),
        Leg(title="back", moves=tuple(Move(move.phase, back=True) for move in reversed(there))),
        dataclasses.replace(forward, title="forward again"),
    ]


def touched(example: Example, plans: Sequence[Plan]) -> set[str]:
    """The columns, as ``table.column``, that the migrations work on, or that only one of the versions has."""
    old, new = columns(example.old), columns(example.new)
    return {".".join(name.split(".")[-2:]) for plan in plans for name in plan.touches} | (old ^ new)


def play_for(move: Move, sessions: Foreground, example: Example, plans: Sequence[Plan]) -> None:
    """Be the version that lives through this phase: N as long as it works after it."""
    old_until = min(plan.window.old_until.position for plan in plans)
    version = example.old if move.phase.position <= old_until else example.new
    sessions.play(version, touched(example, plans))


def go(project: Project, move: Move, example: Example, plans: Sequence[Plan]) -> None:
    if not move.back:
        accept(project.advance([], target=move.phase, overrides=example.overrides))
        return
    for plan in reversed(plans):
        done = project.revert(plan.migration, target=move.phase.previous, overrides=example.overrides, allow_lossy=True)
        accept(done)
        accept(project.unhold(plan.migration))


def accept(outcome: Outcome) -> None:
    for status in outcome.migrations:
        if status.exit_code:
            raise ZdmigrateError(f"{status.id}: exit {status.exit_code}: {status.message}", hint=status.hint)


def result(example: Example, leg: Leg, timeline: Timeline, measured: Measured, locks: Watched) -> Result:
    def slowest_first(of: str) -> list[Latency]:
        during = (latency for latency in measured.latencies if timeline.at(latency.began)[0] == of)
        return sorted(during, key=lambda latency: latency.seconds, reverse=True)

    before = slowest_first(BASELINE)
    query = slowest_first(leg.title)[0]
    hold = longest(hold for hold in locks.holds if timeline.at(hold.since)[0] == leg.title)
    errors = dict.fromkeys(
        f"{text} (in {timeline.at(at)[1]})" for at, text in measured.errors if timeline.at(at)[0] == leg.title
    )
    return Result(
        example=example.name,
        leg=leg.title,
        noise=before[len(before) // 1000].seconds,
        longest_noise=before[0].seconds,
        query=query,
        query_step=timeline.at(query.began)[1],
        hold=hold,
        hold_step="" if hold is None else timeline.at(hold.since)[1],
        gap=locks.longest_gap,
        errors=tuple(errors),
    )


def markdown(results: list[Result], rows: int, major: int) -> str:
    lines = [
        f"PostgreSQL {major}, {rows:,} rows, milliseconds:",
        "",
        "| example | way | without a migration | longest query | its step | longest hold | its step |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    return "\n".join(lines)


def cells(result: Result) -> Iterator[str]:
    yield result.example
    yield result.leg
    yield f"{result.noise * 1000:.0f}, {result.longest_noise * 1000:.0f}"
    yield f"{result.query.seconds * 1000:.0f}"
    yield result.query_step
    hold = result.hold
    yield f"< {result.gap * 1000:.0f}" if hold is None else f"{hold.at_least * 1000:.0f}–{hold.at_most * 1000:.0f}"
    yield result.hold_step


if __name__ == "__main__":
    raise SystemExit(main())
