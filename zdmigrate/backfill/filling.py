"""Filling what a batch takes: whole where it can be, in pieces, around locked rows, and row by row where it must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from zdmigrate.backfill import relations, statements
from zdmigrate.backfill.bad_rows import failures
from zdmigrate.backfill.bad_rows.failures import CONTENTION, RowFailed
from zdmigrate.backfill.bad_rows.quarantine import Failure
from zdmigrate.backfill.bad_rows.setting_aside import SettingAside
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.rights import Rights
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Filled, Store, Window
from zdmigrate.backfill.statements import Filling
from zdmigrate.backfill.transforming import MOST_ROWS, Computing, Function
from zdmigrate.backfill.windows import Batch, Pages, Stripe, narrowed

_SPARSE = 200
"""Unfilled rows in a window up to which it is not worth dividing."""


class Filler:
    """Fills batches on one session. `check` is asked between two transactions, and raises to stop."""

    def __init__(
        self, session: Session, store: Store, aside: SettingAside, check: Callable[[], None], *,
        observe: Callable[[float, Filled | None], None], batch_rows: Callable[[], int], rights: Rights,
        function: Function | None = None,
    ) -> None:  # fmt: skip
        """`observe` is told how long each transaction took, and what it did (None: it gave way to somebody);
        `batch_rows` says how many rows one may take; `function` computes what the plan has no expressions for."""
        self._computing = None if function is None else Computing(session.connection, function, self.read)
        self._session, self._store, self._aside = session, store, aside
        self._check, self._observe, self._batch_rows, self._rights = check, observe, batch_rows, rights
        self.filled = 0

    def batches(self, window: Window, pages: Pages | None = None) -> list[Batch]:
        """The stripes of a window (or of some of its pages) that have work and are not done.

        The read also prunes what the stripes before have left dead.
        """
        pages = window.pages if pages is None else pages
        try:
            found = self._unfilled_by_stripe(window, pages)
        except psycopg.Error as error:
            if not is_splittable(error):
                raise
            found = [(stripe, _SPARSE + 1) for stripe in range(window.stripes)]
        found = [(stripe, number) for stripe, number in found if stripe >= window.stripe]
        total = sum(number for _, number in found)
        if total <= _SPARSE or window.stripes == 1:
            return [Batch(pages, None, total)] if found else []
        return [Batch(pages, Stripe(index, window.stripes), number) for index, number in found]

    def batch(self, window: Window, batch: Batch, *, after: int) -> int:
        """Fill a batch, in smaller pieces where it must be; with the last of them the stripes before `after` are done."""
        here = window.stripe if batch.stripe is None else batch.stripe.index
        filled, pending = 0, list(reversed(batch.pieces(self._most_rows())))
        while pending:
            part = pending.pop()
            done = here if pending else after
            try:
                filled += self._fill_or_pass_over(window, part, done)
            except psycopg.Error as error:
                if not is_splittable(error):
                    raise
                if failures.is_of_a_row(error) and self._set_aside(window, part.pages, part.condition):
                    pending.append(part)
                elif len(part.pages) > 1:
                    pending += reversed(part.halves())
                else:
                    tids = self.read(window.relation, statements.all_tids(window.relation, part.condition))
                    filled += self.one_by_one(window, [tid for (tid,) in tids], done)
            if pending:
                self._check()
        return filled

    def one_by_one(self, window: Window, tids: Sequence[str], done: int) -> int:
        """Fill rows one by one, passing over those that are locked or take too long.

        Raises:
            RowFailed: a row cannot be filled.
        """
        filled = 0
        for tid in tids:
            try:
                filled += self._write(window, self._filling(window, Pages.of(tid), statements.row(tid)).waiting, done)
            except CONTENTION:
                self._check()
            except psycopg.Error as error:
                if not failures.is_of_a_row(error):
                    raise
                if self._aside.is_wanted:
                    self._aside.record(window.relation, [Failure.of(tid, error)])
                    continue
                # The server's DETAIL shows the whole row: it must not travel along as the cause.
                name = relations.name_of_row(self._session, window.relation, tid)
                raise RowFailed(name, Failure.of(tid, error)) from None
        return filled

    def _most_rows(self) -> int:
        rows = self._batch_rows()
        return min(rows, MOST_ROWS) if self.computes else rows

    @property
    def computes(self) -> bool:
        """Whether values come from a function, so that no trigger fills what is written later."""
        return self._computing is not None

    def reach(self, window: Window) -> Pages:
        """Pages that may have unfilled rows in the end: where no trigger fills what is written later, all there are."""
        if not self.computes:
            return window.pages
        ((_, size),) = self.read(window.relation, statements.size(window.relation))
        return Pages(0, size or 0)

    def unfilled(self, relation: Relation, pages: Pages, limit: int) -> list[str]:
        """The tids of some unfilled rows; none where their condition cannot be evaluated."""
        try:
            found = self.read(relation, statements.unfilled_tids(self._aside.rows(pages), relation, pages, limit))
        except psycopg.Error as error:
            if not is_splittable(error):
                raise
            return []
        return [tid for (tid,) in found]

    def read(self, relation: Relation, query: sql.Composable) -> list[tuple[Any, ...]]:
        """The rows of a query over the relation, waiting for whoever locks all of it."""
        return self._session.patiently(lambda: self._session.read(query), schema=relation.schema, table=relation.name)

    def _unfilled_by_stripe(self, window: Window, pages: Pages) -> list[tuple[int, int]]:
        """Where a row fails, all of the pages that fail are set aside at once: what follows need not stumble over them."""

        def read() -> list[tuple[Any, ...]]:
            rows = self._aside.rows(pages)
            return self.read(
                window.relation, statements.unfilled_by_stripe(rows, window.relation, pages, window.stripes)
            )

        try:
            return read()
        except psycopg.Error as error:
            if not failures.is_of_a_row(error) or not self._set_aside(window, pages, pages.condition):
                raise
        return read()

    def _set_aside(self, window: Window, pages: Pages, which: sql.Composable) -> bool:
        """Whether rows of the pages were set aside, so that the others may be filled."""
        try:
            return self._aside.find(window.relation, pages, which) > 0
        except CONTENTION:
            return False

    def _fill_or_pass_over(self, window: Window, batch: Batch, done: int) -> int:
        """Fill a batch; where rows stay locked, the others of it."""
        filling = self._filling(window, batch.pages, batch.pages.condition, batch.part)
        try:
            return self._write(window, filling.waiting, done)
        except errors.LockNotAvailable:
            self._await_table(window.relation)
            return self._write(window, filling.passing(), done)

    def _filling(
        self, window: Window, pages: Pages, which: sql.Composable, part: sql.Composable | None = None
    ) -> Filling:
        """What fills rows of the pages. Values that a function computes are computed here, and nothing is held meanwhile."""
        relation = window.relation
        if self._computing is None:
            return statements.filling(self._aside.rows(pages), relation, which, part)
        computed = self._computing.compute(self._aside.rows(pages), relation, narrowed(which, part))
        if computed.failures and not self._aside.is_wanted:
            first = computed.failures[0]
            raise RowFailed(relations.name_of_row(self._session, relation, first.tid), first)
        self._aside.record(relation, computed.failures)
        return self._computing.filling(self._aside.rows(pages), relation, computed)

    def _write(self, window: Window, update: sql.Composable, done: int) -> int:
        settings = self._rights.settings(window.relation)
        began = time.monotonic()
        try:
            taken = self._store.fill(window, update, stripe=done, before=settings)
        except CONTENTION:
            self._observe(time.monotonic() - began, None)
            raise
        self._observe(time.monotonic() - began, taken)
        self.filled += taken.rows
        return taken.rows

    def _await_table(self, relation: Relation) -> None:
        """Return when the lock on the table itself can be had; it is not kept."""
        lock = sql.SQL("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE").format(relation.identifier)
        self._session.patiently(lambda: self._session.touch(lock), schema=relation.schema, table=relation.name)


def is_splittable(error: psycopg.Error) -> bool:
    """Whether a part of what failed may succeed."""
    return isinstance(error, CONTENTION) or failures.is_of_a_row(error)
