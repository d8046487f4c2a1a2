"""Every read of the system catalogs that a plan is made from."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, LiteralString

import psycopg

from zdmigrate import schema
from zdmigrate.errors import Contended, Unsafe
from zdmigrate.planning import dependents, sync
from zdmigrate.postgres import session
from zdmigrate.sqltext import for_table, ident, index_tail, tokens

SAMPLE_ROWS = 1000
"""On how many rows an expression is tried."""

Name = tuple[str, str]


def snapshot(
    connection: session.Connection,
    names: Iterable[Name],
    questions: Sequence[schema.Question] = (),
    *,
    control_schema: str,
) -> schema.Snapshot:
    """The named tables as they are, in one consistent read; missing ones are left out.

    Locks: ACCESS SHARE on the catalogs, on a table whose expressions are tried, and on partitions.

    Raises:
        Contended: somebody holds ACCESS EXCLUSIVE on one of the tables.
    """
    wanted = sorted(set(names))
    try:
        return _read(connection, wanted, questions, control_schema)
    except psycopg.errors.LockNotAvailable as error:
        raise Contended(
            f"cannot read {', '.join('.'.join(name) for name in wanted)}: somebody holds ACCESS EXCLUSIVE on it",
            hint="wait for that DDL or VACUUM FULL to end, then run the command again",
        ) from error


def _read(
    connection: session.Connection, wanted: Sequence[Name], questions: Sequence[schema.Question], control_schema: str
) -> schema.Snapshot:
    with session.transaction(connection, lock_timeout=timedelta(seconds=2), read_only=True) as cursor:
        tables = _tables(cursor, wanted, control_schema)
        role, suppress = _one(cursor, _ROLE)
        expressions = [_expression(cursor, q) for q in questions if q.expression is not None and not q.given]
        types = [_type(cursor, q.type) for q in questions if q.type is not None]
    expressions += [_expression_of_made(connection, q) for q in questions if q.expression is not None and q.given]
    trials = [_trial(connection, q) for q in questions if q.trial is not None]
    made = [q for q in questions if q.given and q.expression is None and q.trial is None]
    return schema.Snapshot(
        server_version=connection.info.server_version,
        role=role,
        may_suppress_triggers=suppress,
        tables=tuple(tables),
        control_schema=control_schema,
        expressions=tuple(expressions),
        types=tuple(types),
        trials=tuple(trials),
        creations=tuple(_creation(connection, q, control_schema) for q in made),
        asked=tuple(wanted),
    )


_ROLE = """
SELECT current_user::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       OR has_parameter_privilege('session_replication_role', 'SET')
"""

# A table, its partitions, and whatever inherits from it.
_TREE = """(
    WITH RECURSIVE tree(relid) AS (
        SELECT {root} UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid
        WHERE NOT i.inhdetachpending
    ) SELECT relid FROM tree
)"""
_WHOLE = _TREE.format(root="c.oid")

_TABLES = f"""
SELECT n.nspname, c.relname, c.oid::bigint, c.relkind, pg_get_userbyid(c.relowner)::text,
       pg_has_role(c.relowner, 'USAGE'), c.relispartition,
       NOT c.relispartition AND (EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
           OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)),
       (SELECT coalesce(sum(greatest(l.reltuples, 0)), 0)::bigint FROM pg_class l
        WHERE l.relkind <> 'p' AND l.oid IN {_WHOLE}),
       (SELECT coalesce(sum(pg_total_relation_size(r.relid)), 0)::bigint FROM {_WHOLE} r(relid)),
       ARRAY(SELECT a.attname::text FROM pg_partitioned_table p
             CROSS JOIN LATERAL unnest(p.partattrs::smallint[]) k(attnum)
             JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
             WHERE p.partrelid = c.oid OR p.partrelid IN (SELECT relid FROM pg_partition_tree(c.oid))),
       ARRAY(SELECT p.pubname::text FROM pg_publication p WHERE p.puballtables
             OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid AND r.prattrs IS NULL)
             OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = n.oid)),
       ARRAY(SELECT r.rulename::text FROM pg_rewrite r WHERE r.ev_class IN {_WHOLE}),
       has_schema_privilege(n.oid, 'CREATE'),
       ARRAY(SELECT jsonb_build_array(CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END,
                                      x.privilege_type, x.is_grantable)
             FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner),
       c.relrowsecurity, obj_description(c.oid, 'pg_class'), c.relreplident::text,
       has_any_column_privilege(c.oid, 'REFERENCES'),
       EXISTS (SELECT FROM {_WHOLE} t(relid) WHERE row_security_active(t.relid)),
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%s::text[], %s::text[]) w(schema, name) ON n.nspname = w.schema AND c.relname = w.name
WHERE c.relkind <> 't'
ORDER BY 1, 2
"""

# A domain may stand on another one; its default is a copy of that one's.
_BRINGS = """
SELECT ARRAY(
    WITH RECURSIVE domain(oid) AS (
        SELECT y.oid FROM pg_type y WHERE y.oid = {type} AND y.typtype = 'd'
        UNION SELECT y.typbasetype FROM pg_type y JOIN domain USING (oid) WHERE y.typtype = 'd')
    SELECT 'constraints' FROM domain JOIN pg_type y USING (oid)
    WHERE y.typnotnull OR EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = y.oid)
    UNION SELECT 'a default' FROM pg_type y WHERE y.oid = {type} AND y.typdefault IS NOT NULL
    ORDER BY 1)
