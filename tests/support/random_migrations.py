"""Random migrations of random tables, as source text.

A change is drawn against the tables as the changes before it leave them, so most migrations are sound. What zdmigrate
refuses when it plans is as good: it must then have refused before anything was done.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from tests.support.random_tables import COLUMNS, ID, REFERENCES, TABLES, Field, Item, Table, referable, tables

WIDER = {
    "integer": ("bigint", "", ""),
    "character varying(40)": ("text", "", ""),
    "numeric(12,2)": ("numeric(14,4)", "", ""),
    "date": ("timestamp with time zone", "{0}::timestamp AT TIME ZONE 'UTC'", "({0} AT TIME ZONE 'UTC')::date"),
    "text": ("character varying(40)", "", ""),
}
"""Type -> what it can become, up and down."""

_Part = TypeVar("_Part", Field, Item)


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """Tables, and a migration of them. The values of the `random` columns differ each time it is run."""

    schema: tuple[str, ...]
    prelude: str
    changes: tuple[str, ...]
    random: frozenset[str]
    owned: bool
    """Whether a role without superuser's rights owns everything and runs the migration."""

    def __repr__(self) -> str:
        """As somebody needs it who wants to try it."""
        return "\n".join(
            ["", *(f"{line};" for line in self.schema), self.prelude, *self.changes, f"owned={self.owned}"]
        )


class World:
    """What a generator of changes sees: the tables as they are now, and what was not used yet."""

    def __init__(self, draw: st.DrawFn, made: list[Table], major: int) -> None:
        self.draw, self.tables, self.major = draw, made, major
        self.random, self.prelude = set[str](), list[str]()
        self.said = list[Table]()
        self._numbers = itertools.count(1)

    def one_of(self, *values: str) -> str:
        return self.draw(st.sampled_from(values))

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(1, one_in)) == 1

    def number(self) -> int:
        return next(self._numbers)

    def table(self, wanted: Callable[[Table], bool] = lambda _: True) -> Table | None:
        """Some table that changes may be made to."""
        found = [table for table in self.tables if not table.closed and wanted(table)]
        if not found:
            return None
        return self.draw(st.sampled_from(found))

    def field(self, wanted: Callable[[Table, Field], bool]) -> tuple[Table, Field] | None:
        found = [(t, f) for t in self.tables if not t.closed for f in t.fields if wanted(t, f)]
        return self._touched(found)

    def item(self, wanted: Callable[[Table, Item], bool]) -> tuple[Table, Item] | None:
        """An index or a constraint that was there before and that no change is about yet."""
        found = [
            (t, i) for t in self.tables if not t.closed for i in t.items if not (i.fresh or i.used) and wanted(t, i)
        ]
        chosen = self._touched(found)
        if chosen is not None:
            chosen[1].used = True
        return chosen

    def name(self, table: Table) -> str | None:
        """A name that no column of the table has."""
        left = table.free([*COLUMNS, "new one", "another"])
        return self.draw(st.sampled_from(left)) if left else None

    def _touched(self, found: list[tuple[Table, _Part]]) -> tuple[Table, _Part] | None:
        if not found:
            return None
        chosen = self.draw(st.sampled_from(found))
        chosen[0].touched = True
        return chosen


@st.composite
def migrations(draw: st.DrawFn, major: int, only: str | None = None) -> Drawn:
    """One to eight changes of one or two tables; all of one class where `only` says so."""
    made, schema = tables(draw, major)
    world = World(draw, made, major)
    changes = list[str]()
    for _ in range(draw(st.integers(1, 8))):
        kind = only or draw(st.sampled_from(sorted(CHANGES)))
        change = CHANGES[kind](world)
        if change is not None:
            changes.append(change)
    if not changes:
        changes.append(_create_table(world))
    return Drawn(
        tuple(schema),
        "".join(world.prelude),
        tuple(changes),
        frozenset(world.random),
        draw(st.booleans()),
    )


def _call(change: str, at: Table, /, *arguments: object, **options: object) -> str:
    """The change's source: arguments are values, or `Source`."""
    given = [repr(argument) for argument in arguments]
    given += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    given += [f"schema={at.schema!r}"] if at.schema != "public" else []
    return f"{change}({', '.join(given)})"


