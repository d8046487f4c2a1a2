"""``zdmigrate demo --example``: an example's folder, live, on a scratch server."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from zdmigrate.config import Config
from zdmigrate.demo.example import ROWS, Example
from zdmigrate.demo.journey import Journey
from zdmigrate.demo.traffic import Findings, Traffic
from zdmigrate.demo.workload import Version
from zdmigrate.engine.project import Project
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.errors import ServerUnavailable
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries, available_majors, find_binaries

__all__ = ["run_example"]

FEWEST = 25
"""Requests of each kind that each version at work makes in each phase."""
_SHOWN = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """From the start of a phase to the start of the next one; `seconds` is what the engine took."""

    phase: Phase
    seconds: float


def run_example(
    example: Example,
    *,
    rows: int = ROWS,
    report: Reporter = lambda _: None,
    out: Callable[[str], None] = print,
    fewest: int = FEWEST,
) -> int:
    """Take an example from nothing to `contract` with both versions at work; returns the exit code.

    Each version works in the phases in which the plan says that it does, also while their steps run.

    Raises:
        ServerUnavailable: no PostgreSQL to start that the example is for.
        UsageError: the example's facts are wrong.
        ZdmigrateError: the engine refused something.
    """
    tell = _teller(report, example.name)
    with ScratchServer.start(_binaries(example)) as server:
        with server.connect() as connection:
            connection.execute(example.seed(rows).encode())
            connection.execute("ANALYZE")
        tell(f"PostgreSQL {server.major}; {rows:,} rows")
        config = Config(url=server.url(), dir=example.migrations)
        with (
            Project.open(config, report=report) as project,
            Traffic(example, server.url(driver="psycopg")) as traffic,
        ):
            project.init(environment="development", app_role=None, confirmed=True)
            stages = list(_stages(Journey(project, example, traffic), traffic, fewest, tell))
            compared = traffic.compare()
    out("\n".join(_text(stages, traffic.findings, compared)))
    return 1 if traffic.findings.violations else 0


def _stages(journey: Journey, traffic: Traffic, fewest: int, tell: Callable[[str], None]) -> Iterator[_Stage]:
    for phase in Phase:
        started = time.monotonic()
        if phase is Phase.NONE:
            journey.begin()
        else:
            journey.forward(phase)
        seconds = time.monotonic() - started
        traffic.hold(fewest)
        counts = ", ".join(f"{version} {traffic.findings.total(version, str(phase))}" for version in Version)
        tell(f"{phase}: requests {counts}; failed or wrong so far {len(traffic.findings.violations)}")
        yield _Stage(phase=phase, seconds=seconds)


def _text(stages: Sequence[_Stage], findings: Findings, compared: int) -> Iterator[str]:
    heading = ["phase", "engine"]
    for version in Version:
        heading += [str(version), "failed", "slowest"]
    table = [heading, *([str(s.phase), f"{s.seconds:.2f} s", *_cells(s, findings)] for s in stages)]
    widths = [max(len(row[i]) for row in table) for i in range(len(heading))]
    for row in table:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others])
    slowest = max(findings.slowest.values(), default=0.0)
    yield ""
    yield f"requests               {findings.requests.total():,}"
    yield f"failed requests        {len(findings.failed)}"
    yield f"wrong or lost values   {len(findings.wrong)}   ({compared:,} rows compared at the end)"
    yield f"slowest request        {slowest * 1000:.0f} ms"
    for title, texts in (("failed", findings.failed), ("wrong", findings.wrong)):
        yield from (f"{title}: {text}" for text in texts[:_SHOWN])
        if len(texts) > _SHOWN:
            yield f"{title}: … and {len(texts) - _SHOWN} more"
    yield "FAILED" if findings.violations else "passed"


def _cells(stage: _Stage, findings: Findings) -> Iterator[str]:
    for version in Version:
        total, key = findings.total(version, str(stage.phase)), (version, str(stage.phase))
        if total:
            yield from (f"{total:,}", str(findings.bad[key]), f"{findings.slowest[key] * 1000:.0f} ms")
        else:
            yield from ("-", "-", "-")


def _binaries(example: Example) -> ServerBinaries:
    """The usual server if the example is for it, else the newest one that it is for."""
    usual = find_binaries()
    if usual.major in example.majors:
        return usual
    there = [major for major in available_majors() if major in example.majors]
    if not there:
        supported = ", ".join(map(str, example.majors))
        raise ServerUnavailable(
            f"{example.name} is for PostgreSQL {supported}, and none of them was found",
            hint="install one of them, or name its binaries in ZDMIGRATE_PG_BIN",
        )
    return find_binaries(max(there))


def _teller(report: Reporter, name: str) -> Callable[[str], None]:
    return lambda text: report(Event(kind=EventKind.NOTE, migration=name, message=text))
