"""The work on one migration: take its lease, bind its plan, advance, revert or verify."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from zdmigrate.app.shapes import Shape
from zdmigrate.backfill import throttles, values
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.forecasts.forecast import Forecast
from zdmigrate.backfill.pacing import governor
from zdmigrate.config import Config
from zdmigrate.control import lease, writes
from zdmigrate.control.fence import lost
from zdmigrate.control.store import Record, Store
from zdmigrate.engine import bootstrapping, forecasting, gates, planned
from zdmigrate.engine.executor import Executor
from zdmigrate.engine.holding import Holding
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.engine.row_steps import Limits, RowSteps
from zdmigrate.engine.run import Run
from zdmigrate.engine.stopping import Stop
from zdmigrate.engine.switching import Ramp
from zdmigrate.errors import Drift, Waiting
from zdmigrate.migration import MigrationFile
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan, Step
from zdmigrate.postgres import session, url
from zdmigrate.postgres.session import Connection

_LOOK = 0.5
"""Seconds between two looks at lease and hold while rows are filled: what is said takes effect within a second."""
_TRIGGERS = 1.0
"""Seconds between two looks at the triggers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a command works with: one configuration, one connection."""

    config: Config
    connection: Connection
    store: Store
    report: Reporter
    stop: Stop

    def advance(
        self,
        file: MigrationFile,
        target: Phase | None,
        compare_from: Phase | None,
        overrides: Mapping[str, str],
        deadline: float,
        evidence: gates.Judge | None = None,
        ramp: Ramp | None = None,
    ) -> None:
        """Bring one migration forward; see `Project.advance`. `deadline` is of the monotonic clock."""
        record = self.store.record(self.connection, file.id)
        if record is not None and self._nothing_to_do(file, record, target, compare_from):
            if record.lease_holder is None:
                self._settle(record)
            return
        with self._lease(record or self.register(file)) as held:
            plan = self._bind_plan(file, held)
            with session.transaction(self.connection, lock_timeout=timedelta(seconds=10)) as cursor:
                writes.prune(cursor, self.config.schema)
            run = self._run(plan, file.requires, held, overrides, deadline, file.functions, evidence, ramp)
            run.advance(plan.automatic_target if target is None else target)

    def register(self, file: MigrationFile) -> Record:
        """The migration's record, made where it is missing."""
        with session.transaction(self.connection, lock_timeout=timedelta(seconds=10)) as cursor:
            self.store.register(cursor, file.id, file.title or "", file.checksum)
        record = self.store.record(self.connection, file.id)
        assert record is not None
        return record

    def _nothing_to_do(
        self, file: MigrationFile, record: Record, target: Phase | None, compare_from: Phase | None
    ) -> bool:
        if record.phase is Phase.CONTRACT:
            return True
        planned.refuse_edited(file, record)
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

    def revert(
        self,
        record: Record,
        file: MigrationFile | None,
        target: Phase,
        overrides: Mapping[str, str],
        *,
        allow_lossy: bool,
    ) -> None:
        """Take one migration back and leave a hold; see `Project.revert`. Only its functions are in the file's hands."""
        plan = record.plan
        if plan is None and record.phase is Phase.CONTRACT:
            raise bootstrapping.adopted_cannot_go_back(record.id)
        with self._lease(record) as held:
            current = self.store.record(self.connection, record.id)
            plan = None if current is None else current.plan
            if plan is not None:
                functions = {} if file is None else file.functions
                run = self._run(plan, (), held, overrides, float("inf"), functions)
                run.check_revert(target, allow_lossy=allow_lossy)
                with run.executor.held.fenced() as cursor:
                    self.store.set_hold(cursor, [record.id], f"reverted to {target}", again=True)
                run.revert(target, allow_lossy=allow_lossy)

    def withhold(self, record: Record, *, duration: timedelta, owner_too: bool, overrides: Mapping[str, str]) -> str:
        """Rehearse the end of the old shape; see `Project.withhold`."""
        from zdmigrate.engine import proving, withholding

        with self._lease(record) as held:
            current = self.store.record(self.connection, record.id)
            plan = None if current is None else current.plan
            if current is None or plan is None:
                raise Waiting(f"{record.id} has not begun", hint=f"zdmigrate advance {record.id}")
            policy = self.store.policy(self.connection)
            facts = gates.Facts(connection=self.connection, store=self.store, policy=policy, overrides=overrides)
            withholding.refuse_unready(current, plan, proving.reported(current, Shape.OLD, facts), overrides)
            rehearsal = withholding.Rehearsal(
                held=self.executor(plan, held, {}, lambda: self.stop.asked).held,
                lease=held,
                record=current,
                duration=duration,
                owner_too=owner_too,
                reason=overrides.get("drained"),
                connect=lambda: self._connect("withhold"),
                stop=self.stop,
            )
            return rehearsal.run()

    def verify(self, record: Record) -> None:
        """Probe every completed step again, and read every row while both shapes are in use."""
        plan = record.plan
        if plan is not None:
            with self._lease(record) as held:
                # Looking is allowed under a hold, so nothing but the lease and a signal stop it.
                executor = self.executor(plan, held, {}, lambda: self.stop.asked)
                since = self.store.moment(self.connection)
                renamed = any(s.renames and s.phase.position <= record.phase.position for s in plan.steps())
                for step in plan.steps():
                    if step.phase.position <= record.phase.position:
                        if step.mode is not Mode.VERIFY and executor.probe(step) != "done" and step.is_probed:
                            raise Drift(
                                f"{record.id}: {step.title}: no longer so", hint="zdmigrate revert, then advance"
                            )
                        if step.mode is Mode.VERIFY and not renamed:
                            executor.rows.verify(step)
                if record.phase.position >= Phase.BACKFILL.position and not renamed:
                    with executor.held.fenced() as cursor:
                        self.store.set_verified(cursor, record.key, verified=True, since=since)

    def _run(
        self,
        plan: Plan,
        requires: tuple[str, ...],
        held: lease.Lease,
        overrides: Mapping[str, str],
        deadline: float,
        functions: Mapping[str, Callable[[Any], Any]],
        evidence: gates.Judge | None = None,
        ramp: Ramp | None = None,
    ) -> Run:
        policy = self.store.policy(self.connection)
        facts = gates.Facts(
            connection=self.connection, store=self.store, policy=policy, overrides=overrides, evidence=evidence,
            keeping=True,
        )  # fmt: skip

        def out_of_time() -> bool:
            return self.stop.asked or time.monotonic() >= deadline

        executor = self.watched(plan, held, functions, out_of_time)
        return Run(plan=plan, requires=requires, executor=executor, facts=facts, out_of_time=out_of_time, ramp=ramp)

    def watched(
        self,
        plan: Plan,
        right: lease.Right,
        functions: Mapping[str, Callable[[Any], Any]],
        out_of_time: Callable[[], bool],
    ) -> Executor:
        """What executes the plan's steps, and looks between them whether it still may."""
        looking = self.executor(plan, right, functions, out_of_time)
        return self.executor(plan, right, functions, Watch(executor=looking, plan=plan, out_of_time=out_of_time))

    def executor(
        self,
        plan: Plan,
        right: lease.Right,
        functions: Mapping[str, Callable[[Any], Any]],
        should_stop: Callable[[], bool],
    ) -> Executor:
        """What executes the plan's steps while the lease is ours, by `right`."""
        config = self.config
        held = Holding(
            connection=self.connection,
            store=self.store,
            lease=right,
            migration=plan.migration,
            lock_timeout=config.lock_timeout,
            lock_budget=config.lock_budget,
            report=self.report,
            should_stop=should_stop,
            functions=functions,
        )
        rows = RowSteps(
            held=held,
            limits=_limits(config),
            connect=self._connect,
            watch=lambda key, tables: throttles.watch(
                config.throttle,
                lambda: self._connect("throttles"),
                control_schema=config.schema,
                migration=key,
                tables=tables,
            ),
            forecast=lambda step: self._forecast(plan, step),
            stop=self.stop,
        )
        return Executor(held=held, rows=rows)

    def _forecast(self, plan: Plan, step: Step) -> Forecast | None:
        sizes = forecasting.read(self.connection, [plan], self.config.schema)
        found = forecasting.of([plan], sizes, self.config.backfill)[plan.migration]
        return next((forecast for forecast in found if forecast.step == step.id), None)

    def _bind_plan(self, file: MigrationFile, held: lease.Lease) -> Plan:
        """The stored plan; while nothing was done, a fresh one, which is stored."""
        record = self.store.record(self.connection, file.id)
        assert record is not None
        planned.refuse_edited(file, record)
        if record.phase is not Phase.NONE or record.running is not None:
            plan = record.plan
            assert plan is not None
            return plan
        # Before planning, which would trip over what the other one has built; and again when the answer is stored.
        targets = [str(target) for change in file.changes for target in change.targets()]
        planned.refuse_conflicts(file.id, targets, (), record.key, self.store.all_touching(self.connection))
        plan = planned.make(file, planned.read(self.connection, [file], self.config.schema))
        with session.transaction(self.connection, lock_timeout=timedelta(seconds=10)) as cursor:
            held.fence(cursor)
            # Serialises "does anybody touch the same columns" with the answer being stored.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('zdmigrate touches', 0))")
            others = self.store.all_touching(cursor)
            planned.refuse_conflicts(file.id, plan.touches, plan.reads, record.key, others)
            self.store.store_plan(cursor, record.key, plan, file.title or "")
        return plan

    def _connect(self, purpose: str) -> Connection:
        return session.connect(url.conninfo(self.config.url), purpose=purpose)

    @contextlib.contextmanager
    def _lease(self, record: Record) -> Iterator[lease.Lease]:
        holder = lease.holder_name(socket.gethostname(), os.getpid(), lease.now(self.connection))

        def connect() -> Connection:
            return self._connect("heartbeat")

        with lease.hold(self.store, self.connection, connect, record.key, holder=holder, ttl=self.config.lease) as held:
            self._settle(record)
            yield held

    def _settle(self, record: Record) -> None:
        """Give back what a command that is gone has withheld. While its lease is held, it is not gone."""
        from zdmigrate.engine import withholding

        left = withholding.settle(self.connection, self.store, record)
        if left is not None:
            self.report(Event(kind=EventKind.NOTE, migration=record.id, message=left))


