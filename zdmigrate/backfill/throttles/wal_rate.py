"""How much WAL the whole server writes, ours included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.backfill.throttles.slope import Slope
from zdmigrate.postgres.session import Connection

_QUERY = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"


class WalRate:
    """One reading, over the last two seconds.

    Args:
        most: bytes a second.
    """

    name = "WAL rate"

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = Limit.of_level(most)
        self._threshold = words.at_most(words.rate(most))
        self._memory, self._clock = Hysteresis(), clock
        self._slope = Slope(timedelta(seconds=2))

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        row = connection.execute(_QUERY).fetchone()
        assert row is not None
        self._slope.add(self._clock(), row[0])
        rate = self._slope.per_second
        if rate is None:
            return [unknown(self.name, self._threshold, "the WAL rate is being measured")]
        healthy = self._memory.is_healthy(self.name, rate, self._limit)
        value = words.rate(rate)
        reason = None if healthy else f"the server writes {value} of WAL"
        return [Reading(name=self.name, value=value, threshold=self._threshold, healthy=healthy, reason=reason)]
