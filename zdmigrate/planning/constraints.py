"""Constraints that a migration adds, so that nobody waits while rows are read.

A constraint refuses rows from the moment it is there, also while it is NOT VALID. So it comes when version N is gone,
unless N cannot break it: on a table or columns that N does not know (`TableDraft.strict_phase`). Rows that violate it are
named before that phase begins.

This module has what all kinds share, and CHECK, which comes NOT VALID and is validated in a transaction of its own (manual,
ALTER TABLE, "ADD table_constraint [NOT VALID]"). The other kinds are `foreignkeys`, `keys` and `exclusion`.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

from zdmigrate import schema
from zdmigrate.errors import Drift, Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, TableLock, Window
from zdmigrate.planning import names, probes
from zdmigrate.planning.draft import AddedConstraint, TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, alter, on, transaction_step, validate
from zdmigrate.sqltext import AmbiguousName, columns_in, ident, literal, replace_columns

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A constraint in its place: what it is called, and when it comes. `definition` is the server's text of it."""

    scope: Scope
    table: TableDraft
    name: str
    phase: Phase
    columns: tuple[str, ...]
    definition: str | None

    @property
    def live(self) -> schema.Table:
        """The table as the steps name it."""
        return self.table.live

    @property
    def strict(self) -> bool:
        """Whether version N might have broken it, and so must be gone."""
        return self.phase is Phase.CONTRACT

    @property
    def drop(self) -> str:
        """The statement that takes it back."""
        return alter(self.live, f"DROP CONSTRAINT IF EXISTS {ident(self.name)}")

    def add(self, clause: str) -> str:
        """``ALTER TABLE … ADD CONSTRAINT name clause``."""
        return alter(self.live, f"ADD CONSTRAINT {ident(self.name)} {clause}")

    def step(
        self, label: str, title: str, do: Sequence[str], *, locks: tuple[TableLock, ...], at: schema.Table | None = None
    ) -> Step:
        """A transaction after which the constraint is there; undone by dropping it, under ACCESS EXCLUSIVE."""
        at = at or self.live
        drop_locks = tuple(dataclasses.replace(lock, mode=ACCESS_EXCLUSIVE) for lock in locks)
        return transaction_step(
            self.scope, self.phase, f"{label}.{self.name}", title,
            probe=probes.constraint_as(at, self.name, self.definition), do=do,
            undo=[alter(at, f"DROP CONSTRAINT IF EXISTS {ident(self.name)}")], locks=locks, undo_locks=drop_locks,
        )  # fmt: skip

    def not_valid_then_validate(
        self, clause: str, *, locks: tuple[TableLock, ...], violations: str | None, at: schema.Table | None = None
    ) -> list[Step]:
        """Added without a look at the rows, which are read afterwards, while everybody goes on writing."""
        at = at or self.live
        where = "" if at is self.live else f".{at.schema}.{at.name}"
        added = self.step(
            f"add{where}", f"add {self.name} for new rows", at=at, locks=locks,
            do=[alter(at, f"ADD CONSTRAINT {ident(self.name)} {clause} NOT VALID")],
        )  # fmt: skip
        valid = probes.validated(at, self.name)
        proven = validate(self.scope, at, self.phase, f"valid{where}.{self.name}", self.name, valid)
        return [
            dataclasses.replace(added, refused_by=violations),
            # Somebody may have written such a row between the question and the step above: then they are named again.
            dataclasses.replace(proven, refused_by=violations),
        ]


