"""Rename a column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, require_name
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, Window
from zdmigrate.planning import carry, probes, sync, synced
from zdmigrate.planning.parts import (
    ChangePlan,
    Scope,
    Target,
    alter,
    drop_foreign_keys,
    objects_of,
    on,
    refuse_dependents,
    refuse_type,
    transaction_step,
)
from zdmigrate.sqltext import ident

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, init=False)
class RenameColumn(Change):
    """Rename a column: ``RenameColumn("users", "user_email", "email_address")``.

    The new column is built beside the old one with all that hangs on it (default, NOT NULL, checks, unique and
    other indexes, foreign keys, grants, comment, settings), both are kept equal while versions N and N+1 run, and
    the old one is dropped at the end. The catalog ends as ``ALTER TABLE … RENAME COLUMN`` would have left it.

    Locks: ACCESS EXCLUSIVE, catalog only, a few times; see ``zdmigrate plan``. Undo: from every phase up to
    `retire`, without losing what N+1 wrote. Refused: primary keys, identity and generated columns, columns that
    foreign keys of other tables, views or other objects depend on, partition keys.
    """

    table: str
    old: str
    new: str
    schema: str

    def __init__(self, table: str, old: str, new: str, *, schema: str = "public") -> None:
        for field, value in (("table", table), ("old", old), ("new", new), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"RenameColumn: {field}"))
        if old == new:
            raise UsageError(f"RenameColumn: the column {old!r} has that name already")

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.old), Target(self.schema, self.table, self.new))

    def describe(self) -> dict[str, Any]:
        return {"change": "RenameColumn", "schema": self.schema, "table": self.table, "old": self.old, "new": self.new}

    def one_shot(self, scope: Scope) -> tuple[str, ...] | None:
        table = scope.live_table(self.schema, self.table)
        old, new = table.column(self.old), table.column(self.new)
        if old is not None and new is not None:
            raise Drift(f"{self.schema}.{self.table} has both {self.old} and {self.new}", hint="drop one of them")
        if old is None and new is None:
            raise Drift(f"{self.schema}.{self.table} has neither {self.old} nor {self.new}")
        return () if old is None else (alter(table, f"RENAME COLUMN {ident(self.old)} TO {ident(self.new)}"),)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.old)
        if table.column(self.new) is not None:
            raise Unsafe(
                f"{self.schema}.{self.table} already has a column {self.new!r}",
                hint="choose another name; if it is left over from an earlier attempt, drop it first",
            )
        self._refuse(table, column)
        return _Rename(self, scope, table, column).plan()

    def _refuse(self, table: catalog.Table, column: catalog.Column) -> None:
        shown = f"{self.schema}.{self.table}.{self.old}"
        remedies = {
            "an identity column": bool(column.identity),
            "a generated column": bool(column.generated),
            "part of the partition key": column.name in table.partition_columns,
            "part of the primary key": any(i.primary and column.name in i.columns for i in table.indexes),
            "part of the replica identity": any(i.replica_identity and column.name in i.columns for i in table.indexes),
            "part of an exclusion constraint": any(
                k.kind == "x" and column.name in k.columns for k in table.constraints
            ),
        }
        for what, found in remedies.items():
            if found:
                raise Unsafe(f"{shown} is {what}, which RenameColumn cannot carry", hint="keep the column's name")
        if table.partitioned and any(i.constraint and column.name in i.columns for i in table.indexes):
            raise Unsafe(
                f"{shown} has a unique constraint on a partitioned table, which cannot be built concurrently",
                hint="replace the constraint by a unique index first",
            )
        if any(k.kind == "u" and k.deferrable and column.name in k.columns for k in table.constraints):
            raise Unsafe(
                f"{shown} has a deferrable unique constraint: its copy would be immediate while it is built, and "
                "refuse version N's writes",
                hint="make the constraint immediate first",
            )
        unhashable = [c for i in table.indexes if i.unique and column.name in i.columns for c in i.columns]
        if any(not c.hashable for c in table.columns if c.name in unhashable):
            raise Unsafe(
                f"a unique index on {shown} has a column whose type has no hash function, so concurrent upserts of "
                "one key cannot be made to queue",
                hint="drop the unique index first",
            )
        if any(i.nulls_not_distinct and column.name in i.columns and i.constraint for i in table.indexes):
            raise Unsafe(f"{shown} has a NULLS NOT DISTINCT constraint", hint="replace it by a unique index first")
        refuse_dependents(table, self.old, doing="renamed")
        refuse_type(column.type, column.type_brings)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rename:
    change: RenameColumn
    scope: Scope
    table: catalog.Table
    column: catalog.Column

    def plan(self) -> ChangePlan:
        sync_part = self._synced()
        sync_part.refuse_unsyncable()
        trigger_hazards, gates = sync_part.trigger_hazards()
        volatile, volatile_gates = self._volatile_default()
        return ChangePlan(
            steps=(*self._expand(), *self._fill_and_equip(sync_part), *self._hand_over(sync_part)),
            window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL),
            objects=objects_of(self.table, self.change.old),
            hazards=(*trigger_hazards, *volatile, *self._announced()),
            gates=(*gates, *volatile_gates),
        )

    def _definition(self) -> str:
        collation = f" COLLATE {self.column.collation}" if self.column.collation else ""
        return f"{ident(self.change.new)} {self.column.type}{collation}"

    def _settings(self) -> tuple[str, ...]:
        return carry.settings(self.table, self.column, self.change.new)

    def _synced(self) -> synced.Synced:
        old = sync.SyncColumn(
            name=self.change.old,
            type=self.column.type,
            default=self.column.default,
            default_volatile=bool(self.column.default_volatile),
        )
        pair = sync.SyncPair(
            columns=self.table.column_names | {self.change.new},
            old=(old,),
            new=(sync.SyncColumn(name=self.change.new, type=self.column.type),),
            up=(ident(self.change.old),),
            down=(ident(self.change.new),),
            keys=tuple(
                sync.UniqueKey(name=i.name, keys=i.keys, nulls_distinct=not i.nulls_not_distinct, predicate=i.predicate)
                for i in self._indexes()
                if i.unique
            ),
        )
        return synced.Synced(scope=self.scope, table=self.table, pair=pair, label=self.change.new)

    def _indexes(self) -> tuple[catalog.Index, ...]:
        return tuple(i for i in self.table.indexes if self.column.name in i.columns and i.valid)

    def _constraints(self, kinds: str) -> tuple[catalog.Constraint, ...]:
        return tuple(k for k in self.table.constraints if k.kind in kinds and self.column.name in k.columns)

    def _expand(self) -> Iterator[Step]:
        yield transaction_step(
            self.scope, Phase.EXPAND, f"add.{self.change.new}", f"add {self.change.new} beside {self.change.old}, nullable",
            probe=probes.column(self.table, self.change.new, type_=self.column.type),
            do=[alter(self.table, f"ADD COLUMN {self._definition()}"), *self._settings()],
            undo=[alter(self.table, f"DROP COLUMN {ident(self.change.new)}")],
            locks=on(self.table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def _fill_and_equip(self, sync_part: synced.Synced) -> Iterator[Step]:
        scope, table, old, new = self.scope, self.table, self.change.old, self.change.new
        default = sync.new_defaults(sync_part.pair).get(new)
        defaults = () if default is None else (alter(table, f"ALTER COLUMN {ident(new)} SET DEFAULT {default}"),)
        yield sync_part.install(*defaults, undo=synced.reset_column(table, new, self._definition(), self._settings()))
        yield sync_part.fill()
        for index in self._indexes():
            yield from carry.index(scope, table, index, old, new)
        if self.column.not_null:
            yield from carry.not_null(scope, table, new)
        for constraint in self._constraints("c"):
            yield from carry.check(scope, table, constraint, old, new)
        for constraint in self._constraints("f"):
            yield from carry.foreign_key(scope, table, constraint, old, new)
        for index in self._indexes():
            backed = next((k for k in self._constraints("u") if k.name == index.constraint), None)
            if backed is not None:
                yield carry.unique_constraint(scope, table, index, backed)
        yield carry.analyze(scope, table, (new,))
        yield sync_part.verify()

    def _hand_over(self, sync_part: synced.Synced) -> Iterator[Step]:
        renamed = {self.change.old: self._retired}
        yield sync_part.hand_over(synced.switch_statement(self.scope.control, self.scope.migration), renamed)
        yield sync_part.retire(renamed)
        yield from drop_foreign_keys(self.scope, self.table, self.change.old, self._retired)
        yield self._drop(sync_part)

    def _drop(self, sync_part: synced.Synced) -> Step:
        table, new = self.table, ident(self.change.new)
        target = ident(table.schema, table.name)
        own = [f"ALTER SEQUENCE {name} OWNED BY {target}.{new}" for name in self.column.owned_sequences]
        late = []
        if self.column.default is not None and self.column.default_volatile:
            late = [alter(table, f"ALTER COLUMN {new} SET DEFAULT {self.column.default}")]
        return transaction_step(
            self.scope, Phase.CONTRACT, f"drop.{self._retired}",
            f"drop what was {self.change.old}; the copies take the originals' names",
            probe=probes.column_absent(table, self._retired),
            do=[
                *(s for s in sync_part.remove() if s.startswith("DROP TRIGGER")),
                *late, *own,
                alter(table, f"DROP COLUMN {ident(self._retired)}"),
                *self._final_names(),
                *(s for s in sync_part.remove() if s.startswith("DROP FUNCTION")),
            ],
            locks=on(table, LockMode.ACCESS_EXCLUSIVE), takes_away=True, irreversible=True,
        )  # fmt: skip

    def _final_names(self) -> Iterator[str]:
        for index in self._indexes():
            if index.constraint is None:
                made = carry.index_name(self.scope, self.table, index)
                yield f"ALTER INDEX {ident(self.table.schema, made)} RENAME TO {ident(index.name)}"
                yield from self._final_partition_names(index)
        for constraint in self._constraints("cfu"):
            made = carry.constraint_name(self.scope, self.table, constraint)
            yield alter(self.table, f"RENAME CONSTRAINT {ident(made)} TO {ident(constraint.name)}")
        if self.column.not_null and self.scope.snapshot.major >= 18:
            final = next((k.name for k in self._constraints("n")), None)
            if final is not None:
                made = carry.not_null_name(self.scope, self.table, self.change.new)
                yield alter(self.table, f"RENAME CONSTRAINT {ident(made)} TO {ident(final)}")

    def _final_partition_names(self, index: catalog.Index) -> Iterator[str]:
        for leaf in self.table.partitions:
            original = dict(index.partition_names).get(f"{leaf.schema}.{leaf.name}")
            if original is not None:
                made = carry.partition_index_name(self.scope, leaf, index)
                yield f"ALTER INDEX {ident(leaf.schema, made)} RENAME TO {ident(original)}"

    def _volatile_default(self) -> tuple[tuple[Hazard, ...], tuple[Gate, ...]]:
        if not self.column.default_volatile or self.column.not_null:
            return (), ()
        message = (
            f"{self.change.old} has a volatile default, so until contract an explicit NULL that N+1 inserts into "
            f"{self.change.new} means the default"
        )
        remedy = 'make the column NOT NULL first, or accept it: --override explicit_null="reason"'
        hazard = Hazard(id="C10", phase=Phase.DUAL_WRITE, message=message, remedy=remedy, accept="explicit_null")
        gate = Gate(name="explicit_null", phase=Phase.DUAL_WRITE, detail=f"{message}; {remedy}", exit_code=6)
        return (hazard,), (gate,)

    def _announced(self) -> Iterator[Hazard]:
        if any(i.unique for i in self._indexes()):
            yield Hazard(
                id="C13", phase=Phase.BACKFILL,
                message=f"a transaction that inserts more than {sync.KEY_LOCKS} rows can meet 23505 where ON CONFLICT "
                f"on {self.change.old} would have found the row, if another session inserts the same key at once",
                remedy="insert in smaller transactions, or retry on 23505",
            )  # fmt: skip

    @property
    def _retired(self) -> str:
        return self.scope.name("old", self.change.old, self.table.schema, self.table.name)
