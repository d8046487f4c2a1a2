"""Random tables with random rows, as DDL, and what a generator of migrations has to know about them.

What is drawn here changes while a migration is drawn: each change sees the tables as the changes before it leave them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from hypothesis import strategies as st

from zdmigrate.sqltext import ident

VALUES = {
    "integer": "({n})::integer",
    "bigint": "({n})::bigint * 1000",
    "text": "'text ' || {n}",
    "character varying(40)": "'some ' || {n}",
    "numeric(12,2)": "({n} / 4.0)::numeric(12,2)",
    "numeric(14,4)": "({n} / 4.0)::numeric(14,4)",
    "boolean": "({n} % 2 = 0)",
    "timestamp with time zone": "'2026-01-01 00:00:00+00'::timestamptz + {n} * interval '1 hour'",
    "date": "'2026-01-01'::date + ({n})::integer",
    "jsonb": "jsonb_build_object('n', {n})",
    "text[]": "ARRAY['a', ({n})::text]",
    "int4range": "int4range(({n})::integer, ({n})::integer + 1)",
    "uuid": "md5(({n})::text)::uuid",
}
"""Type -> an expression for a value of it; different numbers give different ones, except for boolean."""

TYPES = sorted(VALUES.keys() - {"numeric(14,4)"})
TABLES = ["t", "Some Table", 'the "odd" ünit', "y" * 63, "users"]
SCHEMAS = ["public", "public", "My Schema", "überall"]
COLUMNS = ["a", "b", "Some Column", "größe", 'with "quote"', "order", "x" * 63, "é" * 31, "c", "it's %s"]
REFERENCES = ("ref", "Ref é", "ref_2")
"""Columns called so hold the id of the other table's first row, whatever else is written."""
ID = "id"
OWNER = "random_owner"


@dataclasses.dataclass(slots=True)
class Field:
    """A column: its name now, and what limits the changes of it."""

    name: str
    type: str
    not_null: bool
    default: str | None = None
    fresh: bool = False
    """Whether the migration adds it."""
    generated: bool = False
    pinned: bool = False
    """Whether something depends on it that does not let it be dropped or get another type."""
    changed: set[str] = dataclasses.field(default_factory=set)
    """What the migration changes of it already: its "type", whether it may be "null", its "default", its "comment"."""

    @property
    def sql(self) -> str:
        return ident(self.name)

    @property
    def reference(self) -> bool:
        return self.name in REFERENCES

    def value(self, number: str) -> str:
        return value(self.name, self.type, number)


@dataclasses.dataclass(slots=True)
class Item:
    """An index or a constraint: "i", or what pg_constraint says. `used`: the migration is about it already."""

    name: str
    kind: str
    columns: tuple[Field, ...]
    unique: bool = False
    whole: bool = True
    """Whether it is neither partial nor made of expressions."""
    fresh: bool = False
    used: bool = False


@dataclasses.dataclass(slots=True)
class Table:
    schema: str
    name: str
    fields: list[Field]
    items: list[Item] = dataclasses.field(default_factory=list)
    numbered: str = "identity"
    """How rows get their id: by an "identity", a "serial", or by the application ("no")."""
    rows: int = 0
    parted: bool = False
    fresh: bool = False
    published: bool = False
    identified: str = "default"
    """The replica identity."""
    relied_on: bool = False
    """Whether views or foreign keys of others depend on it."""
    touched: bool = False
    closed: bool = False
    """Whether the migration renames or drops it, so that nothing else may be about it."""

    @property
    def sql(self) -> str:
        return ident(self.schema, self.name)

    @property
    def keyed(self) -> bool:
        return any(item.kind == "p" for item in self.items)

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)

    def free(self, wanted: Iterable[str]) -> list[str]:
        return [name for name in wanted if self.field(name) is None]


def value(name: str, type_: str, number: str) -> str:
    """An expression for a value of a column."""
    return "1" if name in REFERENCES else f"({VALUES[type_].format(n=number)})"


