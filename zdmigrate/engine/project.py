"""A project's migrations on one database: what the command line, and any program, calls."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.config import Config
from zdmigrate.control import install
from zdmigrate.control.store import Author, HistoryEntry, Record, Store
from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.engine import bootstrapping, forecasting, gates, planned, reports, steering
from zdmigrate.engine import environment as environments
from zdmigrate.engine.applications import Applications
from zdmigrate.engine.joining import Joining
from zdmigrate.engine.outcome import GateState, MigrationStatus, Outcome
from zdmigrate.engine.quarantining import Quarantining
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.engine.steering import Steering
from zdmigrate.engine.stopping import Stop
from zdmigrate.engine.switching import Ramp
from zdmigrate.engine.work import Work
from zdmigrate.errors import ConnectionLost, Contended, Progressed, Unsafe, UsageError, Waiting, ZdmigrateError
from zdmigrate.migration import MigrationFile, find_id, load_directory, load_file, migration_paths
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan
from zdmigrate.postgres import session, statistics, url
from zdmigrate.postgres.session import Connection

_POLL = 5.0
_WATCH = 1.0


class Project:
    """One directory of migrations and one database. Made by `open`."""

    def __init__(
        self, config: Config, connection: Connection, *, report: Reporter, deployment: str | None, artifact: str | None,
        stop: Stop,
    ) -> None:  # fmt: skip
        self._config = config
        self._connection = connection
        self._report = report
        self._stop = stop
        author = Author(host=socket.gethostname(), deployment=deployment, artifact=artifact)
        self._store = Store(config.schema, config.project, author)
        self._work = Work(config=config, connection=connection, store=self._store, report=report, stop=stop)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, config: Config, *, report: Reporter, deployment: str | None = None, artifact: str | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Project]:  # fmt: skip
        """Connect, and disconnect at the end. `stop` ends what is under way in good order, as `max_runtime` does.

        Raises:
            psycopg.OperationalError: no connection.
            Unsafe: the connection is not fit (pooler, standby, too old).
        """
        with contextlib.closing(session.connect(url.conninfo(config.url), purpose="work")) as connection:
            yield cls(config, connection, report=report, deployment=deployment, artifact=artifact, stop=stop or Stop())

    def init(
        self, *, environment: str | None, app_role: str | None, confirmed: bool, evidence: bool | None = None
    ) -> str:
        """Create or upgrade the control schema, set the environment's policy, grant what an application needs.

        `evidence`: whether phases need evidence of a check; None leaves it as it is (`development`: not needed).
        """
        wanted = environments.Wanted(environment=environment, evidence=evidence)
        return environments.init(self._connection, self._store, wanted, app_role, confirmed=confirmed)

    def grants(self, app_role: str) -> str:
        """The SQL of the grants, for somebody who may run it."""
        return "".join(f"{statement};\n" for statement in install.grants(self._config.schema, app_role))

    def plan(self, ids: Sequence[str]) -> list[Plan]:
        """The stored plans of what is in flight, fresh ones of what is not. Changes nothing."""
        records = self._known_records()
        files = self._load(self._chosen(ids), without=_finished(records))
        snapshot = planned.read(self._connection, files, self._config.schema)
        return [self._plan_of(file, records.get(file.id), snapshot) for file in files]

    def forecasts(self, plans: Sequence[Plan], *, probe: bool = False) -> forecasting.Forecasts:
        """What filling the rows of each plan will cost; nothing for those whose `backfill` phase is over.

        Args:
            probe: measure it on the tables, in transactions that are rolled back, and report what was done.

        Raises:
            Unsafe: a standby was to be probed.
        """
        records = self._known_records()
        ahead = [plan for plan in plans if _fills(plan, records.get(plan.migration))]
        if not ahead:
            return {}
        sizes = forecasting.read(self._connection, ahead, self._config.schema)
        settings = self._config.backfill
        if not probe:
            return forecasting.of(ahead, sizes, settings)

        def say(sentence: str) -> None:
            self._report(Event(kind=EventKind.NOTE, migration="", message=sentence))

        probes = forecasting.probed(self._connection, ahead, sizes, settings, say)
        return forecasting.of(ahead, sizes, settings, probes)

    def snapshot(self, ids: Sequence[str]) -> bytes:
        """The catalog snapshot that `plan_offline` and `forecasts_offline` take."""
        found = planned.read(self._connection, self._files(ids), self._config.schema)
        return planned.to_bytes(statistics.sized(self._connection, found))

    def advance(
        self,
        ids: Sequence[str],
        *,
        target: Phase | None,
        compare_from: Phase | None = None,
        overrides: Mapping[str, str] | None = None,
        wait: timedelta | None = None,
        max_runtime: timedelta | None = None,
        evidence: gates.Judge | None = None,
        ramp: Ramp | None = None,
    ) -> Outcome:
        """Bring migrations forward to `target`; None means as far as the gates allow, up to the last reversible phase.

        Each migration on its own: one that waits does not keep the others from going on. `evidence` is asked before
        each phase that has steps. With `ramp`, reads are switched step by step before ``switch_reads``.
        """
        gates.refuse_unknown(overrides or {})
        self._check_environment()
        records = self._known_records()
        finished = _finished(records)
        chosen = self._chosen(ids)
        # However many there are: what is finished is not executed again, so it may need what is no longer there.
        files = self._load(chosen, without=finished)
        self._check_requirements(files)
        deadline = _deadline(max_runtime)
        give_up = _deadline(wait) if wait is not None else time.monotonic()
        return Outcome(
            migrations=(
                *(self._status_of(id_, None, records[id_]) for id_ in chosen if id_ in finished),
                *(
                    self._patiently(
                        file.id,
                        lambda file=file: self._work.advance(
                            file, target, compare_from, overrides or {}, deadline, evidence, ramp
                        ),  # type: ignore[misc]
                        give_up,
                    )
                    for file in files
                ),
            )
        )

    def join(self, id_: str | None, *, max_runtime: timedelta | None = None) -> Outcome:
        """Help with a backfill that another process has begun, until no row is left to fill."""
        self._check_environment()
        record = steering.chosen(self._known_records(), id_)
        deadline = _deadline(max_runtime)

        def work() -> str:
            file = self._file_or_none(record.id)
            joining = Joining(
                work=self._work,
                migration=record.id,
                functions={} if file is None else file.functions,
                out_of_time=lambda: self._stop.asked or time.monotonic() >= deadline,
            )
            return joining.help()

        return Outcome(migrations=(self._guarded(record.id, work),))

    def revert(
        self, id_: str, *, target: Phase, overrides: Mapping[str, str] | None = None, allow_lossy: bool = False
    ) -> Outcome:
        """Take a migration back to `target`, and leave a hold behind."""
        gates.refuse_unknown(overrides or {})
        self._check_environment()
        record = self._record_named(id_)

        def work() -> None:
            file = self._file_or_none(record.id)
            self._work.revert(record, file, target, overrides or {}, allow_lossy=allow_lossy)

        return Outcome(migrations=(self._guarded(record.id, work),))

    def withhold(
        self, id_: str, duration: timedelta, *, owner_too: bool = False, overrides: Mapping[str, str] | None = None
    ) -> Outcome:
        """Take the rights on the old shape from applications for a while, and give them back; see `engine.withholding`.

        Possible where the next phase takes the old shape away. The first sign that somebody failed ends it (`Waiting`). When
        nobody did, it speaks for the gate `drained`. Locks: ACCESS SHARE on the tables.
        """
        gates.refuse_unknown(overrides or {})
        self._check_environment()
        record = self._record_named(id_)

        def work() -> str:
            return self._work.withhold(record, duration=duration, owner_too=owner_too, overrides=overrides or {})

        return Outcome(migrations=(self._guarded(record.id, work),))

    def give_back(self, id_: str) -> str:
        """End what `withhold` does, in whatever process, and say what was done. Waits for no lease."""
        from zdmigrate.control import withholding

        self._check_environment()
        record = self._record_named(id_)
        who = f"by {self._connection.info.user} on {socket.gethostname()}"
        done = withholding.give_back(self._connection, self._store, record.key, "stopped", f"it was ended {who}")
        last = withholding.last(self._connection, self._store, record.key)
        if not done or last is None:
            return f"{record.id}: nothing is withheld"
        return f"{record.id}: {last.whole} is given back ({last.detail})"

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
            migrations=tuple(self._guarded(r.id, lambda r=r: self._work.verify(r)) for r in chosen if r.in_flight)  # type: ignore[misc]
        )

    def status(self, ids: Sequence[str], *, stale: timedelta | None = None) -> Outcome:
        """Where every migration stands. Changes nothing."""
        install.check_version(self._connection, self._config.schema, writing=False)
        records = self._known_records()
        files = {file.id: file for file in load_directory(self._config.dir, without=_finished(records))}
        known = list(dict.fromkeys([*sorted({*self._here()} - {*files}), *files, *sorted(records)]))
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

    def steering(self, *, writing: bool = True) -> Steering:
        """What looks at backfills that are under way, and steers them."""
        self._check(writing=writing)
        return Steering(connection=self._connection, store=self._store)

    def applications(self, *, writing: bool = True) -> Applications:
        """What releases and the database tell each other."""
        self._check(writing=writing)
        return Applications(connection=self._connection, store=self._store)

    def quarantining(self, *, writing: bool = True) -> Quarantining:
        """What shows rows that could not be filled, and settles them."""
        self._check(writing=writing)
        return Quarantining(
            connection=self._connection,
            store=self._store,
            report=self._report,
            lock_timeout=self._config.lock_timeout,
            functions=self._functions,
        )

    def _patiently(self, id_: str, work: Callable[[], str | None], give_up: float) -> MigrationStatus:
        """Once, and again while it waits for something and there is time."""
        told = None
        if self._stop.asked:
            return self._guarded(id_, self._stopped)
        while True:
            status = self._guarded(id_, work)
            left = give_up - time.monotonic()
            if status.exit_code not in (Waiting.exit_code, Contended.exit_code) or left <= 0 or self._stop.asked:
                return status
            if status.message != told:
                told = status.message
                self._report(Event(kind=EventKind.WAITING, migration=id_, message=status.message or "waiting"))
            time.sleep(min(_POLL, left))

    def _stopped(self) -> str | None:
        raise Progressed("asked to stop before it began", hint="run the command again")

    def _guarded(self, id_: str, work: Callable[[], str | None]) -> MigrationStatus:
        """The migration's status, with what went wrong in it and in the audit."""
        try:
            message = work()
            return dataclasses.replace(self._status_now(id_), message=message)
        except ZdmigrateError as error:
            failed = error
        except psycopg.errors.InsufficientPrivilege as error:
            failed = Unsafe(
                f"{id_}: {error.diag.message_primary}",
                hint="the role that migrates must own the tables, and see all of their rows",
            )
        except psycopg.OperationalError as error:
            if session.is_lost(error):
                raise _lost(id_, error) from error
            raise
        except psycopg.Error as error:
            failed = ZdmigrateError(f"{id_}: {error.diag.message_primary or error}", hint=error.diag.message_hint)
        if self._connection.closed:
            raise failed
        self._log_failure(id_, failed)
        return reports.failed(self._status_now(id_), failed)

    def _status_now(self, id_: str) -> MigrationStatus:
        return self._status_of(id_, self._file_or_none(id_), self._store.record(self._connection, id_))

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
        waiting, compared = 0, None
        if record.in_flight:
            waiting = quarantine.open_count(self._connection, control_schema=self._config.schema, migration=record.key)
            from zdmigrate.control import shadows

            found = shadows.compared(self._connection, self._config.schema, record)
            compared = found if found.compares or found.failures or found.dropped else None
        here = self._path(id_).is_file()
        return reports.status(record, plan, states, here=here, quarantined=waiting, compared=compared)

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
        return Outcome(migrations=tuple(self._status_now(one) for one in ids))

    def _registered(self, id_: str) -> Record:
        """The record of a migration, made where only the file is there: one can hold what has not begun."""
        found = find_id({*self._here(), *self._known_records()}, id_)
        return self._store.record(self._connection, found) or self._work.register(load_file(self._path(found)))

    def _record_named(self, id_: str) -> Record:
        records = self._known_records()
        return records[find_id(records, id_)]

    def _known_records(self) -> dict[str, Record]:
        if install.installed_version(self._connection, self._config.schema) == 0:
            return {}
        return {record.id: record for record in self._store.records(self._connection)}

    def records(self) -> dict[str, Record]:
        """What the database knows of the project's migrations, by id."""
        return self._known_records()

    def here(self) -> list[str]:
        """The ids of the directory's files, in order."""
        return self._here()

    def current_plan(self, id_: str, record: Record | None) -> Plan | None:
        """The plan in flight, or a fresh one; None for what is finished."""
        if record is not None and record.phase is Phase.CONTRACT:
            return None
        stored = None if record is None or not record.in_flight else record.plan
        return self.plan([id_])[0] if stored is None else stored

    def brief(self, id_: str, record: Record | None) -> MigrationStatus:
        """Where a migration stands, without its gates."""
        if record is None:
            return reports.not_started(id_, self._file_or_none(id_))
        return reports.status(record, record.plan, (), here=self._path(id_).is_file())

    def _files(self, ids: Sequence[str]) -> list[MigrationFile]:
        return self._load(self._chosen(ids))

    def _chosen(self, ids: Sequence[str]) -> list[str]:
        here = self._here()
        chosen = {find_id(here, id_) for id_ in ids}
        return [id_ for id_ in here if id_ in chosen or not ids]

    def _load(self, ids: Sequence[str], *, without: Container[str] = ()) -> list[MigrationFile]:
        return [file for file in load_directory(self._config.dir, without=without) if file.id in ids]

    def _here(self) -> list[str]:
        return [path.stem for path in migration_paths(self._config.dir)]

    def _path(self, id_: str) -> Path:
        return self._config.dir / f"{id_}.py"

    def _file_or_none(self, id_: str) -> MigrationFile | None:
        with contextlib.suppress(UsageError):
            return load_file(self._path(id_))
        return None

    def _functions(self, id_: str) -> Mapping[str, Callable[[Any], Any]]:
        file = self._file_or_none(id_)
        return {} if file is None else file.functions

    def _plan_of(self, file: MigrationFile, record: Record | None, snapshot: object) -> Plan:
        if record is not None and record.in_flight and record.plan is not None:
            planned.refuse_edited(file, record)
            return record.plan
        return planned.make(file, snapshot)  # type: ignore[arg-type]

    def _check_requirements(self, files: Sequence[MigrationFile]) -> None:
        known = {*self._here(), *self._known_records()}
        for file in files:
            for required in file.requires:
                if required not in known:
                    raise file.unknown_requirement(required, known=known)

    def _check(self, *, writing: bool) -> None:
        if writing:
            self._check_environment()
        else:
            install.check_version(self._connection, self._config.schema, writing=False)

    def _check_environment(self) -> None:
        install.check_version(self._connection, self._config.schema, writing=True)
        environments.refuse_other(self._store.policy(self._connection), self._config.environment)


