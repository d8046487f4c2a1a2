"""A whole database as its clients see it: what they can name, what it accepts, and what tells two states apart."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import tokens

__all__ = ["Column", "ForeignKey", "Relation", "Shapes", "read"]

Name = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. `type` is what ``format_type`` prints, `base` the name in pg_type of what is under its domains,
    `modifier` that one's type modifier (-1: none). `filled`: the server has a value where none is given."""

    name: str
    type: str
    base: str
    modifier: int = -1
    labels: tuple[str, ...] = ()
    not_null: bool = False
    filled: bool = False
    identity: str = ""
    generated: str = ""
    number: int = dataclasses.field(default=0, compare=False)
    """It stays when the column gets another name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """Columns that must be found in another relation. `acts`: a DELETE or UPDATE there changes rows here."""

    columns: tuple[str, ...]
    target: Name
    remote: tuple[str, ...]
    acts: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table or view. `unique` are the sets of columns that ``ON CONFLICT`` can name, the primary key first.

    `definition` is everything that may change what a client can do; `uses` are the relations that a view or a policy
    reads, and the partitions and children; `functions` are those of triggers, defaults, constraints, indexes, policies
    and views, the sequences of defaults, and the types of columns with those inside of them. `checks` are the conditions
    of CHECK constraints, of its domains and of partitions. `excluding` are columns of exclusion constraints and of
    deferrable keys, the last of each.
    """

    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    references: tuple[ForeignKey, ...] = ()
    checks: tuple[str, ...] = ()
    excluding: tuple[str, ...] = ()
    uses: tuple[Name, ...] = ()
    functions: tuple[str, ...] = ()
    definition: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Everything outside the server's own schemas and the control schema. `path` is the clients' search path.

    `functions` are the texts of functions, `others` is what is known of everything else that statements name (sequences,
    types, aggregates, functions in C); both by the name without a schema.
    """

    relations: Mapping[Name, Relation]
    path: tuple[str, ...]
    functions: Mapping[str, str]
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def find(self, name: str, schema: str | None = None) -> Relation | None:
        """What a client means by a name."""
        homes = self.path if schema is None else (schema,)
        return next((found for home in homes if (found := self.relations.get((home, name))) is not None), None)

    def differing(self, other: Shapes) -> frozenset[str]:
        """The names, without schemas, of what is not the same in both."""
        ours, theirs = self._everything(), other._everything()
        return frozenset(name[-1] for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))

    def _everything(self) -> Mapping[tuple[str, ...], object]:
        found: dict[tuple[str, ...], object] = dict(self.relations.items())
        found |= {("function", "", name): text for name, text in self.functions.items()}
        return found | {("other", "", name): text for name, text in self.others.items()}

    def reaching(self, names: frozenset[str]) -> frozenset[str]:
        """`names`, and the names of everything whose use may end in using them: views, triggers, functions, foreign keys.

        A foreign key that only checks goes no further than to its other end; one that acts does.
        """
        found = set(names)
        while True:
            more = {name for name, text in self.functions.items() if _mentions(text, found)}
            for relation in self.relations.values():
                if not found.isdisjoint({*(name for _, name in relation.uses), *relation.functions}):
                    more.add(relation.name)
                if relation.name in found:
                    more |= {key.target[1] for key in relation.references if key.acts}
            if more <= found:
                return frozenset(found | set(self._neighbours(found)))
            found |= more

    def _neighbours(self, names: set[str]) -> Iterator[str]:
        for relation in self.relations.values():
            for key in relation.references:
                if relation.name in names or key.target[1] in names:
                    yield from (relation.name, key.target[1])


def _mentions(text: str, names: set[str]) -> bool:
    return any(token.name in names for token in tokens(text))


def read(connection: Connection, *, control_schema: str) -> Shapes:
    """The database's shapes, for the search path of this role.

    Locks: ACCESS SHARE on the catalogs.
    """
    outside = {"hidden": ["pg_catalog", "information_schema", "pg_toast", control_schema]}

    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query.encode(), outside).fetchall()

    columns: dict[int, list[Column]] = defaultdict(list)
    for oid, *values in rows(_COLUMNS):
        columns[oid].append(_column(values))
    keys: dict[int, list[ForeignKey]] = defaultdict(list)
    for oid, ours, schema, table, theirs, acts in rows(_REFERENCES):
        keys[oid].append(ForeignKey(columns=tuple(ours), target=(schema, table), remote=tuple(theirs), acts=acts))
    unique: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for oid, names in rows(_UNIQUE):
        unique[oid].append(tuple(names))
    found = {}
    for oid, schema, name, kind, key, checks, excluding, uses, functions, definition in rows(_RELATIONS):
        found[schema, name] = Relation(
            schema=schema, name=name, kind=kind, columns=tuple(columns[oid]), key=tuple(key),
            unique=tuple(unique[oid]), references=tuple(keys[oid]), checks=tuple(checks), excluding=tuple(excluding),
            uses=tuple((home, used) for home, used in uses), functions=tuple(functions), definition=tuple(definition),
        )  # fmt: skip
    path = connection.execute(_PATH).fetchone()
    assert path is not None
    return Shapes(relations=found, path=tuple(path[0]), functions=dict(rows(_FUNCTIONS)), others=dict(rows(_OTHERS)))


def _column(values: list[Any]) -> Column:
    name, type_, base, modifier, labels, not_null, filled, identity, generated, number = values
    return Column(
        name=name, type=type_, base=base, modifier=modifier, labels=tuple(labels), not_null=not_null, filled=filled,
        identity=identity, generated=generated, number=number,
    )  # fmt: skip


# A new session's search path, whatever this one has set for itself.
_PATH = b"""
SELECT array_agg(s::text) FROM unnest(current_schemas(false)) s
"""

_FROM = """
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> ALL (%(hidden)s) AND n.nspname NOT LIKE 'pg\\_t%%'
"""

_COLUMNS = f"""
WITH RECURSIVE base(type, modifier, oid, bound) AS (
    SELECT t.oid, -1, t.oid, false FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT t.oid, CASE WHEN t.typtypmod = -1 THEN b.modifier ELSE t.typtypmod END, b.oid, b.bound OR t.typnotnull
    FROM pg_type t JOIN base b ON t.typbasetype = b.type WHERE t.typtype = 'd'
)
SELECT r.oid::bigint, a.attname::text, format_type(a.atttypid, a.atttypmod), y.typname::text,
       CASE WHEN a.atttypmod = -1 THEN b.modifier ELSE a.atttypmod END,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = CASE WHEN y.typelem <> 0 THEN y.typelem ELSE y.oid END
             ORDER BY e.enumsortorder),
       a.attnotnull OR b.bound, a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL,
       a.attidentity::text, a.attgenerated::text, a.attnum
