"""Queries that ask the catalog whether a step is done. Each returns one text: see `zdmigrate.plan.Step.probe`.

The executor runs them under ``search_path = pg_catalog``.
"""

from __future__ import annotations

from zdmigrate import schema
from zdmigrate.planning import sync
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


def column_type(table: schema.Table, name: str, *, done: str, todo: str) -> str:
    """Done when the column is of the one type, to do while it is of the other."""
    other = f"column {table.schema}.{table.name}.{name} is neither {todo} nor {done}"
    return (
        f"SELECT coalesce((SELECT CASE format_type(a.atttypid, a.atttypmod) WHEN {literal(done)} THEN 'done' "
        f"WHEN {literal(todo)} THEN 'todo' ELSE {literal(other)} END FROM {_attribute(table, name)}), {literal(other)})"
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


def triggers(table: schema.Table, names: tuple[str, ...], *, control: str | None, last: str | None = None) -> str:
    """Done when all are there and ENABLE ALWAYS, on the table and on every partition, and still fire first and last.

    `names` begins with the one that must fire first among the BEFORE row triggers; `last` is the one that must fire
    last. Without it the table had no such triggers of its own, and must not have got any. Triggers whose functions
    are in the `control` schema are zdmigrate's; without it the order does not matter.
    """
    listed = ", ".join(literal(name) for name in names)
    there = f"FROM pg_trigger t WHERE t.tgrelid = {_oid(table)} AND t.tgname IN ({listed})"
    leaves = (
        f"WITH RECURSIVE tree(relid) AS (SELECT {_oid(table)} UNION SELECT i.inhrelid FROM pg_inherits i "
        "JOIN tree ON i.inhparent = tree.relid) SELECT relid FROM tree"
    )
    off = f"a sync trigger on {table.schema}.{table.name} was changed by hand (missing or not ENABLE ALWAYS)"
    out = f"a trigger was created on {table.schema}.{table.name} that fires before or after the sync triggers"
    complete = (
        f"(SELECT count(*) FROM ({leaves}) r(relid) CROSS JOIN unnest(ARRAY[{listed}]) n(name) WHERE NOT EXISTS "
        "(SELECT FROM pg_trigger t WHERE t.tgrelid = r.relid AND t.tgname = n.name AND t.tgenabled = 'A')) = 0"
    )
    after = "true" if last is None else f't.tgname > {literal(last)} COLLATE "C"'
    outside = (
        "false"
        if control is None
        else (
            f"EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = {_oid(table)} "
            "AND NOT t.tgisinternal AND t.tgtype & 3 = 3 "
            f"AND p.pronamespace <> coalesce(to_regnamespace({literal(ident(control))})::oid, 0) "
            f'AND (t.tgname < {literal(names[0])} COLLATE "C" OR {after}))'
        )
    )
    return (
        f"SELECT CASE WHEN NOT EXISTS (SELECT {there}) THEN 'todo' WHEN NOT {complete} THEN {literal(off)} "
        f"WHEN {outside} THEN {literal(out)} ELSE 'done' END"
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


def index(schema_name: str, name: str, tails: tuple[str, ...]) -> str:
    """Done when the index is there, valid and defined as one of `tails` says; to be repaired when it is invalid."""
    definition = "replace(pg_get_indexdef(i.indexrelid), '\"', '')"
    expected = [literal(tail.replace('"', "")) for tail in dict.fromkeys(tails)]
    as_expected = " OR ".join(f"right({definition}, length({text})) = {text}" for text in expected)
    other = f"index {schema_name}.{name} exists with another definition than the plan's"
    return (
        "SELECT coalesce((SELECT CASE WHEN NOT i.indisvalid THEN 'repair' "
        f"WHEN {as_expected} THEN 'done' "
        f"ELSE {literal(other)} END FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(schema_name)} AND c.relname = {literal(name)}), 'todo')"
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


def index_exists(schema_name: str, name: str) -> str:
    """Done when there is an index of the name, valid or not (a partitioned one is invalid until all are attached)."""
    return (
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = {literal(schema_name)} AND c.relname = {literal(name)} AND c.relkind IN ('i', 'I')) "
        "THEN 'done' ELSE 'todo' END"
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


def _oid(table: schema.Table) -> str:
    return f"to_regclass({literal(ident(table.schema, table.name))})::oid"


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
