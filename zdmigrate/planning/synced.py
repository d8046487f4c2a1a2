"""The steps that install, hand over, rename and remove the sync triggers of one change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, Gate, LockMode, Mode, RowWork, Step, TableLock
from zdmigrate.planning import names, probes, sync
from zdmigrate.planning.parts import Scope, alter, on, refuse_hidden_rows, transaction_step
from zdmigrate.planning.rebinding import Rebinding
from zdmigrate.sqltext import AmbiguousName, columns_in, ident, literal

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE

_EVERY: Mapping[str, frozenset[sync.Side]] = {
    "dual_write": frozenset(),  # N is there for a while, and need not be noted with every write
    "backfill": frozenset(("old", "new", "both")),
    "switch_reads": frozenset(("old", "both")),  # N+1 may write the new shape alone
}
"""Of which sides every write is noted by the guard, once a phase is there."""

Names = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Columns that get other names at one moment.

    `renames` are (from, to) in an order in which no name is taken twice; `before` and `after` say what the columns of
    the pairs are called on either side of the moment.
    """

    renames: tuple[tuple[str, str], ...]
    before: Names
    after: Names
    rebinding: Rebinding = dataclasses.field(default_factory=Rebinding)
    lent: tuple[tuple[str, str], ...] = ()
    """Columns that have another name while definitions are bound to them, after as many renames."""

    def statements(self, table: schema.Table) -> tuple[str, ...]:
        """Forwards."""
        bind = self.rebinding.bind
        place = len(self.lent) if bind and self.lent else len(self.renames)
        lent = self.lent if bind else ()
        return (
            *self.rebinding.release,
            *_renamed(table, (*self.renames[:place], *lent)), *bind,
            *_renamed(table, (*_reversed(lent), *self.renames[place:])),
        )  # fmt: skip

    def undo(self, table: schema.Table) -> tuple[str, ...]:
        """Back again. The old columns have all their names then."""
        return (*self.rebinding.release, *_renamed(table, _reversed(self.renames)), *self.rebinding.bind)

    def locks(self, table: schema.Table) -> tuple[TableLock, ...]:
        """What `statements` and `undo` lock."""
        return (*self.rebinding.locks, *on(table, ACCESS_EXCLUSIVE))

    def probe(self, table: schema.Table) -> str:
        """Whether the first one was renamed: they are in one transaction, and its new name is a generated one."""
        return probes.renamed(table, *self.renames[0])


