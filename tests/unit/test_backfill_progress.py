"""How far a backfill is, for people and for programs."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.backfill.progress import Meter, Rate, Readings, Snapshot, Throttled
from zdmigrate.backfill.values import Progress


@dataclasses.dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def progress(rows: int, pages: int) -> Progress:
    return Progress(relation="public.users", rows=rows, pages_done=pages, pages_total=1000)


@given(st.floats(1, 1e6), st.lists(st.floats(0.01, 5), min_size=1, max_size=50))
def test_a_steady_rate_is_found_at_once_however_often_one_looks(rate: float, passed: list[float]) -> None:
    now, seen = 0.0, Rate(0.0)
    for seconds in passed:
        now += seconds
        seen.add(rate * seconds, now)
        assert seen.per_second == pytest.approx(rate)


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 60)), max_size=50))
def test_a_rate_lies_between_the_slowest_and_the_fastest(seen: list[tuple[float, float]]) -> None:
    now, rate = 0.0, Rate(0.0)
    for speed, seconds in seen:
        now += seconds
        rate.add(speed * seconds, now)
    speeds = [speed for speed, seconds in seen if seconds > 0]
    if rate.per_second is not None:
        assert min(speeds) * 0.999 - 1e-9 <= rate.per_second <= max(speeds) * 1.001 + 1e-9


def test_a_rate_forgets() -> None:
    rate = Rate(0)
    rate.add(1000, 1)
    assert rate.per_second == 1000
    rate.add(0, 200)
    assert rate.per_second is not None
    assert rate.per_second < 1


def test_what_an_earlier_run_did_is_no_speed_of_this_one() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    clock.now = 2
    first = meter.at(progress(500_000, 500))
    clock.now = 12
    second = meter.at(progress(510_000, 510))
    assert (first.rows_per_second, first.eta_seconds) == (None, None)
    assert second.rows == 510_000
    assert second.rows_per_second == pytest.approx(1000)
    assert second.eta_seconds == pytest.approx(490)
    assert second.elapsed_seconds == 12


def test_a_relation_that_begins_anew_makes_nothing_negative() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    for now, pages in ((0.0, 0), (1.0, 800), (2.0, 10), (3.0, 20)):
        clock.now = now
        seen = meter.at(progress(pages * 10, pages))
        assert (seen.rows_per_second or 0) >= 0
        assert (seen.eta_seconds or 0) >= 0


def test_the_line_for_people_says_what_is_known() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.at(progress(0, 0))
    clock.now = 10
    assert meter.at(progress(100_000, 250)).line() == (
        "public.users: 100,000 rows, page 250 of 1,000, 10,000 rows/s, 30 s to go"
    )
    meter.wrote(50 * 1024 * 1024)
    clock.now = 11
    readings = Readings(p95_ms=38.4, target_ms=50, lag_bytes=2 * 1024 * 1024, lag_seconds=0.12, workers=3, crew=4)
    line = meter.at(progress(110_000, 275), readings).line()
    assert line.startswith("public.users: 110,000 rows, page 275 of 1,000, ")
    assert "/s of WAL, batches 38 of 50 ms (p95), lag 2.0 MB and 0.1 s, 3 of 4 workers, " in line
    assert line.endswith("s to go")


def test_who_stops_it_is_said_instead_of_when_it_will_be_done() -> None:
    stop = Throttled(name="lag of replica1", value="80 MB", threshold="below 64 MB", seconds=11.4)
    snapshot = Snapshot(
        relation="t", rows=1, pages_done=1, pages_total=2, elapsed_seconds=1, eta_seconds=5, throttled=(stop,)
    )
    assert snapshot.line() == "t: 1 row, page 1 of 2, stopped by lag of replica1: 80 MB, allowed below 64 MB, for 12 s"
    assert (
        dataclasses.replace(snapshot, throttled=(), paused="deploying")
        .line()
        .endswith("page 1 of 2, paused: deploying")
    )


def test_the_document_is_plain_and_has_every_field() -> None:
    stop = Throttled(name="lag", value="1", threshold="2", seconds=3)
    snapshot = Meter(clock=Clock()).at(progress(1, 1), Readings(throttled=[stop]))
    document = json.loads(json.dumps(snapshot.to_json()))
    assert set(document) == {field.name for field in dataclasses.fields(Snapshot)}
    assert document["throttled"] == [{"name": "lag", "value": "1", "threshold": "2", "seconds": 3, "reason": None}]


def test_a_verification_has_no_rows_a_second() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.read(progress(0, 0))
    clock.now = 1
    assert meter.read(progress(0, 500)).line() == "public.users: 0 rows, page 500 of 1,000, 1 s to go"
