"""The figures with a target, from what was measured. Pure."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.backfill.runs import Run
from benchmarks.backfill.scale import Size


@dataclasses.dataclass(slots=True)
class Measured:
    """All that was measured."""

    runs: list[Run] = dataclasses.field(default_factory=list)
    sizes: list[Size] = dataclasses.field(default_factory=list)
    restarts: list[float] = dataclasses.field(default_factory=list)

    def of(self, variant: str) -> list[Run]:
        """Its runs; empty where it was not measured."""
        return [run for run in self.runs if run.variant == variant]

    def median(self, variant: str, value: Callable[[Run], float]) -> float:
        """Over the runs of a variant."""
        return statistics.median(value(run) for run in self.of(variant))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table: its group (for `--only`), what it is, and how it compares with its target."""

    group: str
    name: str
    value: float
    measured: str
    target: str
    reached: bool


NEEDED = {
    "wal": ("update_bare", "ours_fast", "ours_compressed", "update_bare_90", "ours_fast_90", "ours_compressed_90"),
    "growth": ("ours_fast",),
    "speed": ("update_bare", "touch", "ours_fast"),
    "latency": ("ours", "control"),
    "lag": ("ours",),
    "memory": (),
    "cost": (),
    "restart": (),
}
"""The groups, and the variants that each is about."""
BESIDE = {"latency": ("ranges",)}
"""Variants that no figure needs, and readers want to see beside it."""
OF_SIZES = {"memory", "cost"}


def figures(measured: Measured) -> Iterator[Figure]:
    """Those whose measurements are there."""
    have = {run.variant for run in measured.runs}
    for group, make in _MAKERS.items():
        if have.issuperset(NEEDED[group]):
            yield from make(measured)


def _wal(measured: Measured) -> Iterator[Figure]:
    for variant, beside, words, target in (
        ("ours_fast", "update_bare", "fillfactor 100", 0.60),
        ("ours_compressed", "update_bare", "fillfactor 100, wal_compression", 0.50),
        ("ours_fast_90", "update_bare_90", "fillfactor 90", 0.35),
        ("ours_compressed_90", "update_bare_90", "fillfactor 90, wal_compression", 0.35),
    ):
        ours, theirs = (measured.median(name, lambda run: run.wal_per_row) for name in (variant, beside))
        yield Figure(
            group="wal",
            name=f"WAL per row, {words}, against one `UPDATE` without a trigger",
            value=ours / theirs,
            measured=f"{ours / theirs:.2f} × ({ours:.0f} of {theirs:.0f} B)",
            target=f"at most {target:.2f} ×",
            reached=ours / theirs <= target,
        )


def _growth(measured: Measured) -> Iterator[Figure]:
    yield _at_most("growth", "heap growth, fillfactor 100", measured.median("ours_fast", lambda r: r.heap_growth), 0.18)
    indexes = measured.median("ours_fast", lambda run: run.growth_of_indexes)
    yield _at_most("growth", "growth of the existing indexes together, fillfactor 100", indexes, 0.10)


def _at_most(group: str, name: str, share: float, target: float) -> Figure:
    return Figure(
        group=group, name=name, value=share, measured=f"{share:+.1%}", target=f"at most {target:.0%}",
        reached=share <= target,
    )  # fmt: skip


def _speed(measured: Measured) -> Iterator[Figure]:
    ours = measured.median("ours_fast", lambda run: run.rows_per_second)
    for other, words, target in (("update_bare", "one `UPDATE`, no trigger", 1.3), ("touch", "the touch variant", 3.0)):
        theirs = measured.median(other, lambda run: run.rows_per_second)
        yield Figure(
            group="speed",
            name=f"rows per second, unthrottled, one worker, against {words}",
            value=ours / theirs,
            measured=f"{ours / theirs:.2f} × ({ours:,.0f} against {theirs:,.0f})",
            target=f"at least {target:g} ×",
            reached=ours / theirs >= target,
        )