WITH_INDEX = ("p", "u", "x")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewConstraint(abc.ABC):
    """A constraint as somebody declares it, over the names that columns have in the end. Without a name: the server's."""

    name: str | None = None

    kind: ClassVar[str]
    """As in pg_constraint.contype."""
    label: ClassVar[str]
    """With which the server's name for one ends."""

    @property
    @abc.abstractmethod
    def clause(self) -> str:
        """The definition, as ``ADD CONSTRAINT name`` takes it."""

    @abc.abstractmethod
    def columns(self, table: TableDraft) -> tuple[str, ...]:
        """Those of a key, in order, or all that it mentions.

        Raises:
            Unsafe: there is no such column.
        """

    @abc.abstractmethod
    def _steps(self, addition: Addition) -> Iterable[Step]:
        """How it comes about on a table with rows."""

    @property
    def shown(self) -> str:
        """What it is called where two migrations in flight are compared, before its name is known."""
        return self.name or self.clause

    def plan(self, scope: Scope, table: TableDraft, phase: Phase | None = None) -> ChangePlan:
        """Add it: in `phase`, or else as soon as that cannot refuse what version N writes.

        Raises:
            Unsafe: it does not fit the table; its name is taken.
        """
        columns = self.columns(table)
        definition = self.definition(scope, table)
        addition = Addition(
            scope=scope, table=table, name=self._chosen(table, columns), columns=columns, definition=definition,
            phase=phase or self._earliest(scope, table, columns),
        )  # fmt: skip
        self._refuse(addition)
        self._refuse_taken(addition)
        self._refuse_second(table, definition)
        steps = [self._at_once(addition)] if _unseen(addition) else list(self._steps(addition))
        if addition.strict:
            steps[0] = dataclasses.replace(steps[0], takes_away=True)
        made = AddedConstraint(
            name=addition.name, kind=self.kind, columns=columns, phase=addition.phase, deferrable=self._is_deferrable,
            definition=definition,
        )  # fmt: skip
        table.constrain(made)
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE if addition.strict else Phase.CONTRACT, new_from=Phase.NONE),
            steps=tuple(steps),
            reads=(*(read(table, name) for name in columns), *self._reads(scope)),
            objects=(f"{table.shown}: {addition.name}",),
            hazards=tuple(self._hazards(addition)),
            gates=tuple(self._gates(addition)),
        )

    def one_shot(self, scope: Scope, live: schema.Table) -> tuple[str, bool]:
        """The statement that adds it, and whether it is there.

        Raises:
            Drift: another one has its name.
        """
        wanted = _plain(self.definition(scope, scope.table(live.schema, live.name)) or "")
        for found in live.constraints:
            if self.name in (None, found.name) and _plain(found.definition) == wanted:
                return "", True
            if found.name == self.name:
                raise Drift(
                    f"the constraint {found.name} of {live.schema}.{live.name} is {found.definition}, not {self.clause}",
                    hint="drop it, or give the new one another name",
                )
        named = "" if self.name is None else f"CONSTRAINT {ident(self.name)} "
        return alter(live, f"ADD {named}{self.clause}"), False

    def definition(self, scope: Scope, table: TableDraft) -> str | None:
        """The server's text of it; None while it has not been asked."""
        return self.clause

    def _refuse_taken(self, addition: Addition) -> None:
        """The index of a constraint shares its names with tables and views."""
        at = (addition.live.schema, addition.name)
        if self.kind in WITH_INDEX and addition.name not in addition.table.names_taken and addition.scope.taken([at]):
            raise Unsafe(
                f"the name {'.'.join(at)} is taken, which the constraint's index needs",
                hint="give the constraint another name",
            )

    # What the kinds have of their own.

    @property
    def _is_deferrable(self) -> bool:
        return False

    def _earliest(self, scope: Scope, table: TableDraft, columns: tuple[str, ...]) -> Phase:
        return table.strict_phase(columns)

    def _refuse(self, addition: Addition) -> None:
        """Raise Unsafe where it cannot be added."""
        return

    def _refuse_second(self, table: TableDraft, definition: str | None) -> None:
        """Without a name, one that says the same is the one that is meant; `bootstrap` takes it for that."""
        if self.name is not None or definition is None:
            return
        there = next((name for name, text in _defined(table) if _plain(text) == _plain(definition)), None)
        if there is not None:
            raise Unsafe(
                f"{table.shown} already has this constraint: {there}",
                hint="leave the change out, or record the migration as adopted: zdmigrate bootstrap; a second one needs a "
                "name",
            )

    def _reads(self, scope: Scope) -> Iterable[str]:
        return ()

    def _hazards(self, addition: Addition) -> Iterable[Hazard]:
        return ()

    def _gates(self, addition: Addition) -> Iterable[Gate]:
        return ()

    def _locks(self, addition: Addition) -> tuple[TableLock, ...]:
        return on(addition.live, ACCESS_EXCLUSIVE)

    def _named_after(self, columns: tuple[str, ...]) -> str:
        return "_".join(columns)

    def _chosen(self, table: TableDraft, columns: tuple[str, ...]) -> str:
        """Its name, or the one that the server would give it."""
        if self.name is not None:
            return self.name
        conventional = names.conventional(table.live.name, self._named_after(columns), self.label)
        if table.drops_constraint(conventional):
            raise Unsafe(
                f"{table.shown}: the same migration drops {conventional}, which has the name that the server would give "
                "the new constraint until the end",
                hint="give the new one a name of its own: name=",
            )
        return names.conventional(table.live.name, self._named_after(columns), self.label, table.names_taken)

    def _at_once(self, addition: Addition) -> Step:
        """On a table that the migration makes, there is nothing to read."""
        do = [addition.add(self.clause)]
        return addition.step("add", f"add {addition.name}", do, locks=self._locks(addition))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(NewConstraint):
    """CHECK (expression)."""

    expression: str

    kind = "c"
    label = "check"

    @property
    def clause(self) -> str:
        return f"CHECK ({self.expression})"

    def columns(self, table: TableDraft) -> tuple[str, ...]:
        return tuple(sorted(table.named_in(self.expression)))

    def definition(self, scope: Scope, table: TableDraft) -> str | None:
        statement = on_copy(table, f"ALTER TABLE {{table}} ADD CONSTRAINT zd_trial_check {self.clause}")
        found = scope.trial(table.live, statement).definition
        if found is not None and not self.columns(table):
            self._refuse_unnamed_columns(table, found)
        return found

    def _refuse_unnamed_columns(self, table: TableDraft, definition: str) -> None:
        """Refuse columns that are written so that they cannot be found: their names may change."""
        try:
            found = columns_in(definition, frozenset(column.name for column in table.columns))
        except AmbiguousName:
            return
        if found:
            raise Unsafe(
                f"{table.shown}: CHECK ({self.expression}) is about {', '.join(sorted(found))} under another name",
                hint="name the columns without the table, and as the migration leaves them",
            )

    def _named_after(self, columns: tuple[str, ...]) -> str:
        return columns[0] if len(columns) == 1 else ""

    def _steps(self, addition: Addition) -> list[Step]:
        shown, name = literal(addition.table.shown), literal(addition.name)
        violations = (
            f"SELECT format('row %s of %s violates %s', ctid, {shown}, {name}) "
            f"FROM {ident(addition.live.schema, addition.live.name)} WHERE ({self.expression}) IS FALSE LIMIT 5"
        )
        return addition.not_valid_then_validate(self.clause, locks=self._locks(addition), violations=violations)