FROM (SELECT c.oid {_FROM}) r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
JOIN base b ON b.type = a.atttypid JOIN pg_type y ON y.oid = b.oid
WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum
"""

_REFERENCES = f"""
SELECT r.oid::bigint,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON (a.attrelid, a.attnum) = (k.conrelid, u.n) ORDER BY u.i),
       fn.nspname::text, f.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON (a.attrelid, a.attnum) = (k.confrelid, u.n) ORDER BY u.i),
       k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')
FROM (SELECT c.oid {_FROM}) r JOIN pg_constraint k ON k.conrelid = r.oid AND k.contype = 'f' AND k.conparentid = 0
JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
ORDER BY 1, k.conname
"""

_UNIQUE = f"""
SELECT r.oid::bigint,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY u(n, p)
             JOIN pg_attribute a ON (a.attrelid, a.attnum) = (i.indrelid, u.n) ORDER BY u.p)
FROM (SELECT c.oid {_FROM}) r JOIN pg_index i ON i.indrelid = r.oid
WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY 1, NOT i.indisprimary, i.indexrelid::regclass::text
"""

# What hangs on a relation, and may use something else.
_PARTS = """(
             SELECT 'pg_rewrite'::regclass::oid AS classid, w.oid AS objid, true AS reads FROM pg_rewrite w
                       WHERE w.ev_class = c.oid
             UNION ALL SELECT 'pg_policy'::regclass, o.oid, true FROM pg_policy o WHERE o.polrelid = c.oid
             UNION ALL SELECT 'pg_attrdef'::regclass, e.oid, false FROM pg_attrdef e WHERE e.adrelid = c.oid
             UNION ALL SELECT 'pg_constraint'::regclass, k.oid, false FROM pg_constraint k WHERE k.conrelid = c.oid
             UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, false FROM pg_index i WHERE i.indrelid = c.oid
             UNION ALL SELECT 'pg_trigger'::regclass, t.oid, false FROM pg_trigger t
                       WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
       ) p"""

_RELATIONS = f"""
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text,
       ARRAY(SELECT a.attname::text FROM pg_constraint k CROSS JOIN unnest(k.conkey) WITH ORDINALITY u(n, i)
             JOIN pg_attribute a ON (a.attrelid, a.attnum) = (k.conrelid, u.n)
             WHERE k.conrelid = c.oid AND k.contype = 'p' ORDER BY u.i),
       ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.contype = 'c' AND k.conrelid = c.oid
             UNION SELECT concat(quote_ident(a.attname), ' ', pg_get_constraintdef(k.oid)) FROM pg_attribute a
                   JOIN pg_constraint k ON k.contypid = a.atttypid AND k.contype = 'c' WHERE a.attrelid = c.oid
             UNION SELECT concat(pg_get_partkeydef(t.parentrelid), ' ', pg_get_expr(p.relpartbound, p.oid))
                   FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid WHERE t.level > 0 AND c.relkind = 'p'
             ORDER BY 1),
       ARRAY(SELECT a.attname::text FROM pg_constraint k JOIN pg_attribute a
             ON a.attrelid = k.conrelid AND a.attnum = k.conkey[array_upper(k.conkey, 1)]
             WHERE k.conrelid = c.oid AND (k.contype = 'x' OR k.contype IN ('p', 'u') AND k.condeferrable) ORDER BY 1),
       ARRAY(SELECT ARRAY[un.nspname::text, u.relname::text] FROM pg_depend d JOIN {_PARTS} USING (classid, objid)
             JOIN pg_class u ON u.oid = d.refobjid JOIN pg_namespace un ON un.oid = u.relnamespace
             WHERE d.refclassid = 'pg_class'::regclass AND p.reads AND u.oid <> c.oid
             UNION SELECT ARRAY[un.nspname::text, u.relname::text] FROM pg_inherits h
             JOIN pg_class u ON u.oid = h.inhrelid JOIN pg_namespace un ON un.oid = u.relnamespace
             WHERE h.inhparent = c.oid ORDER BY 1),
       ARRAY(SELECT f.proname::text FROM pg_depend d JOIN {_PARTS} USING (classid, objid)
             JOIN pg_proc f ON f.oid = d.refobjid WHERE d.refclassid = 'pg_proc'::regclass
             UNION SELECT s.relname::text FROM pg_depend d JOIN {_PARTS} USING (classid, objid)
             JOIN pg_class s ON s.oid = d.refobjid WHERE d.refclassid = 'pg_class'::regclass AND s.relkind = 'S'
             UNION SELECT y.typname::text FROM pg_attribute a
             CROSS JOIN LATERAL (
                 WITH RECURSIVE inner_(oid) AS (
                     SELECT a.atttypid
                     UNION SELECT part.oid FROM inner_ i JOIN pg_type t ON t.oid = i.oid
                     LEFT JOIN pg_attribute m ON m.attrelid = t.typrelid AND m.attnum > 0 AND NOT m.attisdropped
                     CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype), (m.atttypid)) part(oid) WHERE part.oid <> 0
                 ) SELECT oid FROM inner_
             ) used JOIN pg_type y ON y.oid = used.oid JOIN pg_namespace yn ON yn.oid = y.typnamespace
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND yn.nspname <> ALL (%(hidden)s)
             ORDER BY 1),
       ARRAY(
             SELECT concat_ws(' ', c.relowner, n.nspacl::text, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
                              c.reloptions::text, pg_get_viewdef(c.oid))
             UNION ALL SELECT concat_ws(' ', a.attname, pg_get_expr(e.adbin, e.adrelid)) FROM pg_attrdef e
                       JOIN pg_attribute a ON (a.attrelid, a.attnum) = (e.adrelid, e.adnum) WHERE e.adrelid = c.oid
             UNION ALL SELECT concat_ws(' ', k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.conrelid = c.oid
             UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
                       WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) AND i.indisready
             UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled) FROM pg_trigger t
                       WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
             UNION ALL SELECT concat_ws(' ', o.polname, o.polcmd, o.polpermissive, o.polroles::regrole[]::text,
                                        pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
                       FROM pg_policy o WHERE o.polrelid = c.oid
             UNION ALL SELECT pg_get_ruledef(w.oid) FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN'
             UNION ALL SELECT p.pubname FROM pg_publication p WHERE p.puballtables
                       OR EXISTS (SELECT FROM pg_publication_rel r WHERE (r.prpubid, r.prrelid) = (p.oid, c.oid))
                       OR EXISTS (SELECT FROM pg_publication_namespace s WHERE (s.pnpubid, s.pnnspid) = (p.oid, n.oid))
             UNION ALL SELECT concat_ws(' ', a.attname, a.attcollation::regcollation) FROM pg_attribute a
                       JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0
                       AND NOT a.attisdropped AND a.attcollation <> t.typcollation
             UNION ALL SELECT unnest(c.relacl)::text
             UNION ALL SELECT concat_ws(' ', a.attname, unnest(a.attacl)) FROM pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY 1)
{_FROM} ORDER BY 2, 3
"""

# What can be said of any function. What extensions bring is many, and has no text that names anything.
_FUNCTION = """
concat_ws(' ', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosrc, pg_get_function_sqlbody(p.oid),
          p.prosecdef, p.provolatile, p.proisstrict, p.proconfig::text, p.proowner, p.proacl::text, n.nspacl::text)
