"""A rehearsal of the end: for a while applications have no rights on the old shape. Who still uses it fails, and is seen.

Everything is given back when the time is over, at the first sign of a failure, when it is asked for, and when the command dies:
then by the server (`zdmigrate.control.withholding.ServerWatch`), or by the next command. A command that lives goes on trying.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import psycopg

from zdmigrate.control import statements as counts
from zdmigrate.control import withholding
from zdmigrate.control.lease import Lease, now
from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.control.store import Record, Store
from zdmigrate.control.withholding import ServerWatch
from zdmigrate.engine import statements
from zdmigrate.engine.draining import Findings, Verdict
from zdmigrate.engine.holding import Holding, InTheWay
from zdmigrate.engine.reporting import Event, EventKind
from zdmigrate.engine.stopping import Stop
from zdmigrate.errors import Contended, Drift, Progressed, Unsafe, Waiting
from zdmigrate.plan import Direction, Gate, LockMode, Plan, TableLock
from zdmigrate.postgres import failing, grants, session
from zdmigrate.postgres.grants import Withheld
from zdmigrate.postgres.session import Connection, Cursor
from zdmigrate.sqltext import ident
from zdmigrate.wording import brief, counted

_LOOK = 0.05
"""Seconds."""
_BASELINE = 5.0
"""Seconds that are watched before anything is taken away."""
_WORK = timedelta(seconds=2)
_NAMED = 5
_PATIENCE = 300.0
"""Seconds for which giving back is tried: of a restart, or a failover."""
_AGAIN = 0.5
_TOLD_EVERY = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """One of them, of the migration that `held` is about. `owner_too`: the owner of the table is no exception.

    `reason` is why it begins although some are known who would fail.
    """

    held: Holding
    lease: Lease
    record: Record
    duration: timedelta
    owner_too: bool
    reason: str | None
    connect: Callable[[], Connection]
    stop: Stop

    def run(self) -> str:
        """Withhold, watch, give back; what to say when nobody failed.

        Raises:
            Waiting: somebody failed, or may have.
            Progressed: it was asked to stop, or somebody else gave everything back.
        """
        signs = _Signs(self._connection, self.record)
        self._tell(f"watching for {_BASELINE:g} s how it is when nothing is withheld")
        signs.learn(_BASELINE, lambda: self.stop.asked)
        self._refuse_stopped()
        backend = self._connection.info.backend_pid
        watch = ServerWatch(self.connect(), self._store, self.record.key, self.lease.epoch, backend)
        watch.start()
        try:
            withheld = self._withhold(signs, watch)
            ended = self._watch(signs, watch)
        except BaseException as error:
            self._give_back(Ended("stopped", f"interrupted ({type(error).__name__})"))
            watch.dismiss()
            raise
        self._give_back(ended)
        watch.dismiss()
        return self._concluded(withheld)

    @property
    def _connection(self) -> Connection:
        return self.held.connection

    @property
    def _store(self) -> Store:
        return self.held.store

    def _withhold(self, signs: _Signs, watch: ServerWatch) -> str:
        """Take it away, and return from whom."""
        self._await_watch(watch)
        locks = [
            TableLock(schema=schema, name=name, mode=LockMode.ACCESS_SHARE) for schema, name in _tables(self.record)
        ]
        taken: list[str] = []

        def attempt() -> None:
            signs.begin()
            taken.append(self._transaction(locks))

        self.held.retried(locks, attempt)
        self._tell(f"{taken[-1]} for {brief(self.duration)}")
        return taken[-1]

    def _transaction(self, locks: Sequence[TableLock]) -> str:
        try:
            with session.transaction(
                self._connection, lock_timeout=self.held.lock_timeout, statement_timeout=self.held.lock_timeout + _WORK
            ) as cursor:
                self.held.lease.fence(cursor)
                for lock in locks:  # no column comes or goes meanwhile
                    cursor.execute(f"LOCK TABLE ONLY {ident(lock.schema, lock.name)} IN {lock.mode} MODE".encode())
                withheld = list(_plan(cursor, self.record, owner_too=self.owner_too))
                for statement in (each for one in withheld for each in one.statements()):
                    cursor.execute(statement.encode())
                spared = grants.spared(cursor, withheld)
                key, epoch = self.record.key, self.lease.epoch
                withholding.note(cursor, self._store, key, epoch, self.duration, withheld, spared)
                said = _said(withheld, spared)
                event = AuditEvent(
                    migration=self.record.id, action="withhold", outcome="started", phase=self.record.phase,
                    detail=f"{said} for {brief(self.duration)}{f'; although: {self.reason}' if self.reason else ''}",
                )  # fmt: skip
                self._store.log(cursor, event)
        except psycopg.errors.InternalError_ as error:  # "tuple concurrently updated"
            raise InTheWay from error
        except psycopg.errors.UndefinedTable as error:
            raise Drift(f"{self.record.id}: {error.diag.message_primary}", hint="run: zdmigrate verify") from error
        return said

    def _await_watch(self, watch: ServerWatch) -> None:
        query = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE 'CALL%%'"
        until = time.monotonic() + 5
        while self._connection.execute(query, (watch.pid,)).fetchone() is None:
            if not watch.is_alive or time.monotonic() > until:
                raise Contended(
                    "the server's own watch did not begin: nothing was withheld", hint="run the command again"
                )
            self.held.sleep(_LOOK)

    def _watch(self, signs: _Signs, watch: ServerWatch) -> Ended:
        """Look until it is over."""
        over = time.monotonic() + self.duration.total_seconds()
        with self.stop.listening():
            while time.monotonic() < over:
                if (failure := signs.failure()) is not None:
                    return Ended("failed", failure)
                if self.stop.asked:
                    return Ended("stopped", "asked to stop")
                if not watch.is_alive:
                    return Ended("lost", "given back by somebody else, or the server's own watch has ended")
                if self.lease.is_lost:
                    return Ended("lost", "the lease was lost")
                self.held.sleep(min(_LOOK, max(0.0, over - time.monotonic())))
        failure = signs.failure()
        return Ended("quiet", signs.nobody) if failure is None else Ended("failed", failure)

    def _give_back(self, ended: Ended) -> None:
        """On a new connection where ours is of no use any more: the server restarts, or another one is to take its place.

        Raises:
            Contended: for minutes it could not be.
        """
        ours: AbstractContextManager[Connection] = contextlib.nullcontext(self._connection)
        end, told = time.monotonic() + _PATIENCE, None
        try:
            while True:
                try:
                    with ours if told is None else self.connect() as connection:
                        withholding.give_back(connection, self._store, self.record.key, ended.outcome, ended.detail)
                    break
                except (psycopg.Error, Unsafe, Contended) as error:
                    if time.monotonic() > end:
                        raise
                    if told is None or time.monotonic() > told + _TOLD_EVERY:
                        told = time.monotonic()
                        self._tell(f"what is withheld could not be given back, trying again: {_line(error)}")
                self.held.sleep(_AGAIN)
        except BaseException as error:
            tables = ", ".join(f"{schema}.{name}" for schema, name in _tables(self.record))
            raise Contended(
                f"rights on {tables} are STILL withheld: {_line(error)}",
                hint=f"zdmigrate withhold {self.record.id} --stop",
            ) from error
        if told is not None:
            self._tell("nothing is withheld any more")

    def _concluded(self, withheld: str) -> str:
        last = withholding.last(self._connection, self._store, self.record.key)
        assert last is not None
        assert last.given_back_at is not None
        lasted = brief(last.given_back_at - last.began_at)
        match last.outcome:
            case "quiet":
                return f"{withheld} for {lasted}: {last.detail}; {last.whole} is given back"
            case "failed":
                raise Waiting(
                    f"{last.whole} was given back after {lasted}: {last.detail}",
                    hint="find who that is, let it go, then run the command again",
                )
            case _:
                raise Progressed(
                    f"{last.whole} was given back after {lasted}: {last.detail}; this proves nothing",
                    hint="run the command again",
                )

    def _refuse_stopped(self) -> None:
        if self.stop.asked:
            raise Progressed("asked to stop before anything was withheld", hint="run the command again")

    def _tell(self, message: str) -> None:
        self.held.report(Event(kind=EventKind.NOTE, migration=self.record.id, message=message))


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: quiet, failed, stopped or lost; and why."""

    outcome: str
    detail: str


