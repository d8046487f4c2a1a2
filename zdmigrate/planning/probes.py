"""Queries that ask the catalog whether a step is done. Each returns one text: see `zdmigrate.plan.Step.probe`.

The executor runs them under ``search_path = pg_catalog``.
"""

from __future__ import annotations

from collections.abc import Iterable

from zdmigrate import schema
from zdmigrate.planning import names, sync
from zdmigrate.sqltext import ident, literal


def column(table: schema.Table, name: str, *, type_: str, moved: str | None = None) -> str:
    """Done when the column is there with this type, or a column called `moved` is: then the names have changed since."""
    there = f"column {table.schema}.{table.name}.{name} exists with another type than the plan's"
    asked = (
        "SELECT coalesce((SELECT CASE WHEN format_type(a.atttypid, a.atttypmod) = "
        f"{literal(type_)} THEN 'done' ELSE {literal(there)} END FROM {_attribute(table, name)}), 'todo')"
    )
    if moved is None:
        return asked
    return f"SELECT CASE WHEN EXISTS (SELECT FROM {_attribute(table, moved)}) THEN 'done' ELSE ({asked}) END"


def column_type(table: schema.Table, number: int, *, done: str, todo: str) -> str:
    """Done when the column is of the one type, to do while it is of the other. Its number stays when it is renamed."""
    other = f"a column of {table.schema}.{table.name} is neither {todo} nor {done}"
    return (
        f"SELECT coalesce((SELECT CASE format_type(a.atttypid, a.atttypmod) WHEN {literal(done)} THEN 'done' "
        f"WHEN {literal(todo)} THEN 'todo' ELSE {literal(other)} END FROM pg_attribute a WHERE {_at(table, number)}), "
        f"{literal(other)})"
    )


def default(table: schema.Table, at: int | str, wanted: str | None, *, instead_of_none: bool = False) -> str:
    """Done when the column, by its number or name, has this default (None: none).

    With `instead_of_none` it had none before: a third one was set by hand.
    """
    other = f"a default that is not the plan's was set on a column of {table.schema}.{table.name}"
    strange = f"WHEN d.found IS NOT NULL THEN {literal(other)} " if instead_of_none else ""
    found = (
        "(SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid "
        f"AND a.attnum = d.adnum WHERE {_at(table, at)})"
    )
    return (
        f"SELECT CASE WHEN d.found IS NOT DISTINCT FROM {_text(wanted)} THEN 'done' {strange}ELSE 'todo' END "
        f"FROM (SELECT {found}) AS d(found)"
    )


def column_comment(table: schema.Table, at: int | str, comment: str | None) -> str:
    """Done when the column, by its number or name, has this comment."""
    found = f"(SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a WHERE {_at(table, at)})"
    return _commented(found, comment)


def comment(catalog: str, object_: str, comment: str | None) -> str:
    """Done when the object has this comment; `object_` is a query for its oid in a catalog."""
    return _commented(f"obj_description(({object_}), {literal(catalog)})", comment)


def identity(table: schema.Table, number: int, *, done: tuple[str, ...], todo: str) -> str:
    """Done when the column's attidentity is in `done`."""
    other = f"a column of {table.schema}.{table.name} was made an identity, or not, by hand"
    listed = ", ".join(map(literal, done))
    return (
        f"SELECT coalesce((SELECT CASE WHEN a.attidentity IN ({listed}) THEN 'done' "
        f"WHEN a.attidentity = {literal(todo)} THEN 'todo' ELSE {literal(other)} END "
        f"FROM pg_attribute a WHERE {_at(table, number)}), {literal(other)})"
    )


def generated(table: schema.Table, name: str, *, type_: str, kind: str) -> str:
    """Done when the column is there, of this type, and generated: ``s`` stored, ``v`` virtual."""
    other = f"column {table.schema}.{table.name}.{name} exists, but is not the generated one of the plan"
    return (
        f"SELECT coalesce((SELECT CASE WHEN format_type(a.atttypid, a.atttypmod) = {literal(type_)} "
        f"AND a.attgenerated = {literal(kind)} THEN 'done' ELSE {literal(other)} END FROM {_attribute(table, name)}), 'todo')"
    )


