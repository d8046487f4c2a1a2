"""In which order the rows are written, and why: decided from what was measured, and decided again while it goes on. Pure.

Stripes make updates HOT where the versions that the stripe before has left dead can be pruned (see `windows`). They can
once no snapshot is older: the horizon. What holds it back decides what helps:

* nothing: a window's stripes follow each other, and where pages have room they are fewer;
* a standby that feeds back what it needs (`hot_standby_feedback`), or other short transactions: it moves, but late. More
  windows are under way at once, and each is visited again when the horizon has passed its last stripe;
* a transaction that stays open: no update can be HOT, whatever the order. Then the whole window is written at once, which is
  the least work, until that transaction has ended;
* a new column that is in an index: the same, for good. A plain VACUUM now and then makes the space usable again.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import timedelta

ENOUGH = 4_000
"""Rows that an opinion is based on."""
LOW, UNHELD_LOW = 0.5, 0.2
"""Share of HOT updates below which another order is looked for: where something keeps old row versions, and where nothing does.

Rows that grow by much leave their pages in any order then, and stripes cost some 30 bytes of WAL a row for pruning, where an
update that is not HOT costs 150 and 66 more for each index.
"""
_ROOM = 2.0
"""What a stripe should find free, in what its rows take."""
PINNED = timedelta(seconds=15)
"""A horizon that has not moved for this long is not waited for: a standby sends feedback every ten seconds."""
MANY = 256
"""Windows that are under way at once where each has to wait for the horizon."""


NOBODY = "nobody"
"""Holds the horizon back."""


class Order(enum.StrEnum):
    """How a window is written."""

    STRIPED = "striped"
    ROTATING = "rotating"
    PLAIN = "plain"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """The order, and why it was chosen. `vacuum`: what is left dead should be vacuumed now and then."""

    order: Order
    why: str
    vacuum: bool = False

    @property
    def windows(self) -> int:
        """How many may be under way at once."""
        return MANY if self.order is Order.ROTATING else 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Oldest:
    """What the horizon is held by: comparable with transaction ids. `stands` for how long it has not moved."""

    xmin: int
    holder: str
    stands: timedelta


def stripes(most: int, free: float | None) -> int:
    """Into how many a window is divided where pages have room: a stripe's rows should find twice what they need.

    Args:
        most: for pages that are full.
        free: the share of a page that is free; None: nobody knows.
    """
    return most if free is None or free <= 0 else max(1, min(most, math.ceil(_ROOM / free)))


class Strategy:
    """Of one relation's backfill in one process. Not synchronised."""

    def __init__(self, *, indexed: str | None = None) -> None:
        """`indexed`: the index that one of the new columns is already part of."""
        self._updated = self._hot = 0
        self._pinned_at: int | None = None
        self._indexed = indexed
        self.mode = Mode(order=Order.STRIPED, why="the usual order")
        if indexed is not None:
            why = f"index {indexed} has a new column, so no update can be HOT"
            self.mode = Mode(order=Order.PLAIN, why=why, vacuum=True)

    @property
    def hot_share(self) -> float | None:
        """Of the updates since the order was chosen; None before there are any."""
        return self._hot / self._updated if self._updated else None

    def observe(self, *, updated: int, hot: int, oldest: Oldest | None, now: int) -> bool:
        """A batch was written. Whether another order was chosen.

        Args:
            updated, hot: rows of the batch, and those of them whose update was HOT.
            oldest: what holds the horizon back; None where nobody can say.
            now: the batch's transaction id.
        """
        self._updated += updated
        self._hot += hot
        if self._indexed is not None:
            return False
        if self.mode.order is Order.PLAIN:
            return self._again(oldest)
        low = UNHELD_LOW if oldest is not None and oldest.holder == NOBODY else LOW
        if self._updated < ENOUGH or self._hot >= low * self._updated:
            if self._updated > 2 * ENOUGH:  # what was long ago says little of now
                self._updated, self._hot = self._updated // 2, self._hot // 2
            return False
        return self._other(oldest, now)

    def _other(self, oldest: Oldest | None, now: int) -> bool:
        """What is done at present is not worth its price."""
        if oldest is not None and oldest.stands >= PINNED and oldest.xmin < now:
            self._pinned_at = oldest.xmin
            seconds = oldest.stands.total_seconds()
            return self._choose(Order.PLAIN, f"{oldest.holder} has kept old row versions for {seconds:.0f} s")
        unheld = oldest is not None and oldest.holder == NOBODY
        if self.mode.order is Order.STRIPED and not unheld:
            holder = "something" if oldest is None else oldest.holder
            return self._choose(Order.ROTATING, f"{holder} keeps row versions for a while: windows take turns")
        if oldest is None or unheld or oldest.xmin >= now:
            return self._choose(Order.PLAIN, "few updates are HOT, whatever the order", vacuum=True)
        self._updated = self._hot = 0  # it moves: look again
        return False

    def _again(self, oldest: Oldest | None) -> bool:
        """Whether what has pinned the horizon is gone."""
        if self._pinned_at is None or oldest is None or oldest.xmin <= self._pinned_at:
            return False
        self._pinned_at = None
        return self._choose(Order.STRIPED, "what kept old row versions has ended")

    def _choose(self, order: Order, why: str, *, vacuum: bool = False) -> bool:
        self.mode = Mode(order=order, why=why, vacuum=vacuum)
        self._updated = self._hot = 0
        return True
