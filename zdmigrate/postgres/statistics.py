"""What the server knows of the size of tables and of its own WAL; for forecasts."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from zdmigrate import schema
from zdmigrate.postgres import session

_RELATIONS = """
SELECT leaf.oid::bigint, n.nspname, c.relname, format('%%s.%%s', space.nspname, leaf.relname),
       coalesce(pg_relation_size(leaf.oid), 0) / current_setting('block_size')::int,
       CASE WHEN leaf.reltuples >= 0 THEN leaf.reltuples::float8 END, leaf.relpages,
       coalesce(pg_stat_get_dead_tuples(leaf.oid), 0),
       coalesce((SELECT option_value::int FROM pg_options_to_table(leaf.reloptions) WHERE option_name = 'fillfactor'), 100),
       CASE WHEN leaf.reltoastrelid = 0 THEN 0 ELSE coalesce(pg_relation_size(leaf.reltoastrelid), 0) END,
       leaf.relpersistence <> 'p', leaf.relreplident = 'f',
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = leaf.oid AND t.tgtype & 19 = 19)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%s::text[], %s::text[]) w(schema, name) ON n.nspname = w.schema AND c.relname = w.name
CROSS JOIN LATERAL (
    WITH RECURSIVE tree(oid) AS (SELECT c.oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT oid FROM tree
) AS part
JOIN pg_class leaf ON leaf.oid = part.oid
JOIN pg_namespace space ON space.oid = leaf.relnamespace
WHERE leaf.relkind = 'r'
ORDER BY n.nspname, c.relname, leaf.oid
"""
# 19: for each row (1), before (2), update (16).

_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, CASE a.attalign WHEN 'd' THEN 8 WHEN 'i' THEN 4 WHEN 's' THEN 2 ELSE 1 END,
       nullif(greatest(a.attlen, -1), -1), s.avg_width, s.null_frac, s.correlation, a.attstorage IN ('x', 'e')
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_INDEXES = """
SELECT i.indrelid::bigint, c.relname, ARRAY(SELECT a.attname FROM unnest(i.indkey) WITH ORDINALITY k(number, place)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.place)::text[],
       coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY (%s) AND i.indisready AND c.relkind = 'i'
ORDER BY c.relname
"""

# A checkpoint is asked for when this much of max_wal_size is full (manual, section 28.5).
_SERVER = """
SELECT current_setting('block_size')::int, current_setting('wal_level') = 'logical',
       current_setting('full_page_writes')::bool, current_setting('wal_compression') <> 'off',
       (pg_size_bytes(current_setting('max_wal_size')) / (1 + current_setting('checkpoint_completion_target')::float8))::bigint,
       extract(epoch FROM current_setting('checkpoint_timeout')::interval)::int,
       pg_has_role('pg_read_all_stats', 'USAGE')
"""

_STANDBYS = """
SELECT count(*), coalesce(bool_or(backend_xmin IS NOT NULL), false) FROM pg_stat_replication
WHERE application_name <> 'pg_basebackup'
"""


def sized(
    connection: session.Connection, snapshot: schema.Snapshot, names: Sequence[tuple[str, str]] = ()
) -> schema.Snapshot:
    """The snapshot with what forecasts need of the named tables; by default of those that it was asked for.

    Locks: ACCESS SHARE on the catalogs.
    """
    with session.transaction(connection, lock_timeout=timedelta(seconds=2), read_only=True) as cursor:
        return dataclasses.replace(snapshot, storage=storage(cursor, names or snapshot.asked), server=server(cursor))


def storage(cursor: session.Cursor, names: Sequence[tuple[str, str]]) -> tuple[schema.Storage, ...]:
    """The relations that store the named tables' rows."""
    rows = cursor.execute(_RELATIONS, ([s for s, _ in names], [n for _, n in names])).fetchall()
    oids = [row[0] for row in rows]
    columns, indexes = _grouped(cursor, _COLUMNS, oids), _grouped(cursor, _INDEXES, oids)
    return tuple(
        schema.Storage(
            schema=row[1], table=row[2], relation=row[3], pages=row[4], rows=row[5], counted_pages=row[6],
            dead_rows=row[7], fillfactor=row[8], toast_bytes=row[9], unlogged=row[10], full_identity=row[11],
            locks_rows=row[12],
            columns=tuple(map(_column, columns[row[0]])), indexes=tuple(map(_index, indexes[row[0]])),
        )
        for row in rows
    )  # fmt: skip


def server(cursor: session.Cursor) -> schema.ServerFacts:
    """Its settings, and its standbys where the role may see them."""
    row = cursor.execute(_SERVER).fetchone()
    assert row is not None
    *facts, may_see = row
    standbys = cursor.execute(_STANDBYS).fetchone() if may_see else None
    count, feedback = standbys or (None, None)
    block, logical, images, compression, distance, interval = facts
    return schema.ServerFacts(
        block_size=block, logical=logical, full_page_writes=images, compression=compression, checkpoint_bytes=distance,
        checkpoint_seconds=interval, standbys=count, feedback=feedback,
    )  # fmt: skip


def _grouped(cursor: session.Cursor, query: Any, oids: list[int]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for oid, *row in cursor.execute(query, (oids,)).fetchall():
        found[oid].append(tuple(row))
    return found


def _column(row: tuple[Any, ...]) -> schema.ColumnStorage:
    name, align, length, width, null_share, correlation, toastable = row
    return schema.ColumnStorage(
        name=name, align=align, length=length, width=width, null_share=null_share, correlation=correlation,
        toastable=toastable,
    )  # fmt: skip


def _index(row: tuple[Any, ...]) -> schema.IndexStorage:
    name, columns, pages = row
    return schema.IndexStorage(name=name, columns=tuple(columns), pages=pages)
