"""Which shape to read."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.app.shapes import Shapes
from zdmigrate.app.snapshot import MigrationState, Snapshot, Source, SwitchState, pinned
from zdmigrate.app.switch import ReadSwitch, bucket
from zdmigrate.phases import PHASES, Phase

NAME = "0001_email"


def told(
    phase: Phase, percent: int | None = None, *, running: Phase | None = None, allowed: tuple[str, ...] = (),
    seconds: float = 60, version: int = 1,
) -> Snapshot:  # fmt: skip
    state = MigrationState(version=version, phase=phase, running=running, shapes=Shapes())
    switches = (
        {} if percent is None else {NAME: SwitchState(version=version, percent=percent, allowed=frozenset(allowed))}
    )
    return Snapshot(migrations={NAME: state}, switches=switches, until=time.monotonic() + seconds)


def switch(snapshot: Snapshot | None = None, **options: object) -> tuple[ReadSwitch, Source]:
    source = Source()
    if snapshot is not None:
        source.current = snapshot
    return ReadSwitch(NAME, source=source, **options), source  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", PHASES)
def test_the_phase_says_what_there_is_to_read(phase: Phase) -> None:
    everybody, _ = switch(told(phase, 100))
    nobody, _ = switch(told(phase, 0))
    assert everybody.new(1) is (phase.position >= Phase.BACKFILL.position)
    assert nobody.new(1) is (phase.position >= Phase.RETIRE.position)


def test_a_phase_under_way_counts_as_either() -> None:
    retiring, _ = switch(told(Phase.SWITCH_READS, 0, running=Phase.RETIRE))
    assert retiring.new(1)
    unfilling, _ = switch(told(Phase.DUAL_WRITE, 100, running=Phase.BACKFILL))
    assert not unfilling.new(1)


def test_shares_grow_and_nobody_goes_back() -> None:
    keys = range(20_000)
    before: set[int] = set()
    for percent in (0, 1, 5, 25, 50, 99, 100):
        it, _ = switch(told(Phase.BACKFILL, percent))
        now = {key for key in keys if it.new(key)}
        assert before <= now
        assert abs(len(now) / len(keys) - percent / 100) < 0.01
        before = now


@pytest.mark.parametrize("percent", [1, 5, 25, 50])
@pytest.mark.parametrize("key", ["{}", "{:08d}", "tenant-{}"])
def test_two_switches_have_nothing_to_do_with_each_other(key: str, percent: int) -> None:
    """Who reads the new shape by one reads it by another as often as anybody does: within five standard deviations."""
    number, share = 20_000, percent / 100
    keys = [key.format(n) for n in range(number)]
    names = ("20261121_1432_email", "20261121_1432_name", "20261122_0900_email", "0001_a", "0001_b", "0002_a")
    salts = [ReadSwitch(name, source=Source())._salt for name in names]
    chosen = [{each for each in keys if bucket(each, salt) < percent * 100} for salt in salts]
    for one in chosen:
        assert abs(len(one) - number * share) <= 5 * (number * share * (1 - share)) ** 0.5
    for one, another in itertools.combinations(chosen, 2):
        expected = len(one) * len(another) / number
        assert abs(len(one & another) - expected) <= 5 * max(expected, 1) ** 0.5


@given(st.text(), st.integers(0, 2**32 - 1))
def test_a_bucket_is_one_of_ten_thousand(key: str, salt: int) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    assert 0 <= bucket(key, salt) < 10_000


def test_keys_may_be_anything_that_has_a_text() -> None:
    it, _ = switch(told(Phase.BACKFILL, 50))
    assert it.new(4711) == it.new("4711")


def test_without_a_key_only_everybody_counts() -> None:
    assert not switch(told(Phase.BACKFILL, 99))[0].new()
    assert switch(told(Phase.BACKFILL, 100))[0].new()


def test_those_who_are_named_read_it_at_once() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, allowed=("7",)), allow=frozenset(("8",)))
    assert [it.new(key) for key in (7, 8, 9)] == [True, True, False]
    source.current = told(Phase.BACKFILL)
    assert [it.new(key) for key in (7, 8, 9)] == [False, True, False]
    source.current = told(Phase.DUAL_WRITE, 0, allowed=("7",))
    assert [it.new(key) for key in (7, 8, 9)] == [False, False, False]


@pytest.mark.parametrize("side", ["old", "new"])
def test_where_nobody_can_say_it_is_the_declared_side_and_said_once(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    it, source = switch(otherwise=side)
    with caplog.at_level(logging.WARNING, "zdmigrate.app"):
        assert [it.new(key) for key in range(5)] == [side == "new"] * 5
        assert len(caplog.records) == 1
        assert f"reading the {side} shape" in caplog.text
        source.current = told(Phase.BACKFILL, 0, seconds=-1)
        assert it.new(1) is (side == "new")
        source.current = told(Phase.BACKFILL, 50)
        it.new(1)
        source.current = told(Phase.BACKFILL, 50, seconds=-1)
        assert it.new(1) is (side == "new")
        it.new(1)
        assert len(caplog.records) == 2, "once again after it was known in between"


def test_nothing_is_said_while_the_first_heartbeat_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    it, source = switch()
    source.expect(60)
    with caplog.at_level(logging.WARNING, "zdmigrate.app"):
        assert not it.new(1)
    assert caplog.records == []


def test_what_was_known_last_rules_out_what_cannot_be_there() -> None:
    early, _ = switch(told(Phase.EXPAND, seconds=-1), otherwise="new")
    assert not early.new(1)
    late, _ = switch(told(Phase.RETIRE, 100, seconds=-1), otherwise="old")
    assert late.new(1)


def test_a_side_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="otherwise"):
        switch(otherwise="left")


def test_within_a_request_nothing_changes() -> None:
    it, source = switch(told(Phase.BACKFILL, 0))
    with pinned():
        assert not it.new(1)
        source.current = told(Phase.BACKFILL, 100)
        assert not it.new(1)
        with pinned():
            assert not it.new(1)
    assert it.new(1)


def test_a_lease_that_runs_out_within_a_request_changes_nothing() -> None:
    it, source = switch(told(Phase.BACKFILL, 100, seconds=0.05))
    with pinned():
        assert it.new(1)
        while time.monotonic() <= source.current.until:
            pass
        assert it.new(1)
    assert not it.new(1)


def test_what_is_pinned_is_not_acknowledged() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, version=1))
    with pinned():
        it.new(1)
        source.current = told(Phase.BACKFILL, 100, version=2)
        assert set(source.acknowledged().values()) == {1}
    assert set(source.acknowledged().values()) == {2}


def test_two_requests_that_began_alike_end_apart() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, version=1))
    first, second = contextvars.copy_context(), contextvars.copy_context()
    one, two = pinned(), pinned()
    first.run(one.__enter__)
    second.run(two.__enter__)
    first.run(it.new, 1)
    second.run(it.new, 1)
    source.current = told(Phase.BACKFILL, 0, version=2)
    first.run(one.__exit__, None, None, None)
    assert set(source.acknowledged().values()) == {1}
    second.run(two.__exit__, None, None, None)
    assert set(source.acknowledged().values()) == {2}


def test_a_task_that_outlives_its_request_follows_again() -> None:
    it, source = switch(told(Phase.BACKFILL, 0))

    async def main() -> None:
        over = asyncio.Event()

        async def task() -> bool:
            await over.wait()
            return it.new(1)

        with pinned():
            assert not it.new(1)
            left = asyncio.create_task(task())
            await asyncio.sleep(0)
        source.current = told(Phase.BACKFILL, 100)
        over.set()
        assert await left

    asyncio.run(main())


def test_what_the_new_shape_does_not_have_is_read_from_the_old_one_and_counted() -> None:
    it, source = switch(told(Phase.BACKFILL, 100))
    assert it.read(1, old=lambda: "old", new=lambda: None) == "old"
    assert it.fell_back == 1
    assert it.read(1, old=lambda: "old", new=lambda: "new") == "new"
    assert it.fell_back == 1
    source.current = told(Phase.RETIRE, 100)
    assert it.read(1, old=lambda: "old", new=lambda: None) is None, "there is no old one any more"
    source.current = told(Phase.BACKFILL, 0)
    assert it.read(1, old=lambda: "old", new=lambda: "new") == "old"


def test_coroutines_do_the_same() -> None:
    it, _ = switch(told(Phase.BACKFILL, 100))

    async def value(given: str | None) -> str | None:
        return given

    async def main() -> None:
        assert await it.aread(1, old=lambda: value("old"), new=lambda: value(None)) == "old"
        assert await it.aread(1, old=lambda: value("old"), new=lambda: value("new")) == "new"

    asyncio.run(main())
    assert it.fell_back == 1


def test_pick() -> None:
    it, _ = switch(told(Phase.BACKFILL, 100))
    assert it.pick(1, old="user_email", new="email_address") == "email_address"


def test_requests_that_begin_alike_share_what_was_worked_out() -> None:
    _, source = switch(told(Phase.BACKFILL, 0, seconds=0.05))
    assert source.pin() is source.pin()
    while time.monotonic() <= source.current.until:
        pass
    assert source.pin().stale
    assert source.pin() is source.pin()


def test_a_key_that_cannot_be_written_is_a_key() -> None:
    it, _ = switch(told(Phase.BACKFILL, 50))
    assert it.new("\ud800") in (True, False)


def test_what_a_framework_ends_in_another_context_ends() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, version=1))
    request = pinned()
    contextvars.copy_context().run(request.__enter__)
    contextvars.copy_context().run(request.__exit__, None, None, None)
    assert not it.new(1)
    source.current = told(Phase.BACKFILL, 0, version=2)
    assert set(source.acknowledged().values()) == {2}


def test_threads_of_one_request_pin_once() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, version=1))
    start = threading.Barrier(8)

    def read() -> None:
        start.wait()
        it.new(1)

    with pinned():
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(read,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    source.current = told(Phase.BACKFILL, 0, version=2)
    assert set(source.acknowledged().values()) == {2}


def test_a_process_that_is_forked_within_a_request_is_in_none() -> None:
    it, source = switch(told(Phase.BACKFILL, 0, version=1))
    with pinned():
        assert not it.new(1)
        source.after_fork()
        source.current = told(Phase.RETIRE, 100, version=2)
        assert it.new(1)
        assert set(source.acknowledged().values()) == {2}
