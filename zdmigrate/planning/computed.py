"""Columns whose values a Python function of the migration file computes.

No trigger can call it. Rows that version N writes get the column's default, where it has one. Else they have no value: then
N has to be gone before the backfill, which version N+1, writing the column itself, does not need before.
"""

from __future__ import annotations

from collections.abc import Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, Gate, LockMode, Mode, RowWork, Step, Transform, Window, name_of
from zdmigrate.planning import carry, notnull
from zdmigrate.planning.draft import DraftColumn, TableDraft
from zdmigrate.planning.parts import ChangePlan, Scope, on
from zdmigrate.planning.synced import Synced
from zdmigrate.sqltext import ident


def work(table: schema.Table, transform: Transform, where: str | None) -> RowWork:
    """The rows that have no value yet; of those, `where` says which need one."""
    empty = f"{ident(transform.column)} IS NULL"
    return RowWork(
        schema=table.schema, table=table.name, assignments=(), transform=transform,
        unfilled=empty if where is None else f"{empty} AND ({where})",
    )  # fmt: skip


def by_python(
    scope: Scope, table: TableDraft, column: DraftColumn, add: Step, *, function: str, reads: Sequence[str],
    where: str | None,
) -> ChangePlan:  # fmt: skip
    """A column that `add` adds, NULL in every row that is there.

    Raises:
        Unsafe: the table has no column that is read; what nothing can be filled behind; or ``sync="app"``.
    """
    live, name = table.live, column.name
    if scope.sync == "app":
        raise Unsafe(
            f'{table.shown}.{name}: with sync="app" nobody counts who leaves a column empty that a function fills',
            hint='leave sync="app" out, or put this change into a migration of its own',
        )
    given = tuple((each, table.initial(ident(table.column(each).name))) for each in reads)
    condition = None if where is None else table.initial(where)
    for text in (*(text for _, text in given), *(() if condition is None else (f"({condition})::boolean",))):
        scope.expression(live, text)
    rows = work(live, Transform(column=name, function=function, reads=given), condition)
    own = Synced(scope=scope, table=live, pairs=(), label=name)
    own.refuse_unsyncable()
    hazards, gates = own.trigger_hazards()
    table.add(column)
    null, accepted = _null(column, function)
    mentioned = dict.fromkeys((*reads, *(() if where is None else sorted(table.named_in(where)))))
    return ChangePlan(
        window=_window(column),
        steps=(
            add,
            _fill(scope, live, rows),
            _verify(scope, live, rows),
            *_not_null(scope, live, column),
            carry.analyze(scope, live, (name,)),
        ),
        reads=tuple(f"{table.shown}.{each}" for each in mentioned if each in live.column_names),
        hazards=(*hazards, _meanwhile(column, function), *null),
        gates=(*gates, *accepted),
    )


def _window(column: DraftColumn) -> Window:
    if column.default is None:
        return Window(old_until=Phase.DUAL_WRITE, new_from=Phase.EXPAND)
    return Window(old_until=Phase.CONTRACT, new_from=Phase.BACKFILL)


def _fill(scope: Scope, table: schema.Table, rows: RowWork) -> Step:
    assert rows.transform is not None
    return Step(
        id=scope.step_id(Phase.BACKFILL, f"fill.{rows.transform.column}"),
        title=f"fill {rows.transform.column} with what {rows.transform.call} returns",
        phase=Phase.BACKFILL, mode=Mode.BACKFILL, probe=ALWAYS_TODO, locks=on(table, LockMode.ROW_EXCLUSIVE), scans=True,
        rows=rows,
    )  # fmt: skip


def _not_null(scope: Scope, table: schema.Table, column: DraftColumn) -> tuple[Step, ...]:
    if not column.not_null:
        return ()
    made = notnull.conventional(table, column.name)
    return notnull.proven(scope, table, column.name, Phase.BACKFILL, made=made)


def _verify(scope: Scope, table: schema.Table, rows: RowWork) -> Step:
    """Before anything refuses a row without a value: no trigger would fill one that version N updates."""
    assert rows.transform is not None
    name = rows.transform.column
    return Step(
        id=scope.step_id(Phase.BACKFILL, f"verify.{name}"), title=f"read every row and prove that none is unfilled, {name}",
        phase=Phase.BACKFILL, mode=Mode.VERIFY, probe=ALWAYS_TODO, locks=on(table, LockMode.ACCESS_SHARE), scans=True,
        rows=rows,
    )  # fmt: skip


def _meanwhile(column: DraftColumn, function: str) -> Hazard:
    """Who fills which rows."""
    calls = f"no trigger can call {name_of(function)}(): rows that version N writes "
    if column.default is not None:
        return Hazard(
            id="C29", phase=Phase.EXPAND,
            message=f"{calls}have the default in {column.name}, and keep it; the backfill computes the others",
            remedy="let N+1 take the default for what it is: nobody has computed a value yet",
        )  # fmt: skip
    return Hazard(
        id="C29", phase=Phase.EXPAND,
        message=f"{calls}have no value in {column.name} until N is gone and the backfill has filled them",
        remedy="deploy N+1 after expand: it writes the column itself, and expects NULL in rows of N; or give the column a "
        "server_default",
    )  # fmt: skip


def _null(column: DraftColumn, function: str) -> tuple[tuple[Hazard, ...], tuple[Gate, ...]]:
    """What a NULL of N+1 means."""
    if column.not_null:
        return (), ()
    message = (
        f"until backfill is complete, a NULL that N+1 writes into {column.name} counts as not filled, and is replaced by what "
        f"{name_of(function)}() returns"
    )
    remedy = (
        "let N+1 write no NULL before, or say in where= which rows need no value; then accept it: "
        '--override explicit_null="reason"'
    )
    hazard = Hazard(id="C29", phase=Phase.BACKFILL, message=message, remedy=remedy, accept="explicit_null")
    gate = Gate(name="explicit_null", phase=Phase.BACKFILL, detail=f"{message}; {remedy}", exit_code=6)
    return (hazard,), (gate,)
