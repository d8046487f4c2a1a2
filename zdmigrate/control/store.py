"""The state of migrations: reads and writes of the control tables, each a statement or two.

Whoever writes is in a transaction that holds the lease's fence (`zdmigrate.control.lease.Lease.fence`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from zdmigrate.app.shapes import Shapes
from zdmigrate.control.policy import Policy, from_meta
from zdmigrate.errors import Drift, UsageError, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan
from zdmigrate.postgres.session import Connection, Cursor
from zdmigrate.sqltext import ident


class Moment(NamedTuple):
    """What is committed at a moment, as a ``pg_snapshot``, and how many notes of divergence had been missed by then."""

    snapshot: str
    missed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row of `migration`."""

    key: int
    project: str
    id: str
    title: str
    checksum: str
    plan_json: str | None
    phase: Phase
    phase_since: datetime
    phase_age: timedelta
    running: Phase | None
    verified: bool
    adopted: bool
    touches: tuple[str, ...]
    shapes: Shapes
    version: int
    hold_reason: str | None
    hold_by: str | None
    hold_since: datetime | None
    lease_holder: str | None
    lease_since: datetime | None

    @property
    def in_flight(self) -> bool:
        """Whether something of it may be in the catalog beside the old shape."""
        return self.phase is not Phase.CONTRACT and (self.phase is not Phase.NONE or self.running is not None)

    @property
    def plan(self) -> Plan | None:
        """The stored plan."""
        return None if self.plan_json is None else msgspec.json.decode(self.plan_json, type=Plan)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A row of `read_switch`. `since`: when it was changed; `age`: how long ago."""

    percent: int
    allowed: tuple[str, ...]
    since: datetime
    age: timedelta


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A row of the audit, newest first."""

    at: datetime
    migration: str
    phase: str | None
    step: str | None
    action: str
    outcome: str
    actor: str
    host: str
    deployment: str | None
    artifact: str | None
    sql_hash: str | None
    duration_ms: float | None
    detail: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is written to the audit."""

    migration: str
    action: str
    outcome: str
    phase: Phase | None = None
    step: str | None = None
    sql_hash: str | None = None
    duration: timedelta | None = None
    detail: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who works: written into every row of the audit."""

    host: str
    deployment: str | None = None
    artifact: str | None = None


_RECORD = """
SELECT m.key, m.project, m.id, m.title, m.checksum, m.plan::text, m.phase, m.phase_since,
       clock_timestamp() - m.phase_since, m.running, m.verified_at IS NOT NULL, m.adopted, m.touches,
       m.shapes, m.version, m.hold_reason, m.hold_by, m.hold_since,
       CASE WHEN l.expires_at > clock_timestamp() THEN l.holder END, l.acquired_at
FROM {migration} m LEFT JOIN {lease} l ON l.migration = m.key
"""


