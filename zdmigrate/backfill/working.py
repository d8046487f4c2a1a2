"""One worker: it claims windows, and fills them stripe by stripe in the order that the strategy has chosen."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from psycopg import errors

from zdmigrate.backfill import relations
from zdmigrate.backfill.bad_rows.setting_aside import Aside, SettingAside
from zdmigrate.backfill.filling import Filler
from zdmigrate.backfill.leftovers import Leftovers
from zdmigrate.backfill.pacing.governor import Governor
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.rights import Rights
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Cursor, Filled, Moved, Store, Window
from zdmigrate.backfill.strategy import Mode, Oldest, Order, stripes
from zdmigrate.backfill.transforming import Function
from zdmigrate.backfill.windows import Batch
from zdmigrate.plan import RowWork

_POLL = 0.2
"""Seconds between two looks whether others are done."""
_PATIENCE = timedelta(seconds=15)
"""A window whose turn does not come for this long is visited all the same."""
_WAITING = 0.5
"""Share of a relation's time that may be spent waiting for the horizon: a small table has few windows to go on with."""


_PAUSED = timedelta(seconds=0.5)
"""Between two looks of one who may not claim anything."""
HELD = timedelta(seconds=10)
"""Who is held back for longer gives its windows back: what holds it, a throttle of its own machine, may not hold others."""


class Stopped(Exception):
    """`check` says so."""


class Held(Exception):
    """No batch may begin for a while."""


@dataclasses.dataclass(slots=True)
class _Open:
    """A window under way: what is left of it, and the transaction of its last batch."""

    window: Window
    batches: deque[Batch]
    transaction: int = 0
    since: float = 0.0


