"""May the work go on? What all throttles say together. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.reading import Horizon, Lag, Reading, unknown
from zdmigrate.backfill.throttles.slope import Slope


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LagTrend:
    """The longest lag of all standbys, and how fast it grows (negative: it shrinks). None: not known, or no standby.

    `room` and `load` are those of the standby that leaves the least room, and of the one that is loaded most.
    """

    bytes: int | None = None
    seconds: float | None = None
    bytes_per_second: float | None = None
    seconds_per_second: float | None = None
    room: float | None = None
    load: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known at one moment; it never changes.

    Attributes:
        at: when it was found out; None: nobody has answered yet.
        reasons, hints: why the work must stop, and what would help.
        stopped_since: by this machine's clock; None: it may go on.
        horizon: None: not known.
        silence: what stands for an answer that does not come.
    """

    at: datetime | None
    readings: tuple[Reading, ...] = ()
    reasons: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    stopped_since: datetime | None = None
    lag: LagTrend = LagTrend()
    horizon: Horizon | None = None
    silence: Reading | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the work may go on."""
        return self.stopped_since is None

    @property
    def stopping(self) -> tuple[Reading, ...]:
        """The readings for which the work must stop."""
        unhealthy = tuple(each for each in self.readings if not each.healthy)
        return unhealthy if self.silence is None else (self.silence, *unhealthy)

    def stopped_for(self, now: datetime) -> timedelta:
        """How long it has been stopped."""
        return timedelta(0) if self.stopped_since is None else max(timedelta(0), now - self.stopped_since)

    def to_json(self) -> dict[str, Any]:
        """For `status` and its JSON document."""
        return {
            "healthy": self.is_healthy,
            "stopped_since": None if self.stopped_since is None else self.stopped_since.isoformat(),
            "reasons": list(self.reasons),
            "hints": list(self.hints),
            "readings": [reading.to_json() for reading in self.readings],
            "lag": dataclasses.asdict(self.lag),
            "horizon": None if self.horizon is None else self.horizon.to_json(),
        }


def silent(last: Verdict, *, answered: datetime, tolerance: timedelta, now: datetime, why: str) -> Verdict:
    """What is to be thought when nobody has answered since `answered`: the values are of then, and the work stops."""
    reason = f"the throttles are unknown for {words.duration(now - answered)}: {why}"
    since = last.stopped_since or answered + tolerance
    silence = unknown("throttles", "an answer", reason)
    return dataclasses.replace(last, reasons=(reason, *last.reasons), stopped_since=since, silence=silence)


class Judge:
    """Makes verdicts of readings; remembers the lag, for its slope, and since when the work is stopped."""

    def __init__(self, *, window: timedelta = timedelta(seconds=3)) -> None:
        self._bytes, self._seconds = Slope(window), Slope(window)
        self._stopped_since: datetime | None = None

    def judge(self, readings: Sequence[Reading], *, at: datetime, clock: float) -> Verdict:
        """The verdict on what was read; `clock` only goes forward."""
        unhealthy = [reading for reading in readings if not reading.healthy]
        self._stopped_since = (self._stopped_since or at) if unhealthy else None
        return Verdict(
            at=at,
            readings=tuple(readings),
            reasons=tuple(reading.reason or str(reading) for reading in unhealthy),
            hints=tuple(dict.fromkeys(reading.hint for reading in unhealthy if reading.hint)),
            stopped_since=self._stopped_since,
            lag=self._trend([reading.measured for reading in readings if isinstance(reading.measured, Lag)], clock),
            horizon=next((reading.measured for reading in readings if isinstance(reading.measured, Horizon)), None),
        )

    def _trend(self, lags: Sequence[Lag], clock: float) -> LagTrend:
        most = max((lag.bytes for lag in lags if lag.bytes is not None), default=None)
        longest = max((lag.seconds for lag in lags if lag.seconds is not None), default=None)
        self._bytes.add(clock, most)
        self._seconds.add(clock, longest)
        return LagTrend(
            bytes=most, seconds=longest, bytes_per_second=self._bytes.per_second, seconds_per_second=self._seconds.per_second,
            room=min((lag.room for lag in lags if lag.room is not None), default=None),
            load=max((lag.load for lag in lags), default=0.0),
        )  # fmt: skip
