"""Steps that give a new column what the old one has: settings, NOT NULL, checks, foreign keys, indexes.

Everything here is built beside the original under a generated name, and takes the original's name when the
original is dropped (`final_names`), so that the catalog ends as a plain rename would have left it.
"""

from __future__ import annotations

import dataclasses

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, LockMode, Mode, Step, TableLock
from zdmigrate.planning import probes
from zdmigrate.planning.parts import Scope, alter, on, on_referenced, transaction_step
from zdmigrate.sqltext import AmbiguousName, ident, literal, replace_columns

ACCESS_EXCLUSIVE, SUE, SRE = LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE


def settings(table: schema.Table, column: schema.Column, name: str) -> tuple[str, ...]:
    """Comment, grants, statistics target, storage and options of `column`, for the column `name`."""
    target, quoted = ident(table.schema, table.name), ident(name)
    statements: list[str] = []
    if column.statistics_target is not None:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET STATISTICS {column.statistics_target}"))
    if column.storage is not None:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET STORAGE {column.storage}"))
    if column.compression is not None:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET COMPRESSION {column.compression}"))
    if column.options:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET ({', '.join(column.options)})"))
    for grant in column.grants:
        grantee = "PUBLIC" if grant.grantee is None else ident(grant.grantee)
        option = " WITH GRANT OPTION" if grant.grantable else ""
        statements.append(f"GRANT {grant.privilege} ({quoted}) ON {target} TO {grantee}{option}")
    if column.comment is not None:
        statements.append(f"COMMENT ON COLUMN {target}.{quoted} IS {literal(column.comment)}")
    return tuple(statements)


def not_null(scope: Scope, table: schema.Table, column: str) -> tuple[Step, ...]:
    """NOT NULL without a scan under ACCESS EXCLUSIVE. The column must already be without NULLs, and kept so.

    15 to 17: a validated CHECK proves it (manual, ALTER TABLE, SET NOT NULL). 18: a NOT NULL constraint, added
    NOT VALID and then validated.
    """
    quoted, phase = ident(column), Phase.BACKFILL
    modern = scope.snapshot.major >= 18
    name = not_null_name(scope, table, column)
    if modern:
        add = f"ADD CONSTRAINT {ident(name)} NOT NULL {quoted} NOT VALID"
        added, valid = probes.constraint(table, name), probes.validated(table, name)
    else:
        add = f"ADD CONSTRAINT {ident(name)} CHECK ({quoted} IS NOT NULL) NOT VALID"
        added = probes.constraint_or_not_null(table, name, column)
        valid = probes.constraint_validated_or_not_null(table, name, column)
    steps = [
        transaction_step(
            scope, phase, f"not_null.{column}", f"promise that {column} is not NULL, without looking at the rows yet",
            probe=added, do=[alter(table, add)], undo=[alter(table, f"DROP CONSTRAINT IF EXISTS {ident(name)}")],
            locks=on(table, ACCESS_EXCLUSIVE),
        ),
        _validate(scope, table, phase, f"not_null_valid.{column}", name, valid),
    ]  # fmt: skip
    if not modern:
        drop = f"DROP CONSTRAINT IF EXISTS {ident(name)}"
        steps.append(
            transaction_step(
                scope, phase, f"not_null_set.{column}", f"set {column} NOT NULL; the validated CHECK proves it",
                probe=probes.not_null(table, column, name),
                # Two statements: within one ALTER TABLE the drop comes first, and the proof is gone.
                do=[alter(table, f"ALTER COLUMN {quoted} SET NOT NULL"), alter(table, drop)],
                undo=[alter(table, f"ALTER COLUMN {quoted} DROP NOT NULL", drop)],
                locks=on(table, ACCESS_EXCLUSIVE),
            )
        )  # fmt: skip
    return tuple(steps)


def not_null_name(scope: Scope, table: schema.Table, column: str) -> str:
    """The generated name of the NOT NULL constraint (18) that `not_null` makes."""
    return scope.name("nn", column, table.schema, table.name, column)


def check(scope: Scope, table: schema.Table, constraint: schema.Constraint, old: str, new: str) -> tuple[Step, ...]:
    """A copy of a CHECK constraint, for the new column."""
    name = constraint_name(scope, table, constraint)
    definition = rename_in(constraint.definition, old, new, f"constraint {constraint.name}")
    return _not_valid_then_validate(scope, table, constraint, name, definition, on(table, ACCESS_EXCLUSIVE))


def foreign_key(
    scope: Scope, table: schema.Table, constraint: schema.Constraint, old: str, new: str
) -> tuple[Step, ...]:
    """A copy of a foreign key that starts at the column."""
    if table.partitioned and scope.snapshot.major < 18:
        raise Unsafe(
            f"{table.schema}.{table.name} is partitioned, and PostgreSQL {scope.snapshot.major} cannot add the foreign key "
            f"{constraint.name} NOT VALID to a partitioned table: adding it would scan under a lock that blocks writes",
            hint="drop the foreign key first, or upgrade to PostgreSQL 18",
        )
    name = constraint_name(scope, table, constraint)
    head, separator, tail = constraint.definition.partition(" REFERENCES ")
    definition = rename_in(head, old, new, f"constraint {constraint.name}") + separator + tail
    locks = (*on(table, SRE), *on_referenced(constraint, SRE))
    return _not_valid_then_validate(scope, table, constraint, name, definition, locks)