def on_copy(table: TableDraft, statement: str) -> str:
    """`statement` for `Scope.trial`, on a copy (``{table}``) whose columns are as the migration leaves them."""
    return "; ".join((*(f"ALTER TABLE {{table}} {action}" for action in _reshaped(table)), statement))


def read(table: TableDraft, column: str) -> str:
    """A column under the name by which migrations in flight are compared."""
    live = table.column(column).live
    return f"{table.shown}.{column if live is None else live.name}"


def _reshaped(table: TableDraft) -> Iterable[str]:
    replaced = [c for c in table.columns if c.live is not None and c.live.type != c.type]
    yield from (f"DROP COLUMN {ident(c.live.name)} CASCADE" for c in replaced if c.live is not None)
    for column in table.columns:
        if column.live is not None and column.live.name != column.name and column not in replaced:
            yield f"RENAME COLUMN {ident(column.live.name)} TO {ident(column.name)}"
    for column in table.columns:
        if column.live is None or column in replaced:
            yield f"ADD COLUMN {ident(column.name)} {column.type}"


def _defined(table: TableDraft) -> Iterable[tuple[str, str]]:
    """The constraints that the table has in the end, with their definitions as far as these are known."""
    renamed = {c.live.name: c.name for c in table.columns if c.live is not None and c.live.name != c.name}
    for found in table.live.constraints:
        if table.drops_constraint(found.name):
            continue
        with contextlib.suppress(AmbiguousName):
            yield found.name, replace_columns(found.definition, lambda n: ident(renamed[n]) if n in renamed else None)
    yield from ((added.name, added.definition) for added in table.added if added.definition is not None)


def _plain(definition: str) -> str:
    """What two definitions have in common that say the same: names are quoted in one and not in the other."""
    return definition.replace('"', "").removesuffix(" NOT VALID")


def _unseen(addition: Addition) -> bool:
    """Whether nobody can have written to the table yet."""
    return addition.table.fresh and addition.phase is Phase.EXPAND
