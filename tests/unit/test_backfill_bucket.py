"""The budget of WAL bytes per second."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.backfill.pacing.bucket import TokenBucket


@dataclasses.dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


amounts = st.floats(0, 1e7, allow_nan=False)
pauses = st.floats(0, 30, allow_nan=False)


def writes(bucket: TokenBucket, clock: Clock, asked: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(when, bytes) of somebody who pauses, asks, waits and writes."""
    done = []
    for pause, amount in asked:
        clock.now += pause
        clock.now += bucket.wait_for(amount)
        done.append((clock.now, amount))
    return done


@given(st.floats(1, 1e7), st.floats(0, 1e7), st.lists(st.tuples(pauses, amounts), max_size=40))
def test_after_any_write_there_is_never_more_than_the_burst_and_the_rate(
    rate: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    clock = Clock()
    done = writes(TokenBucket(rate, burst=burst, clock=clock), clock, asked)
    for first, (begin, _) in enumerate(done):
        total = 0.0
        for end, amount in done[first + 1 :]:
            total += amount
            assert total <= (burst + rate * (end - begin)) * (1 + 1e-6) + max(1e-3, rate * 1e-9)


@given(st.floats(1, 1e7), st.lists(amounts, min_size=1, max_size=40))
def test_who_waits_no_longer_than_told_gets_the_full_rate(rate: float, asked: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst=0, clock=clock)
    begin = clock.now
    writes(bucket, clock, [(0.0, amount) for amount in asked])
    assert clock.now - begin == pytest.approx(sum(asked) / rate, rel=1e-6, abs=1e-6)


def test_those_who_ask_together_wait_one_after_the_other() -> None:
    bucket = TokenBucket(100, burst=0, clock=Clock())
    assert [bucket.wait_for(50) for _ in range(3)] == [0.5, 1.0, 1.5]


def test_a_burst_is_saved_up_and_no_more_than_that() -> None:
    clock = Clock()
    bucket = TokenBucket(100, burst=200, clock=clock)
    assert bucket.wait_for(200) == 0
    clock.now += 3600
    assert (bucket.wait_for(200), bucket.wait_for(1)) == (0, 0.01)


def test_without_a_rate_nobody_waits_and_nobody_owes() -> None:
    bucket = TokenBucket(None, clock=Clock())
    assert (bucket.wait_for(1e12), bucket.debt) == (0, 0)


def test_a_debt_is_paid_at_the_new_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(100, burst=0, clock=clock)
    bucket.wait_for(1000)
    clock.now += 1
    bucket.change(50)
    assert bucket.debt == 900
    assert bucket.wait_for(0) == 18


def test_a_new_limit_begins_with_nothing_saved_up_and_no_limit_forgets_debts() -> None:
    clock = Clock()
    bucket = TokenBucket(None, clock=clock)
    clock.now += 100
    bucket.change(100)
    assert bucket.wait_for(100) == 1
    bucket.change(None)
    bucket.change(100)
    assert bucket.debt == 0


def test_a_smaller_rate_keeps_no_larger_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=clock)
    bucket.change(10)
    assert bucket.wait_for(15) == 1


def test_an_estimate_is_corrected_by_what_was_written() -> None:
    bucket = TokenBucket(100, burst=100, clock=Clock())
    bucket.wait_for(100)
    bucket.correct(taken=100, written=150)
    assert bucket.debt == 50
    bucket.correct(taken=1000, written=0)
    assert bucket.wait_for(100) == 0


def test_a_clock_that_stands_still_or_goes_back_pays_nothing() -> None:
    clock = Clock()
    bucket = TokenBucket(100, burst=0, clock=clock)
    bucket.wait_for(100)
    clock.now -= 10
    assert bucket.debt == 100


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (-1, None), (1, -1)])
def test_nonsense_is_refused(rate: float, burst: float | None) -> None:
    with pytest.raises(ValueError, match=r"rate|burst"):
        TokenBucket(rate, burst=burst)
    with pytest.raises(ValueError, match="negative"):
        TokenBucket(1).wait_for(-1)