def tables(draw: st.DrawFn, major: int) -> tuple[list[Table], list[str]]:
    """One or two tables, the second one perhaps with a foreign key to the first, and the statements that make them."""
    names = draw(st.lists(st.sampled_from(TABLES), min_size=1, max_size=2, unique=True))
    schema_name = draw(st.sampled_from(SCHEMAS))
    statements = [] if schema_name == "public" else [f"CREATE SCHEMA {ident(schema_name)}"]
    made = list[Table]()
    for name in names:
        table = _table(draw, schema_name, name, made, major)
        statements += _statements(draw, table, made, major)
        made.append(table)
    return made, statements


def _table(draw: st.DrawFn, schema_name: str, name: str, others: list[Table], major: int) -> Table:
    rows = draw(st.sampled_from([0, 1, 60]))
    fields = [
        Field(column, draw(st.sampled_from(TYPES)), not_null=draw(st.booleans()))
        for column in draw(st.lists(st.sampled_from(COLUMNS), min_size=3, max_size=5, unique=True))
    ]
    if (others and others[0].rows) or (rows and draw(st.booleans())):
        fields.append(Field(REFERENCES[0], "bigint", not_null=draw(st.booleans())))
    for field in fields:
        field.default = field.value("7") if not field.reference and draw(st.integers(0, 2)) == 0 else None
    parted = draw(st.integers(0, 3)) == 0
    numbered = draw(st.sampled_from(["identity", "identity", "serial", "no"]))
    if parted and major < 17 and numbered == "identity":
        numbered = "serial"
    table = Table(schema_name, name, fields, numbered=numbered, rows=rows, parted=parted)
    if draw(st.integers(0, 3)):
        key = (
            Field(ID, "bigint", not_null=True),
            *(f for f in fields[:1] if f.not_null and draw(st.integers(0, 5)) == 0),
        )
        table.items.append(Item(f"key {len(others)}", "p", key, unique=True))
    return table


def _statements(draw: st.DrawFn, table: Table, others: list[Table], major: int) -> Iterator[str]:
    number = len(others)
    yield from _made(draw, table, number)
    yield from _filled(table)
    yield from _indexed(draw, table, number)
    yield from _constrained(draw, table, others)
    yield from _depended_on(draw, table, number, major)


def _made(draw: st.DrawFn, table: Table, number: int) -> Iterator[str]:
    kind = {
        "identity": "bigint GENERATED BY DEFAULT AS IDENTITY", "serial": "bigserial", "no": "bigint NOT NULL",
    }[table.numbered]  # fmt: skip
    columns = [f"{ident(ID)} {kind}"]
    for field in table.fields:
        collate = ' COLLATE "C"' if field.type == "text" and draw(st.integers(0, 4)) == 0 else ""
        default = f" DEFAULT {field.default}" if field.default else ""
        columns.append(f"{field.sql} {field.type}{collate}{default}{' NOT NULL' if field.not_null else ''}")
    source = next((field for field in table.fields if field.type == "text"), None)
    if source is not None and draw(st.integers(0, 4)) == 0:
        source.pinned = True
        table.fields.append(Field("made", "text", not_null=False, generated=True, pinned=True))
        columns.append(f"made text GENERATED ALWAYS AS (upper({source.sql})) STORED")
    columns += [f"CONSTRAINT {ident(item.name)} PRIMARY KEY ({_listed(item.columns)})" for item in table.items]
    by = f" PARTITION BY RANGE ({ident(ID)})" if table.parted else ""
    yield f"CREATE TABLE {table.sql} ({', '.join(columns)}){by}"
    if table.parted:
        yield from _parts(draw, table, number)


def _parts(draw: st.DrawFn, table: Table, number: int) -> Iterator[str]:
    """Two partitions, the second one perhaps partitioned itself."""

    def part(name: str, of: str, rest: str) -> str:
        return f"CREATE TABLE {ident(table.schema, f'{name} of {number}')} PARTITION OF {of} {rest}"

    yield part("first", table.sql, "FOR VALUES FROM (MINVALUE) TO (20)")
    deep = draw(st.booleans())
    yield part("rest", table.sql, "FOR VALUES FROM (20) TO (MAXVALUE)" + " PARTITION BY HASH (id)" * deep)
    for remainder in range(2 * deep):
        rest = ident(table.schema, f"rest of {number}")
        yield part(f"rest {remainder}", rest, f"FOR VALUES WITH (MODULUS 2, REMAINDER {remainder})")


