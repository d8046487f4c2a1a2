"""A throttle that is asked less often than the others: its last answer holds meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from zdmigrate.backfill.throttles.reading import Closable, Reading, Throttle
from zdmigrate.postgres.session import Connection


class Seldom:
    """For what changes slowly, or costs more to ask."""

    def __init__(self, inner: Throttle, *, every: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._every, self._clock = inner, every.total_seconds(), clock
        self._next = float("-inf")
        self._readings: Sequence[Reading] = ()

    @property
    def name(self) -> str:
        """The inner one's."""
        return self._inner.name

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask when it is time; an error is not kept, so the next call asks again."""
        if self._clock() >= self._next:
            self._readings = self._inner.read(connection)
            self._next = self._clock() + self._every
        return self._readings

    def close(self) -> None:
        """Close the inner one."""
        if isinstance(self._inner, Closable):
            self._inner.close()
