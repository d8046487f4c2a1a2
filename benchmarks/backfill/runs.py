"""One variant, measured once: on a fresh copy of the table, with the load, bracketed by the load alone."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from psycopg.conninfo import make_conninfo

from benchmarks.backfill import job, lag, table, wal
from benchmarks.backfill.lag import Lag
from benchmarks.backfill.load import Latency, load
from benchmarks.backfill.variants import VARIANTS, Variant
from zdmigrate.postgres.servers import ScratchServer, find_binaries

_DATABASE = "run"
_WARM_UP = 2.0
_WAL_PER_ROW = 1_000
"""Bytes: about what the one of all the ways writes that writes most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What all runs have in common: rows of the table, queries a second, seconds of load alone before and after."""

    rows: int
    rate: int
    baseline: float


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """Of latencies, in seconds."""

    count: int
    p50: float
    p99: float
    longest: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run showed. WAL is without the load's; growth is a share; seconds are since 1970, or lengths."""

    variant: str
    rows: int
    began: float
    seconds: float
    wal_bytes: int
    image_bytes: int
    heap_growth: float
    index_growth: dict[str, float]
    growth_of_indexes: float
    hot_share: float
    alone: Summary
    during: Summary
    lag_seconds: float
    lag_bytes: int
    peak_memory: int
    latencies: list[Latency] = dataclasses.field(repr=False)
    lags: list[Lag] = dataclasses.field(repr=False)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def wal_per_row(self) -> float:
        return self.wal_bytes / self.rows

    @property
    def images_per_row(self) -> float:
        return self.image_bytes / self.rows

    @property
    def latency_ratio(self) -> float:
        """p99 with the backfill, over p99 without."""
        return self.during.p99 / self.alone.p99


class Stage:
    """A primary with one streaming replica, and the table as templates; made by `stage`."""

    def __init__(self, primary: ScratchServer, replica: ScratchServer, conditions: Conditions) -> None:
        self.primary, self.replica, self.conditions = primary, replica, conditions

    def run(self, name: str) -> Run:
        """Measure a variant once."""
        variant = VARIANTS[name]
        table.copy(self.primary, _DATABASE, _template(variant.fillfactor))
        try:
            lag.await_replica(self.primary, self.replica)
            wal.recycle(self.primary, self.replica)
            return self._measure(name, variant)
        finally:
            self.primary.drop_database(_DATABASE)

    def _measure(self, name: str, variant: Variant) -> Run:
        rows, baseline = self.conditions.rows, self.conditions.baseline
        with self.primary.connect(_DATABASE) as connection, self.primary.connect() as outside:
            if not variant.trigger:
                table.drop_triggers(connection)
            before = table.sizes(connection)
            with (
                load(self.primary, _DATABASE, rows=rows, rate=self.conditions.rate) as latencies,
                lag.sampled(self.primary, self.replica) as samples,
            ):
                time.sleep(_WARM_UP)
                measured_from = time.time()
                time.sleep(baseline)
                begin = wal.now(outside)
                done = job.run(name, self._conninfo(variant))
                end = wal.now(outside)
                after = table.sizes(connection)
                time.sleep(baseline)
            hot = table.hot_share(connection)
            fills = variant.trigger and not variant.control
            assert not fills or table.unfilled(connection) == 0, f"{name} left rows unfilled"
            images = wal.image_bytes(outside, begin, end)
        lags = lag.lags([sample for sample in samples if sample.at >= done.began])
        return Run(
            variant=name,
            rows=rows,
            began=done.began,
            seconds=done.seconds,
            wal_bytes=begin.written_until(end),
            image_bytes=images,
            heap_growth=before.heap_growth(after),
            index_growth=before.index_growth(after),
            growth_of_indexes=before.growth_of_indexes(after),
            hot_share=hot,
            alone=_summary(
                [
                    *between(latencies, measured_from, done.began),
                    *between(latencies, drained(latencies, done.ended), float("inf")),
                ]
            ),
            during=_summary(between(latencies, done.began, done.ended)),
            lag_seconds=max(each.seconds for each in lags),
            lag_bytes=max(each.bytes for each in lags),
            peak_memory=done.peak_memory,
            latencies=between(latencies, measured_from, float("inf")),
            lags=lags,
        )

    def _conninfo(self, variant: Variant) -> str:
        if not variant.compression:
            return self.primary.conninfo(_DATABASE, user=table.OWNER)
        conninfo = self.primary.conninfo(_DATABASE, user=table.COMPRESSOR)
        return make_conninfo(conninfo, options="-c wal_compression=on")


@contextlib.contextmanager
def stage(conditions: Conditions, fillfactors: set[int], *, base: Path | None, folder: Path) -> Iterator[Stage]:
    """Servers and templates for as long as the context is open."""
    with ScratchServer.start(find_binaries(18), settings=settings(conditions.rows), fsync=True, base=base) as primary:
        table.prepare(primary)
        with primary.connect() as connection:
            wal.prepare(connection)
        replica = primary.start_replica("replica1")
        migrations = table.write_project(folder)
        for fillfactor in sorted(fillfactors):
            table.build(
                primary, _template(fillfactor), rows=conditions.rows, fillfactor=fillfactor, migrations=migrations
            )
        wal.fill_up(primary, replica, conditions.rows * _WAL_PER_ROW)
        yield Stage(primary, replica, conditions)


def settings(rows: int) -> dict[str, str]:
    """No autovacuum and no checkpoint in the middle, which would differ from run to run; the table fits into memory.

    Files of WAL are used again (`wal.fill_up`), as on a server that has been at work for long.
    """
    return {
        "autovacuum": "off",
        "checkpoint_timeout": "1d",
        "max_wal_size": f"{max(1, rows * 3 // 10**6)}GB",
        "min_wal_size": f"{max(80, rows * _WAL_PER_ROW * 2 // 10**6)}MB",
        "maintenance_work_mem": "256MB",
        "shared_buffers": "512MB",
        "wal_level": "replica",
    }


def between(latencies: Sequence[Latency], first: float, end: float) -> list[Latency]:
    """Those that were due then; they are in order of time."""
    low, high = (bisect.bisect_left(latencies, moment, key=lambda latency: latency.due) for moment in (first, end))
    return list(latencies[low:high])


def drained(latencies: Sequence[Latency], moment: float) -> float:
    """When all that was due before that moment had its answer, and so had all that queued up meanwhile."""
    while (end := max((each.due + each.seconds for each in between(latencies, 0, moment)), default=moment)) > moment:
        moment = end
    return moment


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _summary(latencies: Sequence[Latency]) -> Summary:
    values = [latency.seconds for latency in latencies]
    if not values:
        return Summary(0, float("nan"), float("nan"), float("nan"))
    return Summary(len(values), quantile(values, 0.5), quantile(values, 0.99), max(values))


def _template(fillfactor: int) -> str:
    return f"template_{fillfactor}"
