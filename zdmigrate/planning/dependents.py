"""What relies on a relation: everything that keeps it from being dropped without CASCADE."""

from __future__ import annotations

from zdmigrate.sqltext import ident, literal

# DROP takes along what hangs on the relation by an automatic or internal dependency (manual, section 54.18, pg_depend);
# what depends on any of that in the normal way, and is not taken along itself, is in its way. A foreign key of a
# partition that is not its parent's would go along too, but lock the other table in the same transaction.
_QUERY = """
WITH RECURSIVE gone(classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, {oid}
    UNION SELECT d.classid, d.objid FROM gone g
    JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype IN ('a', 'i', 'P', 'S'))
SELECT DISTINCT
    CASE WHEN w.ev_class IS NULL THEN pg_describe_object(f.classid, f.objid, f.objsubid)
         ELSE pg_describe_object('pg_class'::regclass, w.ev_class, 0) END AS identity,
    n.nspname::text AS schema, c.relname::text AS table, k.conname::text AS constraint,
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) u(attnum)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns
FROM (
    SELECT d.classid, d.objid, d.objsubid FROM gone g
    JOIN pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid AND d.deptype = 'n'
    WHERE (d.classid, d.objid) NOT IN (SELECT classid, objid FROM gone)
    UNION SELECT g.classid, g.objid, 0 FROM gone g
    JOIN pg_constraint k ON g.classid = 'pg_constraint'::regclass AND k.oid = g.objid
    WHERE k.contype = 'f' AND k.conrelid <> {oid}) f
LEFT JOIN pg_rewrite w ON f.classid = 'pg_rewrite'::regclass AND w.oid = f.objid
LEFT JOIN pg_constraint k ON f.classid = 'pg_constraint'::regclass AND k.oid = f.objid AND k.contype = 'f'
LEFT JOIN pg_class c ON c.oid = k.conrelid
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.conparentid IS NULL OR k.conparentid = 0
"""


def query(oid: str) -> str:
    """Rows of (identity, and for a foreign key its schema, table, name and columns); `oid` is a SQL expression."""
    return _QUERY.format(oid=oid)


def in_the_way(schema: str, name: str, *, besides: tuple[tuple[str, str, str], ...] = ()) -> str:
    """A query that names what relies on the relation; `besides` are foreign keys (schema, table, name) to leave out."""
    known = " OR ".join(f"(r.schema, r.table, r.constraint) = ({', '.join(map(literal, each))})" for each in besides)
    rest = f" WHERE ({known}) IS NOT TRUE" if known else ""
    relation = f"to_regclass({literal(ident(schema, name))})::oid"
    shown = literal(f"{schema}.{name}")
    return f"SELECT format('%s depends on %s', r.identity, {shown}) FROM ({query(relation)}) r{rest} LIMIT 5"
