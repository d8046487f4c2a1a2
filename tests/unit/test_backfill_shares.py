"""What a worker asks before a batch: said, configured, and shared with other processes."""

from __future__ import annotations

from datetime import timedelta

from zdmigrate.backfill.control import Control
from zdmigrate.backfill.pacing.governor import Governor, Limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waited(governor: Governor, clock: Clock) -> float:
    """How long a batch has to wait."""
    began = clock.now
    governor.wait(lambda: None, timedelta(hours=1))
    return clock.now - began


def governed(limits: Limits) -> tuple[Governor, Clock]:
    clock = Clock()
    return Governor(limits, clock=clock, sleep=clock.sleep), clock


def test_a_rate_is_for_all_processes_together() -> None:
    for processes, expected in ((1, 9.5), (4, 39.5)):
        governor, clock = governed(Limits(rate=1000))
        governor.steer(Control(), processes=processes)
        clock.now += 60  # half a second's worth is saved up
        governor.observe(0.01, rows=1, wal=10_000)
        assert abs(waited(governor, clock) - expected) < 0.6
        assert governor.processes == processes


def test_one_that_leaves_lets_the_others_have_its_share() -> None:
    governor, clock = governed(Limits())
    governor.steer(Control(rate=1000), processes=2)
    governor.observe(0.01, rows=1, wal=10_000)
    governor.steer(Control(rate=1000), processes=1)
    assert abs(waited(governor, clock) - 10) < 0.1


def test_what_was_said_comes_before_what_is_configured() -> None:
    governor, _ = governed(Limits(workers=2, target_latency=timedelta(milliseconds=50)))
    assert [governor.may_claim(number) for number in range(4)] == [True, True, False, False]
    governor.steer(Control(workers=3, target_latency=timedelta(milliseconds=20)))
    assert (governor.workers, governor.active, governor.pace.target_ms) == (3, 3, 20)
    governor.steer(Control())
    assert (governor.workers, governor.active, governor.pace.target_ms) == (2, 2, 50)