"""

_FUNCTIONS = f"""
SELECT p.proname::text, string_agg({_FUNCTION}, E'\\n' ORDER BY p.oid::regprocedure::text)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname <> ALL (%(hidden)s) AND l.lanname NOT IN ('internal', 'c')
GROUP BY p.proname
"""

_OTHERS = f"""
SELECT o.name, string_agg(o.text, E'\\n' ORDER BY o.text) FROM (
    SELECT n.oid, p.proname::text AS name, {_FUNCTION} AS text
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE l.lanname IN ('internal', 'c')
    UNION ALL
    SELECT n.oid, c.relname, concat_ws(' ', n.nspname, c.relowner, c.relacl::text, n.nspacl::text,
           s.seqtypid::regtype, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT n.oid, t.typname, concat_ws(' ', n.nspname, t.typtype, t.typnotnull, t.typdefault, t.typacl::text, n.nspacl::text,
           format_type(t.typbasetype, t.typtypmod),
           (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
           (SELECT string_agg(pg_get_constraintdef(k.oid), ',' ORDER BY k.conname) FROM pg_constraint k
            WHERE k.contypid = t.oid),
           (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ',' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typcategory <> 'A' AND (t.typrelid = 0 OR c.relkind = 'c')
    UNION ALL
    SELECT n.oid, l.collname, concat_ws(' ', n.nspname, to_jsonb(l) - 'oid' - 'collversion')
    FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
    UNION ALL
    SELECT n.oid, g.cfgname, concat_ws(' ', n.nspname, (
           SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapseqno, m.mapdict::regdictionary), ',' ORDER BY 1)
           FROM pg_ts_config_map m WHERE m.mapcfg = g.oid))
    FROM pg_ts_config g JOIN pg_namespace n ON n.oid = g.cfgnamespace
) o(home, name, text) JOIN pg_namespace n ON n.oid = o.home
WHERE n.nspname <> ALL (%(hidden)s) AND n.nspname NOT LIKE 'pg\\_t%%'
GROUP BY o.name
"""
