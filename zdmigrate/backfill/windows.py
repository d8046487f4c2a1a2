"""Which rows a batch takes: a range of pages, and in it a stripe by position in the page. Pure.

Updating all rows of a full page in one transaction moves them to new pages: nothing is HOT, every index grows, the
heap doubles. A batch that takes a small part, a stripe, of each page's rows leaves dead versions that the next visit prunes
(section 66.7 of the manual, Heap-Only Tuples), and whose space the next stripe uses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from psycopg import sql


@dataclasses.dataclass(frozen=True, slots=True)
class Pages:
    """Pages of a relation, from `first` up to but not including `end`."""

    first: int
    end: int

    @classmethod
    def of(cls, tid: str) -> Pages:
        """The page of a row."""
        page = int(tid[1 : tid.index(",")])
        return cls(page, page + 1)

    def __len__(self) -> int:
        return self.end - self.first

    def halves(self) -> tuple[Pages, Pages]:
        """The two halves of at least two pages."""
        middle = (self.first + self.end) // 2
        return Pages(self.first, middle), Pages(middle, self.end)

    def cut(self, pages: int) -> Iterator[Pages]:
        """In pieces of at most `pages`, in order."""
        for first in range(self.first, self.end, pages):
            yield Pages(first, min(first + pages, self.end))

    @property
    def condition(self) -> sql.SQL:
        """A condition that Postgres answers by a TID range scan (`ctid = ANY` would not prune pages)."""
        return sql.SQL(f"ctid >= '({self.first},0)'::tid AND ctid < '({self.end},0)'::tid")


@dataclasses.dataclass(frozen=True, slots=True)
class Stripe:
    """Every row whose position in its page is `index` modulo `count`."""

    index: int
    count: int

    @property
    def condition(self) -> sql.Composed:
        """True for the rows of the stripe."""
        return stripe_of_row(self.count) + sql.SQL(f" = {self.index}")


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction takes; without a stripe all rows of the pages. `rows`: about how many those are, if known."""

    pages: Pages
    stripe: Stripe | None = None
    rows: int = 0

    @property
    def part(self) -> sql.Composed | None:
        """True for those rows of its pages that are the batch's; None: all are."""
        return None if self.stripe is None else self.stripe.condition

    @property
    def condition(self) -> sql.Composable:
        """True for the rows of the batch."""
        return narrowed(self.pages.condition, self.part)

    def halves(self) -> tuple[Batch, Batch]:
        """The same stripe of both halves of the pages."""
        left, right = self.pages.halves()
        return Batch(left, self.stripe, self.rows // 2), Batch(right, self.stripe, self.rows // 2)

    def pieces(self, rows: int) -> list[Batch]:
        """In equal pieces of about so many rows at most, of one page at least."""
        most = max(1, len(self.pages) * rows // max(1, self.rows))
        pages = math.ceil(len(self.pages) / math.ceil(len(self.pages) / most))
        return [Batch(part, self.stripe, self.rows * len(part) // len(self.pages)) for part in self.pages.cut(pages)]


def narrowed(which: sql.Composable, part: sql.Composable | None) -> sql.Composable:
    """A condition for rows of which only a part is meant; None: all are."""
    return which if part is None else which + sql.SQL(" AND ") + part


def stripe_of_row(count: int) -> sql.SQL:
    """The number of a row's stripe.

    A tid is sent as four bytes of page and two of position, of which the last is enough: every row is in one stripe, and
    only rows of less than 28 bytes are so many on a page that stripes are not quite equal. It costs 20 ns a row (tried
    on one core), where ``(ctid::text::point)[1]`` takes 130; a window is read once for each of its stripes.
    """
    return sql.SQL(f"get_byte(tidsend(ctid), 5) % {count}")