def _filled(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    written = [field for field in table.fields if not field.generated]
    names = [f.sql for f in written]
    values = [f.value("n") if f.not_null else f"CASE WHEN n % 3 > 0 THEN {f.value('n')} END" for f in written]
    if table.numbered == "no":
        names, values = [ident(ID), *names], ["n", *values]
    yield (
        f"INSERT INTO {table.sql} ({', '.join(names)}) SELECT {', '.join(values)} FROM generate_series(1, {table.rows}) n"
    )


def _indexed(draw: st.DrawFn, table: Table, number: int) -> Iterator[str]:
    plain = [field for field in table.fields if field.type != "jsonb"]
    for place in range(draw(st.integers(0, 2)) if plain else 0):
        columns = tuple(draw(st.lists(st.sampled_from(plain), min_size=1, max_size=2, unique_by=_name)))
        name = f'index "{place}" of {number}'
        kind = draw(st.sampled_from(["plain", "partial", "expression", "unique"]))
        if kind == "unique" and not table.parted and _distinct(columns):
            table.items.append(Item(name, "i", columns, unique=True))
            yield f"CREATE UNIQUE INDEX {ident(name)} ON {table.sql} ({_listed(columns)})"
            continue
        table.items.append(Item(name, "i", columns, whole=kind in ("plain", "unique")))
        keys = (
            f"(({columns[0].sql}::text))"
            if kind == "expression" and columns[0].type == "text"
            else f"({_listed(columns)})"
        )
        where = f" WHERE {columns[0].sql} IS NOT NULL" if kind == "partial" else ""
        yield f"CREATE INDEX {ident(name)} ON {table.sql} {keys}{where}"


def _constrained(draw: st.DrawFn, table: Table, others: list[Table]) -> Iterator[str]:
    def add(name: str, kind: str, columns: tuple[Field, ...], clause: str, *, unique: bool = False) -> str:
        table.items.append(Item(name, kind, columns, unique=unique))
        return f"ALTER TABLE {table.sql} ADD CONSTRAINT {ident(name)} {clause}"

    number = len(others)
    checked = [field for field in table.fields if not field.generated and not field.reference]
    limited = [field for field in checked if field.type != "boolean"]
    if draw(st.booleans()) and limited:
        field = draw(st.sampled_from(limited))
        yield add(f"check of {number}", "c", (field,), f"CHECK ({field.sql} IS DISTINCT FROM {field.value('123456')})")
    singles = [field for field in checked if _distinct([field])]
    if singles and not table.parted and draw(st.integers(0, 2)) == 0:
        field = draw(st.sampled_from(singles))
        yield add(f"unique of {number}", "u", (field,), f"UNIQUE ({field.sql})", unique=True)
    reference = table.field(REFERENCES[0])
    targets = [each for each in [*others, table] if referable(each)]
    if reference is None or not targets or not draw(st.booleans()):
        return
    target = draw(st.sampled_from(targets))
    target.relied_on = True
    yield add(
        f"foreign key of {number}", "f", (reference,), f"FOREIGN KEY ({reference.sql}) REFERENCES {target.sql} ({ID})"
    )


def _depended_on(draw: st.DrawFn, table: Table, number: int, major: int) -> Iterator[str]:
    """What hangs on a table, or on its columns."""
    kinds = [
        "view",
        "materialized view",
        "policy",
        "statistics",
        "trigger",
        "publication",
        "privileges",
        "comment",
        "storage",
    ]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3, unique=True)):
        yield from _DEPENDENTS[kind](draw(st.sampled_from(table.fields)), table, number)


def _view(field: Field, table: Table, number: int) -> Iterator[str]:
    field.pinned = table.relied_on = True
    yield f"CREATE VIEW {ident(table.schema, f'view of {number}')} AS SELECT {ident(ID)}, {field.sql} FROM {table.sql}"


