"""A migration whose lease is held: writing about it, telling of it, and waiting for others without being in their way."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import tenacity

from zdmigrate.control.lease import Right
from zdmigrate.control.store import Event as AuditEvent
from zdmigrate.control.store import Store
from zdmigrate.engine import functions
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.errors import LockBudgetExceeded
from zdmigrate.plan import Step, TableLock
from zdmigrate.postgres import blockers, session

PATIENT = timedelta(seconds=1)
"""A transaction that is older than this is waited for without queueing for the lock: others would queue behind us."""

_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.SerializationFailure,
)


class InTheWay(Exception):
    """Somebody old holds a conflicting lock, or builds on the table: do not even queue."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One migration on one connection, for as long as its lease is held.

    `functions` are those of the migration's file; `lock_budget` is how long what others lock is tried again.
    """

    connection: session.Connection
    store: Store
    lease: Right
    migration: str
    lock_timeout: timedelta
    lock_budget: timedelta
    report: Reporter
    should_stop: Callable[[], bool]
    functions: Mapping[str, Callable[[Any], Any]]
    sleep: Callable[[float], None] = time.sleep

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

    def retried(
        self, locks: Sequence[TableLock], attempt: Callable[[], None], *, blocked_by: Sequence[TableLock] = ()
    ) -> None:
        """Attempt what may meet others' locks, again and again within the budget, and not while somebody old holds `locks`.

        Args:
            blocked_by: what is looked at for who was in the way, where `locks` are none.

        Raises:
            LockBudgetExceeded: naming who was.
        """
        budget = self.lock_budget.total_seconds()
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
            raise self.budget_exceeded(locks or blocked_by) from error.last_attempt.exception()

    def _contended(self, error: BaseException) -> bool:
        return isinstance(error, (*_RETRIED, InTheWay)) and not self.lease.is_lost

    def _stand_back(self, locks: Sequence[TableLock], told: set[str]) -> None:
        found = blockers.find(self.connection, locks, older_than=PATIENT) if locks else []
        if found:
            pids = " ".join(sorted(str(blocker.pid) for blocker in found))
            if pids not in told:  # said once for the same ones
                told.add(pids)
                self.tell_blocked(found)
            raise InTheWay

    def budget_exceeded(
        self, locks: Sequence[TableLock], others: Sequence[blockers.Blocker] = ()
    ) -> LockBudgetExceeded:
        """The error of somebody who did not get the locks; `others` were in the way too."""
        found = [*blockers.find(self.connection, locks), *others]
        tables = ", ".join(sorted({lock.table for lock in locks}))
        shown = "; ".join(map(str, found)) or "nobody any more"
        remedy = f"wait for it or end it ({found[0].remedy}), then run" if found else "run"
        return LockBudgetExceeded(
            f"no lock on {tables} within {self.lock_budget.total_seconds():g} s; in the way: {shown}",
            hint=f"{remedy} the command again",
        )

    def log(
        self,
        cursor: session.Cursor,
        step: Step,
        action: str,
        statements: Sequence[str],
        started: float,
        detail: str | None = None,
    ) -> None:
        """Note in the cursor's transaction that a step was done, or taken back; `started` is of the monotonic clock."""
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

    def tell(self, step: Step, message: str, *, kind: EventKind = EventKind.STEP, **more: Any) -> None:
        """Report about a step; `more` is what an event has beside its message."""
        self.report(Event(kind=kind, migration=self.migration, message=message, phase=step.phase, step=step.id, **more))

    def tell_blocked(self, found: Sequence[blockers.Blocker]) -> None:
        """Report who is waited for."""
        text = f"waiting, without queueing, for {'; '.join(map(str, found))}"
        self.report(Event(kind=EventKind.BLOCKED, migration=self.migration, message=text))
