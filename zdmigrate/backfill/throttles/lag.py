"""A lag in bytes and in seconds against its limits. Pure."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Lag, Reading
from zdmigrate.backfill.throttles.steering import Said


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LagLimits:
    """The most that a standby may be behind; None: no limit."""

    bytes: int | None
    time: timedelta | None

    def overridden(self, said: Said) -> LagLimits:
        """With what was said from another terminal."""
        return LagLimits(
            bytes=self.bytes if said.max_lag is None else said.max_lag,
            time=self.time if said.max_lag_time is None else said.max_lag_time,
        )

    def __str__(self) -> str:
        given = [] if self.bytes is None else [words.size(self.bytes)]
        given += [] if self.time is None else [words.duration(self.time)]
        return words.at_most(" and ".join(given) or None)


def judged(who: str, lag: Lag, limits: LagLimits, memory: Hysteresis) -> Reading:
    """The reading of one standby."""
    bytes_limit = None if limits.bytes is None else Limit.of_backlog(limits.bytes)
    time_limit = None if limits.time is None else Limit.of_backlog(limits.time.total_seconds())
    behind = [
        text
        for text, healthy in (
            (_bytes(lag), memory.is_healthy(f"{who} bytes", lag.bytes, bytes_limit)),
            (_seconds(lag), memory.is_healthy(f"{who} seconds", lag.seconds, time_limit)),
        )
        if not healthy
    ]
    return Reading(
        name=f"lag of {who}",
        value=f"{_bytes(lag)}, {_seconds(lag)}",
        threshold=str(limits),
        healthy=not behind,
        reason=f"{who} is {' and '.join(behind)} behind" if behind else None,
        measured=lag,
    )


def _bytes(lag: Lag) -> str:
    return "an unknown number of bytes" if lag.bytes is None else words.size(lag.bytes)


def _seconds(lag: Lag) -> str:
    return "an unknown time" if lag.seconds is None else words.duration(lag.seconds)
