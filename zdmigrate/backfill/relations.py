"""The relations that store a table's rows, and how they and their rows are called."""

from __future__ import annotations

import dataclasses

from psycopg import sql

from zdmigrate.backfill.session import Session
from zdmigrate.backfill.windows import Pages
from zdmigrate.errors import Drift, Unsafe

_LEAVES = """
WITH RECURSIVE part AS (
    SELECT relation.oid FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE space.nspname = {schema} AND relation.relname = {table}
    UNION SELECT link.inhrelid FROM part JOIN pg_catalog.pg_inherits AS link ON link.inhparent = part.oid
    WHERE NOT link.inhdetachpending
)
SELECT leaf.oid::bigint, space.nspname, leaf.relname, leaf.relkind::text
FROM part
JOIN pg_catalog.pg_class AS leaf ON leaf.oid = part.oid
JOIN pg_catalog.pg_namespace AS space ON space.oid = leaf.relnamespace
ORDER BY leaf.oid
"""

_KEY = """
SELECT attribute.attname
FROM pg_catalog.pg_index AS index
CROSS JOIN LATERAL unnest(index.indkey) WITH ORDINALITY AS part(number, position)
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = part.number
WHERE index.indrelid = {oid} AND index.indisprimary
ORDER BY part.position
"""

# Columns of keys, of expressions and of predicates; those of a constraint's index are its own. A BRIN index does not keep an
# update from being HOT (since version 16).
_INDEXES = """
SELECT class.relname
FROM pg_catalog.pg_index AS index
JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
JOIN pg_catalog.pg_am AS method ON method.oid = class.relam
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attname = ANY({columns})
WHERE index.indrelid = {oid}
  AND (method.amname <> 'brin' OR pg_catalog.current_setting('server_version_num')::int < 160000)
  AND (attribute.attnum = ANY(index.indkey) OR EXISTS (
      SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = index.indexrelid
        AND refclassid = 'pg_catalog.pg_class'::regclass AND refobjid = index.indrelid AND refobjsubid = attribute.attnum))
ORDER BY class.relname
LIMIT 1
"""

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
"""
# A value that is longer than the server leaves in a row is stored elsewhere, and 18 bytes of the row point there.
_STORED = "CASE WHEN pg_catalog.pg_column_size({0}) > 2000 THEN 18 ELSE coalesce(pg_catalog.pg_column_size({0}), 0) END"
_SAMPLE = """
SELECT 1 - sum(28 + {length})::float8 / ({pages} * pg_catalog.current_setting('block_size')::int)
FROM ONLY {relation} WHERE {which}
"""
_SAMPLED = 20
"""Pages that an opinion on free space is based on."""

_LONGEST_KEY = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table or partition with rows of its own."""

    oid: int
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted name."""
        return sql.Identifier(self.schema, self.name)


def leaves(session: Session, schema: str, table: str) -> list[Relation]:
    """The table itself and what inherits from it, or the leaves of its partition tree, as it is now.

    Raises:
        Drift: there is no such table.
        Unsafe: a partition or child is a foreign table.
    """
    query = sql.SQL(_LEAVES).format(schema=sql.Literal(schema), table=sql.Literal(table))
    found = session.patiently(lambda: session.read(query), schema=schema, table=table)
    if not found:
        raise Drift(
            f"there is no table {schema}.{table} any more",
            hint="give it its name back, or bring the table back; then run the command again",
        )
    for _, space, name, kind in found:
        if kind not in ("r", "p"):
            raise Unsafe(
                f"{space}.{name}, a partition or child of {schema}.{table}, is a foreign table (relkind {kind!r}): its rows "
                "cannot be filled from here",
                hint="detach it (ALTER TABLE … DETACH PARTITION, or NO INHERIT), then run the command again",
            )
    return [Relation(oid=oid, schema=space, name=name) for oid, space, name, kind in found if kind == "r"]


def index_of(session: Session, relation: Relation, columns: list[str]) -> str | None:
    """An index that an update of one of these columns has to change."""
    found = session.read(sql.SQL(_INDEXES).format(oid=sql.Literal(relation.oid), columns=sql.Literal(columns)))
    return str(found[0][0]) if found else None


def free_share(session: Session, relation: Relation, bound: int) -> float | None:
    """The share of its pages that rows leave free, as it is in the middle of the relation; None where it has no rows.

    No value is fetched that is stored out of line. `bound` is the relation's size in pages.
    """
    pages = Pages(bound // 2, min(bound, bound // 2 + _SAMPLED))
    columns = session.read(sql.SQL(_COLUMNS).format(oid=sql.Literal(relation.oid)))
    query = sql.SQL(_SAMPLE).format(
        length=sql.SQL(" + ").join([sql.SQL(_STORED).format(sql.Identifier(name)) for (name,) in columns]),
        pages=sql.Literal(max(1, len(pages))), relation=relation.identifier, which=pages.condition,
    )  # fmt: skip
    found = session.patiently(lambda: session.read(query), schema=relation.schema, table=relation.name)
    return None if found[0][0] is None else float(found[0][0])


def names_of_rows(session: Session, relation: Relation, tids: list[str]) -> list[str]:
    """Rows for people: by primary key where there is one, else by ctid; never more of their data."""
    key = [name for (name,) in session.read(sql.SQL(_KEY).format(oid=sql.Literal(relation.oid)))]
    if not key or not tids:
        return [f"{relation} ctid {tid}" for tid in tids]
    values = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in key)
    query = sql.SQL("SELECT ctid::text, {values} FROM ONLY {relation} WHERE ctid = ANY({tids}::tid[])")
    found = session.read(query.format(values=values, relation=relation.identifier, tids=sql.Literal(tids)))
    shown = {tid: f"{relation} ({', '.join(key)})=({_short(', '.join(row))})" for tid, *row in found}
    return [shown.get(tid, f"{relation} ctid {tid}") for tid in tids]


def name_of_row(session: Session, relation: Relation, tid: str) -> str:
    """One row for people."""
    return names_of_rows(session, relation, [tid])[0]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 1] + "…"
