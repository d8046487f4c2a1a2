"""Pictures of the first run of each variant: latency over time, lag over time, and what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.backfill.runs import Run, quantile
from benchmarks.backfill.variants import VARIANTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

FILES = ("latency.png", "lag.png", "written.png")


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the pictures into `folder`; needs matplotlib (``pip install zdmigrate[bench]``)."""
    first = list({run.variant: run for run in reversed(runs)}.values())
    first.sort(key=lambda run: list(VARIANTS).index(run.variant))
    fills = [run for run in first if not VARIANTS[run.variant].control]
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, picture in zip(FILES, (_latency(first), _lag(first), _written(fills)), strict=True):
        picture.savefig(folder / name, dpi=120)
        made.append(folder / name)
    return made


def _latency(runs: Sequence[Run]) -> Picture:
    """A panel for each: every query as a dot, and p99 of each second; before, while and after it worked."""
    picture, axes = _panels(len(runs))
    for panel, run in zip(axes, runs, strict=True):
        moments = [latency.due - run.began for latency in run.latencies]
        milliseconds = [1000 * latency.seconds for latency in run.latencies]
        panel.scatter(moments, milliseconds, s=1, alpha=0.25, linewidths=0, color="tab:gray", rasterized=True)
        panel.step(
            *_by_second(moments, milliseconds), where="post", color="tab:red", linewidth=1, label="p99 of a second"
        )
        panel.axvspan(0, run.seconds, color="tab:blue", alpha=0.12, label="backfill")
        panel.set(yscale="log", ylabel="ms", title=_title(run))
    axes[0].legend(loc="upper right", fontsize=7)
    axes[-1].set_xlabel("seconds since the backfill began")
    return picture


def _by_second(moments: Sequence[float], values: Sequence[float]) -> tuple[list[int], list[float]]:
    seconds: dict[int, list[float]] = {}
    for moment, value in zip(moments, values, strict=True):
        seconds.setdefault(int(moment // 1), []).append(value)
    return sorted(seconds), [quantile(seconds[second], 0.99) for second in sorted(seconds)]


def _lag(runs: Sequence[Run]) -> Picture:
    picture, axes = _panels(len(runs))
    for panel, run in zip(axes, runs, strict=True):
        panel.plot([lag.at - run.began for lag in run.lags], [lag.seconds for lag in run.lags], linewidth=1)
        panel.axhline(1, color="tab:red", linewidth=0.7, linestyle=":")
        panel.set(ylabel="s", title=_title(run))
    axes[-1].set_xlabel("seconds since the backfill began")
    return picture


def _written(runs: Sequence[Run]) -> Picture:
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(11, 1.2 + 0.45 * len(runs)), layout="constrained")
    wal, growth = picture.subplots(1, 2, sharey=True)
    places = range(len(runs))
    wal.barh(places, [run.wal_per_row for run in runs], color="tab:blue")
    wal.set(title="WAL, bytes per row", yticks=places, yticklabels=[_title(run) for run in runs])
    wal.invert_yaxis()
    indexes = [100 * run.growth_of_indexes for run in runs]
    growth.barh([n - 0.2 for n in places], [100 * run.heap_growth for run in runs], height=0.4, label="heap")
    growth.barh([n + 0.2 for n in places], indexes, height=0.4, label="indexes together")
    growth.set(title="growth, %")
    growth.legend(fontsize=8)
    return picture


def _panels(number: int) -> tuple[Picture, list[Axes]]:
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(10, 1 + 1.8 * number), layout="constrained")
    panels: Any = picture.subplots(number, 1, squeeze=False)
    return picture, [panel for (panel,) in panels]


def _title(run: Run) -> str:
    return VARIANTS[run.variant].title.replace("*", "").replace("`", "")