class Judge(Protocol):
    """Takes note of a batch."""

    def __call__(self, relation: Relation, filled: Filled, *, first: bool) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker is given by its process.

    `begin` is told of a relation before its first window, and of an index that has one of the new columns; `oldest` says
    what holds the horizon back; None: nobody knows. `may_begin_anew`: what an earlier run has finished; one worker of all.
    """

    governor: Governor
    begin: Callable[[Relation, str | None], None]
    mode: Callable[[Relation], Mode]
    oldest: Callable[[], Oldest | None]
    check: Callable[[], None]
    report: Callable[[Cursor, int], None]
    judge: Judge
    may_begin_anew: bool


class Worker:
    """Number 0 is the process's first. All of its methods are for one thread."""

    def __init__(
        self, number: int, session: Session, store: Store, rows: RowWork, around: Surroundings, *,
        aside: Aside | None, rights: Rights, function: Function | None = None,
    ) -> None:  # fmt: skip
        self._number, self._session, self._store, self._rows, self._around = number, session, store, rows, around
        self._settings = session.settings
        self._open: deque[_Open] = deque()
        self._relation: Relation | None = None
        self._transaction = 0
        self._first = False  # whether the batch is of a window's first stripe
        self._stripes = self._settings.stripes
        self._began = self._waited = self._held = 0.0
        self._aside = SettingAside(session, rows, aside)
        self._filler = Filler(
            session, store, self._aside, self._breathe, observe=self._observe, batch_rows=lambda: around.governor.rows,
            rights=rights, function=function,
        )  # fmt: skip

    def fill_all(self) -> None:
        """Leaf by leaf, until no leaf is new: partitions may be attached meanwhile.

        Raises:
            Stopped: `check` said so; what is under way is given back.
        """
        finished: set[int] = set()
        again: bool | None = None
        while new := [leaf for leaf in self._leaves() if leaf.oid not in finished]:
            first_time = again is None and self._around.may_begin_anew
            again = self._store.all_done(new) if first_time else False
            for leaf in new:
                self._adopt(leaf, again=again)
            for leaf in new:
                self._fill_relation(leaf)
                finished.add(leaf.oid)

    def _leaves(self) -> list[Relation]:
        return relations.leaves(self._session, self._rows.schema, self._rows.table)

    def _adopt(self, relation: Relation, *, again: bool = False) -> Cursor | None:
        cursor = self._store.adopt(relation, again=again)
        if cursor is not None:
            self._around.report(cursor, cursor.bound if cursor.done else cursor.page)
        return cursor

    def _fill_relation(self, relation: Relation) -> None:
        columns = [column for column, _ in self._rows.assignments]
        self._around.begin(relation, relations.index_of(self._session, relation, columns))
        while (cursor := self._adopt(relation)) is not None and not cursor.done:
            self._aside.begin(cursor)
            try:
                self._stripes = stripes(
                    self._settings.stripes, relations.free_share(self._session, relation, cursor.bound)
                )
                self._fill_windows(cursor)
            except (Moved, Held):
                self._let_go(relation)
            except (errors.UndefinedTable, errors.UndefinedColumn):
                self._let_go(relation)
                now = next((leaf for leaf in self._leaves() if leaf.oid == relation.oid), None)
                if now == relation:
                    raise
                if now is None:
                    cursor = None
                    break
                relation = now
        if cursor is None:  # it is no part of the table any more
            self._around.report(Cursor(relation=relation, filenode=0, bound=0, page=0, done=True), 0)

    def _let_go(self, relation: Relation) -> None:
        """Windows under way are anybody's: whoever is told that they are its own waits for them."""
        self._store.give_back(relation, [opened.window for opened in self._open])
        self._open.clear()

    def _fill_windows(self, cursor: Cursor) -> None:
        """Every window that can be had; and then what they left, or a moment's rest where others are still at work."""
        self._relation = cursor.relation
        self._began, self._waited = time.monotonic(), 0.0
        while (opened := self._next(cursor)) is not None:
            self._visit(cursor, opened)
        free = self._is_free
        window = self._store.claim_leftovers(cursor.relation, stripes=self._settings.stripes) if free else None
        if window is not None:
            self._visit(cursor, self._opened(window))
        else:
            # Not held back by what holds back batches: when others have done the last one, there is nothing to wait for.
            self._around.check()
            self._pause(free=free)

    def _pause(self, *, free: bool) -> None:
        """Before it looks again; one whom throttles hold back goes on as soon as they let it, as at the very beginning."""
        governor = self._around.governor
        if free or not governor.may_claim(self._number):
            self._session.sleep(_POLL if free else _PAUSED.total_seconds())
        else:
            governor.wait(self._around.check, _PAUSED)

    @property
    def _is_free(self) -> bool:
        """Whether it may claim something, and begin with it at once."""
        governor = self._around.governor
        return governor.may_claim(self._number) and governor.may_begin()

    def _next(self, cursor: Cursor) -> _Open | None:
        """The window whose turn it is; a new one where none is ripe and another may be under way."""
        while True:
            mode = self._around.mode(cursor.relation)
            ripe = next((opened for opened in self._open if self._is_ripe(opened, mode.order)), None)
            if ripe is not None:
                return ripe
            wanted = len(self._open) < mode.windows and self._is_free
            if wanted and (window := self._claim(cursor, mode.order)) is not None:
                return self._opened(window)
            if not self._open:
                return None
            self._may()
            self._session.sleep(_POLL)
            self._waited += _POLL

    def _claim(self, cursor: Cursor, order: Order) -> Window | None:
        pages, number = self._settings.window_pages, 1 if order is Order.PLAIN else self._stripes
        claimed = self._store.claim(cursor.relation, pages=pages, stripes=number)
        return claimed or self._store.take_over(cursor.relation)

    def _is_ripe(self, opened: _Open, order: Order) -> bool:
        """Whether what its last batch left dead can be pruned, or is not waited for."""
        if order is not Order.ROTATING or opened.transaction == 0:
            return True
        oldest = self._around.oldest()
        if oldest is None or oldest.xmin > opened.transaction:
            return True
        now = time.monotonic()
        too_long = self._waited > _WAITING * (now - self._began)
        return too_long or now - opened.since > _PATIENCE.total_seconds()

    def _opened(self, window: Window) -> _Open:
        opened = _Open(window=window, batches=deque())
        self._open.append(opened)
        if not window.leftovers:
            opened.batches.extend(self._filler.batches(window))
        return opened

    def _visit(self, cursor: Cursor, opened: _Open) -> None:
        """Fill its next stripe; with the last one it is done. Others come first then."""
        if opened.window.leftovers:
            self._fill_leftovers(cursor, opened.window)
        else:
            self._fill_stripe(cursor, opened)
        self._open.remove(opened)
        if opened.batches:
            self._open.append(opened)

    def _fill_stripe(self, cursor: Cursor, opened: _Open) -> None:
        self._may()
        if opened.batches:
            batch = opened.batches.popleft()
            following = opened.batches[0].stripe if opened.batches else None
            self._first = batch.stripe is not None and batch.stripe.index == 0 and opened.window.stripes > 1
            after = opened.window.stripes if following is None else following.index
            if self._filler.batch(opened.window, batch, after=after):
                self._rest()
            opened.transaction, opened.since = self._transaction, time.monotonic()
        if not opened.batches:
            self._store.finish(opened.window)
            self._around.report(cursor, opened.window.pages.end)

    def _fill_leftovers(self, cursor: Cursor, window: Window) -> None:
        leftovers = Leftovers(
            self._session, self._filler, between=self._rest, check=self._may,
            report=lambda: self._around.report(cursor, cursor.bound), held=lambda: self._held,
        )  # fmt: skip
        leftovers.fill(window)
        self._store.finish(window)
        self._around.report(cursor, cursor.bound)

    def _observe(self, seconds: float, filled: Filled | None) -> None:
        if filled is None:
            self._around.governor.observe(seconds, rows=0, wal=0, contended=True)
            return
        self._around.governor.observe(seconds, rows=filled.rows, wal=filled.wal)
        self._transaction = filled.transaction
        if self._relation is not None:
            self._around.judge(self._relation, filled, first=self._first)

    def _rest(self) -> None:
        self._session.sleep(self._settings.pause.total_seconds())

    def _breathe(self) -> None:
        self._rest()
        self._may()

    def _may(self) -> None:
        began = time.monotonic()
        may = self._around.governor.wait(self._around.check, HELD)
        self._held += time.monotonic() - began
        if not may:
            raise Held