class Watch:
    """Asked between batches: is there time, is the lease ours, is nobody holding, are the triggers in place?"""

    def __init__(self, *, executor: Executor, plan: Plan, out_of_time: Callable[[], bool]) -> None:
        self._executor = executor
        self._triggers = plan.phase(Phase.DUAL_WRITE).steps
        self._out_of_time = out_of_time
        self._looked = self._probed = float("-inf")

    def __call__(self) -> bool:
        if self._out_of_time():
            return True
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            self._look(now)
        return False

    def _look(self, now: float) -> None:
        executor, held = self._executor, self._executor.held
        if held.lease.is_lost:
            raise lost()
        record = held.store.record(held.connection, held.migration)
        if record is not None and record.hold_reason is not None:
            raise Waiting(f"on hold: {record.hold_reason}", hint=f"zdmigrate unhold {record.id}")
        if record is not None and record.running in (Phase.EXPAND, Phase.CONTRACT):
            return  # not yet there, or no longer
        if now - self._probed >= _TRIGGERS:
            self._probed = now
            for step in self._triggers:
                if executor.probe(step) != "done":
                    raise Drift(f"{held.migration}: {step.title}: the triggers are gone", hint="zdmigrate revert")


def _limits(config: Config) -> Limits:
    backfill = config.backfill
    return Limits(
        backfill=values.Settings(
            window_pages=backfill.window_pages,
            stripes=backfill.stripes,
            pause=backfill.pause,
            lock_budget=config.lock_budget,
        ),
        pace=governor.Limits(
            workers=backfill.workers,
            batch_rows=backfill.batch_rows,
            rate=backfill.rate,
            target_latency=backfill.target_latency,
        ),
        unfillable=quarantine.Limit(rows=backfill.quarantine_limit, share=backfill.quarantine_share),
        kept=backfill.quarantine_columns,
    )
