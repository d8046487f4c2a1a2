"""UNIQUE and PRIMARY KEY that a migration adds.

The index is built CONCURRENTLY, and made a constraint without a look at the rows (manual, ALTER TABLE, "ADD
table_constraint_using_index"). On a partitioned table that is done for each partition; the parents' constraints are declared
with ONLY, without an index's contents, and the partitions' attached (manual, section 5.12.2.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.plan import Gate, LockMode, Step, TableLock
from zdmigrate.planning import indexes, names, notnull, probes
from zdmigrate.planning.constraints import Addition, NewConstraint, on_copy
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.indexes import Index
from zdmigrate.planning.parts import Scope, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Key(NewConstraint):
    key: tuple[str, ...]
    include: tuple[str, ...] = ()

    word: ClassVar[str]

    @property
    def _columns_text(self) -> str:
        include = f" INCLUDE ({', '.join(map(ident, self.include))})" if self.include else ""
        return f"({', '.join(map(ident, self.key))}){include}"

    @property
    def _timing(self) -> str:
        return ""

    @property
    def _tail(self) -> str:
        """As CREATE INDEX takes it after USING, and as the catalog prints it, but for quotes."""
        return f"btree {self._columns_text}"

    @property
    def clause(self) -> str:
        return f"{self.word} {self._columns_text}{self._timing}"

    def columns(self, table: TableDraft) -> tuple[str, ...]:
        return tuple(table.column(name).name for name in (*self.key, *self.include))

    def definition(self, scope: Scope, table: TableDraft) -> str | None:
        # Whether the server can make such an index at all; how it prints the constraint is known.
        scope.trial(table.live, on_copy(table, f"CREATE UNIQUE INDEX ON {{table}} USING {self._tail}"))
        return self.clause

    def _refuse(self, addition: Addition) -> None:
        live = addition.live
        missing = [name for name in live.partition_columns if name not in self._now(addition.table)]
        if live.partitioned and (missing or not live.partition_columns):
            lacking = ", ".join(missing) or "which are expressions"
            raise Unsafe(
                f"{addition.table.shown}: a unique constraint on a partitioned table must have all columns of the partition "
                f"keys ({lacking})",
                hint="add them to the constraint; uniqueness across partitions without them is not what PostgreSQL can promise",
            )

    def _now(self, table: TableDraft) -> set[str]:
        live = [table.column(name).live for name in self.key]
        return {column.name for column in live if column is not None}

    def _steps(self, addition: Addition) -> Iterator[Step]:
        live = addition.live
        if not live.partitioned:
            yield from self._on_plain(addition, live, addition.name)
            return
        called = self._part_names(addition)
        yield from self._declared(addition, called)
        for leaf in (p for p in live.partitions if not p.partitioned):
            at = dataclasses.replace(live, schema=leaf.schema, name=leaf.name, kind="r", partitions=())
            yield from self._on_plain(addition, at, called[leaf.schema, leaf.name])
        yield from self._attached(addition, called)

    def _on_plain(self, addition: Addition, at: schema.Table, name: str) -> Iterator[Step]:
        index = Index(name=name, label=addition.name, unique=True, tail=self._tail, tails=(self._tail,))
        # Duplicates that somebody writes while it is built are named when it is tried again.
        for step in index.build(addition.scope, at, addition.phase):
            yield dataclasses.replace(step, refused_by=self._violations(addition))
        locks = on(at, ACCESS_EXCLUSIVE)
        yield transaction_step(
            addition.scope, addition.phase, f"constraint.{addition.name}.{at.schema}.{at.name}",
            f"make the index {name} a constraint",
            probe=probes.constraint_as(at, name, addition.definition),
            do=[alter(at, f"ADD CONSTRAINT {ident(name)} {self.word} USING INDEX {ident(name)}{self._timing}")],
            undo=[alter(at, f"DROP CONSTRAINT IF EXISTS {ident(name)}")], locks=locks,
        )  # fmt: skip

    def _declared(self, addition: Addition, called: Mapping[tuple[str, str], str]) -> Iterator[Step]:
        """ON ONLY the parents: invalid until every partition has its own."""
        live = addition.live
        for at in [(live.schema, live.name), *((p.schema, p.name) for p in live.partitions if p.partitioned)]:
            parent, name = dataclasses.replace(live, schema=at[0], name=at[1]), called[at]
            yield transaction_step(
                addition.scope, addition.phase, f"declare.{addition.name}.{at[0]}.{at[1]}",
                f"declare {name} on {at[0]}.{at[1]}, without building anything",
                probe=probes.constraint_as(parent, name, addition.definition),
                do=[f"ALTER TABLE ONLY {ident(*at)} ADD CONSTRAINT {ident(name)} {self.clause}"],
                undo=[alter(parent, f"DROP CONSTRAINT IF EXISTS {ident(name)}")], locks=on(parent, ACCESS_EXCLUSIVE),
            )  # fmt: skip

    def _attached(self, addition: Addition, called: Mapping[tuple[str, str], str]) -> Iterator[Step]:
        """Bottom up."""
        live = addition.live
        for part in reversed(live.partitions):
            above = (part.parent_schema or "", part.parent_name or "")
            child, parent = called[part.schema, part.name], called[above]
            last = part is live.partitions[0]
            whole = (live.schema, addition.name) if last else None
            yield transaction_step(
                addition.scope, addition.phase, f"attach.{addition.name}.{part.schema}.{part.name}", f"attach {child}",
                probe=probes.index_attached(part.schema, child, completes=whole),
                do=[f"ALTER INDEX {ident(above[0], parent)} ATTACH PARTITION {ident(part.schema, child)}"],
                # An attached one goes with its parent's only. Undone top down: the parent is not attached itself.
                undo=[f"ALTER TABLE {ident(*above)} DROP CONSTRAINT IF EXISTS {ident(parent)}"],
                locks=(TableLock(schema=part.schema, name=part.name, mode=LockMode.ACCESS_SHARE),),
                undo_locks=on(live, ACCESS_EXCLUSIVE),
            )  # fmt: skip

    def _part_names(self, addition: Addition) -> dict[tuple[str, str], str]:
        """What the constraint is called on each partition: as the server would call it."""
        live = addition.live
        named = self._named_after(addition.columns)
        found = {(live.schema, live.name): addition.name}
        for part in live.partitions:
            shown = f"{part.schema}.{part.name}"
            taken = {name for index in live.indexes for where, name in index.partition_names if where == shown}
            taken |= addition.scope.draft.claims(indexes.claim(part.schema, ""))
            name = names.conventional(part.name, named, self.label, frozenset(taken))
            addition.scope.draft.claim(
                indexes.claim(part.schema, name), f"made by change {addition.scope.position + 1}"
            )
            found[part.schema, part.name] = name
        return found

    def _violations(self, addition: Addition) -> str:
        """Rows with the same key, and anything that has the index's name."""
        shown, target = literal(addition.table.shown), ident(addition.live.schema, addition.live.name)
        listed = ", ".join(map(ident, self.key))
        some = " AND ".join(f"{ident(name)} IS NOT NULL" for name in self.key) if self._nulls_distinct else "true"
        taken = literal(f"the name {addition.name} is taken in schema {addition.live.schema}")
        return (
            "SELECT format('rows %s of %s have the same %s', array_to_string((array_agg(ctid))[1:3], ' and '), "
            f"{shown}, {literal(', '.join(self.key))}) FROM {target} WHERE {some} GROUP BY {listed} HAVING count(*) > 1 "
            f"UNION ALL SELECT {taken} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = {literal(addition.live.schema)} AND c.relname = {literal(addition.name)} AND NOT EXISTS "
            f"(SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND i.indrelid = to_regclass({literal(target)})) LIMIT 5"
        )

    @property
    def _nulls_distinct(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unique(_Key):
    """UNIQUE (columns)."""

    nulls_not_distinct: bool = False
    deferrable: bool = False
    deferred: bool = False

    kind = "u"
    label = "key"
    word = "UNIQUE"

    @property
    def clause(self) -> str:
        nulls = " NULLS NOT DISTINCT" * self.nulls_not_distinct
        return f"{self.word}{nulls} {self._columns_text}{self._timing}"

    @property
    def _tail(self) -> str:
        return f"btree {self._columns_text}" + " NULLS NOT DISTINCT" * self.nulls_not_distinct

    @property
    def _timing(self) -> str:
        return " DEFERRABLE" * self.deferrable + " INITIALLY DEFERRED" * self.deferred

    @property
    def _is_deferrable(self) -> bool:
        return self.deferrable

    @property
    def _nulls_distinct(self) -> bool:
        return not self.nulls_not_distinct

    def _hazards(self, addition: Addition) -> Iterable[Hazard]:
        if self.deferrable and not addition.table.fresh:
            yield Hazard(
                id="C13", phase=addition.phase, accept="immediate_unique",
                message=f"until {addition.name} is a constraint, its index checks each row at once: a transaction of N+1 "
                "that has duplicates before it commits fails with 23505",
                remedy='let N+1 have none, or accept it: --override immediate_unique="reason"',
            )  # fmt: skip

    def _gates(self, addition: Addition) -> Iterable[Gate]:
        for hazard in self._hazards(addition):
            detail = f"{hazard.message}; {hazard.remedy}"
            yield Gate(name="immediate_unique", phase=addition.phase, detail=detail, exit_code=6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrimaryKey(_Key):
    """PRIMARY KEY (columns)."""

    kind = "p"
    label = "pkey"
    word = "PRIMARY KEY"

    def _named_after(self, columns: tuple[str, ...]) -> str:
        return ""

    def _refuse(self, addition: Addition) -> None:
        super()._refuse(addition)
        table = addition.table
        there = [k.name for k in table.live.constraints if k.kind == "p" and not table.drops_constraint(k.name)]
        there += [added.name for added in table.added if added.kind == "p"]
        if there:
            raise Unsafe(
                f"{table.shown} has a primary key already ({there[0]})",
                hint="put a DropConstraint of it before, in the same migration, and give the new one a name of its own",
            )

    def _steps(self, addition: Addition) -> Iterator[Step]:
        """Without NULLs first: PRIMARY KEY USING INDEX would look for them under ACCESS EXCLUSIVE."""
        for name in self.key:
            if not addition.table.column(name).not_null:
                yield from self._without_nulls(addition, name)
                addition.table.require(name, not_null=True)
        yield from super()._steps(addition)

    def _without_nulls(self, addition: Addition, name: str) -> list[Step]:
        live = addition.live
        made = notnull.conventional(live, name)
        first, *rest = notnull.proven(addition.scope, live, name, addition.phase, made=made)
        if addition.scope.snapshot.major >= 18:
            # A partition's primary key makes the NOT NULL its own, so that it would stay when the parent's goes.
            leaves = (p for p in live.partitions if not p.partitioned)
            drop = f"DROP CONSTRAINT IF EXISTS {ident(made)}"
            own = tuple(f"ALTER TABLE {ident(leaf.schema, leaf.name)} {drop}" for leaf in leaves)
            first = dataclasses.replace(first, undo=(*first.undo, *own))
        nulls = (
            f"SELECT format('row %s of %s is NULL in %s', ctid, {literal(addition.table.shown)}, {literal(name)}) "
            f"FROM {ident(live.schema, live.name)} WHERE {ident(name)} IS NULL LIMIT 5"
        )
        return [dataclasses.replace(step, refused_by=nulls) for step in (first, *rest)]
