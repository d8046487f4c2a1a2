"""Filling a table's unfilled rows while everybody goes on writing.

One short transaction after the other: the lease's fence, a stripe of a window of pages, what is known of the window,
COMMIT. Whatever dies, and wherever, somebody else goes on with the window. What is locked or too slow is passed over and
asked for again at the end of its relation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg

from zdmigrate.backfill.failures import RowFailed
from zdmigrate.backfill.governor import Governor, Limits
from zdmigrate.backfill.membership import Membership
from zdmigrate.backfill.process import Connect, Others, Shared, Steering
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.setting_aside import Aside
from zdmigrate.backfill.state import Cursor, Store
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.backfill.transforming import Function
from zdmigrate.backfill.values import DEFAULTS, Outcome, Progress, Settings
from zdmigrate.backfill.working import Stopped, Surroundings, Worker
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork

__all__ = ["Outcome", "Progress", "RowFailed", "Settings", "may_suppress_triggers", "run"]

UNLIMITED = Limits()
ALIVE = timedelta(seconds=10)
"""How long after it was last heard of a process keeps what it has claimed."""


def may_suppress_triggers(connection: psycopg.Connection[Any]) -> bool:
    """Whether the role may keep a table's own triggers from firing for the backfill (always as superuser)."""
    query = "SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET')"
    with connection.cursor(row_factory=psycopg.rows.scalar_row) as cursor:
        return bool(cursor.execute(query).fetchone())


def run(
    connection: psycopg.Connection[Any],
    *,
    control_schema: str,
    migration: int,
    step: str,
    rows: RowWork,
    settings: Settings = DEFAULTS,
    limits: Limits = UNLIMITED,
    fence: Fence,
    progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
    connect: Connect | None = None,
    watch: Watch | None = None,
    aside: Aside | None = None,
    function: Function | None = None,
) -> Outcome:
    """Fill every row that `rows` calls unfilled, together with whatever other processes do; called again, go on.

    Takes ROW EXCLUSIVE on the table and row locks, none of them for longer than `settings.statement_timeout`.
    Where every relation was finished before, all are looked through again.

    Args:
        connection: in autocommit mode and direct; its role owns the table. The first worker uses it, in this thread.
        fence: called first in every transaction that writes; raises when the lease is lost.
        should_stop: asked between batches, in this thread.
        connect: opens more such connections, for the other workers and for the thread that hears what is said from
            elsewhere. Without it there is one worker, and nobody is heard.
        watch: the throttles; they are started and stopped here.
        aside: where rows that cannot be filled are set aside. Without it the first one ends the work.
        function: what ``rows.transform`` refers to; every worker calls it, in its own thread.

    Raises:
        RowFailed: a row cannot be filled, and cannot be set aside; the others of its batch were.
        QuarantineFull: too many rows cannot be filled.
        LockBudgetExceeded: rows or a table stayed locked; the message names by whom. All other rows are filled.
        LeaseLost: from the fence; nothing was written after it.
        psycopg.OperationalError: the connection was lost.
    """
    member = Membership.join(connection, control_schema=control_schema, migration=migration, step=step, ttl=ALIVE)
    session = Session(connection=connection, settings=settings, fence=fence, sleep=sleep)

    def store(of: Session) -> Store:
        return Store(of, control_schema=control_schema, migration=migration, step=step, process=member.process)

    shared = Shared(_governor(limits, watch, sleep), store(session).rows(), watch)

    def check() -> None:
        shared.refuse_failed()
        if should_stop():
            raise Stopped

    def report(cursor: Cursor, page: int) -> None:
        shared.report(cursor, page)
        progress(shared.progress)

    def other(number: int, connection: psycopg.Connection[Any]) -> None:
        theirs = Session(connection=connection, settings=settings, fence=fence, sleep=sleep)
        _worker(
            number,
            theirs,
            store(theirs),
            rows,
            shared,
            check=shared.check,
            report=shared.report,
            aside=aside,
            function=function,
        ).fill_all()

    with contextlib.ExitStack() as stack:
        stack.callback(_leave, member, connection)
        if watch is not None:
            stack.enter_context(watch)
        if connect is not None:
            steering = Steering(shared, member, connect, control_schema=control_schema, migration=migration)
            stack.enter_context(steering)
            stack.enter_context(Others(shared, connect, limits.workers - 1, other))
        try:
            _worker(
                0, session, store(session), rows, shared, check=check, report=report, aside=aside, function=function
            ).fill_all()
        except Stopped:
            return Outcome(rows=store(session).rows(), complete=False)
    shared.refuse_failed()
    return Outcome(rows=store(session).rows(), complete=True)


def _governor(limits: Limits, watch: Watch | None, sleep: Callable[[float], None]) -> Governor:
    return Governor(limits, None if watch is None else lambda: watch.verdict, sleep=sleep)


def _worker(
    number: int, session: Session, store: Store, rows: RowWork, shared: Shared, *, check: Callable[[], None],
    report: Callable[[Cursor, int], None], aside: Aside | None, function: Function | None,
) -> Worker:  # fmt: skip
    around = Surroundings(
        governor=shared.governor, mode=shared.mode, oldest=shared.oldest, judge=shared.judge, check=check, report=report
    )
    suppress = may_suppress_triggers(session.connection)
    return Worker(number, session, store, rows, around, aside=aside, suppress=suppress, function=function)


def _leave(member: Membership, connection: psycopg.Connection[Any]) -> None:
    if not connection.closed:
        member.leave(connection)