"""

# A stored expression names its functions by oid: that is how a default's volatility is found without running it.
_COLUMNS = (
    r"""
SELECT a.attrelid::bigint, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN
           (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_collation co
            JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
       a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
       CASE WHEN d.oid IS NULL THEN NULL ELSE d.adbin::text LIKE '%%{NEXTVALUEEXPR%%' OR EXISTS (
           SELECT FROM regexp_matches(d.adbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') m(found)
           JOIN pg_proc p ON p.oid = m.found[1]::oid WHERE p.provolatile = 'v') END,
       a.attidentity::text, a.attgenerated::text, col_description(a.attrelid, a.attnum),
       ARRAY(SELECT jsonb_build_array(CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END,
                                      x.privilege_type, x.is_grantable)
             FROM aclexplode(a.attacl) x),
       nullif(a.attstattarget, -1)::integer,
       CASE WHEN a.attstorage <> t.typstorage THEN
           CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
       CASE a.attcompression::text WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
       ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o LIKE 'n\_distinct%%'),
       ARRAY(SELECT quote_ident(sn.nspname) || '.' || quote_ident(s.relname) FROM pg_depend dp
             JOIN pg_class s ON s.oid = dp.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
             WHERE dp.classid = 'pg_class'::regclass AND dp.refclassid = 'pg_class'::regclass
               AND dp.refobjid = a.attrelid AND dp.refobjsubid = a.attnum AND dp.deptype = 'a'),
       ("""
    + _BRINGS.format(type="a.atttypid")
    + """)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
)

# Nothing in pg_constraint finds foreign keys by the index that they rest on: they are read once, not for every index.
_INDEXES = """
WITH resting AS MATERIALIZED (
    SELECT k.conindid, array_agg(k.conrelid::regclass || ': ' || k.conname ORDER BY k.conname) AS keys
    FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 GROUP BY 1)
SELECT i.indrelid::bigint, c.relname, i.indisunique, i.indisprimary, i.indisvalid,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
             AND (a.attnum = ANY (i.indkey::smallint[]) OR EXISTS (
                 SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))),
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k),
       pg_get_indexdef(i.indexrelid), pg_get_expr(i.indpred, i.indrelid), i.indnullsnotdistinct,
       (SELECT k.conname FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
        AND k.conrelid = i.indrelid),
       i.indisreplident, i.indisclustered, s.spcname, obj_description(i.indexrelid, 'pg_class'),
       ARRAY(SELECT jsonb_build_array(tn.nspname || '.' || tc.relname, pc.relname)
             FROM pg_partition_tree(i.indexrelid) t JOIN pg_class pc ON pc.oid = t.relid
             JOIN pg_index pi ON pi.indexrelid = t.relid JOIN pg_class tc ON tc.oid = pi.indrelid
             JOIN pg_namespace tn ON tn.oid = tc.relnamespace WHERE t.relid <> i.indexrelid),
       ARRAY(SELECT t.relid::bigint FROM pg_partition_tree(i.indexrelid) t UNION SELECT i.indexrelid::bigint ORDER BY 1),
       coalesce(f.keys, '{}')
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
LEFT JOIN resting f ON f.conindid = i.indexrelid
WHERE i.indrelid = ANY (%s)
ORDER BY i.indrelid, c.relname
"""

_CONSTRAINTS = """
SELECT k.conrelid::bigint, k.conname, k.contype::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(attnum, place)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.place),
       pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable, k.condeferred,
       (SELECT ARRAY[fn.nspname::text, f.relname::text] FROM pg_class f JOIN pg_namespace fn ON fn.oid = f.relnamespace
        WHERE f.oid = k.confrelid), NOT k.conislocal, obj_description(k.oid, 'pg_constraint'),
       ARRAY(SELECT DISTINCT CASE
                 WHEN fk.oid IS NOT NULL THEN format('the foreign key %%s of %%s.%%s', fk.conname, rn.nspname, r.relname)
                 ELSE coalesce(pg_describe_object('pg_class'::regclass, w.ev_class, 0),
                               pg_describe_object(d.classid, d.objid, 0)) END
             FROM pg_depend d
             LEFT JOIN pg_constraint fk ON d.classid = 'pg_constraint'::regclass AND fk.oid = d.objid AND fk.contype = 'f'
             LEFT JOIN pg_class r ON r.oid = fk.conrelid LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
             LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
             WHERE d.deptype = 'n' AND k.contype IN ('p', 'u', 'x') AND coalesce(fk.conparentid, 0) = 0
               AND (d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
                    OR d.refclassid = 'pg_class'::regclass AND d.refobjid = k.conindid)
             ORDER BY 1),
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(k.confkey) WITH ORDINALITY u(attnum, place)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY u.place)
FROM pg_constraint k
WHERE k.conrelid = ANY (%s) AND k.contype IN ('c', 'f', 'n', 'p', 'u', 'x')
ORDER BY k.conrelid, k.conname
"""

