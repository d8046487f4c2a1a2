"""How much at once, and how many at a time: additive increase, multiplicative decrease. Pure.

`Pace` follows the latency of batches, `Crew` the replicas' lag. Not synchronised: threads that share one take a lock.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import timedelta

P95 = 0.95
SAMPLES = 100
"""Batches that `Pace.p95_ms` is about."""

_CALM = 20
"""Batches within the target after which the step doubles. One in twenty above it is what a p95 allows."""
_STEPS = 100
"""A step is this part of what was too much last, so that twenty steps make good one decrease."""
_SLOWER, _HALVE = 0.8, 0.5
_FAR_ABOVE = 2.0
"""Times the target from which a batch counts as overload, not as one a little too large."""
_USED = 0.5
"""A batch that took less than this part of what it might proves nothing about a larger one."""

_LOADED = 0.5
"""Load above which fewer may work."""
_SETTLE = 2
"""Observations after a decrease in which only a lag beyond its limit counts: the slope is still the old one."""
_EVERY = 2
"""Calm observations before one more may work."""


class Pace:
    """How many rows the next batch may take.

    It starts small and doubles until a batch takes half the target; from then on it grows by small steps and shrinks
    by a fifth with a batch above the target, by half with one far above it or one that ran into somebody else.

    Args:
        target: latency that 95 of 100 batches stay under.
        start: rows of the first batch; a resumed run may hand in what the last one had (warm).
        floor, ceiling: bounds of `rows`.
    """

    def __init__(
        self, *, target: timedelta = timedelta(milliseconds=50), start: int = 100, floor: int = 1, ceiling: int = 10_000
    ) -> None:
        if not 1 <= floor <= ceiling:
            raise ValueError("1 <= floor <= ceiling")
        self._floor, self._ceiling = floor, ceiling
        self._rows = float(min(max(start, floor), ceiling))
        self._warming, self._calm, self._step = True, 0, 1.0
        self._latencies: deque[float] = deque(maxlen=SAMPLES)
        self.aim(target)

    def aim(self, target: timedelta) -> None:
        """Another target from the next batch on."""
        if target <= timedelta(0):
            raise ValueError("a target latency is above 0")
        self._target = target.total_seconds()

    @property
    def target_ms(self) -> float:
        """The latency aimed at, in milliseconds."""
        return self._target * 1000

    @property
    def rows(self) -> int:
        """How many the next batch may take."""
        return int(self._rows)

    @property
    def p95_ms(self) -> float | None:
        """The 95th percentile of the last `SAMPLES` batches, in milliseconds; None before the first."""
        if not self._latencies:
            return None
        ordered = sorted(self._latencies)
        return ordered[math.ceil(P95 * len(ordered)) - 1] * 1000

    def observe(self, latency_seconds: float, rows: int, *, contended: bool = False) -> None:
        """A batch has ended.

        Args:
            latency_seconds: from BEGIN to the answer to COMMIT.
            rows: how many it took. None at all says nothing, unless it was in somebody's way.
            contended: it timed out, deadlocked, or others waited for it.
        """
        if rows > 0:
            self._latencies.append(latency_seconds)
        if contended or (rows > 0 and latency_seconds > _FAR_ABOVE * self._target):
            self._shrink(_HALVE)
        elif rows > 0 and latency_seconds > self._target:
            self._shrink(_SLOWER)
        elif rows >= _USED * self.rows:
            self._grow(latency_seconds)

    def _shrink(self, factor: float) -> None:
        self._settle()
        self._rows = max(float(self._floor), self._rows * factor)

    def _settle(self) -> None:
        """From here on in steps: this much was, or is nearly, too much."""
        self._warming, self._calm = False, 0
        self._step = max(1.0, self._rows / _STEPS)

    def _grow(self, latency_seconds: float) -> None:
        if self._warming and latency_seconds >= self._target / 2:
            self._settle()
        self._calm += 1
        if self._calm % _CALM == 0:
            self._step *= 2
        self._rows = min(float(self._ceiling), self._rows + (self._rows if self._warming else self._step))


class Crew:
    """How many of `size` workers may work now, by the replicas' lag.

    One more after every second look at which there is room; half as many when a limit is half used, or soon would be.
    That is what is kept on its way to a slow standby (see `throttles.pursuit`): several workers would be no help.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a crew is at least one")
        self._size, self._active = size, 1
        self._calm, self._wait = 0, 0
        self._healthy = True

    @property
    def active(self) -> int:
        """How many may work now; 0 while lag is unknown or a throttle stops everybody."""
        return self._active if self._healthy else 0

    def resize(self, size: int) -> None:
        """Another number of workers from now on."""
        if size < 1:
            raise ValueError("a crew is at least one")
        self._size = size
        self._active = min(self._active, size)

    def observe(self, *, load: float, healthy: bool) -> int:
        """The throttles have looked; the number of workers that may work now.

        Args:
            load: how much of what is allowed the standbys' lag uses, or soon will; more than 1 is too much.
            healthy: nothing stops the work. What is unknown is not healthy.
        """
        before, self._healthy = self._healthy, healthy
        self._wait = max(0, self._wait - 1)
        if not healthy:
            if before:
                self._fewer()
        elif load > 1 or (load > _LOADED and self._wait == 0):
            self._fewer()
        elif load <= _LOADED:
            self._more()
        return self.active

    def _fewer(self) -> None:
        self._active = max(1, self._active // 2)
        self._calm, self._wait = 0, _SETTLE

    def _more(self) -> None:
        self._calm += 1
        if self._calm % _EVERY == 0:
            self._active = min(self._size, self._active + 1)
