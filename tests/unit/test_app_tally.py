"""What compares have found, and when it is told."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.app.tally import Sample, Tally, printable, sampled

STATE = "2026-11-21T06:44:31.682437+00:00"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(every=60, clock=clock)


def only(tally: Tally, *, last: bool = False) -> dict[str, object]:
    reported = tally.report(last=last)
    assert reported is not None
    [found] = reported
    return found


def test_totals_are_told_once_a_minute_and_only_where_there_is_something_new(tally: Tally, clock: Clock) -> None:
    assert tally.report() is None
    tally.matched("0001", STATE)
    assert only(tally)["compares"] == 1
    tally.told()
    tally.matched("0001", STATE)
    assert tally.report() is None, "not yet"
    clock.now += 59
    assert tally.report() is None
    clock.now += 1
    assert only(tally)["compares"] == 2
    tally.told()
    clock.now += 60
    assert tally.report() is None, "nothing new"


def test_what_is_lost_is_in_the_next_one(tally: Tally, clock: Clock) -> None:
    tally.matched("0001", STATE)
    assert tally.report()
    tally.refused()
    assert tally.report() is None, "whatever happens: once a minute"
    clock.now += 60
    tally.differed("0001", STATE, Sample("1", "'A'", "'a'"))
    found = only(tally)
    assert (found["compares"], found["mismatches"], found["number"], found["age"]) == (2, 1, 1, 60.0)


def test_what_is_counted_while_a_report_is_under_way_is_not_forgotten(tally: Tally, clock: Clock) -> None:
    tally.matched("0001", STATE)
    assert tally.report()
    tally.matched("0001", STATE)
    tally.told()
    clock.now += 60
    assert only(tally)["compares"] == 2


def test_the_last_one_does_not_wait(tally: Tally) -> None:
    tally.matched("0001", STATE)
    assert tally.report()
    tally.told()
    tally.matched("0001", STATE)
    assert only(tally, last=True)["compares"] == 2


def test_each_state_of_each_migration_counts_for_itself(tally: Tally) -> None:
    tally.matched("0001", STATE)
    tally.matched("0001", "later")
    tally.matched("0002", STATE)
    tally.dropped("0001", "no connection")
    found = tally.report() or []
    assert [(each["migration"], each["phase_since"], each["compares"], each["dropped"]) for each in found] == [
        ("0001", STATE, 1, 0), ("0001", "later", 1, 0), ("0002", STATE, 1, 0), ("0001", None, 0, 1)
    ]  # fmt: skip
    assert len({each["number"] for each in found}) == 4


def test_a_count_begins_anew_after_an_hour_when_the_database_knows_it(tally: Tally, clock: Clock) -> None:
    tally.matched("0001", STATE)
    clock.now += 3601
    tally.matched("0001", STATE)
    found = only(tally)
    assert (found["number"], found["compares"]) == (1, 2), "nobody has been told"
    tally.told()
    tally.matched("0001", STATE)
    clock.now += 60
    found = only(tally)
    assert (found["number"], found["compares"], found["age"]) == (2, 1, 60.0)


def test_it_does_not_grow_for_ever(tally: Tally) -> None:
    for number in range(1000):
        tally.differed("0001", str(number), Sample("k", "a", "b"))
    for _ in range(100):
        tally.differed("0001", "999", Sample("k", "a", "b"))
    found = tally.report() or []
    assert len(found) == 64
    assert len(found[-1]["samples"]) == 5


def test_texts_that_the_database_refuses_do_not_keep_the_counts_from_it(tally: Tally, clock: Clock) -> None:
    tally.differed("0001", STATE, Sample("k", "a", "b"))
    for _ in range(3):
        assert only(tally)["samples"]
        tally.refused()
        clock.now += 60
    found = only(tally)
    assert (found["samples"], found["mismatches"]) == ([], 1)
    tally.told()
    tally.matched("0001", STATE)
    clock.now += 60
    assert only(tally)["samples"], "it may have been another reason"


def test_a_child_tells_nothing_of_what_its_parent_has_counted(tally: Tally) -> None:
    tally.matched("0001", STATE)
    before = tally.reporter
    tally.after_fork()
    assert tally.report(last=True) is None
    assert tally.reporter != before


def test_threads_lose_no_count() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(2000):
            tally.matched("0001", STATE)
            tally.dropped("0001")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {each["phase_since"]: each for each in tally.report() or []}
    assert (found[STATE]["compares"], found[None]["dropped"]) == (8000, 8000)


def test_values_are_cut_where_they_part() -> None:
    assert sampled(4711, "A", "a") == Sample("4711", "'A'", "'a'")
    old, new = [*range(500), "x"], [*range(500), "y"]
    found = sampled("k", old, new)
    assert (found.old[0], found.old[-4:], found.new[-4:]) == ("…", "'x']", "'y']")
    far = sampled("k", "a" + "b" * 1000, "c" + "b" * 1000)
    assert all(len(text) == 200 for text in (far.old, far.new))
    assert (far.old[:2], far.old[-1]) == ("'a", "…")


class Rude:
    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise RuntimeError("no")
        return self.text


def test_a_repr_may_be_anything() -> None:
    found = sampled(Rude(None), Rude("a\0b\nc"), Rude("\ud800"))
    assert found == Sample("a Rude without a repr (RuntimeError)", r"a\x00b\nc", r"\ud800")


@given(st.text())
def test_what_is_sent_is_one_line_that_json_can_hold(text: str) -> None:
    sent = printable(text)
    assert sent.isprintable()
    sent.encode()
    assert "\\u0000" not in json.dumps(sent).replace("\\\\", "")
