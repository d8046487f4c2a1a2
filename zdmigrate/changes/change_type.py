"""Change the type of a column."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, declared_sql, require_name, type_text
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Gate, LockMode, Window
from zdmigrate.planning import draft, foreignkeys, probes, rebinding, reshape
from zdmigrate.planning.draft import OnDownError, TableDraft
from zdmigrate.planning.parts import (
    ChangePlan,
    Scope,
    Target,
    alter,
    is_tiny,
    on,
    transaction_step,
)
from zdmigrate.sqltext import ident, literal, replace_columns

_COSTLY = ("rewriting table", "verifying table", "building index")
_FAMILIES = (
    ("smallint", "integer", "bigint"),
    ("real", "double precision"),
    ("text", "character varying"),
    ("numeric",),
    ("timestamp without time zone",),
    ("timestamp with time zone",),
    ("time without time zone",),
    ("interval",),
    ("json", "jsonb"),
)
"""Types between which an application does not notice the difference, as long as the values fit."""


@dataclasses.dataclass(frozen=True, init=False)
class ChangeType(Change):
    """Change the type of a column: ``ChangeType("orders", "amount", sa.BigInteger())``.

    Where the server changes the type without touching a row (``varchar(20)`` to ``text``, a longer ``varchar``), it is
    done in place in `expand`. Else a new column beside the old one is synced and filled, gets the indexes and
    constraints, and takes the old one's name in `switch_reads`, in one short transaction.

    `up` and `down` are SQL expressions over the row that give the new value from the old one and back; both call the
    column by its name, and default to a cast, but for types with a time zone on one side only: there the cast would take
    the zone of each session that writes. A new value that `down` cannot represent is refused with a clear error
    (``on_down_error="refuse"``), or leaves NULL in the old column (``"null"``).

    Views, the table's policies and triggers, functions with a body of SQL and statistics objects follow the column. A
    view that shows it is dropped by its name and created again, if nothing depends on it.

    Locks: ACCESS EXCLUSIVE, catalog only; on the views too, for that moment. Undo: up to `retire`; values that the old
    type cannot hold are named before. Refused: keys, identity and generated columns, and columns that materialized
    views, generated columns, foreign keys of other tables or publications' column lists depend on. Manual: ALTER TABLE,
    "SET DATA TYPE".
    """

    table: str
    column: str
    type: str
    up: str | None
    down: str | None
    on_down_error: OnDownError
    schema: str

    def __init__(
        self,
        table: str,
        column: str,
        type: object,  # noqa: A002  # what everybody calls it
        *,
        up: str | None = None,
        down: str | None = None,
        on_down_error: OnDownError = "refuse",
        schema: str = "public",
    ) -> None:
        for field, value in (("table", table), ("column", column), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"ChangeType: {field}"))
        object.__setattr__(self, "type", type_text(type, "ChangeType"))
        object.__setattr__(self, "up", declared_sql(up, "ChangeType: up"))
        object.__setattr__(self, "down", declared_sql(down, "ChangeType: down"))
        if on_down_error not in ("refuse", "null"):
            raise UsageError(f'ChangeType: on_down_error must be "refuse" or "null", got {on_down_error!r}')
        object.__setattr__(self, "on_down_error", on_down_error)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return {"change": "ChangeType", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = scope.live_column(table, self.column)
        type_ = scope.type_name(self.type)
        if column.type == type_:
            return OneShot(there=True)
        default = self._default(scope, table, column)
        bound = rebinding.of(scope, table, now={column.name: type_}, triggers={}, in_place=True)
        name = ident(self.column)
        change = f"ALTER COLUMN {name} TYPE {self.type}"
        if self.up is None and self._casts(scope, table, column):
            return OneShot(*bound.let_go, alter(table, change), *bound.bind, there=False)
        statements = [alter(table, f"{change} USING ({self.up or name})::{self.type}")]
        if default is not None:
            drop, again = f"ALTER COLUMN {name} DROP DEFAULT", f"ALTER COLUMN {name} SET DEFAULT {default}"
            statements = [alter(table, drop), *statements, alter(table, again)]
        return OneShot(*bound.let_go, *statements, *bound.bind, there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        column = table.live_column(self.column)
        type_ = scope.type_name(self.type)
        if column.type == type_:
            raise Unsafe(f"{table.shown}.{self.column} is of type {type_} already")
        rebinding.refuse(scope, table.live, column.name, type_)
        if None in (self.up, self.down) and _zoned(column.type) is not _zoned(type_):
            name = ident(self.column)
            raise Unsafe(
                f"{table.shown}.{self.column}: what {column.type} is as {type_} depends on the TimeZone of the session that "
                "writes, and sessions differ",
                hint=f'give both ways, and name the zone: up="{_in_utc(name, type_)}", down="{_in_utc(name, column.type)}"',
            )
        if self._costs_nothing(scope, table, column):
            return self._in_place(scope, table, column, type_)
        return self._beside(scope, table, column, type_)

    def _casts(self, scope: Scope, table: catalog.Table, column: catalog.Column) -> bool:
        """Whether the server finds a cast by itself, for the default too."""
        try:
            scope.trial(table, _alter("{table}", column, self.type))
        except Unsafe:
            return False
        return True

    def _default(self, scope: Scope, table: catalog.Table, column: catalog.Column) -> str | None:
        """The new column's default: what the server makes of the old one, or what `up` does."""
        if column.default is None:
            return None
        if self.up is None and self._casts(scope, table, column):
            return dict(scope.trial(table, _alter("{table}", column, self.type)).defaults).get(column.name)
        return f"({self._with(self.up or ident(self.column), f'({column.default})')})::{self.type}"

    # In place.

    def _costs_nothing(self, scope: Scope, table: TableDraft, column: catalog.Column) -> bool:
        """What the server says of it, on an empty copy; constraints that the copy does not have are looked for."""
        linked = any(k.kind == "f" and column.name in k.columns for k in table.live.constraints)
        moved = table.column(self.column).physical != column.name or any(
            not isinstance(m, draft.Fill) and m.column.name == column.name for m in table.moves
        )
        if self.up is not None or linked or moved or column.generated or column.identity:
            return False
        if not self._casts(scope, table.live, column):
            return False
        tried = scope.trial(table.live, _alter("{table}", column, self.type))
        return not any(what in message for message in tried.messages for what in _COSTLY)

    def _in_place(self, scope: Scope, table: TableDraft, column: catalog.Column, type_: str) -> ChangePlan:
        live = table.live
        target = ident(live.schema, live.name)
        forth, back = _alter(target, column, self.type), _alter(target, column, column.type)
        tried = scope.trial(live, f"{_alter('{table}', column, self.type)}; {_alter('{table}', column, column.type)}")
        bound = rebinding.of(scope, live, now={column.name: type_}, before=table.retyped, triggers={}, in_place=True)
        step = transaction_step(
            scope, Phase.EXPAND, f"type.{column.name}", f"make {column.name} {type_}; no row is touched",
            probe=bound.probe(probes.column_type(live, column.number, done=type_, todo=column.type)),
            do=[*bound.let_go, forth, *bound.bind], undo=[*bound.let_go, back, *bound.bind],
            locks=(*bound.locks, *on(live, LockMode.ACCESS_EXCLUSIVE)),
        )  # fmt: skip

        def blocked(called: str) -> str:
            name = ident(called)
            fits = f"ROW((({name})::{column.type})::{type_})"
            return (
                f"SELECT format('row %s of %s has a value that {column.type} cannot hold', ctid, {literal(table.shown)}) "
                f"FROM {target} WHERE pg_catalog.record_image_ne(ROW({name}), {fits}) LIMIT 5"
            )

        table.retype(self.column, type_, draft.Retyped(step=step, blocked=blocked))
        gates = [self._warm_gate(Phase.EXPAND)]
        if any(what in message for message in tried.messages for what in _COSTLY) and not is_tiny(live):
            detail = f"going back to {column.type} reads or rewrites all rows of {table.shown} under ACCESS EXCLUSIVE"
            gates.append(
                Gate(name="rewrite", phase=Phase.EXPAND, detail=detail, direction=Direction.BACKWARD, exit_code=6)
            )
        return ChangePlan(
            window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND),
            hazards=(self._warm(Phase.EXPAND), *bound.hazards(Phase.EXPAND)), gates=tuple(gates),
            reads=bound.reads, objects=bound.shown,
        )  # fmt: skip

    # Beside the old column.

    def _beside(self, scope: Scope, table: TableDraft, column: catalog.Column, type_: str) -> ChangePlan:
        reshape.refuse_unreplaceable(table, column, doing="changed")
        up, down = self.up or ident(self.column), self.down or f"({ident(self.column)})::{column.type}"
        self._try(scope, table, column, up, down)
        self._try_dependents(scope, table, column, type_, up)
        if self.on_down_error == "null" and column.not_null:
            raise Unsafe(
                f'{table.shown}.{column.name} is NOT NULL, so on_down_error="null" has nothing to write',
                hint='say on_down_error="refuse", or make the column nullable first',
            )
        table.replace(
            self.column, type_=type_, up=up, down=down, on_down_error=self.on_down_error,
            default=self._default(scope, table.live, column),
            beside=draft.beside(scope.migration, table.live, column.name),
        )  # fmt: skip
        accepted = reshape.explicit_null(column, self.column)
        hazards, gates = ((accepted[0],), (accepted[1],)) if accepted else ((), ())
        if table.column(self.column).physical == self.column:
            window = Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL)
            return ChangePlan(window=window, hazards=(*hazards, self._narrow(column)), gates=gates)
        alike = _family(column.type) == _family(type_) is not None
        return ChangePlan(
            window=Window(old_until=Phase.RETIRE if alike else Phase.BACKFILL, new_from=Phase.SWITCH_READS),
            hazards=(
                *hazards,
                self._narrow(column),
                self._warm(Phase.SWITCH_READS),
                *(() if alike else (self._apart(),)),
            ),
            gates=(*gates, self._warm_gate(Phase.SWITCH_READS)),
        )

    def _try(self, scope: Scope, table: TableDraft, column: catalog.Column, up: str, down: str) -> None:
        """Both ways on sampled rows, and what becomes of NULL."""
        forth = f"({up})::{self.type}"
        back = self._with(down, f"({forth})")
        scope.expression(table.live, table.initial(forth))
        scope.expression(table.live, f"({table.initial(back)})::{column.type}")
        if not column.not_null:
            null_back = f"(({self._with(down, f'(NULL::{self.type})')})::{column.type})"
            again = f"({self._with(up, null_back)})::{self.type}"
            try:
                scope.expression(table.live, f"CASE WHEN ({table.initial(again)}) IS NOT NULL THEN 1 / 0 END")
            except Unsafe as error:
                if "zero" not in error.message:
                    raise
                raise Unsafe(
                    f"{table.shown}.{self.column}: version N+1 may write NULL, but down and then up make a value of it",
                    hint="let down give NULL for NULL, or set the column NOT NULL in the same migration",
                ) from error

    def _try_dependents(self, scope: Scope, table: TableDraft, column: catalog.Column, type_: str, up: str) -> None:
        """Whether the column's checks and indexes are possible with the new type: they are copied only after the rows."""
        # A constraint that the migration drops is there until the end, and copied like the others.
        change = f"ALTER TABLE {{table}} ALTER COLUMN {ident(column.name)}"
        value = f"({table.initial(up)})::{self.type}"
        found = list(foreignkeys.incomparable(scope, table.live, column.name, type_))
        try:
            scope.trial(table.live, f"{change} DROP DEFAULT; {change} TYPE {self.type} USING {value}")
        except Unsafe as error:
            found.append(error.message.removeprefix(f"{table.shown}: "))
        if found:
            raise Unsafe(
                f"{table.shown}.{self.column} cannot become {type_} with its constraints and indexes as they are: "
                f"{'; '.join(found)}",
                hint="drop the one that does not fit in a migration before this one, and add it again after it",
            )

    def _with(self, text: str, value: str) -> str:
        return replace_columns(text, lambda name: value if name == self.column else None)

    def _narrow(self, column: catalog.Column) -> Hazard:
        what = "is refused with an error" if self.on_down_error == "refuse" else "leaves NULL there"
        return Hazard(
            id="C12", phase=Phase.BACKFILL,
            message=f"until contract, a value that N+1 writes and the old {column.name} ({column.type}) cannot hold {what}",
            remedy="write such values only after contract",
        )  # fmt: skip

    def _apart(self) -> Hazard:
        return Hazard(
            id="C11", phase=Phase.SWITCH_READS,
            message=f"no phase suits both versions: {self.column} has the one type until switch_reads and the other after",
            remedy="rename the column along with it: RenameColumn and ChangeType in one migration",
        )  # fmt: skip

    def _warm(self, phase: Phase) -> Hazard:
        return Hazard(
            id="C11", phase=phase, accept="warm_connections",
            message=f"statements that select {self.column}, prepared on connections that were open before, fail with 0A000: "
            "their result type changes",
            remedy="connect with prepare_threshold=None (psycopg) or statement_cache_size=0 (asyncpg), or rename the column "
            'along with it; then --override warm_connections="reason"',
        )  # fmt: skip

    def _warm_gate(self, phase: Phase) -> Gate:
        hazard = self._warm(phase)
        return Gate(name="warm_connections", phase=phase, detail=f"{hazard.message}; {hazard.remedy}", exit_code=6)


def _alter(target: str, column: catalog.Column, type_: str) -> str:
    return f"ALTER TABLE {target} ALTER COLUMN {ident(column.name)} TYPE {type_}"


def _zoned(type_: str) -> bool:
    return "with time zone" in type_


def _in_utc(name: str, type_: str) -> str:
    """A way to `type_` from a type that has a time zone where this one has none, or has none where this one has one."""
    return f"{name}::timestamp AT TIME ZONE 'UTC'" if _zoned(type_) else f"({name} AT TIME ZONE 'UTC')::{type_}"


def _family(type_: str) -> tuple[str, ...] | None:
    base = type_.split("(", maxsplit=1)[0].strip()
    rest = type_.partition(")")[2]  # "timestamp(3) without time zone"
    return next((family for family in _FAMILIES if base + rest in family or base in family), None)