def sequence(schema_name: str, name: str) -> str:
    """Done when there is a sequence of the name."""
    return f"SELECT CASE WHEN to_regclass({literal(ident(schema_name, name))}) IS NULL THEN 'todo' ELSE 'done' END"


def sequence_absent(schema_name: str, name: str) -> str:
    """Done when there is none."""
    return f"SELECT CASE WHEN to_regclass({literal(ident(schema_name, name))}) IS NULL THEN 'done' ELSE 'todo' END"


def columns_absent(table: schema.Table, names: tuple[str, ...]) -> str:
    """Done when the columns are gone; they go in one transaction."""
    return f"SELECT CASE WHEN EXISTS (SELECT FROM {_attribute(table, *names)}) THEN 'todo' ELSE 'done' END"


def renamed(table: schema.Table, before: str, after: str) -> str:
    """Done when `after` is there and `before` is not."""
    lost = f"neither column {before} nor {after} is in {table.schema}.{table.name}"
    return (
        f"SELECT CASE WHEN EXISTS (SELECT FROM {_attribute(table, after)}) THEN 'done' "
        f"WHEN EXISTS (SELECT FROM {_attribute(table, before)}) THEN 'todo' ELSE {literal(lost)} END"
    )


def unless_column(table: schema.Table, name: str, probe: str) -> str:
    """Done also when the column is there: then what the other probe asks for has had its time."""
    return f"SELECT CASE WHEN EXISTS (SELECT FROM {_attribute(table, name)}) THEN 'done' ELSE ({probe}) END"


def triggers(table: schema.Table, names: tuple[str, ...], *, control: str | None, last: str | None = None) -> str:
    """Done when all are there and ENABLE ALWAYS, on the table and on every partition, and still fire first and last.

    `names` begins with the one that must fire first among the BEFORE row triggers; `last` is the one that must fire
    last. Without it the table had no such triggers of its own, and must not have got any. Triggers whose functions
    are in the `control` schema are zdmigrate's; without it the order does not matter.
    """
    listed = ", ".join(literal(name) for name in names)
    there = f"FROM pg_trigger t WHERE t.tgrelid = {_oid(table)} AND t.tgname IN ({listed})"
    leaves = _tree(table)
    off = f"a sync trigger on {table.schema}.{table.name} was changed by hand (missing or not ENABLE ALWAYS)"
    out = f"a trigger was created on {table.schema}.{table.name} that fires before or after the sync triggers"
    without = (
        f"FROM ({leaves}) r(relid) CROSS JOIN unnest(ARRAY[{listed}]) n(name) WHERE NOT EXISTS "
        "(SELECT FROM pg_trigger t WHERE t.tgrelid = r.relid AND t.tgname = n.name AND t.tgenabled = 'A')"
    )
    parts = (
        "coalesce(' on ' || (SELECT string_agg(DISTINCT r.relid::regclass::text, ', ') "
        f"FILTER (WHERE r.relid <> {_oid(table)}) {without}), '')"
    )
    after = "true" if last is None else f't.tgname > {literal(last)} COLLATE "C"'
    outside = (
        "false"
        if control is None
        else (
            f"EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid IN ({leaves}) "
            "AND NOT t.tgisinternal AND t.tgtype & 3 = 3 "
            f"AND p.pronamespace <> coalesce(to_regnamespace({literal(ident(control))})::oid, 0) "
            f'AND (t.tgname < {literal(names[0])} COLLATE "C" OR {after}))'
        )
    )
    return (
        f"SELECT CASE WHEN NOT EXISTS (SELECT {there}) THEN 'todo' WHEN EXISTS (SELECT {without}) "
        f"THEN {literal(off)} || {parts} "
        f"WHEN {outside} THEN {literal(out)} ELSE 'done' END"
    )


