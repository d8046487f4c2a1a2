"""What filling rows costs: WAL, disk, time. Pure.

The model counts WAL records, and adds images of pages (section 28.3 of the manual). A row that stays in its page (HOT)
costs one record; one that moves costs a longer one, one more lock, and an entry in every index. Each page that is
touched for the first time since a checkpoint is written in full: heap pages once, because a window is soon done; leaf
pages of an index that is sorted in another order than the table once in every checkpoint's time. Pages of an index
that are full are split.

The constants are sizes of records on PostgreSQL 18 as ``python -m benchmarks.forecast`` prints them (pg_waldump), and
seconds on one core of its machine. Not in the model: what else the server writes, and a VACUUM.
"""

from __future__ import annotations

import dataclasses
import math

from zdmigrate.backfill.forecasts.layout import LINE_POINTER, PAGE_HEADER, Page
from zdmigrate.schema import ServerFacts

LOCK_RECORD = 54
"""A row is locked before a BEFORE UPDATE trigger sees it, and before it is moved."""
_HOT_RECORD, _MOVE_RECORD = 67, 73
"""Without the values in them."""
_TUPLE_HEADER = 23
_PRUNE_RECORD, _PRUNED_ROW = 54, 4
_ENTRY_RECORD = 53
"""Without the entry; the rare deduplication is in it."""
_SPLIT_RECORD = 3500
_TOAST_RECORD, _TOAST_CHUNK = 150, 1996
_BATCH_RECORDS = 400
"""The fence, the cursor and COMMIT."""
_COMPRESSED = 0.5
"""What wal_compression leaves of an image; it depends on the data."""
_FILL = 0.9
"""How full a new index's leaf pages are."""

