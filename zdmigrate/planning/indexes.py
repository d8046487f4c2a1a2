"""Indexes that are built, dropped and built again while everybody goes on writing.

What is long is CONCURRENTLY; on a partitioned table, which has no such form, every partition's index is built by itself
and then attached (manual, CREATE INDEX).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Mode, Step, TableLock
from zdmigrate.planning import names, probes
from zdmigrate.planning.parts import Scope, on, transaction_step
from zdmigrate.sqltext import ident, literal, tokens

SUE = LockMode.SHARE_UPDATE_EXCLUSIVE

Relation = tuple[str, str]
"""Schema and name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index to build or to drop, for the table and each of its partitions.

    `label` names the steps. `tail` is the definition from the access method on, as ``CREATE INDEX`` takes it after
    USING; `tails` are the ways in which the catalog may print it. `partition_names` are keyed by (schema, name) of every
    partition, partitioned ones included.
    """

    name: str
    label: str
    tail: str
    tails: tuple[str, ...]
    unique: bool = False
    tablespace: str | None = None
    partition_names: Mapping[Relation, str] = dataclasses.field(default_factory=dict)
    comment: str | None = None
    clustered: bool = False

    def build(self, scope: Scope, table: schema.Table, phase: Phase) -> list[Step]:
        """CONCURRENTLY; on a partitioned table each partition's, and then attached.

        Raises:
            Unsafe: the role may not create indexes there, or a partition is a foreign table.
        """
        if not table.may_create:
            raise Unsafe(
                f"{scope.snapshot.role} may not create indexes in schema {table.schema}, and {self.label} must be built",
                hint=f"GRANT CREATE ON SCHEMA {ident(table.schema)} TO {ident(table.owner)}",
            )
        foreign = [f"{leaf.schema}.{leaf.name}" for leaf in table.partitions if leaf.foreign]
        if foreign:
            raise Unsafe(
                f"{', '.join(foreign)} cannot have indexes here, so none of {table.schema}.{table.name} could be complete",
                hint="detach the foreign partition, or index the other partitions by themselves",
            )
        if not table.partitioned:
            steps = [self._concurrently(scope, phase, (table.schema, table.name))]
        else:
            steps = [
                *(self._declared(scope, table, phase, parent) for parent in self._parents(table)),
                *(self._concurrently(scope, phase, leaf) for leaf in self._leaves(table)),
                *(self._attached(scope, table, phase, leaf) for leaf in reversed(table.partitions)),
                self._complete(scope, table, phase),
            ]
        return steps if self.comment is None else [*steps, self._commented(scope, table, phase, self.comment)]

    def at_once(self, scope: Scope, table: schema.Table) -> Step:
        """On a table that the same migration makes: there is nothing to read, and nobody waits."""
        target = (table.schema, table.name)
        comment = () if self.comment is None else (self._comment(table, self.comment),)
        return transaction_step(
            scope, Phase.EXPAND, f"index.{self.label}", f"create the index {self.name}",
            probe=probes.index(target, (table.schema, self.name), self.tails, unique=self.unique),
            do=[f"CREATE {self._kind} {ident(self.name)} ON {ident(*target)} USING {self._placed}", *comment],
            undo=[f"DROP INDEX IF EXISTS {ident(table.schema, self.name)}"],
            locks=on(table, LockMode.SHARE), undo_locks=on(table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def drop(
        self,
        scope: Scope,
        table: schema.Table,
        phase: Phase,
        *,
        oids: tuple[int, ...],
        rebuilt: bool,
        renamed_from: str | None = None,
    ) -> Step:
        """CONCURRENTLY; on a partitioned table at once, which locks all of it for an instant.

        Undone by building it again, unless it was invalid before (`rebuilt`). `oids` say which index is meant while
        its definition says it with other names of columns; `renamed_from` is its name until the step before.
        """
        parted = table.partitioned
        lock = on(table, LockMode.ACCESS_EXCLUSIVE if parted else SUE)
        drop = f"DROP INDEX {'' if parted else 'CONCURRENTLY '}IF EXISTS {ident(table.schema, self.name)}"
        probe = probes.index_dropped(
            (table.schema, table.name), (table.schema, self.name), self.tails, unique=self.unique, oids=oids,
            comment=self.comment, clustered=self.clustered,
            renamed_from=(table.schema, renamed_from) if renamed_from is not None and rebuilt else None,
        )  # fmt: skip
        return Step(
            id=scope.step_id(phase, f"drop.{self.label}"),
            title=f"drop the index {self.name}",
            phase=phase,
            mode=Mode.TRANSACTION if parted else Mode.AUTOCOMMIT,
            probe=probe,
            do=(drop,),
            undo=self.again(table) if rebuilt else (),
            undo_mode=Mode.AUTOCOMMIT,
            repair=self.remains(table),
            locks=lock,
            undo_locks=on(table, LockMode.SHARE if parted else SUE) if rebuilt else (),
            takes_away=True,
        )

    def again(self, table: schema.Table) -> tuple[str, ...]:
        """The statements that build it anew, outside a transaction; from the start after a crash."""
        after = [f"ALTER TABLE {ident(table.schema, table.name)} CLUSTER ON {ident(self.name)}"] * self.clustered
        after += [] if self.comment is None else [self._comment(table, self.comment)]
        if not table.partitioned:
            return (*self.remains(table), self._create((table.schema, table.name)), *after)
        return (
            *self.remains(table),
            *(self._declare(parent) for parent in self._parents(table)),
            *(self._create(leaf) for leaf in self._leaves(table)),
            *(self._attach(leaf) for leaf in reversed(table.partitions) if self._has(leaf)),
            *after,
        )

    def remains(self, table: schema.Table) -> tuple[str, ...]:
        """The statements that drop whatever there is of it, outside a transaction; parents before their parts."""
        if not table.partitioned:
            return (f"DROP INDEX CONCURRENTLY IF EXISTS {ident(table.schema, self.name)}",)
        return (
            *(f"DROP INDEX IF EXISTS {ident(at[0], self.names(table)[at])}" for at in self._parents(table)),
            *(f"DROP INDEX CONCURRENTLY IF EXISTS {ident(at[0], self.names(table)[at])}" for at in self._leaves(table)),
        )

    def names(self, table: schema.Table) -> dict[Relation, str]:
        """What it is called on the table and on each partition."""
        return {(table.schema, table.name): self.name, **self.partition_names}

    @property
    def _kind(self) -> str:
        return "UNIQUE INDEX" if self.unique else "INDEX"

    @property
    def _placed(self) -> str:
        return self.tail if self.tablespace is None else with_tablespace(self.tail, self.tablespace)

    def _has(self, leaf: schema.Leaf) -> bool:
        return (leaf.schema, leaf.name) in self.partition_names

    def _parents(self, table: schema.Table) -> list[Relation]:
        below = [(p.schema, p.name) for p in table.partitions if p.partitioned and self._has(p)]
        return [(table.schema, table.name), *below]

    def _leaves(self, table: schema.Table) -> list[Relation]:
        return [(p.schema, p.name) for p in table.partitions if not p.partitioned and self._has(p)]

    def _name_at(self, at: Relation) -> str:
        return self.partition_names.get(at, self.name)

    def _create(self, at: Relation) -> str:
        return f"CREATE {self._kind} CONCURRENTLY {ident(self._name_at(at))} ON {ident(*at)} USING {self._placed}"

    def _declare(self, at: Relation) -> str:
        return f"CREATE {self._kind} {ident(self._name_at(at))} ON ONLY {ident(*at)} USING {self._placed}"

    def _attach(self, leaf: schema.Leaf) -> str:
        child, parent = (leaf.schema, leaf.name), (leaf.parent_schema or "", leaf.parent_name or "")
        above, below = ident(parent[0], self._name_at(parent)), ident(child[0], self._name_at(child))
        return f"ALTER INDEX {above} ATTACH PARTITION {below}"

    def _comment(self, table: schema.Table, text: str) -> str:
        return f"COMMENT ON INDEX {ident(table.schema, self.name)} IS {literal(text)}"

    def _concurrently(self, scope: Scope, phase: Phase, at: Relation) -> Step:
        name = self._name_at(at)
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(at[0], name)}"
        lock = (TableLock(schema=at[0], name=at[1], mode=SUE),)
        return Step(
            id=scope.step_id(phase, f"index.{self.label}.{at[0]}.{at[1]}"),
            title=f"build {name} on {at[0]}.{at[1]} while everybody goes on writing",
            phase=phase,
            mode=Mode.AUTOCOMMIT,
            probe=probes.index(at, (at[0], name), self.tails, unique=self.unique),
            do=(self._create(at),),
            undo=(drop,),
            undo_mode=Mode.AUTOCOMMIT,
            repair=(drop,),
            locks=lock,
            undo_locks=lock,
            scans=True,
        )

    def _declared(self, scope: Scope, table: schema.Table, phase: Phase, parent: Relation) -> Step:
        """ON ONLY the parent: invalid until every partition has its own."""
        name = self.names(table)[parent]
        return transaction_step(
            scope, phase, f"declare.{self.label}.{parent[0]}.{parent[1]}",
            f"declare {name} on {parent[0]}.{parent[1]}, without building anything",
            probe=probes.index(parent, (parent[0], name), self.tails, unique=self.unique, only_declared=True),
            do=[self._declare(parent)],
            undo=[f"DROP INDEX IF EXISTS {ident(parent[0], name)}"],
            locks=(TableLock(schema=parent[0], name=parent[1], mode=LockMode.SHARE),),
            undo_locks=(TableLock(schema=parent[0], name=parent[1], mode=LockMode.ACCESS_EXCLUSIVE),),
        )  # fmt: skip

    def _attached(self, scope: Scope, table: schema.Table, phase: Phase, leaf: schema.Leaf) -> Step:
        """Bottom up."""
        known = self.names(table)
        child, parent = known[leaf.schema, leaf.name], (leaf.parent_schema or "", leaf.parent_name or "")
        return transaction_step(
            scope, phase, f"attach.{self.label}.{leaf.schema}.{leaf.name}", f"attach {child}",
            probe=probes.index_attached(leaf.schema, child),
            do=[self._attach(leaf)],
            # An attached index goes with its parent only. Undone top down: the parent is not attached itself.
            undo=[f"DROP INDEX IF EXISTS {ident(parent[0], known[parent])}"],
            # Every statement on the partition asks for its indexes: it waits while this one is attached.
            locks=(
                TableLock(schema=leaf.schema, name=leaf.name, mode=LockMode.ACCESS_SHARE),
                TableLock(schema=leaf.schema, name=child, mode=LockMode.ACCESS_EXCLUSIVE),
            ),
            undo_locks=on(table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def _complete(self, scope: Scope, table: schema.Table, phase: Phase) -> Step:
        """A partition that came after the plan was made has no index that could be attached."""
        return Step(
            id=scope.step_id(phase, f"complete.{self.label}"),
            title=f"see that no partition is without {self.name}",
            phase=phase,
            mode=Mode.AUTOCOMMIT,
            probe=probes.index_complete((table.schema, table.name), self.name),
        )

    def _commented(self, scope: Scope, table: schema.Table, phase: Phase, text: str) -> Step:
        return transaction_step(
            scope, phase, f"index_comment.{self.label}", f"comment on {self.name}",
            probe=probes.index_comment(table.schema, self.name, text),
            do=[self._comment(table, text)], locks=(),
        )  # fmt: skip


def of(table: schema.Table, index: schema.Index, *, name: str | None = None, later: Sequence[str] = ()) -> Index:
    """An index of the catalog, under its own name or another one; `later` are other texts of its definition."""
    known = dict(index.partition_names)
    return Index(
        name=name or index.name,
        label=index.name,
        tail=index.tail,
        tails=tuple(dict.fromkeys((index.tail, *later))),
        unique=index.unique,
        tablespace=index.tablespace,
        partition_names={
            (p.schema, p.name): known[f"{p.schema}.{p.name}"]
            for p in table.partitions
            if f"{p.schema}.{p.name}" in known
        },
        comment=index.comment,
        clustered=index.clustered,
    )


def existing(table: schema.Table, name: str, *, hint: str) -> schema.Index:
    """An index of the table that is no constraint's; `hint` says what there is for those that are.

    Raises:
        Unsafe: there is none, or it is.
    """
    index = table.index(name)
    if index is None:
        known = ", ".join(i.name for i in table.indexes) or "none"
        raise Unsafe(f"{table.schema}.{table.name} has no index {name!r}", hint=f"its indexes are: {known}")
    if index.constraint is not None:
        kind = "the primary key" if index.primary else f"the constraint {index.constraint}"
        raise Unsafe(f"the index {name} of {table.schema}.{table.name} belongs to {kind}", hint=hint)
    return index


def refuse_needed(table: schema.Table, index: schema.Index, *, doing: str) -> None:
    """Refuse where something else rests on the index.

    Raises:
        Unsafe: the replica identity or foreign keys do.
    """
    shown = f"the index {index.name} of {table.schema}.{table.name} cannot be {doing}"
    if index.replica_identity:
        raise Unsafe(f"{shown}: it is the replica identity", hint="SetReplicaIdentity first, in a migration before")
    if index.references:
        keys = ", ".join(index.references)
        raise Unsafe(f"{shown}: foreign keys rest on it: {keys}", hint="drop those first, or keep the index")


def conventional(
    scope: Scope, table: schema.Table, columns: Sequence[str], *, name: str | None = None, free: frozenset[Relation]
) -> tuple[str, dict[Relation, str]]:
    """The index's name, and those of its parts on partitions, as the server would choose them (ChooseIndexName).

    `columns` are the names of the index's columns. `name` is the one that was given, if one was. `free` are names that
    the migration itself frees before.

    Raises:
        Unsafe: the name is taken, or free only when another change of the migration is through.
        Unanswered: the server must be asked which names are taken.
    """
    joined = "_".join(columns)
    wanted = [(table.schema, table.name), *((p.schema, p.name) for p in table.partitions)]
    taken: set[Relation] = set()
    while True:
        chosen: dict[Relation, str] = {}
        used = set(taken)
        for at in wanted:
            first = name if at == wanted[0] else None
            here = frozenset(n for s, n in used if s == at[0])
            chosen[at] = first or names.conventional(at[1], joined, "idx", here)
            used.add((at[0], chosen[at]))
        asked = [(at[0], chosen[at]) for at in wanted if (at[0], chosen[at]) not in free]
        found = set(_occupied(scope, table, asked))
        if name is not None and (table.schema, name) in found:
            raise _taken(scope, table, name)
        if not found:
            return chosen.pop(wanted[0]), chosen
        taken |= found


def _occupied(scope: Scope, table: schema.Table, wanted: Sequence[Relation]) -> Iterator[Relation]:
    there = scope.taken(wanted) | {(table.schema, index.name) for index in table.indexes}
    for at in wanted:
        doing = scope.draft.claimed(claim(*at))
        if doing is not None and at in there:
            raise Unsafe(
                f"the index {at[1]} is {doing}, so its name is free only when the migration is through",
                hint="give the new index another name, or use ReplaceIndex",
            )
        if doing is not None or at in there:
            yield at


def claim(schema_name: str, name: str) -> str:
    """How a migration's draft calls an index."""
    return f"index {schema_name}.{name}"