def firing(table: schema.Table, columns: Iterable[str], *, control: str) -> str:
    """The table's own triggers that fire when this role, with what it may do now, updates `columns` in its relations.

    ``session_replication_role = replica`` keeps ordinary triggers silent, and wakes ENABLE REPLICA ones.
    """
    named = ", ".join(literal(column) for column in columns)
    return (
        "SELECT DISTINCT t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid AND c.relkind <> 'p' "
        f"JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid IN ({_tree(table)}) AND NOT t.tgisinternal "
        f"AND t.tgtype & 16 <> 0 AND p.pronamespace <> coalesce(to_regnamespace({literal(ident(control))})::oid, 0) "
        "AND t.tgenabled IN ('A', CASE WHEN has_parameter_privilege('session_replication_role', 'SET') THEN 'R' ELSE 'O' END) "
        "AND (cardinality(t.tgattr::smallint[]) = 0 OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid "
        f"AND a.attnum = ANY (t.tgattr::smallint[]) AND a.attname IN ({named}))) ORDER BY 1"
    )


def function(control: str, name: str, *, done: tuple[str, ...], todo: str) -> str:
    """Done when the function's body is that of a definition in `done`; `todo` is the one expected before."""
    changed = f"function {control}.{name} was changed by hand"
    before = f"WHEN p.prosrc = {literal(sync.body_of(todo))} THEN 'todo' "
    missing = f"function {control}.{name} is missing"
    bodies = ", ".join(literal(sync.body_of(text)) for text in done)
    return (
        f"SELECT coalesce((SELECT CASE WHEN p.prosrc IN ({bodies}) THEN 'done' {before}"
        f"ELSE {literal(changed)} END FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        f"WHERE n.nspname = {literal(control)} AND p.proname = {literal(name)}), {literal(missing)})"
    )


Relation = tuple[str, str]
"""Schema and name."""


def index(table: Relation, name: Relation, tails: tuple[str, ...], *, unique: bool, only_declared: bool = False) -> str:
    """Done when the table has the index, valid and defined as one of `tails` says.

    To be repaired when it is invalid; `only_declared`: a partitioned one is, until all its parts are attached.
    """
    other = f"index {'.'.join(name)} exists with another definition than the plan's"
    repair = "" if only_declared else "WHEN NOT i.indisvalid THEN 'repair' "
    return (
        f"SELECT coalesce((SELECT CASE WHEN i.indrelid <> {_regclass(table)} THEN {literal(other)} {repair}"
        f"WHEN {_defined(tails, unique=unique)} THEN 'done' ELSE {literal(other)} END FROM {_index(name)}), 'todo')"
    )


def index_dropped(
    table: Relation,
    name: Relation,
    tails: tuple[str, ...],
    *,
    unique: bool,
    oids: tuple[int, ...],
    comment: str | None,
    clustered: bool,
    renamed_from: Relation | None = None,
) -> str:
    """Done when it is gone; to be repaired when dropping it, or building it again, was interrupted.

    To do also where it has the name from before: a revert had renamed it back when it was interrupted.
    """
    other = f"index {'.'.join(name)} exists with another definition than the plan's"
    said = "NULL" if comment is None else literal(comment)
    whole = (
        f"i.indisvalid AND i.indisclustered = {str(clustered).lower()} "
        f"AND obj_description(i.indexrelid, 'pg_class') IS NOT DISTINCT FROM {said}"
    )
    here = f"i.indrelid = {_regclass(table)} AND ({_same(tails, unique=unique, oids=oids)})"
    gone = "'done'"
    if renamed_from is not None:
        gone = f"CASE WHEN EXISTS (SELECT FROM {_index(renamed_from)} AND {here}) THEN 'todo' ELSE 'done' END"
    return (
        f"SELECT coalesce((SELECT CASE WHEN NOT ({here}) "
        f"THEN {literal(other)} WHEN {whole} THEN 'todo' ELSE 'repair' END FROM {_index(name)}), {gone})"
    )


def index_renamed(
    table: Relation, before: Relation, after: Relation, tails: tuple[str, ...], *, unique: bool, oids: tuple[int, ...]
) -> str:
    """To do while the index has its name from before; done when the later one is that of this very index."""
    lost = f"neither {before[1]} nor {after[1]} is the index that the plan knows of {'.'.join(table)}"
    here = f"i.indrelid = {_regclass(table)} AND ({_same(tails, unique=unique, oids=oids)})"
    return (
        f"SELECT CASE WHEN EXISTS (SELECT FROM {_index(before)} AND {here}) THEN 'todo' "
        f"WHEN EXISTS (SELECT FROM {_index(after)} AND {here}) THEN 'done' ELSE {literal(lost)} END"
    )


