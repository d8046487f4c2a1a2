"""Measuring what filling costs on the real table, and leaving it as it was.

A few windows of pages, spread over the table; of each, two stripes, each in a short transaction that is rolled back.
EXPLAIN (ANALYZE, WAL) counts what the statement writes: the first stripe with images of the pages, the second without,
because the server writes those once. What stays are dead row versions, which VACUUM removes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill import statements
from zdmigrate.backfill.bad_rows import failures
from zdmigrate.backfill.forecasts.forecast import Probed
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.windows import Batch, Pages, Stripe
from zdmigrate.errors import Unsafe
from zdmigrate.plan import RowWork
from zdmigrate.planning.sync import SEARCH_PATH
from zdmigrate.postgres import session
from zdmigrate.wording import size

_RELATIONS, _WINDOWS, _PAGES = 4, 8, 50
"""At most so many relations, windows over all of them, and pages of a window."""
_LOCK_TIMEOUT, _STATEMENT_TIMEOUT = timedelta(milliseconds=50), timedelta(milliseconds=500)
_FIRST = 1
"""The stripe that has a row in every page that has any: positions count from 1."""
_FEW_IMAGES = 10

_SETTINGS = sql.SQL(
    "SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL enable_seqscan = off; "
    "SET LOCAL enable_tidscan = on"
)

_LEAVES = """
SELECT leaf.oid::bigint, space.nspname, leaf.relname,
       coalesce(pg_relation_size(leaf.oid), 0) / current_setting('block_size')::int AS pages,
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = leaf.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
               AND t.tgtype & 16 <> 0 AND (t.tgenabled = 'A' OR NOT %(suppress)s)
               AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace o ON o.oid = p.pronamespace
                               WHERE p.oid = t.tgfoid AND o.nspname = %(control)s)),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = leaf.oid AND a.attnum > 0
             AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a'
             ORDER BY EXISTS (SELECT FROM pg_index i WHERE i.indrelid = leaf.oid AND a.attnum = ANY (i.indkey)), a.attnum)
FROM pg_class root
JOIN pg_namespace n ON n.oid = root.relnamespace AND n.nspname = %(schema)s
CROSS JOIN LATERAL (
    WITH RECURSIVE tree(oid) AS (SELECT root.oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT oid FROM tree
) AS part
JOIN pg_class leaf ON leaf.oid = part.oid
JOIN pg_namespace space ON space.oid = leaf.relnamespace
WHERE root.relname = %(table)s AND leaf.relkind = 'r'
ORDER BY pages DESC, leaf.oid
"""

_HOT = "SELECT pg_stat_get_xact_tuples_updated(%s), pg_stat_get_xact_tuples_hot_updated(%s)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a probe of one table measured, and what it did, in sentences."""

    probed: tuple[Probed, ...]
    said: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    relation: Relation
    pages: int
    triggers: bool
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One statement: what EXPLAIN said of it."""

    pages: int
    rows: int
    hot: int
    wal: int
    images: int
    seconds: float


@dataclasses.dataclass(slots=True, kw_only=True)
class _Runs:
    """The first and second stripes of a relation's windows, and why the last of those passed over was."""

    stand_in: bool
    firsts: list[_Run] = dataclasses.field(default_factory=list)
    seconds: list[_Run] = dataclasses.field(default_factory=list)
    failed: str | None = None

    @property
    def all(self) -> list[_Run]:
        return [*self.firsts, *self.seconds]

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.all)


