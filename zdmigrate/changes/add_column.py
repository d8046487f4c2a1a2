"""Add a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name
from zdmigrate.changes.create_index import CreateIndex, create
from zdmigrate.changes.declared import Generated, Identity, Inline, column_facts, inline
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Mode, RowQueries, Step, Transform, Window, name_of
from zdmigrate.planning import callables, computed, identity, notnull, planner, probes, publications
from zdmigrate.planning.callables import Function
from zdmigrate.planning.draft import DraftColumn, Fill, TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, is_tiny, on, transaction_step
from zdmigrate.sqltext import columns_in, ident, literal

if TYPE_CHECKING:
    import sqlalchemy as sa


_ADDED = "added"


@dataclasses.dataclass(frozen=True, init=False)
class AddColumn(Change):
    """Add a column: ``AddColumn("users", sa.Column("locale", sa.Text, nullable=False), backfill="'en'")``.

    `backfill` may also be a function of the migration file: ``AddColumn("users", sa.Column("slug", sa.Text),
    backfill=slugs, reads=("name",))`` with ``def slugs(rows): return [slug(row["name"]) for row in rows]``. It gets rows as
    mappings of the columns in `reads`, a batch at a time, and returns a value for each. No trigger can call it: rows that
    version N writes get the ``server_default``, or else nothing, and then N must be gone before `backfill`. `where` is a
    condition in SQL for rows that need a value at all.

    A constant or STABLE ``server_default`` is added at once, NOT NULL included: PostgreSQL 11 and later rewrite
    nothing for it. A volatile one, or `backfill` (a SQL expression over the row's other columns), is filled in batches;
    until `contract` a trigger fills what version N inserts. NOT NULL is proven before it is set.

    ``sa.Identity()``: rows are numbered in batches from a sequence, which becomes the identity's in `contract`.
    ``sa.Computed(…, persisted=False)`` (PostgreSQL 18) is added at once. A stored one makes the server rewrite the table
    under ACCESS EXCLUSIVE: that is done where the table is tiny, else it must be accepted (gate ``rewrite``). NOT NULL of
    a generated column waits for `contract`: it could refuse what version N writes.

    CHECK, foreign keys, ``unique=True`` and ``index=True`` are those of AddCheck, AddForeignKey, AddUnique and
    CreateIndex: never built while anybody waits, and after version N where they could refuse what it writes.

    Locks: ACCESS EXCLUSIVE, catalog only but for that rewrite. Undo: drops the column, which loses what N+1 wrote:
    refused without ``--allow-lossy`` where there is any. Primary keys are refused. Manual: ALTER TABLE, "ADD COLUMN".
    """

    table: str
    name: str
    type: str
    nullable: bool
    default: str | None
    comment: str | None
    backfill: str | None
    generated: Generated | None
    identity: Identity | None
    inline: tuple[Inline, ...]
    schema: str
    function: str | None
    """The reference to a `backfill` that is a function."""
    reads: tuple[str, ...]
    where: str | None
    _function: Function | None = dataclasses.field(repr=False, compare=False)

    def __init__(
        self,
        table: str,
        column: sa.Column[Any],
        *,
        backfill: str | Function | None = None,
        reads: Iterable[str] = (),
        where: str | None = None,
        schema: str = "public",
    ) -> None:
        facts = column_facts(column, "AddColumn")
        values = {"table": require_name(table, "AddColumn: table"), "schema": require_name(schema, "AddColumn: schema")}
        for field, value in {**facts, **values, **_filled_by(backfill, reads, where)}.items():
            object.__setattr__(self, field, value)
        object.__setattr__(self, "inline", inline(column, self.table, self.schema, "AddColumn"))
        made = "a generated value" if self.generated else "an identity" if self.identity else None
        if made is not None and backfill is not None:
            raise UsageError(f"AddColumn: {table}.{self.name} has {made}, so there is nothing to backfill")
        if self.function is not None and not self.nullable and self.default is None:
            raise UsageError(
                f"AddColumn: {table}.{self.name} is NOT NULL, and no trigger can call {name_of(self.function)}() for rows that "
                "version N inserts",
                hint="give the column a server_default for those; or leave nullable=False out, and let SetNotNull follow in a "
                "migration of its own when N is gone",
            )
        if not self.nullable and self.default is None and backfill is None and made is None:
            raise UsageError(
                f"AddColumn: {table}.{self.name} is NOT NULL, but nothing says what rows without a value get",
                hint="give the column a server_default, or AddColumn a backfill=",
            )

    def targets(self) -> tuple[Target, ...]:
        brought = (target for change in self.inline for target in change.targets())
        return (Target(self.schema, self.table, self.name), *brought)

    def describe(self) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {"inline": [change.describe() for change in self.inline]}
        del values["_function"]  # which `function` refers to
        # What older releases knew nothing of must not change their checksums.
        later = ("generated", "identity", "inline", "function", "reads", "where")
        return {"change": "AddColumn", **{k: v for k, v in values.items() if v or k not in later}}

    def functions(self) -> Mapping[str, Function]:
        return {} if self.function is None or self._function is None else {self.function: self._function}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table, tree=self._inherited)
        if table.column(self.name) is not None:
            return OneShot(there=True)
        null = "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        if self.function is not None:
            return self._at_once_by_python(table, default)
        if self.backfill is None:
            made = self.generated or self.identity
            default = default if made is None else f" {made.text}"
            add = alter(table, f"ADD COLUMN {self._definition()}{default}{null}")
            return OneShot(add, *self._comment(table), *self._brought(table), there=False)
        statements = [
            alter(table, f"ADD COLUMN {self._definition()}"),
            f"UPDATE {ident(self.schema, self.table)} SET {ident(self.name)} = {self.backfill}",
        ]
        if default:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET{default}"))
        if null:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET NOT NULL"))
        return OneShot(*statements, *self._comment(table), *self._brought(table), there=False)

    def _at_once_by_python(self, table: catalog.Table, default: str) -> OneShot:
        assert self.function is not None
        last = () if self.nullable else (alter(table, f"ALTER COLUMN {ident(self.name)} SET NOT NULL"),)
        transform = Transform(
            column=self.name, function=self.function, reads=tuple((name, ident(name)) for name in self.reads)
        )
        return OneShot(
            *self._empty(table, default), *self._comment(table), there=False,
            fills=(computed.work(table, transform, self.where),), last=(*last, *self._brought(table)),
        )  # fmt: skip

    def _empty(self, table: catalog.Table, default: str) -> tuple[str, ...]:
        """The column, NULL in every row that is there; the default is for those to come."""
        add = alter(table, f"ADD COLUMN {self._definition()}")
        return (add, alter(table, f"ALTER COLUMN {ident(self.name)} SET{default}")) if default else (add,)

    def _brought(self, table: catalog.Table) -> Iterator[str]:
        for change in self.inline:
            if isinstance(change, CreateIndex):
                yield from create(table, change.name or "", change.definition, None)
            else:
                named = "" if change.name is None else f"CONSTRAINT {ident(change.name)} "
                yield alter(table, f"ADD {named}{change.constraint.clause}")

    def plan(self, scope: Scope) -> ChangePlan:
        parts = [self._column(scope), *(change.plan(scope) for change in self.inline)]
        return ChangePlan(
            window=planner.combine(part.window for part in parts),
            steps=tuple(step for part in parts for step in part.steps),
            reads=tuple(name for part in parts for name in part.reads),
            objects=tuple(name for part in parts for name in part.objects),
            hazards=tuple(hazard for part in parts for hazard in part.hazards),
            gates=tuple(gate for part in parts for gate in part.gates),
        )

    @property
    def _inherited(self) -> bool:
        """Whether children get what the parent gets: indexes, keys and identities they do not."""
        return self.identity is None and not self.inline

    def _column(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table, tree=self._inherited)
        table.refuse_taken(self.name)
        type_ = scope.type_name(self.type)
        if self.generated is not None:
            return self._computed(scope, table, type_, self.generated)
        if self.identity is not None:
            return self._numbered(scope, table, type_, self.identity)
        if self.function is not None:
            return self._by_python(scope, table, type_, self.function)
        volatile = False
        for text in (self.default, self.backfill):
            if text is not None:
                facts = scope.expression(table.live, self._cast(table.initial(text)))
                volatile = volatile or (text is self.default and facts.volatile)
        if self.backfill is None and not volatile:
            return self._at_once(scope, table, type_)
        return self._filled(scope, table, type_)

    def _at_once(self, scope: Scope, table: TableDraft, type_: str) -> ChangePlan:
        live, null = table.live, "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        step = transaction_step(
            scope, Phase.EXPAND, f"add.{self.name}", f"add {self.name}",
            probe=probes.column(live, self.name, type_=type_),
            do=[alter(live, f"ADD COLUMN {self._definition()}{default}{null}"), *self._comment(live)],
            undo=[alter(live, f"DROP COLUMN {ident(self.name)}")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        table.add(self._drafted(type_, computed=False))
        window = Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND)
        return ChangePlan(steps=(dataclasses.replace(step, undo_loses=self._loses(live)),), window=window)

    def _by_python(self, scope: Scope, table: TableDraft, type_: str, function: str) -> ChangePlan:
        """Nobody but the backfill can compute the values: version N's rows have the default, or N must be gone."""
        live, default = table.live, "" if self.default is None else f" DEFAULT {self.default}"
        if self.default is not None:
            scope.expression(live, self._cast(self.default))
        step = transaction_step(
            scope, Phase.EXPAND, f"add.{self.name}", f"add {self.name}, empty",
            probe=probes.column(live, self.name, type_=type_),
            do=[*self._empty(live, default), *self._comment(live)],
            undo=[alter(live, f"DROP COLUMN {ident(self.name)}")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        step = dataclasses.replace(step, undo_loses=self._loses(live))
        return computed.by_python(
            scope, table, self._drafted(type_, computed=True), step,
            function=function, reads=self.reads, where=self.where,
        )  # fmt: skip

    def _loses(self, table: catalog.Table) -> RowQueries:
        """Rows whose value nothing would bring back."""
        shown, name = literal(f"{table.schema}.{table.name}"), ident(self.name)
        same = (
            ""
            if self.default is None
            else f" AND pg_catalog.record_image_ne(ROW({name}), ROW({self._cast(self.default)}))"
        )
        query = (
            f"SELECT format('row %s of %s has a value of its own in %s', ctid, {shown}, {literal(self.name)}) "
            f"FROM {ident(table.schema, table.name)} WHERE {name} IS NOT NULL{same} LIMIT 5"
        )
        return ((Phase.NONE, query),)

    def _filled(self, scope: Scope, table: TableDraft, type_: str) -> ChangePlan:
        """The column's values are computed, row by row."""
        text = table.initial(self.backfill if self.backfill is not None else self.default or "NULL")
        facts = scope.expression(table.live, self._cast(text))
        fill = Fill(
            name=self.name,
            type=type_,
            value=f"({text})::{self.type}",
            not_null=not self.nullable,
            # A NULL in a NOT NULL column is unfilled, whatever the expression would say, and a volatile one must not
            # be asked twice.
            null_is_unfilled=not self.nullable or facts.volatile,
            volatile=facts.volatile,
            definition=self._definition(),
            settings=self._comment(table.live),
            default=self.default,
            serves_old=self.default is not None,
        )
        table.add(self._drafted(type_, computed=True, value=f"({text})::{self.type}"), fill)
        taken = self.default is None
        hazard = self._explicit_null()
        detail = f"{hazard.message}; {hazard.remedy}"
        gate = Gate(name="explicit_null", phase=Phase.DUAL_WRITE, detail=detail, exit_code=6)
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE if taken else Phase.CONTRACT, new_from=Phase.BACKFILL),
            hazards=(hazard,) if self.nullable else (),
            gates=(gate,) if self.nullable else (),
        )

    def _numbered(self, scope: Scope, table: TableDraft, type_: str, made: Identity) -> ChangePlan:
        """Adding an identity column at once would rewrite the table. The numbers come from a sequence of its own first."""
        live = table.live
        identity.refuse(scope, live, self.name, type_)
        if scope.sync == "app":
            raise Unsafe(
                f'{table.shown}.{self.name}: with sync="app" nobody numbers the rows that version N inserts',
                hint='leave sync="app" out, or put this change into a migration of its own',
            )
        scope.trial(live, f"ALTER TABLE {{table}} ADD COLUMN {self._definition()} {made.text}")
        name = scope.name("seq", self.name, live.schema, live.name)
        numbers = ident(live.schema, name)
        value = f"(pg_catalog.nextval({literal(numbers)}::pg_catalog.regclass))::{self.type}"
        fill = Fill(
            name=self.name, type=type_, value=value, not_null=True, null_is_unfilled=True, volatile=True,
            definition=self._definition(), settings=self._comment(live),
            final=(
                identity.add(live, self.name, made.options, always=made.always),
                identity.continued(live, self.name, numbers),
                f"DROP SEQUENCE {numbers}",
            ),
        )  # fmt: skip
        # Its own name as its value: nobody else may draw a number by computing from it.
        table.add(self._drafted(type_, computed=True), fill)
        options = f" {made.options}" if made.options else ""
        step = transaction_step(
            scope, Phase.EXPAND, f"sequence.{self.name}", f"make a sequence that numbers the rows in {self.name}",
            probe=probes.sequence(live.schema, name),
            # Version N's role draws the numbers for its rows, by the trigger.
            do=[f"CREATE SEQUENCE {numbers} AS {self.type}{options}", f"GRANT USAGE ON SEQUENCE {numbers} TO PUBLIC"],
            undo=[f"DROP SEQUENCE {numbers}"], locks=(),
        )  # fmt: skip
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.BACKFILL))

    def _computed(self, scope: Scope, table: TableDraft, type_: str, made: Generated) -> ChangePlan:
        live, shown = table.live, f"{table.shown}.{self.name}"
        if not made.stored and scope.snapshot.major < 18:
            raise Unsafe(
                f"{shown}: PostgreSQL {scope.snapshot.major} has no virtual generated columns, 18 has",
                hint="persisted=True, a view, or a plain column with backfill=",
            )
        named = columns_in(made.expression, live.column_names | {column.name for column in table.columns})
        table.depend(sorted(named), "the generated column", self.name)
        initial, physical = table.initial(made.expression), table.physical(made.expression)
        scope.trial(live, f"ALTER TABLE {{table}} ADD COLUMN {self._definition()} {made.over(initial)}")
        scope.expression(live, self._cast(initial))
        table.add(self._drafted(type_, computed=True, value=f"({initial})::{self.type}"))
        rewrites = made.stored and not is_tiny(live)
        add = alter(live, f"ADD COLUMN {self._definition()} {made.over(physical)}")
        step = transaction_step(
            scope, Phase.EXPAND, f"add.{self.name}", f"add {self.name}, which the server computes",
            probe=probes.generated(live, self.name, type_=type_, kind="s" if made.stored else "v"),
            do=[add], undo=[alter(live, f"DROP COLUMN {ident(self.name)}")],
            locks=on(live, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        # A large table is rewritten outside a transaction, for which there is a time limit.
        mode = Mode.AUTOCOMMIT if rewrites else Mode.TRANSACTION
        step = dataclasses.replace(step, mode=mode, rewrites=made.stored, scans=made.stored)
        strict = () if self.nullable else self._never_null(scope, live)
        return ChangePlan(
            steps=(step, *self._commented(scope, live), *strict),
            gates=(*((self._rewrite(table),) if rewrites else ()), *self._published(scope, live, made)),
            window=Window(old_until=Phase.RETIRE if strict else Phase.CONTRACT, new_from=Phase.EXPAND),
        )

    def _never_null(self, scope: Scope, table: catalog.Table) -> tuple[Step, ...]:
        made = notnull.conventional(table, self.name)
        first, *others = notnull.proven(scope, table, self.name, Phase.CONTRACT, made=made)
        shown = literal(f"{table.schema}.{table.name}")
        nulls = (
            f"SELECT format('row %s of %s is NULL in %s', ctid, {shown}, {literal(self.name)}) "
            f"FROM {ident(table.schema, table.name)} WHERE {ident(self.name)} IS NULL LIMIT 5"
        )
        return (dataclasses.replace(first, refused_by=nulls, takes_away=True), *others)

    def _rewrite(self, table: TableDraft) -> Gate:
        size = f"{table.live.rows} rows, {table.live.bytes / 2**20:.1f} MB"
        return Gate(
            name="rewrite", phase=Phase.EXPAND, exit_code=6,
            detail=f"adding the stored generated column {self.name} rewrites {table.shown} ({size}) while nobody can read or "
            "write it; add a plain column with backfill= instead, a virtual one on PostgreSQL 18, or accept it: "
            '--override rewrite="reason"',
        )  # fmt: skip

    def _published(self, scope: Scope, table: catalog.Table, made: Generated) -> Iterator[Gate]:
        """It belongs to a full replica identity, and most publications do not send it."""
        shown = f"{table.schema}.{table.name}"
        scope.draft.claim(publications.added(shown, stored=made.stored), _ADDED)
        full = "f" in (table.replica_identity, *(part.replica_identity for part in table.partitions))
        full = full or scope.draft.claimed(f"the replica identity of {shown}") is not None
        if full and publications.refuses_generated(scope.snapshot.major):
            yield Gate(
                name="replica_identity", phase=Phase.EXPAND, exit_code=6,
                query=publications.unsent(table.schema, table.name, stored=made.stored),
                detail=f"{shown} has the replica identity FULL, or gets another one, of which the generated column "
                f"{self.name} is a part, and a publication that does not send it: every UPDATE and DELETE would fail; choose "
                "another identity (SetReplicaIdentity) or publish_generated_columns before, or "
                '--override replica_identity="reason"',
            )  # fmt: skip

    def _commented(self, scope: Scope, table: catalog.Table) -> tuple[Step, ...]:
        if self.comment is None:
            return ()
        step = transaction_step(
            scope, Phase.EXPAND, f"comment.{self.name}", f"comment on {self.name}",
            probe=probes.column_comment(table, self.name, self.comment),
            do=self._comment(table), locks=on(table, LockMode.SHARE_UPDATE_EXCLUSIVE),
        )  # fmt: skip
        return (step,)

    def _drafted(self, type_: str, *, computed: bool, value: str | None = None) -> DraftColumn:
        return DraftColumn(
            name=self.name, type=type_, physical=self.name, value=value or ident(self.name), not_null=not self.nullable,
            default=self.default, fresh=True, computed=computed,
        )  # fmt: skip

    def _definition(self) -> str:
        return f"{ident(self.name)} {self.type}"

    def _comment(self, table: catalog.Table) -> tuple[str, ...]:
        if self.comment is None:
            return ()
        return (f"COMMENT ON COLUMN {ident(table.schema, table.name, self.name)} IS {literal(self.comment)}",)

    def _cast(self, text: str) -> str:
        return f"({text})::{self.type}"

    def _explicit_null(self) -> Hazard:
        message = f"until contract, a NULL that N+1 writes into {self.name} is replaced by the backfill's value"
        remedy = 'make the column NOT NULL, or accept it: --override explicit_null="reason"'
        return Hazard(id="C29", phase=Phase.DUAL_WRITE, message=message, remedy=remedy, accept="explicit_null")


def _filled_by(backfill: object, reads: Iterable[str], where: object) -> dict[str, Any]:
    """What says how old rows get their values: SQL, or a function and what it is given."""
    names = (reads,) if isinstance(reads, str) else tuple(reads)
    if not callable(backfill):
        if backfill is not None and not isinstance(backfill, str):
            raise UsageError(
                f"AddColumn: backfill must be a SQL expression, or a function of the migration file, got {backfill!r:.80}"
            )
        if names or where is not None:
            raise UsageError("AddColumn: reads and where are for a backfill that is a function of the migration file")
        text = declared_sql(backfill, "AddColumn: backfill")
        return {"backfill": text, "function": None, "_function": None, "reads": (), "where": None}
    if not names:
        raise UsageError("AddColumn: reads must name the columns that the backfill's function is given")
    return {
        "backfill": None,
        "function": callables.reference(backfill, "AddColumn: backfill", takes="a list of rows"),
        "_function": backfill,
        "reads": tuple(dict.fromkeys(require_name(name, "AddColumn: a column in reads") for name in names)),
        "where": declared_sql(where, "AddColumn: where"),
    }
