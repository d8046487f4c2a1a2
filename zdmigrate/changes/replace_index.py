"""Replace an index by one of another definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes import create_index
from zdmigrate.changes.base import Change, OneShot, require_name, text_or_none
from zdmigrate.changes.drop_index import no_longer_arbitrates, not_unique_any_more
from zdmigrate.changes.key import Canonical, Definition, Key, final_tail
from zdmigrate.errors import Drift, Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Step, TableLock, Window
from zdmigrate.planning import constraints, indexes, probes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, item_name, transaction_step
from zdmigrate.sqltext import ident

_HINT = "a constraint keeps its index: add the new constraint, then DropConstraint"


@dataclasses.dataclass(frozen=True, init=False)
class ReplaceIndex(Change):
    """Give an index another definition: ``ReplaceIndex("users_email_idx", "email", "org_id", table="users")``.

    Keys and options are those of `CreateIndex`. The new index is built CONCURRENTLY beside the old one in `backfill` (a
    unique one in `contract`), and takes its name in `contract`, where the old one is dropped: the queries are never
    without an index. The old one's comment is kept unless another one is given.

    Locks: SHARE UPDATE EXCLUSIVE; on a partitioned table ACCESS EXCLUSIVE for the drop, catalog only. Undo: the old
    index takes its name back, or is built again; the new one is dropped. Refused as `CreateIndex` and `DropIndex`.
    """

    name: str
    table: str
    definition: Definition
    comment: str | None
    schema: str

    def __init__(
        self,
        name: str,
        *keys: str | Key,
        table: str,
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
            "ReplaceIndex", keys, unique=unique, method=method, include=include, where=where, with_=with_,
            nulls_not_distinct=nulls_not_distinct, tablespace=tablespace,
        )  # fmt: skip
        for field, value in (
            ("name", require_name(name, "ReplaceIndex: name")),
            ("table", require_name(table, "ReplaceIndex: table")),
            ("definition", definition),
            ("comment", text_or_none(comment, "ReplaceIndex: comment")),
            ("schema", require_name(schema, "ReplaceIndex: schema")),
        ):
            object.__setattr__(self, field, value)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "ReplaceIndex", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        old = table.index(self.name)
        if old is None:
            raise Drift(f"{self.schema}.{self.table} has no index {self.name}", hint="create it, or correct the name")
        indexes.existing(table, self.name, hint=_HINT)
        canonical = self.definition.canonical(scope, TableDraft(table, scope.position))
        if not canonical.certain:
            return OneShot(there=None)
        if self._is_there(old, canonical.tail):
            return OneShot(there=True)
        made = create_index.create(table, self.name, self.definition, self._comment(old))
        return OneShot(f"DROP INDEX {ident(self.schema, self.name)}", *made, there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        live = table.live
        found = indexes.existing(live, self.name, hint=_HINT)
        indexes.refuse_needed(live, found, doing="replaced")
        columns = self.definition.columns(table)
        self.definition.refuse_unpartitionable(live)
        canonical = self.definition.canonical(scope, table)
        if self._is_there(found, canonical.tail):
            raise Unsafe(f"{table.shown}: {self.name} has this definition already", hint="Reindex builds it anew")
        new, phase = self._new(scope, table, columns, canonical, found)
        final = self._final(scope, live, canonical, found)
        aside = self._aside(scope, table, found)
        table.add_index(self.name, columns)
        steps = new.build(scope, live, phase)
        if self.definition.unique:
            query = self.definition.duplicates(live)
            steps = [dataclasses.replace(s, refused_by=query) if s.scans else s for s in steps]
        drop = aside.drop(scope, live, Phase.CONTRACT, oids=found.oids, rebuilt=found.valid, renamed_from=self.name)
        drop = dataclasses.replace(drop, undo_blocked=not_unique_any_more(live, found))
        hazards = (create_index.stricter(table, self.name),) if phase is Phase.CONTRACT else ()
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE, new_from=Phase.NONE),
            steps=(*steps, self._swapped(scope, live, found, aside, new, final), drop),
            reads=tuple(constraints.read(table, name) for name in columns),
            objects=(item_name(self.schema, self.table, self.name),),
            hazards=(*hazards, *((no_longer_arbitrates(live, found),) if found.unique else ())),
        )

    def _is_there(self, index: catalog.Index, tail: str) -> bool:
        return index.unique is self.definition.unique and index.valid and create_index.alike(index.tail, tail)

    def _comment(self, old: catalog.Index) -> str | None:
        return (old.comment if self.comment is None else self.comment) or None

    def _new(
        self,
        scope: Scope,
        table: TableDraft,
        columns: tuple[str, ...],
        canonical: Canonical,
        old: catalog.Index,
    ) -> tuple[indexes.Index, Phase]:
        """Under generated names."""
        live, name = table.live, self.name
        return create_index.planned(
            table, columns, self.definition, canonical,
            name=scope.name("ix", name, live.schema, live.name, name), label=name, comment=self._comment(old),
            partition_names={
                (p.schema, p.name): scope.name("ix", f"{p.name}_{name}", p.schema, p.name, name) for p in live.partitions
            },
        )  # fmt: skip

    def _final(
        self, scope: Scope, live: catalog.Table, canonical: Canonical, old: catalog.Index
    ) -> dict[indexes.Relation, str]:
        """What the new one is called in the end, on the table and its partitions."""
        freed = indexes.of(live, old).names(live)
        free = frozenset((at[0], name) for at, name in freed.items())
        name, partition_names = indexes.conventional(scope, live, canonical.columns, name=self.name, free=free)
        final = {(live.schema, live.name): name, **partition_names}
        for at, made in dict.fromkeys((at[0], n) for names in (freed, final) for at, n in names.items()):
            scope.draft.claim(indexes.claim(at, made), f"replaced by change {scope.position + 1}")
        return final

    def _aside(self, scope: Scope, table: TableDraft, old: catalog.Index) -> indexes.Index:
        """The old one, under the name that it has while it is dropped."""
        live = table.live
        was = indexes.of(live, old, later=(final_tail(table, old),))
        names = {at: scope.name("old", name, at[0], at[1], old.name) for at, name in was.names(live).items()}
        own = names.pop((live.schema, live.name))
        return dataclasses.replace(was, name=own, partition_names=names)

    def _swapped(
        self,
        scope: Scope,
        live: catalog.Table,
        old: catalog.Index,
        aside: indexes.Index,
        new: indexes.Index,
        final: Mapping[indexes.Relation, str],
    ) -> Step:
        pairs = [
            *_pairs(indexes.of(live, old).names(live), aside.names(live)),
            *_pairs(new.names(live), final),
        ]
        locks = (TableLock(schema=self.schema, name=self.name, mode=LockMode.SHARE_UPDATE_EXCLUSIVE),)
        return transaction_step(
            scope, Phase.CONTRACT, f"swap.{self.name}", f"give the new index the name {self.name}",
            probe=probes.index_renamed(
                (live.schema, live.name), (live.schema, new.name), (live.schema, self.name), new.tails,
                unique=new.unique, oids=(),
            ),
            do=[_rename(at, before, after) for at, before, after in pairs],
            undo=[_rename(at, after, before) for at, before, after in reversed(pairs)],
            locks=locks,
        )  # fmt: skip


def _pairs(
    before: Mapping[indexes.Relation, str], after: Mapping[indexes.Relation, str]
) -> Iterator[tuple[str, str, str]]:
    return ((at[0], name, after[at]) for at, name in before.items())


def _rename(schema_name: str, before: str, after: str) -> str:
    return f"ALTER INDEX {ident(schema_name, before)} RENAME TO {ident(after)}"
