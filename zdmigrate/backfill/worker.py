"""Filling a table's unfilled rows while everybody goes on writing.

One short transaction after the other: the lease's fence, a stripe of a window of pages, the cursor, COMMIT. Whatever
dies, and wherever, the next run goes on at the cursor. What is locked or too slow is passed over and asked for again
at the end of its relation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import tenacity
from psycopg import errors, sql

from zdmigrate.backfill import blockers, failures, relations, state, statements
from zdmigrate.backfill.failures import CONTENTION, RowFailed
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Cursor, Moved, Position
from zdmigrate.backfill.values import DEFAULTS, Outcome, Progress, Settings
from zdmigrate.backfill.windows import Batch, Pages, Stripe, WindowSize
from zdmigrate.errors import LockBudgetExceeded
from zdmigrate.plan import RowWork

__all__ = ["Outcome", "Progress", "RowFailed", "Settings", "may_suppress_triggers", "run"]

_SPARSE = 200
"""Unfilled rows in a window up to which it is not worth dividing."""
_SKIPPED = 64
"""Windows without work after which the cursor is written all the same."""
_HOT = 20
"""Locked rows of a piece that are waited for one by one in each round."""


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
    store = state.Store(session, control_schema=control_schema, migration=migration, step=step)
    worker = _Worker(session, store, rows, progress, should_stop, suppress=may_suppress_triggers(connection))
    try:
        worker.fill_all()
    except _Stopped:
        return Outcome(rows=worker.rows_filled, complete=False)
    return Outcome(rows=worker.rows_filled, complete=True)


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
        self._progress, self._should_stop, self._suppress = progress, should_stop, suppress
        self._size = WindowSize(session.settings.window_pages)
        self._pages: dict[int, tuple[int, int]] = {}
        self.rows_filled = store.rows()

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
                self._fill_leftovers(cursor)
                self._store.finish(cursor)
            except Moved:
                continue
            except errors.UndefinedTable:
                now = relations.current(self._session, relation)
                if now == relation:
                    raise
                if now is None:
                    return
                relation = now

    # Windows ---------------------------------------------------------------------------------------------------

    def _fill_windows(self, cursor: Cursor) -> None:
        first, skipped = cursor.page, 0
        while first < cursor.bound:
            self._check()
            window = Pages(first, min(first + self._size.pages, cursor.bound))
            if self._fill_window(cursor.relation, window):
                skipped = 0
            elif (skipped := skipped + 1) % _SKIPPED == 0:
                self._store.move(cursor.relation, Position(page=window.end))
            first = window.end
            self._report(cursor, first)

    def _fill_window(self, relation: Relation, window: Pages) -> bool:
        """False: there was nothing to do, and the cursor was not moved."""
        batches = self._batches(relation, window)
        pages = self._size.pages
        for number, batch in enumerate(batches):
            if number:
                self._check()
            following = batches[number + 1 : number + 2]
            here = Position(page=window.first, stripe=batch.stripe.index if batch.stripe else 0)
            after = Position(page=window.end)
            if following and following[0].stripe:
                after = Position(page=window.first, stripe=following[0].stripe.index)
            if self._fill_batch(relation, batch, here, after):
                self._rest()
        if self._size.pages == pages:
            self._size.grow()
        return bool(batches)

    def _batches(self, relation: Relation, window: Pages) -> list[Batch]:
        """The stripes that have work; the read also prunes what the stripes before have left dead."""
        stripes = self._settings.stripes
        query = statements.unfilled_by_stripe(self._rows, relation, window, stripes)
        try:
            found = self._read(relation, query)
        except psycopg.Error as error:
            if not _splittable(error):
                raise
            found = [(stripe, _SPARSE) for stripe in range(stripes)]
        if sum(number for _, number in found) <= _SPARSE:
            return [Batch(window)] if found else []
        return [Batch(window, Stripe(index, stripes)) for index, _ in found]

    def _fill_batch(self, relation: Relation, batch: Batch, here: Position, after: Position) -> int:
        """Fill a batch, in smaller pieces where it must be; the cursor moves with the last of them."""
        filled, pending = 0, [batch]
        while pending:
            part = pending.pop()
            position = here if pending else after
            try:
                filled += self._fill_or_pass_over(relation, part, position)
            except psycopg.Error as error:
                if not _splittable(error):
                    raise
                if isinstance(error, errors.QueryCanceled):
                    self._size.shrink()
                if len(part.pages) > 1:
                    pending += reversed(part.halves())
                else:
                    tids = self._read(relation, statements.all_tids(relation, part.condition))
                    filled += self._fill_rows(relation, [tid for (tid,) in tids], position)
            if pending:
                self._check()
        return filled

    def _fill_or_pass_over(self, relation: Relation, batch: Batch, position: Position) -> int:
        """Fill a batch; where rows stay locked, the others of it."""
        try:
            return self._write(relation, statements.fill(self._rows, relation, batch.condition), position)
        except errors.LockNotAvailable:
            self._await_table(relation)
            return self._write(relation, statements.fill_unlocked(self._rows, relation, batch.condition), position)

    def _fill_rows(self, relation: Relation, tids: list[str], position: Position) -> int:
        """Fill rows one by one, passing over those that are locked or take too long."""
        filled = 0
        for tid in tids:
            try:
                filled += self._write(relation, statements.fill(self._rows, relation, statements.row(tid)), position)
            except CONTENTION:
                self._check()
            except psycopg.Error as error:
                if not failures.is_of_a_row(error):
                    raise
                # The server's DETAIL shows the whole row: it must not travel along as the cause.
                raise RowFailed(relations.name_of_row(self._session, relation, tid), error) from None
        return filled

    # What the windows passed over ---------------------------------------------------------------------------------

    def _fill_leftovers(self, cursor: Cursor) -> None:
        """Fill what was locked, too slow, or left behind by an earlier run, patiently."""
        position = Position(page=cursor.bound)
        left = list(self._with_leftovers(cursor.relation, Pages(0, cursor.bound).cut(4 * self._settings.window_pages)))
        if not left:
            return
        pieces = [left]

        def round_() -> list[Pages]:
            pieces.append(list(self._try_leftovers(cursor, pieces.pop(), position)))
            return pieces[-1]

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(bool),
            stop=tenacity.stop_after_delay(self._settings.lock_budget),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            sleep=self._session.sleep,
            retry_error_callback=lambda _: self._give_up(cursor.relation, pieces[0]),
        )
        retrying(round_)

    def _with_leftovers(self, relation: Relation, pieces: Iterator[Pages]) -> Iterator[Pages]:
        for piece in pieces:
            self._check()
            if self._batches(relation, piece):
                yield piece

    def _try_leftovers(self, cursor: Cursor, pieces: list[Pages], position: Position) -> Iterator[Pages]:
        """Fill what is free, wait for some of what is not; the pieces that still have unfilled rows."""
        relation = cursor.relation
        for piece in pieces:
            for window in piece.cut(self._size.pages):
                for batch in self._batches(relation, window):
                    self._check()
                    if self._fill_batch(relation, batch, position, position):
                        self._rest()
            self._fill_rows(relation, self._some_unfilled(relation, piece), position)
            self._report(cursor, cursor.bound)
            yield from self._with_leftovers(relation, iter([piece]))

    def _some_unfilled(self, relation: Relation, pages: Pages) -> list[str]:
        try:
            found = self._read(relation, statements.unfilled_tids(self._rows, relation, pages, _HOT))
        except psycopg.Error as error:
            if not _splittable(error):
                raise
            return []
        return [tid for (tid,) in found]

    def _give_up(self, relation: Relation, left: list[Pages]) -> None:
        tids = [tid for pages in left[:1] for tid in self._some_unfilled(relation, pages)]
        shown = relations.names_of_rows(self._session, relation, tids[:3])
        found = [holder for tid in tids[:1] for holder in self._holders(relation, tid)]
        budget = self._settings.lock_budget.total_seconds()
        raise LockBudgetExceeded(
            f"rows of {relation} could not be filled within {budget:g} s ({'; '.join(shown) or 'unknown'}): "
            f"{blockers.described(found)}",
            hint=blockers.remedy(found),
        )

    def _holders(self, relation: Relation, tid: str) -> list[blockers.Holder]:
        one = self._session.read(blockers.of_row(relation.identifier, tid))
        if one:
            return blockers.holders(one)
        try:
            return blockers.holders(self._session.read(blockers.of_shared_row(relation.identifier, tid)))
        except psycopg.DatabaseError:
            if self._session.connection.closed:
                raise
            return []

    # One transaction ----------------------------------------------------------------------------------------------

    def _write(self, relation: Relation, update: sql.Composable, position: Position) -> int:
        before = statements.suppress_triggers(relation) if self._suppress else None
        filled = self._store.fill(relation, update, position, before=before)
        self.rows_filled += filled
        return filled

    def _read(self, relation: Relation, query: sql.Composable) -> list[tuple[Any, ...]]:
        return self._session.patiently(lambda: self._session.read(query), schema=relation.schema, table=relation.name)

    def _await_table(self, relation: Relation) -> None:
        """Return when the lock on the table itself can be had; it is not kept."""
        lock = sql.SQL("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE").format(relation.identifier)
        self._session.patiently(lambda: self._session.touch(lock), schema=relation.schema, table=relation.name)

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
                rows=self.rows_filled,
                pages_done=sum(done for done, _ in self._pages.values()),
                pages_total=sum(total for _, total in self._pages.values()),
            )
        )


def _splittable(error: psycopg.Error) -> bool:
    return isinstance(error, CONTENTION) or failures.is_of_a_row(error)
