"""Add a column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, Window
from zdmigrate.planning import carry, probes, sync, synced
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa


@dataclasses.dataclass(frozen=True, init=False)
class AddColumn(Change):
    """Add a column: ``AddColumn("users", sa.Column("locale", sa.Text, nullable=False), backfill="'en'")``.

    A constant or STABLE ``server_default`` is added at once, NOT NULL included: PostgreSQL 11 and later rewrite
    nothing for it. A volatile one, or `backfill` (a SQL expression over the row's other columns), is filled in batches;
    until `contract` a trigger fills what version N inserts. NOT NULL is proven before it is set.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: drops the column, which loses what N+1 wrote: refused without
    ``--allow-lossy`` where there is any. Keys, unique, indexes, foreign keys, identity and generated columns are
    refused.
    """

    table: str
    name: str
    type: str
    nullable: bool
    default: str | None
    comment: str | None
    backfill: str | None
    schema: str

    def __init__(
        self, table: str, column: sa.Column[Any], *, backfill: str | None = None, schema: str = "public"
    ) -> None:
        facts = _column_facts(column)
        values = {"table": require_name(table, "AddColumn: table"), "schema": require_name(schema, "AddColumn: schema")}
        for field, value in {**facts, **values, "backfill": _expression(backfill)}.items():
            object.__setattr__(self, field, value)
        if not self.nullable and self.default is None and backfill is None:
            raise UsageError(
                f"AddColumn: {table}.{self.name} is NOT NULL, but nothing says what rows without a value get",
                hint="give the column a server_default, or AddColumn a backfill=",
            )

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "AddColumn", **dataclasses.asdict(self)}

    def questions(self) -> tuple[catalog.Question, ...]:
        texts = [text for text in (self.default, self.backfill) if text is not None]
        asked = [catalog.Question(schema=self.schema, table=self.table, expression=self._cast(text)) for text in texts]
        return (*asked, catalog.Question(type=self.type))

    def one_shot(self, scope: Scope) -> tuple[str, ...] | None:
        table = scope.live_table(self.schema, self.table)
        if table.column(self.name) is not None:
            return ()
        null = "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        if self.backfill is None:
            return (alter(table, f"ADD COLUMN {self._definition()}{default}{null}"), *self._comment(table))
        statements = [
            alter(table, f"ADD COLUMN {self._definition()}"),
            f"UPDATE {ident(self.schema, self.table)} SET {ident(self.name)} = {self.backfill}",
        ]
        if default:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET{default}"))
        if null:
            statements.append(alter(table, f"ALTER COLUMN {ident(self.name)} SET NOT NULL"))
        return (*statements, *self._comment(table))

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.live_table(self.schema, self.table)
        if table.column(self.name) is not None:
            raise Unsafe(
                f"{self.schema}.{self.table} already has a column {self.name!r}",
                hint="if it is the one that is meant, record the migration as adopted: zdmigrate bootstrap",
            )
        volatile = self.default is not None and scope.expression(table, self._cast(self.default)).volatile
        if self.backfill is None and not volatile:
            return self._at_once(scope, table)
        return _Filled(self, scope, table).plan()

    def _at_once(self, scope: Scope, table: catalog.Table) -> ChangePlan:
        null = "" if self.nullable else " NOT NULL"
        default = "" if self.default is None else f" DEFAULT {self.default}"
        step = self._add(scope, table, default + null)
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND))

    def _add(self, scope: Scope, table: catalog.Table, rest: str) -> Step:
        step = transaction_step(
            scope, Phase.EXPAND, f"add.{self.name}", f"add {self.name}",
            probe=probes.column(table, self.name, type_=scope.type_name(self.type)),
            do=[alter(table, f"ADD COLUMN {self._definition()}{rest}"), *self._comment(table)],
            undo=[alter(table, f"DROP COLUMN {ident(self.name)}")],
            locks=on(table, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        return dataclasses.replace(step, undo_loses=self._loses(table))

    def _loses(self, table: catalog.Table) -> str:
        """Rows whose value nothing would bring back."""
        known = [text for text in (self.default, self.backfill) if text is not None]
        same = "".join(
            f" AND pg_catalog.record_image_ne(ROW({ident(self.name)}), ROW(({text})::{self.type}))" for text in known
        )
        return (
            f"SELECT format('row %s of %s has a value of its own in %s', ctid, {literal(f'{table.schema}.{table.name}')}, "
            f"{literal(self.name)}) FROM {ident(table.schema, table.name)} WHERE {ident(self.name)} IS NOT NULL{same} LIMIT 5"
        )

    def _definition(self) -> str:
        return f"{ident(self.name)} {self.type}"

    def _comment(self, table: catalog.Table) -> tuple[str, ...]:
        if self.comment is None:
            return ()
        return (f"COMMENT ON COLUMN {ident(table.schema, table.name, self.name)} IS {literal(self.comment)}",)

    def _cast(self, text: str) -> str:
        return f"({text})::{self.type}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Filled:
    """The column's values are computed, row by row."""

    change: AddColumn
    scope: Scope
    table: catalog.Table

    def plan(self) -> ChangePlan:
        part = self._synced()
        part.refuse_unsyncable()
        hazards, gates = part.trigger_hazards()
        if self.change.nullable:
            hazards, gates = (*hazards, self._explicit_null()), (*gates, self._explicit_null_gate())
        taken = self.change.default is None
        return ChangePlan(
            steps=tuple(self._steps(part, taken=taken)),
            reads=part.reads,
            window=Window(old_until=Phase.RETIRE if taken else Phase.CONTRACT, new_from=Phase.BACKFILL),
            hazards=hazards,
            gates=gates,
        )

    def _synced(self) -> synced.Synced:
        change = self.change
        facts = [
            self.scope.expression(self.table, q.expression) for q in change.questions() if q.expression is not None
        ]
        text = change.backfill if change.backfill is not None else change.default
        pair = sync.SyncPair(
            columns=self.table.column_names | {change.name},
            old=(),
            new=(sync.SyncColumn(name=change.name, type=self.scope.type_name(change.type)),),
            up=(f"({text})::{change.type}",),
            down=(),
            # A NULL in a NOT NULL column is unfilled, whatever the expression would say, and a volatile one
            # must not be asked twice.
            null_is_unfilled=not change.nullable or facts[-1].volatile,
        )
        return synced.Synced(scope=self.scope, table=self.table, pair=pair, label=change.name)

    def _steps(self, part: synced.Synced, *, taken: bool) -> Iterator[Step]:
        change, table, quoted = self.change, self.table, ident(self.change.name)
        yield change._add(self.scope, table, "")
        defaults = (
            () if change.default is None else (alter(table, f"ALTER COLUMN {quoted} SET DEFAULT {change.default}"),)
        )
        reset = synced.reset_column(table, change.name, change._definition(), change._comment(table))
        yield dataclasses.replace(part.install(*defaults, undo=reset), undo_loses=change._loses(table))
        yield part.fill()
        if not change.nullable:
            yield from carry.not_null(self.scope, table, change.name)
        yield carry.analyze(self.scope, table, (change.name,))
        yield part.verify()
        yield part.uninstall(takes_away=taken, final=self._final_name())

    def _final_name(self) -> tuple[str, ...]:
        if self.change.nullable or self.scope.snapshot.major < 18:
            return ()
        made = carry.not_null_name(self.scope, self.table, self.change.name)
        final = f"{self.table.name}_{self.change.name}_not_null"
        if len(final.encode()) > 63 or final in self.table.relation_names:
            return ()  # the server would have made up another name; ours is as good
        return (alter(self.table, f"RENAME CONSTRAINT {ident(made)} TO {ident(final)}"),)

    def _explicit_null(self) -> Hazard:
        message = f"until contract, a NULL that N+1 writes into {self.change.name} is replaced by the backfill's value"
        remedy = 'make the column NOT NULL, or accept it: --override explicit_null="reason"'
        return Hazard(id="C29", phase=Phase.DUAL_WRITE, message=message, remedy=remedy, accept="explicit_null")

    def _explicit_null_gate(self) -> Gate:
        hazard = self._explicit_null()
        return Gate(
            name="explicit_null", phase=Phase.DUAL_WRITE, detail=f"{hazard.message}; {hazard.remedy}", exit_code=6
        )


def _column_facts(column: sa.Column[Any]) -> dict[str, Any]:
    """What an ``sa.Column`` says, as text; refuses what this change does not build."""
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql

    if not isinstance(column, sa.Column):
        raise UsageError(f"AddColumn: the second argument must be a sqlalchemy.Column, got {type(column).__name__}")
    name = require_name(column.name, "AddColumn: the column's name")
    found = {
        "primary_key=True": column.primary_key,
        "unique=True": bool(column.unique),
        "index=True": bool(column.index),
        "a foreign key": bool(column.foreign_keys),
        "a generated value": column.computed is not None,
        "an identity": column.identity is not None,
        "a constraint": bool(column.constraints),
    }
    wrong = [what for what, there in found.items() if there]
    if wrong:
        raise UsageError(f"AddColumn: {name} has {', '.join(wrong)}, which AddColumn does not build")
    if isinstance(column.type, sa.types.NullType):
        raise UsageError(f"AddColumn: {name} has no type")
    # Not the paramstyle of a driver, for which every percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    default = postgresql.base.PGDDLCompiler(dialect, None).get_column_default_string(column)  # type: ignore[arg-type]
    return {
        "name": name,
        "type": column.type.compile(dialect=dialect),
        "nullable": bool(column.nullable),
        "default": default,
        "comment": column.comment,
    }


def _expression(text: str | None) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"AddColumn: backfill must be a SQL expression, got {text!r}")
    words = {token.name for token in tokens(text) if token.kind == "word"}
    if "select" in words or any(token.text == ";" for token in tokens(text) if token.kind == "other"):
        raise UsageError("AddColumn: backfill must be an expression over the row's own columns, without SELECT or ';'")
    return text
