"""May a batch begin, and how large may it be: against a standby that replays as much as it can."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zdmigrate.backfill.control import Control
from zdmigrate.backfill.pacing.governor import Governor, Limits
from zdmigrate.backfill.throttles.hysteresis import Hysteresis
from zdmigrate.backfill.throttles.lag import LagLimits, judged
from zdmigrate.backfill.throttles.pursuit import Pursuit
from zdmigrate.backfill.throttles.reading import Lag
from zdmigrate.backfill.throttles.timeline import Timeline
from zdmigrate.backfill.throttles.verdict import Judge, LagTrend, Verdict

MB = 2**20
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TICK, LOOK = 0.01, 0.25
ROW = 500
"""Bytes of WAL."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """So many bytes a second; where `every` is given, only in the first `share` of every so many seconds."""

    speed: float
    every: float = 0.0
    share: float = 1.0

    def within_tick(self, at: float) -> float:
        if self.every and at % self.every >= self.share * self.every:
            return 0.0
        return self.speed * TICK


class World:
    """A primary whose one session writes `speed` bytes a second while it may, and a standby."""

    def __init__(self, limits: LagLimits, replay: Replay, *, speed: float, others: float = 0.0) -> None:
        self.limits, self.replay, self.speed, self.others = limits, replay, speed, others
        self.now = self.written = self.replayed = self.filled = 0.0
        self.verdict = Verdict(at=NOON)
        self.most = Lag(bytes=0, seconds=0.0)
        self.governor = Governor(Limits(batch_rows=10_000), lambda: self.verdict, clock=lambda: self.now)
        self._seen, self._truth = Timeline(), Timeline()
        self._pursuit, self._memory, self._judge = Pursuit(), Hysteresis(), Judge()
        self._next_look = self._busy_until = 0.0
        self._batch = 0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self._tick()

    def _tick(self) -> None:
        self.now += TICK
        self.written += self.others * TICK
        self.replayed = min(self.written, self.replayed + self.replay.within_tick(self.now))
        self._work()
        if self.now >= self._next_look:
            self._next_look = self.now + LOOK
            self._look()
        self._truth.note(int(self.written), self.now)
        lag = self._lag(self._truth)
        self.most = Lag(
            bytes=max(self.most.bytes or 0, lag.bytes or 0), seconds=max(self.most.seconds or 0, lag.seconds or 0)
        )

    def _work(self) -> None:
        if self.now < self._busy_until:
            return
        if self._batch:
            wal, self._batch = self._batch * ROW, 0
            self.written += wal
            self.filled += wal
            took = wal / self.speed
            self.governor.observe(took, rows=wal // ROW, wal=int(wal + self.others * took))
        if self.governor.may_begin():
            self._batch = self.governor.rows
            self._busy_until = self.now + self._batch * ROW / self.speed

    def _lag(self, timeline: Timeline) -> Lag:
        seconds = timeline.seconds_behind(int(self.replayed), self.now)
        return Lag(bytes=int(self.written) - int(self.replayed), seconds=seconds)

    def _look(self) -> None:
        self._seen.note(int(self.written), self.now)
        lag = self._pursuit.measured(
            self._lag(self._seen), replayed=int(self.replayed), limits=self.limits, at=self.now
        )
        reading = judged("replica1", lag, self.limits, self._memory)
        self.verdict = self._judge.judge([reading], at=NOON + timedelta(seconds=self.now), clock=self.now)


def limits(megabytes: float | None, seconds: float | None) -> LagLimits:
    return LagLimits(
        bytes=None if megabytes is None else int(megabytes * MB),
        time=None if seconds is None else timedelta(seconds=seconds),
    )


BURSTS = st.builds(Replay, st.floats(2 * MB, 30 * MB), st.floats(0.1, 0.4), st.floats(0.3, 0.9))
STEADY = st.builds(Replay, st.floats(1 * MB, 30 * MB))
LIMITS = st.sampled_from([limits(64, 1), limits(None, 2), limits(8, None), limits(4, 1)])


def refuse_too_much(world: World) -> None:
    if world.limits.time is not None:
        assert (world.most.seconds or 0) <= 1.2 * world.limits.time.total_seconds()
    if world.limits.bytes is not None:
        assert (world.most.bytes or 0) <= 1.2 * world.limits.bytes


@settings(deadline=None)
@given(BURSTS | STEADY, st.floats(5 * MB, 60 * MB), LIMITS)
def test_a_slow_standby_is_held_within_its_limits_and_kept_busy(
    replay: Replay, speed: float, allowed: LagLimits
) -> None:
    world = World(allowed, replay, speed=speed)
    world.run(5)
    world.filled = 0
    world.run(20)
    refuse_too_much(world)
    assert world.verdict.is_healthy
    assert world.filled >= 0.5 * min(speed, replay.speed * replay.share, 10 * MB) * 20


def test_a_standby_that_keeps_up_is_no_obstacle() -> None:
    world = World(limits(64, 1), Replay(100 * MB), speed=15 * MB)
    world.run(5)
    world.filled = 0
    world.run(5)
    assert world.filled > 0.8 * 15 * MB * 5


def test_what_others_write_is_left_to_them() -> None:
    world = World(limits(64, 1), Replay(10 * MB), speed=15 * MB, others=6 * MB)
    world.run(30)
    refuse_too_much(world)
    assert 2 * MB * 30 < world.filled < 4.5 * MB * 30


@given(st.floats(0.2 * MB, 5 * MB))
def test_one_that_becomes_slow_stays_within_its_bytes(then: float) -> None:
    world = World(limits(16, None), Replay(100 * MB), speed=20 * MB)
    world.run(6)
    world.replay = Replay(then)
    world.run(20)
    refuse_too_much(world)


@pytest.mark.parametrize("allowed", [limits(8, None), limits(None, 1), limits(64, 1)])
def test_one_that_stands_still_comes_to_its_limit_and_is_named_and_goes_on_when_it_can(allowed: LagLimits) -> None:
    world = World(allowed, Replay(100 * MB), speed=20 * MB)
    world.run(3)
    world.replay = Replay(0)
    world.run(20)
    assert "replica1 is" in world.verdict.reasons[0]
    assert (world.most.bytes or 0) <= 1.2 * (allowed.bytes or 64 * MB)
    world.replay = Replay(100 * MB)
    world.run(2)
    assert world.verdict.is_healthy
    before = world.filled
    world.run(2)
    assert world.filled > before + 2 * MB


def test_several_processes_share_the_room() -> None:
    verdict = Verdict(at=NOON, lag=LagTrend(bytes=0, seconds=0.0, room=1000.0))
    alone, one_of_four = (Governor(Limits(), lambda: verdict) for _ in range(2))
    one_of_four.steer(Control(), processes=4)
    for governor in (alone, one_of_four):
        assert governor.may_begin()
        governor.observe(0.01, rows=1, wal=250)
    assert alone.may_begin()
    assert not one_of_four.may_begin()


def test_batches_are_small_where_there_is_little_room() -> None:
    world = World(limits(64, 1), Replay(1 * MB), speed=60 * MB)
    world.run(10)
    assert world.governor.pace.rows > 2 * world.governor.rows
    assert world.governor.rows >= 50
