"""What throttles decide: hysteresis, slopes, how a position becomes seconds, and what a verdict says."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.backfill.throttles import archive, horizon, words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.lag import LagLimits, judged
from zdmigrate.backfill.throttles.reading import Lag, Reading, unknown
from zdmigrate.backfill.throttles.slope import Slope
from zdmigrate.backfill.throttles.steering import Said
from zdmigrate.backfill.throttles.timeline import Timeline
from zdmigrate.backfill.throttles.verdict import Judge, LagTrend, silent
from zdmigrate.throttle_settings import Hours

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_unhealthy_from_the_limit_on_and_healthy_again_below_the_lower_one() -> None:
    memory, limit = Hysteresis(), Limit(stop=10, resume=5)
    values = [9, 10, 9, 5, 4, 9, 10]
    assert [memory.is_healthy("a", value, limit) for value in values] == [True, False, False, False, True, True, False]


def test_each_value_has_its_own_memory() -> None:
    memory, limit = Hysteresis(), Limit.of_backlog(10)
    assert not memory.is_healthy("a", 10, limit)
    assert memory.is_healthy("b", 9, limit)
    assert not memory.is_healthy("a", 9, limit)


def test_an_unknown_value_is_unhealthy_only_where_there_is_a_limit() -> None:
    memory = Hysteresis()
    assert not memory.is_healthy("a", None, Limit.of_level(10))
    assert memory.is_healthy("a", 9.5, Limit.of_level(10))
    assert memory.is_healthy("a", None, None)


def test_a_limit_that_is_raised_meanwhile_counts_at_once() -> None:
    memory = Hysteresis()
    assert not memory.is_healthy("a", 10, Limit.of_backlog(10))
    assert memory.is_healthy("a", 10, Limit.of_backlog(100))


@given(st.lists(st.floats(0, 100)), st.floats(1, 100))
def test_between_the_limits_nothing_changes(values: list[float], stop: float) -> None:
    memory, limit, before = Hysteresis(), Limit.of_backlog(stop), True
    for value in values:
        now = memory.is_healthy("a", value, limit)
        if limit.resume <= value < limit.stop:
            assert now == before
        else:
            assert now == (value < limit.resume)
        before = now


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_slope_of_a_line(begin: float, per_second: float) -> None:
    slope = Slope(timedelta(seconds=3))
    for tick in range(40):
        slope.add(tick * 0.25, begin + per_second * tick * 0.25)
    assert slope.per_second == pytest.approx(per_second, rel=1e-6, abs=1e-3)


def test_the_slope_forgets_what_is_older_than_its_window() -> None:
    slope = Slope(timedelta(seconds=1))
    for at, value in [(0.0, 0.0), (1.0, 100.0), (5.0, 0.0), (5.5, 1.0), (6.0, 2.0)]:
        slope.add(at, value)
    assert slope.per_second == pytest.approx(2)


def test_no_slope_of_one_sample_nor_over_an_unknown_one() -> None:
    slope = Slope(timedelta(seconds=3))
    slope.add(0, 1)
    assert slope.per_second is None
    slope.add(0, 2)
    assert slope.per_second is None  # the same moment
    slope.add(1, 2)
    slope.add(2, None)
    slope.add(3, 2)
    assert slope.per_second is None


def timeline(*samples: tuple[int, float]) -> Timeline:
    found = Timeline()
    for position, at in samples:
        found.note(position, at)
    return found


def test_a_position_becomes_seconds() -> None:
    moving = timeline((100, 0), (200, 1), (300, 2))
    assert moving.seconds_behind(300, 2) == 0
    assert moving.seconds_behind(250, 2) == pytest.approx(0.5)
    assert moving.seconds_behind(200, 2) == pytest.approx(1)
    assert moving.seconds_behind(150, 5) == pytest.approx(4.5)
    assert moving.seconds_behind(350, 9) == 0  # newer than what we know


def test_an_idle_primary_is_no_lag_and_what_it_writes_then_is_as_old_as_it_is() -> None:
    idle = timeline(*((100, tick) for tick in range(60)))
    assert idle.seconds_behind(100, 59) == 0
    idle.note(200, 60)
    assert idle.seconds_behind(100, 60) == pytest.approx(1)
    assert idle.seconds_behind(100, 63) == pytest.approx(4)


def test_what_is_older_than_all_samples_is_at_least_as_old_as_they_are() -> None:
    young = timeline((100, 10), (200, 11))
    assert young.seconds_behind(50, 12) == 2
    assert not young.reaches(50)
    assert young.reaches(100)


def test_after_a_failover_positions_begin_anew() -> None:
    back = timeline((100, 0), (200, 1), (150, 2), (160, 3))
    assert back.seconds_behind(150, 3) == pytest.approx(1)
    assert not back.reaches(140)


def test_a_lag_names_what_is_over_its_limit() -> None:
    limits = LagLimits(bytes=2**20, time=timedelta(seconds=1))
    healthy = judged("r", Lag(bytes=2**19, seconds=0.25), limits, Hysteresis())
    assert str(healthy) == "lag of r 512 kB, 250 ms (below 1.0 MB and 1 s)"
    assert healthy.healthy
    late = judged("r", Lag(bytes=0, seconds=2.5), limits, Hysteresis())
    assert (late.healthy, late.reason) == (False, "r is 2.5 s behind")
    both = judged("r", Lag(bytes=2**21, seconds=None), limits, Hysteresis())
    assert both.reason == "r is 2.0 MB and an unknown time behind"


def test_limits_of_another_terminal_win() -> None:
    configured = LagLimits(bytes=10, time=None)
    assert configured.overridden(Said()) == configured
    said = Said(max_lag=5, max_lag_time=timedelta(seconds=3))
    assert configured.overridden(said) == LagLimits(bytes=5, time=timedelta(seconds=3))
    assert str(LagLimits(bytes=None, time=None)) == "no limit"


@pytest.mark.parametrize(
    ("xid", "following", "expected"),
    [
        (750, 751, 750),
        (753, 751, 753),  # began meanwhile
        (2**32 - 1, 2**32 + 5, 2**32 - 1),  # before the wrap
        (3, 2**32 + 5, 2**32 + 3),
        (7, 5 * 2**32 - 2, 5 * 2**32 + 7),  # began after the wrap, seen from before it
    ],
)
def test_transaction_ids_are_unwrapped(xid: int, following: int, expected: int) -> None:
    assert horizon.unwrapped(xid, following) == expected


def test_the_oldest_holds_the_horizon() -> None:
    following = (1000, "none", None, None, None, None, None, None)
    session = (None, "session", "17", "psql", "me", "990", "980", timedelta(seconds=5))
    prepared = (None, "prepared", "it's", None, "me", "970", None, timedelta(hours=2))
    slot = (None, "slot", "s", None, None, None, "985", None)
    assert horizon.oldest([following]).holder == "nobody"
    assert horizon.oldest([following]).xmin == 1000
    found = horizon.oldest([following, session, slot])
    assert (found.xmin, found.holder, found.remedy) == (980, "pid 17 (me, psql)", "SELECT pg_terminate_backend(17)")
    found = horizon.oldest([following, session, prepared, slot])
    assert (found.holder, found.remedy) == ('prepared transaction "it\'s" (me)', "ROLLBACK PREPARED 'it''s'")


def test_segments_that_wait_for_archiving_are_counted_over_the_end_of_a_log_file() -> None:
    sixteen = 16 * 2**20
    assert archive.between("0000000100000000000000FE", "000000010000000100000001", sixteen) == 2
    assert archive.between("000000010000000000000004", "000000010000000000000005", sixteen) == 0
    assert archive.between("000000010000000000000005", "000000010000000000000005", sixteen) == 0
    assert archive.between("000000010000000000000004.00000028.backup", "000000020000000000000008", sixteen) == 3
    assert archive.between("00000002.history", "000000020000000000000008", sixteen) is None
    assert archive.between(None, "000000020000000000000008", sixteen) is None


def fine(name: str = "a", measured: Lag | None = None) -> Reading:
    return Reading(name=name, value="1", threshold="below 2", healthy=True, measured=measured)


def test_one_unhealthy_reading_stops_and_the_first_moment_is_kept() -> None:
    judge = Judge()
    assert judge.judge([fine()], at=NOON, clock=0).is_healthy
    bad = unknown("b", "below 2", "nobody knows b", "GRANT it")
    stopped = judge.judge([fine(), bad, bad], at=NOON + timedelta(seconds=1), clock=1)
    assert stopped.reasons == ("nobody knows b", "nobody knows b")
    assert stopped.hints == ("GRANT it",)
    later = judge.judge([bad], at=NOON + timedelta(seconds=3), clock=3)
    assert later.stopped_since == NOON + timedelta(seconds=1)
    assert later.stopped_for(NOON + timedelta(seconds=5)) == timedelta(seconds=4)
    healed = judge.judge([fine()], at=NOON + timedelta(seconds=6), clock=6)
    assert (healed.stopped_since, healed.reasons) == (None, ())


def test_the_longest_lag_counts_and_its_slope() -> None:
    judge, trends = Judge(), []
    for second in range(3):
        lags = [fine("x", Lag(bytes=100 * second, seconds=0.5)), fine("y", Lag(bytes=50, seconds=0.1 * second))]
        trends.append(judge.judge(lags, at=NOON, clock=second).lag)
    assert (trends[-1].bytes, trends[-1].seconds) == (200, 0.5)
    assert trends[-1].bytes_per_second == pytest.approx(75)
    assert trends[-1].seconds_per_second == pytest.approx(0)
    assert judge.judge([fine()], at=NOON, clock=4).lag == LagTrend()


def test_silence_is_unhealthy_and_shows_what_was_known() -> None:
    judge = Judge()
    last = judge.judge([fine()], at=NOON, clock=0)
    three, four = timedelta(seconds=3), timedelta(seconds=4)
    verdict = silent(last, answered=NOON, tolerance=three, now=NOON + four, why="waiting for: slots")
    assert not verdict.is_healthy
    assert verdict.reasons == ("the throttles are unknown for 4 s: waiting for: slots",)
    assert verdict.stopped_since == NOON + three
    assert verdict.readings == last.readings


@pytest.mark.parametrize(
    ("begin", "end", "inside", "outside"),
    [("09:00", "17:00", "09:00", "17:00"), ("22:00", "06:00", "03:00", "06:00"), ("22:00", "06:00", "22:00", "21:59")],
)
def test_hours(begin: str, end: str, inside: str, outside: str) -> None:
    hours = Hours(begin=time.fromisoformat(begin), end=time.fromisoformat(end))
    assert hours.contains(time.fromisoformat(inside))
    assert not hours.contains(time.fromisoformat(outside))
    assert str(hours) == f"{begin}-{end}"


def test_hours_that_end_where_they_begin_are_the_whole_day() -> None:
    assert all(Hours(begin=time(5), end=time(5)).contains(time(hour)) for hour in range(24))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (0, "0 ms"), (1, "1 s"), (3.24, "3.2 s"), (10.0, "10 s"), (720, "12 min"), (11160, "3.1 h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text
    assert words.duration(timedelta(seconds=seconds)) == text
