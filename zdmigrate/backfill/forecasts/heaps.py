"""A relation's rows as the model takes them, from its statistics. Pure.

How many rows are to be filled (`pg_class.reltuples` at the density of its last ANALYZE, the share of NULLs), how long
its tuples are before and after (`pg_stats.avg_width`), how much room their pages have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from zdmigrate.backfill.forecasts import costs, layout
from zdmigrate.plan import Plan, RowWork
from zdmigrate.schema import ColumnStorage, ServerFacts, Storage
from zdmigrate.sqltext import columns_in, ident

_LENGTHS = {
    "boolean": 1, "smallint": 2, "integer": 4, "real": 4, "date": 4, "bigint": 8, "double precision": 8, "money": 8,
    "timestamp": 8, "time": 8, "uuid": 16, "interval": 16, "numeric": 8, "inet": 7,
}  # fmt: skip
"""Bytes of the types whose values are about equally long. The others are as long as what they are made of."""
_POINTER = 18
"""Bytes of a value that is stored out of line (section 66.2, TOAST), which is what ANALYZE sees of it."""
_AS_TEXT = 8
_LARGEST_CONSTANT = 64


def heap(storage: Storage, rows: RowWork, server: ServerFacts, added: Mapping[str, str], *, synced: bool) -> costs.Heap:
    """The relation's rows that are to be filled.

    Args:
        added: the types of columns that are not there yet.
        synced: a sync trigger will be there.
    """
    widths, toasted = _values(storage, rows, added)
    analyzed = any(column.null_share is not None for column in storage.columns)
    old = layout.lengths(storage.columns, {}, analyzed=analyzed)
    new = layout.lengths(storage.columns, widths, analyzed=analyzed)
    usable = server.block_size - layout.PAGE_HEADER
    there = _rows(storage, old, usable)
    per_page = there / storage.pages if storage.pages else 0.0
    dead = storage.dead_rows * layout.LINE_POINTER / storage.pages if storage.pages else 0.0
    share = _unfilled_share(storage, rows)
    page = layout.Page(space=max(0.0, usable - dead), rows=per_page, share=share, old=old, new=new)
    return costs.Heap(
        rows=there * share, pages=storage.pages, page=page, value=sum(widths.values()), toasted=toasted,
        fillfactor=storage.fillfactor, locks_rows=synced or storage.locks_rows, full_identity=storage.full_identity,
        indexes=tuple(costs.Index(pages=i.pages, entry=_entry(storage, i.columns), order=_order(storage, i.columns))
                      for i in storage.indexes),
    )  # fmt: skip


def is_counted(storage: Storage) -> bool:
    """Whether the server has ever counted the relation's rows."""
    return storage.rows is not None and (storage.counted_pages > 0 or storage.pages == 0)


def _rows(storage: Storage, tuples: layout.Lengths, usable: int) -> float:
    """As the server's planner does: the density of the last ANALYZE, else what fits."""
    if storage.rows is not None and storage.counted_pages > 0:
        return storage.rows / storage.counted_pages * storage.pages
    per_page = usable * storage.fillfactor / 100 / (tuples.stored + layout.LINE_POINTER)
    return storage.pages * max(1.0, per_page)


def _unfilled_share(storage: Storage, rows: RowWork) -> float:
    """The share of rows in which some value is missing: NULL in the new column, and not by its expression too."""
    return max((_missing(storage, *each) for each in rows.sources), default=1.0)


def _missing(storage: Storage, target: str, expression: str) -> float:
    filled = storage.column(target)
    null = 1.0 if filled is None or filled.null_share is None else filled.null_share
    source = next((c for c in storage.columns if ident(c.name) == expression.strip()), None)
    stays = 0.0 if source is None or source.null_share is None else source.null_share
    return max(0.0, null - stays)


def _entry(storage: Storage, columns: Sequence[str]) -> float:
    """Bytes of an index's entry: its header and the keys, at a multiple of 8."""
    keys = sum(layout.width(column) for name in columns if (column := storage.column(name))) or 8.0
    return 8 + -(-keys // 8) * 8


def _order(storage: Storage, columns: Sequence[str]) -> float:
    first = storage.column(columns[0]) if columns else None
    return 0.0 if first is None or first.correlation is None else abs(first.correlation)


# Widths of new values ------------------------------------------------------------------------------------------------


def _values(storage: Storage, rows: RowWork, added: Mapping[str, str]) -> tuple[dict[str, float], float]:
    """The width of each value that is set, and what all of them have out of line."""
    widths, toasted = {}, 0.0
    for target, expression in rows.sources:
        made_of = _columns_of(storage, target, expression)
        there = storage.column(target)
        length = there.length if there is not None else _length(added.get(target, ""))
        if length is not None:
            widths[target] = float(length) if there is not None else length + _padding(length)
        else:
            widths[target] = sum(map(_as_text, made_of)) or min(len(expression), _LARGEST_CONSTANT)
            toasted += sum(_out_of_line(storage, column) for column in made_of)
    return widths, toasted


def _columns_of(storage: Storage, target: str, expression: str) -> list[ColumnStorage]:
    """What a value is made of; of several in one pass, each is wrapped (`planning.sync.assignments`)."""
    kept = f" ELSE {ident(target)} END"
    if expression.startswith("CASE WHEN ") and expression.endswith(kept):
        expression = expression.removesuffix(kept).rpartition(" THEN ")[2]
    known = frozenset(column.name for column in storage.columns)
    try:
        found = columns_in(expression, known)
    except ValueError:  # a name that may be a column or not: as if it were none
        found = frozenset()
    return [column for column in storage.columns if column.name in found and column.name != target]


def _as_text(column: ColumnStorage) -> float:
    return layout.width(column) if column.length is None else _AS_TEXT


def _out_of_line(storage: Storage, column: ColumnStorage) -> float:
    """Bytes a row, where the column's values are seen as pointers. Several such columns share what there is."""
    outside = [c for c in storage.columns if c.toastable and c.width is not None and c.width <= _POINTER]
    rows = storage.rows or 0.0
    if column not in outside or rows <= 0 or storage.toast_bytes < rows:
        return 0.0
    return storage.toast_bytes / rows / len(outside)


def _length(type_: str) -> float | None:
    return next((length for name, length in _LENGTHS.items() if re.match(rf"{name}\b(?!.*\[)", type_)), None)


def _padding(length: float) -> float:
    """What aligning a new last column costs on average."""
    return (min(length, 8) - 1) / 2 if length in (2, 4, 8) else 0.0


_ADD = re.compile(r'ADD COLUMN (?:IF NOT EXISTS )?"((?:[^"]|"")+)" ([^,;]+)')


def added_types(plan: Plan) -> dict[str, str]:
    """The types of the columns that the plan adds, as its statements say them."""
    return {
        name.replace('""', '"'): type_
        for step in plan.steps()
        for statement in step.do
        for name, type_ in _ADD.findall(statement)
    }
