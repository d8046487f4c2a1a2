"""A project's migrations on one database: what the command line, and any program, calls."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import psycopg

from zdmigrate.backfill import values
from zdmigrate.config import Config
from zdmigrate.control import install, lease
from zdmigrate.control.store import Author, HistoryEntry, Record, Store
from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.engine import bootstrapping, gates, planned, reports
from zdmigrate.engine import environment as environments
from zdmigrate.engine.executor import Executor, Limits
from zdmigrate.engine.outcome import GateState, MigrationStatus, Outcome
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.engine.run import Run
from zdmigrate.errors import Contended, Drift, Progressed, Unsafe, UsageError, Waiting, ZdmigrateError
from zdmigrate.migration import MigrationFile, find_id, load_directory, missing_requirements
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan
from zdmigrate.postgres import session, url
from zdmigrate.postgres.session import Connection

_POLL = 5.0
_WATCH = 1.0


class Project:
    """One directory of migrations and one database. Made by `open`."""

    def __init__(
        self, config: Config, connection: Connection, *, report: Reporter, deployment: str | None, artifact: str | None
    ) -> None:
        self._config = config
        self._connection = connection
        self._report = report
        author = Author(host=socket.gethostname(), deployment=deployment, artifact=artifact)
        self._store = Store(config.schema, config.project, author)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, config: Config, *, report: Reporter, deployment: str | None = None, artifact: str | None = None
    ) -> Iterator[Project]:
        """Connect, and disconnect at the end.

        Raises:
            psycopg.OperationalError: no connection.
            Unsafe: the connection is not fit (pooler, standby, too old).
        """
        with contextlib.closing(session.connect(url.conninfo(config.url), purpose="work")) as connection:
            yield cls(config, connection, report=report, deployment=deployment, artifact=artifact)

    def init(self, *, environment: str | None, app_role: str | None, confirmed: bool) -> str:
        """Create or upgrade the control schema, set the environment's policy, grant what an application needs."""
        return environments.init(self._connection, self._store, environment, app_role, confirmed=confirmed)

    def grants(self, app_role: str) -> str:
        """The SQL of the grants, for somebody who may run it."""
        return "".join(f"{statement};\n" for statement in install.grants(self._config.schema, app_role))

    def plan(self, ids: Sequence[str]) -> list[Plan]:
        """The stored plans of what is in flight, fresh ones of what is not. Changes nothing."""
        files = self._files(ids)
        records = self._known_records()
        snapshot = planned.read(self._connection, files, self._config.schema)
        return [self._plan_of(file, records.get(file.id), snapshot) for file in files if not _finished(records, file)]

    def snapshot(self, ids: Sequence[str]) -> bytes:
        """The catalog snapshot that `plan_offline` takes."""
        return planned.to_bytes(planned.read(self._connection, self._files(ids), self._config.schema))

    def advance(
        self,
        ids: Sequence[str],
        *,
        target: Phase | None,
        compare_from: Phase | None = None,
        overrides: Mapping[str, str] | None = None,
        wait: timedelta | None = None,
        max_runtime: timedelta | None = None,
    ) -> Outcome:
        """Bring migrations forward to `target`; None means as far as the gates allow, up to the last reversible phase.

        Each migration on its own: one that waits does not keep the others from going on.
        """
        self._check_environment()
        files = self._files(ids)
        self._check_requirements(files)
        deadline = _deadline(max_runtime)
        give_up = _deadline(wait) if wait is not None else time.monotonic()
        return Outcome(
            migrations=tuple(
                self._patiently(
                    file.id,
                    lambda file=file: self._advance_one(file, target, compare_from, overrides or {}, deadline),  # type: ignore[misc]
                    give_up,
                )
                for file in files
            )
        )

    def revert(
        self, id_: str, *, target: Phase, overrides: Mapping[str, str] | None = None, allow_lossy: bool = False
    ) -> Outcome:
        """Take a migration back to `target`, and leave a hold behind."""
        self._check_environment()
        record = self._record_named(id_)
        return Outcome(
            migrations=(
                self._guarded(
                    record.id, lambda: self._revert_one(record, target, overrides or {}, allow_lossy=allow_lossy)
                ),
            )
        )

    def hold(self, id_: str | None, reason: str) -> Outcome:
        """Stop a migration, or all of the project, at the next step."""
        self._check_environment()
        return self._change_hold(id_, lambda cursor, ids: self._store.set_hold(cursor, ids, reason), "hold", reason)

    def unhold(self, id_: str | None) -> Outcome:
        """Let a migration, or all of the project, go on."""
        self._check_environment()
        return self._change_hold(id_, self._store.clear_hold, "unhold", None)

    def bootstrap(self) -> Outcome:
        """Bring a fresh database to the final schema by one-shot DDL; adopt what is there already."""
        self._check_environment()
        files = self._files(())
        self._check_requirements(files)
        bootstrapping.refuse_live(self._connection, self._store)
        return Outcome(
            migrations=tuple(
                self._guarded(file.id, lambda file=file: bootstrapping.one(self._connection, self._store, file))  # type: ignore[misc]
                for file in files
            )
        )

    def verify(self, ids: Sequence[str]) -> Outcome:
        """Ask the catalog whether everything that was completed is still so, and check every row again."""
        self._check_environment()
        chosen = [self._record_named(id_) for id_ in ids] if ids else list(self._known_records().values())
        return Outcome(
            migrations=tuple(self._guarded(r.id, lambda r=r: self._verify_one(r)) for r in chosen if r.in_flight)  # type: ignore[misc]
        )

    def status(self, ids: Sequence[str], *, stale: timedelta | None = None) -> Outcome:
        """Where every migration stands. Changes nothing."""
        install.check_version(self._connection, self._config.schema, writing=False)
        files = {file.id: file for file in load_directory(self._config.dir)}
        records = self._known_records()
        known = [*files, *sorted(set(records) - set(files))]
        chosen = [find_id(known, id_) for id_ in ids] if ids else known
        statuses = [self._status_of(id_, files.get(id_), records.get(id_)) for id_ in chosen]
        if stale is not None:
            ages = {id_: record.phase_age for id_, record in records.items() if record.in_flight}
            statuses = [status for status in statuses if ages.get(status.id, timedelta(0)) > stale]
        return Outcome(migrations=tuple(statuses))

    def history(self, id_: str | None, limit: int) -> list[HistoryEntry]:
        """The audit, newest first."""
        install.check_version(self._connection, self._config.schema, writing=False)
        return self._store.history(self._connection, id_, limit)

    # -- one migration -----------------------------------------------------------------------------------------

    def _advance_one(
        self,
        file: MigrationFile,
        target: Phase | None,
        compare_from: Phase | None,
        overrides: Mapping[str, str],
        deadline: float,
    ) -> MigrationStatus:
        record = self._store.record(self._connection, file.id)
        if record is not None and self._nothing_to_do(file, record, target, compare_from):
            return self._status_of(file.id, file, record)
        if record is None:
            with session.transaction(self._connection, lock_timeout=timedelta(seconds=10)) as cursor:
                self._store.register(cursor, file.id, file.title or "", file.checksum)
            record = self._store.record(self._connection, file.id)
            assert record is not None
        with self._lease(record) as held:
            plan = self._bind_plan(file, held)
            gates.refuse_unknown(overrides, [plan])
            run = self._run(plan, file.requires, held, overrides, deadline)
            run.advance(plan.automatic_target if target is None else target)
        return self._status_of(file.id, file, self._store.record(self._connection, file.id))

    def _nothing_to_do(
        self, file: MigrationFile, record: Record, target: Phase | None, compare_from: Phase | None
    ) -> bool:
        if record.phase is Phase.CONTRACT:
            return True
        self._refuse_edited(file, record)
        if compare_from is not None and record.phase is not compare_from:
            if record.phase.position > compare_from.position:
                return True
            raise Waiting(f"{file.id} is at {record.phase}, not yet at {compare_from}")
        if record.plan_json is None or record.phase is Phase.NONE:
            return target is Phase.NONE
        wanted = target
        if wanted is None:
            plan = record.plan
            assert plan is not None
            wanted = plan.automatic_target
        return record.phase.position >= wanted.position

    def _revert_one(
        self, record: Record, target: Phase, overrides: Mapping[str, str], *, allow_lossy: bool
    ) -> MigrationStatus:
        plan = record.plan
        if plan is None and record.phase is Phase.CONTRACT:
            raise bootstrapping.adopted_cannot_go_back(record.id)
        with self._lease(record) as held:
            current = self._store.record(self._connection, record.id)
            plan = None if current is None else current.plan
            if plan is not None:
                gates.refuse_unknown(overrides, [plan])
                run = self._run(plan, (), held, overrides, float("inf"))
                run.check_revert(target, allow_lossy=allow_lossy)
                with run.executor.fenced() as cursor:
                    self._store.set_hold(cursor, [record.id], f"reverted to {target}")
                run.revert(target)
        return self._status_of(
            record.id, self._file_or_none(record.id), self._store.record(self._connection, record.id)
        )

    def _verify_one(self, record: Record) -> MigrationStatus:
        plan = record.plan
        if plan is not None:
            with self._lease(record) as held:
                executor = self._run(plan, (), held, {}, float("inf")).executor
                for step in plan.steps():
                    if step.phase.position <= record.phase.position:
                        if step.mode is not Mode.VERIFY and executor.probe(step) != "done" and step.is_probed:
                            raise Drift(
                                f"{record.id}: {step.title}: no longer so", hint="zdmigrate revert, then advance"
                            )
                        if step.mode is Mode.VERIFY and record.phase.position < Phase.RETIRE.position:
                            executor.verify(step)
        return self._status_of(record.id, self._file_or_none(record.id), record)

    def _run(
        self, plan: Plan, requires: tuple[str, ...], held: lease.Lease, overrides: Mapping[str, str], deadline: float
    ) -> Run:
        policy = self._store.policy(self._connection)
        facts = gates.Facts(connection=self._connection, store=self._store, policy=policy, overrides=overrides)
        config = self._config

        def out_of_time() -> bool:
            return time.monotonic() >= deadline

        executor = Executor(
            connection=self._connection,
            store=self._store,
            lease=held,
            migration=plan.migration,
            limits=Limits(
                lock_timeout=config.lock_timeout,
                lock_budget=config.lock_budget,
                backfill=values.Settings(
                    window_pages=config.backfill.window_pages,
                    stripes=config.backfill.stripes,
                    pause=config.backfill.pause,
                    lock_budget=config.lock_budget,
                ),
            ),
            report=self._report,
            should_stop=out_of_time,
        )
        watch = _Watch(executor=executor, plan=plan, out_of_time=out_of_time)
        return Run(
            plan=plan, requires=requires, executor=dataclasses.replace(executor, should_stop=watch), facts=facts,
            out_of_time=out_of_time,
        )  # fmt: skip

    def _bind_plan(self, file: MigrationFile, held: lease.Lease) -> Plan:
        """The stored plan; while nothing was done, a fresh one, which is stored."""
        record = self._store.record(self._connection, file.id)
        assert record is not None
        self._refuse_edited(file, record)
        if record.phase is not Phase.NONE or record.running is not None:
            plan = record.plan
            assert plan is not None
            return plan
        # Before planning, which would trip over what the other one has built; and again when the answer is stored.
        planned.refuse_conflicts(file, record.key, self._store.all_touching(self._connection))
        plan = planned.make(file, planned.read(self._connection, [file], self._config.schema))
        with session.transaction(self._connection, lock_timeout=timedelta(seconds=10)) as cursor:
            held.fence(cursor)
            # Serialises "does anybody touch the same columns" with the answer being stored.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('zdmigrate touches', 0))")
            planned.refuse_conflicts(file, record.key, self._store.all_touching(cursor))
            self._store.store_plan(cursor, record.key, plan, file.title or "")
        return plan

    @contextlib.contextmanager
    def _lease(self, record: Record) -> Iterator[lease.Lease]:
        holder = lease.holder_name(socket.gethostname(), os.getpid(), lease.now(self._connection))

        def connect() -> Connection:
            return session.connect(url.conninfo(self._config.url), purpose="heartbeat")

        with lease.hold(
            self._store, self._connection, connect, record.key, holder=holder, ttl=self._config.lease
        ) as held:
            yield held

    # -- around it ---------------------------------------------------------------------------------------------

    def _patiently(self, id_: str, work: Callable[[], MigrationStatus], give_up: float) -> MigrationStatus:
        """Once, and again while it waits for something and there is time."""
        told = None
        while True:
            status = self._guarded(id_, work)
            left = give_up - time.monotonic()
            if status.exit_code not in (Waiting.exit_code, Contended.exit_code) or left <= 0:
                return status
            if status.message != told:
                told = status.message
                self._report(Event(kind=EventKind.WAITING, migration=id_, message=status.message or "waiting"))
            time.sleep(min(_POLL, left))

    def _guarded(self, id_: str, work: Callable[[], MigrationStatus]) -> MigrationStatus:
        """The migration's status, with what went wrong in it and in the audit."""
        try:
            return work()
        except ZdmigrateError as error:
            failed = error
        except psycopg.errors.InsufficientPrivilege as error:
            failed = Unsafe(f"{id_}: {error.diag.message_primary}", hint="the role that migrates must own the tables")
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            failed = ZdmigrateError(f"{id_}: {error.diag.message_primary or error}", hint=error.diag.message_hint)
        if self._connection.closed:
            raise failed
        self._log_failure(id_, failed)
        record = self._store.record(self._connection, id_)
        return reports.failed(self._status_of(id_, self._file_or_none(id_), record), failed)

    def _log_failure(self, id_: str, error: ZdmigrateError) -> None:
        outcome = {Waiting: "waiting", Progressed: "stopped"}.get(type(error), "failed")
        if outcome == "waiting":
            return  # a pipeline that polls would fill the audit
        with contextlib.suppress(psycopg.Error):
            self._store.log(
                self._connection, AuditEvent(migration=id_, action="command", outcome=outcome, detail=error.message)
            )

    def _status_of(self, id_: str, file: MigrationFile | None, record: Record | None) -> MigrationStatus:
        if record is None:
            return reports.not_started(id_, file)
        plan = None if record.phase is Phase.CONTRACT else record.plan
        states: tuple[GateState, ...] = ()
        if plan is not None:
            facts = gates.Facts(
                connection=self._connection,
                store=self._store,
                policy=self._store.policy(self._connection),
                overrides={},
            )
            states = tuple(state for _, state in gates.check_next(plan, record, file.requires if file else (), facts))
        return reports.status(record, plan, states, here=file is not None)

    def _change_hold(
        self, id_: str | None, change: Callable[[session.Cursor, list[str]], int], action: str, detail: str | None
    ) -> Outcome:
        records = self._known_records()
        if id_ is None:
            ids = [record.id for record in records.values() if record.phase is not Phase.CONTRACT]
        else:
            ids = [self._registered(id_).id]
        with session.transaction(self._connection, lock_timeout=timedelta(seconds=10)) as cursor:
            change(cursor, ids)
            for one in ids:
                self._store.log(cursor, AuditEvent(migration=one, action=action, outcome="done", detail=detail))
        return Outcome(
            migrations=tuple(
                self._status_of(one, self._file_or_none(one), self._store.record(self._connection, one)) for one in ids
            )
        )

    def _registered(self, id_: str) -> Record:
        """The record of a migration, made where only the file is there: one can hold what has not begun."""
        files = {file.id: file for file in load_directory(self._config.dir)}
        found = find_id({*files, *self._known_records()}, id_)
        record = self._store.record(self._connection, found)
        if record is None:
            file = files[found]
            with session.transaction(self._connection, lock_timeout=timedelta(seconds=10)) as cursor:
                self._store.register(cursor, file.id, file.title or "", file.checksum)
            record = self._store.record(self._connection, found)
            assert record is not None
        return record

    def _record_named(self, id_: str) -> Record:
        records = self._known_records()
        return records[find_id(records, id_)]

    def _known_records(self) -> dict[str, Record]:
        if install.installed_version(self._connection, self._config.schema) == 0:
            return {}
        return {record.id: record for record in self._store.records(self._connection)}

    def _files(self, ids: Sequence[str]) -> list[MigrationFile]:
        files = load_directory(self._config.dir)
        if not ids:
            return files
        chosen = {find_id([file.id for file in files], id_) for id_ in ids}
        return [file for file in files if file.id in chosen]

    def _file_or_none(self, id_: str) -> MigrationFile | None:
        with contextlib.suppress(UsageError):
            return next((file for file in load_directory(self._config.dir) if file.id == id_), None)
        return None

    def _plan_of(self, file: MigrationFile, record: Record | None, snapshot: object) -> Plan:
        if record is not None and record.in_flight and record.plan is not None:
            self._refuse_edited(file, record)
            return record.plan
        return planned.make(file, snapshot)  # type: ignore[arg-type]

    def _refuse_edited(self, file: MigrationFile, record: Record) -> None:
        if record.in_flight and record.checksum != file.checksum:
            raise Drift(
                f"{file.id} was edited while it is in flight ({record.phase}); the database runs the plan it began with",
                hint=f"restore the file, or: zdmigrate revert {file.id} --to none, edit, unhold, advance",
            )

    def _check_requirements(self, files: Sequence[MigrationFile]) -> None:
        known = set(self._known_records())
        for file, required in missing_requirements(load_directory(self._config.dir)):
            if required not in known and file.id in {f.id for f in files}:
                raise file.unknown_requirement(required, known=known)

    def _check_environment(self) -> None:
        install.check_version(self._connection, self._config.schema, writing=True)
        environments.refuse_other(self._store.policy(self._connection), self._config.environment)


