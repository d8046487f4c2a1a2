"""What the engine tells while it works."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

from zdmigrate.phases import Phase


class EventKind(enum.StrEnum):
    """What happened."""

    PHASE = "phase"
    STEP = "step"
    PROGRESS = "progress"
    WAITING = "waiting"
    BLOCKED = "blocked"
    NOTE = "note"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of narration; `done` of `total` is progress, in pages, and `progress` says more of it for programs."""

    kind: EventKind
    migration: str
    message: str
    phase: Phase | None = None
    step: str | None = None
    done: int | None = None
    total: int | None = None
    progress: Mapping[str, object] | None = None


Reporter = Callable[[Event], None]