def index_rebuilt(table: Relation, name: Relation, oids: tuple[int, ...]) -> str:
    """Done when the index is another one than those; to be repaired when an interrupted REINDEX left something."""
    lost = f"there is no index {'.'.join(name)} any more"
    return (
        f"SELECT coalesce((SELECT CASE WHEN i.indisvalid AND i.indexrelid NOT IN ({', '.join(map(str, oids))}) "
        f"THEN 'done' WHEN EXISTS ({rebuild_remains(table, name)}) THEN 'repair' ELSE 'todo' END "
        f"FROM {_index(name)} AND i.indrelid = {_regclass(table)}), {literal(lost)})"
    )


def index_remains(table: Relation, name: Relation) -> str:
    """Done when an interrupted REINDEX CONCURRENTLY has left nothing of the index behind."""
    return f"SELECT CASE WHEN EXISTS ({rebuild_remains(table, name)}) THEN 'todo' ELSE 'done' END"


def rebuild_remains(table: Relation, name: Relation) -> str:
    """A query for the invalid indexes that an interrupted REINDEX CONCURRENTLY left: the same but for their names."""
    made = ", ".join(
        literal(names.conventional(name[1], "", f"{label}{number or ''}"))
        for label in ("ccnew", "ccold")
        for number in range(10)
    )
    text = "substr(pg_get_indexdef({0}), strpos(pg_get_indexdef({0}), ' ON '))"
    return (
        "SELECT rn.nspname, rc.relname FROM pg_index r JOIN pg_class rc ON rc.oid = r.indexrelid "
        "JOIN pg_namespace rn ON rn.oid = rc.relnamespace "
        f"WHERE r.indrelid = {_regclass(table)} AND NOT r.indisvalid AND rc.relname IN ({made}) "
        f"AND {text.format('r.indexrelid')} = {text.format(_regclass(name))}"
    )


def replica_identity(table: Relation, identity: str, index: str | None) -> str:
    """Done when the table has this replica identity (pg_class.relreplident), by this index where it is one."""
    by = (
        ""
        if index is None
        else (
            f" AND EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid "
            f"WHERE i.indrelid = c.oid AND i.indisreplident AND x.relname = {literal(index)})"
        )
    )
    return (
        f"SELECT CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = {_regclass(table)} "
        f"AND c.relreplident = {literal(identity)}{by}) THEN 'done' ELSE 'todo' END"
    )


def index_complete(table: Relation, name: str) -> str:
    """Done when the partitioned index is valid; else it names the partitions that have no part of it."""
    index, shown = (table[0], name), f"{table[0]}.{name}"
    without = (
        f"SELECT string_agg(p.relid::regclass::text, ', ') FROM pg_partition_tree({_regclass(table)}) p "
        f"WHERE p.level > 0 AND NOT EXISTS (SELECT FROM pg_partition_tree(to_regclass({literal(ident(*index))})) x "
        "JOIN pg_index i ON i.indexrelid = x.relid WHERE i.indrelid = p.relid)"
    )
    remedy = f"create an index of the same definition on each CONCURRENTLY, and attach it to {shown}"
    return (
        f"SELECT CASE WHEN (SELECT bool_or(i.indisvalid) FROM {_index(index)}) THEN 'done' ELSE concat("
        f"{literal(f'{shown} is not complete; partitions without it: ')}, ({without}), {literal(f'; {remedy}')}) END"
    )


def index_comment(schema_name: str, name: str, comment: str) -> str:
    """Done when the index has this comment."""
    return (
        f"SELECT CASE WHEN obj_description(to_regclass({literal(ident(schema_name, name))}), 'pg_class') = "
        f"{literal(comment)} THEN 'done' ELSE 'todo' END"
    )