def measure(
    connection: session.Connection,
    rows: RowWork,
    *,
    stripes: int,
    control_schema: str,
    block_size: int = 8192,
    suppress: bool,
) -> Report:
    """Fill a few rows of a table, and take it back.

    Locks: ROW EXCLUSIVE on the table and a few hundred row locks at a time, waited for no longer than 50 ms and held
    no longer than 500 ms. Windows in which others hold locks are passed over.

    Args:
        suppress: whether the role may keep the table's own triggers from firing; where it may not, or one is ALWAYS, a
            table with such triggers is not probed, because what they do may not end with the transaction.

    Raises:
        Unsafe: the server is a standby.
    """
    _refuse_standby(connection)
    if rows.transform is not None:
        return Report(probed=(), said=(f"not probed: {rows.transform.call} of the migration file gives the values",))
    leaves = _leaves(connection, rows, control_schema, suppress=suppress)
    chosen = [leaf for leaf in leaves if leaf.pages][:_RELATIONS]
    probed: list[Probed] = []
    said: list[str] = [] if chosen else [f"not probed: {rows.schema}.{rows.table} is empty"]
    for leaf in chosen:
        if leaf.triggers:
            said.append(
                f"not probed: triggers of {leaf.relation} fire for every UPDATE, and this role cannot prevent it"
            )
            continue
        windows = list(_spread(leaf.pages, _WINDOWS // len(chosen)))
        runs = _run(connection, rows, leaf, windows, stripes, suppress=suppress)
        said.append(_said(leaf, runs))
        if runs.rows:
            probed.append(_probed(leaf, runs, block_size))
    return Report(probed=tuple(probed), said=tuple(said))


def _refuse_standby(connection: session.Connection) -> None:
    row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    if row is None or row[0]:
        raise Unsafe("a standby cannot be probed", hint="connect to the primary, or plan without --probe")


def _leaves(connection: session.Connection, rows: RowWork, control_schema: str, *, suppress: bool) -> list[_Leaf]:
    values = {"schema": rows.schema, "table": rows.table, "suppress": suppress, "control": control_schema}
    with session.transaction(connection, lock_timeout=_LOCK_TIMEOUT, read_only=True) as cursor:
        found = cursor.execute(_LEAVES, values).fetchall()
    return [
        _Leaf(
            relation=Relation(oid=oid, schema=space, name=name),
            pages=pages,
            triggers=triggers,
            columns=tuple(columns),
        )
        for oid, space, name, pages, triggers, columns in found
    ]


def _run(
    connection: session.Connection, rows: RowWork, leaf: _Leaf, windows: Sequence[Pages], stripes: int, *, suppress: bool
) -> _Runs:  # fmt: skip
    found = _Runs(stand_in=any(column not in leaf.columns for column, _ in rows.assignments))
    before = statements.suppress_triggers(leaf.relation) if suppress else None
    for pages in windows:
        try:
            for index, runs in ((_FIRST, found.firsts), (_FIRST + 1, found.seconds)):
                which = Batch(pages, Stripe(index % stripes, stripes)).condition
                update = _stand_in(rows, leaf, which) if found.stand_in else statements.fill(rows, leaf.relation, which)
                runs.append(_explained(connection, leaf.relation, update, len(pages), before))
        except psycopg.Error as error:
            if connection.closed or not _passed_over(error):
                raise
            found.failed = error.diag.message_primary
    return found


def _said(leaf: _Leaf, runs: _Runs) -> str:
    if not runs.rows:
        return f"not probed: {leaf.relation}: {runs.failed or 'no row to fill was found'}"
    taken = "had a column set to itself" if runs.stand_in else "were filled"
    passed = "" if runs.failed is None else f" (some windows were passed over: {runs.failed})"
    return (
        f"probed {leaf.relation}: {runs.rows:,} rows {taken} and rolled back, in {sum(r.seconds for r in runs.all):.2f} s; "
        f"that wrote {size(sum(r.wal for r in runs.all))} of WAL and left as many dead row versions to VACUUM{passed}"
    )


def _passed_over(error: psycopg.Error) -> bool:
    return isinstance(error, failures.CONTENTION) or failures.is_of_a_row(error) or error.sqlstate == "42501"


def _probed(leaf: _Leaf, runs: _Runs, block_size: int) -> Probed:
    first_rows, images = sum(run.rows for run in runs.firsts), sum(run.images for run in runs.firsts)
    records = _record_bytes([run for run in runs.seconds if run.rows] or runs.firsts, block_size)
    written = sum(run.wal for run in runs.firsts) - first_rows * records
    return Probed(
        relation=str(leaf.relation),
        rows=runs.rows,
        pages=sum(run.pages for run in runs.all),
        moved=1 - sum(run.hot for run in runs.firsts) / first_rows if first_rows else 0.0,
        record_bytes=records,
        image_bytes=max(1.0, written / images) if images >= _FEW_IMAGES else None,
        seconds=sum(run.seconds for run in runs.all),
        stand_in=runs.stand_in,
    )


def _record_bytes(runs: Sequence[_Run], block_size: int) -> float:
    """Of a row. The few images of a second stripe are of index pages, which are nearly full."""
    wal = sum(max(run.rows, run.wal - 0.9 * run.images * block_size) for run in runs)
    return wal / sum(run.rows for run in runs)


def _spread(pages: int, windows: int) -> Iterator[Pages]:
    """Windows at equal distances, none twice."""
    windows = max(1, min(windows, pages // _PAGES))
    for number in range(windows):
        first = pages * number // windows + max(0, pages // windows - _PAGES) // 2
        yield Pages(first, min(first + _PAGES, pages))


def _stand_in(rows: RowWork, leaf: _Leaf, which: sql.Composable) -> sql.Composed:
    """The same work while the new columns are not there: their expressions are evaluated, an old column is written."""
    column = sql.Identifier(leaf.columns[0])
    values = sql.SQL(" OR ").join(sql.SQL("({}) IS NOT NULL").format(sql.SQL(text)) for _, text in rows.assignments)
    return sql.SQL("UPDATE ONLY {} SET {} = {} WHERE {} AND ({})").format(
        leaf.relation.identifier, column, column, which, values
    )


def _explained(
    connection: session.Connection, relation: Relation, update: sql.Composed, pages: int, before: sql.Composed | None
) -> _Run:
    inside = session.rolled_back(
        connection, lock_timeout=_LOCK_TIMEOUT, statement_timeout=_STATEMENT_TIMEOUT, search_path=SEARCH_PATH
    )
    with inside as cursor:
        cursor.execute(_SETTINGS if before is None else sql.SQL("{}; {}").format(_SETTINGS, before))
        updated, hot = _updated(cursor, relation)
        cursor.execute(sql.SQL("EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) {}").format(update))
        document = _document(cursor)
        updated_then, hot_then = _updated(cursor, relation)
    plan = document["Plan"]
    return _Run(
        pages=pages, rows=updated_then - updated, hot=hot_then - hot, wal=int(plan["WAL Bytes"]), images=int(plan["WAL FPI"]),
        seconds=float(document["Execution Time"]) / 1000,
    )  # fmt: skip


def _updated(cursor: session.Cursor, relation: Relation) -> tuple[int, int]:
    """Rows updated, and those of them that stayed in their page, by this session; not only by this transaction."""
    row = cursor.execute(_HOT, (relation.oid, relation.oid)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _document(cursor: session.Cursor) -> dict[str, Any]:
    row = cursor.fetchone()
    assert row is not None
    found = row[0] if isinstance(row[0], list) else json.loads(row[0])
    document: dict[str, Any] = found[0]
    return document
