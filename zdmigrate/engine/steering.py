"""Steering a backfill from another terminal: look, pause, resume, limit, abort. Waits for no batch and takes no lease."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import psycopg

from zdmigrate.backfill import control
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.control import Control, Process, Table
from zdmigrate.control.store import Event, Record, Store
from zdmigrate.engine import reports
from zdmigrate.engine.outcome import Hold
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.migration import find_id
from zdmigrate.phases import Phase
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection, Cursor
from zdmigrate.sqltext import ident
from zdmigrate.wording import brief, sized

_PATIENCE = timedelta(seconds=10)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackfillStatus:
    """One migration's backfill: where it stands, how it is steered, who works on it."""

    id: str
    phase: Phase
    running: Phase | None
    hold: Hold | None
    control: Control
    tables: tuple[Table, ...]
    processes: tuple[Process, ...]
    quarantined: int

    @property
    def under_way(self) -> bool:
        """Whether the phase has begun and is not complete."""
        return self.running is Phase.BACKFILL


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """The backfills of a project. Everything that is said is persisted and audited."""

    connection: Connection
    store: Store

    def status(self, id_: str | None) -> list[BackfillStatus]:
        """One migration's, or those of all whose backfill is under way. Changes nothing."""
        records = self._records()
        if id_ is not None:
            return [self._status(records[find_id(records, id_)])]
        return [self._status(record) for record in records.values() if record.running is Phase.BACKFILL]

    def pause(self, id_: str | None, reason: str | None) -> BackfillStatus:
        """No batch begins until `resume`; processes stay."""

        def change(before: Control) -> Control:
            return dataclasses.replace(before, paused=True, reason=reason or before.reason)

        return self._change(self._ahead(id_), change, lambda _, after: [("pause", after.reason)])

    def resume(self, id_: str | None) -> BackfillStatus:
        """Let a paused backfill go on."""

        def change(before: Control) -> Control:
            return dataclasses.replace(before, paused=False, reason=None)

        return self._change(self._chosen(id_), change, lambda before, _: [("resume", before.reason)])

    def set(self, id_: str | None, values: Mapping[str, Any]) -> BackfillStatus:
        """Set some of `control.LIMITS`; None goes back to the configuration."""

        def change(before: Control) -> Control:
            return dataclasses.replace(before, **values)

        return self._change(self._ahead(id_), change, _changes)

    def abort(self, id_: str | None, reason: str) -> BackfillStatus:
        """Hold the migration: its processes end at their next look. What is filled stays filled."""
        record = self._ahead(id_)
        with self._writing() as cursor:
            self.store.set_hold(cursor, [record.id], reason)
            self._log(cursor, record, "abort", reason)
        return self._status_now(record)

    def _change(
        self,
        record: Record,
        change: Callable[[Control], Control],
        said: Callable[[Control, Control], list[tuple[str, str | None]]],
    ) -> BackfillStatus:
        """Change the control row, and write what `said` of before and after into the audit, if they differ."""
        schema = self.store.schema
        with self._writing() as cursor:
            before = control.lock(cursor, control_schema=schema, migration=record.key)
            after = change(before)
            if after != before:
                control.write(cursor, after, control_schema=schema, migration=record.key)
                for action, detail in said(before, after):
                    self._log(cursor, record, action, detail)
        return self._status_now(record)

    def _log(self, cursor: Cursor, record: Record, action: str, detail: str | None) -> None:
        event = Event(migration=record.id, action=action, outcome="done", phase=Phase.BACKFILL, detail=detail)
        self.store.log(cursor, event)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Cursor]:
        try:
            with session.transaction(self.connection, lock_timeout=_PATIENCE) as cursor:
                yield cursor
        except psycopg.errors.InsufficientPrivilege as error:
            raise Unsafe(f"steering is not allowed: {error.diag.message_primary}", hint=self._grants()) from error

    def _grants(self) -> str:
        schema, who = self.store.schema, ident(self.connection.info.user)
        return "somebody who may: " + "; ".join(grants(schema, who))

    def _ahead(self, id_: str | None) -> Record:
        record = self._chosen(id_)
        if record.running is not Phase.BACKFILL and record.phase.position >= Phase.BACKFILL.position:
            raise UsageError(
                f"{record.id} has its backfill behind it: it is at {record.phase}",
                hint=f"zdmigrate backfill status {record.id}",
            )
        return record

    def _chosen(self, id_: str | None) -> Record:
        return chosen(self._records(), id_)

    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.store.records(self.connection)}

    def _status_now(self, record: Record) -> BackfillStatus:
        now = self.store.record(self.connection, record.id)
        return self._status(now or record)

    def _status(self, record: Record) -> BackfillStatus:
        connection, schema, key = self.connection, self.store.schema, record.key
        return BackfillStatus(
            id=record.id,
            phase=record.phase,
            running=record.running,
            hold=reports.hold_of(record),
            control=control.read(connection, control_schema=schema, migration=key),
            tables=tuple(control.tables(connection, control_schema=schema, migration=key)),
            processes=tuple(control.processes(connection, control_schema=schema, migration=key)),
            quarantined=quarantine.open_count(connection, control_schema=schema, migration=key),
        )


def chosen(records: Mapping[str, Record], id_: str | None) -> Record:
    """The one that is named, or the one that is in its backfill.

    Raises:
        UsageError: there is none, or several.
    """
    if id_ is not None:
        return records[find_id(records, id_)]
    return only([record for record in records.values() if record.running is Phase.BACKFILL], "is in its backfill")


def only(records: list[Record], what: str) -> Record:
    """The one that is meant where none is named.

    Raises:
        UsageError: there is none, or several.
    """
    match records:
        case [record]:
            return record
        case []:
            raise UsageError(f"no migration {what}", hint="name one; see zdmigrate status")
        case _:
            raise UsageError(
                f"{len(records)} migrations are meant: {', '.join(r.id for r in records)}", hint="name one"
            )


def grants(schema: str, who: str) -> list[str]:
    """What a role needs that steers, and does nothing else."""
    return [
        f"GRANT USAGE ON SCHEMA {ident(schema)} TO {who}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {ident(schema)} TO {who}",
        f"GRANT INSERT, UPDATE ON {ident(schema, 'backfill_control')} TO {who}",
        f"GRANT INSERT ON {ident(schema, 'event')} TO {who}",
        f"GRANT UPDATE (hold_reason, hold_by, hold_since) ON {ident(schema, 'migration')} TO {who}",
    ]


def limit_text(name: str, value: Any) -> str:
    """A limit for people."""
    match name, value:
        case _, None:
            return "as configured"
        case "rate", _:
            return f"{sized(value)}/s"
        case "max_lag", _:
            return sized(value)
        case "standbys", _:
            return ", ".join(value) or "none"
        case _, timedelta():
            return brief(value)
        case _:
            return str(value)


def _changes(before: Control, after: Control) -> list[tuple[str, str | None]]:
    changed = [name for name in control.LIMITS if getattr(before, name) != getattr(after, name)]
    return [
        ("set", f"{name}: {limit_text(name, getattr(after, name))}, was {limit_text(name, getattr(before, name))}")
        for name in changed
    ]