def constraint_name(scope: Scope, table: schema.Table, constraint: schema.Constraint) -> str:
    """The generated name of a constraint's copy."""
    kind = {"c": "ck", "f": "fk", "u": "uq"}.get(constraint.kind, "co")
    return scope.name(kind, constraint.name, table.schema, table.name, constraint.name)


def index_name(scope: Scope, table: schema.Table, index: schema.Index) -> str:
    """The generated name of an index's copy; where it backs a constraint, the constraint's."""
    kind = "uq" if index.constraint is not None else "ix"
    return scope.name(kind, index.constraint or index.name, table.schema, table.name, index.constraint or index.name)


def index(scope: Scope, table: schema.Table, original: schema.Index, old: str, new: str) -> tuple[Step, ...]:
    """A copy of an index, built CONCURRENTLY; per partition, and then attached, on a partitioned table."""
    if not table.may_create:
        raise Unsafe(
            f"{scope.snapshot.role} may not create indexes in schema {table.schema}, and {original.name} must be copied",
            hint=f"GRANT CREATE ON SCHEMA {ident(table.schema)} TO {ident(scope.snapshot.role)}",
        )
    name = index_name(scope, table, original)
    tail = rename_in(original.tail, old, new, f"index {original.name}")
    kind = "UNIQUE INDEX" if original.unique else "INDEX"
    if not table.partitioned:
        steps = [_build(scope, (table.schema, table.name), name, kind, tail, original)]
    else:
        steps = _partitioned_index(scope, table, original, name, kind, tail)
    if original.comment is not None:
        steps.append(
            transaction_step(
                scope, Phase.BACKFILL, f"index_comment.{original.name}", f"carry the comment of {original.name}",
                probe=ALWAYS_TODO,
                do=[f"COMMENT ON INDEX {ident(table.schema, name)} IS {literal(original.comment)}"], locks=(),
            )
        )  # fmt: skip
    return tuple(steps)


def unique_constraint(scope: Scope, table: schema.Table, original: schema.Index, constraint: schema.Constraint) -> Step:
    """Turn the unique index's copy into a constraint: catalog only, no scan."""
    name = index_name(scope, table, original)
    timing = " DEFERRABLE" * constraint.deferrable + " INITIALLY DEFERRED" * constraint.deferred
    return transaction_step(
        scope, Phase.BACKFILL, f"unique.{constraint.name}", f"make the index a constraint, as {constraint.name} is",
        probe=probes.constraint(table, name),
        do=[alter(table, f"ADD CONSTRAINT {ident(name)} UNIQUE USING INDEX {ident(name)}{timing}")],
        undo=[alter(table, f"DROP CONSTRAINT {ident(name)}")],
        locks=on(table, ACCESS_EXCLUSIVE),
    )  # fmt: skip


def analyze(scope: Scope, table: schema.Table, columns: tuple[str, ...]) -> Step:
    """Statistics for the new columns, so that the first plans over them are not blind."""
    listed = ", ".join(ident(column) for column in columns)
    return Step(
        id=scope.step_id(Phase.BACKFILL, f"analyze.{columns[0]}"),
        title=f"collect statistics of {', '.join(columns)}",
        phase=Phase.BACKFILL,
        mode=Mode.AUTOCOMMIT,
        probe=ALWAYS_TODO,
        do=(f"ANALYZE {ident(table.schema, table.name)} ({listed})",),
        locks=on(table, SUE),
    )


def rename_in(text: str, old: str, new: str, what: str) -> str:
    """A deparsed definition with one column renamed.

    Raises:
        Unsafe: it cannot be told whether a word is the column.
    """
    try:
        return replace_columns(text, lambda name: ident(new) if name == old else None)
    except AmbiguousName as error:
        raise Unsafe(
            f"the {what} cannot be carried over: {error}", hint=f"drop {what} before, and create it again after"
        ) from error


def _validate(scope: Scope, table: schema.Table, phase: Phase, step: str, name: str, probe: str) -> Step:
    return Step(
        id=scope.step_id(phase, step),
        title=f"read all rows to prove {name}",
        phase=phase,
        mode=Mode.AUTOCOMMIT,
        probe=probe,
        do=(alter(table, f"VALIDATE CONSTRAINT {ident(name)}"),),
        locks=on(table, SUE),
        scans=True,
    )


