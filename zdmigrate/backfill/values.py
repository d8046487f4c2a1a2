"""How to work, how far it is, how it ended."""

from __future__ import annotations

import dataclasses
from datetime import timedelta


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The pace of a backfill and its bounds on what others may have to wait for.

    Args:
        window_pages: pages of a window; it shrinks while batches run into `statement_timeout`.
        stripes: parts that a window is divided into, by the rows' position in their page.
        pause: rest after every batch that changed rows.
        row_lock_timeout: longest wait for a lock that somebody else holds.
        statement_timeout: longest batch; also longest that somebody waits for one. Keep it well under the
            server's `deadlock_timeout`, so that a batch gives way before anybody is chosen as a victim.
        read_timeout: longest read (it blocks nobody, but holds a snapshot).
        lock_budget: how long rows and tables that stay locked are tried again before giving up.
    """

    window_pages: int = 250
    stripes: int = 24
    pause: timedelta = timedelta(milliseconds=5)
    row_lock_timeout: timedelta = timedelta(milliseconds=100)
    statement_timeout: timedelta = timedelta(milliseconds=500)
    read_timeout: timedelta = timedelta(seconds=5)
    lock_budget: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if self.window_pages < 1 or self.stripes < 1:
            raise ValueError("window_pages and stripes are at least 1")


DEFAULTS = Settings()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is, over all relations; `relation` is the one under way.

    `rows` is what was filled so far (by earlier runs too), in a verification what was found unfilled.
    """

    relation: str
    rows: int
    pages_done: int
    pages_total: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`rows` were filled, by earlier runs too; not `complete`: `should_stop` said so."""

    rows: int
    complete: bool
