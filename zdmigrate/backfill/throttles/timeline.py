"""When the primary was at which position of its WAL: how a standby's position becomes seconds. Pure.

`replay_lag` of pg_stat_replication stands still while replay does, and shows old values on an idle primary
(manual, section 27.2.4). The age of a position does neither: it grows while a standby stands still before the end, and
is nothing at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

_LONGEST = 4096
"""Samples that are kept: a quarter of an hour at four a second. What is older counts as that old."""


class Timeline:
    """Positions (bytes since the beginning of the WAL) and the time at which each was seen last."""

    def __init__(self) -> None:
        self._positions: deque[int] = deque(maxlen=_LONGEST)
        self._times: deque[float] = deque(maxlen=_LONGEST)

    def note(self, position: int, at: float) -> None:
        """The primary is at `position`. One that goes back is another server's, after a failover."""
        if self._positions and position < self._positions[-1]:
            self._positions.clear()
            self._times.clear()
        if self._positions and position == self._positions[-1]:
            self._times[-1] = at
            return
        self._positions.append(position)
        self._times.append(at)

    def seconds_behind(self, position: int, now: float) -> float:
        """How long ago the primary was there; a position older than the first sample is at least that sample's age."""
        if not self._positions or position >= self._positions[-1]:
            return 0.0
        after = bisect_right(self._positions, position)
        if after == 0:
            return now - self._times[0]
        low, high = self._positions[after - 1], self._positions[after]
        begin, end = self._times[after - 1], self._times[after]
        return now - (begin + (end - begin) * (position - low) / (high - low))

    def reaches(self, position: int) -> bool:
        """Whether the age of a position is more than a lower bound."""
        return bool(self._positions) and position >= self._positions[0]
