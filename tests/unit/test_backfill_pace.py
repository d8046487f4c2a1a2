"""How much at once, and how many at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.backfill.pacing.pace import SAMPLES, Crew, Pace

TARGET = timedelta(milliseconds=50)
events = st.lists(
    st.tuples(st.floats(0, 10, allow_nan=False), st.integers(0, 20_000), st.booleans()), max_size=200
)  # fmt: skip


def drive(pace: Pace, batches: int, latency: Callable[[int], float]) -> list[int]:
    """The rows of each batch, where a batch of `n` rows takes ``latency(n)`` seconds."""
    taken = []
    for _ in range(batches):
        taken.append(pace.rows)
        pace.observe(latency(pace.rows), pace.rows)
    return taken


@given(events, st.integers(1, 500), st.integers(0, 9_500), st.integers(0, 20_000))
def test_it_stays_between_floor_and_ceiling(
    seen: list[tuple[float, int, bool]], floor: int, more: int, start: int
) -> None:
    pace = Pace(floor=floor, ceiling=floor + more, start=start)
    for latency, rows, contended in seen:
        pace.observe(latency, rows, contended=contended)
        assert floor <= pace.rows <= floor + more


@given(events, st.floats(0.0501, 100))
def test_every_batch_above_the_target_makes_the_next_one_smaller_by_a_factor(
    seen: list[tuple[float, int, bool]], latency: float
) -> None:
    pace = Pace(target=TARGET)
    for before, rows, contended in seen:
        pace.observe(before, rows, contended=contended)
    size = pace.rows
    pace.observe(latency, 1)
    assert pace.rows <= max(1, 0.8 * (size + 1))
    assert latency <= 0.1 or pace.rows <= max(1, 0.5 * (size + 1))


@given(events, st.integers(1, 10_000))
def test_it_grows_additively_once_it_has_met_its_limit(seen: list[tuple[float, int, bool]], rows: int) -> None:
    pace = Pace(target=TARGET, ceiling=10**9)
    for before, taken, contended in seen:
        pace.observe(before, taken, contended=contended)
    pace.observe(1, 1)
    sizes = [pace.rows]
    for _ in range(19):
        pace.observe(0.001, max(rows, pace.rows))
        sizes.append(pace.rows)
    steps = [after - before for before, after in itertools.pairwise(sizes)]
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1


def test_overload_brings_it_to_the_floor_within_a_few_batches() -> None:
    pace = Pace(start=10_000, floor=10)
    assert drive(pace, 12, lambda _: 1.0)[-1] == 10


@pytest.mark.parametrize("microseconds", [5, 20, 100, 1000])
@pytest.mark.parametrize("start", [1, 100, 10_000])
def test_it_converges_to_what_takes_the_target_and_its_p95_is_the_target(microseconds: int, start: int) -> None:
    pace = Pace(target=TARGET, start=start, ceiling=100_000)
    noise = random.Random(4)
    drive(pace, 600, lambda rows: rows * microseconds / 1e6 * noise.uniform(0.9, 1.1))
    settled = drive(pace, 300, lambda rows: rows * microseconds / 1e6 * noise.uniform(0.9, 1.1))
    ideal = 0.05 / (microseconds / 1e6)
    assert 0.6 * ideal < sum(settled) / len(settled) < 1.05 * ideal
    assert pace.p95_ms is not None
    assert 40 < pace.p95_ms < 60


def test_it_recovers_after_an_overload_that_has_passed() -> None:
    pace = Pace(target=TARGET, ceiling=10_000)
    drive(pace, 100, lambda rows: rows / 50_000)
    drive(pace, 50, lambda _: 1.0)
    assert pace.rows == 1
    drive(pace, 400, lambda rows: rows / 50_000)
    assert pace.rows > 1500


def test_a_warm_start_begins_where_it_was() -> None:
    pace = Pace(start=2400)
    assert pace.rows == 2400
    pace.observe(0.048, 2400)
    assert 2400 < pace.rows < 2450


def test_contention_halves_it_also_where_nothing_was_taken() -> None:
    pace = Pace(start=800)
    pace.observe(0.0, 0, contended=True)
    assert pace.rows == 400


def test_small_batches_prove_nothing_about_large_ones() -> None:
    pace = Pace(start=800)
    for _ in range(100):
        pace.observe(0.001, 17)
    assert pace.rows == 800


def test_another_target_holds_from_the_next_batch_on() -> None:
    pace = Pace(target=TARGET, start=800)
    pace.aim(timedelta(milliseconds=10))
    pace.observe(0.015, 800)
    assert (pace.rows, pace.target_ms) == (640, 10)


def test_the_p95_is_of_the_last_batches() -> None:
    pace = Pace()
    seen = [pace.p95_ms]
    for latency in (*(number / 1000 for number in range(SAMPLES)), *[0.002] * SAMPLES):
        pace.observe(latency, 1)
        seen.append(pace.p95_ms)
    assert (seen[0], seen[1], seen[SAMPLES], seen[-1]) == (None, 0, 94, 2)


@pytest.mark.parametrize(("floor", "ceiling"), [(0, 10), (10, 9)])
def test_nonsense_is_refused(floor: int, ceiling: int) -> None:
    with pytest.raises(ValueError, match="floor"):
        Pace(floor=floor, ceiling=ceiling)
    with pytest.raises(ValueError, match="target"):
        Pace(target=timedelta(0))
    with pytest.raises(ValueError, match="crew"):
        Crew(0)


# Workers -------------------------------------------------------------------------------------------------------------

loads = st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=100)


def calm(workers: Crew, times: int) -> int:
    return [workers.observe(load=0, healthy=True) for _ in range(times)][-1]


@given(st.integers(1, 50), loads)
def test_there_are_never_more_than_there_are_and_none_while_unhealthy(
    size: int, seen: list[tuple[float, bool]]
) -> None:
    workers = Crew(size)
    for load, healthy in seen:
        before = workers.active
        active = workers.observe(load=load, healthy=healthy)
        assert active == workers.active
        assert (1 <= active <= size) if healthy else active == 0
        if healthy and before and load > 1:
            assert active == max(1, before // 2)


def test_it_grows_by_one_while_all_is_calm_until_everybody_works() -> None:
    workers = Crew(4)
    seen = [calm(workers, 1) for _ in range(10)]
    assert seen == [1, 2, 2, 3, 3, 4, 4, 4, 4, 4]


def test_a_lag_that_would_soon_be_too_much_halves_it_once_and_then_it_looks_what_that_did() -> None:
    workers = Crew(8)
    calm(workers, 20)
    assert [workers.observe(load=0.9, healthy=True) for _ in range(4)] == [4, 4, 2, 2]


def test_after_a_stop_half_as_many_go_on() -> None:
    workers = Crew(8)
    calm(workers, 20)
    for _ in range(5):
        assert workers.observe(load=3, healthy=False) == 0
    assert workers.observe(load=0, healthy=True) == 4


def test_another_size_holds_at_once() -> None:
    workers = Crew(8)
    calm(workers, 20)
    workers.resize(2)
    assert workers.active == 2
    workers.resize(3)
    assert calm(workers, 4) == 3
