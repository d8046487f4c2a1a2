"""Let a column number its rows."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_flag, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, Gate, LockMode, Mode, Step, Window
from zdmigrate.planning import identity, names, probes
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, init=False)
class AddIdentity(Change):
    """Make an integer column an identity: ``AddIdentity("users", "id")``.

    A serial column changes its sequence for the identity's in one transaction of `expand`: no number is given twice,
    privileges are carried, and neither version notices. The old sequence is dropped in `contract`.

    A NOT NULL column without a default is one that version N numbers by itself. `start` is a number that N will not
    reach while both versions run; without it the sequence begins after the greatest number there is, and the two may
    meet, which must be accepted (gate ``identity_numbers``).

    ``always=True`` makes it ``GENERATED ALWAYS`` in `contract`: N's explicit numbers would be refused (428C9).

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: until the old sequence is dropped; a serial column goes on where the
    identity was. Manual: CREATE TABLE, "GENERATED … AS IDENTITY".
    """

    table: str
    column: str
    always: bool
    start: int | None
    increment: int | None
    schema: str

    def __init__(
        self,
        table: str,
        column: str,
        *,
        always: bool = False,
        start: int | None = None,
        increment: int | None = None,
        schema: str = "public",
    ) -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"AddIdentity: {field}"))
        for field, number in (("start", start), ("increment", increment)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
                raise UsageError(f"AddIdentity: {field} must be a whole number, got {number!r}")
            object.__setattr__(self, field, number)
        if increment == 0:
            raise UsageError("AddIdentity: increment must not be 0")
        object.__setattr__(self, "always", require_flag(always, "AddIdentity: always"))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "AddIdentity", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        if column.identity:
            make_always = alter(table, f"ALTER COLUMN {ident(self.column)} SET GENERATED ALWAYS")
            return OneShot(make_always, there=column.identity == "a" or not self.always)
        serial = _serial(table, column)
        if serial is None:
            add = identity.add(table, self.column, self._options(None), always=self.always)
            moved = (identity.caught_up(table, self.column, down=self._down),) if self.start is None else ()
            return OneShot(add, *moved, there=False)
        aside = scope.name("seq", serial.name, serial.schema, serial.name)
        swap = self._swap(table, column, serial, aside)
        final = [alter(table, f"ALTER COLUMN {ident(self.column)} SET GENERATED ALWAYS")] if self.always else []
        return OneShot(*swap, *final, f"DROP SEQUENCE {ident(serial.schema, aside)}", there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        self._refuse(scope, table, column)
        scope.draft.claim(f"the default of {table.shown}.{self.column}", f"replaced by change {scope.position + 1}")
        serial = _serial(table.live, column)
        self._try(scope, table.live, column, serial)
        parts = self._numbered(scope, table, column) if serial is None else self._serial(scope, table, column, serial)
        table.amend(self.column, default=None, default_volatile=None, identity="d", owned_sequences=())
        if not self.always:
            return parts
        name = f"ALTER COLUMN {ident(table.settled(self.column))}"
        always = transaction_step(
            scope, Phase.CONTRACT, f"always.{self.column}", f"refuse numbers of one's own in {self.column}",
            probe=probes.identity(table.live, column.number, done=("a",), todo="d"),
            do=[alter(table.live, f"{name} SET GENERATED ALWAYS")],
            undo=[alter(table.live, f"{name} SET GENERATED BY DEFAULT")],
            locks=on(table.live, LockMode.ACCESS_EXCLUSIVE),
            takes_away=True,
        )  # fmt: skip
        window = dataclasses.replace(parts.window, old_until=Phase.RETIRE)
        return dataclasses.replace(parts, steps=(*parts.steps, always), window=window)

    # A serial column.

    def _serial(self, scope: Scope, table: TableDraft, column: catalog.Column, serial: catalog.Sequence) -> ChangePlan:
        live = table.live
        aside = scope.name("seq", serial.name, serial.schema, serial.name)
        old = ident(serial.schema, aside)
        target = f"{ident(live.schema, live.name)}.{ident(column.name)}"
        name = f"ALTER COLUMN {ident(column.name)}"
        swap = transaction_step(
            scope, Phase.EXPAND, f"identity.{self.column}", f"{self.column} draws its numbers from an identity",
            probe=probes.identity(live, column.number, done=("a", "d"), todo=""),
            do=self._swap(live, column, serial, aside),
            undo=[
                identity.given_back(live, column.name, old),
                alter(live, f"{name} DROP IDENTITY"),
                f"ALTER SEQUENCE {old} RENAME TO {ident(serial.name)}",
                f"ALTER SEQUENCE {ident(serial.schema, serial.name)} OWNED BY {target}",
                alter(live, f"{name} SET DEFAULT {column.default}"),
            ],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        drop = transaction_step(
            scope, Phase.CONTRACT, f"sequence.{self.column}", f"drop the sequence that {self.column} had before",
            probe=probes.sequence_absent(serial.schema, aside),
            do=[f"DROP SEQUENCE {old}"], locks=(), irreversible=True,
        )  # fmt: skip
        return ChangePlan(steps=(swap, drop), window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE))

    def _swap(
        self, table: catalog.Table, column: catalog.Column, serial: catalog.Sequence, aside: str
    ) -> tuple[str, ...]:
        """Another sequence takes the old one's place, and its name if that is the usual one."""
        own, old = ident(serial.schema, serial.name), ident(serial.schema, aside)
        return (
            alter(table, f"ALTER COLUMN {ident(column.name)} DROP DEFAULT"),
            f"ALTER SEQUENCE {own} OWNED BY NONE",
            f"ALTER SEQUENCE {own} RENAME TO {ident(aside)}",
            identity.add(table, column.name, self._options(serial), called=self._called(table, column)),
            identity.continued(table, column.name, old),
            *identity.settings(table, column.name, serial),
        )

    # A column that version N numbers.

    def _numbered(self, scope: Scope, table: TableDraft, column: catalog.Column) -> ChangePlan:
        live = table.live
        add = transaction_step(
            scope, Phase.EXPAND, f"identity.{self.column}", f"rows without a number in {self.column} get one",
            probe=probes.identity(live, column.number, done=("a", "d"), todo=""),
            do=[identity.add(live, column.name, self._options(None), called=self._called(live, column))],
            undo=[alter(live, f"ALTER COLUMN {ident(column.name)} DROP IDENTITY")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        message = f"version N writes numbers into {self.column}, and N+1 draws them from a sequence: two may meet"
        if self.start is not None:
            hazard = Hazard(
                id="C13", phase=Phase.EXPAND, message=f"{message} when N comes to {self.start}",
                remedy="let start= be beyond what N will reach",
            )  # fmt: skip
            add = dataclasses.replace(add, refused_by=self._beyond(live, column))
            window = Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND)
            return ChangePlan(steps=(add,), window=window, hazards=(hazard,))
        remedy = 'give start=, a number that N will not reach, or accept it: --override identity_numbers="reason"'
        hazard = Hazard(id="C13", phase=Phase.EXPAND, message=message, remedy=remedy, accept="identity_numbers")
        gate = Gate(name="identity_numbers", phase=Phase.EXPAND, detail=f"{message}; {remedy}", exit_code=6)
        steps = (
            add,
            self._caught_up(scope, live, Phase.EXPAND, column.name),
            self._caught_up(scope, live, Phase.CONTRACT, table.settled(self.column)),
        )
        window = Window(old_until=Phase.RETIRE, new_from=Phase.EXPAND)
        return ChangePlan(steps=steps, window=window, hazards=(hazard,), gates=(gate,))

    def _caught_up(self, scope: Scope, table: catalog.Table, phase: Phase, name: str) -> Step:
        return Step(
            id=scope.step_id(phase, f"numbers.{self.column}"),
            title=f"move the sequence beyond the numbers that are in {self.column}",
            phase=phase,
            mode=Mode.AUTOCOMMIT,
            probe=ALWAYS_TODO,
            do=(identity.caught_up(table, name, down=self._down),),
            locks=on(table, LockMode.ACCESS_SHARE),
            scans=True,
        )

    def _beyond(self, table: catalog.Table, column: catalog.Column) -> str:
        shown = literal(f"{table.schema}.{table.name}")
        return (
            f"SELECT format('row %s of %s has the number %s, which is not before {self.start}', ctid, {shown}, "
            f"{ident(column.name)}) FROM {ident(table.schema, table.name)} "
            f"WHERE {ident(column.name)} {'<=' if self._down else '>='} {self.start} LIMIT 5"
        )

    # What both need.

    def _called(self, table: catalog.Table, column: catalog.Column) -> str | None:
        """The sequence's name, where the server would make it of a name that the column is about to lose."""
        return None if column.name == self.column else names.conventional(table.name, self.column, "seq")

    @property
    def _down(self) -> bool:
        return (self.increment or 1) < 0

    def _options(self, serial: catalog.Sequence | None) -> str:
        if serial is not None:
            return identity.options(serial, start=self.start, increment=self.increment)
        given = {"START WITH": self.start, "INCREMENT BY": self.increment}
        return " ".join(f"{name} {value}" for name, value in given.items() if value is not None)

    def _try(self, scope: Scope, table: catalog.Table, column: catalog.Column, serial: catalog.Sequence | None) -> None:
        """Whether the server takes the options."""
        name = f"ALTER TABLE {{table}} ALTER COLUMN {ident(column.name)}"
        options = self._options(serial)
        add = f"{name} ADD GENERATED BY DEFAULT AS IDENTITY" + (f" ({options})" if options else "")
        scope.trial(table, f"{name} DROP DEFAULT; {add}")

    def _refuse(self, scope: Scope, table: TableDraft, column: catalog.Column) -> None:
        shown = f"{table.shown}.{self.column}"
        if column.identity:
            raise Unsafe(f"{shown} is an identity column already")
        if column.generated:
            raise Unsafe(f"{shown} is a generated column", hint="choose another column")
        if table.is_replaced(self.column):
            raise Unsafe(
                f"the type of {shown} is changed by the same migration", hint="make it an identity in a release after"
            )
        identity.refuse(scope, table.live, self.column, column.type)
        if not column.not_null:
            raise Unsafe(f"{shown} may be NULL", hint="SetNotNull in a migration before this one")
        serial = _serial(table.live, column)
        if column.default is not None and serial is None:
            raise Unsafe(
                f"{shown} has the default {column.default}, which is not a sequence of its own",
                hint="DropDefault in a migration before this one",
            )
        if serial is not None and serial.dependents:
            raise Unsafe(
                f"the sequence of {shown} cannot be replaced: {', '.join(serial.dependents)} depend on it",
                hint="give those a sequence of their own first",
            )


def _serial(table: catalog.Table, column: catalog.Column) -> catalog.Sequence | None:
    """The sequence that a column owns and its default draws from."""
    drawn = [s for s in table.sequences if column.default == f"nextval({literal(s.identity)}::regclass)"]
    return next((s for s in drawn if s.column == column.name and not s.internal), None)