_TRIGGER = """
SELECT w.oid, t.tgname, t.tgenabled::text, (t.tgtype & 2) > 0, (t.tgtype & 1) > 0,
       array_remove(ARRAY[CASE WHEN (t.tgtype & 4) > 0 THEN 'INSERT' END, CASE WHEN (t.tgtype & 16) > 0 THEN 'UPDATE' END,
                          CASE WHEN (t.tgtype & 8) > 0 THEN 'DELETE' END], NULL),
       ARRAY(SELECT a.attname::text FROM unnest(t.tgattr::smallint[]) WITH ORDINALITY u(attnum, place)
             JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = u.attnum ORDER BY u.place),
       pg_get_triggerdef(t.oid), obj_description(t.oid, 'pg_trigger'),
       pg_describe_object('pg_trigger'::regclass, t.oid, 0), n.nspname
FROM unnest(%s::bigint[]) w(oid) CROSS JOIN LATERAL ({relations}) r(oid, own)
JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal AND (r.own OR t.tgparentid = 0)
JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
ORDER BY 1, t.tgrelid, t.tgname
"""
_TRIGGERS = _TRIGGER.format(relations="SELECT w.oid::oid, true")
_PARTITION_TRIGGERS = _TRIGGER.format(
    relations="SELECT tree.relid, false FROM "
    + _TREE.format(root="w.oid::oid")
    + " AS tree WHERE tree.relid <> w.oid::oid"
)

# Those of its triggers, and those whose text mentions its name: the catalog knows no more of what a body is about.
_FUNCTIONS = """
SELECT w.oid, p.oid::regprocedure::text, p.prosrc, n.nspname
FROM unnest(%s::bigint[]) w(oid) JOIN pg_class c ON c.oid = w.oid::oid
JOIN pg_proc p ON EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid AND NOT t.tgisinternal)
                  OR p.prosqlbody IS NULL AND strpos(lower(p.prosrc), lower(c.relname)) > 0
JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""

# What hangs on a column and is not the table's own: defaults, indexes, constraints, owned sequences are read above. What
# hangs on a partition's column would be in the way as well, but for what the partition has from its parent.
_DEPENDENTS = """
SELECT DISTINCT w.oid, a.attname, (pg_identify_object(d.classid, d.objid, d.objsubid)).type,
       pg_describe_object(d.classid, d.objid, 0)
FROM unnest(%s::bigint[]) w(oid)
CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(w.oid::oid) UNION SELECT w.oid::oid) l(relid)
CROSS JOIN LATERAL (SELECT * FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = l.relid
                    AND d.refobjsubid > 0 OFFSET 0) d  -- by the index, however many partitions the server expects
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE NOT (d.classid = 'pg_class'::regclass AND (d.deptype IN ('a', 'i') OR EXISTS (
      SELECT FROM pg_index i WHERE i.indexrelid = d.objid AND i.indrelid = d.refobjid)))
  AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (
      SELECT FROM pg_constraint k WHERE k.oid = d.objid
      AND (k.conrelid = d.refobjid OR l.relid <> w.oid::oid AND k.conparentid <> 0)))
  AND NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (
      SELECT FROM pg_trigger t WHERE t.oid = d.objid AND l.relid <> w.oid::oid AND t.tgparentid <> 0))
  AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (
      SELECT FROM pg_attrdef e WHERE e.oid = d.objid AND e.adrelid = d.refobjid
      AND (e.adnum = d.refobjsubid OR l.relid <> w.oid::oid)))
ORDER BY 1, 2, 4
"""

# Which of the table's columns an object depends on, and which of others'.
_NAMED = """
ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend x JOIN pg_attribute a ON (a.attrelid, a.attnum) = (x.refobjid, x.refobjsubid)
      WHERE x.classid = {class}::regclass AND x.objid = {oid} AND x.refclassid = 'pg_class'::regclass
        AND x.refobjid = {table} AND x.refobjsubid > 0 ORDER BY 1),
ARRAY(SELECT DISTINCT xn.nspname || '.' || xc.relname || '.' || a.attname FROM pg_depend x
      JOIN pg_attribute a ON (a.attrelid, a.attnum) = (x.refobjid, x.refobjsubid)
      JOIN pg_class xc ON xc.oid = x.refobjid AND xc.relkind IN ('r', 'p') JOIN pg_namespace xn ON xn.oid = xc.relnamespace
      WHERE x.classid = {class}::regclass AND x.objid = {oid} AND x.refclassid = 'pg_class'::regclass
        AND x.refobjid <> {table} AND x.refobjsubid > 0 ORDER BY 1)
"""
_GRANTS = """
ARRAY(SELECT jsonb_build_array(CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END,
                               x.privilege_type, x.is_grantable)
      FROM aclexplode({acl}) x WHERE x.grantee <> c.relowner)
"""

# Whoever gives a view to another role must be able to become it, and that one must be able to create it.
_VIEWS = (
    """
