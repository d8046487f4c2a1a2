"""What a command ends with."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING

from zdmigrate.errors import worst_exit_code
from zdmigrate.phases import Phase

if TYPE_CHECKING:
    from zdmigrate.control.shadows import Compared


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """A gate of the next phase, as it stands."""

    name: str
    satisfied: bool
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a migration must not go on."""

    reason: str
    by: str
    since: datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """One migration: where it stands, what it waits for, what can be called next."""

    id: str
    phase: Phase
    running: Phase | None = None
    hold: Hold | None = None
    gates: tuple[GateState, ...] = ()
    next: tuple[tuple[str, ...], ...] = ()
    exit_code: int = 0
    message: str | None = None
    hint: str | None = None
    title: str | None = None
    since: datetime | None = None
    here: bool = True
    lease: str | None = None
    quarantined: int = 0
    """Rows that could not be filled and wait for somebody."""
    compared: Compared | None = None
    """What applications found that read both shapes; None where none did."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All migrations that a command was about."""

    migrations: tuple[MigrationStatus, ...]

    @property
    def exit_code(self) -> int:
        """The worst of them."""
        return worst_exit_code([status.exit_code for status in self.migrations])