def _reversed(renames: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((b, a) for a, b in reversed(renames))


def _renamed(table: schema.Table, renames: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(alter(table, f"RENAME COLUMN {ident(a)} TO {ident(b)}") for a, b in renames)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Trigger:
    name: str
    function: str
    create: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The sync of one table: which triggers, which functions, and the steps around them.

    `pairs` speak of columns by their names before the migration (and those that it adds, by the names under which it
    adds them). `renamed` arguments map them to what they are called at some later point.
    """

    scope: Scope
    table: schema.Table
    pairs: tuple[sync.SyncPair, ...]
    label: str

    def function(self, kind: str) -> str:
        """The qualified, quoted name of a function in the control schema."""
        return ident(self.scope.control, self._function_name(kind))

    def functions(self, authority: sync.Authority, renamed: Names | None = None) -> tuple[str, ...]:
        """``CREATE OR REPLACE`` of every function."""
        made = [self._sync_function(authority, renamed)]
        if self._settles:
            made.append(sync.settle_function(self.pairs, self.function("settle"), renamed))
        if self._keyed:
            target = ident(self.table.schema, self.table.name)
            made.append(sync.key_function(self.pairs, self.function("key"), target, renamed))
        return tuple(made)

    def _sync_function(self, authority: sync.Authority, renamed: Names | None) -> str:
        return sync.sync_function(self.pairs, self.function("sync"), authority, renamed, self._noting)

    @property
    def _noting(self) -> sync.Noting:
        return sync.Noting(
            function=ident(self.scope.control, "note_write"),
            migration=self.scope.migration,
            table=f"{self.table.schema}.{self.table.name}",
            missed=ident(self.scope.control, "note_missed"),
        )

    def install(self, *extra: str, undo: tuple[str, ...]) -> Step:
        """Functions, triggers, and `extra` (the new column's default), in one transaction.

        The default must not be visible without the trigger, nor the trigger without the default: an INSERT in
        between would take the one for a value that was written.
        """
        if self.scope.sync == "app":
            return self._guard(*extra, undo=undo)
        created = [s for trigger in self._triggers() for s in trigger.create]
        return transaction_step(
            self.scope, Phase.DUAL_WRITE, f"sync.{self.label}", f"keep both shapes of {self.label} equal from here on",
            probe=self._probe(),
            do=[*self.functions("old"), *created, *extra],
            undo=[*self.remove(), *undo],
            locks=on(self.table, ACCESS_EXCLUSIVE if extra else LockMode.SHARE_ROW_EXCLUSIVE),
            undo_locks=on(self.table, ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def remove(self) -> tuple[str, ...]:
        """Drop triggers, then functions."""
        triggers = self._drop_triggers()
        if self.scope.sync == "app":
            return (*triggers, f"DROP FUNCTION IF EXISTS {self.function('guard')}()")
        functions = dict.fromkeys(t.function for t in self._triggers())
        return (*triggers, *(f"DROP FUNCTION IF EXISTS {function}()" for function in functions))

    def _drop_triggers(self) -> tuple[str, ...]:
        return tuple(
            f"DROP TRIGGER IF EXISTS {ident(name)} ON {target}"
            for target in self._targets
            for name in self.trigger_names
        )

    def reinstall(self) -> tuple[str, ...]:
        """What `install` does, where `contract` is undone."""
        if self.scope.sync == "app":
            return (self._guard_function("switch_reads" if self._switches else "backfill"), *self._guard_triggers())
        return self.install(undo=()).do

    @property
    def _targets(self) -> tuple[str, ...]:
        """What triggers are created on. Partitions get theirs from the table, children do not."""
        children = (ident(child.schema, child.name) for child in self.table.children)
        return (ident(self.table.schema, self.table.name), *children)

    def fill(self) -> Step:
        """The backfill, for all pairs in one pass."""
        return Step(
            id=self.scope.step_id(Phase.BACKFILL, f"fill.{self.label}"),
            title=f"fill the rows that were there before, {self.label}",
            phase=Phase.BACKFILL,
            mode=Mode.BACKFILL,
            probe=ALWAYS_TODO,
            locks=on(self.table, LockMode.ROW_EXCLUSIVE),
            scans=True,
            rows=self.rows,
        )

    def verify(self) -> Step:
        """The verification of every row; the last step of `backfill`."""
        return Step(
            id=self.scope.step_id(Phase.BACKFILL, f"verify.{self.label}"),
            title=f"read every row and prove that none is unfilled, {self.label}",
            phase=Phase.BACKFILL,
            mode=Mode.VERIFY,
            probe=ALWAYS_TODO,
            locks=on(self.table, LockMode.ACCESS_SHARE),
            scans=True,
            rows=self.rows,
        )

    @property
    def rows(self) -> RowWork:
        """What backfill and verification look at."""
        filled = [pair for pair in self.pairs if pair.new]
        return RowWork(
            schema=self.table.schema,
            table=self.table.name,
            assignments=sync.assignments(filled),
            unfilled=sync.any_unfilled(filled),
        )

    def watch_all(self) -> Step:
        """``sync="app"``: from the backfill on every transaction that leaves rows diverged is noted.

        The lock waits for those that have written before, so that none of them is missed.
        """
        return transaction_step(
            self.scope, Phase.BACKFILL, f"watch.{self.label}", f"note every write that leaves {self.label} diverged",
            probe=self._guard_probe(done=("backfill", "switch_reads"), todo="dual_write"),
            do=(self._guard_function("backfill"),), undo=(self._guard_function("dual_write"),),
            locks=on(self.table, LockMode.SHARE_ROW_EXCLUSIVE),
        )  # fmt: skip

    def hand_over(self, switch: str, swap: Swap, retired: Names) -> Step:
        """`switch_reads`: the new shape gets the authority and, where it takes an old one's name, the name.

        The read switch goes to 100 %.
        """
        app = self.scope.sync == "app"
        forward = (
            *swap.statements(self.table),
            *((self._guard_function("switch_reads"),) if app else self.functions("new", swap.after)),
            switch.format(100),
        )
        before = (self._guard_function("backfill"),) if app else self.functions("old", swap.before)
        back = (*swap.undo(self.table), *before, switch.format(0))
        moved = f", under the name{'s' * (len(swap.renames) > 2)} of the old one" if swap.renames else ""
        return transaction_step(
            self.scope, Phase.SWITCH_READS, f"authority.{self.label}",
            f"the new shape of {self.label} has the authority{moved}",
            probe=swap.rebinding.probe(self._handed_over(swap, retired)),
            do=forward, undo=back,
            locks=swap.locks(self.table) if swap.renames else (),
            # Who has written the new shape alone under the guard from before has ended then, and is seen.
            undo_locks=on(self.table, LockMode.SHARE_ROW_EXCLUSIVE) if app else None,
        )  # fmt: skip

    def _handed_over(self, swap: Swap, retired: Names) -> str:
        if self.scope.sync == "app":
            return self._guard_probe(done=("switch_reads",), todo="backfill")
        done = tuple(self._sync_function("new", renamed) for renamed in (swap.after, retired))
        todo = self._sync_function("old", swap.before)
        return probes.function(self.scope.control, self._function_name("sync"), done=done, todo=todo)

    def retire(self, swap: Swap, title: str) -> Step:
        """Rename the old columns out of the way and, in the same transaction, the names in the functions.

        Two transactions would make every write in between fail. The guard of ``sync="app"`` goes in the same one: what
        version N+1 writes from then on leaves the old shape behind, and may.
        """
        app = self.scope.sync == "app" and bool(self.pairs)
        functions: tuple[str, ...] = ()
        back: tuple[str, ...] = ()
        if app:
            functions, back = self._drop_triggers(), self._guard_triggers()
        elif self.pairs:
            functions, back = self.functions("new", swap.after), self.functions("new", swap.before)
        step = transaction_step(
            self.scope, Phase.RETIRE, f"retire.{self.label}", title,
            probe=swap.rebinding.probe(swap.probe(self.table)),
            do=(*swap.statements(self.table), *functions), undo=(*swap.undo(self.table), *back),
            locks=swap.locks(self.table),
            takes_away=True,
        )  # fmt: skip
        return dataclasses.replace(step, asked_within=self.forgotten(missed=True)) if app and self._fills else step

    @property
    def trigger_names(self) -> tuple[str, ...]:
        """What `install` creates on the table."""
        return (self._guard_name,) if self.scope.sync == "app" else tuple(t.name for t in self._triggers())

    def trigger_hazards(self) -> tuple[tuple[Hazard, ...], tuple[Gate, ...]]:
        """What the table's own triggers mean for sync and backfill."""
        # session_replication_role = replica keeps ordinary triggers silent, and wakes ENABLE REPLICA ones.
        firing = ("A", "R") if self.scope.snapshot.may_suppress_triggers else ("A", "O")
        old = {column.name for pair in self.pairs for column in pair.old}
        # Those that fire for an old column will fire for the new one beside it, too.
        would_fire = [
            t.name for t in self.table.all_triggers
            if "UPDATE" in t.events and t.enabled in firing and (not t.update_of or old & set(t.update_of))
        ]  # fmt: skip
        if not would_fire or not self._fills:
            return (), ()
        shown = f"{self.table.schema}.{self.table.name}"
        message = f"the backfill updates rows of {shown} and fires its triggers: {', '.join(would_fire)}"
        remedy = (
            f'GRANT SET ON PARAMETER session_replication_role TO "{self.scope.snapshot.role}" (PostgreSQL 15+), '
            'or accept it: --override table_triggers="reason"'
        )
        hazard = Hazard(id="B01", phase=Phase.BACKFILL, message=message, remedy=remedy, accept="table_triggers")
        now = probes.firing(self.table, (name for name, _ in self.rows.assignments), control=self.scope.control)
        detail = f"{message}; {remedy}"
        return (hazard,), (Gate(name="table_triggers", phase=Phase.BACKFILL, detail=detail, exit_code=6, query=now),)

    def refuse_unsyncable(self) -> None:
        """Refuse what triggers cannot keep equal.

        Raises:
            Unsafe: with the remedy.
        """
        shown = f"{self.table.schema}.{self.table.name}"
        refuse_hidden_rows(self.table, self.scope.snapshot.role)
        parts = (*self.table.partitions, *self.table.children)
        foreign = [f"{leaf.schema}.{leaf.name}" for leaf in parts if leaf.foreign]
        if foreign and self._fills:
            raise Unsafe(
                f"{', '.join(foreign)} is a foreign table: rows of {shown} that another server stores cannot be filled from here",
                hint="detach it, migrate it on its own server, and attach it again when the migration is complete",
            )
        if self.table.rules:
            raise Unsafe(
                f"{shown} has rewrite rules ({', '.join(self.table.rules)}), which change what a write does before triggers",
                hint="replace them by triggers first",
            )
        try:
            generated = sorted(c.name for c in self.table.columns if c.generated and c.name in self.mentioned())
        except AmbiguousName as error:
            raise Unsafe(str(error)) from error
        if generated:
            raise Unsafe(
                f"{', '.join(generated)} of {shown} are generated columns, which are NULL in a BEFORE trigger",
                hint="use the expression that generates them instead of their names",
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns besides its own that the functions name."""
        own = {c.name for pair in self.pairs for c in (*pair.old, *pair.new)}
        return tuple(f"{self.table.schema}.{self.table.name}.{name}" for name in sorted(self.mentioned() - own))

    def mentioned(self) -> frozenset[str]:
        """The columns that `up` and `down` are made of."""
        conditions = [(text, pair) for pair in self.pairs if (text := pair.unfilled_when) is not None]
        texts = [(text, pair) for pair in self.pairs for text in (*pair.up, *pair.down)]
        found = [columns_in(text, pair.columns) for text, pair in (*texts, *conditions)]
        return frozenset().union(*found, *({c.name for c in pair.old} for pair in self.pairs))

    @property
    def _settles(self) -> bool:
        return self._fills and any(t.before and t.row for t in self.table.all_triggers)

    @property
    def _fills(self) -> bool:
        return any(pair.new for pair in self.pairs)

    @property
    def _keyed(self) -> bool:
        return any(pair.keys for pair in self.pairs)

    def _function_name(self, kind: str) -> str:
        return self.scope.name(f"{kind}_v1", self.label, self.table.schema, self.table.name)

    def _triggers(self) -> tuple[_Trigger, ...]:
        others = frozenset(t.name for t in self.table.all_triggers if t.before and t.row)
        when = sync.disturbed(self.pairs)
        base = self.scope.name("sync", self.label, self.table.schema, self.table.name)
        both = "INSERT OR UPDATE" if self._fills else "INSERT"
        made = [self._trigger(names.first_trigger(base, others), "sync", both, when)]
        if self._settles:
            made.append(self._trigger(names.last_trigger(base, others), "settle", both, when))
        if self._keyed:
            # After everybody who may still change the key; an UPDATE to a new key meets an INSERT of it just as well.
            for kind, events, condition in (("xkey", "INSERT", None), ("ykey", "UPDATE", sync.key_changes(self.pairs))):
                name = names.last_trigger(self.scope.name(kind, self.label, self.table.schema, self.table.name), others)
                made.append(self._trigger(name, "key", events, condition))
        return tuple(made)

    def _probe(self) -> str:
        made = self._triggers()
        last = next((t.name for t in made if t.function == self.function("settle")), None)
        if not self._fills:
            last = "\U0010fffd"  # nothing to settle: a later trigger may do as it likes
        return probes.triggers(self.table, tuple(t.name for t in made), control=self.scope.control, last=last)

    def _trigger(self, name: str, kind: str, events: str, when: str | None) -> _Trigger:
        function = self.function(kind)
        create = [s for t in self._targets for s in sync.trigger(t, name, function, events=events, when=when)]
        return _Trigger(name=name, function=function, create=tuple(create))

    @property
    def _guard_name(self) -> str:
        return self.scope.name("guard", self.label, self.table.schema, self.table.name)

    def _guard(self, *extra: str, undo: tuple[str, ...]) -> Step:
        return transaction_step(
            self.scope, Phase.DUAL_WRITE, f"guard.{self.label}", f"note writes that leave {self.label} diverged",
            probe=probes.triggers(self.table, (self._guard_name,), control=None),
            do=[self._guard_function("dual_write"), *self._guard_triggers(), *extra],
            undo=[*self.remove(), *undo],
            locks=on(self.table, ACCESS_EXCLUSIVE if extra else LockMode.SHARE_ROW_EXCLUSIVE),
            undo_locks=on(self.table, ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def _guard_triggers(self) -> tuple[str, ...]:
        # `up` and `down` may fail, which only the function's own block survives.
        when = sync.disturbed(self.pairs) if all(pair.bare for pair in self.pairs) else None
        function = self.function("guard")
        return tuple(
            statement
            for target in self._targets
            for statement in sync.trigger(
                target, self._guard_name, function, events="INSERT OR UPDATE", when=when, timing="AFTER"
            )
        )

    def _guard_function(self, after: str) -> str:
        return sync.guard_function(self.pairs, self.function("guard"), self._noting, _EVERY[after])

    def _guard_probe(self, *, done: tuple[str, ...], todo: str) -> str:
        made = tuple(self._guard_function(after) for after in done)
        return probes.function(
            self.scope.control, self._function_name("guard"), done=made, todo=self._guard_function(todo)
        )

    @property
    def _switches(self) -> bool:
        return any(pair.old and pair.new for pair in self.pairs)

    def forgotten(self, *, missed: bool) -> str:
        """Asks for writes that did not reach the new shape since the verification began: who, when, what.

        With `missed`, also for those that could not be noted.
        """
        where = f"{self._news('n')} AND n.table_name = {literal(self._noting.table)} AND n.side <> 'new'"
        notes = (
            "SELECT format('a write by %s (role %s, pid %s) at %s: %s', coalesce(nullif(n.application, ''), 'a session without a "
            "name'), n.role, n.backend, date_trunc('second', n.at), n.statement) "
            f"FROM {ident(self.scope.control, 'write_note')} AS n WHERE {where} ORDER BY n.number DESC LIMIT 3"
        )
        if not missed:
            return notes
        count = "CASE WHEN s.is_called THEN s.last_value ELSE 0 END - coalesce(m.verified_missed, 0)"
        counted = (
            f"SELECT format('writes that could not be noted: %s', {count}) "
            f"FROM {ident(self.scope.control, 'missed_notes')} AS s, {ident(self.scope.control, 'migration')} AS m "
            f"WHERE m.id = {literal(self.scope.migration)} "
            f"AND m.phase NOT IN ('none', 'contract') AND {count} > 0"
        )
        return f"({notes}) UNION ALL ({counted})"

    def _news(self, note: str) -> str:
        """A condition: a note of divergence that the verification may not have seen."""
        migration = literal(self.scope.migration)
        seen = (
            f"SELECT FROM {ident(self.scope.control, 'migration')} AS m WHERE m.id = {migration} "
            f"AND m.phase NOT IN ('none', 'contract') AND pg_visible_in_snapshot({note}.xact, m.verified_from)"
        )
        return f"{note}.diverged AND {note}.migration = {migration} AND NOT EXISTS ({seen})"

    def overwritten(self, renamed: Names, *, filled: bool) -> str | None:
        """``sync="app"``: asks for rows whose two shapes differ, unless all that was noted are writes through the old one:
        then the new one may be made again of it. Not `filled`: before the backfill has come to them, rows may be empty.
        """
        row = sync.Row(renamed=renamed)
        pairs = [pair for pair in self.pairs if pair.old and pair.new]
        if self.scope.sync != "app" or not pairs:
            return None
        found = " OR ".join(f"({self._differing(pair, row, filled=filled)})" for pair in pairs)
        notes = f"FROM {ident(self.scope.control, 'write_note')} AS n WHERE {self._news('n')}"
        explained = f"EXISTS (SELECT {notes}) AND NOT EXISTS (SELECT {notes} AND n.side <> 'old')"
        return self._named("differs in its two shapes", f"({found}) AND NOT ({explained})")

    def _differing(self, pair: sync.SyncPair, row: sync.Row, *, filled: bool) -> str:
        return sync.unfilled(pair, row) if filled else sync.stale(pair, row)

    def left_behind(self, renamed: Names) -> str | None:
        """``sync="app"``: asks for rows whose old shape does not say what the new one does."""
        pairs = [pair for pair in self.pairs if pair.old]
        if self.scope.sync != "app" or not pairs:
            return None
        return self._named("differs in its two shapes", sync.any_unfilled(pairs, sync.Row(renamed=renamed)))

    def diverged(self, renamed: Names) -> str:
        """Asks for rows whose two shapes differ, while columns have these names."""
        return self._named("differs in its two shapes", sync.any_unfilled(self.pairs, sync.Row(renamed=renamed)))

    def unfaithful(self, renamed: Names) -> str | None:
        """The same for rows whose new value would be another one if `up` made it again of the old; None where a loss is
        declared, or there is nothing to lose."""
        row = sync.Row(renamed=renamed)
        exact = [p for p in self.pairs if p.old and p.new and not p.volatile and p.on_down_error == "refuse"]
        where = " OR ".join(f"({sync.lost(pair, row)})" for pair in exact)
        return self._named("has a new value that up does not make again of the old one", where) if where else None

    def _named(self, what: str, where: str) -> str:
        shown = literal(f"{self.table.schema}.{self.table.name}")
        target = ident(self.table.schema, self.table.name)
        return f"SELECT format('row %s of %s {what}', ctid, {shown}) FROM {target} WHERE {where} LIMIT 5"


def switch_statement(control: str, migration: str) -> str:
    """The read switch as a statement; ``.format(percent)`` it."""
    name = literal(migration).replace("{", "{{").replace("}", "}}")
    table = ident(control, "read_switch").replace("{", "{{").replace("}", "}}")
    return (
        f"INSERT INTO {table} AS s (name, percent) VALUES ({name}, {{0}}) ON CONFLICT (name) DO UPDATE "
        "SET percent = excluded.percent, changed_at = pg_catalog.clock_timestamp() WHERE s.percent <> excluded.percent"
    )


def reset_column(table: schema.Table, name: str, definition: str, settings: tuple[str, ...]) -> tuple[str, ...]:
    """Put an empty column in a column's place: what undoing `dual_write` leaves."""
    return (alter(table, f"DROP COLUMN {ident(name)}"), alter(table, f"ADD COLUMN {definition}"), *settings)