SELECT t.oid, pg_describe_object('pg_rewrite'::regclass, w.oid, 0), """
    + _NAMED.format(**{"class": "'pg_rewrite'", "oid": "w.oid", "table": "t.oid::oid"})
    + """, n.nspname, c.relname, pg_get_userbyid(c.relowner)::text, pg_get_viewdef(c.oid), coalesce(c.reloptions, '{}'),
       obj_description(c.oid, 'pg_class'), """
    + _GRANTS.format(acl="c.relacl")
    + """,
       ARRAY(SELECT DISTINCT CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END
             FROM pg_default_acl l CROSS JOIN LATERAL aclexplode(l.defaclacl) x JOIN pg_roles me ON me.oid = l.defaclrole
             WHERE me.rolname = current_user AND l.defaclobjtype = 'r' AND l.defaclnamespace IN (0, n.oid)
               AND x.grantee <> me.oid ORDER BY 1),
       pg_has_role(c.relowner, 'USAGE') AND c.relpersistence <> 't',
       has_schema_privilege(n.oid, 'CREATE'),
       pg_get_userbyid(c.relowner) = current_user OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       OR has_schema_privilege(c.relowner, n.oid, 'CREATE') AND pg_has_role(c.relowner,
              CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END),
       ARRAY(SELECT DISTINCT r.identity FROM ("""
    + dependents.query("c.oid")
    + """) r ORDER BY 1),
       ARRAY(SELECT 'the trigger ' || g.tgname FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
             UNION ALL SELECT 'the rule ' || o.rulename FROM pg_rewrite o WHERE o.ev_class = c.oid AND o.rulename <> '_RETURN'
             UNION ALL SELECT 'a default of its own' FROM pg_attrdef d WHERE d.adrelid = c.oid
             UNION ALL SELECT 'a security label' FROM pg_seclabel s WHERE s.classoid = 'pg_class'::regclass AND s.objoid = c.oid
             UNION ALL SELECT 'its place in an extension' FROM pg_depend d
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
             UNION ALL SELECT 'privileges that ' || pg_get_userbyid(x.grantor) || ' granted'
                 FROM (SELECT c.relacl UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = c.oid) l(acl)
                 CROSS JOIN LATERAL aclexplode(l.acl) x WHERE x.grantor <> c.relowner
             UNION ALL SELECT 'its owner''s lack of the privilege ' || x.privilege_type
                 FROM aclexplode(acldefault('r', c.relowner)) x WHERE c.relacl IS NOT NULL AND NOT EXISTS (
                     SELECT FROM aclexplode(c.relacl) y WHERE (y.grantee, y.privilege_type) = (x.grantee, x.privilege_type))),
       ARRAY(SELECT jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
                 (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_collation co
                  JOIN pg_namespace cn ON cn.oid = co.collnamespace JOIN pg_type y ON y.oid = a.atttypid
                  WHERE co.oid = a.attcollation AND co.oid <> y.typcollation),
                 col_description(c.oid, a.attnum),
                 (SELECT jsonb_agg(jsonb_build_array(CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END,
                                                     x.privilege_type, x.is_grantable)) FROM aclexplode(a.attacl) x))
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM unnest(%s::bigint[]) t(oid)
JOIN pg_rewrite w ON w.rulename = '_RETURN' AND w.oid IN (
    SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = t.oid::oid AND d.refobjsubid > 0)
JOIN pg_class c ON c.oid = w.ev_class AND c.relkind = 'v' JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, n.nspname, c.relname
"""
)

_POLICIES = (
    "SELECT p.polrelid::bigint, pg_describe_object('pg_policy'::regclass, p.oid, 0), "
    + _NAMED.format(**{"class": "'pg_policy'", "oid": "p.oid", "table": "p.polrelid"})
    + """, p.polname, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p WHERE p.polrelid = ANY (%s) ORDER BY 1, p.polname"""
)

_ROUTINES = (
    "SELECT t.oid, pg_describe_object('pg_proc'::regclass, p.oid, 0), "
    + _NAMED.format(**{"class": "'pg_proc'", "oid": "p.oid", "table": "t.oid::oid"})
    + """, n.nspname, p.proname, p.oid::regprocedure::text, pg_get_functiondef(p.oid), pg_get_function_sqlbody(p.oid),
       pg_has_role(p.proowner, 'USAGE'), has_schema_privilege(n.oid, 'CREATE')
FROM unnest(%s::bigint[]) t(oid)
JOIN pg_proc p ON p.prosqlbody IS NOT NULL AND p.oid IN (
    SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = t.oid::oid AND d.refobjsubid > 0)
