"""Steps that fill rows, and those that prove that none is left."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence

import psycopg

from zdmigrate.backfill import control, progress, values, verification, worker
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.backfill.forecasts import spending
from zdmigrate.backfill.forecasts.forecast import Difference, Forecast
from zdmigrate.backfill.forecasts.spending import Size, Spending
from zdmigrate.backfill.pacing import governor
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.engine.holding import Holding
from zdmigrate.engine.reporting import EventKind
from zdmigrate.engine.stopping import Stop
from zdmigrate.errors import Progressed, Unsafe, Waiting
from zdmigrate.plan import RowWork, Step
from zdmigrate.planning import sync
from zdmigrate.postgres import session
from zdmigrate.sqltext import ident
from zdmigrate.wording import counted

_WORTH_COMPARING = 1000
"""Rows from which on a forecast says something."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How fast rows are filled, and how many may be set aside; `kept` are the columns whose values are kept of those."""

    backfill: values.Settings
    pace: governor.Limits
    unfillable: quarantine.Limit
    kept: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowSteps:
    """Fills and verifies rows while the migration's lease is held.

    `connect` opens another connection for a purpose; `watch` makes the throttles of a migration (its key) that fills
    tables; `forecast` is what a step is expected to cost.
    """

    held: Holding
    limits: Limits
    connect: Callable[[str], session.Connection]
    watch: Callable[[int, Sequence[str]], Watch]
    forecast: Callable[[Step], Forecast | None]
    stop: Stop

    def do(self, step: Step) -> None:
        """Fill the rows of a step.

        Raises:
            Progressed: out of time; what was filled stays.
            Waiting: rows could not be filled, and are set aside.
        """
        assert step.rows is not None
        started = time.monotonic()
        self._tell_paused(step)
        cost = Spending(control_schema=self.held.store.schema, migration=self.held.lease.key, step=step.id)
        self._expect(step, cost)
        outcome = self.fill(step)
        if not outcome.complete:
            raise Progressed(f"stopped while filling rows ({outcome.rows:,} so far)", hint="run the command again")
        found = self._differences(step, cost, outcome)
        with self.held.fenced() as cursor:
            detail = "; ".join([counted(outcome.rows, "row"), *map(str, found)])
            self.held.log(cursor, step, "do", (repr(step.rows),), started, detail=detail)
        self._tell_outcome(step, found)
        self._refuse_unfilled()

    def fill(self, step: Step, *, joining: bool = False) -> values.Outcome:
        """Fill the rows of a step, as far as there is time; `joining` somebody who has begun it.

        Raises:
            LeaseLost: the right to do so has ended.
        """
        assert step.rows is not None
        transform = step.rows.transform
        function = None if transform is None else self.held.function(transform.function)
        with self.stop.listening(), session.settings(self.held.connection, search_path=sync.SEARCH_PATH):
            return worker.run(
                self.held.connection,
                control_schema=self.held.store.schema,
                migration=self.held.lease.key,
                step=step.id,
                rows=step.rows,
                settings=self.limits.backfill,
                limits=self.limits.pace,
                fence=self.held.lease.fence,
                progress=lambda now: self._progress(step, now),
                should_stop=self.held.should_stop,
                sleep=self.held.sleep,
                connect=lambda: self.connect("backfill"),
                watch=self.watch(self.held.lease.key, [ident(step.rows.schema, step.rows.table)]),
                aside=self._aside(step),
                say=lambda text: self.held.tell(step, text),
                joining=joining,
                function=function,
            )

    def _expect(self, step: Step, cost: Spending) -> None:
        """Keep what the step is expected to cost, and how large the table is; a run that goes on finds it."""
        if cost.is_kept(self.held.connection):
            return
        found: list[tuple[Size, Forecast | None]] = []
        self.held.retried((), lambda: found.append((self._size(step), self.forecast(step))), blocked_by=step.locks)
        before, forecast = found[-1]
        with self.held.fenced() as cursor:
            cost.keep(cursor, forecast, before)

    def _differences(self, step: Step, cost: Spending, outcome: values.Outcome) -> tuple[Difference, ...]:
        if outcome.rows < _WORTH_COMPARING:
            return ()
        now = None
        with contextlib.suppress(psycopg.errors.LockNotAvailable):  # not worth waiting for
            now = self._size(step)
        return cost.differences(self.held.connection, outcome.rows, now)

    def _size(self, step: Step) -> Size:
        assert step.rows is not None
        with session.transaction(self.held.connection, lock_timeout=self.held.lock_timeout, read_only=True) as cursor:
            return spending.size(cursor, step.rows)

    def _tell_paused(self, step: Step) -> None:
        """Said long ago, perhaps, and forgotten: nobody shall wait without knowing for what."""
        said = control.read(self.held.connection, control_schema=self.held.store.schema, migration=self.held.lease.key)
        if said.paused:
            message = f"{said.pause}; to go on: zdmigrate backfill resume {self.held.migration}"
            self.held.tell(step, message, kind=EventKind.WAITING)

    def _tell_outcome(self, step: Step, found: Sequence[Difference]) -> None:
        if found:
            message = f"forecast and outcome: {'; '.join(map(str, found))}"
            figures = [dataclasses.asdict(each) | {"ratio": each.ratio} for each in found]
            self.held.tell(step, message, kind=EventKind.NOTE, progress={"forecast": figures})

    def _aside(self, step: Step) -> Aside:
        where = quarantine.Quarantine(
            control_schema=self.held.store.schema, migration=self.held.lease.key, step=step.id, columns=self.limits.kept
        )
        return Aside(quarantine=where, limit=self.limits.unfillable)

    def _refuse_unfilled(self) -> None:
        """What the phase goes on with needs all rows: a constraint, an index, the verification."""
        schema, key = self.held.store.schema, self.held.lease.key
        number = quarantine.open_count(self.held.connection, control_schema=schema, migration=key)
        if number:
            first = quarantine.entries(self.held.connection, control_schema=schema, migration=key, limit=3)
            named = quarantine.described(first)
            raise Waiting(
                f"{counted(number, 'row')} could not be filled: {named}",
                hint=f"zdmigrate quarantine list {self.held.migration}; correct them, then: zdmigrate quarantine retry "
                f"{self.held.migration}, and advance again",
            )

    def verify(self, step: Step) -> None:
        """Read every row and prove that none is unfilled."""
        assert step.rows is not None
        started = time.monotonic()
        meter = progress.Meter()
        with self.stop.listening(), session.settings(self.held.connection, search_path=sync.SEARCH_PATH):
            if step.rows.transform is not None:  # there is no trigger that would fill rows which move
                found = verification.count_at_once(
                    self.held.connection, rows=step.rows, settings=self.limits.backfill, sleep=self.held.sleep
                )
            else:
                found = verification.count_unfilled(
                    self.held.connection,
                    rows=step.rows,
                    progress=lambda p: self._progress(step, meter.read(p)),
                    should_stop=self.held.should_stop,
                    settings=self.limits.backfill,
                    sleep=self.held.sleep,
                )
        if not found.complete:
            raise Progressed("stopped while verifying", hint="run the command again")
        if found.unfilled:
            with self.held.fenced() as cursor:
                self.held.store.forget_backfill(cursor, self.held.lease.key)
                self.held.store.set_verified(cursor, self.held.lease.key, verified=False)
            raise self._unfilled(step.rows, found)
        with self.held.fenced() as cursor:
            self.held.log(
                cursor, step, "do", (repr(step.rows),), started, detail=f"{found.checked_pages} pages, 0 unfilled"
            )

    def _unfilled(self, rows: RowWork, found: verification.Verification) -> Waiting | Unsafe:
        number, table = counted(found.unfilled, "row"), f"{rows.schema}.{rows.table}"
        sample, migration = ", ".join(found.sample), self.held.migration
        if rows.transform is not None:
            return Waiting(
                f"{number} of {table} without a value in {rows.transform.column}: {sample}; written so since the others "
                "were read",
                hint=f"the next advance fills them: zdmigrate advance {migration}; if there are always new ones, "
                "a version that does not write the column is still at work, or writes NULL on purpose",
            )
        return Unsafe(
            f"{number} of {table} not filled: {sample}",
            hint="find out what writes past the sync trigger, or why the expression gives NULL; mend the rows and run "
            f"zdmigrate verify {migration}, or: zdmigrate revert {migration} --to dual_write, then advance",
        )

    def _progress(self, step: Step, now: progress.Snapshot) -> None:
        self.held.tell(
            step,
            now.line(),
            kind=EventKind.PROGRESS,
            done=now.pages_done,
            total=now.pages_total,
            progress=now.to_json(),
        )