class _Signs:
    """What tells that somebody failed. The log, where it can be read, tells it exactly; else any unusual rollback counts."""

    def __init__(self, connection: Connection, record: Record) -> None:
        self._connection = connection
        self._traits = statements.nameable(record.shapes.old)
        self._words = statements.words(self._traits)
        self._reserved = counts.reserved_words(connection)
        self._log = failing.ServerLog.open(connection)
        self._rises = failing.Rises()
        self._usual = self._allowed = 0
        self._since: datetime | None = None

    def learn(self, seconds: float, enough: Callable[[], bool]) -> None:
        """How many transactions are rolled back anyhow: pools do it whenever a connection comes back."""
        self._report_ours()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough():
            self._rises.see(time.monotonic(), failing.rollbacks(self._connection))
            time.sleep(_LOOK)
        self._usual, self._allowed = self._rises.most, self._rises.allowed

    def begin(self) -> None:
        """Rights are about to be missing."""
        self._report_ours()
        self._rises.forget()
        self._rises.see(time.monotonic(), failing.rollbacks(self._connection))
        self._since = now(self._connection)
        if self._log is not None:
            self._log.lines()

    def failure(self) -> str | None:
        """Who failed, or seems to have."""
        assert self._since is not None
        rise = self._rises.see(time.monotonic(), failing.rollbacks(self._connection))
        seen = failing.sessions(self._connection, self._since, self._words)
        lines = [] if self._log is None else self._log.lines()
        said = failing.denied(lines, {trait.table for trait in self._traits})
        if said is not None:
            message, statement = said
            return f"{message}{': ' if statement else ''}{statements.cut(statement)} (the server's log)"
        for each in seen:
            if statements.touches(each.text, self._traits, self._reserved, partial=each.partial):
                return f"{each}: {statements.cut(each.text)}"
        for each in seen:
            if each.aborted:
                return f"a transaction failed, of {each}: {statements.cut(each.text)}; it may be for another reason"
        if self._log is None and rise > self._allowed:
            usual = f"{self._usual} within a second are usual" if self._allowed else "none is usual"
            return f"{counted(rise, 'transaction')} rolled back within a second, where {usual}; it may be for another reason"
        return None

    def _report_ours(self) -> None:
        """What we have rolled back ourselves, for want of a lock or a right, was before."""
        self._connection.execute("SELECT pg_stat_force_next_flush()")

    @property
    def nobody(self) -> str:
        """What to say where there was no sign."""
        if failing.sees_sessions(self._connection):
            return "nobody failed"
        return "nobody was seen to fail (statements of other roles are hidden: GRANT pg_read_all_stats)"