JOIN pg_namespace n ON n.oid = p.pronamespace
ORDER BY 1, n.nspname, p.oid::regprocedure::text
"""
)

_STATISTICS = (
    "SELECT s.stxrelid::bigint, pg_describe_object('pg_statistic_ext'::regclass, s.oid, 0), "
    + _NAMED.format(**{"class": "'pg_statistic_ext'", "oid": "s.oid", "table": "s.stxrelid"})
    + """, n.nspname, s.stxname, pg_get_userbyid(s.stxowner)::text,
       substr(pg_get_statisticsobjdef(s.oid),
              length('CREATE STATISTICS ' || quote_ident(n.nspname) || '.' || quote_ident(s.stxname)) + 2),
       nullif(s.stxstattarget, -1)::integer, obj_description(s.oid, 'pg_statistic_ext')
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY (%s) ORDER BY 1, 2
"""
)

_RELIANT = (
    "SELECT w.oid, r.* FROM unnest(%s::bigint[]) w(oid) CROSS JOIN LATERAL ("
    + dependents.query("w.oid::oid")
    + ") r ORDER BY 1, 2"
)
# Whatever else draws from one would fail when it goes; the defaults of partitions change with their parent's.
_SEQUENCES = """
SELECT d.refobjid::bigint, a.attname, n.nspname, c.relname, c.oid::regclass::text, d.deptype = 'i', q.seqstart,
       q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle,
       ARRAY(SELECT jsonb_build_array(CASE WHEN x.grantee = 0 THEN NULL ELSE pg_get_userbyid(x.grantee)::text END,
                                      x.privilege_type, x.is_grantable)
             FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner),
       obj_description(c.oid, 'pg_class'),
       ARRAY(SELECT pg_describe_object(o.classid, o.objid, o.objsubid) FROM pg_depend o
             WHERE o.refclassid = 'pg_class'::regclass AND o.refobjid = c.oid AND o.deptype = 'n'
               AND NOT (o.classid = 'pg_attrdef'::regclass AND EXISTS (
                   SELECT FROM pg_attrdef e WHERE e.oid = o.objid AND (e.adrelid, e.adnum) = (d.refobjid, a.attnum)
                   UNION ALL SELECT FROM pg_attrdef e JOIN pg_partition_tree(d.refobjid) t ON t.relid = e.adrelid
                   JOIN pg_attribute p ON (p.attrelid, p.attnum) = (e.adrelid, e.adnum)
                   WHERE e.oid = o.objid AND p.attname = a.attname)))
FROM pg_depend d
JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence q ON q.seqrelid = c.oid
JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (%s)
  AND d.deptype IN ('a', 'i')
ORDER BY 1, 5
"""

_PARTITIONS = """
SELECT w.oid, n.nspname, c.relname, pn.nspname, pc.relname, NOT t.isleaf, c.relkind = 'f', c.relreplident::text,
       (SELECT ic.relname FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisreplident)
