"""What every worker of a process asks before a batch: may I, and how much?

One object for a process. Control, throttles and pace come together here; nobody who asks does any input or output.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from zdmigrate.backfill.bucket import TokenBucket
from zdmigrate.backfill.control import Control
from zdmigrate.backfill.pace import Crew, Pace

_LOOK = 0.05
"""Seconds between two looks of one who may not go on."""


class Stopping(Protocol):
    """What the throttles say, as far as it matters here."""

    @property
    def is_healthy(self) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is configured, and holds where the control row says nothing."""

    workers: int = 1
    rate: int | None = None
    target_latency: timedelta = timedelta(milliseconds=50)


class Governor:
    """Lets workers go on, or not. Each method may be called by any thread."""

    def __init__(
        self,
        limits: Limits,
        verdict: Callable[[], Stopping] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits, self._verdict, self._clock, self._sleep = limits, verdict, clock, sleep
        self._lock = threading.Lock()
        self._control = Control()
        self._processes = 1
        self._bucket = TokenBucket(limits.rate, clock=clock)
        self.pace = Pace(target=limits.target_latency)
        self.crew = Crew(limits.workers)

    def steer(self, control: Control, *, processes: int = 1) -> None:
        """Something was said from another terminal, or taken back; `processes` share the rate, which is for all of them."""
        rate = control.rate or self._limits.rate
        with self._lock:
            self._control, self._processes = control, processes
            self._bucket.change(None if rate is None else rate / processes)
            self.pace.aim(control.target_latency or self._limits.target_latency)
            self.crew.resize(self.workers)

    @property
    def control(self) -> Control:
        """What was said last."""
        return self._control

    @property
    def processes(self) -> int:
        """How many share the work."""
        return self._processes

    @property
    def workers(self) -> int:
        """How many of this process may work when nothing is in the way."""
        return self._control.workers or self._limits.workers

    @property
    def active(self) -> int:
        """How many of them may claim work now."""
        if self._verdict is None:  # nobody watches, so there is no lag to follow
            return self.workers
        with self._lock:
            return max(1, self.crew.active)

    @property
    def rows(self) -> int:
        """How many rows the next batch may take."""
        with self._lock:
            return self.pace.rows

    def wait(self, check: Callable[[], None]) -> None:
        """Return when a batch may begin. `check` is asked all the time, and raises to stop."""
        while True:
            check()
            if not self._is_held():
                return
            self._sleep(_LOOK)

    def may_claim(self, number: int) -> bool:
        """Whether worker `number` (from 0) is one of those that may work now. What it has claimed before, it finishes."""
        return number < self.active

    def follow(self, *, lag_bytes: float | None, lag_seconds: float | None, slope: float | None) -> None:
        """Readings have come in: the number of those who may work follows the lag."""
        with self._lock:
            self.crew.observe(lag_bytes=lag_bytes, lag_seconds=lag_seconds, slope=slope, healthy=not self._is_stopped())

    def _is_stopped(self) -> bool:
        return self._verdict is not None and not self._verdict().is_healthy

    def _is_held(self) -> bool:
        if self._control.paused:
            return True
        if self._is_stopped():
            return True
        with self._lock:
            # What was written is paid for afterwards: nobody knows before how much it is.
            return self._bucket.debt > 0

    def observe(self, seconds: float, *, rows: int, wal: int, contended: bool = False) -> None:
        """A batch has ended: it took so long, and the cluster wrote so many bytes of WAL meanwhile."""
        with self._lock:
            self.pace.observe(seconds, rows, contended=contended)
            self._bucket.wait_for(wal)