def _matview(field: Field, table: Table, number: int) -> Iterator[str]:
    field.pinned = table.relied_on = True
    name = ident(table.schema, f"matview of {number}")
    yield f"CREATE MATERIALIZED VIEW {name} AS SELECT {ident(ID)}, {field.sql} AS seen FROM {table.sql}"


def _policy(field: Field, table: Table, _: int) -> Iterator[str]:
    field.pinned = True
    yield f"CREATE POLICY {ident('policy')} ON {table.sql} USING ({field.sql} IS NOT NULL)"
    yield f"ALTER TABLE {table.sql} ENABLE ROW LEVEL SECURITY"


def _statistics(field: Field, table: Table, number: int) -> Iterator[str]:
    others = [each for each in table.fields if each is not field and not each.generated]
    if not others or "jsonb" in (field.type, others[0].type):
        return
    name = ident(table.schema, f"stats of {number}")
    yield f"CREATE STATISTICS {name} ON {field.sql}, {others[0].sql} FROM {table.sql}"


def _trigger(field: Field, table: Table, number: int) -> Iterator[str]:
    field.pinned = True
    function = ident(table.schema, f"touch {number}")
    yield f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
    of = "UPDATE" if field.generated else f"UPDATE OF {field.sql}"
    yield f"CREATE TRIGGER {ident('touched')} BEFORE INSERT OR {of} ON {table.sql} FOR EACH ROW EXECUTE FUNCTION {function}()"


def _publication(_: Field, table: Table, number: int) -> Iterator[str]:
    if not table.keyed and any(each.generated for each in table.fields):
        # What is generated is not published, but belongs to the identity: PostgreSQL 18 refuses.
        return
    table.published = True
    if not table.keyed:
        table.identified = "full"
        yield f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL"
        if table.parted:  # it is not inherited
            return
    yield f"CREATE PUBLICATION {ident(f'publication {number}')} FOR TABLE {table.sql}"


def _privileges(field: Field, table: Table, _: int) -> Iterator[str]:
    yield f"GRANT SELECT ({field.sql}), UPDATE ({field.sql}) ON {table.sql} TO PUBLIC"
    yield f"GRANT SELECT, INSERT ON {table.sql} TO PUBLIC"


def _comment(field: Field, table: Table, _: int) -> Iterator[str]:
    yield f"COMMENT ON COLUMN {table.sql}.{field.sql} IS 'it''s 100 %'"
    yield f"COMMENT ON TABLE {table.sql} IS 'a table'"
    for item in table.items:
        shown = (
            f"INDEX {ident(table.schema, item.name)}"
            if item.kind == "i"
            else f"CONSTRAINT {ident(item.name)} ON {table.sql}"
        )
        yield f"COMMENT ON {shown} IS 'said before'"


def _storage(field: Field, table: Table, _: int) -> Iterator[str]:
    yield f"ALTER TABLE {table.sql} ALTER COLUMN {field.sql} SET STATISTICS 50"
    yield f"ALTER TABLE {table.sql} ALTER COLUMN {field.sql} SET (n_distinct = 5)"
    if field.type in ("text", "text[]", "jsonb"):
        yield f"ALTER TABLE {table.sql} ALTER COLUMN {field.sql} SET STORAGE EXTERNAL"


_DEPENDENTS: dict[str, Callable[[Field, Table, int], Iterator[str]]] = {
    "view": _view, "materialized view": _matview, "policy": _policy, "statistics": _statistics, "trigger": _trigger,
    "publication": _publication, "privileges": _privileges, "comment": _comment, "storage": _storage,
}  # fmt: skip


def _listed(columns: Iterable[Field]) -> str:
    return ", ".join(field.sql for field in columns)


def _name(field: Field) -> str:
    return field.name


def _distinct(columns: Iterable[Field]) -> bool:
    """Whether rows differ in them."""
    return any(
        not f.reference and not f.generated and not f.default and f.type not in ("boolean", "jsonb") for f in columns
    )


def referable(table: Table) -> bool:
    """Whether a foreign key can point to its id, and find the first row."""
    return bool(table.rows) and any(i.kind == "p" and len(i.columns) == 1 and not i.used for i in table.items)