def plan_offline(config: Config, ids: Sequence[str], stats: bytes) -> list[Plan]:
    """Plans without a database, from a file of ``plan --write-stats``."""
    snapshot = planned.from_bytes(stats)
    files = load_directory(config.dir)
    chosen = {find_id([file.id for file in files], id_) for id_ in ids}
    return [planned.make(file, snapshot) for file in files if not ids or file.id in chosen]


class _Watch:
    """Asked between batches: is there time, is the lease ours, is nobody holding, are the triggers in place?"""

    def __init__(self, *, executor: Executor, plan: Plan, out_of_time: Callable[[], bool]) -> None:
        self._executor = executor
        self._triggers = plan.phase(Phase.DUAL_WRITE).steps
        self._out_of_time = out_of_time
        self._looked = float("-inf")

    def __call__(self) -> bool:
        if self._out_of_time():
            return True
        if time.monotonic() - self._looked >= _WATCH:
            self._looked = time.monotonic()
            self._look()
        return False

    def _look(self) -> None:
        executor = self._executor
        if executor.lease.is_lost:
            raise lease.lost()
        record = executor.store.record(executor.connection, executor.migration)
        if record is not None and record.hold_reason is not None:
            raise Waiting(f"on hold: {record.hold_reason}", hint=f"zdmigrate unhold {record.id}")
        for step in self._triggers:
            if executor.probe(step) != "done":
                raise Drift(f"{executor.migration}: {step.title}: the triggers are gone", hint="zdmigrate revert")


def _deadline(duration: timedelta | None) -> float:
    if duration is None or duration == timedelta.max:
        return float("inf")
    return time.monotonic() + duration.total_seconds()


def _finished(records: Mapping[str, Record], file: MigrationFile) -> bool:
    return file.id in records and records[file.id].phase is Phase.CONTRACT
