"""What the windows of a relation have passed over: locked rows, slow ones, what an earlier run has left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import tenacity

from zdmigrate.backfill import blockers, relations
from zdmigrate.backfill.filling import Filler
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Window
from zdmigrate.backfill.windows import Pages
from zdmigrate.errors import LockBudgetExceeded

_HOT = 20
"""Locked rows of a piece that are waited for one by one in each round."""


class Leftovers:
    """Fills them, patiently. `between` is called after every batch that wrote, `check` raises to stop.

    `held` says for how many seconds `check` has held the work back so far: nobody waits for a lock meanwhile.
    """

    def __init__(
        self, session: Session, filler: Filler, *, between: Callable[[], None], check: Callable[[], None],
        report: Callable[[], None], held: Callable[[], float],
    ) -> None:  # fmt: skip
        self._session, self._filler, self._settings = session, filler, session.settings
        self._between, self._check, self._report, self._held = between, check, report, held

    def fill(self, window: Window) -> None:
        """Until nothing of the window is unfilled.

        Raises:
            LockBudgetExceeded: rows stayed locked; it names some, and by whom.
        """
        left = list(self._with_work(window, self._filler.reach(window).cut(4 * self._settings.window_pages)))
        if not left:
            return
        pieces, before = [left], self._held()

        def round_() -> list[Pages]:
            pieces.append(list(self._try(window, pieces.pop())))
            return pieces[-1]

        def is_spent(state: tenacity.RetryCallState) -> bool:
            waited = (state.seconds_since_start or 0.0) - (self._held() - before)
            return waited >= self._settings.lock_budget.total_seconds()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(bool),
            stop=is_spent,
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            sleep=self._session.sleep,
            retry_error_callback=lambda _: self._give_up(window.relation, pieces[0]),
        )
        retrying(round_)

    def _with_work(self, window: Window, pieces: Iterator[Pages]) -> Iterator[Pages]:
        for piece in pieces:
            self._check()
            if self._filler.batches(window, piece):
                yield piece

    def _try(self, window: Window, pieces: list[Pages]) -> Iterator[Pages]:
        """Fill what is free, wait for some of what is not; the pieces that still have unfilled rows."""
        for piece in pieces:
            for pages in piece.cut(self._settings.window_pages):
                for batch in self._filler.batches(window, pages):
                    self._check()
                    if self._filler.batch(window, batch, after=0):
                        self._between()
            self._filler.one_by_one(window, self._filler.unfilled(window.relation, piece, _HOT), 0)
            self._report()
            yield from self._with_work(window, iter([piece]))

    def _give_up(self, relation: Relation, left: list[Pages]) -> None:
        tids = [tid for pages in left[:1] for tid in self._filler.unfilled(relation, pages, _HOT)]
        shown = relations.names_of_rows(self._session, relation, tids[:3])
        found = [holder for tid in tids[:1] for holder in self._holders(relation, tid)]
        if not found and self._filler.computes:
            return  # somebody goes on writing rows that no trigger fills: the verification counts them
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
