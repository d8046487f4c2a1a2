"""Executes and undoes single steps: probe, lock-safe transaction or long statement, audit."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import tenacity

from zdmigrate.backfill import control, progress, values, verification, worker
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.backfill.forecasts import spending
from zdmigrate.backfill.forecasts.forecast import Difference, Forecast
from zdmigrate.backfill.forecasts.spending import Size, Spending
from zdmigrate.backfill.pacing import governor
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.control.lease import Right
from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.control.store import Store
from zdmigrate.engine import functions
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.engine.stopping import Stop
from zdmigrate.errors import Drift, Irreversible, LockBudgetExceeded, Progressed, Unsafe, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Mode, Step, TableLock, name_of
from zdmigrate.planning import authored, sync
from zdmigrate.postgres import blockers, lockwatch, session
from zdmigrate.sqltext import ident
from zdmigrate.wording import counted

PATIENT = timedelta(seconds=1)
"""A transaction that is older than this is waited for without queueing for the lock: others would queue behind us."""

_WORK = timedelta(seconds=2)
"""Longest that a catalog change may take once it has its locks."""

_OWN_KIND = (
    "SELECT relkind::text, pg_get_userbyid(relowner)::text FROM pg_class "
    "WHERE oid = to_regclass(%s) AND pg_has_role(relowner, 'USAGE')"
)

_SHOWN = 120

_WORTH_COMPARING = 1000
"""Rows from which on a forecast says something."""

_ATTEMPTS = 3
"""How often a concurrent build begins anew that the server ended because of a deadlock."""

_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.SerializationFailure,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take."""

    lock_timeout: timedelta
    lock_budget: timedelta
    backfill: values.Settings
    pace: governor.Limits
    unfillable: quarantine.Limit
    kept: tuple[str, ...]
    """Columns whose values are kept of rows that cannot be filled."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Runs steps of one migration while its lease is held.

    `connect` opens another connection for a purpose; `watch` makes the throttles of a migration (its key) that fills
    tables; `forecast` is what a step is expected to cost.
    """

    connection: session.Connection
    store: Store
    lease: Right
    migration: str
    limits: Limits
    report: Reporter
    should_stop: Callable[[], bool]
    functions: Mapping[str, Callable[[Any], Any]]
    connect: Callable[[str], session.Connection]
    watch: Callable[[int, Sequence[str]], Watch]
    forecast: Callable[[Step], Forecast | None]
    stop: Stop
    sleep: Callable[[float], None] = time.sleep

    def do(self, step: Step) -> None:
        """Bring a step about, unless it is done.

        Raises:
            LockBudgetExceeded: it lost against the same others again and again.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._bring_about(step)
            except psycopg.errors.DeadlockDetected:
                # Somebody queued behind a concurrent build for its table, and the build would wait for them.
                self._tell(step, f"another session was in the way, once more: {step.title}")
        raise self._budget_exceeded(step.locks)

    def _bring_about(self, step: Step) -> None:
        state = self.probe(step)
        if state == "done":
            return
        if state == "repair":
            self._tell(step, f"clear away what is half-built: {step.title}")
            self._run(step, "repair", step.repair, Mode.AUTOCOMMIT, step.locks)
        self._tell(step, step.title)
        match step.mode:
            case Mode.BACKFILL:
                self._backfill(step)
            case Mode.VERIFY:
                self.verify(step)
            case _:
                try:
                    self._run(step, "do", step.do, step.mode, step.locks)
                except psycopg.IntegrityError as error:
                    raise self._impossible(step, error) from error
        if step.is_probed and (now := self.probe(step)) != "done":
            raise Drift(f"{step.id} was executed, but the catalog says: {now}", hint="run: zdmigrate verify")

    def _impossible(self, step: Step, error: psycopg.IntegrityError) -> Unsafe:
        """Rows were written that the step cannot live with. A unique index would refuse others while it is half-built."""
        if step.repair and self.probe(step) == "repair":
            self._run(step, "repair", step.repair, Mode.AUTOCOMMIT, step.locks)
        said = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
        return Unsafe(
            f"{step.title}: {said}; what was half-built is gone" if step.repair else f"{step.title}: {said}",
            hint="change these rows, then run the command again",
        )

    def undo(self, step: Step) -> None:
        """Take a step back, unless it is not there.

        Raises:
            Irreversible: the step dropped something, and did.
        """
        if step.irreversible:
            self.refuse_done(step)
        # Without undo it is not even probed: what it worked on may be gone since an earlier attempt. What is recorded is
        # recorded as undone, also where there is nothing else to do.
        if not (step.undo or step.is_recorded) or (step.is_probed and self._state_before_undo(step) == "todo"):
            return
        self._tell(step, f"undo: {step.title}")
        self._run(step, "undo", step.undo, step.undo_mode, step.undo_locks)

    def _state_before_undo(self, step: Step) -> str:
        """Triggers that somebody disabled or changed are dropped all the same: their names and functions are ours."""
        try:
            return self.probe(step)
        except Drift:
            if step.phase is not Phase.DUAL_WRITE:
                raise
            return "changed"

    def refuse_done(self, step: Step) -> None:
        """Raise for a step that is done.

        Raises:
            Irreversible: it is.
        """
        if self.probe(step) == "done":
            raise Irreversible(
                f"{step.title}: done, and cannot be taken back",
                hint="finish the migration (zdmigrate advance --to contract) and write a new one the other way round",
            )

    def probe(self, step: Step) -> str:
        """What the catalog says: done, todo or repair.

        Raises:
            Drift: anything else.
        """
        if step.is_recorded:
            return "done" if self.store.was_done(self.connection, self.migration, step.id) else "todo"
        answers: list[str] = []
        timeout = self.limits.lock_timeout
        path = authored.SEARCH_PATH if step.authored else session.CATALOG_PATH

        def ask() -> None:
            with session.transaction(self.connection, lock_timeout=timeout, search_path=path, read_only=True) as cursor:
                row = cursor.execute(step.probe.encode()).fetchone()
                answers.append(str(row[0]) if row else "no answer")

        self._retried((), ask)
        state = answers[-1]
        if state not in ("done", "todo", "repair"):
            raise Drift(f"{self.migration}: {state}", hint="put it back as the plan has it (zdmigrate plan), or revert")
        return state

    @contextlib.contextmanager
    def fenced(self) -> Iterator[session.Cursor]:
        """A short transaction on the control tables only."""
        with session.transaction(self.connection, lock_timeout=timedelta(seconds=10)) as cursor:
            self.lease.fence(cursor)
            yield cursor

    def function(self, reference: str) -> Callable[[Any], Any]:
        """What a step of `Mode.PYTHON` calls, or one that fills rows.

        Raises:
            Drift: the migration's file is gone, or has another function of that name.
        """
        return functions.find(self.functions, self.migration, reference)

    def _run(self, step: Step, action: str, statements: Sequence[str], mode: Mode, locks: Sequence[TableLock]) -> None:
        match mode:
            case Mode.TRANSACTION:
                self._retried(locks, lambda: self._transaction(step, action, statements, locks))
            case Mode.PYTHON:
                self._retried(locks, lambda: self._calls(step, action, statements, locks))
            case _:
                started = time.monotonic()
                for statement in statements:
                    self._long_statement(step, statement, locks)
                with self.fenced() as cursor:
                    self._log(cursor, step, action, statements, started)

    def _transaction(self, step: Step, action: str, statements: Sequence[str], locks: Sequence[TableLock]) -> None:
        started = time.monotonic()
        with self._locking(step, locks) as cursor:
            over = self._watching(step, cursor, locks)
            for statement in statements:
                with over(_shown(statement)):
                    cursor.execute(statement.encode())
            self._log(cursor, step, action, statements, started)

    def _calls(self, step: Step, action: str, references: Sequence[str], locks: Sequence[TableLock]) -> None:
        """Call a step's function. One that yields is committed there, and goes on in the next transaction."""
        started = time.monotonic()
        work = (
            each for ref in references for each in functions.called(self.migration, self.function(ref), self.connection)
        )
        what = ", ".join(f"{name_of(reference)}()" for reference in references)
        done = False
        while not done:
            if action == "do" and self.should_stop():
                raise Progressed(f"stopped in {what}", hint="run the command again")
            with self._locking(step, locks) as cursor:
                with self._watching(step, cursor, locks)(what):
                    done = next(work, _DONE) is _DONE
                if done:
                    self._log(cursor, step, action, references, started)

    @contextlib.contextmanager
    def _locking(self, step: Step, locks: Sequence[TableLock]) -> Iterator[session.Cursor]:
        """A fenced transaction that has taken the step's strongest lock."""
        # Two tables are locked one after the other: those behind the first also wait while we wait for the second.
        tables = len({(lock.schema, lock.name) for lock in locks}) or 1
        timeout = self.limits.lock_timeout / tables
        with session.transaction(
            self.connection,
            lock_timeout=timeout,
            statement_timeout=self.limits.lock_timeout + _WORK,
            search_path=_path(step),
        ) as cursor:
            self.lease.fence(cursor)
            if not step.authored:  # what is declared is the most that it may take, not what it takes
                self._lock_first(cursor, locks, timeout)
            yield cursor

    def _watching(
        self, step: Step, cursor: session.Cursor, declared: Sequence[TableLock]
    ) -> Callable[[str], contextlib.AbstractContextManager[None]]:
        """What sees to it that a step of the author's own takes no other locks than it declares, and not for long."""
        if not step.authored:
            return lambda _: contextlib.nullcontext()
        watch = lockwatch.Watch(cursor, declared, control=self.store.schema, rewrites=step.rewrites)

        @contextlib.contextmanager
        def over(what: str) -> Iterator[None]:
            try:
                with watch.over(what):
                    yield
            except psycopg.errors.QueryCanceled as error:
                if self.lease.is_lost:
                    raise
                raise Unsafe(
                    f"{what}: not done within {(self.limits.lock_timeout + _WORK).total_seconds():g} s, with its locks held",
                    hint="nothing of it stays; do it in batches: a function of RunPython that yields",
                ) from error

        return over

    def _lock_first(self, cursor: session.Cursor, locks: Sequence[TableLock], timeout: timedelta) -> None:
        """Lock a partitioned table at once: else each partition has the lock timeout anew, while the others wait.

        And our own table at once as strongly as any statement needs it. CREATE TRIGGER and then SET DEFAULT would ask
        for more than is held, and deadlock with an application's transaction that has read the table and now writes.

        Views come before their table, as in queries. LOCK TABLE would lock everything below a view too; giving it to the
        owner that it has changes nothing, and locks the view alone.
        """
        set_timeout = "SELECT set_config('statement_timeout', %s, true)"
        first = True
        for lock in locks:
            if lock.mode in (LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE):
                name = ident(lock.schema, lock.name)
                kind, owner = cursor.execute(_OWN_KIND, (name,)).fetchone() or (None, "")
                if kind == "v" and first:
                    cursor.execute(f"ALTER VIEW {name} OWNER TO {ident(owner)}".encode())
                    continue
                if kind == "p":
                    usual = session.milliseconds(self.limits.lock_timeout + _WORK)
                    cursor.execute(set_timeout, (session.milliseconds(timeout),))
                    cursor.execute(f"LOCK TABLE {name} IN {lock.mode} MODE".encode())
                    cursor.execute(set_timeout, (usual,))
                elif kind == "r" and first:
                    cursor.execute(f"LOCK TABLE {name} IN {lock.mode} MODE".encode())
            first = False

    def _long_statement(self, step: Step, statement: str, locks: Sequence[TableLock]) -> None:
        """A statement outside a transaction. It cannot carry the fence: its backend is recorded in the lease."""
        concurrent = re.search(r"\bCONCURRENTLY\b", statement, re.IGNORECASE) is not None
        timeout = self.limits.lock_budget if concurrent else self.limits.lock_timeout

        def attempt() -> None:
            with self.fenced():
                pass
            with session.settings(
                self.connection,
                lock_timeout=session.milliseconds(timeout),
                statement_timeout="0",
                search_path=_path(step),
            ):
                self.connection.execute(statement.encode())

        if concurrent:
            # It waits for old transactions, and nobody waits for it: no need to be brief.
            try:
                with self._alone(locks):
                    attempt()
            except psycopg.errors.LockNotAvailable as error:
                older = blockers.snapshots(self.connection, older_than=timeout)
                raise self._budget_exceeded(locks, older) from error
        else:
            self._retried(locks, attempt)

    @contextlib.contextmanager
    def _alone(self, locks: Sequence[TableLock]) -> Iterator[None]:
        """Only one builds on a table at a time, and the others do not queue for it.

        Whoever waits for the table's lock has a snapshot, which the build waits for in turn: the server ends that
        deadlock by throwing away the build.
        """
        tables = sorted({f"zdmigrate builds on {lock.table}" for lock in locks})

        def enter() -> None:
            # Everybody but autovacuum, which gives way to who queues.
            builders = [b for b in blockers.find(self.connection, locks) if not b.autovacuum]
            if builders:
                self._tell_blocked(builders)
                raise _InTheWay
            for number, name in enumerate(tables):
                if not self._advisory("pg_try_advisory_lock", name):
                    self._leave(tables[:number])
                    raise _InTheWay

        self._retried((), enter, blocked_by=locks)
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.Error):  # a session that is gone holds no lock
                self._leave(tables)

    def _advisory(self, function: LiteralString, name: str) -> bool:
        row = self.connection.execute(f"SELECT {function}(hashtextextended(%s, 0))", (name,)).fetchone()
        return row is not None and bool(row[0])

    def _leave(self, tables: Sequence[str]) -> None:
        for name in tables:
            self._advisory("pg_advisory_unlock", name)

    def _retried(
        self, locks: Sequence[TableLock], attempt: Callable[[], None], *, blocked_by: Sequence[TableLock] = ()
    ) -> None:
        budget = self.limits.lock_budget.total_seconds()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._contended),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
            stop=tenacity.stop_after_delay(budget),
            sleep=self.sleep,
        )
        told: set[str] = set()
        try:
            for one in retrying:
                with one:
                    self._stand_back(locks, told)
                    attempt()
        except tenacity.RetryError as error:
            raise self._budget_exceeded(locks or blocked_by) from error.last_attempt.exception()

    def _contended(self, error: BaseException) -> bool:
        return isinstance(error, (*_RETRIED, _InTheWay)) and not self.lease.is_lost

    def _stand_back(self, locks: Sequence[TableLock], told: set[str]) -> None:
        found = blockers.find(self.connection, locks, older_than=PATIENT) if locks else []
        if found:
            pids = " ".join(sorted(str(blocker.pid) for blocker in found))
            if pids not in told:  # said once for the same ones
                told.add(pids)
                self._tell_blocked(found)
            raise _InTheWay

    def _budget_exceeded(
        self, locks: Sequence[TableLock], others: Sequence[blockers.Blocker] = ()
    ) -> LockBudgetExceeded:
        found = [*blockers.find(self.connection, locks), *others]
        tables = ", ".join(sorted({lock.table for lock in locks}))
        shown = "; ".join(map(str, found)) or "nobody any more"
        remedy = f"wait for it or end it ({found[0].remedy}), then run" if found else "run"
        return LockBudgetExceeded(
            f"no lock on {tables} within {self.limits.lock_budget.total_seconds():g} s; in the way: {shown}",
            hint=f"{remedy} the command again",
        )

    def _backfill(self, step: Step) -> None:
        assert step.rows is not None
        started = time.monotonic()
        self._tell_paused(step)
        cost = Spending(control_schema=self.store.schema, migration=self.lease.key, step=step.id)
        self._expect(step, cost)
        outcome = self.fill(step)
        if not outcome.complete:
            raise Progressed(f"stopped while filling rows ({outcome.rows:,} so far)", hint="run the command again")
        found = self._differences(step, cost, outcome)
        with self.fenced() as cursor:
            detail = "; ".join([counted(outcome.rows, "row"), *map(str, found)])
            self._log(cursor, step, "do", (repr(step.rows),), started, detail=detail)
        self._tell_outcome(step, found)
        self._refuse_unfilled()

    def fill(self, step: Step, *, joining: bool = False) -> values.Outcome:
        """Fill the rows of a step, as far as there is time; `joining` somebody who has begun it.

        Raises:
            LeaseLost: the right to do so has ended.
        """
        assert step.rows is not None
        transform = step.rows.transform
        function = None if transform is None else self.function(transform.function)
        with self.stop.listening(), session.settings(self.connection, search_path=sync.SEARCH_PATH):
            return worker.run(
                self.connection,
                control_schema=self.store.schema,
                migration=self.lease.key,
                step=step.id,
                rows=step.rows,
                settings=self.limits.backfill,
                limits=self.limits.pace,
                fence=self.lease.fence,
                progress=lambda now: self._progress(step, now),
                should_stop=self.should_stop,
                sleep=self.sleep,
                connect=lambda: self.connect("backfill"),
                watch=self.watch(self.lease.key, [ident(step.rows.schema, step.rows.table)]),
                aside=self._aside(step),
                say=lambda text: self._tell(step, text),
                joining=joining,
                function=function,
            )

    def _expect(self, step: Step, cost: Spending) -> None:
        """Keep what the step is expected to cost, and how large the table is; a run that goes on finds it."""
        if cost.is_kept(self.connection):
            return
        found: list[tuple[Size, Forecast | None]] = []
        self._retried((), lambda: found.append((self._size(step), self.forecast(step))), blocked_by=step.locks)
        before, forecast = found[-1]
        with self.fenced() as cursor:
            cost.keep(cursor, forecast, before)

    def _differences(self, step: Step, cost: Spending, outcome: values.Outcome) -> tuple[Difference, ...]:
        if outcome.rows < _WORTH_COMPARING:
            return ()
        now = None
        with contextlib.suppress(psycopg.errors.LockNotAvailable):  # not worth waiting for
            now = self._size(step)
        return cost.differences(self.connection, outcome.rows, now)

    def _size(self, step: Step) -> Size:
        assert step.rows is not None
        with session.transaction(self.connection, lock_timeout=self.limits.lock_timeout, read_only=True) as cursor:
            return spending.size(cursor, step.rows)

    def _tell_paused(self, step: Step) -> None:
        """Said long ago, perhaps, and forgotten: nobody shall wait without knowing for what."""
        said = control.read(self.connection, control_schema=self.store.schema, migration=self.lease.key)
        if said.paused:
            message = f"{said.pause}; to go on: zdmigrate backfill resume {self.migration}"
            self.report(
                Event(kind=EventKind.WAITING, migration=self.migration, message=message, phase=step.phase, step=step.id)
            )

    def _tell_outcome(self, step: Step, found: Sequence[Difference]) -> None:
        if found:
            message = f"forecast and outcome: {'; '.join(map(str, found))}"
            figures = [dataclasses.asdict(each) | {"ratio": each.ratio} for each in found]
            self.report(
                Event(
                    kind=EventKind.NOTE, migration=self.migration, message=message, phase=step.phase, step=step.id,
                    progress={"forecast": figures},
                )
            )  # fmt: skip

    def _aside(self, step: Step) -> Aside:
        where = quarantine.Quarantine(
            control_schema=self.store.schema, migration=self.lease.key, step=step.id, columns=self.limits.kept
        )
        return Aside(quarantine=where, limit=self.limits.unfillable)

    def _refuse_unfilled(self) -> None:
        """What the phase goes on with needs all rows: a constraint, an index, the verification."""
        schema, key = self.store.schema, self.lease.key
        number = quarantine.open_count(self.connection, control_schema=schema, migration=key)
        if number:
            first = quarantine.entries(self.connection, control_schema=schema, migration=key, limit=3)
            named = quarantine.described(first)
            raise Waiting(
                f"{counted(number, 'row')} could not be filled: {named}",
                hint=f"zdmigrate quarantine list {self.migration}; correct them, then: zdmigrate quarantine retry "
                f"{self.migration}, and advance again",
            )

    def verify(self, step: Step) -> None:
        """Read every row and prove that none is unfilled."""
        assert step.rows is not None
        started = time.monotonic()
        meter = progress.Meter()
        with self.stop.listening(), session.settings(self.connection, search_path=sync.SEARCH_PATH):
            if step.rows.transform is not None:  # there is no trigger that would fill rows which move
                found = verification.count_at_once(
                    self.connection, rows=step.rows, settings=self.limits.backfill, sleep=self.sleep
                )
            else:
                found = verification.count_unfilled(
                    self.connection,
                    rows=step.rows,
                    progress=lambda p: self._progress(step, meter.read(p)),
                    should_stop=self.should_stop,
                    settings=self.limits.backfill,
                    sleep=self.sleep,
                )
        if not found.complete:
            raise Progressed("stopped while verifying", hint="run the command again")
        if found.unfilled:
            with self.fenced() as cursor:
                self.store.forget_backfill(cursor, self.lease.key)
                self.store.set_verified(cursor, self.lease.key, verified=False)
            if step.rows.transform is not None:
                raise Waiting(
                    f"{counted(found.unfilled, 'row')} of {step.rows.schema}.{step.rows.table} without a value in "
                    f"{step.rows.transform.column}: {', '.join(found.sample)}; written so since the others were read",
                    hint=f"the next advance fills them: zdmigrate advance {self.migration}; if there are always new ones, "
                    "a version that does not write the column is still at work, or writes NULL on purpose",
                )
            raise Unsafe(
                f"{counted(found.unfilled, 'row')} of {step.rows.schema}.{step.rows.table} not filled: {', '.join(found.sample)}",
                hint="find out what writes past the sync trigger, or why the expression gives NULL; mend the rows and run "
                f"zdmigrate verify {self.migration}, or: zdmigrate revert {self.migration} --to dual_write, then advance",
            )
        with self.fenced() as cursor:
            self._log(
                cursor, step, "do", (repr(step.rows),), started, detail=f"{found.checked_pages} pages, 0 unfilled"
            )

    def _log(
        self,
        cursor: session.Cursor,
        step: Step,
        action: str,
        statements: Sequence[str],
        started: float,
        detail: str | None = None,
    ) -> None:
        self.store.log(
            cursor,
            AuditEvent(
                migration=self.migration,
                action=action,
                outcome="done",
                phase=step.phase,
                step=step.id,
                sql_hash=hashlib.sha256("\n".join(statements).encode()).hexdigest(),
                duration=timedelta(seconds=time.monotonic() - started),
                detail=detail,
            ),
        )

    def _tell(self, step: Step, message: str) -> None:
        self.report(
            Event(kind=EventKind.STEP, migration=self.migration, message=message, phase=step.phase, step=step.id)
        )

    def _tell_blocked(self, found: Sequence[blockers.Blocker]) -> None:
        text = f"waiting, without queueing, for {'; '.join(map(str, found))}"
        self.report(Event(kind=EventKind.BLOCKED, migration=self.migration, message=text))

    def _progress(self, step: Step, now: progress.Snapshot) -> None:
        self.report(
            Event(
                kind=EventKind.PROGRESS, migration=self.migration, message=now.line(), phase=step.phase, step=step.id,
                done=now.pages_done, total=now.pages_total, progress=now.to_json(),
            )
        )  # fmt: skip


_DONE = object()


def _path(step: Step) -> str:
    return authored.SEARCH_PATH if step.authored else sync.SEARCH_PATH


def _shown(statement: str) -> str:
    """The statement, or its beginning, in one line."""
    text = " ".join(statement.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class _InTheWay(Exception):
    """An old transaction holds a conflicting lock: do not even queue."""
