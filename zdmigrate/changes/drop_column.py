"""Drop a column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Mode, Step, Window
from zdmigrate.planning import probes, sync, synced
from zdmigrate.planning.parts import (
    ChangePlan,
    Scope,
    Target,
    alter,
    drop_foreign_keys,
    objects_of,
    on,
    refuse_dependents,
    transaction_step,
)
from zdmigrate.sqltext import ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, init=False)
class DropColumn(Change):
    """Drop a column: ``DropColumn("users", "nickname")``.

    Version N+1 neither reads nor writes it. It is first renamed out of the way (`retire`, undone in milliseconds)
    and dropped in `contract`. Where it is NOT NULL without a default, N+1's inserts need a value: `down` is the SQL
    expression over the row that gives it (a trigger sets it); without `down` the column is made nullable, which must
    be accepted because version N then reads NULLs.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: until the drop. Its indexes and constraints go with it; what belongs
    to other objects (views, foreign keys of other tables) is refused.
    """

    table: str
    column: str
    down: str | None
    schema: str

    def __init__(self, table: str, column: str, *, down: str | None = None, schema: str = "public") -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"DropColumn: {field}"))
        if down is not None and (not isinstance(down, str) or not down.strip()):
            raise UsageError(f"DropColumn: down must be a SQL expression, got {down!r}")
        object.__setattr__(self, "down", down)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "DropColumn", **dataclasses.asdict(self)}

    def questions(self) -> tuple[catalog.Question, ...]:
        if self.down is None:
            return ()
        return (catalog.Question(schema=self.schema, table=self.table, expression=self.down),)

    def one_shot(self, scope: Scope) -> tuple[str, ...] | None:
        table = scope.live_table(self.schema, self.table)
        return () if table.column(self.column) is None else (alter(table, f"DROP COLUMN {ident(self.column)}"),)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        shown = f"{self.schema}.{self.table}.{self.column}"
        if column.name in table.partition_columns:
            raise Unsafe(f"{shown} is part of the partition key", hint="create a table with another key instead")
        if any((i.primary or i.replica_identity) and column.name in i.columns for i in table.indexes):
            raise Unsafe(f"{shown} is part of the primary key or replica identity", hint="change the key first")
        refuse_dependents(table, self.column, doing="dropped")
        if self.down is not None:
            scope.expression(table, self.down)
        return _Drop(self, scope, table, column).plan()


@dataclasses.dataclass(frozen=True, slots=True)
class _Drop:
    change: DropColumn
    scope: Scope
    table: catalog.Table
    column: catalog.Column

    def plan(self) -> ChangePlan:
        column = self.column
        required = column.not_null and column.default is None and not column.identity and not column.generated
        lost = self._indexes_lost()
        if not required:
            steps = (*self._retire(), *self._contract(()))
            return self._made(steps, Phase.NONE, lost)
        if self.change.down is not None:
            part = self._synced(self.change.down)
            part.refuse_unsyncable()
            install = part.install(undo=())
            steps = (install, part.retire({column.name: self._retired}), *self._contract(part.remove()))
            return dataclasses.replace(self._made(steps, Phase.DUAL_WRITE, lost), reads=part.reads)
        hazard = Hazard(
            id="C16", phase=Phase.EXPAND, accept="old_reads_null",
            message=f"version N will read NULL in {column.name}, which was NOT NULL, in rows that N+1 inserts",
            remedy='give DropColumn a down= expression, or accept it: --override old_reads_null="reason"',
        )  # fmt: skip
        detail = f"{hazard.message}; {hazard.remedy}"
        gate = Gate(name="old_reads_null", phase=Phase.EXPAND, detail=detail, exit_code=6)
        steps = (self._allow_null(), *self._retire(), *self._contract(()))
        return dataclasses.replace(self._made(steps, Phase.EXPAND, (hazard, *lost)), gates=(gate,))

    def _made(self, steps: tuple[Step, ...], new_from: Phase, hazards: tuple[Hazard, ...]) -> ChangePlan:
        window = Window(old_until=Phase.SWITCH_READS, new_from=new_from)
        objects = objects_of(self.table, self.column.name)
        return ChangePlan(steps=steps, window=window, hazards=hazards, objects=objects)

    def _synced(self, down: str) -> synced.Synced:
        pair = sync.SyncPair(
            columns=self.table.column_names,
            old=(sync.SyncColumn(name=self.column.name, type=self.column.type),),
            new=(),
            up=(),
            down=(down,),
        )
        return synced.Synced(scope=self.scope, table=self.table, pair=pair, label=self.column.name)

    def _allow_null(self) -> Step:
        table, name = self.table, ident(self.column.name)
        # It is asked before anything is undone, so the column may still have its retired name.
        nulls = (
            f"SELECT format('row %s of %s is NULL in %s', t.ctid, {literal(f'{table.schema}.{table.name}')}, "
            f"{literal(self.column.name)}) FROM {ident(table.schema, table.name)} t "
            f"WHERE coalesce(to_jsonb(t) ->> {literal(self.column.name)}, to_jsonb(t) ->> {literal(self._retired)}) IS NULL "
            "LIMIT 5"
        )
        step = transaction_step(
            self.scope, Phase.EXPAND, f"allow_null.{self.column.name}", f"let N+1 insert without {self.column.name}",
            probe=probes.nullable(table, self.column.name, self._not_null_name),
            do=[alter(table, f"ALTER COLUMN {name} DROP NOT NULL")], undo=self._not_null_again(),
            locks=on(table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        repair = (alter(table, f"DROP CONSTRAINT IF EXISTS {ident(self._not_null_name)}"),)
        return dataclasses.replace(step, undo_mode=Mode.AUTOCOMMIT, repair=repair, undo_blocked=nulls)

    def _not_null_again(self) -> tuple[str, ...]:
        # Without a scan under ACCESS EXCLUSIVE; every statement can be repeated after a crash.
        table, name, helper = self.table, ident(self.column.name), ident(self._not_null_name)
        drop = alter(table, f"DROP CONSTRAINT IF EXISTS {helper}")
        validate = alter(table, f"VALIDATE CONSTRAINT {helper}")
        if self.scope.snapshot.major >= 18:
            return (drop, alter(table, f"ADD CONSTRAINT {helper} NOT NULL {name} NOT VALID"), validate)
        return (
            drop,
            alter(table, f"ADD CONSTRAINT {helper} CHECK ({name} IS NOT NULL) NOT VALID"),
            validate,
            alter(table, f"ALTER COLUMN {name} SET NOT NULL"),
            drop,
        )

    @property
    def _not_null_name(self) -> str:
        """The constraint that is built when NOT NULL is restored: on 18 the one that was there."""
        column = self.column.name
        kept = (k.name for k in self.table.constraints if k.kind == "n" and k.columns == (column,))
        return next(kept, self.scope.name("nn", column, self.table.schema, self.table.name))

    def _retire(self) -> Iterator[Step]:
        name, retired = ident(self.column.name), ident(self._retired)
        yield transaction_step(
            self.scope, Phase.RETIRE, f"retire.{self.column.name}", f"rename {self.column.name} out of the way",
            probe=probes.renamed(self.table, self.column.name, self._retired),
            do=[alter(self.table, f"RENAME COLUMN {name} TO {retired}")],
            undo=[alter(self.table, f"RENAME COLUMN {retired} TO {name}")],
            locks=on(self.table, LockMode.ACCESS_EXCLUSIVE), takes_away=True,
        )  # fmt: skip

    def _contract(self, remove: tuple[str, ...]) -> Iterator[Step]:
        yield from drop_foreign_keys(self.scope, self.table, self.column.name, self._retired)
        yield transaction_step(
            self.scope, Phase.CONTRACT, f"drop.{self._retired}", f"drop what was {self.column.name}",
            probe=probes.column_absent(self.table, self._retired),
            do=[
                *(s for s in remove if s.startswith("DROP TRIGGER")),
                alter(self.table, f"DROP COLUMN {ident(self._retired)}"),
                *(s for s in remove if s.startswith("DROP FUNCTION")),
            ],
            locks=on(self.table, LockMode.ACCESS_EXCLUSIVE), takes_away=True, irreversible=True,
        )  # fmt: skip

    def _indexes_lost(self) -> tuple[Hazard, ...]:
        lost = [i.name for i in self.table.indexes if self.column.name in i.columns]
        if not lost:
            return ()
        message = f"dropping {self.column.name} drops the indexes {', '.join(lost)}"
        remedy = "build what the queries still need before this migration"
        return (Hazard(id="C17", phase=Phase.CONTRACT, message=message, remedy=remedy),)

    @property
    def _retired(self) -> str:
        return self.scope.name("old", self.column.name, self.table.schema, self.table.name)
