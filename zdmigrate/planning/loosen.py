"""Taking NOT NULL away, so that version N+1 may leave a column out or write NULL, and putting it back."""

from __future__ import annotations

import dataclasses

from zdmigrate import schema
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Mode, Window
from zdmigrate.planning import notnull, probes
from zdmigrate.planning.parts import ChangePlan, Scope, alter, on, transaction_step
from zdmigrate.sqltext import ident, literal


def not_null(scope: Scope, table: schema.Table, column: schema.Column, *, remedy: str) -> ChangePlan:
    """The step in `expand`, and its gate: version N will read NULLs. The window is that of a change which only loosens."""
    kept = (k.name for k in table.constraints if k.kind == "n" and k.columns == (column.name,))
    made = next(kept, scope.name("nn", column.name, table.schema, table.name))
    shown, target = literal(f"{table.schema}.{table.name}"), ident(table.schema, table.name)
    # It is asked before anything is undone, when the column may have another name.
    name = (
        f"SELECT attname FROM pg_attribute WHERE attrelid = to_regclass({literal(target)}) AND attnum = {column.number}"
    )
    nulls = (
        f"SELECT format('row %s of %s is NULL in %s', t.ctid, {shown}, {literal(column.name)}) "
        f"FROM {target} t WHERE (to_jsonb(t) ->> ({name})) IS NULL LIMIT 5"
    )
    step = transaction_step(
        scope, Phase.EXPAND, f"allow_null.{column.name}", f"let N+1 write NULL to {column.name}",
        probe=probes.nullable(table, column.name, made),
        do=[alter(table, f"ALTER COLUMN {ident(column.name)} DROP NOT NULL")],
        undo=notnull.again(scope, table, column.name, made),
        locks=on(table, LockMode.ACCESS_EXCLUSIVE),
    )  # fmt: skip
    repair = (alter(table, f"DROP CONSTRAINT IF EXISTS {ident(made)}"),)
    step = dataclasses.replace(step, undo_mode=Mode.AUTOCOMMIT, repair=repair, undo_blocked=((Phase.NONE, nulls),))
    hazard = Hazard(
        id="C16", phase=Phase.EXPAND, accept="old_reads_null",
        message=f"version N will read NULL in {column.name}, which was NOT NULL, in rows that N+1 writes",
        remedy=f'{remedy}, or accept it: --override old_reads_null="reason"',
    )  # fmt: skip
    gate = Gate(name="old_reads_null", phase=Phase.EXPAND, detail=f"{hazard.message}; {hazard.remedy}", exit_code=6)
    return ChangePlan(
        steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND), hazards=(hazard,), gates=(gate,)
    )
