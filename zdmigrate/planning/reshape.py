"""The steps that give one table its new shape, whatever number of changes declared it.

All of them share one set of triggers, one backfill pass, one verification, one moment at which names change and one
transaction that drops what is left. Two ways lead from an old column to its successor:

* a plain `Rename` keeps the column, with everything that depends on it. A *shadow* under the new name serves version
  N+1 until N is gone; then the column takes the name, and the shadow is dropped;
* a `Replace` makes a new column that survives. Indexes and constraints are built on it, and take the originals' names
  when the old column is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Comparison, Gate, LockMode, RowQueries, Step
from zdmigrate.planning import carry, draft, indexes, loosen, notnull, probes, rebinding, sync, synced, usertriggers
from zdmigrate.planning.draft import ColumnMove, Drop, Fill, Rename, Replace, TableDraft
from zdmigrate.planning.parts import (
    Scope,
    TableSteps,
    alter,
    drop_foreign_keys,
    objects_of,
    on,
    transaction_step,
)
from zdmigrate.planning.rebinding import Rebinding
from zdmigrate.planning.synced import Swap, Synced
from zdmigrate.sqltext import columns_in, ident, literal

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE


def steps(scope: Scope, table: TableDraft) -> TableSteps:
    """Everything that the moves of a table need."""
    return _Reshaping(scope, table).made()


class _Reshaping:
    def __init__(self, scope: Scope, shape: TableDraft) -> None:
        self.scope, self.shape, self.table = scope, shape, shape.live
        self.renames = [m for m in shape.moves if isinstance(m, Rename)]
        self.replaces = [m for m in shape.moves if isinstance(m, Replace)]
        self.fills = [m for m in shape.moves if isinstance(m, Fill)]
        self.drops = [m for m in shape.moves if isinstance(m, Drop)]
        self.gone: list[ColumnMove] = [*self.replaces, *self.drops]
        self.label = self._label()
        self.synced = Synced(scope=scope, table=self.table, pairs=tuple(self._pairs()), label=self.label)
        self.triggers = self._triggers()
        self.swap, self.retire = self._swaps()
        self.copies = tuple(self._copies())

    def made(self) -> TableSteps:
        """In the order of the phases; the planner puts the changes' own steps in between."""
        if not self.shape.moves:
            return TableSteps(first=tuple(self._in_place()))
        if self.synced.pairs:
            self.synced.refuse_unsyncable()
        self._refuse_same_name()
        self._claim_indexes()
        hazards, gates = self.synced.trigger_hazards() if self.synced.pairs else ((), ())
        gone = usertriggers.dropped(self.table, [m.column.name for m in self.gone if not self._keeps_name(m)])
        return TableSteps(
            first=tuple(self._first()),
            last=tuple(self._last()),
            reads=tuple(self._reads()),
            objects=tuple(dict.fromkeys(self._objects())),
            hazards=(*hazards, *self._announced()),
            gates=(*gates, *self.triggers.gates, *gone),
            comparison=self._comparison() if self.synced.pairs else None,
        )

    def _refuse_same_name(self) -> None:
        """The application would have to write the new column under one name before the moment of the swap, and under another
        after it; whoever goes on writing the name that it knows writes old values into the new column.

        Raises:
            Unsafe: with ``sync="app"``, a column of the same name takes an old one's place.
        """
        if self.scope.sync == "app" and self.swap.renames:
            names = ", ".join(m.name for m in self.replaces if not m.renamed)
            raise Unsafe(
                f'{self.shape.shown}.{names} keeps its name and gets another type: with sync="app" nobody could write both '
                "shapes under their names, and from one moment on the name means the other one",
                hint='leave sync="app" out, or give the column a new name, too: RenameColumn and ChangeType in one migration',
            )

    def _comparison(self) -> Comparison:
        return Comparison(
            table=f"{self.table.schema}.{self.table.name}",
            diverged=tuple((phase, self.synced.diverged(names)) for phase, names in self.stages()),
            lossy=tuple((phase, query) for phase, names in self.stages() if (query := self.synced.unfaithful(names))),
        )

    def _triggers(self) -> usertriggers.Carried:
        """The table's own triggers, where both names serve at once."""
        renamed = [(m.column.name, m.new) for m in self.renames]
        return usertriggers.carried(self.table, renamed, [(m.column.name, m.name) for m in self.replaces if m.renamed])

    def _reads(self) -> Iterator[str]:
        mine = {f"{self.table.schema}.{self.table.name}.{m.column.name}" for m in (*self.gone, *self.renames)}
        found = [
            *(self.synced.reads if self.synced.pairs else ()),
            *self.swap.rebinding.reads,
            *self.retire.rebinding.reads,
        ]
        yield from (name for name in dict.fromkeys(found) if name not in mine)

    def _objects(self) -> Iterator[str]:
        for column in self._leaving():
            yield from objects_of(self.table, column)
        yield from (*self.swap.rebinding.shown, *self.retire.rebinding.shown)

    def stages(self) -> tuple[tuple[Phase, Mapping[str, str]], ...]:
        """What the columns are called after each phase that changes names."""
        found: list[tuple[Phase, Mapping[str, str]]] = [(Phase.NONE, {})]
        if self.swap.renames:
            found.append((Phase.SWITCH_READS, self.swap.after))
        if self.retire.renames:
            found.append((Phase.RETIRE, self.retire.after))
        return tuple(found)

    def _label(self) -> str:
        named = [
            *(m.new for m in self.renames), *(m.name for m in self.replaces), *(m.name for m in self.fills),
            *(m.column.name for m in self.drops),
        ]  # fmt: skip
        return ", ".join(dict.fromkeys(named))

    def _leaving(self) -> list[str]:
        """Old columns that nobody finds under their names in the end, or which others find there."""
        return [m.column.name for m in (*self.gone, *self.renames)]

    def _keeps_name(self, move: ColumnMove) -> bool:
        return isinstance(move, Replace) and not move.renamed

    # What is kept equal.

    def _pairs(self) -> Iterator[sync.SyncPair]:
        """In the order in which they are synced: what fills a column in place comes first."""
        known = self.table.column_names | {m.new for m in self.renames} | {m.beside for m in self.replaces}
        known |= {m.name for m in self.fills}
        for move in self.shape.moves:
            match move:
                case Rename(column=column, new=new):
                    made = sync.SyncColumn(name=new, type=column.type)
                    yield sync.SyncPair(
                        columns=known, old=(_old(column),), new=(made,), up=(ident(column.name),), down=(ident(new),),
                        keys=self._keys(column),
                    )  # fmt: skip
                case Replace(column=column):
                    made = sync.SyncColumn(name=move.beside, type=move.type)
                    yield sync.SyncPair(
                        columns=known, old=(_old(column),), new=(made,), up=(move.up,), down=(move.down,),
                        on_down_error=move.on_down_error, keys=self._keys(column),
                    )  # fmt: skip
                case Fill():
                    made = sync.SyncColumn(name=move.name, type=move.type)
                    yield sync.SyncPair(
                        columns=known, old=(), new=(made,), up=(move.value,), down=(),
                        null_is_unfilled=move.null_is_unfilled, unfilled_when=move.where, volatile=move.volatile,
                    )  # fmt: skip
                case Drop(column=column, down=down) if down is not None:
                    old = sync.SyncColumn(name=column.name, type=column.type)
                    yield sync.SyncPair(columns=known, old=(old,), new=(), up=(), down=(down,))

    def _keys(self, column: schema.Column) -> tuple[sync.UniqueKey, ...]:
        generated = frozenset(c.name for c in self.table.columns if c.generated)

        def known(text: str) -> bool:
            return not columns_in(text, generated)

        # A BEFORE trigger does not see generated columns; a part of the key makes some wait that need not.
        return tuple(
            sync.UniqueKey(
                name=i.name, keys=tuple(filter(known, i.keys)), nulls_distinct=not i.nulls_not_distinct,
                predicate=i.predicate if i.predicate is not None and known(i.predicate) else None,
            )
            for i in self._indexes(column)
            if i.unique and not carry.checked_late(self.table, i) and any(map(known, i.keys))
        )  # fmt: skip

    def _indexes(self, column: schema.Column) -> tuple[schema.Index, ...]:
        """Those on a column that outlive the migration."""
        dropped = {m.column.name for m in self.drops}
        return tuple(
            i for i in self.table.indexes if column.name in i.columns and i.valid and not dropped & set(i.columns)
        )

    def _copies(self) -> Iterator[carry.IndexCopy]:
        replaced = {m.column.name: m.beside for m in self.replaces}
        later = {m.column.name: m.name for m in self.replaces}
        shadowed = {m.column.name: m.new for m in self.renames}
        retired = {m.column.name: self._shadow(m) for m in self.renames}
        for index in self.table.indexes:
            leaving: list[ColumnMove] = [*self.replaces, *self.renames]
            moved = [m.column for m in leaving if m.column.name in index.columns]
            if not moved or index not in self._indexes(moved[0]):
                continue
            if any(name in replaced for name in index.columns):
                final = later | {m.column.name: m.new for m in self.renames}
                yield carry.IndexCopy(original=index, names=replaced, later=(later, final))
            if any(name in shadowed for name in index.columns):
                names = (shadowed | later, retired | later)
                yield carry.IndexCopy(original=index, names=shadowed | replaced, later=names, kind="sx")

    def _claim_indexes(self) -> None:
        """Those that are rebuilt or dropped with a column are nothing for other changes of the migration."""
        ends = [(m.column.name, "rebuilt on its column's successor") for m in self.replaces]
        ends += [(m.column.name, "dropped with its column") for m in self.drops]
        for index in self.table.indexes:
            doing = next((doing for column, doing in ends if column in index.columns), None)
            if doing is not None:
                self.scope.draft.claim(indexes.claim(self.table.schema, index.name), doing)

    # Names.

    def _swaps(self) -> tuple[Swap, Swap]:
        taking = [m for m in self.replaces if not m.renamed]
        at_switch = [(m.column.name, self._retired(m.column)) for m in taking]
        at_switch += [(m.beside, m.name) for m in taking]
        renamed = [m for m in self.replaces if m.renamed]
        leaving: list[ColumnMove] = [*renamed, *self.drops]
        away = [(m.column.name, self._retired(m.column)) for m in leaving]
        shadows = [(m.new, self._shadow(m)) for m in self.renames]
        switched = dict(at_switch)
        retired = switched | dict(away) | dict(shadows) | {m.column.name: m.new for m in self.renames}
        at_retire = (*away, *shadows, *((m.column.name, m.new) for m in self.renames))
        types, later = ({m.column.name: m.type for m in moves} for moves in (taking, renamed))
        names = {m.column.name: m.new for m in self.renames} | {m.column.name: m.name for m in renamed}
        placed = self.shape.retyped
        end = rebinding.Stage(types=placed | types | later, names=tuple(names.items()))
        ends = (end,) if names else ()
        at_once = rebinding.of(
            self.scope, self.table, now=types, before=placed, later=ends, triggers=self.triggers.wide
        )
        at_last = rebinding.of(self.scope, self.table, now=later, before=placed | types, later=ends)
        return (
            Swap(
                renames=tuple(at_switch), before={}, after=switched,
                rebinding=self._bound(at_once),
            ),
            Swap(
                renames=at_retire, before=switched, after=retired,
                rebinding=self._bound(at_last),
                lent=tuple((m.name, m.column.name) for m in renamed),
            ),
        )  # fmt: skip

    def _bound(self, found: Rebinding) -> Rebinding:
        """What names columns of two tables is carried for one of them: the other's names would change under it."""
        others = [other for other in self.scope.draft.tables if other is not self.shape] if found.reads else []
        for other in others:
            moved = {f"{other.shown}.{m.column.name}" for m in other.moves if not isinstance(m, Fill)}
            names = [name for name in found.reads if name in moved]
            if names:
                raise Unsafe(
                    f"{', '.join(found.shown)} must follow a column of {self.shape.shown} to its new type, and names "
                    f"{', '.join(names)}, which the same migration changes too",
                    hint="put the changes of the two tables into two migrations, with requires=",
                )
        return found

    def _retired(self, column: schema.Column) -> str:
        return draft.retired(self.scope.migration, self.table, column.name)

    def _shadow(self, move: Rename) -> str:
        return self.scope.name("shadow", move.new, self.table.schema, self.table.name)

    # Steps.

    def _first(self) -> Iterator[Step]:
        yield from self._expand()
        if self.synced.pairs:
            yield self._install()
        if any(pair.new for pair in self.synced.pairs):
            if self.scope.sync == "app":
                again = self.synced.overwritten({}, filled=False)
                yield _asked_after(self.synced.watch_all(), again)
            yield dataclasses.replace(self.synced.fill(), undo_loses=self._overwritten(filled=False))
        if self.scope.sync == "app":
            yield from self._left_out()
        yield from self._equip()
        if self.renames or self.replaces:
            switch = synced.switch_statement(self.scope.control, self.scope.migration)
            step = self.synced.hand_over(switch, self.swap, self.retire.after)
            step = _asked_after(step, self.synced.overwritten(self.swap.before, filled=True))
            yield dataclasses.replace(step, undo_loses=self._overwritten(filled=True))
        if self.retire.renames:
            step = self.synced.retire(self.retire, self._retire_title())
            step = _asked_after(step, self.synced.left_behind(self.retire.before))
            yield dataclasses.replace(step, undo_loses=self._left_behind())
        for move in self.gone:
            yield from drop_foreign_keys(self.scope, self.table, move.column.name, self._retired(move.column))
        yield from self._contract()

    def _left_out(self) -> Iterator[Step]:
        """Version N+1 does not know the old columns, and no trigger fills them: nothing may ask for their values.

        Before it may be deployed, and undone only where the gate ``dual_writers`` asks whether it is gone.
        """
        for gone in self.drops:
            if gone.down is not None:
                raise Unsafe(
                    f'{self.shape.shown}.{gone.column.name}: with sync="app" nobody computes down for version N+1, which leaves '
                    "it out, and it is NOT NULL",
                    hint='leave down= out: then the column may be NULL; or leave sync="app" out',
                )
        for move in self.replaces:
            loosen.refuse_needed(self.table, move.column)
            if move.column.not_null and move.not_null:
                title = f"let N+1 leave {move.column.name} out, which nobody fills for it"
                yield loosen.allow_null(self.scope, self.table, move.column, Phase.BACKFILL, title)

    def _overwritten(self, *, filled: bool) -> RowQueries:
        """``sync="app"``: rows in which version N+1 may have written the new shape alone. Once the old one has the authority
        again, the next backfill would write over them."""
        queries = ((phase, self.synced.overwritten(names, filled=filled)) for phase, names in self.stages())
        return tuple((phase, query) for phase, query in queries if query is not None)

    def _left_behind(self) -> RowQueries:
        """``sync="app"``: rows whose old shape is not what version N would have to find."""
        queries = ((phase, self.synced.left_behind(names)) for phase, names in self.stages())
        return tuple((phase, query) for phase, query in queries if query is not None)

    def _last(self) -> Iterator[Step]:
        """What closes `backfill`, after the changes' own steps."""
        filled = [c.name for pair in self.synced.pairs for c in pair.new]
        if filled:
            # Statistics over several columns are collected only where all of them are.
            replaced = {m.column.name: m.beside for m in self.replaces}
            with_ = [replaced.get(c, c) for s in self._statistics() for c in s.columns]
            yield carry.analyze(self.scope, self.table, tuple(dict.fromkeys((*filled, *with_))))
            yield self.synced.verify()

    def _expand(self) -> Iterator[Step]:
        for move in self.shape.moves:
            match move:
                case Rename(column=column, new=name):
                    title = f"add {name} beside {column.name}, nullable"
                    yield self._add(name, column.type, move, title)
                case Replace(column=column, beside=name):
                    title = f"add {name} beside {column.name}, nullable"
                    yield self._add(name, move.type, move, title)
                case Fill(definition=definition) if definition is not None:
                    yield self._add(move.name, move.type, move, f"add {move.name}")
        yield from self._in_place()

    def _in_place(self) -> Iterator[Step]:
        """The changes of types for which no row is touched."""
        for column, retyped in self.shape.in_place.items():
            blocked = ((phase, retyped.blocked(names.get(column, column))) for phase, names in self.stages())
            yield dataclasses.replace(retyped.step, undo_blocked=tuple(blocked))

    def _add(self, name: str, type_: str, move: Rename | Replace | Fill, title: str) -> Step:
        moved = None
        if isinstance(move, Rename):
            moved = self._shadow(move)
        elif isinstance(move, Replace) and not move.renamed:
            moved = self._retired(move.column)
        definition, settings = self._definition(move), self._settings(move)
        step = transaction_step(
            self.scope, Phase.EXPAND, f"add.{name}", title,
            probe=probes.column(self.table, name, type_=type_, moved=moved),
            do=[alter(self.table, f"ADD COLUMN {definition}"), *settings],
            undo=[alter(self.table, f"DROP COLUMN {ident(name)}")],
            locks=on(self.table, ACCESS_EXCLUSIVE),
        )  # fmt: skip
        return dataclasses.replace(step, undo_loses=self._losses(name))

    def _later(self, name: str) -> tuple[str, ...]:
        """What else a column that is added here is called, later."""
        return tuple(dict.fromkeys(names[name] for _, names in self.stages() if name in names))

    def _definition(self, move: Rename | Replace | Fill) -> str:
        if isinstance(move, Fill):
            return move.definition or ""
        column = move.column
        name, type_ = (move.new, column.type) if isinstance(move, Rename) else (move.beside, move.type)
        collation = f" COLLATE {column.collation}" if column.collation and not _retyped(move) else ""
        return f"{ident(name)} {type_}{collation}"

    def _settings(self, move: Rename | Replace | Fill) -> tuple[str, ...]:
        if isinstance(move, Fill):
            return move.settings
        name = move.new if isinstance(move, Rename) else move.beside
        return carry.settings(self.table, move.column, name, retyped=_retyped(move))

    def _install(self) -> Step:
        extra: list[str] = []
        undo: list[str] = []
        for pair in self.synced.pairs:
            for name, default in sync.new_defaults(pair).items():
                extra.append(alter(self.table, f"ALTER COLUMN {ident(name)} SET DEFAULT {default}"))
        for move in self.shape.moves:
            match move:
                case Rename(new=name) | Replace(beside=name):
                    undo += synced.reset_column(self.table, name, self._definition(move), self._settings(move))
                case Fill(definition=definition) if definition is not None:
                    if move.default is not None:
                        extra.append(alter(self.table, f"ALTER COLUMN {ident(move.name)} SET DEFAULT {move.default}"))
                    undo += synced.reset_column(self.table, move.name, definition, move.settings)
        step = self.synced.install(*extra, *self.triggers.widen, undo=(*self.triggers.narrow, *undo))
        losses = [q for m in self.fills if m.definition is not None for q in self._losses(m.name)]
        losses += self._overwritten(filled=False)
        if not any(pair.new for pair in self.synced.pairs):
            losses += self._left_behind()
        if self.scope.sync == "app" and self.retire.renames:  # which takes the guard away
            step = dataclasses.replace(
                step, probe=probes.unless_column(self.table, self.retire.renames[0][1], step.probe)
            )
        return dataclasses.replace(step, undo_loses=tuple(losses))

    def _losses(self, name: str) -> tuple[tuple[Phase, str], ...]:
        """Rows of a new column whose value nothing would bring back."""
        pair = next((p for p in self.synced.pairs if any(c.name == name for c in p.new)), None)
        if pair is None or pair.plain:
            return ()
        shown = literal(f"{self.table.schema}.{self.table.name}")
        final = next((c.name for c in self.shape.columns if c.physical == name), name)
        found = []
        for phase, names in self.stages():
            row = sync.Row(renamed=names)
            condition = sync.lost(pair, row)
            query = (
                f"SELECT format('row %s of %s has a value of its own in %s', ctid, {shown}, {literal(final)}) "
                f"FROM {ident(self.table.schema, self.table.name)} WHERE {condition} LIMIT 5"
            )
            found.append((phase, query))
        return tuple(found)

    def _equip(self) -> Iterator[Step]:
        """Indexes and constraints of the new columns."""
        scope, table = self.scope, self.table
        for copy in self.copies:
            yield from copy.build(scope, table)
        for move in self.replaces:
            if move.not_null:
                yield from notnull.proven(scope, table, move.beside, Phase.BACKFILL, self._later(move.beside))
        for fill in self.fills:
            if fill.not_null:
                made = notnull.conventional(table, fill.called or fill.name)
                yield from notnull.proven(scope, table, fill.name, Phase.BACKFILL, self._later(fill.name), made=made)
        names = {m.column.name: m.beside for m in self.replaces}
        for constraint in self._constraints("c"):
            yield from carry.check(scope, table, constraint, names)
        for constraint in self._constraints("f"):
            yield from carry.foreign_key(scope, table, constraint, names)
        for statistics in self._statistics():
            yield carry.statistics(scope, table, statistics, names)
        yield from self._backed()

    def _backed(self) -> Iterator[Step]:
        """The unique constraints, of the indexes that are there."""
        for index in (c.original for c in self.copies if c.kind == "ix"):
            backed = next((k for k in self._constraints("u") if k.name == index.constraint), None)
            if backed is not None:
                yield carry.unique_constraint(self.scope, self.table, index, backed)

    def _constraints(self, kinds: str) -> tuple[schema.Constraint, ...]:
        """Those on replaced columns that outlive the migration."""
        moved, dropped = {m.column.name for m in self.replaces}, {m.column.name for m in self.drops}
        return tuple(
            k
            for k in self.table.constraints
            if k.kind in kinds and moved & set(k.columns) and not dropped & set(k.columns)
        )

    def _statistics(self) -> tuple[schema.Statistics, ...]:
        moved = {m.column.name for m in self.replaces}
        return tuple(s for s in self.table.statistics if moved & set(s.columns))

    def _retire_title(self) -> str:
        away = [m.column.name for m in self.gone if not isinstance(m, Replace) or m.renamed]
        said = []
        if away:
            said.append(f"rename {', '.join(away)} out of the way" + (", still synced" if self.synced.pairs else ""))
        said += [
            f"{m.column.name} takes the name {m.new}, its shadow goes out of the way, still synced"
            for m in self.renames
        ]
        return "; ".join(said)

    def _contract(self) -> Iterator[Step]:
        table = self.table
        left = [self._retired(m.column) for m in self.gone]
        left += [self._shadow(m) for m in self.renames]
        remove = self.synced.remove() if self.synced.pairs else ()
        final = [text for m in self.fills for text in m.final]
        if not left and not remove:
            return
        gone = ", ".join(m.column.name for m in self.gone)
        said = [f"drop what was {gone}"] * bool(gone)
        said += [f"drop the shadow of {', '.join(m.new for m in self.renames)}"] * bool(self.renames)
        said = said or [f"stop filling {self.label}"]
        takes_away = bool(left) or not all(m.serves_old for m in self.fills)
        probe = (
            probes.columns_absent(table, tuple(left))
            if left
            else probes.triggers_absent(table, self.synced.trigger_names)
        )
        step = transaction_step(
            self.scope, Phase.CONTRACT, f"drop.{left[0]}" if left else f"unsync.{self.label}", "; ".join(said),
            probe=probe,
            do=[
                *(s for s in remove if s.startswith("DROP TRIGGER")),
                *self.triggers.final,
                *self._late_defaults(), *final,
                *([alter(table, *(f"DROP COLUMN {ident(name)}" for name in left))] if left else ()),
                *self._final_names(),
                *(s for s in remove if s.startswith("DROP FUNCTION")),
            ],
            undo=() if left or final else self.synced.reinstall(),
            locks=on(table, ACCESS_EXCLUSIVE), takes_away=takes_away, irreversible=bool(left or final),
        )  # fmt: skip
        if self.scope.sync == "app" and any(pair.new for pair in self.synced.pairs):
            step = dataclasses.replace(step, asked_within=self.synced.forgotten(missed=not self.retire.renames))
        yield step

    def _late_defaults(self) -> Iterator[str]:
        target = ident(self.table.schema, self.table.name)
        for move in self.replaces:
            column = move.column
            if move.default is not None:
                yield alter(self.table, f"ALTER COLUMN {ident(move.name)} SET DEFAULT {move.default}")
            for name in column.owned_sequences:
                yield f"ALTER SEQUENCE {name} OWNED BY {target}.{ident(move.name)}"

    def _final_names(self) -> Iterator[str]:
        for copy in self.copies:
            if copy.kind == "ix" and copy.original.constraint is None:
                yield from copy.take_names(self.scope, self.table)
        for statistics in self._statistics():
            made = carry.statistics_name(self.scope, self.table, statistics)
            yield f"ALTER STATISTICS {ident(statistics.schema, made)} RENAME TO {ident(statistics.name)}"
        for constraint in self._constraints("cfu"):
            made = carry.constraint_name(self.scope, self.table, constraint)
            yield alter(self.table, f"RENAME CONSTRAINT {ident(made)} TO {ident(constraint.name)}")
        if self.scope.snapshot.major >= 18:
            for move in (m for m in self.replaces if m.not_null):
                kept = (k.name for k in self.table.constraints if k.kind == "n" and k.columns == (move.column.name,))
                name = next(kept, notnull.conventional(self.table, move.called or move.name))
                made = notnull.name(self.scope, self.table, move.beside)
                yield alter(self.table, f"RENAME CONSTRAINT {ident(made)} TO {ident(name)}")

    # What a reviewer must know.

    def _announced(self) -> Iterator[Hazard]:
        if any(pair.keys for pair in self.synced.pairs):
            yield Hazard(
                id="C13", phase=Phase.BACKFILL,
                message=f"a transaction that inserts more than {sync.KEY_LOCKS} rows can meet 23505 where ON CONFLICT "
                f"on the old column would have found the row, if another session inserts the same key at once",
                remedy="insert in smaller transactions, or retry on 23505",
            )  # fmt: skip
        for phase, swap in ((Phase.SWITCH_READS, self.swap), (Phase.RETIRE, self.retire)):
            yield from swap.rebinding.hazards(phase)
        for move in self.drops:
            lost = [i.name for i in self.table.indexes if move.column.name in i.columns]
            if lost:
                message = f"dropping {move.column.name} drops the indexes {', '.join(lost)}"
                remedy = "build what the queries still need before this migration"
                yield Hazard(id="C17", phase=Phase.CONTRACT, message=message, remedy=remedy)


