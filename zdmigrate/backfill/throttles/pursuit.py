"""How a standby follows what is written, and how much may be written until it is looked at again. Pure.

A limit alone acts too late: what is on its way when it is reached is still to be replayed, which takes a slow standby long.
So no more is on its way than half of the bytes that it may be behind, and than it replays in a small part of the time: its
speed changes, too. While it keeps up, what it replays is what is written: then the room is more than that, and grows.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from zdmigrate.backfill.throttles.lag import LagLimits
from zdmigrate.backfill.throttles.reading import Lag
from zdmigrate.backfill.throttles.slope import Slope

_HALF, _EIGHTH = 1 / 2, 1 / 8
_LOOKS = 0.5
"""Seconds of replay that there is always room for: less than what is replayed between two looks would throttle itself."""
_LEAST = 512 * 1024
"""Bytes that there is room for however slow it seems: one that had nothing to replay looks like one that cannot."""
_BIT = 1 / 16
"""Beyond half there is still room for this part of the rest: one that stands still comes to its limit, and is named."""
_AHEAD = 5.0
"""Seconds for which a lag in bytes that grows is thought to go on like that."""


class Pursuit:
    """One standby's. Not synchronised."""

    def __init__(self, window: timedelta = timedelta(seconds=1.5)) -> None:
        """`window`: what counts for speeds; one that replays in bursts should have several of them in it."""
        self._replayed, self._behind = Slope(window), Slope(window)

    def measured(self, lag: Lag, *, replayed: int, limits: LagLimits, at: float) -> Lag:
        """The lag, with the room and the load that follow from it and what was seen before.

        Args:
            replayed: the standby's position in bytes.
            at: seconds of a clock that only goes forward.
        """
        self._replayed.add(at, replayed)
        self._behind.add(at, lag.bytes)
        speed, growth = (max(0.0, slope.per_second or 0.0) for slope in (self._replayed, self._behind))
        return dataclasses.replace(lag, room=_room(lag, limits, speed), load=_load(lag, limits, speed, growth))


def _room(lag: Lag, limits: LagLimits, speed: float) -> float | None:
    behind, rooms = lag.bytes or 0, []
    if limits.bytes is not None:
        rooms.append(max(_HALF * limits.bytes - behind, _BIT * (limits.bytes - behind)))
    if limits.time is not None:
        seconds = max(_EIGHTH * limits.time.total_seconds(), _LOOKS)
        rooms.append(max(seconds * speed, _LEAST) - behind)
    return min(rooms, default=None)


def _load(lag: Lag, limits: LagLimits, speed: float, growth: float) -> float:
    behind, loads = lag.bytes or 0, [0.0]
    if limits.bytes is not None:
        loads.append((behind + growth * _AHEAD) / limits.bytes)
    if limits.time is not None:
        left = behind / speed if behind > _LEAST and speed > 0 else 0.0
        loads.append(max(lag.seconds or 0.0, left) / limits.time.total_seconds())
    return max(loads)