FROM unnest(%s::bigint[]) w(oid)
CROSS JOIN LATERAL pg_partition_tree(w.oid::oid) t
JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class pc ON pc.oid = t.parentrelid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
WHERE t.level > 0
ORDER BY 1, t.level, 2, 3
"""


_CHILDREN = f"""
SELECT w.oid, n.nspname, c.relname, NULL, NULL, false, c.relkind = 'f', c.relreplident::text, NULL
FROM unnest(%s::bigint[]) w(oid) JOIN pg_class r ON r.oid = w.oid::oid AND r.relkind = 'r'
CROSS JOIN LATERAL {_TREE.format(root="w.oid::oid")} t
JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.relid <> r.oid
ORDER BY 1, 2, 3
"""


def _tables(cursor: session.Cursor, wanted: Sequence[Name], control_schema: str) -> list[schema.Table]:
    rows = cursor.execute(_TABLES, ([s for s, _ in wanted], [n for _, n in wanted])).fetchall()
    oids = [row[2] for row in rows]
    indexes = _grouped(cursor, _INDEXES, oids, _index)
    columns = _grouped(cursor, _COLUMNS, oids, _column)
    constraints = _grouped(cursor, _CONSTRAINTS, oids, _constraint)
    triggers = _grouped(cursor, _TRIGGERS, oids, lambda row: (row[-1], _trigger(row)))
    others = _grouped(cursor, _PARTITION_TRIGGERS, oids, lambda row: (row[-1], _trigger(row)))
    dependents = _grouped(cursor, _DEPENDENTS, oids, lambda r: schema.Dependent(column=r[0], kind=r[1], identity=r[2]))
    partitions = _grouped(cursor, _PARTITIONS, oids, _leaf)
    children = _grouped(cursor, _CHILDREN, oids, _leaf)
    sequences = _grouped(cursor, _SEQUENCES, oids, _sequence)
    functions = _grouped(cursor, _FUNCTIONS, oids, lambda row: row)
    reliant = _grouped(cursor, _RELIANT, oids, _reliance)
    views = _grouped(cursor, _VIEWS, oids, _view)
    policies = _grouped(cursor, _POLICIES, oids, _policy)
    routines = _grouped(cursor, _ROUTINES, oids, _routine)
    statistics = _grouped(cursor, _STATISTICS, oids, _statistics)
    found = []
    for row in rows:
        oid = row[2]
        unique = {name for index in indexes[oid] if index.unique for name in index.columns}
        found.append(
            schema.Table(
                schema=row[0], name=row[1], oid=oid, kind=row[3], owner=row[4], owned=row[5], is_partition=row[6],
                inherits=row[7], rows=row[8], bytes=row[9], partition_columns=tuple(row[10]), publications=tuple(row[11]),
                rules=tuple(row[12]), may_create=row[13],
                grants=tuple(schema.Grant(grantee=g, privilege=p, grantable=o) for g, p, o in row[14]), row_security=row[15],
                reliant=tuple(reliant[oid]), comment=row[16], replica_identity=row[17], may_reference=row[18],
                sequences=tuple(sequences[oid]),
                columns=tuple(_with_hash(cursor, column) if column.name in unique else column for column in columns[oid]),
                indexes=tuple(indexes[oid]), constraints=tuple(constraints[oid]),
                triggers=tuple(t for home, t in triggers[oid] if home != control_schema),
                partition_triggers=tuple(t for home, t in others[oid] if home != control_schema), hides_rows=row[19],
                is_child=row[20] and not row[6], children=tuple(children[oid]),
                functions=tuple(_about(row[1], columns[oid], functions[oid], control_schema)),
                dependents=tuple(dependents[oid]), partitions=tuple(partitions[oid]), views=tuple(views[oid]),
                policies=tuple(policies[oid]), routines=tuple(routines[oid]), statistics=tuple(statistics[oid]),
            )
        )  # fmt: skip
    return found


def _grouped(cursor: session.Cursor, query: str, oids: list[int], make: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    for row in cursor.execute(query, (oids,)).fetchall():
        found[row[0]].append(make(row[1:]))
    return found


def _column(row: tuple[Any, ...]) -> schema.Column:
    grants = tuple(schema.Grant(grantee=g, privilege=p, grantable=o) for g, p, o in row[10])
    return schema.Column(
        name=row[0], number=row[1], type=row[2], collation=row[3], not_null=row[4],
        default=None if row[8] else row[5], default_volatile=None if row[8] else row[6], identity=row[7], generated=row[8],
        comment=row[9], grants=grants, statistics_target=row[11], storage=row[12], compression=row[13],
        options=tuple(row[14]), owned_sequences=() if row[7] else tuple(row[15]), type_brings=tuple(row[16]),
    )  # fmt: skip


def _index(row: tuple[Any, ...]) -> schema.Index:
    definition = row[6]
    return schema.Index(
        name=row[0], unique=row[1], primary=row[2], valid=row[3], columns=tuple(row[4]), keys=tuple(row[5]),
        tail=index_tail(definition), predicate=row[7], nulls_not_distinct=row[8], constraint=row[9],
        replica_identity=row[10], clustered=row[11], tablespace=row[12], comment=row[13],
        partition_names=tuple((table, name) for table, name in row[14]), oids=tuple(row[15]), references=tuple(row[16]),
    )  # fmt: skip


def _constraint(row: tuple[Any, ...]) -> schema.Constraint:
    return schema.Constraint(
        name=row[0], kind=row[1], columns=tuple(row[2]), definition=row[3], validated=row[4], deferrable=row[5],
        deferred=row[6], references=None if row[7] is None else (row[7][0], row[7][1]), inherited=row[8], comment=row[9],
        needed_by=tuple(row[10]), referenced_types=tuple(row[11]),
    )  # fmt: skip


def _trigger(row: tuple[Any, ...]) -> schema.Trigger:
    return schema.Trigger(
        name=row[0], enabled=row[1], before=row[2], row=row[3], events=tuple(row[4]), update_of=tuple(row[5]),
        definition=row[6], comment=row[7], identity=row[8],
    )  # fmt: skip


def _reliance(row: tuple[Any, ...]) -> schema.Reliant:
    constraint = None if row[1] is None else (row[1], row[2], row[3])
    return schema.Reliant(identity=row[0], constraint=constraint, columns=tuple(row[4]))


def _view(row: tuple[Any, ...]) -> schema.View:
    shown = [
        schema.ViewColumn(name=name, type=type_, collation=collation, comment=comment, grants=_granted(grants or ()))
        for name, type_, collation, comment, grants in row[16]
    ]
    return schema.View(
        identity=row[0], columns=tuple(row[1]), reads=tuple(row[2]), schema=row[3], name=row[4], owner=row[5],
        definition=row[6].rstrip(";"), options=tuple(row[7]), comment=row[8], grants=_granted(row[9]), given=tuple(row[10]),
        owned=row[11], may_create=row[12], may_give=row[13], reliant=tuple(row[14]), peculiar=tuple(row[15]),
        columns_shown=tuple(shown),
    )  # fmt: skip


def _granted(rows: Iterable[tuple[str | None, str, bool]]) -> tuple[schema.Grant, ...]:
    return tuple(schema.Grant(grantee=g, privilege=p, grantable=o) for g, p, o in rows)


def _policy(row: tuple[Any, ...]) -> schema.Policy:
    return schema.Policy(
        identity=row[0], columns=tuple(row[1]), reads=tuple(row[2]), name=row[3], using=row[4], check=row[5]
    )


def _routine(row: tuple[Any, ...]) -> schema.Routine:
    definition, body = row[6].rstrip(), row[7]
    return schema.Routine(
        identity=row[0], columns=tuple(row[1]), reads=tuple(row[2]), schema=row[3], name=row[4], signature=row[5],
        head=definition.removesuffix(body), body=body, owned=row[8], may_create=row[9],
    )  # fmt: skip


def _statistics(row: tuple[Any, ...]) -> schema.Statistics:
    return schema.Statistics(
        identity=row[0], columns=tuple(row[1]), reads=tuple(row[2]), schema=row[3], name=row[4], owner=row[5], tail=row[6],
        target=row[7], comment=row[8],
    )  # fmt: skip


def _leaf(row: tuple[Any, ...]) -> schema.Leaf:
    return schema.Leaf(
        schema=row[0], name=row[1], parent_schema=row[2], parent_name=row[3], partitioned=row[4], foreign=row[5],
        replica_identity=row[6], replica_index=row[7],
    )  # fmt: skip


def _sequence(row: tuple[Any, ...]) -> schema.Sequence:
    return schema.Sequence(
        column=row[0], schema=row[1], name=row[2], identity=row[3], internal=row[4], start=row[5], increment=row[6],
        minimum=row[7], maximum=row[8], cache=row[9], cycle=row[10], comment=row[12], dependents=tuple(row[13]),
        grants=tuple(schema.Grant(grantee=g, privilege=p, grantable=o) for g, p, o in row[11]),
    )  # fmt: skip


def _about(
    table: str, columns: Iterable[schema.Column], functions: Iterable[tuple[str, str, str]], control_schema: str
) -> Iterator[schema.Function]:
    names = {column.name for column in columns}
    # Also inside of strings: that is where EXECUTE has its statements.
    mention = re.compile(rf"(?<!\w){re.escape(table)}(?!\w)", re.IGNORECASE)
    for identity, source, home in functions:
        words = {token.name for token in tokens(source)}
        found, named = tuple(sorted(names & words)), mention.search(source) is not None
        if (found or named) and home != control_schema:
            yield schema.Function(identity=identity, columns=found, named=named)


def _with_hash(cursor: session.Cursor, column: schema.Column) -> schema.Column:
    try:
        with cursor.connection.transaction():
            cursor.execute(f"SELECT hash_record_extended(ROW(NULL::{column.type}), 0)".encode())
    except psycopg.Error:
        return dataclasses.replace(column, hashable=False)
    return column


def _type(cursor: session.Cursor, text: str) -> schema.TypeFacts:
    try:
        with cursor.connection.transaction():
            cursor.execute(f"SET LOCAL search_path = {sync.SEARCH_PATH}".encode())
            # Results are described by a domain's base type; only pg_typeof tells the domain.
            row = cursor.execute(f"SELECT NULL::{text}, pg_typeof(NULL::{text})::oid::bigint".encode()).fetchone()
            result = cursor.pgresult
            assert row is not None
            assert result is not None
            described = (row[1], result.fmod(0) if result.ftype(0) == row[1] else -1)
            cursor.execute(f"SET LOCAL search_path = {session.CATALOG_PATH}".encode())
            name = _one(cursor, "SELECT format_type(%s, %s)", described)[0]
            if _one(cursor, "SELECT typtype = 'p' FROM pg_type WHERE oid = %s", row[1:])[0]:
                return schema.TypeFacts(text=text, error=f"{text} is a pseudo-type, which no column can have")
            brings = _one(cursor, _BRINGS.format(type="%s"), (row[1], row[1]))[0]
            labels = _one(cursor, _LABELS, (row[1],))[0]
            return schema.TypeFacts(text=text, canonical=name, brings=tuple(brings), labels=tuple(labels))
    except psycopg.Error as error:
        return schema.TypeFacts(text=text, error=_said(error))


def _expression(cursor: session.Cursor, question: schema.Question) -> schema.ExpressionFacts:
    """Type-check an expression over a table, and try it on sampled rows if it is not volatile.

    In a WHERE clause it may not be an aggregate, a window function or a set; a volatile function of any overload makes
    it volatile, which is the careful answer.
    """
    text = question.expression or ""
    facts = schema.ExpressionFacts(schema=question.schema, table=question.table, expression=text)
    target = ident(question.schema, question.table)
    try:
        with cursor.connection.transaction():
            cursor.execute(f"SET LOCAL search_path = {sync.SEARCH_PATH}".encode())
            cursor.execute(f"SELECT FROM {target} WHERE ({text}) IS NULL LIMIT 0".encode())
            cursor.execute(f"SELECT ({text}) FROM {target} LIMIT 0".encode())
            result = cursor.pgresult
            assert result is not None
            described = (result.ftype(0), result.fmod(0))
            volatile = _one(cursor, _VOLATILE, (_called(text),))[0]
            if not volatile:  # a plan takes no number from a sequence
                sample = f"(SELECT * FROM {target} LIMIT {SAMPLE_ROWS}) AS sampled"
                cursor.execute(f"SELECT count(({text})::text) FROM {sample}".encode())
            cursor.execute(f"SET LOCAL search_path = {session.CATALOG_PATH}".encode())
            name = _one(cursor, "SELECT format_type(%s, %s)", described)[0]
    except psycopg.Error as error:
        return dataclasses.replace(facts, error=_said(error))
    return dataclasses.replace(facts, type=name, volatile=volatile)


def _expression_of_made(connection: session.Connection, question: schema.Question) -> schema.ExpressionFacts:
    """The same over a table that the migration makes."""
    try:
        with _made(connection, question) as cursor:
            return _expression(cursor, question)
    except psycopg.Error as error:
        text = question.expression or ""
        return schema.ExpressionFacts(schema=question.schema, table=question.table, expression=text, error=_said(error))


@contextlib.contextmanager
def _made(connection: session.Connection, question: schema.Question) -> Iterator[session.Cursor]:
    """A transaction that is rolled back, in which the statements that make the table are executed."""
    with session.rolled_back(connection, lock_timeout=timedelta(seconds=2), search_path=sync.SEARCH_PATH) as cursor:
        for statement in question.given:
            cursor.execute(statement.encode())
        yield cursor


def _creation(connection: session.Connection, question: schema.Question, control_schema: str) -> schema.Creation:
    """What the catalog says of a table that statements make; nothing of it is left."""
    facts = schema.Creation(schema=question.schema, table=question.table, statements=question.given)
    try:
        with _made(connection, question) as cursor:
            cursor.execute(f"SET LOCAL search_path = {session.CATALOG_PATH}".encode())
            (made,) = _tables(cursor, [(question.schema, question.table)], control_schema)
    except psycopg.Error as error:
        return dataclasses.replace(facts, error=_said(error))
    return dataclasses.replace(facts, made=made)


_COPY = "zd_trial"


def _trial(connection: session.Connection, question: schema.Question) -> schema.Trial:
    """DDL on an empty temporary copy of a table, in a transaction of its own that is rolled back.

    Locks: ACCESS SHARE on the table while it is copied.
    """
    statement = question.trial or ""
    facts = schema.Trial(schema=question.schema, table=question.table, statement=statement)
    messages: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        messages.append(diagnostic.message_primary or "")

    connection.add_notice_handler(note)
    try:
        with _made(connection, question) as cursor:
            _copy(cursor, question.schema, question.table)
            before = {row[0] for row in cursor.execute(_OBJECTS, (_COPY, _COPY)).fetchall()}
            cursor.execute("SET LOCAL client_min_messages = debug1")
            messages.clear()
            cursor.execute(for_table(statement, f"pg_temp.{_COPY}").encode())
            answer = _answer(cursor)
            cursor.execute("SET LOCAL client_min_messages = notice")
            said = tuple(m for m in messages if _COPY in m)
            cursor.execute(f"SET LOCAL search_path = {session.CATALOG_PATH}".encode())
            made = [row[1:] for row in cursor.execute(_OBJECTS, (_COPY, _COPY)).fetchall() if row[0] not in before]
            defaults = tuple(cursor.execute(_DEFAULTS, (_COPY,)).fetchall())
    except psycopg.Error as error:
        return dataclasses.replace(facts, error=_said(error))
    finally:
        connection.remove_notice_handler(note)
    definition, columns = made[0] if len(made) == 1 else (None, ())
    return dataclasses.replace(
        facts, definition=definition, columns=tuple(columns), defaults=defaults, messages=said, answer=answer
    )


def _copy(cursor: session.Cursor, schema_name: str, table: str) -> None:
    database = cursor.connection.info.dbname
    temporary = _one(cursor, "SELECT has_database_privilege(%s, 'TEMPORARY')", (database,))[0]
    if not temporary:
        raise Unsafe(
            f"{cursor.connection.info.user} may not create temporary tables in {database}, on which a plan tries what it "
            f"would do to {schema_name}.{table}",
            hint=f"GRANT TEMPORARY ON DATABASE {ident(database)} TO {ident(cursor.connection.info.user)}",
        )
    cursor.execute(f"CREATE TEMPORARY TABLE {_COPY} (LIKE {ident(schema_name, table)} INCLUDING ALL)".encode())


def _answer(cursor: session.Cursor) -> str | None:
    """What the last of several statements returned, where it is a text."""
    while cursor.nextset():
        pass
    row = cursor.fetchone() if cursor.description else None
    return None if row is None or row[0] is None else str(row[0])


# The indexes and constraints of the copy, with the server's text of them.
_OBJECTS = """
SELECT i.indexrelid, pg_get_indexdef(i.indexrelid),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indexrelid ORDER BY a.attnum)
FROM pg_index i
WHERE i.indrelid = to_regclass('pg_temp.' || %s) AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
UNION ALL SELECT k.oid, pg_get_constraintdef(k.oid), '{}' FROM pg_constraint k
WHERE k.conrelid = to_regclass('pg_temp.' || %s)
"""

_DEFAULTS = """
SELECT a.attname, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated = ''
WHERE d.adrelid = to_regclass('pg_temp.' || %s) ORDER BY a.attnum
"""

_LABELS = "SELECT ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = %s ORDER BY e.enumsortorder)"

_VOLATILE = "SELECT EXISTS (SELECT FROM pg_proc WHERE proname = ANY (%s) AND provolatile = 'v')"


def _called(text: str) -> list[str]:
    solid = [piece for piece in tokens(text) if piece.kind not in ("space", "comment")]
    return [a.name for a, b in itertools.pairwise(solid) if a.name is not None and b.text == "("]


def _one(cursor: session.Cursor, query: LiteralString, parameters: Any = None) -> tuple[Any, ...]:
    row = cursor.execute(query, parameters).fetchone()
    assert row is not None
    return row


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
