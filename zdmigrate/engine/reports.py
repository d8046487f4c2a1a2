"""Statuses for people and pipelines, from records. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from zdmigrate.control.store import Record
from zdmigrate.engine.outcome import GateState, Hold, MigrationStatus
from zdmigrate.errors import ZdmigrateError
from zdmigrate.migration import MigrationFile
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan

if TYPE_CHECKING:
    from zdmigrate.control.shadows import Compared


def not_started(id_: str, file: MigrationFile | None) -> MigrationStatus:
    """A file that the database has not seen."""
    return MigrationStatus(
        id=id_,
        phase=Phase.NONE,
        next=(("zdmigrate", "advance", id_),),
        title=None if file is None else file.title,
        here=file is not None,
    )


def status(
    record: Record,
    plan: Plan | None,
    gates: tuple[GateState, ...],
    *,
    here: bool,
    quarantined: int = 0,
    compared: Compared | None = None,
) -> MigrationStatus:
    """A migration that the database knows."""
    return MigrationStatus(
        id=record.id,
        phase=record.phase,
        running=record.running,
        hold=hold_of(record),
        gates=gates,
        next=_next(record, plan, quarantined),
        title=record.title or None,
        since=record.phase_since,
        here=here,
        lease=record.lease_holder,
        quarantined=quarantined,
        compared=compared,
    )


def hold_of(record: Record) -> Hold | None:
    """The migration's hold."""
    if record.hold_reason is None or record.hold_since is None:
        return None
    return Hold(reason=record.hold_reason, by=record.hold_by or "", since=record.hold_since)


def failed(status: MigrationStatus, error: ZdmigrateError) -> MigrationStatus:
    """The status with what went wrong."""
    return dataclasses.replace(status, exit_code=error.exit_code, message=error.message, hint=error.hint)


def _next(record: Record, plan: Plan | None, quarantined: int) -> tuple[tuple[str, ...], ...]:
    """What can be called now, the usual first."""
    calls: list[tuple[str, ...]] = []
    if record.phase is Phase.CONTRACT and (plan is None or record.adopted):
        return ()
    if quarantined:
        calls.append(("zdmigrate", "quarantine", "list", record.id))
    if record.hold_reason is not None:
        calls.append(("zdmigrate", "unhold", record.id))
    elif plan is None or record.phase.position < plan.automatic_target.position:
        calls.append(("zdmigrate", "advance", record.id))
    elif record.phase is not Phase.CONTRACT:
        calls.append(("zdmigrate", "advance", record.id, "--to", Phase.CONTRACT.value))
    if record.phase not in (Phase.NONE, Phase.CONTRACT):
        calls.append(("zdmigrate", "revert", record.id, "--to", record.phase.previous.value))
    return tuple(calls)
