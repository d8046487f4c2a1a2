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

from zdmigrate.backfill.bad_rows.failures import RowFailed
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.backfill.membership import Membership
from zdmigrate.backfill.pacing.governor import Governor, Limits
from zdmigrate.backfill.process import Connect, Narrator, Others, Shared, Steering
from zdmigrate.backfill.progress import Snapshot
from zdmigrate.backfill.rights import Rights
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Cursor, Store
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.backfill.transforming import Function
from zdmigrate.backfill.vacuuming import Vacuuming
from zdmigrate.backfill.values import DEFAULTS, Outcome, Settings
from zdmigrate.backfill.working import Stopped, Surroundings, Worker
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork

__all__ = ["Outcome", "RowFailed", "Settings", "Snapshot", "run"]

UNLIMITED = Limits()
ALIVE = timedelta(seconds=10)
"""How long after it was last heard of a process keeps what it has claimed."""


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
    progress: Callable[[Snapshot], None],
    should_stop: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
    connect: Connect | None = None,
    watch: Watch | None = None,
    aside: Aside | None = None,
    say: Callable[[str], None] = lambda _: None,
    joining: bool = False,
    function: Function | None = None,
) -> Outcome:
    """Fill every row that `rows` calls unfilled, together with whatever other processes do; called again, go on.

    Takes ROW EXCLUSIVE on the table and row locks, none of them for longer than `settings.statement_timeout`.
    Where every relation was finished before, all are looked through again, unless it is `joining`.

    Args:
        connection: in autocommit mode and direct; its role owns the table. The first worker uses it, in this thread.
        fence: called first in every transaction that writes; raises when the lease is lost.
        progress: told in this thread how it goes: after each window, and every second while nothing moves.
        should_stop: asked between batches, and every moment while it waits, in this thread.
        connect: opens more such connections, for the other workers and for the thread that hears what is said from
            elsewhere. Without it there is one worker, and nobody is heard.
        watch: the throttles; they are started and stopped here.
        say: told in which order rows are written from now on, and why, where it is not the usual one.
        aside: where rows that cannot be filled are set aside. Without it the first one ends the work.
        joining: help another process, which has begun it and whose lease the fence is about.
        function: what ``rows.transform`` refers to; every worker calls it, in its own thread.

    Raises:
        RowFailed: a row cannot be filled, and cannot be set aside; the others of its batch were.
        QuarantineFull: too many rows cannot be filled.
        LockBudgetExceeded: rows or a table stayed locked; the message names by whom. All other rows are filled.
        LeaseLost: from the fence; nothing was written after it.
        psycopg.OperationalError: the connection was lost.
    """
    member = Membership(
        connection, control_schema=control_schema, migration=migration, step=step, ttl=ALIVE, leads=not joining
    )

    def store(of: Session) -> Store:
        return Store(of, control_schema=control_schema, migration=migration, step=step, process=member.process)

    def part(number: int, of: Session, check: Callable[[], None], report: Callable[[Cursor, int], None]) -> Worker:
        shared.sessions.add(of.connection.info.backend_pid)
        around = Surroundings(
            governor=shared.governor, begin=shared.begin, mode=shared.mode, oldest=shared.oldest, judge=shared.judge, check=check,
            report=report, may_begin_anew=number == 0 and not joining,
        )  # fmt: skip
        rights = Rights.of(of.connection)
        return Worker(number, of, store(of), rows, around, aside=aside, rights=rights, function=function)

    def check() -> None:
        shared.refuse_failed()
        shared.say_notes(say)
        if should_stop():
            raise Stopped
        narrator.when_due()

    def report(cursor: Cursor, page: int) -> None:
        shared.report(cursor, page)
        narrator.now()

    def other(number: int, connection: psycopg.Connection[Any]) -> None:
        theirs = Session(connection=connection, settings=settings, fence=fence, sleep=_checked(sleep, shared.check))
        part(number, theirs, shared.check, shared.report).fill_all()

    mine = Session(connection=connection, settings=settings, fence=fence, sleep=_checked(sleep, check))
    shared = Shared(_governor(limits, watch, sleep), store(mine).rows(), watch)
    narrator = Narrator(shared, progress)
    others = None if connect is None else Others(shared, connect, other)
    with contextlib.ExitStack() as stack:
        stack.callback(_leave, member, connection)
        _enter(stack, watch)
        if connect is not None and others is not None:
            # Else the first line would show what others have claimed as done, and the second a pace that nobody has.
            shared.meet(member.company(connection))
            _enter(stack, Steering(shared, member, others, connect, control_schema=control_schema, migration=migration))
            _enter(stack, Vacuuming(shared.due_for_vacuum, connect))
            _enter(stack, others)
        try:
            part(0, mine, check, report).fill_all()
            _wait(others, check)
        except Stopped:
            shared.end()
            return Outcome(rows=store(mine).rows(), complete=False)
    shared.refuse_failed()
    shared.say_notes(say)
    filled = store(mine).rows()
    shared.see(filled, None)
    narrator.now()
    return Outcome(rows=filled, complete=True)


def _enter(stack: contextlib.ExitStack, what: contextlib.AbstractContextManager[object] | None) -> None:
    if what is not None:
        stack.enter_context(what)


def _wait(others: Others | None, check: Callable[[], None]) -> None:
    if others is not None:
        others.wait(check)


def _checked(sleep: Callable[[float], None], check: Callable[[], None]) -> Callable[[float], None]:
    """Rest, and look whether to stop: a lock that is waited for may be held for long."""

    def rest(seconds: float) -> None:
        sleep(seconds)
        check()

    return rest


def _governor(limits: Limits, watch: Watch | None, sleep: Callable[[float], None]) -> Governor:
    return Governor(limits, None if watch is None else lambda: watch.verdict, sleep=sleep)


def _leave(member: Membership, connection: psycopg.Connection[Any]) -> None:
    if not connection.closed:
        member.leave(connection)