class Store:
    """The control tables of one schema and project."""

    def __init__(self, schema: str, project: str, author: Author) -> None:
        self.schema = schema
        self.project = project
        self.author = author

    def table(self, name: str) -> str:
        """A control table's qualified, quoted name."""
        return ident(self.schema, name)

    def meta(self, connection: Connection | Cursor) -> dict[str, str]:
        """All of `meta`."""
        return dict(self._run(connection, "SELECT key, value FROM {meta}").fetchall())

    def set_meta(self, cursor: Cursor, values: Mapping[str, str]) -> None:
        """Insert or replace rows of `meta`."""
        for key, value in values.items():
            statement = "INSERT INTO {meta} VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            self._run(cursor, statement, (key, value))

    def policy(self, connection: Connection) -> Policy:
        """The environment's policy."""
        return from_meta(self.meta(connection))

    def records(self, connection: Connection | Cursor) -> list[Record]:
        """Every migration of the project, by id."""
        rows = self._run(connection, _RECORD + " WHERE m.project = %s ORDER BY m.id", (self.project,)).fetchall()
        return [_record(row) for row in rows]

    def all_touching(self, connection: Connection | Cursor) -> list[Record]:
        """Every migration in flight or about to be, of any project: two must not touch the same things."""
        where = (
            " WHERE m.phase <> 'contract' AND (m.phase <> 'none' OR m.running IS NOT NULL "
            "OR m.plan IS NOT NULL AND l.holder IS NOT NULL AND l.expires_at > clock_timestamp()) ORDER BY m.project, m.id"
        )
        return [_record(row) for row in self._run(connection, _RECORD + where).fetchall()]

    def record(self, connection: Connection | Cursor, id_: str) -> Record | None:
        """One migration."""
        row = self._run(connection, _RECORD + " WHERE m.project = %s AND m.id = %s", (self.project, id_)).fetchone()
        return None if row is None else _record(row)

    def locked(self, cursor: Cursor, id_: str) -> Record:
        """One migration, whose phase nobody changes before the transaction ends.

        Raises:
            UsageError: there is none.
        """
        self._run(cursor, "SELECT FROM {migration} WHERE project = %s AND id = %s FOR SHARE", (self.project, id_))
        record = self.record(cursor, id_)
        if record is None:
            raise UsageError(f"{id_} has not begun on this database", hint=f"zdmigrate advance {id_}")
        return record

    def register(self, cursor: Cursor, id_: str, title: str, checksum: str) -> None:
        """Make the migration's row and its lease, if they are not there."""
        insert = "INSERT INTO {migration} (project, id, title, checksum) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
        self._run(cursor, insert, (self.project, id_, title, checksum))
        lease = (
            "INSERT INTO {lease} (migration) SELECT key FROM {migration} WHERE project = %s AND id = %s "
            "ON CONFLICT DO NOTHING"
        )
        self._run(cursor, lease, (self.project, id_))

    def store_plan(self, cursor: Cursor, key: int, plan: Plan, title: str) -> None:
        """Bind the migration to a plan; allowed only while nothing was done."""
        text = json.dumps(plan.to_json())
        statement = (
            "UPDATE {migration} SET plan = %s::jsonb, plan_hash = %s, checksum = %s, touches = %s, title = %s, "
            "shapes = %s::jsonb WHERE key = %s AND phase = 'none' AND running IS NULL"
        )
        shapes = json.dumps(plan.shapes.to_json())
        values = (text, plan.hash, plan.checksum, list(plan.touches), title, shapes, key)
        if self._run(cursor, statement, values).rowcount != 1:
            raise Drift(f"{plan.migration} was started by somebody else meanwhile", hint="run the command again")

    def start_phase(self, cursor: Cursor, key: int, *, state: Phase, running: Phase | None) -> None:
        """`running` is under way; `state` must still be the completed one (compare-and-set)."""
        statement = "UPDATE {migration} SET running = %s WHERE key = %s AND phase = %s"
        if self._run(cursor, statement, (running, key, state)).rowcount != 1:
            raise Drift("the migration's phase changed while we worked", hint="run: zdmigrate status")

    def complete_phase(self, cursor: Cursor, key: int, *, before: Phase, after: Phase) -> None:
        """Move the state from `before` to `after` (compare-and-set)."""
        statement = (
            "UPDATE {migration} SET phase = %s, phase_since = clock_timestamp(), running = NULL "
            "WHERE key = %s AND phase = %s"
        )
        if self._run(cursor, statement, (after, key, before)).rowcount != 1:
            raise Drift("the migration's phase changed while we worked", hint="run: zdmigrate status")

    def moment(self, connection: Connection) -> Moment:
        """What is committed now: what is read from here on shows all of it. (On a connection in autocommit mode.)"""
        missed = self._run(connection, "SELECT {missed_until_now}()").fetchone()
        row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        assert missed is not None
        assert row is not None
        return Moment(str(row[0]), int(missed[0]))

    def set_verified(self, cursor: Cursor, key: int, *, verified: bool, since: Moment | None = None) -> None:
        """Note that every row was found filled, or that this is no longer known.

        Args:
            since: the `moment` before the first row was read.

        Raises:
            Waiting: rows wait in quarantine; nobody may take them for filled.
        """
        if not verified:
            statement = (
                "UPDATE {migration} SET verified_at = NULL, verified_from = NULL, verified_missed = NULL WHERE key = %s"
            )
            self._run(cursor, statement, (key,))
            return
        statement = (
            "UPDATE {migration} AS m SET verified_at = clock_timestamp(), verified_from = %s::pg_snapshot, verified_missed = %s "
            "WHERE m.key = %s "
            "AND NOT EXISTS (SELECT FROM {quarantine} AS q WHERE q.migration = m.key AND q.resolved_at IS NULL)"
        )
        snapshot, missed = (None, None) if since is None else since
        if self._run(cursor, statement, (snapshot, missed, key)).rowcount != 1:
            raise Waiting("rows could not be filled and wait in quarantine", hint="zdmigrate quarantine list")

    def adopt(self, cursor: Cursor, key: int) -> None:
        """Record that the new shape is there without phases."""
        statement = (
            "UPDATE {migration} SET phase = 'contract', phase_since = clock_timestamp(), adopted = true WHERE key = %s"
        )
        self._run(cursor, statement, (key,))

    def forget_backfill(self, cursor: Cursor, key: int) -> None:
        """Drop the backfill's cursors and the rows that it set aside: the next one starts from the beginning."""
        for table in ("backfill", "backfill_cost", "quarantine"):
            self._run(cursor, f"DELETE FROM {{{table}}} WHERE migration = %s", (key,))

    def forget_steering(self, cursor: Cursor, key: int) -> None:
        """Drop what was said to the backfill, a pause too, and the standbys that it saw: the next one is another one."""
        self._run(cursor, "DELETE FROM {backfill_control} WHERE migration = %s", (key,))

    def set_hold(self, cursor: Cursor, ids: Iterable[str], reason: str, *, again: bool = False) -> int:
        """Hold migrations; one that is held keeps its first reason, unless it is held `again`."""
        statement = (
            "UPDATE {migration} SET hold_reason = %s, hold_by = session_user, hold_since = clock_timestamp() "
            "WHERE project = %s AND id = ANY (%s) AND (hold_reason IS NULL OR %s)"
        )
        return self._run(cursor, statement, (reason, self.project, list(ids), again)).rowcount

    def clear_hold(self, cursor: Cursor, ids: Iterable[str]) -> int:
        """Let migrations go on."""
        statement = (
            "UPDATE {migration} SET hold_reason = NULL, hold_by = NULL, hold_since = NULL "
            "WHERE project = %s AND id = ANY (%s) AND hold_reason IS NOT NULL"
        )
        return self._run(cursor, statement, (self.project, list(ids))).rowcount

    def log(self, cursor: Cursor | Connection, event: Event) -> None:
        """Append to the audit."""
        statement = (
            "INSERT INTO {event} (project, migration, host, deployment, artifact, action, phase, step, sql_hash, outcome, "
            "duration_ms, detail) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        )
        milliseconds = None if event.duration is None else event.duration.total_seconds() * 1000
        author = self.author
        self._run(
            cursor, statement,
            (
                self.project, event.migration, author.host, author.deployment, author.artifact, event.action, event.phase,
                event.step, event.sql_hash, event.outcome, milliseconds, event.detail,
            ),
        )  # fmt: skip

    def was_done(self, connection: Connection, id_: str, step: str) -> bool:
        """Whether the audit says that a step was done, and not undone since."""
        statement = (
            "SELECT action = 'do' FROM {event} WHERE project = %s AND migration = %s AND step = %s "
            "AND action IN ('do', 'undo') AND outcome = 'done' ORDER BY number DESC LIMIT 1"
        )
        row = self._run(connection, statement, (self.project, id_, step)).fetchone()
        return bool(row and row[0])

    def history(self, connection: Connection, id_: str | None, limit: int) -> list[HistoryEntry]:
        """The newest `limit` entries of the audit."""
        statement = (
            "SELECT at, migration, phase, step, action, outcome, actor, host, deployment, artifact, sql_hash, "
            "duration_ms, detail FROM {event} "
            "WHERE project = %s AND (%s::text IS NULL OR migration = %s) ORDER BY number DESC LIMIT %s"
        )
        rows = self._run(connection, statement, (self.project, id_, id_, limit)).fetchall()
        names = [field.name for field in dataclasses.fields(HistoryEntry)]
        return [HistoryEntry(**dict(zip(names, row, strict=True))) for row in rows]

    def switch(self, connection: Connection | Cursor, id_: str) -> Switch | None:
        """The migration's read switch; None before anything was switched."""
        statement = (
            "SELECT percent, allowed, changed_at, clock_timestamp() - changed_at FROM {read_switch} WHERE name = %s"
        )
        row = self._run(connection, statement, (id_,)).fetchone()
        return None if row is None else Switch(percent=row[0], allowed=tuple(row[1]), since=row[2], age=row[3])

    def set_switch(self, cursor: Cursor, id_: str, percent: int, allowed: Iterable[str]) -> None:
        """Send so many of a hundred keys to the new shape, and those named."""
        statement = (
            "INSERT INTO {read_switch} AS s (name, percent, allowed) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE SET "
            "percent = excluded.percent, allowed = excluded.allowed, changed_at = clock_timestamp(), changed_by = session_user"
        )
        self._run(cursor, statement, (id_, percent, sorted(allowed)))

    def close_switch(self, cursor: Cursor, id_: str) -> None:
        """Send nobody to the new shape any more."""
        statement = (
            "UPDATE {read_switch} SET percent = 0, allowed = '{}', changed_at = clock_timestamp(), changed_by = session_user "
            "WHERE name = %s AND (percent > 0 OR allowed <> '{}')"
        )
        self._run(cursor, statement, (id_,))

    def completed_at(self, connection: Connection, id_: str, phase: Phase) -> datetime | None:
        """When the phase was completed last, by the audit."""
        statement = (
            "SELECT max(at) FROM {event} WHERE project = %s AND migration = %s AND phase = %s AND action = 'complete'"
        )
        row = self._run(connection, statement, (self.project, id_, phase)).fetchone()
        return None if row is None else row[0]

    def any_live_instance(self, connection: Connection) -> bool:
        """Whether any application reported in lately."""
        statement = (
            "SELECT EXISTS (SELECT FROM {app_instance} WHERE retired_at IS NULL AND expires_at > clock_timestamp())"
        )
        row = self._run(connection, statement).fetchone()
        return bool(row and row[0])

    def _run(self, where: Connection | Cursor, statement: str, values: tuple[Any, ...] = ()) -> Cursor:
        names = (
            "meta", "migration", "lease", "event", "backfill", "backfill_process", "backfill_window", "backfill_control",
            "backfill_cost", "quarantine", "heartbeat", "read_switch", "app_instance",
            "missed_until_now",
        )  # fmt: skip
        text = statement
        for name in names:
            text = text.replace("{" + name + "}", self.table(name))
        return where.execute(text.encode(), values or None)


def _record(row: tuple[Any, ...]) -> Record:
    return Record(
        key=row[0], project=row[1], id=row[2], title=row[3], checksum=row[4], plan_json=row[5], phase=Phase(row[6]),
        phase_since=row[7], phase_age=row[8], running=None if row[9] is None else Phase(row[9]), verified=row[10],
        adopted=row[11], touches=tuple(row[12]), shapes=Shapes.from_json(row[13]), version=row[14], hold_reason=row[15],
        hold_by=row[16], hold_since=row[17], lease_holder=row[18], lease_since=row[19],
    )  # fmt: skip