def index_attached(schema_name: str, name: str, *, completes: tuple[str, str] | None = None) -> str:
    """Done when the partition's index has a parent; `completes` is an index that must be valid then."""
    whole = ""
    if completes is not None:
        shown = ".".join(completes)
        partial = f"a partition has nothing of {shown}: it was attached after the plan was made"
        valid = (
            f"SELECT FROM pg_index i WHERE i.indexrelid = to_regclass({literal(ident(*completes))}) AND i.indisvalid"
        )
        whole = f"WHEN NOT EXISTS ({valid}) THEN {literal(partial)} "
    return (
        "SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {literal(schema_name)} "
        f"AND c.relname = {literal(name)}) THEN 'todo' {whole}ELSE 'done' END"
    )


def statistics(name: Relation) -> str:
    """Done when there is a statistics object of the name."""
    return (
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace "
        f"WHERE n.nspname = {literal(name[0])} AND s.stxname = {literal(name[1])}) THEN 'done' ELSE 'todo' END"
    )


def constraint(table: schema.Table, name: str) -> str:
    """Done when the constraint is there."""
    return f"SELECT CASE WHEN EXISTS (SELECT FROM {_constraint(table, name)}) THEN 'done' ELSE 'todo' END"


def constraint_as(table: schema.Table, name: str, definition: str | None) -> str:
    """Done when the constraint is there, validated or not, with this definition (None: with any)."""
    if definition is None:
        return constraint(table, name)
    plain = definition.replace('"', "")
    shown = f"{table.schema}.{table.name}"
    other = f"the constraint {name} of {shown} exists with another definition than the plan's ({definition})"
    return (
        "SELECT coalesce((SELECT CASE WHEN replace(pg_get_constraintdef(k.oid), '\"', '') IN "
        f"({literal(plain)}, {literal(plain + ' NOT VALID')}) THEN 'done' ELSE {literal(other)} END "
        f"FROM {_constraint(table, name)}), 'todo')"
    )


def constraint_gone(table: schema.Table, name: str, kind: str) -> str:
    """Done when there is no constraint of the name; one of another kind is another one."""
    other = f"the constraint {name} of {table.schema}.{table.name} is of another kind than the one that the plan drops"
    return (
        f"SELECT coalesce((SELECT CASE WHEN k.contype = {literal(kind)} THEN 'todo' ELSE {literal(other)} END "
        f"FROM {_constraint(table, name)}), 'done')"
    )


def constraint_renamed(table: schema.Table, before: str, after: str) -> str:
    """Done when the constraint `after` is there and `before` is not."""
    shown = f"{table.schema}.{table.name}"
    both = f"{shown} has both constraints {before} and {after}"
    lost = f"{shown} has neither constraint {before} nor {after}"
    return (
        f"SELECT CASE (SELECT array_agg(k.conname::text ORDER BY k.conname = {literal(after)}) "
        f"FROM {_constraint(table, before, after)}) WHEN ARRAY[{literal(before)}] THEN 'todo' "
        f"WHEN ARRAY[{literal(after)}] THEN 'done' WHEN ARRAY[{literal(before)}, {literal(after)}] THEN {literal(both)} "
        f"ELSE {literal(lost)} END"
    )


def constraint_absent(table: schema.Table, name: str, *, unless_column: str) -> str:
    """Done when the constraint is gone, or the column is: then a constraint of that name is another one."""
    return (
        f"SELECT CASE WHEN EXISTS (SELECT FROM {_constraint(table, name)}) "
        f"AND EXISTS (SELECT FROM {_attribute(table, unless_column)}) THEN 'todo' ELSE 'done' END"
    )


def validated(table: schema.Table, name: str) -> str:
    """Done when the constraint is validated. Before its phase begins it is not even there."""
    return f"SELECT CASE WHEN EXISTS (SELECT FROM {_constraint(table, name)} AND k.convalidated) THEN 'done' ELSE 'todo' END"


