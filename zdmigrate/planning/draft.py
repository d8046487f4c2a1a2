"""The new shape of each table, as the changes of one migration declare it, one after the other.

A change that follows sees what the ones before it made: the renamed column has its new name, the dropped one is gone.
What is declared here is composed into steps by `zdmigrate.planning.reshape`, once for each table, so that all changes
of a table share its triggers, its backfill and its verification.

A column has three names to tell apart: the *final* one, which migrations use; the *physical* one, under which the
column that survives is found until the names change; and the one that it has now, in the catalog.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import Step
from zdmigrate.planning import names
from zdmigrate.sqltext import columns_in, ident, replace_columns

SYSTEM_COLUMNS = frozenset(("tableoid", "cmin", "cmax", "xmin", "xmax", "ctid"))
OnDownError = Literal["refuse", "null"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMove:
    """What happens to a column of the catalog."""

    column: schema.Column


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rename(ColumnMove):
    """A column gets another name. The column itself survives; a shadow under the new name serves version N+1 meanwhile."""

    new: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replace(ColumnMove):
    """A column gives way to another one, `name`, which is called `beside` until the old one is out of its way."""

    name: str
    beside: str
    type: str
    up: str
    down: str
    on_down_error: OnDownError
    not_null: bool
    default: str | None
    """The new column's default in the end, where it has one then."""
    called: str | None = None
    """As in `Fill`."""

    @property
    def renamed(self) -> bool:
        """Whether it has another name than the old one."""
        return self.beside == self.name

    @property
    def only_renamed(self) -> bool:
        """Whether it has nothing else than another name."""
        plain = (self.up, self.down) == (ident(self.column.name), ident(self.name))
        return self.renamed and plain and self.type == self.column.type


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A column's NULLs get a value, or whatever `where` says. `definition` is that of a column that is added, else None."""

    name: str
    type: str
    value: str
    not_null: bool
    null_is_unfilled: bool
    volatile: bool = False
    """Whether `value` is another one each time."""
    definition: str | None = None
    settings: tuple[str, ...] = ()
    default: str | None = None
    final: tuple[str, ...] = ()
    called: str | None = None
    """The column's name when it was made NOT NULL, where that is another one: the constraint is named after it."""
    where: str | None = None
    serves_old: bool = True
    """Whether version N still works when the trigger is gone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drop(ColumnMove):
    """A column goes. `down` gives it a value where version N+1 leaves it out."""

    down: str | None


Move = Rename | Replace | Fill | Drop


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DraftColumn:
    """A column of the new shape.

    `value` is an expression over the columns as they are before the migration (and those that it adds with a
    constant). `fresh`: this migration adds it. `computed`: what version N writes decides its value.
    """

    name: str
    type: str
    physical: str
    value: str
    not_null: bool
    default: str | None = None
    live: schema.Column | None = None
    fresh: bool = False
    computed: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retyped:
    """A column's type is changed in place. `blocked` asks, by the column's name, for values that the old type cannot hold."""

    step: Step
    blocked: Callable[[str], str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddedConstraint:
    """A constraint that the migration adds in `phase`. `columns` are those of a key in order, or all that it mentions."""

    name: str
    kind: str
    columns: tuple[str, ...]
    phase: Phase
    deferrable: bool = False
    definition: str | None = None
    """As the server prints it, over the final names; None where that is not known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Something that a change made of a column as the column was at that point. `of_name`: only its name matters."""

    column: str
    by: str
    of_name: bool = False


class TableDraft:
    """One table: as it is (`live`), and as the migration makes it. `place` begins the ids of its own steps.

    `made_by` are the statements that make it, where the migration does: then it is `fresh`. `retyped` are the types of
    columns that get them in place, and `in_place` the steps that do it.
    """

    def __init__(self, live: schema.Table, place: int, *, made_by: tuple[str, ...] = ()) -> None:
        self.live, self.place, self.made_by, self.fresh = live, place, made_by, bool(made_by)
        self._closed: str | None = None
        self.retyped: dict[str, str] = {}
        self.in_place: dict[str, Retyped] = {}
        self.moves: list[Move] = []
        self._columns = {c.name: _unchanged(c) for c in live.columns}
        self._gone: dict[str, str] = {}
        self._uses: list[Use] = []
        self._indexes: dict[str, frozenset[str]] = {}
        self._reserved: set[str] = set()
        self._added: list[AddedConstraint] = []
        self._lost: dict[str, str] = {}

    @property
    def shown(self) -> str:
        """``schema.table``, for people."""
        return f"{self.live.schema}.{self.live.name}"

    def close(self, why: str) -> None:
        """No other change of the migration may be about the table; `why` ends the sentence that says so."""
        self._closed = why

    def refuse_closed(self) -> None:
        """Refuse a table that was closed.

        Raises:
            Unsafe: it was.
        """
        if self._closed is not None:
            raise Unsafe(
                f"{self.shown} {self._closed} by the same migration, which must not change it otherwise",
                hint="put the other change into a second migration, with requires=",
            )

    @property
    def columns(self) -> tuple[DraftColumn, ...]:
        """The new shape."""
        return tuple(self._columns.values())

    def column(self, name: str) -> DraftColumn:
        """The column that has this name in the new shape.

        Raises:
            Unsafe: there is none.
        """
        found = self._columns.get(name)
        if found is None:
            why = self._gone.get(name)
            if why is not None:
                raise Unsafe(
                    f"{self.shown}.{name} was {why} by the same migration",
                    hint="use its new name, or leave one of the two out",
                )
            known = ", ".join(sorted(self._columns))
            raise Unsafe(f"there is no column {name!r} in {self.shown}", hint=f"its columns are: {known}")
        return found

    def live_column(self, name: str) -> schema.Column:
        """The column as it is in the catalog, under its final name `name`.

        Raises:
            Unsafe: there is none, or the migration adds it.
        """
        found = self.column(name)
        if found.live is None:
            raise Unsafe(f"{self.shown}.{name} is added by the same migration", hint="add it as it is meant to be")
        return found.live

    def refuse_taken(self, name: str) -> None:
        """Refuse a name that a column has now or in the new shape.

        Raises:
            Unsafe: it is taken.
        """
        if name in SYSTEM_COLUMNS:
            raise Unsafe(f"{name} is a system column of every table", hint="choose another name")
        if name in self._columns or name in self.live.column_names:
            still = self._gone.get(name)
            raise Unsafe(
                f"{self.shown} already has a column {name!r}"
                + (f", which is {still} only at the end" if still else ""),
                hint="choose another name; if the column is the one that is meant, record the migration as adopted: "
                "zdmigrate bootstrap",
            )

    def add(self, column: DraftColumn, fill: Fill | None = None) -> None:
        """A column that was not there."""
        self.refuse_taken(column.name)
        self._columns[column.name] = column
        if fill is not None:
            self.moves.append(fill)

    def rename(self, old: str, new: str) -> None:
        """Another name for a column."""
        live, found = self.live_column(old), self.column(old)
        self._refuse_used(old, "renamed")
        self.refuse_taken(new)
        move = self._move(live.name)
        if isinstance(move, Rename):
            raise Unsafe(f"{self.shown}.{old} is renamed twice", hint=f"rename it once: {live.name} to {new}")
        if isinstance(move, Replace):
            before, after = move.beside, ident(new)
            down = replace_columns(move.down, lambda name: after if name == before else None)
            changed = dataclasses.replace(move, name=new, beside=new, down=down)
            self.moves[self.moves.index(move)] = changed
            found = dataclasses.replace(found, physical=new)
        else:
            # Of the type that a change before this one gave it in its place: the shadow is compared with it.
            self.moves.append(Rename(column=dataclasses.replace(live, type=found.type), new=new))
        del self._columns[old]
        self._columns[new] = dataclasses.replace(found, name=new)
        self._gone[old] = "renamed"

    def replace(
        self,
        name: str,
        *,
        type_: str,
        up: str,
        down: str,
        beside: str,
        default: str | None = None,
        on_down_error: OnDownError = "refuse",
    ) -> None:
        """Another type, or other values: a column beside the old one. `up` and `down` use final names.

        `beside` is the new column's name until the old one is out of its way, where both have the same final name.
        `default` is what its default is in the end, if it has one.
        """
        live = self.live_column(name)
        self._refuse_used(name, "changed")
        move = self._move(live.name)
        named = isinstance(move, Rename) or (isinstance(move, Replace) and move.only_renamed)
        if isinstance(move, Replace) and not named:
            raise Unsafe(f"the type of {self.shown}.{name} is changed twice", hint="change it once")
        physical = name if named else beside
        made = Replace(
            column=live, name=name, beside=physical, type=type_, on_down_error=on_down_error,
            up=self.initial(up),
            down=self._over(down, lambda column: ident(physical) if column.name == name else column.value),
            not_null=self.column(name).not_null, default=default,
            called=next((m.called for m in self.moves if isinstance(m, Fill) and m.name == live.name and m.not_null), None),
        )  # fmt: skip
        # What filled the old column in place is part of `up` now.
        self.moves = [m for m in self.moves if not (isinstance(m, Fill) and m.name == live.name)]
        if move is not None and named:
            self.moves[self.moves.index(move)] = made
        else:
            self.moves.append(made)
        self._columns[name] = dataclasses.replace(
            self._columns[name], type=type_, physical=physical, value=f"({made.up})::{type_}"
        )

    def fill(self, name: str, value: str, *, where: str | None = None, not_null: bool = False) -> None:
        """A value for every NULL of a column that is there, or wherever the condition `where` holds.

        What is written meanwhile gets the value too. `not_null`: NOT NULL, once every row has one.
        """
        found = self.column(name)
        live = self.live_column(name)
        if any(isinstance(m, Fill) and m.name == live.name for m in self.moves):
            raise Unsafe(f"{self.shown}.{name} is filled twice by the same migration", hint="keep one of the two")
        not_null = not_null or (where is not None and found.not_null)
        move = self._move(live.name)
        if isinstance(move, Replace):
            up = self._filled(f"({move.up})::{move.type}", f"({self.initial(value)})::{move.type}", where)
            called = name if not_null and not move.not_null else move.called
            changed = dataclasses.replace(move, up=up, not_null=not_null or move.not_null, called=called)
            self.moves[self.moves.index(move)] = changed
            self._columns[name] = dataclasses.replace(found, not_null=not_null, value=up)
            return
        made = Fill(
            name=live.name, type=found.type, value=f"({self.initial(value)})::{found.type}",
            not_null=not_null and not live.not_null, null_is_unfilled=True, serves_old=False, called=name,
            where=None if where is None else self.initial(where),
        )  # fmt: skip
        filled = self._filled(ident(live.name), made.value, where)
        # First: what others compute from the column must find it filled.
        self.moves.insert(0, made)
        self._columns[name] = dataclasses.replace(found, not_null=not_null, value=filled)

    def _filled(self, before: str, value: str, where: str | None) -> str:
        if where is None:
            return f"coalesce({before}, {value})"
        return f"CASE WHEN {self.initial(where)} THEN {value} ELSE {before} END"

    def drop(self, name: str, down: str | None) -> None:
        """A column that is no longer there."""
        live = self.live_column(name)
        self._refuse_used(name, "dropped")
        if self._move(live.name) is not None or live != self.live.column(live.name):
            raise Unsafe(
                f"{self.shown}.{name} is changed and dropped by the same migration", hint="keep one of the two"
            )
        self.moves.append(Drop(column=live, down=None if down is None else self.initial(down)))
        del self._columns[name]
        self._gone[name] = "dropped"

    def amend(self, name: str, **facts: Any) -> None:
        """Note facts of a column that the migration changes in place, for the changes of it that are declared later."""
        column = self.column(name)
        live = dataclasses.replace(self.live_column(name), **facts)
        self._columns[name] = dataclasses.replace(column, live=live, default=live.default)
        move = self._move(live.name)
        if move is not None and not isinstance(move, Fill):
            amended = dataclasses.replace(live, type=move.column.type)
            self.moves[self.moves.index(move)] = dataclasses.replace(move, column=amended)

    def depend(self, columns: Iterable[str], kind: str, identity: str) -> None:
        """Note that something which the migration makes depends on columns, so that they cannot be dropped or replaced.

        Raises:
            Unsafe: one of them is replaced already.
        """
        for name in columns:
            live = self.column(name).live
            if live is None:
                raise Unsafe(
                    f"{identity} of {self.shown} is made of {name}, which is added by the same migration",
                    hint="add it in a migration of its own",
                )
            if self.is_replaced(name):
                raise Unsafe(
                    f"{identity} of {self.shown} is made of {name}, whose type is changed by the same migration",
                    hint="add it in a migration of its own",
                )
            dependent = schema.Dependent(column=live.name, kind=kind, identity=f"{kind} {identity}")
            self.live = dataclasses.replace(self.live, dependents=(*self.live.dependents, dependent))

    def is_replaced(self, name: str) -> bool:
        """Whether another column takes this one's place."""
        live = self.column(name).live
        return live is not None and isinstance(self._move(live.name), Replace)

    def settled(self, name: str) -> str:
        """A column's name in steps of `contract`: no change that follows may give it another one."""
        self.column(name)
        self._uses.append(Use(column=name, by="a change that waits for contract", of_name=True))
        return name

    @property
    def added(self) -> tuple[AddedConstraint, ...]:
        """The constraints that the migration adds."""
        return tuple(self._added)

    @property
    def names_taken(self) -> frozenset[str]:
        """Names of constraints and indexes that are there before the end, or that the migration makes."""
        added = {constraint.name for constraint in self._added}
        return self.live.relation_names | added | self._lost.keys() | self._indexes.keys() | self._reserved

    def constraint(self, name: str) -> schema.Constraint:
        """The constraint as it is in the catalog.

        Raises:
            Unsafe: there is none, or another change of the migration is about it.
        """
        if any(added.name == name for added in self._added):
            raise Unsafe(
                f"the constraint {name} of {self.shown} is added by the same migration",
                hint="add it as it is meant to be, or not at all",
            )
        if name in self._lost:
            raise Unsafe(
                f"the constraint {name} of {self.shown} is {self._lost[name]} by the same migration",
                hint="keep one of the two changes",
            )
        found = next((k for k in self.live.constraints if k.name == name), None)
        if found is None:
            known = ", ".join(sorted(k.name for k in self.live.constraints)) or "none"
            raise Unsafe(f"{self.shown} has no constraint {name!r}", hint=f"its constraints are: {known}")
        return found

    def constrain(self, constraint: AddedConstraint) -> None:
        """A constraint that was not there.

        Raises:
            Unsafe: its name is taken.
        """
        name = constraint.name
        if name in self.names_taken:
            still = f", which is {self._lost[name]} only at the end" if name in self._lost else ""
            raise Unsafe(
                f"{self.shown} already has a constraint or index {name!r}{still}",
                hint="give it another name; if it is the one that is meant, record the migration as adopted: "
                "zdmigrate bootstrap",
            )
        self._added.append(constraint)
        self._uses += [Use(column=column, by=f"the constraint {name}") for column in constraint.columns]

    def drop_constraint(self, name: str) -> None:
        """A constraint that is no longer there."""
        self._lost[name] = "dropped"

    def drops_constraint(self, name: str) -> bool:
        """Whether the migration drops it."""
        return self._lost.get(name) == "dropped"

    def rename_constraint(self, old: str, new: str) -> None:
        """Another name for a constraint, and for its index: what is copied from it takes that one in the end."""
        constraints = (dataclasses.replace(k, name=new) if k.name == old else k for k in self.live.constraints)
        indexes = (
            dataclasses.replace(i, name=new, constraint=new) if i.constraint == old else i for i in self.live.indexes
        )
        self.live = dataclasses.replace(self.live, constraints=tuple(constraints), indexes=tuple(indexes))
        self._lost[old] = "renamed"

    def moved(self, column: str) -> Move | None:
        """What happens to a column of the catalog, but for a fill."""
        return self._move(column)

    def retype(self, name: str, type_: str, how: Retyped) -> None:
        """Note that a column is of another type in the new shape, in the same place."""
        self._refuse_used(name, "changed")
        self.in_place[self.live_column(name).name] = how
        self._columns[name] = dataclasses.replace(self.column(name), type=type_)
        self.retyped[self.live_column(name).name] = type_
        self.amend(name, type=type_, collation=None)  # what is added beside it must be like it

    def require(self, name: str, *, not_null: bool) -> None:
        """Note that a column is NOT NULL in the new shape, or may be NULL."""
        found = self.column(name)
        self._columns[name] = dataclasses.replace(found, not_null=not_null)
        move = None if found.live is None else self._move(found.live.name)
        if isinstance(move, Replace) and not not_null:
            self.moves[self.moves.index(move)] = dataclasses.replace(move, not_null=False)

    def add_index(self, name: str, columns: Iterable[str]) -> None:
        """An index that was not there.

        Raises:
            Unsafe: a constraint that the migration adds has its name.
        """
        if any(added.name == name for added in self._added):
            raise Unsafe(f"{self.shown} gets a constraint {name!r} in the same migration", hint="choose another name")
        self._indexes[name] = frozenset(columns)
        self._uses += [Use(column=column, by=f"the index {name}") for column in self._indexes[name]]

    def reserve(self, name: str) -> None:
        """The name of a constraint that comes with the table, after it."""
        self._reserved.add(name)

    def indexes_anew(self, columns: Iterable[str]) -> bool:
        """Whether indexes that the migration adds are about all of these columns."""
        return frozenset(columns) <= frozenset().union(*self._indexes.values())

    def named_in(self, text: str) -> frozenset[str]:
        """The columns of the new shape that an expression mentions.

        Raises:
            Unsafe: it mentions one that the migration drops or calls otherwise.
        """
        found = columns_in(text, frozenset(self._columns.keys() | self._gone.keys()))
        for name in sorted(found):
            self.column(name)
        return found

    def initial(self, text: str) -> str:
        """An expression over the new shape, over the columns as they are before the migration."""
        return self._over(text, lambda column: column.value)

    def physical(self, text: str) -> str:
        """An expression over the new shape, over the columns that survive, before their names change."""
        return self._over(text, lambda column: ident(column.physical))

    def strict_phase(self, columns: Iterable[str]) -> Phase:
        """When a constraint on these columns (final names) may come without refusing what version N writes.

        At once on a table that the migration makes; with the data where N does not know the columns and nothing that it
        writes decides their values; else when N is gone.
        """
        if self.fresh:
            return Phase.EXPAND
        found = [self.column(name) for name in columns]
        unknown_to_old = bool(found) and all(column.fresh and not column.computed for column in found)
        return Phase.BACKFILL if unknown_to_old else Phase.CONTRACT

    def _over(self, text: str, value: Callable[[DraftColumn], str]) -> str:
        self.named_in(text)

        def known(name: str) -> str | None:
            column = self._columns.get(name)
            found = ident(name) if column is None else value(column)
            return None if found == ident(name) else found

        return replace_columns(text, known)

    def _refuse_used(self, name: str, doing: str) -> None:
        """What a change before this one says of a column must be said of it as it is in the end."""
        for use in self._uses:
            if use.column == name and (doing == "renamed" or not use.of_name):
                raise Unsafe(
                    f"{self.shown}.{name} is {doing} after {use.by} was declared for it by the same migration",
                    hint="put the change of the column first, and let the other one use the column as it then is",
                )

    def _move(self, name: str) -> Move | None:
        """What happens to a column of the catalog, but for a fill."""
        for move in self.moves:
            if not isinstance(move, Fill) and move.column.name == name:
                return move
        return None