def refuse_unready(record: Record, plan: Plan, verdict: Verdict, overrides: Mapping[str, str]) -> None:
    """Only where the next phase takes the old shape away, and not where those who need it are known.

    Raises:
        Waiting: it is not yet, or on hold, or an instance that needs it has reported in.
        Unsafe: it is gone already.
    """
    if record.hold_reason is not None:
        raise Waiting(f"{record.id} is on hold: {record.hold_reason}", hint=f"zdmigrate unhold {record.id}")
    drains = {gate.phase for part in plan.phases for gate in part.gates if _takes_away(gate)}
    taking = sorted(drains, key=lambda phase: phase.position)
    if not taking:
        raise Unsafe(f"{record.id} takes nothing away that version N needs")
    phase = taking[0]
    if record.phase.position >= phase.position or record.running is phase:
        raise Unsafe(f"{record.id} is at {record.phase}: the old shape is out of the way already")
    if record.phase is not phase.previous or record.running is not None:
        running = "" if record.running is None else f", and {record.running} is under way"
        raise Waiting(
            f"{record.id} is at {record.phase}{running}: rights are withheld right before {phase}",
            hint=f"zdmigrate advance {record.id} --to {phase.previous}",
        )
    if verdict.against and "drained" not in overrides:
        raise Waiting(
            f"these would fail: {'; '.join(verdict.against)}",
            hint='let them go first; or, if you mean it: --override drained="reason"',
        )


def _takes_away(gate: Gate) -> bool:
    return gate.name == "drained" and gate.direction is Direction.FORWARD


def settle(connection: Connection, store: Store, record: Record) -> str | None:
    """Give back what a command that died has left; what to say about it."""
    last = withholding.last(connection, store, record.key)
    if last is None or last.given_back_at is not None:
        return None
    if not withholding.give_back(connection, store, record.key, "lost", "the command that withheld them is gone"):
        return None
    return f"given back to {_named(last.roles)}: what was withheld since {last.began_at:%Y-%m-%d %H:%M:%S} UTC"


