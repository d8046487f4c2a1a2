"""What a throttle says: values for people, whether they are healthy, and what would help. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from zdmigrate.postgres.session import Connection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a standby is behind what the primary has written; None: not known.

    `room` is how many bytes may be written until the next look (negative: none; None: there is no limit), `load` how much
    of what is allowed is used, or soon will be.
    """

    bytes: int | None
    seconds: float | None
    room: float | None = None
    load: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The oldest transaction whose rows must be kept: versions that died since then cannot be pruned.

    `xmin` is comparable with what `pg_current_xact_id` returns. `age` is how long the holder has been in its
    transaction, or for how long it has been seen to hold; `remedy` is what ends it. `ours`: it is a session of zdmigrate.
    """

    xmin: int
    holder: str
    age: timedelta | None
    remedy: str | None = None
    ours: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `status` and its JSON document; the age in seconds."""
        age = None if self.age is None else self.age.total_seconds()
        return {"xmin": self.xmin, "holder": self.holder, "age": age}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value at one moment.

    Attributes:
        name: what was measured: ``lag of replica1``.
        value, threshold: for people, with units.
        reason: why it is not healthy; it names the standby, slot, pid or prepared transaction.
        hint: what helps: a GRANT, a setting, a command.
        measured: the same as numbers, for those who go by them.
    """

    name: str
    value: str
    threshold: str
    healthy: bool
    reason: str | None = None
    hint: str | None = None
    measured: Lag | Horizon | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.value} ({self.threshold})"

    def to_json(self) -> dict[str, Any]:
        """For `status` and its JSON document."""
        return {
            "name": self.name, "value": self.value, "threshold": self.threshold, "healthy": self.healthy,
            "reason": self.reason, "hint": self.hint,
        }  # fmt: skip


class Throttle(Protocol):
    """Something that can stop a backfill. It keeps its own hysteresis, and is asked by one thread."""

    @property
    def name(self) -> str:
        """What it measures, for people."""

    def read(self, connection: Connection) -> Sequence[Reading]:
        """The values of now. What it cannot find out is unhealthy.

        Raises:
            psycopg.Error: the server refuses; the caller takes that for unhealthy.
        """


@runtime_checkable
class Closable(Protocol):
    """A throttle that keeps something open."""

    def close(self) -> None:
        """Let it go."""


def unknown(name: str, threshold: str, reason: str, hint: str | None = None) -> Reading:
    """What could not be found out is not healthy."""
    return Reading(name=name, value="unknown", threshold=threshold, healthy=False, reason=reason, hint=hint)
