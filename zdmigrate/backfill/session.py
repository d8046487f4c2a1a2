"""The short transactions of a backfill, with their timeouts and the lease's fence.

What can be is one message, COMMIT included: no lock then waits until our process is scheduled again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
import tenacity
from psycopg import errors, pq, sql
from psycopg.rows import tuple_row

from zdmigrate.backfill import blockers
from zdmigrate.backfill.values import Settings
from zdmigrate.control.fence import Fence
from zdmigrate.errors import LockBudgetExceeded
from zdmigrate.planning.sync import SEARCH_PATH
from zdmigrate.postgres.session import MARK

Row = tuple[Any, ...]
T = TypeVar("T")

# A role's own defaults must not change what a batch does: a TID range scan without parallel or JIT surprises, and an
# error instead of rows that silently stay unseen where FORCE ROW LEVEL SECURITY holds for the owner too.
_SETTINGS = (
    f"SET LOCAL search_path = {SEARCH_PATH}; "
    "SET LOCAL row_security = off; SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0; "
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_tidscan = on; "
    "SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {statement}; "
    "SET LOCAL idle_in_transaction_session_timeout = 2000"
)


_ASYNCHRONOUS = sql.SQL("SET LOCAL synchronous_commit = off")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An autocommit connection and the rules for using it. No transaction outlives a call."""

    connection: psycopg.Connection[Any]
    settings: Settings
    fence: Fence | None = None
    sleep: Callable[[float], None] = time.sleep

    def read(self, query: sql.Composable) -> list[Row]:
        """The rows of a query, in a transaction of its own."""
        return self._at_once("READ ONLY", self.settings.read_timeout, query)

    @contextlib.contextmanager
    def writing(self) -> Iterator[psycopg.Cursor[Row]]:
        """A fenced transaction for a few short statements."""
        assert self.fence is not None, "a session without a fence only reads"
        with self._transaction("READ WRITE") as cursor:
            self.fence(cursor)
            self._prepare(cursor, self.settings.read_timeout)
            yield cursor
            _execute(cursor, sql.SQL("COMMIT"))

    def touch(self, lock: sql.Composable) -> None:
        """Take a lock and give it back at once."""
        with self._transaction("READ ONLY") as cursor:
            self._prepare(cursor, self.settings.read_timeout)
            _execute(cursor, lock)

    def write(self, statement: sql.Composable) -> list[Row]:
        """Run one statement behind the fence, and return its rows.

        It does not wait for the disk or a synchronous standby: data and cursor are lost together or not at all, a
        crash of the server only repeats them. What comes last is written by `write_durably`.
        """
        return self._write(statement, self.settings.statement_timeout, _ASYNCHRONOUS)

    def write_batch(self, *statements: sql.Composable) -> list[Row]:
        """Run statements behind the fence, and return the rows of the last. It waits for the disk as little as `write`.

        Nobody looks at the fence's answer before they run, so whatever changes something asks for `Fence.held` itself.
        Without rows, `refuse_lost` says why.
        """
        assert self.fence is not None
        self.fence.refuse_lost()
        lock = self.fence.lock
        return self._at_once("READ WRITE", self.settings.statement_timeout, _ASYNCHRONOUS, lock, *statements)

    @property
    def held(self) -> sql.Composable:
        """A query that has a row while the fence holds."""
        assert self.fence is not None
        return self.fence.held

    def refuse_lost(self) -> None:
        """Raise where the fence does not hold any more."""
        assert self.fence is not None
        with self._transaction("READ WRITE") as cursor:
            self.fence(cursor)

    def write_durably(self, statement: sql.Composable) -> list[Row]:
        """Like `write`, but on return it has reached the disk, and so has everything before it."""
        return self._write(statement, self.settings.read_timeout)

    def patiently(
        self, action: Callable[[], T], *, schema: str, table: str, despite: tuple[type[psycopg.Error], ...] = ()
    ) -> T:
        """Try again while somebody holds a lock on the table, or `despite` other errors.

        Raises:
            LockBudgetExceeded: naming who does, after `Settings.lock_budget`.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((errors.LockNotAvailable, *despite)),
            stop=tenacity.stop_after_delay(self.settings.lock_budget),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            sleep=self.sleep,
            retry_error_callback=lambda _: self._give_up(schema, table),
        )
        return retrying(action)

    def _give_up(self, schema: str, table: str) -> Any:
        quoted = sql.Identifier(schema, table).as_string(self.connection)
        found = blockers.holders(self.read(blockers.of_table(quoted)))
        raise LockBudgetExceeded(
            f"{schema}.{table} stays locked, {blockers.described(found)}", hint=blockers.remedy(found)
        ) from None

    def _write(self, statement: sql.Composable, timeout: timedelta, *before: sql.Composable) -> list[Row]:
        assert self.fence is not None, "a session without a fence only reads"
        with self._transaction("READ WRITE") as cursor:
            self.fence(cursor)
            self._prepare(cursor, timeout, *before)
            return _execute(cursor, statement, sql.SQL("COMMIT")).fetchall()

    def _prepare(self, cursor: psycopg.Cursor[Row], timeout: timedelta, *more: sql.Composable) -> None:
        _execute(cursor, self._local_settings(timeout), *more)

    def _local_settings(self, timeout: timedelta) -> sql.SQL:
        return _with_timeouts(self.settings.row_lock_timeout, timeout)

    def _at_once(self, access: str, timeout: timedelta, *statements: sql.Composable) -> list[Row]:
        """A transaction in one message; the rows of the last statement that has any."""
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            try:
                _execute(cursor, _begin(access), self._local_settings(timeout), *statements, sql.SQL("COMMIT"))
                rows: list[Row] = []
                more: bool | None = True
                while more:
                    rows = cursor.fetchall() if cursor.description is not None else rows
                    more = cursor.nextset()
                return rows
            finally:
                self._end()

    @contextlib.contextmanager
    def _transaction(self, access: str) -> Iterator[psycopg.Cursor[Row]]:
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            try:
                _execute(cursor, _begin(access))
                yield cursor
            finally:
                self._end()

    def _end(self) -> None:
        if not self.connection.closed and self.connection.info.transaction_status != pq.TransactionStatus.IDLE:
            self.connection.rollback()


@functools.lru_cache(maxsize=8)
def _with_timeouts(lock: timedelta, statement: timedelta) -> sql.SQL:
    lock_ms, statement_ms = (max(1, round(each / timedelta(milliseconds=1))) for each in (lock, statement))
    return sql.SQL(_SETTINGS.format(lock=lock_ms, statement=statement_ms))


def _begin(access: str) -> sql.SQL:
    # READ COMMITTED, whatever the role's default is: a row that changed meanwhile is looked at again
    # (section 13.2.1 of the manual), where REPEATABLE READ would fail.
    return sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED, " + access)


def _execute(cursor: psycopg.Cursor[Row], *statements: sql.Composable) -> psycopg.Cursor[Row]:
    # Without parameters a list of statements is one message, of which the first result is read; the server would
    # refuse to prepare it. The server counts each statement, so each carries the mark.
    return cursor.execute(sql.SQL(f" {MARK}; ").join(statements), prepare=False)
