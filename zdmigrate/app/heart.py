"""When the next heartbeat is due. Pure."""

from __future__ import annotations

from zdmigrate.app.chance import CHANCE

INTERVAL = 10.0
"""Seconds between two heartbeats."""
LEASES = 3
"""Intervals after which an instance that was not heard of no longer relies on what it knew."""
_JITTER = 0.05
_FIRST_RETRY = 1.0


class Heart:
    """The pace of one instance's heartbeats: steady while they succeed, soon again after a failure, then less often."""

    def __init__(self, interval: float = INTERVAL) -> None:
        """
        Raises:
            ValueError: an interval that is not between a tenth of a second and an hour.
        """
        if not 0.1 <= interval <= 3600:
            raise ValueError(f"interval must be between 0.1 and 3600 seconds, not {interval}")
        self.interval = interval
        self._failures = 0

    @property
    def lease(self) -> float:
        """Seconds."""
        return self.interval * LEASES

    @property
    def failing(self) -> bool:
        """Whether the last heartbeat failed."""
        return self._failures > 0

    def succeeded(self) -> float:
        """Seconds to wait after a heartbeat that was answered."""
        self._failures = 0
        return self._about(self.interval)

    def failed(self) -> float:
        """Seconds to wait after one that was not."""
        self._failures += 1
        return self._about(min(self.interval, _FIRST_RETRY * 2 ** min(self._failures - 1, 12)))

    @staticmethod
    def _about(seconds: float) -> float:
        """A thousand instances that were started together do not come together."""
        return seconds * CHANCE.uniform(1 - _JITTER, 1 + _JITTER)
