"""Create an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name, text_or_none
from zdmigrate.changes.key import Canonical, Definition, Key
from zdmigrate.errors import Drift, Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Window
from zdmigrate.planning import carry, constraints, indexes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, item_name
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, init=False)
class CreateIndex(Change):
    """Create an index: ``CreateIndex("users", "users_email_idx", "email", Key.sql("lower(name)", order="desc"))``.

    It is built CONCURRENTLY in `backfill`; on a partitioned table partition by partition, and then attached. Without a
    name (None) it is called what the server would call it. A unique index refuses what version N may write, so it is
    built in `contract`, unless N does not know the columns; rows that are in its way are named before.

    Locks: SHARE UPDATE EXCLUSIVE; where partitioned, SHARE on the parents for an instant. Undo: drops it, CONCURRENTLY.
    Refused: a name that is taken, a unique index without the partition key. Manual: CREATE INDEX, Building Indexes
    Concurrently.
    """

    table: str
    name: str | None
    definition: Definition
    comment: str | None
    schema: str

    def __init__(
        self,
        table: str,
        name: str | None,
        *keys: str | Key,
        unique: bool = False,
        method: str = "btree",
        include: Iterable[str] = (),
        where: str | None = None,
        with_: Mapping[str, object] | None = None,
        nulls_not_distinct: bool = False,
        tablespace: str | None = None,
        comment: str | None = None,
        schema: str = "public",
    ) -> None:
        definition = Definition.checked(
            "CreateIndex", keys, unique=unique, method=method, include=include, where=where, with_=with_,
            nulls_not_distinct=nulls_not_distinct, tablespace=tablespace,
        )  # fmt: skip
        for field, value in (
            ("table", require_name(table, "CreateIndex: table")),
            ("name", None if name is None else require_name(name, "CreateIndex: name")),
            ("definition", definition),
            ("comment", text_or_none(comment, "CreateIndex: comment") or None),
            ("schema", require_name(schema, "CreateIndex: schema")),
        ):
            object.__setattr__(self, field, value)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.name or self.definition.shown),)

    def describe(self) -> dict[str, Any]:
        return {"change": "CreateIndex", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        draft = TableDraft(table, scope.position)
        self.definition.columns(draft)
        canonical = self.definition.canonical(scope, draft)
        if not canonical.certain:
            return OneShot(there=None)
        if self.name is None:
            if _equal(table, canonical.tail, unique=self.definition.unique) is not None:
                return OneShot(there=True)
        else:
            found = table.index(self.name)
            if found is not None and found.unique is self.definition.unique and alike(found.tail, canonical.tail):
                return OneShot(there=True)
            if found is not None:
                raise Drift(
                    f"{self.schema}.{self.table} has an index {self.name} with another definition: {found.tail}",
                    hint="drop it, or give the new one another name",
                )
        name, _ = indexes.conventional(scope, table, canonical.columns, name=self.name, free=frozenset())
        return OneShot(*create(table, name, self.definition, self.comment), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        columns = self.definition.columns(table)
        self.definition.refuse_unpartitionable(table.live)
        canonical = self.definition.canonical(scope, table)
        self._refuse_second(table, canonical)
        name, partition_names = self._named(scope, table, canonical)
        index, phase = planned(
            table, columns, self.definition, canonical, name=name, label=name, comment=self.comment,
            partition_names=partition_names,
        )  # fmt: skip
        table.add_index(name, columns)
        steps = [index.at_once(scope, table.live)] if table.fresh else index.build(scope, table.live, phase)
        if self.definition.unique and not table.fresh:
            query = self.definition.duplicates(table.live)
            steps = [dataclasses.replace(s, refused_by=query) if s.scans else s for s in steps]
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE if phase is Phase.CONTRACT else Phase.CONTRACT, new_from=Phase.NONE),
            steps=tuple(steps),
            reads=tuple(constraints.read(table, name) for name in columns),
            objects=(item_name(self.schema, self.table, name),),
            hazards=(stricter(table, name),) if phase is Phase.CONTRACT else (),
        )

    def _named(self, scope: Scope, table: TableDraft, canonical: Canonical) -> tuple[str, dict[indexes.Relation, str]]:
        name, partition_names = indexes.conventional(
            scope, table.live, canonical.columns, name=self.name, free=frozenset()
        )
        for at, made in ((self.schema, name), *((at[0], made) for at, made in partition_names.items())):
            scope.draft.claim(indexes.claim(at, made), f"made by change {scope.position + 1}")
        return name, partition_names

    def _refuse_second(self, table: TableDraft, canonical: Canonical) -> None:
        if self.name is None and canonical.certain:
            tail = carry.rename_in(canonical.tail, physical(table), self.definition.shown)
            there = _equal(table.live, tail, unique=self.definition.unique)
            if there is not None:
                raise Unsafe(
                    f"{table.shown} already has this index: {there.name}",
                    hint="leave the change out, or record the migration as adopted: zdmigrate bootstrap; a second one "
                    "needs a name",
                )


def create(table: catalog.Table, name: str, definition: Definition, comment: str | None) -> tuple[str, ...]:
    """The DDL that somebody would write by hand."""
    placed = definition.tail
    if definition.tablespace is not None:
        placed = indexes.with_tablespace(placed, definition.tablespace)
    target = ident(table.schema, table.name)
    made = f"CREATE {'UNIQUE ' * definition.unique}INDEX {ident(name)} ON {target} USING {placed}"
    said = () if comment is None else (f"COMMENT ON INDEX {ident(table.schema, name)} IS {literal(comment)}",)
    return (made, *said)


def planned(
    table: TableDraft,
    columns: tuple[str, ...],
    definition: Definition,
    canonical: Canonical,
    *,
    name: str,
    label: str,
    comment: str | None,
    partition_names: Mapping[indexes.Relation, str],
) -> tuple[indexes.Index, Phase]:
    """The index as it is to be built, and when."""
    phase = Phase.EXPAND if table.fresh else Phase.BACKFILL
    if definition.unique:
        phase = table.strict_phase(columns)
    before = carry.rename_in(canonical.tail, physical(table), definition.shown)
    index = indexes.Index(
        name=name,
        label=label,
        tail=canonical.tail if phase is Phase.CONTRACT else before,
        tails=tuple(dict.fromkeys((before, canonical.tail))),
        unique=definition.unique,
        tablespace=definition.tablespace,
        partition_names=partition_names,
        comment=comment,
    )
    return index, phase


def physical(table: TableDraft) -> dict[str, str]:
    """What the columns that survive are called before their names change, where that is another name."""
    return {column.name: column.physical for column in table.columns if column.physical != column.name}


def _equal(table: catalog.Table, tail: str, *, unique: bool) -> catalog.Index | None:
    same = (i for i in table.indexes if i.valid and (i.unique, i.constraint) == (unique, None) and alike(i.tail, tail))
    return next(same, None)


def alike(one: str, other: str) -> bool:
    """Whether two texts of definitions say the same: names are quoted in one and not in the other."""
    return one.replace('"', "") == other.replace('"', "")


def stricter(table: TableDraft, name: str) -> Hazard:
    return Hazard(
        id="C13", phase=Phase.CONTRACT,
        message=f"{name} refuses duplicates in {table.shown} from contract on; until then nothing does, and ON CONFLICT "
        "finds no index for its keys",
        remedy="let version N+1 write no duplicates from its first day, and use ON CONFLICT only after contract",
    )  # fmt: skip
