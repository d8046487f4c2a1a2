"""Executes and undoes single steps: probe, lock-safe transaction or long statement, audit."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import LiteralString

import psycopg

from zdmigrate.engine import functions
from zdmigrate.engine.holding import Holding, InTheWay
from zdmigrate.engine.row_steps import RowSteps
from zdmigrate.errors import Drift, Irreversible, Progressed, Unsafe, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Mode, Step, TableLock, name_of
from zdmigrate.planning import authored, sync
from zdmigrate.postgres import blockers, lockwatch, session
from zdmigrate.sqltext import ident

_WORK = timedelta(seconds=2)
"""Longest that a catalog change may take once it has its locks."""

_OWN_KIND = (
    "SELECT relkind::text, pg_get_userbyid(relowner)::text FROM pg_class "
    "WHERE oid = to_regclass(%s) AND pg_has_role(relowner, 'USAGE')"
)

_SHOWN = 120

_ATTEMPTS = 3
"""How often a concurrent build begins anew that the server ended because of a deadlock."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Runs steps of one migration while its lease is held; `rows` are those that fill and verify."""

    held: Holding
    rows: RowSteps

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
                self.held.tell(step, f"another session was in the way, once more: {step.title}")
        raise self.held.budget_exceeded(step.locks)

    def _bring_about(self, step: Step) -> None:
        state = self.probe(step)
        if state == "done":
            return
        if state == "repair":
            self.held.tell(step, f"clear away what is half-built: {step.title}")
            self._run(step, "repair", step.repair, Mode.AUTOCOMMIT, step.locks)
        self.held.tell(step, step.title)
        match step.mode:
            case Mode.BACKFILL:
                self.rows.do(step)
            case Mode.VERIFY:
                self.rows.verify(step)
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
        self.held.tell(step, f"undo: {step.title}")
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
            return "done" if self.held.store.was_done(self.held.connection, self.held.migration, step.id) else "todo"
        answers: list[str] = []
        timeout = self.held.lock_timeout
        path = authored.SEARCH_PATH if step.authored else session.CATALOG_PATH

        def ask() -> None:
            with session.transaction(
                self.held.connection, lock_timeout=timeout, search_path=path, read_only=True
            ) as cursor:
                row = cursor.execute(step.probe.encode()).fetchone()
                answers.append(str(row[0]) if row else "no answer")

        self.held.retried((), ask)
        state = answers[-1]
        if state not in ("done", "todo", "repair"):
            raise Drift(
                f"{self.held.migration}: {state}", hint="put it back as the plan has it (zdmigrate plan), or revert"
            )
        return state

    def _run(self, step: Step, action: str, statements: Sequence[str], mode: Mode, locks: Sequence[TableLock]) -> None:
        match mode:
            case Mode.TRANSACTION:
                self.held.retried(locks, lambda: self._transaction(step, action, statements, locks))
            case Mode.PYTHON:
                self.held.retried(locks, lambda: self._calls(step, action, statements, locks))
            case _:
                started = time.monotonic()
                for statement in statements:
                    self._long_statement(step, statement, locks)
                with self.held.fenced() as cursor:
                    self.held.log(cursor, step, action, statements, started)

    def _transaction(self, step: Step, action: str, statements: Sequence[str], locks: Sequence[TableLock]) -> None:
        started = time.monotonic()
        with self._locking(step, locks) as cursor:
            over = self._watching(step, cursor, locks)
            if action == "do" and step.asked_within is not None:
                self._ask_within(step, cursor, step.asked_within)
            for statement in statements:
                with over(_shown(statement)):
                    cursor.execute(statement.encode())
            self.held.log(cursor, step, action, statements, started)

    def _ask_within(self, step: Step, cursor: session.Cursor, query: str) -> None:
        found = [str(row[0]) for row in cursor.execute(query.encode()).fetchall()]
        if found:
            raise Waiting(
                f"{step.title}: {'; '.join(found)}", hint=f"what to do: zdmigrate status {self.held.migration}"
            )

    def _calls(self, step: Step, action: str, references: Sequence[str], locks: Sequence[TableLock]) -> None:
        """Call a step's function. One that yields is committed there, and goes on in the next transaction."""
        started = time.monotonic()
        work = (
            each
            for ref in references
            for each in functions.called(self.held.migration, self.held.function(ref), self.held.connection)
        )
        what = ", ".join(f"{name_of(reference)}()" for reference in references)
        done = False
        while not done:
            if action == "do" and self.held.should_stop():
                raise Progressed(f"stopped in {what}", hint="run the command again")
            with self._locking(step, locks) as cursor:
                with self._watching(step, cursor, locks)(what):
                    done = next(work, _DONE) is _DONE
                if done:
                    self.held.log(cursor, step, action, references, started)

    @contextlib.contextmanager
    def _locking(self, step: Step, locks: Sequence[TableLock]) -> Iterator[session.Cursor]:
        """A fenced transaction that has taken the step's strongest lock."""
        # Two tables are locked one after the other: those behind the first also wait while we wait for the second.
        tables = len({(lock.schema, lock.name) for lock in locks}) or 1
        timeout = self.held.lock_timeout / tables
        with session.transaction(
            self.held.connection,
            lock_timeout=timeout,
            statement_timeout=self.held.lock_timeout + _WORK,
            search_path=_path(step),
        ) as cursor:
            self.held.lease.fence(cursor)
            if not step.authored:  # what is declared is the most that it may take, not what it takes
                self._lock_first(cursor, locks, timeout)
            yield cursor

    def _watching(
        self, step: Step, cursor: session.Cursor, declared: Sequence[TableLock]
    ) -> Callable[[str], contextlib.AbstractContextManager[None]]:
        """What sees to it that a step of the author's own takes no other locks than it declares, and not for long."""
        if not step.authored:
            return lambda _: contextlib.nullcontext()
        watch = lockwatch.Watch(cursor, declared, control=self.held.store.schema, rewrites=step.rewrites)

        @contextlib.contextmanager
        def over(what: str) -> Iterator[None]:
            try:
                with watch.over(what):
                    yield
            except psycopg.errors.QueryCanceled as error:
                if self.held.lease.is_lost:
                    raise
                raise Unsafe(
                    f"{what}: not done within {(self.held.lock_timeout + _WORK).total_seconds():g} s, with its locks held",
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
                    usual = session.milliseconds(self.held.lock_timeout + _WORK)
                    cursor.execute(set_timeout, (session.milliseconds(timeout),))
                    cursor.execute(f"LOCK TABLE {name} IN {lock.mode} MODE".encode())
                    cursor.execute(set_timeout, (usual,))
                elif kind == "r" and first:
                    cursor.execute(f"LOCK TABLE {name} IN {lock.mode} MODE".encode())
            first = False

    def _long_statement(self, step: Step, statement: str, locks: Sequence[TableLock]) -> None:
        """A statement outside a transaction. It cannot carry the fence: its backend is recorded in the lease."""
        concurrent = re.search(r"\bCONCURRENTLY\b", statement, re.IGNORECASE) is not None
        timeout = self.held.lock_budget if concurrent else self.held.lock_timeout

        def attempt() -> None:
            with self.held.fenced():
                pass
            with session.settings(
                self.held.connection,
                lock_timeout=session.milliseconds(timeout),
                statement_timeout="0",
                search_path=_path(step),
            ):
                self.held.connection.execute(statement.encode())

        if concurrent:
            # It waits for old transactions, and nobody waits for it: no need to be brief.
            try:
                with self._alone(locks):
                    attempt()
            except psycopg.errors.LockNotAvailable as error:
                older = blockers.snapshots(self.held.connection, older_than=timeout)
                raise self.held.budget_exceeded(locks, older) from error
        else:
            self.held.retried(locks, attempt)

    @contextlib.contextmanager
    def _alone(self, locks: Sequence[TableLock]) -> Iterator[None]:
        """Only one builds on a table at a time, and the others do not queue for it.

        Whoever waits for the table's lock has a snapshot, which the build waits for in turn: the server ends that
        deadlock by throwing away the build.
        """
        tables = sorted({f"zdmigrate builds on {lock.table}" for lock in locks})

        def enter() -> None:
            # Everybody but autovacuum, which gives way to who queues.
            builders = [b for b in blockers.find(self.held.connection, locks) if not b.autovacuum]
            if builders:
                self.held.tell_blocked(builders)
                raise InTheWay
            for number, name in enumerate(tables):
                if not self._advisory("pg_try_advisory_lock", name):
                    self._leave(tables[:number])
                    raise InTheWay

        self.held.retried((), enter, blocked_by=locks)
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.Error):  # a session that is gone holds no lock
                self._leave(tables)

    def _advisory(self, function: LiteralString, name: str) -> bool:
        row = self.held.connection.execute(f"SELECT {function}(hashtextextended(%s, 0))", (name,)).fetchone()
        return row is not None and bool(row[0])

    def _leave(self, tables: Sequence[str]) -> None:
        for name in tables:
            self._advisory("pg_advisory_unlock", name)


_DONE = object()


def _path(step: Step) -> str:
    return authored.SEARCH_PATH if step.authored else sync.SEARCH_PATH


def _shown(statement: str) -> str:
    """The statement, or its beginning, in one line."""
    text = " ".join(statement.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