def not_null(table: schema.Table, names: tuple[str, ...], helper: str | None = None) -> str:
    """Done when the column is NOT NULL and the helping CHECK is gone."""
    helping = "" if helper is None else f" AND NOT EXISTS (SELECT FROM {_constraint(table, helper)})"
    return f"SELECT CASE WHEN {_is_not_null(table, names)}{helping} THEN 'done' ELSE 'todo' END"


def nullable(table: schema.Table, name: str, helper: str) -> str:
    """Done when the column is not NOT NULL; to be repaired when making it so again was interrupted.

    `helper` is the constraint that proves it: a CHECK, or from 18 on the NOT NULL constraint itself, which counts
    before it is validated.
    """
    half = f"SELECT FROM {_constraint(table, helper)} AND (k.contype = 'c' OR NOT k.convalidated)"
    return (
        f"SELECT CASE WHEN EXISTS ({half}) THEN 'repair' "
        f"WHEN (SELECT a.attnotnull FROM {_attribute(table, name)}) THEN 'todo' ELSE 'done' END"
    )


def triggers_absent(table: schema.Table, names: tuple[str, ...]) -> str:
    """Done when none of the triggers is there."""
    listed = ", ".join(literal(name) for name in names)
    there = f"FROM pg_trigger t WHERE t.tgrelid = {_oid(table)} AND t.tgname IN ({listed})"
    return f"SELECT CASE WHEN EXISTS (SELECT {there}) THEN 'todo' ELSE 'done' END"


def constraint_validated_or_not_null(table: schema.Table, name: str, columns: tuple[str, ...]) -> str:
    """Like `validated` for the CHECK that helps SET NOT NULL: it is gone once the column is NOT NULL."""
    return (
        f"SELECT CASE WHEN {_is_not_null(table, columns)} THEN 'done' "
        f"WHEN EXISTS (SELECT FROM {_constraint(table, name)} AND k.convalidated) THEN 'done' ELSE 'todo' END"
    )


def constraint_or_not_null(table: schema.Table, name: str, columns: tuple[str, ...]) -> str:
    """Like `constraint` for the CHECK that helps SET NOT NULL."""
    return (
        f"SELECT CASE WHEN {_is_not_null(table, columns)} "
        f"OR EXISTS (SELECT FROM {_constraint(table, name)}) THEN 'done' ELSE 'todo' END"
    )


def _defined(tails: tuple[str, ...], *, unique: bool) -> str:
    """Whether index `i` is (not) unique and its definition ends like this. Quotes come and go with other names."""
    definition = "replace(pg_get_indexdef(i.indexrelid), '\"', '')"
    texts = [literal(f" USING {tail}".replace('"', "")) for tail in dict.fromkeys(tails)]
    ends = " OR ".join(f"right({definition}, length({text})) = {text}" for text in texts)
    return f"i.indisunique = {str(unique).lower()} AND ({ends})"


def _same(tails: tuple[str, ...], *, unique: bool, oids: tuple[int, ...]) -> str:
    """Whether index `i` is one that was there when the plan was made, or is defined like it."""
    known = f"i.indexrelid IN ({', '.join(map(str, oids))}) OR " if oids else ""
    return f"{known}{_defined(tails, unique=unique)}"


def _index(name: Relation) -> str:
    return (
        "pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(name[0])} AND c.relname = {literal(name[1])}"
    )


def _regclass(name: Relation) -> str:
    return f"to_regclass({literal(ident(*name))})"


def _oid(table: schema.Table) -> str:
    return f"to_regclass({literal(ident(table.schema, table.name))})::oid"


def _tree(table: schema.Table) -> str:
    """The table, its partitions, and whatever inherits from it."""
    return (
        f"WITH RECURSIVE tree(relid) AS (SELECT {_oid(table)} UNION SELECT i.inhrelid FROM pg_inherits i "
        "JOIN tree ON i.inhparent = tree.relid) SELECT relid FROM tree"
    )


def _at(table: schema.Table, at: int | str) -> str:
    """The condition of the column `a` with this number, which stays through renames, or this name."""
    which = f"a.attnum = {at}" if isinstance(at, int) else f"a.attname = {literal(at)}"
    return f"a.attrelid = {_oid(table)} AND {which} AND NOT a.attisdropped"


