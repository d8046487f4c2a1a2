"""How far a backfill is and how it goes: for people one line, for programs a JSON document. Pure but for the clock."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from zdmigrate.backfill.values import Progress
from zdmigrate.wording import counted, size, spoken

MEMORY = timedelta(seconds=20)
"""How far back a rate looks: what was done that long ago counts 37 %."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """What stops the work: the throttle's name, its value and threshold as they are shown, and for how long."""

    name: str
    value: str
    threshold: str
    seconds: float
    reason: str | None = None

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason and self.value == "unknown" else ""
        allowed, since = self.threshold, spoken(timedelta(seconds=self.seconds))
        return f"{self.name}: {self.value}{why}, allowed {allowed}, for {since}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A backfill at one moment. None: not measured, or not known yet.

    `rows` are those that all processes have filled, earlier ones too; `pages_done` and `pages_total` are of all
    relations, `relation` is the one under way. Rates are of the last `MEMORY`, stops included. `eta_seconds` is None
    while nothing moves. `paused` is why somebody paused it, empty where no reason was given.
    """

    relation: str
    rows: int
    pages_done: int
    pages_total: int
    elapsed_seconds: float
    rows_per_second: float | None = None
    eta_seconds: float | None = None
    wal_bytes: int | None = None
    wal_bytes_per_second: float | None = None
    p95_ms: float | None = None
    target_ms: float | None = None
    lag_bytes: float | None = None
    lag_seconds: float | None = None
    workers: int | None = None
    crew: int | None = None
    processes: int | None = None
    throttled: tuple[Throttled, ...] = ()
    paused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """One line for people."""
        return f"{self.relation}: " + ", ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        yield f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        yield f"page {self.pages_done:,} of {self.pages_total:,}"
        if self.rows_per_second is not None:
            yield f"{self.rows_per_second:,.0f} rows/s"
        if self.wal_bytes_per_second is not None:
            yield f"{size(self.wal_bytes_per_second)}/s of WAL"
        if self.p95_ms is not None:
            aim = "" if self.target_ms is None else f" of {self.target_ms:.0f}"
            yield f"batches {self.p95_ms:.0f}{aim} ms (p95)"
        if lag := [*self._lag()]:
            yield f"lag {' and '.join(lag)}"
        if self.workers is not None:
            yield f"{self.workers} of {counted(self.crew or self.workers, 'worker')}"
        if self.processes is not None and self.processes > 1:
            yield f"{self.processes} processes"
        yield from self._outlook()

    def _lag(self) -> Iterator[str]:
        if self.lag_bytes is not None:
            yield size(self.lag_bytes)
        if self.lag_seconds is not None:
            yield f"{self.lag_seconds:.1f} s"

    def _outlook(self) -> Iterator[str]:
        if self.paused is not None:
            yield f"paused: {self.paused}" if self.paused else "paused"
        if self.throttled:
            yield f"stopped by {'; '.join(map(str, self.throttled))}"
        if self.paused is None and not self.throttled and self.eta_seconds:
            yield f"{spoken(timedelta(seconds=self.eta_seconds))} to go"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What others have measured: pace, throttles, control. All of it is shown as it is."""

    p95_ms: float | None = None
    target_ms: float | None = None
    lag_bytes: float | None = None
    lag_seconds: float | None = None
    workers: int | None = None
    crew: int | None = None
    processes: int | None = None
    throttled: Sequence[Throttled] = ()
    paused: str | None = None


NOTHING_READ = Readings()


class Rate:
    """Something per second, of which the recent past counts most."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._amount = self._time = 0.0

    def add(self, amount: float, now: float) -> None:
        """`amount` more was done since the last call."""
        passed = max(0.0, now - self._at)
        kept = math.exp(-passed / MEMORY.total_seconds())
        self._amount = self._amount * kept + amount
        self._time = self._time * kept + passed
        self._at = now

    @property
    def per_second(self) -> float | None:
        """None before any time has passed."""
        return self._amount / self._time if self._time > 0 else None


class Meter:
    """Counts what one process sees of its backfill. Not synchronised: threads that share one take a lock."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = now = clock()
        self._rows, self._pages, self._wal = Rate(now), Rate(now), Rate(now)
        self._wal_bytes: int | None = None
        self._last: Progress | None = None

    def wrote(self, wal_bytes: int) -> None:
        """A batch wrote that much WAL."""
        self._wal_bytes = (self._wal_bytes or 0) + wal_bytes
        self._wal.add(wal_bytes, self._clock())

    def at(self, progress: Progress, readings: Readings = NOTHING_READ) -> Snapshot:
        """The backfill is here now."""
        now, before = self._clock(), self._last
        if before is None:  # earlier runs came this far, nobody knows how fast
            self._rows, self._pages, before = Rate(now), Rate(now), progress
        # Less than before: a relation's file was replaced, and it begins anew.
        self._rows.add(max(0, progress.rows - before.rows), now)
        self._pages.add(max(0, progress.pages_done - before.pages_done), now)
        self._wal.add(0, now)
        self._last = progress
        return Snapshot(
            relation=progress.relation,
            rows=progress.rows,
            pages_done=progress.pages_done,
            pages_total=progress.pages_total,
            elapsed_seconds=now - self._began,
            rows_per_second=self._rows.per_second,
            eta_seconds=self._eta(progress),
            wal_bytes=self._wal_bytes,
            wal_bytes_per_second=None if self._wal_bytes is None else self._wal.per_second,
            p95_ms=readings.p95_ms,
            target_ms=readings.target_ms,
            lag_bytes=readings.lag_bytes,
            lag_seconds=readings.lag_seconds,
            workers=readings.workers,
            crew=readings.crew,
            processes=readings.processes,
            throttled=tuple(readings.throttled),
            paused=readings.paused,
        )

    def read(self, progress: Progress) -> Snapshot:
        """The same of a verification, whose `rows` are those found unfilled: how many a second says nothing."""
        return dataclasses.replace(self.at(progress), rows_per_second=None)

    def _eta(self, progress: Progress) -> float | None:
        speed = self._pages.per_second
        left = max(0, progress.pages_total - progress.pages_done)
        return left / speed if speed else (0.0 if left == 0 else None)
