"""Which replicas may be read from: those that are not far behind, and have replayed what this process knows of. Pure.

Lag is measured without clocks of servers: the primary's position is noted again and again, and a replica is as far behind as
the last position that it has reached is old. An idle primary is no lag. Before a replica is read from, it has to have
replayed the primary's WAL up to when the newest phase became known here, so that no reader meets a column that its replica
does not have yet.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_KEPT = 300.0
"""Seconds for which positions are remembered: who is further behind than that is far behind."""


class Query(NamedTuple):
    """A query for one text, as channels take it."""

    formatted: str

    @property
    def numbered(self) -> str:
        """The same: it has no arguments."""
        return self.formatted

    @property
    def values(self) -> list[object]:
        """None."""
        return []


POSITION = Query("SELECT CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS text)")
"""Asked of the primary."""
REPLAYED = Query(
    "SELECT CAST(CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') END AS text)"
)
"""Asked of a replica; NULL where it is none any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What was found out last: for each replica the position that it had replayed, None where it must not be used.

    `until` is of the monotonic clock: who has not looked for that long knows nothing. `news` is the state of the world that
    the replicas were compared with (`zdmigrate.app.snapshot.Source.news`).
    """

    replayed: tuple[int | None, ...]
    until: float
    news: int


class Watch:
    """What looks at a primary and its replicas tell it, one look after the other. Used by one thread or task."""

    def __init__(self, replicas: int, *, max_lag: float, interval: float) -> None:
        self._max_lag, self._interval = max_lag, interval
        self._positions: deque[tuple[float, int]] = deque()
        self._required: int | None = None
        self._news = -1
        self.view = View((None,) * replicas, float("-inf"), -1)
        self.lags: tuple[float | None, ...] = (None,) * replicas

    def primary(self, position: int, *, now: float, news: int) -> None:
        """The primary's position. `now` is from before it was asked, and so is `news`."""
        self._positions.append((now, position))
        while self._positions[0][0] < now - _KEPT:
            self._positions.popleft()
        if self._required is None or news != self._news:
            self._required, self._news = position, news

    def replicas(self, replayed: Sequence[int | None], *, now: float) -> View:
        """What each replica had replayed, None where it did not answer; decides which of them are fit."""
        self.lags = tuple(None if position is None else self._lag(position, now) for position in replayed)
        fit = tuple(
            position if self._is_fit(position, lag) else None for position, lag in zip(replayed, self.lags, strict=True)
        )
        self.view = View(fit, now + 3 * self._interval + 1, self._news)
        return self.view

    def _is_fit(self, position: int | None, lag: float | None) -> bool:
        if position is None or lag is None or self._required is None:
            return False
        return lag <= self._max_lag and position >= self._required

    def _lag(self, position: int, now: float) -> float | None:
        """Seconds; None where the primary's position is not known, or was long ago."""
        if not self._positions or now - self._positions[-1][0] > self._max_lag + 3 * self._interval:
            return None
        if position >= self._positions[-1][1]:
            return 0.0
        reached = itertools.takewhile(lambda each: each[1] <= position, self._positions)
        last = max((at for at, _ in reached), default=None)
        return float("inf") if last is None else now - last