def findings(connection: Connection, store: Store, record: Record) -> Findings:
    """What a rehearsal, in the phase that the migration is in, says for the gate `drained`."""
    last = withholding.last(connection, store, record.key)
    if last is None or last.began_at < record.phase_since:
        return Findings()
    if last.given_back_at is None:
        return Findings(noted=(f"the old shape is withheld until {_at(last.until)}",))
    if last.outcome != "quiet":
        return Findings(noted=(f"it was withheld at {_at(last.began_at)}: {last.detail}",))
    lasted = brief(last.given_back_at - last.began_at)
    proof = f"withheld from {_named(last.roles)} for {lasted} at {_at(last.began_at)}, and {last.detail}"
    unbound = _named((*last.spared, "views and functions that use their owner's rights"))
    return Findings(proof=(proof,), unseen=(f"what withholding does not keep from {unbound}",))


def _named(roles: Sequence[str]) -> str:
    more = f" and {len(roles) - _NAMED} more" if len(roles) > _NAMED else ""
    return f"{', '.join(roles[:_NAMED])}{more}"


def _tables(record: Record) -> list[tuple[str, str]]:
    return sorted({(trait.schema, trait.table) for trait in statements.nameable(record.shapes.old)})


def _plan(cursor: Cursor, record: Record, *, owner_too: bool) -> Iterator[Withheld]:
    """What to take from whom.

    Raises:
        Unsafe: it cannot be taken, or not be given back as it was.
        Drift: it is not there.
    """
    traits = statements.nameable(record.shapes.old)
    if not traits:
        raise Unsafe(f"{record.id}: no name tells the shapes apart, so nothing can be withheld from one version only")
    found = []
    for schema, name in _tables(record):
        access = grants.read(cursor, schema, name)
        if access is None:
            raise Drift(f"{schema}.{name} is not there", hint="run: zdmigrate verify")
        mine = [trait for trait in traits if (trait.schema, trait.table) == (schema, name)]
        numbers = {column: number for number, column in access.columns.items()}
        columns: set[int] = set()
        if all(trait.column is not None for trait in mine):
            columns = {numbers.get(trait.column or "", 0) for trait in mine}
        if 0 in columns:
            raise Drift(f"{access.shown} has not all of its old columns", hint="run: zdmigrate verify")
        withheld = Withheld(access=access, columns=frozenset(columns), owner_too=owner_too)
        _refuse(cursor, withheld)
        found.append(withheld)
    if not any(each.names for each in found):
        raise Unsafe(
            f"nobody but the owner has rights on {', '.join(each.access.shown for each in found)}: there is nobody to withhold "
            "them from",
            hint="--owner withholds them from the owner, too, where the application is the owner",
        )
    yield from found


def _refuse(cursor: Cursor, withheld: Withheld) -> None:
    access = withheld.access
    if not access.ours:
        raise Unsafe(
            f"{access.shown} belongs to {access.owner_name}: only its owner can withhold rights on it",
            hint=f"GRANT {ident(access.owner_name)} TO the role that migrates",
        )
    if withheld.foreign:
        named = "; ".join(
            f"{right.privilege} of {right.name}, granted by {right.grantor_name}" for right in withheld.foreign[:_NAMED]
        )
        raise Unsafe(
            f"rights on {access.shown} that its owner did not grant, and cannot take away: {named}",
            hint="let the owner grant them instead",
        )
    if withheld.owner_too and (users := grants.used_as_owner(cursor, withheld)):
        raise Unsafe(
            f"with --owner these would fail for everybody, as they use the owner's rights: {', '.join(users[:_NAMED])}",
            hint="leave out --owner",
        )


def _said(withheld: Sequence[Withheld], spared: Sequence[str]) -> str:
    what = ", ".join(
        f"{each.access.shown}.{each.access.columns[column]}" for each in withheld for column in sorted(each.columns)
    )
    whole = ", ".join(each.access.shown for each in withheld if not each.columns)
    roles = _named(sorted(set().union(*(each.names for each in withheld))))
    unbound = f"; not from {_named(spared)}" if spared else ""
    return f"{', '.join(filter(None, (what, whole)))} withheld from {roles}{unbound}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