def plan_offline(config: Config, ids: Sequence[str], stats: bytes) -> list[Plan]:
    """Plans without a database, from a file of ``plan --write-stats``."""
    snapshot = planned.from_bytes(stats)
    files = load_directory(config.dir)
    chosen = {find_id([file.id for file in files], id_) for id_ in ids}
    return [planned.make(file, snapshot) for file in files if not ids or file.id in chosen]


def forecasts_offline(config: Config, plans: Sequence[Plan], stats: bytes) -> forecasting.Forecasts:
    """What filling the rows of each plan will cost, from a file of ``plan --write-stats``."""
    return forecasting.of(plans, planned.from_bytes(stats), config.backfill)


def _fills(plan: Plan, record: Record | None) -> bool:
    """Whether the plan has rows to fill that are not filled yet."""
    ahead = record is None or not record.in_flight or record.phase.position < Phase.BACKFILL.position
    return ahead and any(step.mode is Mode.BACKFILL for step in plan.steps())


def _lost(id_: str, error: psycopg.Error) -> ConnectionLost:
    return ConnectionLost(
        f"{id_}: the connection to the database was lost: {' '.join(str(error).split())}",
        hint="what was committed stays; once a primary answers, run the command again: it goes on from there",
    )


def _deadline(duration: timedelta | None) -> float:
    if duration is None or duration == timedelta.max:
        return float("inf")
    return time.monotonic() + duration.total_seconds()


def _finished(records: Mapping[str, Record]) -> set[str]:
    return {id_ for id_, record in records.items() if record.phase is Phase.CONTRACT}
