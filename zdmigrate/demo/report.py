"""What came out of the demo: the comparison of every row, and the table that is printed."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from zdmigrate.demo.workload import Log

__all__ = ["Line", "Log", "Result", "Traffic", "compare", "show"]

_SHOWN = 10
_HEADINGS = ("stage", "engine", "N", "p50", "p99", "longest", "N+1", "p50", "p99", "longest")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One version's requests in one stage; `latencies` are sorted, in seconds."""

    latencies: Sequence[float]
    required: bool

    def percentile(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed."""
        return self.latencies[min(int(len(self.latencies) * share), len(self.latencies) - 1)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One stage: how long the engine worked in it, and what the versions did."""

    title: str
    seconds: float
    old: Traffic
    new: Traffic


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All of it. `failed` and `wrong` describe each failed request and each wrong or lost value."""

    stages: Sequence[Line]
    failed: Sequence[str]
    wrong: Sequence[str]
    compared: int
    lag_bytes: int
    lag_seconds: float
    lock_wait: float
    fewest: int

    @property
    def missing(self) -> list[str]:
        """Stages in which a version answered too few requests for the result to mean anything."""
        return [
            f"{name} answered {len(traffic.latencies)} requests in stage {line.title}, required are {self.fewest}"
            for line in self.stages
            for name, traffic in (("N", line.old), ("N+1", line.new))
            if traffic.required and len(traffic.latencies) < self.fewest
        ]

    @property
    def passed(self) -> bool:
        return not (self.failed or self.wrong or self.missing)


def compare(
    connection: psycopg.Connection[tuple[Any, ...]],
    logs: Sequence[Log],
    *,
    rows: int,
    hot: int,
    initial: Callable[[int], str],
) -> tuple[int, list[str]]:
    """Compare every row with what was last written to it; the number of rows, and what is wrong or lost."""
    expected: dict[int, str | None] = {id_: initial(id_) for id_ in range(hot + 1, rows + 1)}
    for log in logs:
        expected.update(log.rows)
    wrong: list[str] = []
    shared: dict[int | str, tuple[int, str | None]] = {}
    compared = 0
    with connection.transaction(), connection.cursor("users") as cursor:
        cursor.execute("SELECT id, email_address, name, revision FROM users")
        for id_, value, name, revision in cursor:
            compared += 1
            if id_ <= hot:
                shared[id_] = (revision, value)
            elif id_ in expected:
                found = expected.pop(id_)
                if value != found:
                    wrong.append(f"row {id_} holds {value!r}, written was {found!r}")
            else:
                shared[str(value)] = (revision, name)
    wrong += [f"row {id_} is lost, written was {value!r}" for id_, value in expected.items() if value is not None]
    wrong += _compare_hot(logs, shared, {id_: initial(id_) for id_ in range(1, hot + 1)})
    return compared, wrong


def _compare_hot(
    logs: Sequence[Log], found: dict[int | str, tuple[int, str | None]], initial: dict[int, str]
) -> Iterator[str]:
    """Every write of a hot row made one revision, no revision was made twice, and every read saw its write."""
    written: dict[tuple[int | str, int], str] = {(id_, 0): value for id_, value in initial.items()}
    times = Counter(place for log in logs for place in log.hot_writes)
    yield from (f"revision {rev} of {key!r} was written {n} times" for (key, rev), n in times.items() if n > 1)
    for log in logs:
        written.update(log.hot_writes)
    revisions = Counter(key for key, _ in written)
    for key, (revision, value) in found.items():
        if revisions[key] != revision + 1 or written.get((key, revision)) != value:
            yield f"{key!r} holds {value!r} in revision {revision}, {revisions[key] - 1} updates were made"
    yield from (f"row {key!r} is lost" for key in revisions if key not in found)
    for log in logs:
        for place, value in log.hot_reads.items():
            if written.get(place) != value:
                yield f"{log.version} read {value!r} in revision {place[1]} of {place[0]!r}: {written.get(place)!r}"


def show(result: Result, out: Callable[[str], None] | None) -> None:
    """Print the result: as text to `out`, else to stdout, with a drawn table on a terminal."""
    lines = [_cells(line) for line in result.stages]
    if out is None and sys.stdout.isatty():
        _draw(lines)
        print("\n".join(_conclusions(result)))
    else:
        (out or print)("\n".join([*_columns(lines), "", *_conclusions(result)]))


def _cells(line: Line) -> tuple[str, ...]:
    return (line.title, f"{line.seconds:.1f} s", *_traffic(line.old), *_traffic(line.new))


def _traffic(traffic: Traffic) -> tuple[str, str, str, str]:
    if not traffic.latencies:
        return ("-", "-", "-", "-")
    times = (traffic.percentile(0.5), traffic.percentile(0.99), traffic.latencies[-1])
    p50, p99, longest = (f"{seconds * 1000:.1f} ms" for seconds in times)
    return (f"{len(traffic.latencies):,}", p50, p99, longest)


def _columns(lines: list[tuple[str, ...]]) -> list[str]:
    table = [_HEADINGS, *lines]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADINGS))]
    return [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]  # fmt: skip


def _draw(lines: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Requests by version and stage; latency of a request with its read-back")
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    Console().print(table)


def _conclusions(result: Result) -> Iterator[str]:
    total = sum(len(t.latencies) for line in result.stages for t in (line.old, line.new))
    longest = max((t.latencies[-1] for line in result.stages for t in (line.old, line.new) if t.latencies), default=0)
    yield f"requests               {total:,}"
    yield f"failed requests        {len(result.failed)}"
    yield f"wrong or lost values   {len(result.wrong)}   ({result.compared:,} rows compared at the end)"
    yield f"longest request        {longest * 1000:.0f} ms   (nobody was blocked for longer)"
    yield f"longest wait for lock  {result.lock_wait * 1000:.0f} ms   (of a request, sampled)"
    yield f"highest replica lag    {result.lag_bytes / 1024:,.0f} kB, {result.lag_seconds * 1000:.0f} ms"
    for title, texts in (("failed", result.failed), ("wrong", result.wrong), ("missing", result.missing)):
        yield from (f"{title}: {' '.join(text.split())}" for text in texts[:_SHOWN])
        if len(texts) > _SHOWN:
            yield f"{title}: … and {len(texts) - _SHOWN} more"
    yield "passed" if result.passed else "FAILED"