def explicit_null(column: schema.Column, new: str) -> tuple[Hazard, Gate] | None:
    """What a volatile default means for a column that is replaced or renamed, and may be NULL."""
    if not column.default_volatile or column.not_null:
        return None
    message = (
        f"{column.name} has a volatile default, so until contract an explicit NULL that N+1 inserts into {new} means the "
        "default"
    )
    remedy = 'make the column NOT NULL first, or accept it: --override explicit_null="reason"'
    hazard = Hazard(id="C10", phase=Phase.DUAL_WRITE, message=message, remedy=remedy, accept="explicit_null")
    gate = Gate(name="explicit_null", phase=Phase.DUAL_WRITE, detail=f"{message}; {remedy}", exit_code=6)
    return hazard, gate


def refuse_unreplaceable(shape: TableDraft, column: schema.Column, *, doing: str) -> None:
    """Refuse what cannot be carried to a new column.

    Raises:
        Unsafe: names it, with the remedy.
    """
    table = shape.live
    shown = f"{shape.shown}.{column.name}"
    found = {
        "an identity column": bool(column.identity),
        "a generated column": bool(column.generated),
        "part of the partition key": column.name in table.partition_columns,
        "part of the primary key": any(i.primary and column.name in i.columns for i in table.indexes),
        "part of the replica identity": any(i.replica_identity and column.name in i.columns for i in table.indexes),
        "part of an exclusion constraint": any(k.kind == "x" and column.name in k.columns for k in table.constraints),
    }
    for what, there in found.items():
        if there:
            raise Unsafe(f"{shown} is {what}, which cannot be {doing} beside it", hint="keep the column as it is")
    if table.partitioned and any(i.constraint and column.name in i.columns for i in table.indexes):
        raise Unsafe(
            f"{shown} has a unique constraint on a partitioned table, which cannot be built concurrently",
            hint="replace the constraint by a unique index first",
        )
    if any(k.kind == "u" and k.deferrable and column.name in k.columns for k in table.constraints):
        raise Unsafe(
            f"{shown} has a deferrable unique constraint: its copy would be immediate while it is built, and refuse "
            "version N's writes",
            hint="make the constraint immediate first",
        )
    if any(i.nulls_not_distinct and column.name in i.columns and i.constraint for i in table.indexes):
        raise Unsafe(f"{shown} has a NULLS NOT DISTINCT constraint", hint="replace it by a unique index first")
    refuse_unhashable(table, column)


def refuse_unhashable(table: schema.Table, column: schema.Column) -> None:
    """Refuse unique keys whose concurrent upserts cannot be made to queue.

    Raises:
        Unsafe: a column of such a key has a type without a hash function.
    """
    keyed = [c for i in table.indexes if i.unique and column.name in i.columns for c in i.columns]
    if any(not c.hashable for c in table.columns if c.name in keyed):
        raise Unsafe(
            f"a unique index on {table.schema}.{table.name}.{column.name} has a column whose type has no hash function, so "
            "concurrent upserts of one key cannot be made to queue",
            hint="drop the unique index first",
        )


def _asked_after(step: Step, query: str | None) -> Step:
    return step if query is None else dataclasses.replace(step, undo_asked_after=(query,))


def _old(column: schema.Column) -> sync.SyncColumn:
    return sync.SyncColumn(
        name=column.name, type=column.type, default=column.default,
        default_volatile=bool(column.default_volatile) or bool(column.identity),
    )  # fmt: skip


def _retyped(move: Rename | Replace) -> bool:
    return isinstance(move, Replace) and move.type != move.column.type