def _not_valid_then_validate(
    scope: Scope,
    table: schema.Table,
    original: schema.Constraint,
    name: str,
    definition: str,
    locks: tuple[TableLock, ...],
) -> tuple[Step, ...]:
    suffix = "" if definition.endswith(" NOT VALID") else " NOT VALID"
    do = [alter(table, f"ADD CONSTRAINT {ident(name)} {definition}{suffix}")]
    if original.comment is not None:
        target = ident(table.schema, table.name)
        do.append(f"COMMENT ON CONSTRAINT {ident(name)} ON {target} IS {literal(original.comment)}")
    drop_locks = tuple(dataclasses.replace(lock, mode=ACCESS_EXCLUSIVE) for lock in locks)
    add = transaction_step(
        scope, Phase.BACKFILL, f"constraint.{original.name}", f"copy {original.name} for new rows",
        probe=probes.constraint(table, name), do=do, undo=[alter(table, f"DROP CONSTRAINT {ident(name)}")],
        locks=locks, undo_locks=drop_locks,
    )  # fmt: skip
    if not original.validated:
        return (add,)
    return (add, _validate(scope, table, Phase.BACKFILL, f"valid.{original.name}", name, probes.validated(table, name)))


def _build(scope: Scope, relation: tuple[str, str], name: str, kind: str, tail: str, original: schema.Index) -> Step:
    schema_name, table_name = relation
    placed = tail if original.tablespace is None else _with_tablespace(tail, original.tablespace)
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(schema_name, name)}"
    return Step(
        id=scope.step_id(Phase.BACKFILL, f"index.{original.name}.{schema_name}.{table_name}"),
        title=f"build {name} on {schema_name}.{table_name} while everybody goes on writing",
        phase=Phase.BACKFILL,
        mode=Mode.AUTOCOMMIT,
        probe=probes.index(schema_name, name, tail),
        do=(f"CREATE {kind} CONCURRENTLY {ident(name)} ON {ident(schema_name, table_name)} USING {placed}",),
        undo=(drop,),
        undo_mode=Mode.AUTOCOMMIT,
        repair=(drop,),
        locks=(TableLock(schema=schema_name, name=table_name, mode=SUE),),
        undo_locks=(TableLock(schema=schema_name, name=table_name, mode=SUE),),
        scans=True,
    )


def _partitioned_index(
    scope: Scope, table: schema.Table, original: schema.Index, name: str, kind: str, tail: str
) -> list[Step]:
    """ON ONLY the parents (invalid), CONCURRENTLY on each leaf, then attached bottom up (manual, CREATE INDEX)."""
    names = {(table.schema, table.name): name}
    for leaf in table.partitions:
        names[leaf.schema, leaf.name] = partition_index_name(scope, leaf, original)
    parents = [(table.schema, table.name)] + [(p.schema, p.name) for p in table.partitions if p.partitioned]
    steps = [
        transaction_step(
            scope, Phase.BACKFILL, f"declare.{original.name}.{parent[0]}.{parent[1]}",
            f"declare {names[parent]} on {parent[0]}.{parent[1]}, without building anything",
            probe=probes.index_exists(parent[0], names[parent]),
            do=[f"CREATE {kind} {ident(names[parent])} ON ONLY {ident(*parent)} USING {tail}"],
            undo=[f"DROP INDEX IF EXISTS {ident(parent[0], names[parent])}"],
            locks=(TableLock(schema=parent[0], name=parent[1], mode=LockMode.SHARE),),
            undo_locks=(TableLock(schema=parent[0], name=parent[1], mode=ACCESS_EXCLUSIVE),),
        )
        for parent in parents
    ]  # fmt: skip
    for leaf in table.partitions:
        if not leaf.partitioned:
            at = (leaf.schema, leaf.name)
            steps.append(_build(scope, at, names[at], kind, tail, original))
    for leaf in reversed(table.partitions):
        child, parent = names[leaf.schema, leaf.name], (leaf.parent_schema or "", leaf.parent_name or "")
        steps.append(
            transaction_step(
                scope, Phase.BACKFILL, f"attach.{original.name}.{leaf.schema}.{leaf.name}", f"attach {child}",
                probe=probes.index_attached(leaf.schema, child),
                do=[f"ALTER INDEX {ident(parent[0], names[parent])} ATTACH PARTITION {ident(leaf.schema, child)}"],
                # An attached index goes with its parent only. Undone top down, so the parent is not attached itself.
                undo=[f"DROP INDEX IF EXISTS {ident(parent[0], names[parent])}"],
                locks=(TableLock(schema=leaf.schema, name=leaf.name, mode=LockMode.ACCESS_SHARE),),
                undo_locks=on(table, ACCESS_EXCLUSIVE),
            )
        )  # fmt: skip
    return steps


def partition_index_name(scope: Scope, leaf: schema.Leaf, index: schema.Index) -> str:
    """The generated name of the copy of an index on one partition."""
    return scope.name("ix", f"{leaf.name}_{index.name}", leaf.schema, leaf.name, index.name)


def _with_tablespace(tail: str, tablespace: str) -> str:
    body, separator, predicate = tail.partition(" WHERE ")
    return f"{body} TABLESPACE {ident(tablespace)}{separator}{predicate}"