class Source(str):
    """Source text, which stands for itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _live(field: Field) -> bool:
    """Whether it was there before the migration, and can be worked with."""
    return not field.fresh and not field.generated


# Columns.


def _add_column(world: World) -> str | None:
    table = world.table()
    name = world.name(table) if table is not None else None
    if table is None or name is None:
        return None
    table.touched = True
    kind = world.one_of(*_COLUMNS)
    field = Field(name, "text", not_null=False, fresh=True)
    column, options = _COLUMNS[kind](world, table, field) or (["sa.Text"], {})
    table.fields.append(field)
    comment = ["comment='new'"] if world.chance(4) else []
    text = ", ".join([repr(field.name), *column, f"nullable={not field.not_null}", *comment])
    return _call("AddColumn", table, table.name, Source(f"sa.Column({text})"), **options)


Made = tuple[list[str], dict[str, object]] | None


def _plain(_: World, __: Table, ___: Field) -> Made:
    return ["sa.Text"], {}


def _default(world: World, _: Table, field: Field) -> Made:
    field.not_null, field.default = world.chance(2), "'d'"
    return ["sa.Text", "server_default='d'"], {}


def _volatile(world: World, _: Table, field: Field) -> Made:
    field.not_null, field.default = True, "random()"
    world.random.add(field.name)
    return ["sa.Text", "server_default=sa.text('random()::text')"], {}


def _backfill(world: World, table: Table, field: Field) -> Made:
    other = next((f for f in table.fields if _live(f)), None)
    field.not_null = world.chance(2)
    source = "'none'" if other is None else f"coalesce({other.sql}::text, 'none')"
    return ["sa.Text"], {"backfill": source}


def _generated(world: World, table: Table, field: Field) -> Made:
    if table.published:  # a gate, and where it is not heeded UPDATE fails
        return None
    sources = [f for f in table.fields if not f.generated and not f.fresh and f.type in ("text", "integer", "bigint")]
    if not sources:
        return None
    source = world.draw(st.sampled_from(sources))
    stored = world.major < 18 or world.chance(2)
    field.generated = field.pinned = source.pinned = True
    text = f"upper({source.sql})" if source.type == "text" else f"coalesce({source.sql}, 0) + 1"
    field.type = "text" if source.type == "text" else source.type
    kind = {"text": "sa.Text", "integer": "sa.Integer", "bigint": "sa.BigInteger"}[field.type]
    return [kind, f"sa.Computed({text!r}, persisted={stored})"], {}


def _identity(world: World, table: Table, field: Field) -> Made:
    if table.numbered == "identity" or any(f.default == "identity" for f in table.fields):
        return None
    field.type, field.not_null, field.default = "bigint", True, "identity"
    world.random.add(field.name)
    return ["sa.BigInteger", f"sa.Identity({world.one_of('', 'always=True', 'start=1000, increment=10')})"], {}


def _unique(world: World, table: Table, field: Field) -> Made:
    if table.parted:
        return None
    field.not_null = world.chance(2)
    index = ", index=True" if world.chance(3) else ""
    return [f"sa.Text, unique=True{index}"], {"backfill": f"'key ' || {ID}"} if field.not_null else {}


def _checked(_: World, __: Table, field: Field) -> Made:
    text = f"{field.sql} <> 'never'"
    return ["sa.Text", f"sa.CheckConstraint({text!r})"], {}


def _indexed(_: World, __: Table, ___: Field) -> Made:
    return ["sa.Text", "index=True"], {}


def _references(world: World, table: Table, field: Field) -> Made:
    target, left = _target(world, besides=table), table.free(REFERENCES)
    if target is None or not left or "." in target.schema + target.name:
        return None
    field.name, field.type = left[0], "bigint"
    place = f"{target.schema}.{target.name}.{ID}"
    return ["sa.BigInteger", f"sa.ForeignKey({place!r})"], {}


_COLUMNS: dict[str, Callable[[World, Table, Field], Made]] = {
    "plain": _plain, "default": _default, "volatile": _volatile, "backfill": _backfill, "generated": _generated,
    "identity": _identity, "unique": _unique, "checked": _checked, "indexed": _indexed, "references": _references,
}  # fmt: skip


def _drop_column(world: World) -> str | None:
    def fits(table: Table, field: Field) -> bool:
        kept = any(field in item.columns and item.kind == "p" for item in table.items)
        return not field.fresh and not field.pinned and not kept and sum(map(_live, table.fields)) > 2

    found = world.field(fits)
    if found is None:
        return None
    table, field = found
    table.fields.remove(field)
    distinct = any(item.unique for item in table.items if field in item.columns)
    table.items = [item for item in table.items if field not in item.columns]
    down = (
        field.value(ID if distinct else "9") if field.not_null and not field.default and not world.chance(6) else None
    )
    return _call("DropColumn", table, table.name, field.name, down=down)


def _rename_column(world: World) -> str | None:
    found = world.field(lambda _, field: _live(field))
    if found is None:
        return None
    table, field = found
    new = (
        world.draw(st.sampled_from(left)) if (left := table.free(REFERENCES)) and field.reference else world.name(table)
    )
    if new is None or (field.reference and new not in REFERENCES):
        return None
    old, field.name = field.name, new
    return _call("RenameColumn", table, table.name, old, new)


def _change_type(world: World) -> str | None:
    found = world.field(
        lambda _, f: _live(f) and f.type in WIDER and not f.pinned and not f.reference and "type" not in f.changed
    )
    if found is None:
        return None
    table, field = found
    wider, up, down = WIDER[field.type]
    if field.type == "integer" and not field.not_null and world.chance(3):
        # Whatever N+1 writes is no number.
        wider, lossy = "text", "null"
    else:
        lossy = None
    field.type = wider
    field.changed.add("type")
    return _call(
        "ChangeType", table, table.name, field.name, wider, up=up.format(field.sql) or None,
        down=down.format(field.sql) or None, on_down_error=lossy,
    )  # fmt: skip


def _set_not_null(world: World) -> str | None:
    def fits(table: Table, field: Field) -> bool:
        unique = any(field in item.columns and item.unique for item in table.items)
        return _live(field) and not field.not_null and "null" not in field.changed and not (unique and table.rows)

    found = world.field(fits)
    if found is None:
        return None
    table, field = found
    field.not_null = True
    field.changed.add("null")
    plain = table.rows == 0 and world.chance(2)
    fill = None if plain else field.value("5")
    return _call("SetNotNull", table, table.name, field.name, backfill=fill)


def _drop_not_null(world: World) -> str | None:
    def fits(table: Table, field: Field) -> bool:
        key = any(field in item.columns and item.kind == "p" for item in table.items)
        return _live(field) and field.not_null and "null" not in field.changed and not key

    found = world.field(fits)
    if found is None:
        return None
    table, field = found
    field.not_null = False
    field.changed.add("null")
    return _call("DropNotNull", table, table.name, field.name)


def _set_default(world: World) -> str | None:
    found = world.field(lambda _, f: _live(f) and "default" not in f.changed and not f.reference)
    if found is None:
        return None
    table, field = found
    field.default = field.value("77")
    field.changed.add("default")
    return _call("SetDefault", table, table.name, field.name, field.default)


def _drop_default(world: World) -> str | None:
    found = world.field(lambda _, f: _live(f) and f.default is not None and "default" not in f.changed)
    if found is None:
        return None
    table, field = found
    field.default = None
    field.changed.add("default")
    return _call("DropDefault", table, table.name, field.name)


def _add_identity(world: World) -> str | None:
    table = world.table(
        lambda t: t.numbered in ("serial", "no") and not t.fresh and (not t.parted or world.major >= 17)
    )
    if table is None:
        return None
    # Beyond whatever the applications number by themselves.
    start = 10_000_000 if table.numbered == "no" else None
    table.numbered, table.touched = "identity", True
    return _call("AddIdentity", table, table.name, ID, start=start)


# Constraints.


def _add_check(world: World) -> str | None:
    found = world.field(lambda _, f: not f.generated and not f.reference and f.type != "boolean")
    if found is None:
        return None
    table, field = found
    name = world.one_of("new check", "é check") if world.chance(2) else None
    if name is not None and any(item.name == name for item in table.items):
        name = None
    table.items.append(Item(name or f"unnamed {world.number()}", "c", (field,), fresh=True))
    return _call("AddCheck", table, table.name, name, f"{field.sql} IS DISTINCT FROM {field.value('123456')}")


def _target(world: World, besides: Table) -> Table | None:
    found = [
        t for t in world.tables if t is not besides and not t.closed and (t.fresh or referable(t)) and not t.parted
    ]
    return world.draw(st.sampled_from(found)) if found else None


def _add_foreign_key(world: World) -> str | None:
    found = world.field(lambda t, f: f.reference and not any(f in i.columns and i.kind == "f" for i in t.items))
    if found is None:
        return None
    table, field = found
    targets = [t for t in world.tables if not t.closed and not t.fresh and referable(t)]
    # Before 18 VALIDATE leaves the parts of a foreign key that point to partitions NOT VALID.
    targets = [t for t in targets if not t.parted or world.major >= 18]
    if not targets:
        return None
    target = world.draw(st.sampled_from(targets))
    target.relied_on = target.touched = True
    table.items.append(Item(f"unnamed {world.number()}", "f", (field,), fresh=True))
    action = world.one_of("cascade", "set null", "restrict", "no action")
    return _call(
        "AddForeignKey", table, table.name, field.name, target.name, ID, on_delete=action,
        initially=world.one_of("deferred", "immediate") if world.chance(4) else None,
    )  # fmt: skip


def _distinct(world: World) -> tuple[Table, Field] | None:
    """A column whose values differ."""
    return world.field(
        lambda _, f: (
            _live(f)
            and not f.reference
            and "null" not in f.changed
            and f.type not in ("boolean", "jsonb")
            and not f.default
        )
    )


def _add_unique(world: World) -> str | None:
    found = _distinct(world)
    if found is None:
        return None
    table, field = found
    columns = [ID, field.name] if table.parted or world.chance(3) else [field.name]
    options: dict[str, object] = {}
    if ID in columns and world.chance(2):
        options["nulls_not_distinct"] = True
    elif world.chance(5):
        options["initially"] = "deferred"
    elif world.chance(4) and (other := next((f for f in table.fields if f is not field and _live(f)), None)):
        options["include"] = [other.name]
    name = f"unique {world.number()}" if world.chance(2) else None
    table.items.append(Item(name or f"unnamed {world.number()}", "u", (field,), unique=True, fresh=True))
    return _call("AddUnique", table, table.name, columns, name=name, **options)


def _add_exclusion(world: World) -> str | None:
    found = _distinct(world)
    if found is None or found[0].parted:
        return None
    table, field = found
    where = f"{field.sql} IS NOT NULL" if world.chance(3) else None
    table.items.append(Item(f"unnamed {world.number()}", "x", (field,), fresh=True))
    if field.type == "int4range":
        return _call("AddExclusion", table, table.name, [(field.name, "&&")], where=where)
    if field.type == "text" and world.chance(3):
        element = [(f"(lower({field.sql}))", "=")]
        return _call(
            "AddExclusion", table, table.name, element, using="btree", name=f"excl {world.number()}", where=where
        )
    return _call(
        "AddExclusion", table, table.name, [(field.name, "=")], using=world.one_of("hash", "btree"), where=where
    )


def _add_primary_key(world: World) -> str | None:
    table = world.table(lambda t: not t.keyed and not t.fresh)
    if table is None:
        return None
    table.touched = True
    table.items.append(Item(f"unnamed {world.number()}", "p", (), unique=True, fresh=True))
    return _call(
        "AddPrimaryKey", table, table.name, ID, name=world.one_of("new key", "été") if world.chance(2) else None
    )


def _drop_constraint(world: World) -> str | None:
    def fits(table: Table, item: Item) -> bool:
        return item.kind in "cuf" or (item.kind == "p" and not table.published and not table.relied_on)

    found = world.item(fits)
    if found is None:
        return None
    table, item = found
    table.items.remove(item)
    return _call("DropConstraint", table, table.name, item.name)


def _rename_constraint(world: World) -> str | None:
    found = world.item(lambda _, item: item.kind in "cufp")
    if found is None:
        return None
    table, item = found
    old, item.name = item.name, f"renamed {world.number()} ü"
    return _call("RenameConstraint", table, table.name, old, item.name)


# Indexes.


Definition = tuple[list[object], dict[str, object]]


def _index(world: World, table: Table) -> Definition | None:
    """Keys and options of a new index."""
    plain = [f for f in table.fields if f.fresh == table.fresh and not f.generated]
    if not plain:
        return None
    found: list[Definition] = [([ID], {"unique": True})]
    for field in plain:
        found += _definitions(field, world.draw(st.sampled_from(plain)))
    return world.draw(st.sampled_from(found))


def _definitions(field: Field, other: Field) -> list[Definition]:
    """Indexes of a column, in all forms that its type allows."""
    name, partial = field.name, f"{other.sql} IS NOT NULL"
    if field.type in ("jsonb", "text[]"):
        return [([name], {"method": "gin"})]
    if field.type == "int4range":
        return [([name], {"method": "gist", "where": partial})]
    found: list[Definition] = [
        ([name], {}), ([ID, name], {"unique": True}), ([name], {"where": partial}), ([name], {"with_": {"fillfactor": 70}}),
        ([Source(f"Key({name!r}, order='desc', nulls='last')")], {}),
    ]  # fmt: skip
    if other is not field:
        found.append(([name], {"include": [other.name]}))
    if field.type in ("integer", "bigint", "date"):
        found.append(([name], {"method": "brin", "with_": {"pages_per_range": 8}}))
    if field.type in ("text", "character varying(40)"):
        text = f"lower({field.sql})"
        found += [([Source(f"Key.sql({text!r})"), ID], {}), ([name], {"method": "hash"})]
    return found


def _create_index(world: World) -> str | None:
    table = world.table()
    made = _index(world, table) if table is not None else None
    if table is None or made is None:
        return None
    table.touched = True
    keys, options = made
    name = f"new index {world.number()}" if world.chance(2) else None
    if name is None and any(isinstance(key, Source) for key in keys):
        name = f"new {'é' * 28} {world.number()}"
    comment = "an index" if world.chance(4) else None
    return _call("CreateIndex", table, table.name, name, *keys, **options, comment=comment)


def _drop_index(world: World) -> str | None:
    found = world.item(lambda _, item: item.kind == "i")
    if found is None:
        return None
    table, item = found
    table.items.remove(item)
    return _call("DropIndex", table, item.name, table=table.name)


def _rename_index(world: World) -> str | None:
    found = world.item(lambda _, item: item.kind == "i")
    if found is None:
        return None
    table, item = found
    old, item.name = item.name, f'renamed "index" {world.number()}'
    return _call("RenameIndex", table, old, item.name, table=table.name)


def _replace_index(world: World) -> str | None:
    found = world.item(lambda _, item: item.kind == "i")
    made = _index(world, found[0]) if found is not None else None
    if found is None or made is None:
        return None
    table, item = found
    keys, options = made
    return _call("ReplaceIndex", table, item.name, *keys, **options, table=table.name)


def _reindex(world: World) -> str | None:
    if world.chance(3):
        table = world.table(lambda t: not t.fresh and bool(t.items))
        if table is None:
            return None
        table.touched = True
        return _call("Reindex", table, table=table.name)
    found = world.item(lambda _, item: item.kind in "iup")
    if found is None:
        return None
    return _call("Reindex", found[0], found[1].name, table=found[0].name)


# Tables, and the rest.


def _create_table(world: World) -> str:
    taken = {table.name for table in world.tables}
    home = world.tables[0].schema
    table = Table(home, next(name for name in [*TABLES, f"more {world.number()}"] if name not in taken), [], fresh=True)
    table.items.append(Item("unnamed", "p", (), unique=True, fresh=True))
    key = f"sa.Column({ID!r}, sa.BigInteger, sa.Identity(), primary_key=True)"
    columns = [key, "sa.Column('Some Text', sa.Text, nullable=False, server_default='x')"]
    table.fields.append(Field("Some Text", "text", not_null=True, default="'x'", fresh=True))
    if world.chance(2):
        columns.append("sa.Column('n', sa.Integer, sa.CheckConstraint('n <> 123456'), index=True, comment='a number')")
        table.fields.append(Field("n", "integer", not_null=False, fresh=True))
    target = _target(world, besides=table)
    if target is not None and not target.fresh and "." not in target.schema + target.name:
        place = f"{target.schema}.{target.name}.{ID}"
        columns.append(f"sa.Column({REFERENCES[0]!r}, sa.BigInteger, sa.ForeignKey({place!r}))")
        table.fields.append(Field(REFERENCES[0], "bigint", not_null=False, fresh=True))
        target.relied_on = target.touched = True
    options: dict[str, object] = {"comment": "new" if world.chance(3) else None}
    world.tables.append(table)
    return _call("CreateTable", table, table.name, *map(Source, columns), **options)


def _drop_table(world: World) -> str | None:
    table = world.table(lambda t: not t.touched and not t.relied_on and not t.fresh and len(world.tables) > 1)
    if table is None:
        return None
    table.closed = True
    return _call("DropTable", table, table.name)


def _rename_table(world: World) -> str | None:
    table = world.table(lambda t: not t.touched and not t.fresh)
    if table is None:
        return None
    taken = {each.name for each in world.tables}
    left = [name for name in ("renamed", "Re named", "r" * 63) if name not in taken]
    table.closed = True
    old, table.name = table.name, world.draw(st.sampled_from(left))
    return _call("RenameTable", table, old, table.name, writes="copy" if world.chance(4) else None)


def _set_comment(world: World) -> str | None:
    said = "it's 100 % new" if world.draw(st.booleans()) else None
    kind = world.one_of("table", "column", "item")
    if kind == "item":
        item = world.item(lambda _, __: True)
        if item is None:
            return None
        where = {"index" if item[1].kind == "i" else "constraint": item[1].name}
        return _call("SetComment", item[0], item[0].name, said, **where) if said else None
    if kind == "column":
        found = world.field(lambda _, f: _live(f) and "comment" not in f.changed)
        if found is None:
            return None
        found[1].changed.add("comment")
        return _call("SetComment", found[0], found[0].name, said or "x", column=found[1].name)
    table = world.table(lambda t: not t.fresh and t not in world.said)
    if table is None:
        return None
    table.touched = True
    world.said.append(table)
    return _call("SetComment", table, table.name, said or "y")


def _set_replica_identity(world: World) -> str | None:
    def fits(table: Table) -> bool:
        generated = table.published and any(field.generated for field in table.fields)
        return not table.fresh and table.identified == "default" and not generated

    table = world.table(fits)
    if table is None:
        return None
    table.touched, table.identified = True, "changed"
    key = next((i for i in table.items if i.kind == "p" and not i.fresh and not i.used), None)
    if key is not None and world.chance(2):
        key.used = True
        return _call("SetReplicaIdentity", table, table.name, index=key.name)
    return _call(
        "SetReplicaIdentity", table, table.name, "nothing" if world.chance(3) and not table.published else "full"
    )


def _run_sql(world: World) -> str | None:
    table = world.table(lambda t: not t.fresh and not t.parted)
    number = world.number()
    if table is None or world.chance(2):
        name = f"made_{number}"
        return (
            f"RunSQL('CREATE SEQUENCE {name}', revert='DROP SEQUENCE {name}', locks={{{name!r}: 'ACCESS EXCLUSIVE'}})"
        )
    table.touched = True
    action = f"ALTER TABLE {table.sql} SET (autovacuum_enabled = true)"
    back = f"ALTER TABLE {table.sql} RESET (autovacuum_enabled)"
    locks = f"{{({table.schema!r}, {table.name!r}): 'SHARE UPDATE EXCLUSIVE'}}"
    return f"RunSQL({action!r}, revert={back!r}, locks={locks})"


def _run_python(world: World) -> str:
    number = world.number()
    for name, text in (("forth", "CREATE SEQUENCE"), ("back", "DROP SEQUENCE")):
        world.prelude.append(f"def {name}_{number}(connection):\n    connection.execute('{text} python_{number}')\n\n")
    return f"RunPython(forth_{number}, revert=back_{number}, locks={{'python_{number}': 'ACCESS EXCLUSIVE'}})"


CHANGES: dict[str, Callable[[World], str | None]] = {
    "AddCheck": _add_check, "AddColumn": _add_column, "AddExclusion": _add_exclusion, "AddForeignKey": _add_foreign_key,
    "AddIdentity": _add_identity, "AddPrimaryKey": _add_primary_key, "AddUnique": _add_unique, "ChangeType": _change_type,
    "CreateIndex": _create_index, "CreateTable": _create_table, "DropColumn": _drop_column,
    "DropConstraint": _drop_constraint, "DropDefault": _drop_default, "DropIndex": _drop_index,
    "DropNotNull": _drop_not_null, "DropTable": _drop_table, "Reindex": _reindex, "RenameColumn": _rename_column,
    "RenameConstraint": _rename_constraint, "RenameIndex": _rename_index, "RenameTable": _rename_table,
    "ReplaceIndex": _replace_index, "RunPython": _run_python, "RunSQL": _run_sql, "SetComment": _set_comment,
    "SetDefault": _set_default, "SetNotNull": _set_not_null, "SetReplicaIdentity": _set_replica_identity,
}  # fmt: skip
