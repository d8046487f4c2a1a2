"""Unhealthy from one value on, healthy again only below a lower one. Pure.

Without the distance between the two, work would stop and start with every reading around the limit.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`stop`: unhealthy at this value and above. `resume`: healthy again below this one."""

    stop: float
    resume: float

    @classmethod
    def of_backlog(cls, stop: float) -> Limit:
        """For what is worked off while we wait (lag, retained WAL): go on when half of it is done."""
        return cls(stop=stop, resume=stop / 2)

    @classmethod
    def of_level(cls, stop: float) -> Limit:
        """For what others cause (sessions, their WAL): it may hover below the limit for ever."""
        return cls(stop=stop, resume=stop * 0.9)


class Hysteresis:
    """Remembers which of several values, told apart by a key, is over its limit."""

    def __init__(self) -> None:
        self._over: set[str] = set()

    def is_healthy(self, key: str, value: float | None, limit: Limit | None) -> bool:
        """The value's verdict. None as a value is unhealthy where there is a limit, and leaves the memory alone."""
        if limit is None:
            self._over.discard(key)
            return True
        if value is None:
            return False
        if value < (limit.resume if key in self._over else limit.stop):
            self._over.discard(key)
            return True
        self._over.add(key)
        return False