def _latency(measured: Measured) -> Iterator[Figure]:
    runs = measured.of("ours")
    ratios = [run.latency_ratio for run in runs]
    median = statistics.median(ratios)
    control = [run.latency_ratio for run in measured.of("control")]
    yield Figure(
        group="latency",
        name=f"p99 of the load, default pace, against the load alone, median of {len(runs)} pairs",
        value=median,
        measured=f"{median:.2f} × ({spread(ratios)}; {_p99s(runs)}); the control: {statistics.median(control):.2f} × "
        f"({spread(control)})",
        target="at most 1.5 ×, 5 pairs",
        reached=median <= 1.5 and len(runs) >= 5,
    )


def _p99s(runs: Sequence[Run]) -> str:
    during, alone = (
        1000 * statistics.median(p99s) for p99s in zip(*((r.during.p99, r.alone.p99) for r in runs), strict=True)
    )
    return f"{during:.1f} against {alone:.1f} ms"


def _lag(measured: Measured) -> Iterator[Figure]:
    runs = measured.of("ours")
    lags = [run.lag_seconds for run in runs]
    longest = max(lags)
    yield Figure(
        group="lag",
        name="highest replica lag, default pace",
        value=longest,
        measured=f"{longest:.2f} s ({spread(lags)}; {max(run.lag_bytes for run in runs) / 1e6:.1f} MB)",
        target="at most 1 s",
        reached=longest <= 1,
    )
    speed = statistics.median(run.rows_per_second for run in runs)
    yield Figure(
        group="lag",
        name="rows per second, default pace",
        value=speed,
        measured=f"{speed:,.0f}",
        target="at least 10,000",
        reached=speed >= 10_000,
    )


def _memory(measured: Measured) -> Iterator[Figure]:
    sizes = sorted(measured.sizes, key=lambda size: size.rows)
    for size in sizes:
        yield Figure(
            group="memory",
            name=f"peak memory of `zdmigrate advance`, {size.rows:,} rows",
            value=size.peak_memory,
            measured=f"{size.peak_memory / 1e6:.1f} MB",
            target="under 80 MB",
            reached=size.peak_memory < 80e6,
        )
    if len(sizes) > 1:
        yield _alike("memory", "the same at both sizes", [size.peak_memory for size in sizes], 0.10)


def _cost(measured: Measured) -> Iterator[Figure]:
    sizes = sorted(measured.sizes, key=lambda size: size.rows)
    if len(sizes) > 1:
        words = " and ".join(f"{size.rows:,}" for size in sizes)
        seconds = " and ".join(f"{1e6 * size.seconds:.1f} µs" for size in sizes)
        wal = " and ".join(f"{size.wal_bytes:.0f} B" for size in sizes)
        yield _alike("cost", f"time per row at {words} rows: {seconds}", [size.seconds for size in sizes], 0.15)
        yield _alike("cost", f"WAL per row at {words} rows: {wal}", [size.wal_bytes for size in sizes], 0.15)


def _alike(group: str, name: str, values: Sequence[float], target: float) -> Figure:
    more = values[-1] / values[0] - 1
    return Figure(
        group=group, name=name, value=more, measured=f"{more:+.1%}", target=f"within {target:.0%}",
        reached=abs(more) <= target,
    )  # fmt: skip


def _restart(measured: Measured) -> Iterator[Figure]:
    if measured.restarts:
        longest = max(measured.restarts)
        yield Figure(
            group="restart",
            name=f"kill -9 to the next committed batch, longest of {len(measured.restarts)}",
            value=longest,
            measured=f"{longest:.1f} s ({spread(measured.restarts)})",
            target="at most 12 s",
            reached=longest <= 12,
        )


def spread(values: Iterable[float]) -> str:
    """From the least to the greatest."""
    found = sorted(values)
    return f"{found[0]:.2f}–{found[-1]:.2f}"


_MAKERS: dict[str, Callable[[Measured], Iterator[Figure]]] = {
    "wal": _wal,
    "growth": _growth,
    "speed": _speed,
    "latency": _latency,
    "lag": _lag,
    "memory": _memory,
    "cost": _cost,
    "restart": _restart,
}
