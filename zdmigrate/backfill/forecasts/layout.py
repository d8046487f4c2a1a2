"""How rows lie in pages, before and after they are filled. Pure.

Sizes are those of section 66.6 of the manual (Database Page Layout): a tuple is its header, a bitmap of its NULLs and
its values, each aligned; tuples begin at multiples of 8, and each has a line pointer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from zdmigrate.schema import ColumnStorage

PAGE_HEADER = 24
LINE_POINTER = 4
_TUPLE_HEADER = 23
_MAXALIGN = 8
_SHORT = 127
"""A value up to here needs no alignment, and one byte for its length."""
_UNKNOWN_WIDTH = 32
"""What the server itself takes for a value of variable length that nobody has seen."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The average length of a relation's tuples in bytes, without alignment at the end.

    `varies`: single ones are longer or shorter, so that the alignment takes half of itself on average.
    """

    average: float
    varies: bool

    def aligned(self) -> Iterator[tuple[float, int]]:
        """(share, length) of tuples as they are stored."""
        if not self.varies:
            yield 1.0, _up(self.average, _MAXALIGN)
            return
        middle = max(_MAXALIGN, self.average + (_MAXALIGN - 1) / 2)
        low = int(middle // _MAXALIGN) * _MAXALIGN
        share = (middle - low) / _MAXALIGN
        yield from ((1 - share, low), (share, low + _MAXALIGN))

    @property
    def stored(self) -> float:
        """The average of `aligned`."""
        return sum(share * length for share, length in self.aligned())


def lengths(columns: Iterable[ColumnStorage], widths: Mapping[str, float], *, analyzed: bool = True) -> Lengths:
    """Tuples with these columns.

    Args:
        widths: of columns that are about to be filled, with a value in every row; they may be new ones.
        analyzed: a column without statistics is then a new one, NULL in every row; else its width is a guess.
    """
    columns = list(columns)
    known = {column.name for column in columns}
    shares = {c.name: 1.0 if c.name in widths else 1 - _null_share(c, analyzed=analyzed) for c in columns}
    nulls = any(share < 1 for share in shares.values())
    bitmap = (len(columns) + len(widths.keys() - known) + 7) // 8 if nulls else 0
    at = float(_up(_TUPLE_HEADER + bitmap, _MAXALIGN))
    for column in columns:
        value = widths.get(column.name, width(column))
        short = column.length is None and value <= _SHORT
        at = _placed(at, 1 if short else column.align, value, shares[column.name])
    at += sum(each for name, each in widths.items() if name not in known)
    varies = nulls or any(c.length is None for c in columns) or bool(widths.keys() - known)
    return Lengths(average=at, varies=varies)


def width(column: ColumnStorage) -> float:
    """Bytes of a value of the column that is not NULL."""
    if column.length is not None:
        return column.length
    # The server cuts the average to a whole number.
    return _UNKNOWN_WIDTH if column.width is None else column.width + 0.5


def _null_share(column: ColumnStorage, *, analyzed: bool) -> float:
    if column.null_share is None:
        return 1.0 if analyzed else 0.0
    return column.null_share


def _placed(at: float, align: int, size: float, share: float) -> float:
    if share == 0:
        return at
    return at + share * (_up(at, align) - at + size)


def _up(value: float, to: int) -> int:
    return -(-int(value + 0.999) // to) * to


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An average page: `space` bytes for tuples and their line pointers, `rows`, of which `share` is to be filled.

    `old` and `new` are the lengths of a tuple before and after. `pointers` is how many tuples of whatever length a page
    can have: a row that is updated in its page has two line pointers from then on.
    """

    space: float
    rows: float
    share: float
    old: Lengths
    new: Lengths
    pointers: int = 291

    @property
    def free(self) -> float:
        """Bytes that nothing uses."""
        return self._free(self.old.stored)

    def moved_share(self, stripes: int) -> float:
        """The share of filled rows that find no room in their page, and go to another.

        Each stripe is a transaction; before the next one the dead versions of the last are pruned, whose line pointers
        stay. One stripe is the same as none: nothing is pruned in time.
        """
        return self._average(list(_stripes(self._filled, stripes)))

    def first_moved(self, stripes: int) -> float:
        """The same of the first stripe alone, which nothing was pruned for."""
        return self._average(list(_stripes(self._filled, stripes))[:1])

    @property
    def _filled(self) -> int:
        return max(1, round(self.rows * self.share))

    def _average(self, stripes: list[int]) -> float:
        """Over short and long tuples: one byte may decide whether one more fits."""
        return sum(
            old_share * new_share * self._moved(old, new, stripes)
            for old_share, old in self.old.aligned()
            for new_share, new in self.new.aligned()
        )

    def _moved(self, old: int, new: int, stripes: list[int]) -> float:
        free, unused, moved = self._free(old), max(0, self.pointers - round(self.rows)), 0
        for taken in stripes:
            stay = min(taken, unused, int(free // (new + LINE_POINTER)))
            moved += taken - stay
            free += taken * old - stay * (new + LINE_POINTER)
            unused -= stay
        return moved / sum(stripes)

    def _free(self, old: float) -> float:
        return min(self.space, max(0.0, self.space - self.rows * (old + LINE_POINTER)))


def _stripes(rows: int, stripes: int) -> Iterator[int]:
    """How many rows each stripe takes."""
    for index in range(min(rows, stripes)):
        yield rows // stripes + (index < rows % stripes)
