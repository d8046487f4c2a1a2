"""What a change hands to the planner, and what it may look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Comparison, Gate, LockMode, Mode, Step, TableLock, Window
from zdmigrate.planning import names, probes
from zdmigrate.planning.draft import Draft, TableDraft, Unanswered
from zdmigrate.sqltext import for_table, ident

_NO_TABLES = {
    "v": ("a view", "name the underlying table instead"),
    "m": ("a materialized view", "name the underlying table instead; CREATE MATERIALIZED VIEW again is RunSQL"),
    "f": ("a foreign table", "migrate it on the server that stores its rows"),
    "S": ("a sequence", "check the name"),
    "i": ("an index", "name its table instead"),
    "I": ("an index", "name its table instead"),
    "c": ("a composite type", "check the name"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a change claims while it is in flight: a column, an index or constraint (`item`), or a whole table."""

    schema: str
    table: str
    column: str | None = None
    item: str | None = None

    def __str__(self) -> str:
        if self.item is not None:
            return item_name(self.schema, self.table, self.item)
        return ".".join(part for part in (self.schema, self.table, self.column) if part is not None)

    def overlaps(self, other: Target) -> bool:
        """Whether two changes that claim these would get in each other's way."""
        mine, others = (self.column, self.item), (other.column, other.item)
        same_table = (self.schema, self.table) == (other.schema, other.table)
        return same_table and ((None, None) in (mine, others) or mine == others)