class Draft:
    """The tables that a migration changes, and what the server must still be asked."""

    def __init__(self, snapshot: schema.Snapshot) -> None:
        self.snapshot = snapshot
        self._tables: dict[tuple[str, str], TableDraft] = {}
        self._gone: dict[tuple[str, str], str] = {}
        self._claims: dict[str, str] = {}
        self._needed: list[tuple[str, str]] = []
        self._questions: dict[schema.Question, None] = {}
        self._made: set[str] = set()

    @property
    def tables(self) -> tuple[TableDraft, ...]:
        """In the order in which changes named them."""
        return tuple(self._tables.values())

    @property
    def named(self) -> dict[tuple[str, str], TableDraft]:
        """The tables by schema and name in the new shape."""
        return dict(self._tables)

    @property
    def lost(self) -> dict[tuple[str, str], str]:
        """Names that no table has in the new shape, and why."""
        return {key: why for key, why in self._gone.items() if key not in self._tables}

    @property
    def questions(self) -> tuple[schema.Question, ...]:
        """What the snapshot does not answer."""
        return tuple(self._questions)

    def find(self, schema_name: str, name: str) -> TableDraft | None:
        """A table that was named before."""
        return self._tables.get((schema_name, name))

    def gone(self, schema_name: str, name: str) -> str | None:
        """What the migration did to a table that has this name no longer."""
        return self._gone.get((schema_name, name))

    def put(self, table: TableDraft, name: str | None = None) -> TableDraft:
        """Remember a table, under another name if it gets one."""
        self._tables[table.live.schema, name or table.live.name] = table
        return table

    def remove(self, table: TableDraft, name: str, why: str) -> None:
        """Forget a table's name; `why` is said where a later change uses it."""
        del self._tables[table.live.schema, name]
        self._gone[table.live.schema, name] = why

    def makes(self, what: str) -> bool:
        """Whether a change is the first of the migration to make something that several need (a type)."""
        first = what not in self._made
        self._made.add(what)
        return first

    def claim(self, what: str, doing: str) -> None:
        """An index, a constraint, a default: only one change of a migration may be about it.

        Raises:
            Unsafe: another one is.
        """
        before = self._claims.setdefault(what, doing)
        if before is not doing:
            raise Unsafe(f"{what} is already {before}, in the same migration", hint="keep one of the two")

    def claimed(self, what: str) -> str | None:
        """What an earlier change of the migration does with it."""
        return self._claims.get(what)

    def need(self, key: str, by: str) -> None:
        """Note that something which the migration makes needs a unique key, by the name under which plans compare it."""
        self._needed.append((key, by))

    def needed_by(self, key: str) -> tuple[str, ...]:
        """What the migration makes that needs it."""
        return tuple(by for each, by in self._needed if each == key)

    def claims(self, prefix: str) -> frozenset[str]:
        """The rest of everything claimed that begins so."""
        return frozenset(what.removeprefix(prefix) for what in self._claims if what.startswith(prefix))

    def ask(self, question: schema.Question) -> None:
        """Note what the server must be asked before the plan can be made."""
        self._questions[question] = None


class Unanswered(Exception):  # not an error: the planner's way to ask
    """The snapshot does not hold everything that the plan needs."""

    def __init__(self, questions: tuple[schema.Question, ...]) -> None:
        super().__init__(f"{len(questions)} questions")
        self.questions = questions


def beside(migration: str, table: schema.Table, column: str) -> str:
    """The name of a new column until the old one of the same name is out of its way."""
    return names.generated("new", column, migration, table.schema, table.name, column)


def retired(migration: str, table: schema.Table, column: str) -> str:
    """The name of an old column that is out of the way."""
    return names.generated("old", column, migration, table.schema, table.name, column)


def _unchanged(column: schema.Column) -> DraftColumn:
    return DraftColumn(
        name=column.name, type=column.type, physical=column.name, value=ident(column.name), not_null=column.not_null,
        default=column.default, live=column,
    )  # fmt: skip
