"""NOT NULL without a scan under ACCESS EXCLUSIVE.

15 to 17: a validated CHECK proves it (manual, ALTER TABLE, SET NOT NULL). 18: a NOT NULL constraint, added NOT VALID and
then validated. The column must be without NULLs by then, and something must keep it so.
"""

from __future__ import annotations

from zdmigrate import schema
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Step
from zdmigrate.planning import names, probes
from zdmigrate.planning.parts import Scope, alter, on, transaction_step, validate
from zdmigrate.sqltext import ident

ACCESS_EXCLUSIVE = LockMode.ACCESS_EXCLUSIVE


def proven(
    scope: Scope,
    table: schema.Table,
    column: str,
    phase: Phase,
    later: tuple[str, ...] = (),
    *,
    made: str | None = None,
) -> tuple[Step, ...]:
    """The steps, for the column under the name that it has in `phase`; `later` are names that it gets after that.

    `made` is the name of the constraint that proves it, where it is not a generated one; on 18 it stays.
    """
    quoted, known = ident(column), (column, *later)
    modern = scope.snapshot.major >= 18
    made = made or name(scope, table, column)
    if modern:
        add = f"ADD CONSTRAINT {ident(made)} NOT NULL {quoted} NOT VALID"
        added, valid = probes.constraint(table, made), probes.validated(table, made)
    else:
        add = f"ADD CONSTRAINT {ident(made)} CHECK ({quoted} IS NOT NULL) NOT VALID"
        added = probes.constraint_or_not_null(table, made, known)
        valid = probes.constraint_validated_or_not_null(table, made, known)
    steps = [
        transaction_step(
            scope, phase, f"not_null.{column}", f"promise that {column} is not NULL, without looking at the rows yet",
            probe=added, do=[alter(table, add)], undo=[alter(table, f"DROP CONSTRAINT IF EXISTS {ident(made)}")],
            locks=on(table, ACCESS_EXCLUSIVE),
        ),
        validate(scope, table, phase, f"not_null_valid.{column}", made, valid),
    ]  # fmt: skip
    if not modern:
        drop = f"DROP CONSTRAINT IF EXISTS {ident(made)}"
        steps.append(
            transaction_step(
                scope, phase, f"not_null_set.{column}", f"set {column} NOT NULL; the validated CHECK proves it",
                probe=probes.not_null(table, known, made),
                # Two statements: within one ALTER TABLE the drop comes first, and the proof is gone.
                do=[alter(table, f"ALTER COLUMN {quoted} SET NOT NULL"), alter(table, drop)],
                undo=[alter(table, f"ALTER COLUMN {quoted} DROP NOT NULL", drop)],
                locks=on(table, ACCESS_EXCLUSIVE),
            )
        )  # fmt: skip
    return tuple(steps)


def name(scope: Scope, table: schema.Table, column: str) -> str:
    """The generated name of the constraint that `proven` makes."""
    return scope.name("nn", column, table.schema, table.name, column)


def conventional(table: schema.Table, column: str) -> str:
    """The name that ``SET NOT NULL`` gives the constraint on 18."""
    return names.conventional(table.name, column, "not_null", table.relation_names)


def again(scope: Scope, table: schema.Table, column: str, made: str) -> tuple[str, ...]:
    """The statements that restore it, outside a transaction; each can be repeated after a crash."""
    quoted, helper = ident(column), ident(made)
    drop = alter(table, f"DROP CONSTRAINT IF EXISTS {helper}")
    check = alter(table, f"VALIDATE CONSTRAINT {helper}")
    if scope.snapshot.major >= 18:
        return (drop, alter(table, f"ADD CONSTRAINT {helper} NOT NULL {quoted} NOT VALID"), check)
    return (
        drop,
        alter(table, f"ADD CONSTRAINT {helper} CHECK ({quoted} IS NOT NULL) NOT VALID"),
        check,
        alter(table, f"ALTER COLUMN {quoted} SET NOT NULL"),
        drop,
    )