def _commented(found: str, comment: str | None) -> str:
    return f"SELECT CASE WHEN {found} IS NOT DISTINCT FROM {_text(comment)} THEN 'done' ELSE 'todo' END"


def _text(value: str | None) -> str:
    return "NULL" if value is None else literal(value)


def _is_not_null(table: schema.Table, names: tuple[str, ...]) -> str:
    """Of the first column there is: a later name may be another column's now."""
    order = f"array_position(ARRAY[{', '.join(map(literal, names))}], a.attname::text)"
    return f"(SELECT a.attnotnull FROM {_attribute(table, *names)} ORDER BY {order} LIMIT 1)"


def _attribute(table: schema.Table, *names: str) -> str:
    """The columns of the table that have one of the names."""
    return (
        "pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(table.schema)} AND c.relname = {literal(table.name)} "
        f"AND a.attname IN ({', '.join(map(literal, names))}) AND NOT a.attisdropped"
    )


def _constraint(table: schema.Table, *names: str) -> str:
    return (
        "pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(table.schema)} AND c.relname = {literal(table.name)} "
        f"AND k.conname IN ({', '.join(map(literal, names))})"
    )


def is_table(schema_name: str, name: str) -> str:
    """A SQL condition: the name is a table's."""
    return f"EXISTS (SELECT FROM {_relation(schema_name, name)} AND c.relkind IN ('r', 'p'))"


def is_free(schema_name: str, name: str) -> str:
    """A SQL condition: no relation has the name."""
    return f"NOT EXISTS (SELECT FROM {_relation(schema_name, name)})"


def either(done: str, todo: str, lost: str) -> str:
    """Done where the one condition holds, to do where the other one does, else what is wrong."""
    return f"SELECT CASE WHEN {done} THEN 'done' WHEN {todo} THEN 'todo' ELSE {literal(lost)} END"


def table_with(schema_name: str, name: str, columns: tuple[tuple[str, str], ...]) -> str:
    """Done when there is a table of the name that has these columns (name, type), and maybe more by now."""
    listed = ", ".join(f"({literal(column)}, {literal(type_)})" for column, type_ in columns) or "(NULL, NULL)"
    has = (
        f"NOT EXISTS (SELECT FROM (VALUES {listed}) w(name, type) WHERE w.name IS NOT NULL AND NOT EXISTS ("
        f"SELECT FROM pg_attribute a CROSS JOIN {_relation(schema_name, name)} AND c.oid = a.attrelid "
        "AND a.attname = w.name AND NOT a.attisdropped AND format_type(a.atttypid, a.atttypmod) = w.type))"
    )
    other = f"{schema_name}.{name} exists with other columns than the plan's"
    return either(f"{is_table(schema_name, name)} AND {has}", is_free(schema_name, name), other)


def foreign_key(
    table: schema.Table, name: str, columns: tuple[str, ...], target: tuple[str, str], referenced: tuple[str, ...]
) -> str:
    """Done when the foreign key is there, from and to these columns."""

    def named(numbers: str, relation: str) -> str:
        return (
            f"ARRAY(SELECT a.attname::text FROM unnest({numbers}) WITH ORDINALITY u(attnum, place) JOIN pg_attribute a "
            f"ON a.attrelid = {relation} AND a.attnum = u.attnum ORDER BY u.place)"
        )

    same = " AND ".join(
        f"{named(*found)} = ARRAY[{', '.join(map(literal, wanted))}]"
        for found, wanted in ((("k.conkey", "k.conrelid"), columns), (("k.confkey", "k.confrelid"), referenced))
    )
    to = f"k.confrelid = to_regclass({literal(ident(*target))})::oid"
    other = f"constraint {name} of {table.schema}.{table.name} is another one than the plan's"
    return (
        f"SELECT coalesce((SELECT CASE WHEN k.contype = 'f' AND {to} AND {same} THEN 'done' ELSE {literal(other)} END "
        f"FROM {_constraint(table, name)}), 'todo')"
    )


def _relation(schema_name: str, name: str) -> str:
    """The relation of the name."""
    return (
        "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(schema_name)} AND c.relname = {literal(name)}"
    )
