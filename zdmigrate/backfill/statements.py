"""The statements over a relation's rows. Pure.

Expressions of a plan mention columns unqualified, so every query below has one relation in scope.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from psycopg import sql

from zdmigrate.backfill import windows
from zdmigrate.plan import RowWork

if TYPE_CHECKING:
    from zdmigrate.backfill.relations import Relation
    from zdmigrate.backfill.windows import Pages


_AS_IT_LIES = sql.SQL("SET LOCAL enable_seqscan = on")
"""A whole table is not read by an index, which batches would rather have than a scan."""


def fill(rows: RowWork, relation: Relation, which: sql.Composable, part: sql.Composable | None = None) -> sql.Composed:
    """Fill the unfilled rows among those that `which` takes, waiting for locked ones.

    Args:
        part: takes some of these rows. It is asked before the plan's expressions, which cost more: each row is looked at
            once for every part. In a mere AND the planner has its own opinion of what is cheap.
    """
    unfilled: sql.Composable = _unfilled(rows)
    if part is not None:
        unfilled = sql.SQL("CASE WHEN {} THEN ({}) ELSE false END").format(part, unfilled)
    return sql.SQL("UPDATE ONLY {} SET {} WHERE {} AND ({})").format(
        relation.identifier, _assignments(rows), which, unfilled
    )


def fill_unlocked(rows: RowWork, relation: Relation, which: sql.Composable) -> sql.Composed:
    """The same without parts, passing over rows that somebody else has locked.

    Not what one starts with: locking rows first is more WAL, and updating by a list of tids is never HOT.
    """
    free = sql.SQL("SELECT ctid FROM ONLY {} WHERE {} AND ({}) FOR NO KEY UPDATE SKIP LOCKED").format(
        relation.identifier, which, _unfilled(rows)
    )
    return fill(rows, relation, sql.SQL("ctid = ANY(ARRAY({}))").format(free))


@dataclasses.dataclass(frozen=True, slots=True)
class Filling:
    """Two statements that fill the same rows: `waiting` for locked ones, and `passing` them over, which is seldom asked for."""

    waiting: sql.Composed
    passing: Callable[[], sql.Composed]


def filling(rows: RowWork, relation: Relation, which: sql.Composable, part: sql.Composable | None = None) -> Filling:
    """By the expressions of the plan."""
    passing = functools.partial(fill_unlocked, rows, relation, windows.narrowed(which, part))
    return Filling(fill(rows, relation, which, part), passing)


def row(tid: str) -> sql.Composed:
    """A condition for one row."""
    return sql.SQL("ctid = {}::tid").format(sql.Literal(tid))


def unfilled_by_stripe(rows: RowWork, relation: Relation, pages: Pages, count: int) -> sql.Composed:
    """(stripe, number of unfilled rows) for the stripes that have any."""
    return sql.SQL("SELECT {}, count(*) FROM ONLY {} WHERE {} AND ({}) GROUP BY 1 ORDER BY 1").format(
        windows.stripe_of_row(count), relation.identifier, pages.condition, _unfilled(rows)
    )


def unfilled_tids(rows: RowWork, relation: Relation, pages: Pages, limit: int) -> sql.Composed:
    """Some unfilled rows."""
    return sql.SQL("{} LIMIT {}").format(tids(rows, relation, pages.condition), sql.Literal(limit))


def tids(rows: RowWork, relation: Relation, which: sql.Composable) -> sql.Composed:
    """The unfilled rows among those that `which` takes."""
    return sql.SQL("SELECT ctid::text FROM ONLY {} WHERE {} AND ({})").format(
        relation.identifier, which, _unfilled(rows)
    )


def all_tids(relation: Relation, which: sql.Composable) -> sql.Composed:
    """Every row that `which` takes, without evaluating an expression of the plan."""
    return sql.SQL("SELECT ctid::text FROM ONLY {} WHERE {}").format(relation.identifier, which)


def count_unfilled(rows: RowWork, relation: Relation, which: sql.Composable) -> sql.Composed:
    """The number of unfilled rows, and the relation's filenode when they were counted."""
    return sql.SQL("SELECT count(*), pg_catalog.pg_relation_filenode({}) FROM ONLY {} WHERE {} AND ({})").format(
        sql.Literal(relation.oid), relation.identifier, which, _unfilled(rows)
    )


def count_whole(rows: RowWork) -> sql.Composed:
    """The number of unfilled rows of the table, partitions included, in one snapshot."""
    return sql.SQL("{}; SELECT count(*) FROM {} WHERE {}").format(
        _AS_IT_LIES, sql.Identifier(rows.schema, rows.table), _unfilled(rows)
    )


def sample_of_whole(rows: RowWork, limit: int) -> sql.Composed:
    """(oid, schema, name of the relation, tid) of some of them."""
    return sql.SQL(
        "{}; SELECT found.relation::bigint, space.nspname, leaf.relname, found.tid::text "
        "FROM (SELECT tableoid AS relation, ctid AS tid FROM {} WHERE {} LIMIT {}) AS found "
        "JOIN pg_catalog.pg_class AS leaf ON leaf.oid = found.relation "
        "JOIN pg_catalog.pg_namespace AS space ON space.oid = leaf.relnamespace"
    ).format(_AS_IT_LIES, sql.Identifier(rows.schema, rows.table), _unfilled(rows), sql.Literal(limit))


def size(relation: Relation) -> sql.Composed:
    """The relation's filenode and its size in pages; NULLs when it is gone."""
    return sql.SQL(
        "SELECT pg_catalog.pg_relation_filenode({oid}), "
        "pg_catalog.pg_relation_size({oid}) / pg_catalog.current_setting('block_size')::int"
    ).format(oid=sql.Literal(relation.oid))


def suppress_triggers(relation: Relation) -> sql.Composed:
    """Keep the table's own triggers from firing until the transaction ends, if it has any for UPDATE.

    Without any, the setting is left alone, because foreign keys rest on triggers too. ENABLE ALWAYS triggers, such
    as ours, fire all the same (ALTER TABLE in the manual).
    """
    return sql.SQL(
        "SELECT pg_catalog.set_config('session_replication_role', 'replica', true) WHERE EXISTS ("
        "SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = {} AND NOT tgisinternal AND tgenabled = 'O' "
        "AND tgtype & 16 <> 0)"
    ).format(sql.Literal(relation.oid))


def compress_wal() -> sql.SQL:
    """Compress the images of whole pages, unless the server does so already. Every build, a standby's too, knows pglz."""
    return sql.SQL(
        "SELECT pg_catalog.set_config('wal_compression', 'on', true) "
        "WHERE pg_catalog.current_setting('wal_compression') = 'off'"
    )


@functools.lru_cache(maxsize=8)
def _assignments(rows: RowWork) -> sql.SQL:
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.SQL(expression))
        for column, expression in rows.assignments
    )
    return sql.SQL(assignments.as_string(None))


def _unfilled(rows: RowWork) -> sql.SQL:
    return sql.SQL(rows.unfilled)
