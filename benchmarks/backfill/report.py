"""What was measured, as Markdown and as JSON. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.backfill.figures import Figure, Measured, spread
from benchmarks.backfill.runs import Run
from benchmarks.backfill.variants import VARIANTS

_NOTHING = ("–",) * 6
_BULKY = {"latencies", "lags"}


def markdown(measured: Measured, figures: Sequence[Figure], notes: Sequence[str]) -> str:
    """The figures with their targets, and the variants side by side."""
    parts = (_figures(figures), _variants(measured), (f"* {note}" for note in notes))
    return "\n\n".join(text for text in ("\n".join(part) for part in parts) if text)


def document(measured: Measured, figures: Sequence[Figure], notes: Sequence[str]) -> dict[str, Any]:
    """All of it but the single latencies and samples of lag."""
    return {
        "figures": [dataclasses.asdict(figure) for figure in figures],
        "runs": [_run(run) for run in measured.runs],
        "sizes": [dataclasses.asdict(size) for size in measured.sizes],
        "restarts": measured.restarts,
        "notes": list(notes),
    }


def _run(run: Run) -> dict[str, Any]:
    light = dataclasses.asdict(dataclasses.replace(run, latencies=[], lags=[]))
    return {name: value for name, value in light.items() if name not in _BULKY}


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| figure | measured | target | reached |"
    yield "|---|---|---|---|"
    for figure in figures:
        reached = "yes" if figure.reached else "**no**"
        yield f"| {figure.name} | {figure.measured} | {figure.target} | {reached} |"


def _variants(measured: Measured) -> Iterator[str]:
    present = [name for name in VARIANTS if measured.of(name)]
    if present:
        yield (
            "| variant | runs | rows/s | WAL per row | of it page images | HOT | heap | indexes | p99 alone "
            "| p99 during (ratio) | longest | highest lag | memory |"
        )
        yield "|" + "---|" * 13
    for name in present:
        yield "| " + " | ".join(_cells(measured, name)) + " |"


def _cells(measured: Measured, name: str) -> Iterator[str]:
    runs = measured.of(name)
    control = VARIANTS[name].control
    yield VARIANTS[name].title
    yield str(len(runs))
    yield from _NOTHING if control else _written(measured, name)
    yield f"{1000 * measured.median(name, lambda run: run.alone.p99):.1f} ms"
    during = 1000 * measured.median(name, lambda run: run.during.p99)
    yield f"{during:.1f} ms ({spread(run.latency_ratio for run in runs)})"
    yield f"{1000 * max(run.during.longest for run in runs):.0f} ms"
    yield f"{max(run.lag_seconds for run in runs):.2f} s, {max(run.lag_bytes for run in runs) / 1e6:.0f} MB"
    yield f"{max(run.peak_memory for run in runs) / 1e6:.0f} MB"


def _written(measured: Measured, name: str) -> Iterator[str]:
    yield f"{measured.median(name, lambda run: run.rows_per_second):,.0f}"
    yield f"{measured.median(name, lambda run: run.wal_per_row):.0f} B"
    yield f"{measured.median(name, lambda run: run.images_per_row):.0f} B"
    yield f"{measured.median(name, lambda run: run.hot_share):.0%}"
    yield f"{measured.median(name, lambda run: run.heap_growth):+.0%}"
    growths = [growth for run in measured.of(name) for growth in run.index_growth.values()]
    together = measured.median(name, lambda run: run.growth_of_indexes)
    yield f"{together:+.0%} ({min(growths):+.0%} to {max(growths):+.0%})"
