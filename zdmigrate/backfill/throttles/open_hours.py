"""Hours of the day in which the work may go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo

from zdmigrate.backfill.throttles.reading import Reading
from zdmigrate.postgres.session import Connection
from zdmigrate.throttle_settings import Hours


class OpenHours:
    """One reading, by this machine's clock in the given zone."""

    name = "hours"

    def __init__(
        self, hours: Sequence[Hours], zone: tzinfo, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._hours, self._zone, self._now = tuple(hours), zone, now
        self._threshold = f"{', '.join(map(str, hours))} {zone}"

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Look at the clock."""
        time = self._now().astimezone(self._zone).time()
        healthy = any(hours.contains(time) for hours in self._hours)
        reason = None if healthy else f"it is {time:%H:%M}, work goes on within {self._threshold}"
        return [
            Reading(name=self.name, value=f"{time:%H:%M}", threshold=self._threshold, healthy=healthy, reason=reason)
        ]
