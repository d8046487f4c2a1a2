"""Filling a table's unfilled rows while everybody goes on writing.

One short transaction after the other: the lease's fence, a stripe of a window of pages, the cursor, COMMIT. Whatever
dies, and wherever, the next run goes on at the cursor. What is locked or too slow is passed over and asked for again
at the end of its relation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors

from zdmigrate.backfill import relations, state
from zdmigrate.backfill.failures import RowFailed
from zdmigrate.backfill.filling import Filler
from zdmigrate.backfill.leftovers import Leftovers
from zdmigrate.backfill.membership import Membership
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Cursor, Moved, Window
from zdmigrate.backfill.values import DEFAULTS, Outcome, Progress, Settings
from zdmigrate.backfill.windows import WindowSize
from zdmigrate.plan import RowWork

__all__ = ["Outcome", "Progress", "RowFailed", "Settings", "may_suppress_triggers", "run"]

_ALIVE = timedelta(seconds=10)
_POLL = 0.2
"""Seconds between two looks whether others are done."""


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
    fence: Callable[[psycopg.Cursor[Any]], None],
    progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Fill every row that `rows` calls unfilled; called again, go on where it stopped.

    Takes ROW EXCLUSIVE on the table and row locks, none of them for longer than `settings.statement_timeout`.
    Where every relation was finished before, all are looked through again.

    Args:
        connection: in autocommit mode and direct; its role owns the table.
        fence: called first in every transaction that writes; raises when the lease is lost.
        should_stop: asked between batches.

    Raises:
        RowFailed: a row cannot be filled; the others of its batch were.
        LockBudgetExceeded: rows or a table stayed locked; the message names by whom. All other rows are filled.
        LeaseLost: from the fence; nothing was written after it.
        psycopg.OperationalError: the connection was lost.
    """
    session = Session(connection=connection, settings=settings, fence=fence, sleep=sleep)
    member = Membership.join(connection, control_schema=control_schema, migration=migration, step=step, ttl=_ALIVE)
    store = state.Store(session, control_schema=control_schema, migration=migration, step=step, process=member.process)
    worker = _Worker(session, store, rows, progress, should_stop, suppress=may_suppress_triggers(connection))
    try:
        worker.fill_all()
    except _Stopped:
        return Outcome(rows=store.rows(), complete=False)
    finally:
        if not connection.closed:
            member.leave(connection)
    return Outcome(rows=store.rows(), complete=True)


class _Stopped(Exception):
    """`should_stop` said so."""


class _Worker:
    def __init__(
        self,
        session: Session,
        store: state.Store,
        rows: RowWork,
        progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        *,
        suppress: bool,
    ) -> None:
        self._session, self._store, self._rows = session, store, rows
        self._settings = session.settings
        self._progress, self._should_stop = progress, should_stop
        self._size = WindowSize(session.settings.window_pages)
        self._filler = Filler(session, store, rows, self._size, self._check, suppress=suppress)
        self._pages: dict[int, tuple[int, int]] = {}
        self._before = store.rows()

    def fill_all(self) -> None:
        """Leaf by leaf, until no leaf is new: partitions may be attached meanwhile."""
        finished: set[int] = set()
        again: bool | None = None
        while new := [leaf for leaf in self._leaves() if leaf.oid not in finished]:
            again = self._store.all_done(new) if again is None else False
            for leaf in new:
                self._adopt(leaf, again=again)
            for leaf in new:
                self._fill_relation(leaf)
                finished.add(leaf.oid)

    def _leaves(self) -> list[Relation]:
        return relations.leaves(self._session, self._rows.schema, self._rows.table)

    def _adopt(self, relation: Relation, *, again: bool = False) -> Cursor | None:
        cursor = self._store.adopt(relation, again=again)
        if cursor is None:
            self._pages.pop(relation.oid, None)
        else:
            self._pages[relation.oid] = (cursor.bound if cursor.done else cursor.page, cursor.bound)
        return cursor

    def _fill_relation(self, relation: Relation) -> None:
        while (cursor := self._adopt(relation)) is not None and not cursor.done:
            try:
                self._fill_windows(cursor)
            except Moved:
                continue
            except errors.UndefinedTable:
                now = relations.current(self._session, relation)
                if now == relation:
                    raise
                if now is None:
                    return
                relation = now

    def _fill_windows(self, cursor: Cursor) -> None:
        """Every window that can be had; and then what they left, or a moment's rest where others are still at work."""
        while window := self._next_window(cursor.relation):
            self._check()
            if window.leftovers:
                self._leftovers(cursor).fill(window)
            else:
                self._fill_window(window)
            self._store.finish(window)
            self._report(cursor, window.pages.end)
            if window.leftovers:
                return
        self._check()
        self._session.sleep(_POLL)

    def _next_window(self, relation: Relation) -> Window | None:
        pages, stripes = self._settings.window_pages, self._settings.stripes
        return (
            self._store.claim(relation, pages=pages, stripes=stripes)
            or self._store.take_over(relation)
            or self._store.claim_leftovers(relation, stripes=stripes)
        )

    def _fill_window(self, window: Window) -> None:
        batches = self._filler.batches(window)
        pages = self._size.pages
        for number, batch in enumerate(batches):
            if number:
                self._check()
            following = batches[number + 1].stripe if number + 1 < len(batches) else None
            after = window.stripes if following is None else following.index
            if self._filler.batch(window, batch, after=after):
                self._rest()
        if self._size.pages == pages:
            self._size.grow()

    def _leftovers(self, cursor: Cursor) -> Leftovers:
        return Leftovers(
            self._session, self._filler, between=self._rest, check=self._check,
            report=lambda: self._report(cursor, cursor.bound),
        )  # fmt: skip

    def _rest(self) -> None:
        self._session.sleep(self._settings.pause.total_seconds())

    def _check(self) -> None:
        if self._should_stop():
            raise _Stopped

    def _report(self, cursor: Cursor, page: int) -> None:
        self._pages[cursor.relation.oid] = (page, cursor.bound)
        self._progress(
            Progress(
                relation=str(cursor.relation),
                rows=self._before + self._filler.filled,
                pages_done=sum(done for done, _ in self._pages.values()),
                pages_total=sum(total for _, total in self._pages.values()),
            )
        )
