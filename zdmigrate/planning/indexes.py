"""Indexes that are built while everybody goes on writing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Mode, Step, TableLock
from zdmigrate.planning import probes
from zdmigrate.planning.parts import Scope, on, transaction_step
from zdmigrate.sqltext import ident, tokens

SUE = LockMode.SHARE_UPDATE_EXCLUSIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index to build, for the table and each of its partitions.

    `label` names the steps. `tail` is the definition from the access method on, as ``CREATE INDEX`` takes it after
    USING; `tails` are the ways in which the catalog may print it. `partition_names` are keyed by (schema, name) of
    every partition, partitioned ones included.
    """

    name: str
    label: str
    tail: str
    tails: tuple[str, ...]
    unique: bool = False
    tablespace: str | None = None
    partition_names: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def build(self, scope: Scope, table: schema.Table, phase: Phase) -> list[Step]:
        """CONCURRENTLY; on a partitioned table each partition's, and then attached (manual, CREATE INDEX).

        Raises:
            Unsafe: the role may not create indexes there.
        """
        if not table.may_create:
            raise Unsafe(
                f"{scope.snapshot.role} may not create indexes in schema {table.schema}, and {self.label} must be built",
                hint=f"GRANT CREATE ON SCHEMA {ident(table.schema)} TO {ident(table.owner)}",
            )
        if not table.partitioned:
            return [self._concurrently(scope, phase, (table.schema, table.name), self.name)]
        leaves = [p for p in table.partitions if not p.partitioned]
        return [
            *self._declared(scope, table, phase),
            *(
                self._concurrently(scope, phase, (p.schema, p.name), self.partition_names[p.schema, p.name])
                for p in leaves
            ),
            *self._attached(scope, table, phase),
        ]

    def drop(self, table: schema.Table) -> str:
        """The statement that takes it away from a plain table; outside a transaction."""
        return f"DROP INDEX CONCURRENTLY IF EXISTS {ident(table.schema, self.name)}"

    @property
    def _kind(self) -> str:
        return "UNIQUE INDEX" if self.unique else "INDEX"

    def _concurrently(self, scope: Scope, phase: Phase, at: tuple[str, str], name: str) -> Step:
        placed = self.tail if self.tablespace is None else _with_tablespace(self.tail, self.tablespace)
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(at[0], name)}"
        lock = (TableLock(schema=at[0], name=at[1], mode=SUE),)
        return Step(
            id=scope.step_id(phase, f"index.{self.label}.{at[0]}.{at[1]}"),
            title=f"build {name} on {at[0]}.{at[1]} while everybody goes on writing",
            phase=phase,
            mode=Mode.AUTOCOMMIT,
            probe=probes.index(at[0], name, self.tails),
            do=(f"CREATE {self._kind} CONCURRENTLY {ident(name)} ON {ident(*at)} USING {placed}",),
            undo=(drop,),
            undo_mode=Mode.AUTOCOMMIT,
            repair=(drop,),
            locks=lock,
            undo_locks=lock,
            scans=True,
        )

    def _declared(self, scope: Scope, table: schema.Table, phase: Phase) -> list[Step]:
        """ON ONLY the parents: invalid until every partition has its own."""
        parents = [(table.schema, table.name)] + [(p.schema, p.name) for p in table.partitions if p.partitioned]
        names = {(table.schema, table.name): self.name, **self.partition_names}
        return [
            transaction_step(
                scope, phase, f"declare.{self.label}.{parent[0]}.{parent[1]}",
                f"declare {names[parent]} on {parent[0]}.{parent[1]}, without building anything",
                probe=probes.index_exists(parent[0], names[parent]),
                do=[f"CREATE {self._kind} {ident(names[parent])} ON ONLY {ident(*parent)} USING {self.tail}"],
                undo=[f"DROP INDEX IF EXISTS {ident(parent[0], names[parent])}"],
                locks=(TableLock(schema=parent[0], name=parent[1], mode=LockMode.SHARE),),
                undo_locks=(TableLock(schema=parent[0], name=parent[1], mode=LockMode.ACCESS_EXCLUSIVE),),
            )
            for parent in parents
        ]  # fmt: skip

    def _attached(self, scope: Scope, table: schema.Table, phase: Phase) -> list[Step]:
        """Bottom up."""
        names = {(table.schema, table.name): self.name, **self.partition_names}
        steps = []
        for leaf in reversed(table.partitions):
            child, parent = names[leaf.schema, leaf.name], (leaf.parent_schema or "", leaf.parent_name or "")
            steps.append(
                transaction_step(
                    scope, phase, f"attach.{self.label}.{leaf.schema}.{leaf.name}", f"attach {child}",
                    probe=probes.index_attached(leaf.schema, child),
                    do=[f"ALTER INDEX {ident(parent[0], names[parent])} ATTACH PARTITION {ident(leaf.schema, child)}"],
                    # An attached index goes with its parent only. Undone top down: the parent is not attached itself.
                    undo=[f"DROP INDEX IF EXISTS {ident(parent[0], names[parent])}"],
                    locks=(TableLock(schema=leaf.schema, name=leaf.name, mode=LockMode.ACCESS_SHARE),),
                    undo_locks=on(table, LockMode.ACCESS_EXCLUSIVE),
                )
            )  # fmt: skip
        return steps


def _with_tablespace(tail: str, tablespace: str) -> str:
    """TABLESPACE stands before WHERE, which may also be a word inside an expression: the last one at the top level."""
    depth, place, at = 0, 0, None
    for token in tokens(tail):
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "other" else 0
        if depth == 0 and token.kind == "word" and token.text == "WHERE":
            at = place
        place += len(token.text)
    body, predicate = (tail, "") if at is None else (tail[:at], tail[at:])
    return f"{body.rstrip()} TABLESPACE {ident(tablespace)} {predicate}".rstrip()
