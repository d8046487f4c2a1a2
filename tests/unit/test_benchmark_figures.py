"""What the benchmark of the backfill makes of its measurements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.backfill import figures, load, report, runs, scale
from benchmarks.backfill.figures import Measured
from benchmarks.backfill.lag import Sample, lags
from benchmarks.backfill.load import Latency
from benchmarks.backfill.runs import Run, Summary
from benchmarks.backfill.scale import Size
from benchmarks.backfill.variants import VARIANTS

ALONE = Summary(1000, 0.001, 0.004, 0.01)


def run(variant: str, *, wal: int = 800, p99: float = 0.005, seconds: float = 10.0, lag: float = 0.1) -> Run:
    return Run(
        variant=variant,
        rows=100_000,
        began=0.0,
        seconds=seconds,
        wal_bytes=wal * 100_000,
        image_bytes=200 * 100_000,
        heap_growth=0.15,
        index_growth={"users_pkey": 0.01, "users_score_idx": 0.9},
        growth_of_indexes=0.08,
        hot_share=0.85,
        alone=ALONE,
        during=dataclasses.replace(ALONE, p99=p99),
        lag_seconds=lag,
        lag_bytes=1_000_000,
        peak_memory=50_000_000,
        latencies=[],
        lags=[],
    )


def figure(measured: Measured, name: str) -> figures.Figure:
    (found,) = (figure for figure in figures.figures(measured) if figure.name.startswith(name))
    return found


def test_lag_is_the_time_since_the_primary_was_where_the_replica_is() -> None:
    samples = [Sample(0.0, 100, 100), Sample(1.0, 200, 100), Sample(2.0, 300, 150), Sample(3.0, 300, 300)]

    assert [(lag.seconds, lag.bytes) for lag in lags(samples)] == [(0, 0), (1, 100), (1.5, 150), (0, 0)]


def test_an_idle_primary_is_no_lag_and_a_replica_behind_the_first_sample_is() -> None:
    assert [lag.seconds for lag in lags([Sample(0.0, 100, 100), Sample(60.0, 100, 100)])] == [0, 0]
    assert [lag.seconds for lag in lags([Sample(0.0, 100, 50), Sample(2.0, 200, 60)])] == [0, 2]


def test_a_query_counts_from_when_it_was_due(tmp_path: Path) -> None:
    # 0.5 s from when it was due, of which it waited 0.4 s for a session; the third one failed.
    (tmp_path / "log.1").write_text("0 1 500000 0 1000 250000 400000\n1 1 1000 2 999 1000 0\n2 1 failed 0 1000 0 0\n")

    assert load._read(tmp_path) == [Latency(999.0, 0.001), Latency(999.75, 0.5)]


def test_latencies_belong_to_the_window_in_which_they_were_due() -> None:
    found = [Latency(moment, 9.0) for moment in (1.0, 2.0, 3.0)]

    assert [latency.due for latency in runs.between(found, 1.5, 3.0)] == [2.0]


def test_what_queued_up_behind_a_stall_does_not_count_as_the_load_alone() -> None:
    found = [Latency(1.0, 0.1), Latency(2.0, 8.0), Latency(5.0, 6.0), Latency(10.5, 1.0), Latency(12.0, 0.1)]

    assert runs.drained(found, 1.5) == 1.5
    assert runs.drained(found, 3.0) == 11.5


@pytest.mark.parametrize(("share", "value"), [(0.5, 51), (0.99, 100), (1.0, 100)])
def test_quantiles(share: float, value: float) -> None:
    assert runs.quantile(range(1, 101), share) == value


def test_the_latency_figure_is_the_median_of_five_pairs_or_not_reached() -> None:
    five = Measured(
        runs=[
            *(run("ours", p99=p99 / 1000) for p99 in (4, 5, 6, 40, 4)),
            *(run("control", p99=p99) for p99 in (0.008, 0.012)),
        ]
    )

    assert figure(five, "p99").reached
    assert "1.25 × (1.00–10.00" in figure(five, "p99").measured
    assert "the control: 2.50 × (2.00–3.00)" in figure(five, "p99").measured
    two = [*five.runs[:2], *five.runs[5:]]
    assert not figure(Measured(runs=two), "p99").reached


def test_wal_is_compared_with_one_update_of_the_same_fillfactor() -> None:
    measured = Measured(
        runs=[
            run("update_bare", wal=1000), run("ours_fast", wal=600), run("ours_compressed", wal=510),
            run("update_bare_90", wal=900), run("ours_fast_90", wal=450), run("ours_compressed_90", wal=300),
        ]
    )  # fmt: skip
    found = [figure for figure in figures.figures(measured) if figure.group == "wal"]

    assert [(round(figure.value, 2), figure.reached) for figure in found] == [
        (0.6, True), (0.51, False), (0.5, False), (0.33, True)
    ]  # fmt: skip


def test_figures_without_their_measurements_are_left_out() -> None:
    assert {figure.group for figure in figures.figures(Measured(runs=[run("ours"), run("control")]))} == {
        "latency",
        "lag",
    }


def test_sizes_are_compared_with_each_other() -> None:
    size = Size(rows=10, seconds=1, wal_bytes=500, wal_bytes_after=60, peak_memory=69_000_000)
    larger = dataclasses.replace(size, rows=20, seconds=1.2, peak_memory=70_000_000)
    measured = Measured(sizes=[larger, size])

    assert not figure(measured, "time per row").reached
    assert figure(measured, "WAL per row").reached
    assert figure(measured, "the same at both sizes").reached


def test_runs_of_one_size_count_together() -> None:
    size = Size(rows=10, seconds=1, wal_bytes=500, wal_bytes_after=60, peak_memory=69)
    again = dataclasses.replace(size, seconds=3, peak_memory=71)
    larger = dataclasses.replace(size, rows=20)

    assert scale.together([size, larger, again]) == [dataclasses.replace(size, seconds=2, peak_memory=71), larger]


def test_the_table_has_a_row_for_each_variant_that_ran() -> None:
    measured = Measured(runs=[run("ours"), run("ours"), run("touch")])
    text = report.markdown(measured, list(figures.figures(measured)), ["a note"])

    assert text.index(VARIANTS["touch"].title) < text.index(VARIANTS["ours"].title + " | 2 |")
    assert text.endswith("* a note")
    assert "latencies" not in report.document(measured, [], [])["runs"][0]