_ROW_SECONDS = 12e-6
_VISIT_SECONDS = 3.5e-6
"""For every stripe's look at a page."""
_BATCH_SECONDS = 2e-3
_MOVE_SECONDS, _ENTRY_SECONDS = 4e-6, 3e-6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that gets an entry for each row that moves. `order`: how far it is sorted as the table is, 0 to 1."""

    pages: int
    entry: float
    order: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heap:
    """A relation's rows: `rows` are to be filled, each by `value` bytes, of which `toasted` are stored elsewhere."""

    rows: float
    pages: int
    page: Page
    value: float
    toasted: float = 0.0
    fillfactor: int = 100
    locks_rows: bool = True
    full_identity: bool = False
    indexes: tuple[Index, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How the work is done. `wal_rate` is in bytes per second; None: unlimited. Times are in seconds."""

    stripes: int = 24
    window_pages: int = 250
    batch_rows: int = 150
    pause: float = 0.005
    target_latency: float = 0.05
    wal_rate: float | None = None
    workers: int = 1


USUAL = Pacing()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`wal_bytes` include `image_bytes`; `hot_share` is that of the rows that stay in their page."""

    rows: float
    hot_share: float
    wal_bytes: float
    image_bytes: float
    heap_bytes: float
    index_bytes: float
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        rows = self.rows + other.rows
        hot = (self.hot_share * self.rows + other.hot_share * other.rows) / rows if rows else 1.0
        return Cost(
            rows=rows,
            hot_share=hot,
            wal_bytes=self.wal_bytes + other.wal_bytes,
            image_bytes=self.image_bytes + other.image_bytes,
            heap_bytes=self.heap_bytes + other.heap_bytes,
            index_bytes=self.index_bytes + other.index_bytes,
            seconds=self.seconds + other.seconds,
        )


NOTHING = Cost(rows=0, hot_share=1, wal_bytes=0, image_bytes=0, heap_bytes=0, index_bytes=0, seconds=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """By how much records and time differ from the model, as a probe saw it."""

    records: float = 1.0
    images: float = 1.0
    seconds: float = 1.0


AS_MODELLED = Measured()


def cost(
    heap: Heap, server: ServerFacts, pacing: Pacing, *, stripes: int, moved: float | None = None,
    measured: Measured = AS_MODELLED,
) -> Cost:  # fmt: skip
    """Filling one relation, in `stripes` transactions over each page (1: all of its rows at once).

    Args:
        moved: the share of rows that move, where it is known better than by `Page.moved_share`.
    """
    if heap.rows <= 0 or heap.pages <= 0:
        return NOTHING
    share = heap.page.moved_share(stripes) if moved is None else moved
    seconds = _seconds(heap, pacing, share, stripes) * measured.seconds
    records = _records(heap, server, pacing, share, stripes) * measured.records
    images, cycles = 0.0, 1.0
    for _ in range(3):  # more WAL: more checkpoints: more images
        images = _images(heap, server, share, cycles) * measured.images
        cycles = max(1.0, (records + images) / server.checkpoint_bytes, seconds / server.checkpoint_seconds)
    wal = records + images
    if pacing.wal_rate is not None:
        seconds = max(seconds, wal / pacing.wal_rate)
    return Cost(
        rows=heap.rows, hot_share=1 - share, wal_bytes=wal, image_bytes=images, heap_bytes=_heap_growth(heap, share, server),
        index_bytes=sum(i.pages * _split_share(heap, i, share, stripes) for i in heap.indexes) * server.block_size,
        seconds=seconds,
    )  # fmt: skip


def row_records(heap: Heap, server: ServerFacts, moved: float) -> float:
    """Bytes of the records of one filled row itself, of which the share `moved` moves; without images and prunes."""
    values = heap.page.new.average - _TUPLE_HEADER
    hot = _HOT_RECORD + (values if server.logical else heap.value)
    move = _MOVE_RECORD + values + LOCK_RECORD
    entries = sum(_ENTRY_RECORD + index.entry for index in heap.indexes)
    identity = heap.page.old.average if heap.full_identity and server.logical else 0
    lock = LOCK_RECORD if heap.locks_rows else 0
    return lock + identity + (1 - moved) * hot + moved * (move + entries) + _toast(heap)


def row_seconds(heap: Heap, moved: float) -> float:
    """Seconds of work on one row, of which the share `moved` moves; without looking for it."""
    return _ROW_SECONDS + moved * (_MOVE_SECONDS + _ENTRY_SECONDS * len(heap.indexes))


def image(heap: Heap, server: ServerFacts) -> float:
    """Bytes of an image of a heap page."""
    return (server.block_size - heap.page.free) * (_COMPRESSED if server.compression else 1.0)


def visit_seconds(heap: Heap, pages: float, rows: float, moved: float) -> float:
    """Seconds of one statement that looks at `pages` and fills `rows`."""
    return rows * row_seconds(heap, moved) + pages * _VISIT_SECONDS


def _toast(heap: Heap) -> float:
    return heap.toasted + math.ceil(heap.toasted / _TOAST_CHUNK) * _TOAST_RECORD if heap.toasted else 0.0


def _records(heap: Heap, server: ServerFacts, pacing: Pacing, moved: float, stripes: int) -> float:
    prunes = _visits(heap, stripes) * _PRUNE_RECORD + heap.rows * _PRUNED_ROW if stripes > 1 else 0
    splits = sum(index.pages * _split_share(heap, index, moved, stripes) for index in heap.indexes) * _SPLIT_RECORD
    batches = _batches(heap, pacing, stripes) * _BATCH_RECORDS
    return heap.rows * row_records(heap, server, moved) + prunes + splits + batches


def _visits(heap: Heap, stripes: int) -> float:
    """How often a stripe finds rows to fill in a page."""
    return _touched_pages(heap) * min(stripes, max(1.0, heap.page.rows * heap.page.share))


def _touched_pages(heap: Heap) -> float:
    per_page = heap.rows / heap.pages
    none = (1 - heap.page.share) ** heap.page.rows if heap.page.share < 1 else 0.0
    return min(heap.pages * (1 - none), heap.pages * max(1.0, per_page))


def _batches(heap: Heap, pacing: Pacing, stripes: int) -> float:
    return max(max(1.0, heap.pages / pacing.window_pages) * stripes, heap.rows / pacing.batch_rows)


def _images(heap: Heap, server: ServerFacts, moved: float, cycles: float) -> float:
    if not server.full_page_writes:
        return 0.0
    leaves = sum(index.pages * _touched_share(heap, index, moved, cycles) for index in heap.indexes)
    leaf = server.block_size * _FILL * (_COMPRESSED if server.compression else 1.0)
    return _touched_pages(heap) * image(heap, server) + leaves * leaf


def _touched_share(heap: Heap, index: Index, moved: float, cycles: float) -> float:
    """How often, on average, a leaf page is the first time since a checkpoint given an entry."""
    if index.pages == 0:
        return 0.0
    entries = heap.rows * moved / index.pages
    scattered = cycles * -math.expm1(-entries / cycles)
    sorted_ = -math.expm1(-entries)
    return index.order * sorted_ + (1 - index.order) * scattered


_SORTED_ROOM, _WIDE_ROOM = 1.3, 4.0
_SORTED, _WIDE = 0.8, 46


def _split_share(heap: Heap, index: Index, moved: float, stripes: int) -> float:
    """The share of an index's pages that are split.

    A leaf page takes entries until it is full. Before a split the server deletes entries of versions that are dead by
    then (bottom-up deletion, section 65.1.4.2); it gets far where entries are wide, or those of a page's rows are
    neighbours. Within one transaction none are dead.
    """
    if index.pages == 0:
        return 0.0
    there = heap.page.rows * heap.pages
    added = heap.rows * moved / max(there, 1.0)
    full = min(_FILL, there * (index.entry + LINE_POINTER) / (index.pages * (8192 - PAGE_HEADER)))
    room = (1 - full) / max(full, 0.05)
    if stripes > 1:
        room *= _WIDE_ROOM if index.entry >= _WIDE else _SORTED_ROOM if index.order > _SORTED else 1.0
    return min(1.0, max(0.0, 2 * (added / room - 1)))


def _heap_growth(heap: Heap, moved: float, server: ServerFacts) -> float:
    usable = (server.block_size - PAGE_HEADER) * heap.fillfactor / 100
    pages = heap.rows * moved * (heap.page.new.stored + LINE_POINTER) / usable
    return pages * server.block_size + heap.rows * heap.toasted


def _seconds(heap: Heap, pacing: Pacing, moved: float, stripes: int) -> float:
    work = heap.rows * row_seconds(heap, moved) + heap.pages * stripes * _VISIT_SECONDS
    batches = max(_batches(heap, pacing, stripes), work / pacing.target_latency)
    return (work + batches * (_BATCH_SECONDS + pacing.pause)) / pacing.workers
