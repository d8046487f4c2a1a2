"""What a database's catalog says, without oids and without the order of columns, so that two can be compared."""

from __future__ import annotations

from typing import Any

import psycopg

_SCHEMAS = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', %(control)s)"

# name -> a query for (identity, what is to be equal …)
_QUERIES = {
    "relation": f"""
        SELECT c.oid::regclass::text, c.relkind, pg_get_userbyid(c.relowner), c.relpersistence, c.relreplident,
               c.relrowsecurity, c.relispartition, coalesce(pg_get_expr(c.relpartbound, c.oid), ''),
               CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, c.reloptions, t.spcname,
               (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(c.relacl) a), obj_description(c.oid, 'pg_class')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
        WHERE c.relkind NOT IN ('t') AND {_SCHEMAS}""",
    "column": f"""
        SELECT c.oid::regclass || '.' || CASE WHEN c.relkind IN ('i', 'I') THEN a.attnum::text ELSE a.attname END,
               format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
               pg_get_expr(d.adbin, d.adrelid), co.collname, a.attstorage, a.attcompression,
               nullif(a.attstattarget, -1), a.attfdwoptions,
               -- what can be set; PostgreSQL 15.20 of Debian stamps columns with an option of its own
               (SELECT array_agg(o ORDER BY o) FROM unnest(a.attoptions) o WHERE o LIKE 'n\\_distinct%%'),
               (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(a.attacl) x), col_description(c.oid, a.attnum)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'i', 'I', 'v', 'm') AND {_SCHEMAS}""",
    "constraint": f"""
        SELECT k.conrelid::regclass || ': ' || k.conname, k.contype, pg_get_constraintdef(k.oid), k.convalidated,
               k.condeferrable, k.condeferred, k.conislocal, k.coninhcount,
               -- of keys it says nothing: it is true of those that were made on a partition before they were attached
               k.connoinherit AND k.contype IN ('c', 'n'),
               nullif(k.conindid, 0)::regclass::text, obj_description(k.oid, 'pg_constraint')
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_SCHEMAS}""",
    "index": f"""
        SELECT c.oid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indislive,
               i.indisclustered, i.indisreplident, i.indimmediate,
               (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_SCHEMAS}""",
    "trigger": f"""
        SELECT t.tgrelid::regclass || ': ' || t.tgname, pg_get_triggerdef(t.oid), t.tgenabled,
               obj_description(t.oid, 'pg_trigger')
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE NOT t.tgisinternal AND {_SCHEMAS}""",
    "sequence": f"""
        SELECT c.oid::regclass::text, format_type(s.seqtypid, -1), s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
               s.seqcache, s.seqcycle,
               (SELECT d.deptype::text || ' ' || d.refobjid::regclass || '.' || a.attname FROM pg_depend d
                JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_SCHEMAS}""",
    "function": """
        SELECT p.oid::regprocedure::text, p.prosrc, pg_get_function_sqlbody(p.oid),
               CASE WHEN n.nspname <> %(control)s THEN pg_get_userbyid(p.proowner) END,
               (SELECT array_agg(shown ORDER BY shown)
                FROM unnest(p.proacl) a,
                     regexp_replace(a::text, CASE WHEN n.nspname = %(control)s THEN '/.*' ELSE '$' END, '') shown
                WHERE n.nspname <> %(control)s OR NOT starts_with(a::text, pg_get_userbyid(p.proowner) || '=')),
               obj_description(p.oid, 'pg_proc')
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')""",
    "enum": f"""
        SELECT e.enumtypid::regtype::text, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
        FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE {_SCHEMAS} GROUP BY e.enumtypid""",
    "statistics": f"""
        SELECT n.nspname || '.' || s.stxname, s.stxkind::text, pg_get_statisticsobjdef_expressions(s.oid),
               (SELECT array_agg(a.attname ORDER BY a.attname) FROM pg_attribute a
                WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys::smallint[])), pg_get_userbyid(s.stxowner),
               nullif(s.stxstattarget, -1), obj_description(s.oid, 'pg_statistic_ext')
        FROM pg_statistic_ext s
        JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {_SCHEMAS}""",
    "default acl": """
        SELECT concat_ws(' ', pg_get_userbyid(d.defaclrole), d.defaclnamespace::regnamespace, d.defaclobjtype),
               d.defaclacl::text FROM pg_default_acl d""",
    "view": f"""
        SELECT c.oid::regclass::text, pg_get_viewdef(c.oid), c.reloptions FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {_SCHEMAS}""",
    "policy": f"""
        SELECT c.oid::regclass || ': ' || p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
               pg_get_expr(p.polwithcheck, p.polrelid), p.polroles::regrole[]::text, obj_description(p.oid, 'pg_policy')
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_SCHEMAS}""",
    "publication": """
        SELECT pubname || ': ' || schemaname || '.' || tablename,
               (SELECT array_agg(a ORDER BY a) FROM unnest(attnames) a), rowfilter
        FROM pg_publication_tables""",
    "read switch": "SELECT name, percent FROM {control}.read_switch",
}

Catalog = dict[str, tuple[Any, ...]]


def read(connection: psycopg.Connection[Any], *, control: str = "zdmigrate", ignore: tuple[str, ...] = ()) -> Catalog:
    """Everything by its identity; of the control schema only its functions and read switches."""
    found: Catalog = {}
    there = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (control,)).fetchone()
    for kind, query in _QUERIES.items():
        if kind in ignore or (kind == "read switch" and there != (True,)):
            continue
        text = query.replace("{control}", control)
        rows = connection.execute(text.encode(), {"control": control} if "%(control)s" in text else None).fetchall()
        found |= {f"{kind} {row[0]}": tuple(row[1:]) for row in rows}
    return found


def difference(left: Catalog, right: Catalog) -> list[str]:
    """What differs, for people; empty where nothing does."""
    lines = [f"- {key} {left[key]}" for key in sorted(left) if left[key] != right.get(key)]
    return lines + [f"+ {key} {right[key]}" for key in sorted(right) if right[key] != left.get(key)]