def name_claim(schema_name: str, name: str) -> str:
    """How it calls an index's name, for changes that need it between `expand` and `retire`."""
    return f"the name of {claim(schema_name, name)}"


def duplicates(table: schema.Table, keys: Sequence[str], *, predicate: str | None, nulls_distinct: bool) -> str:
    """A query that names values which rows of the table have in common, where a unique index must have one."""
    shown = literal(f"{table.schema}.{table.name}")
    aliases = [f"k{number}" for number in range(len(keys))]
    listed = ", ".join(aliases)
    rows = (
        f"SELECT {', '.join(f'({key}) AS {alias}' for key, alias in zip(keys, aliases, strict=True))} "
        f"FROM {ident(table.schema, table.name)}" + ("" if predicate is None else f" WHERE {predicate}")
    )
    counted = f" WHERE {' AND '.join(f'{alias} IS NOT NULL' for alias in aliases)}" if nulls_distinct else ""
    return (
        f"SELECT format('%s rows of %s have the same %s: %s', count(*), {shown}, {literal(', '.join(keys))}, "
        f"left(ROW({listed})::text, 200)) FROM ({rows}) AS keyed{counted} GROUP BY {listed} HAVING count(*) > 1 LIMIT 5"
    )


def _taken(scope: Scope, table: schema.Table, name: str) -> Unsafe:
    index, doing = table.index(name), scope.draft.claimed(claim(table.schema, name))
    if doing is not None:
        return Unsafe(f"the index {name} is {doing} of the same migration", hint="choose another name for this one")
    if index is None:
        return Unsafe(f"the name {table.schema}.{name} is taken", hint="choose another name for the index")
    if not index.valid:
        return Unsafe(
            f"{table.schema}.{table.name} has an index {name} that was never finished",
            hint=f"DROP INDEX CONCURRENTLY {ident(table.schema, name)}, then run the command again",
        )
    return Unsafe(
        f"{table.schema}.{table.name} already has an index {name}",
        hint="choose another name; if the index is the one that is meant, record the migration as adopted: "
        "zdmigrate bootstrap",
    )


def with_tablespace(tail: str, tablespace: str) -> str:
    """TABLESPACE stands before WHERE, which may also be a word inside an expression: the last one at the top level."""
    depth, place, at = 0, 0, None
    for token in tokens(tail):
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "other" else 0
        if depth == 0 and token.kind == "word" and token.text == "WHERE":
            at = place
        place += len(token.text)
    body, predicate = (tail, "") if at is None else (tail[:at], tail[at:])
    return f"{body.rstrip()} TABLESPACE {ident(tablespace)} {predicate}".rstrip()
