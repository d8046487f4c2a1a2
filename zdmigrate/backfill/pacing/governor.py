"""What every worker of a process asks before a batch: may I, and how much?

One object for a process. Control, throttles and pace come together here; nobody who asks does any input or output.

The throttles look a few times a second. What is written between two of their looks is counted here, and ends where they have
left no more room: by the time that a lag shows, it would be too much for a slow standby.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from zdmigrate.backfill.control import Control
from zdmigrate.backfill.pacing.bucket import TokenBucket
from zdmigrate.backfill.pacing.pace import Crew, Pace

_LOOK = 0.05
"""Seconds between two looks of one who may not go on."""
_PART = 0.25
"""Of the room that there is, what one batch may take."""
_FEWEST = 50
"""Rows that a batch may take all the same."""


class Trend(Protocol):
    """The standbys' lag: bytes that may be written until the next look (None: any), and how much of its limit is used."""

    @property
    def room(self) -> float | None: ...
    @property
    def load(self) -> float: ...


class Judgement(Protocol):
    """What the throttles say, as far as it matters here; `at` is another one with each look."""

    @property
    def at(self) -> datetime | None: ...
    @property
    def is_healthy(self) -> bool: ...
    @property
    def lag(self) -> Trend: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is configured, and holds where the control row says nothing. A batch has at most `batch_rows` rows."""

    workers: int = 1
    batch_rows: int = 150
    rate: int | None = None
    target_latency: timedelta = timedelta(milliseconds=50)


class Governor:
    """Lets workers go on, or not. Each method may be called by any thread."""

    def __init__(
        self,
        limits: Limits,
        verdict: Callable[[], Judgement] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits, self._verdict, self._clock, self._sleep = limits, verdict, clock, sleep
        self._lock = threading.Lock()
        self._control = Control()
        self._processes = 1
        self._bucket = TokenBucket(limits.rate, clock=clock)
        self._looked: datetime | None = None
        self._written = self._row = 0.0
        self.pace = Pace(target=limits.target_latency, ceiling=limits.batch_rows)
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
            room = None if self._verdict is None else self._verdict().lag.room
            if room is None or self._row == 0:
                return self.pace.rows
            return min(self.pace.rows, max(_FEWEST, int(_PART * room / self._processes / self._row)))

    def wait(self, check: Callable[[], None], patience: timedelta) -> bool:
        """Return when a batch may begin, or False after so long. `check` is asked all the time, and raises to stop."""
        end = self._clock() + patience.total_seconds()
        while True:
            check()
            if self.may_begin():
                return True
            if self._clock() >= end:
                return False
            self._sleep(_LOOK)

    def may_claim(self, number: int) -> bool:
        """Whether worker `number` (from 0) is one of those that may work now. What it has claimed before, it finishes."""
        return number < self.active

    def may_begin(self) -> bool:
        """Whether nothing holds back a batch now."""
        verdict = None if self._verdict is None else self._verdict()
        with self._lock:
            if verdict is not None and not self._allows(verdict):
                return False
            # What was written is paid for afterwards: nobody knows before how much it is.
            return not self._control.paused and self._bucket.debt == 0

    def _allows(self, verdict: Judgement) -> bool:
        if verdict.at != self._looked:
            self._looked, self._written = verdict.at, 0.0
            self.crew.observe(load=verdict.lag.load, healthy=verdict.is_healthy)
        room = verdict.lag.room
        return verdict.is_healthy and (room is None or self._written < room / self._processes)

    def observe(self, seconds: float, *, rows: int, wal: int, contended: bool = False) -> None:
        """A batch has ended: it took so long, and the cluster wrote so many bytes of WAL meanwhile."""
        with self._lock:
            self.pace.observe(seconds, rows, contended=contended)
            own = wal / max(1, self.crew.active)  # each of those who work at once has seen what all of them wrote
            self._bucket.wait_for(own)
            self._written += own
            if rows:
                self._row = wal / rows