def item_name(schema_name: str, table_name: str, item: str) -> str:
    """An index or a constraint of a table, by a name that two plans can compare."""
    return f"{schema_name}.{table_name}: {item}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a change may look at while it plans: the snapshot, its migration, its place in it."""

    snapshot: schema.Snapshot
    migration: str
    position: int
    draft: Draft
    sync: str = "trigger"

    @property
    def control(self) -> str:
        """The control schema's name, not quoted."""
        return self.snapshot.control_schema

    def step_id(self, phase: Phase, name: str) -> str:
        """``2.backfill.fill``: stable within the plan."""
        return f"{self.position}.{phase}.{name}"

    def name(self, kind: str, readable: str, *identity: str) -> str:
        """A generated name that no other migration, change or table shares."""
        return names.generated(kind, readable, self.migration, str(self.position), *identity)

    def table(self, schema_name: str, table_name: str, *, tree: bool = False) -> TableDraft:
        """The table as the changes before this one leave it.

        Args:
            tree: the change does the same to everything that inherits from the table.

        Raises:
            Unsafe: there is none, or zdmigrate cannot work on it.
        """
        found = self.draft.find(schema_name, table_name)
        if found is not None:
            found.refuse_closed()
            refuse_inheritance(found.live, tree=tree)
            return found
        why = self.draft.gone(schema_name, table_name)
        if why is not None:
            raise Unsafe(f"{schema_name}.{table_name} was {why} by the same migration", hint="use its new name")
        return self.draft.put(TableDraft(self.live_table(schema_name, table_name, tree=tree), self.position))

    def whole_table(self, schema_name: str, table_name: str, doing: str) -> TableDraft:
        """A table that no other change of the migration is about: this one changes all of it.

        Raises:
            Unsafe: as `table`, or a change before this one is about it.
        """
        if self.draft.find(schema_name, table_name) is not None:
            raise Unsafe(
                f"{schema_name}.{table_name} is {doing}, and changed otherwise by the same migration",
                hint="put the other change into a migration of its own, and name it in requires= of the second",
            )
        return self.table(schema_name, table_name)

    def live_table(self, schema_name: str, table_name: str, *, tree: bool = False) -> schema.Table:
        """The table as it is in the catalog, if zdmigrate can work on it. `tree`: see `table`.

        Raises:
            Unsafe: it is missing, not a table, a partition, part of an inheritance tree, or somebody else's.
        """
        self.refuse_schema(schema_name)
        table = self.any_table(schema_name, table_name)
        shown = f"{schema_name}.{table_name}"
        if table is None:
            raise Unsafe(f"there is no table {shown}", hint="check the name, and schema= in the migration")
        if table.kind not in ("r", "p"):
            what, instead = _NO_TABLES.get(table.kind, ("something else", "check the name"))
            raise Unsafe(f"{shown} is {what}, and not a table", hint=instead)
        if table.is_partition:
            raise Unsafe(f"{shown} is a partition", hint="migrate its partitioned parent")
        refuse_inheritance(table, tree=tree)
        if not table.owned:
            raise Unsafe(
                f"{shown} is owned by {table.owner}, and {self.snapshot.role} is not a member of that role",
                hint=f'GRANT "{table.owner}" TO "{self.snapshot.role}", or connect as the owner',
            )
        return table

    def refuse_schema(self, name: str) -> None:
        """Refuse schemas whose tables are not the application's.

        Raises:
            Unsafe: it is the server's, or zdmigrate's own.
        """
        if name == self.control:
            raise Unsafe(f"the schema {name} is zdmigrate's own", hint="no migration changes it: zdmigrate init does")
        if name.startswith("pg_") or name == "information_schema":
            raise Unsafe(f"the schema {name} is the server's own", hint="check schema= in the migration")

    def live_column(self, table: schema.Table, name: str) -> schema.Column:
        """A column of a table as it is in the catalog.

        Raises:
            Unsafe: there is none.
        """
        return TableDraft(table, self.position).live_column(name)

    def any_table(self, schema_name: str, table_name: str) -> schema.Table | None:
        """Whatever relation has this name; None where nothing has.

        Raises:
            Unanswered: the server has not been asked yet.
        """
        table = self.snapshot.table(schema_name, table_name)
        if table is None and (schema_name, table_name) not in self.snapshot.asked:
            self.draft.ask(schema.Question(schema=schema_name, table=table_name))
            raise Unanswered(self.draft.questions)
        return table

    def taken(self, wanted: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        """Which of the names (schema, name) a relation of any kind has.

        Raises:
            Unanswered: the server has not been asked about all of them yet.
        """
        names_ = dict.fromkeys(wanted)
        there = {(t.schema, t.name) for t in self.snapshot.tables}
        unknown = names_.keys() - there - set(self.snapshot.asked)
        for schema_name, name in (n for n in names_ if n in unknown):
            self.draft.ask(schema.Question(schema=schema_name, table=name))
        if unknown:
            raise Unanswered(self.draft.questions)
        return frozenset(names_.keys() & there)

    def expression(self, table: schema.Table, text: str) -> schema.ExpressionFacts:
        """What the server says of an expression over the table's columns as they are in the catalog.

        Raises:
            Unsafe: the server refused it.
        """
        refuse_hidden_rows(table, self.snapshot.role)
        for facts in self.snapshot.expressions:
            if (facts.schema, facts.table, facts.expression) == (table.schema, table.name, text):
                if facts.error is not None:
                    raise Unsafe(
                        f"the expression {text!r} does not work on {table.schema}.{table.name}: {facts.error}",
                        hint="where it fails for a row, it would fail for whoever writes such a row too: catch that in the "
                        "expression (NULLIF, CASE), or correct the row",
                    )
                return facts
        given = self._given(table)
        self.draft.ask(schema.Question(schema=table.schema, table=table.name, expression=text, given=given))
        return schema.ExpressionFacts(schema=table.schema, table=table.name, expression=text)

    def trial(self, table: schema.Table, statement: str) -> schema.Trial:
        """What the server makes of DDL on a copy of the table; ``{table}`` stands for the copy.

        Raises:
            Unsafe: the server refused it.
        """
        for facts in self.snapshot.trials:
            if (facts.schema, facts.table, facts.statement) == (table.schema, table.name, statement):
                if facts.error is not None:
                    raise Unsafe(
                        f"{table.schema}.{table.name}: {facts.error}",
                        hint=f"the server refused: {for_table(statement, ident(table.schema, table.name))}",
                    )
                return facts
        given = self._given(table)
        self.draft.ask(schema.Question(schema=table.schema, table=table.name, trial=statement, given=given))
        return schema.Trial(schema=table.schema, table=table.name, statement=statement)

    def type_name(self, text: str) -> str:
        """The server's name of a type.

        Raises:
            Unsafe: it does not know the type.
        """
        facts = self.type_facts(text)
        if facts is None:
            return text
        if facts.canonical is None:
            raise Unsafe(f"the type {text} does not work on this server: {facts.error}")
        refuse_type(facts.canonical, facts.brings)
        return facts.canonical

    def type_facts(self, text: str) -> schema.TypeFacts | None:
        """What the server knows of a type; None while it has not been asked."""
        for facts in self.snapshot.types:
            if facts.text == text:
                return facts
        self.draft.ask(schema.Question(type=text))
        return None

    def created(self, schema_name: str, table_name: str, statements: tuple[str, ...]) -> schema.Table:
        """The table that statements would make.

        Raises:
            Unsafe: the server refused them.
            Unanswered: it has not been asked yet.
        """
        self.refuse_schema(schema_name)
        for facts in self.snapshot.creations:
            if (facts.schema, facts.table, facts.statements) == (schema_name, table_name, statements):
                if facts.made is None:
                    raise Unsafe(
                        f"{schema_name}.{table_name} cannot be created: {facts.error}",
                        hint="correct it; nothing is left of the attempt",
                    )
                return facts.made
        self.draft.ask(schema.Question(schema=schema_name, table=table_name, given=statements))
        raise Unanswered(self.draft.questions)

    def _given(self, table: schema.Table) -> tuple[str, ...]:
        """The statements that make a table of this migration, without which the server cannot answer."""
        found = self.draft.find(table.schema, table.name)
        return () if found is None else found.made_by


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a part of a plan needs besides steps.

    `reads` are columns that its expressions mention: another migration must not rename or drop them meanwhile, because
    functions name them. `objects` are the indexes and constraints that it copies or drops.
    """

    reads: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    gates: tuple[Gate, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan(Needs):
    """One change's own part of a plan, besides what it declared of its table's new shape."""

    window: Window
    steps: tuple[Step, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableSteps(Needs):
    """What one table's new shape needs. In each phase `first` comes before the changes' own steps, and `last` after."""

    first: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    comparison: Comparison | None = None


TINY_ROWS, TINY_BYTES = 1000, 1 << 20


def is_tiny(table: schema.Table) -> bool:
    """Whether reading or rewriting all of it takes no longer than a catalog change."""
    return table.rows <= TINY_ROWS and table.bytes <= TINY_BYTES


def objects_of(table: schema.Table, column: str) -> tuple[str, ...]:
    """The indexes and constraints on a column, by names that two plans can compare."""
    found = [i.name for i in table.indexes if column in i.columns]
    found += [k.name for k in table.constraints if column in k.columns]
    return tuple(item_name(table.schema, table.name, name) for name in dict.fromkeys(found))


def on(table: schema.Table, mode: LockMode) -> tuple[TableLock, ...]:
    """A lock on the table (its partitions are locked alike)."""
    return (TableLock(schema=table.schema, name=table.name, mode=mode),)


def on_referenced(constraint: schema.Constraint, mode: LockMode) -> tuple[TableLock, ...]:
    """A lock on the table that a foreign key points to."""
    if constraint.references is None:
        return ()
    schema_name, name = constraint.references
    return (TableLock(schema=schema_name, name=name, mode=mode),)


def alter(table: schema.Table, *actions: str) -> str:
    """``ALTER TABLE "s"."t" action, action``."""
    return f"ALTER TABLE {ident(table.schema, table.name)} {', '.join(actions)}"


def refuse_dependents(table: schema.Table, column: str, *, doing: str) -> None:
    """Refuse where other objects depend on the column: nothing is ever dropped by CASCADE.

    Raises:
        Unsafe: names each of them.
    """
    found = [d.identity for d in table.dependents if d.column == column]
    if found:
        raise Unsafe(
            f"{table.schema}.{table.name}.{column} cannot be {doing}: {', '.join(found)} depend on it",
            hint="drop or change those first, or move them to the new column in a release of their own",
        )


def refuse_given(table: schema.Table, column: schema.Column, *, doing: str) -> None:
    """Refuse columns whose values the server makes.

    Raises:
        Unsafe: it is a generated or an identity column.
    """
    what = "a generated" if column.generated else "an identity" if column.identity else None
    if what is not None:
        raise Unsafe(
            f"{table.schema}.{table.name}.{column.name} is {what} column, which cannot be {doing}",
            hint="leave the column as it is, and let N+1 use another one",
        )


def refuse_inheritance(table: schema.Table, *, tree: bool) -> None:
    """Refuse inheritance trees, but to changes that do the same to everything that inherits.

    Raises:
        Unsafe: it inherits, or others inherit from it.
    """
    shown = f"{table.schema}.{table.name}"
    if table.is_child:
        raise Unsafe(
            f"{shown} inherits from another table, whose columns it has to keep",
            hint=f"migrate its parent, or take it out: ALTER TABLE {ident(table.schema, table.name)} NO INHERIT the parent",
        )
    if table.inherits and not tree:
        raise Unsafe(
            f"{shown} is part of an inheritance tree, in which indexes and keys of a parent do not hold for its children: "
            "only AddColumn does the same to all of them",
            hint="make the children partitions, or take them out with ALTER TABLE child NO INHERIT parent and migrate "
            "each table by itself",
        )


def refuse_hidden_rows(table: schema.Table, role: str) -> None:
    """Refuse tables of which the role does not see every row.

    Raises:
        Unsafe: row-level security holds for it, too.
    """
    if table.hides_rows:
        shown = f"{table.schema}.{table.name}"
        raise Unsafe(
            f"row-level security of {shown} (or of a partition) holds for {role}, too: rows that it hides would be overlooked",
            hint=f"ALTER TABLE {ident(table.schema, table.name)} NO FORCE ROW LEVEL SECURITY, if {role} owns it; or migrate "
            "as a role with BYPASSRLS",
        )


def refuse_type(name: str, brings: tuple[str, ...]) -> None:
    """Refuse types that do more to an added column than give it a type.

    A column of a domain with constraints is added by rewriting the table under ACCESS EXCLUSIVE, and one whose type has
    a default shows it in rows whose value nobody has filled yet.

    Raises:
        Unsafe: names what it is.
    """
    if brings:
        raise Unsafe(
            f"the type {name} has {' and '.join(brings)} of its own, so adding a column of it would "
            + ("rewrite the table" if "constraints" in brings else "set a value in every row"),
            hint="use the domain's base type, with a CHECK or DEFAULT on the column",
        )


def drop_foreign_keys(scope: Scope, table: schema.Table, column: str, dropped: str) -> tuple[Step, ...]:
    """Drop the foreign keys of a column that is about to be dropped under the name `dropped`.

    Each in a transaction of its own: dropping one locks the referenced table too. A copy may take the same name
    later in the phase, so the step also counts as done once the column is gone.
    """
    here = on(table, LockMode.ACCESS_EXCLUSIVE)
    return tuple(
        transaction_step(
            scope, Phase.CONTRACT, f"drop.{key.name}", f"drop the foreign key {key.name} of the old column",
            probe=probes.constraint_absent(table, key.name, unless_column=dropped),
            do=[alter(table, f"DROP CONSTRAINT {ident(key.name)}")],
            locks=(*here, *on_referenced(key, LockMode.ACCESS_EXCLUSIVE)),
            takes_away=True, irreversible=True,
        )
        for key in table.constraints
        if key.kind == "f" and column in key.columns
    )  # fmt: skip


def validate(scope: Scope, table: schema.Table, phase: Phase, step: str, name: str, probe: str) -> Step:
    """Read all rows to prove a constraint that was added NOT VALID, while everybody goes on writing."""
    return Step(
        id=scope.step_id(phase, step),
        title=f"read all rows to prove {name}",
        phase=phase,
        mode=Mode.AUTOCOMMIT,
        probe=probe,
        do=(alter(table, f"VALIDATE CONSTRAINT {ident(name)}"),),
        locks=on(table, LockMode.SHARE_UPDATE_EXCLUSIVE),
        scans=True,
    )


def transaction_step(
    scope: Scope,
    phase: Phase,
    name: str,
    title: str,
    *,
    probe: str,
    do: Sequence[str],
    undo: Sequence[str] = (),
    locks: tuple[TableLock, ...],
    undo_locks: tuple[TableLock, ...] | None = None,
    takes_away: bool = False,
    irreversible: bool = False,
) -> Step:
    """A step of one short transaction; undoing takes the same locks unless `undo_locks` says otherwise."""
    return Step(
        id=scope.step_id(phase, name),
        title=title,
        phase=phase,
        mode=Mode.TRANSACTION,
        probe=probe,
        do=tuple(do),
        undo=tuple(undo),
        locks=locks,
        undo_locks=(locks if undo_locks is None else undo_locks) if undo else (),
        takes_away=takes_away,
        irreversible=irreversible,
    )
