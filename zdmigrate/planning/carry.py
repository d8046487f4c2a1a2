"""Steps that give a new column what the old one has: settings, NOT NULL, checks, foreign keys, indexes.

Everything here is built beside the original under a generated name, and takes the original's name when the
original is dropped (`final_names`), so that the catalog ends as a plain rename would have left it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, LockMode, Mode, Step, TableLock
from zdmigrate.planning import probes
from zdmigrate.planning.indexes import Index
from zdmigrate.planning.parts import Scope, alter, on, on_referenced, transaction_step, validate
from zdmigrate.sqltext import AmbiguousName, ident, literal, replace_columns

Names = Mapping[str, str]
"""Columns of the catalog, and what stands in their place."""

ACCESS_EXCLUSIVE, SUE, SRE = LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE


def settings(table: schema.Table, column: schema.Column, name: str, *, retyped: bool = False) -> tuple[str, ...]:
    """Comment, grants, statistics target, storage and options of `column`, for the column `name`.

    Where it is of another type, storage and compression are that type's, as ``ALTER COLUMN … TYPE`` has it.
    """
    target, quoted = ident(table.schema, table.name), ident(name)
    statements: list[str] = []
    if column.statistics_target is not None:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET STATISTICS {column.statistics_target}"))
    if column.storage is not None and not retyped:
        statements.append(alter(table, f"ALTER COLUMN {quoted} SET STORAGE {column.storage}"))
    if column.compression is not None and not retyped:
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


def check(scope: Scope, table: schema.Table, constraint: schema.Constraint, names: Names) -> tuple[Step, ...]:
    """A copy of a CHECK constraint, for the new columns."""
    name = constraint_name(scope, table, constraint)
    definition = rename_in(constraint.definition, names, f"constraint {constraint.name}")
    return _not_valid_then_validate(scope, table, constraint, name, definition, on(table, ACCESS_EXCLUSIVE))


def foreign_key(scope: Scope, table: schema.Table, constraint: schema.Constraint, names: Names) -> tuple[Step, ...]:
    """A copy of a foreign key that starts at the column."""
    if table.partitioned and scope.snapshot.major < 18:
        raise Unsafe(
            f"{table.schema}.{table.name} is partitioned, and PostgreSQL {scope.snapshot.major} cannot add the foreign key "
            f"{constraint.name} NOT VALID to a partitioned table: adding it would scan under a lock that blocks writes",
            hint="drop the foreign key first, or upgrade to PostgreSQL 18",
        )
    name = constraint_name(scope, table, constraint)
    head, separator, tail = constraint.definition.partition(" REFERENCES ")
    definition = rename_in(head, names, f"constraint {constraint.name}") + separator + tail
    locks = (*on(table, SRE), *on_referenced(constraint, SRE))
    return _not_valid_then_validate(scope, table, constraint, name, definition, locks)


def constraint_name(scope: Scope, table: schema.Table, constraint: schema.Constraint) -> str:
    """The generated name of a constraint's copy."""
    kind = {"c": "ck", "f": "fk", "u": "uq"}.get(constraint.kind, "co")
    return scope.name(kind, constraint.name, table.schema, table.name, constraint.name)


def index_name(scope: Scope, table: schema.Table, index: schema.Index, kind: str = "ix") -> str:
    """The generated name of an index's copy; where it backs a constraint, the constraint's."""
    kind = "uq" if index.constraint is not None and kind == "ix" else kind
    return scope.name(kind, index.constraint or index.name, table.schema, table.name, index.constraint or index.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IndexCopy:
    """A copy of an index on other columns.

    `names` are the columns now, `later` after the names have changed, once or twice: the catalog shows one of them. A
    copy for a shadow (`kind` "sx") lives only until `contract`.
    """

    original: schema.Index
    names: Names
    later: tuple[Names, ...]
    kind: str = "ix"

    def name(self, scope: Scope, table: schema.Table) -> str:
        """Its generated name."""
        return index_name(scope, table, self.original, self.kind)

    def partition_name(self, scope: Scope, leaf: schema.Leaf) -> str:
        """The generated name of its part on one partition."""
        return scope.name(self.kind, f"{leaf.name}_{self.original.name}", leaf.schema, leaf.name, self.original.name)

    def build(self, scope: Scope, table: schema.Table) -> tuple[Step, ...]:
        """Built CONCURRENTLY; per partition, and then attached, on a partitioned table."""
        original, what = self.original, f"index {self.original.name}"
        tail, *later = (rename_in(original.tail, names, what) for names in (self.names, *self.later))
        index = Index(
            name=self.name(scope, table),
            label=original.name if self.kind == "ix" else f"{self.kind}.{original.name}",
            unique=original.unique and not checked_late(table, original),
            tail=tail,
            tails=(tail, *later),
            tablespace=original.tablespace,
            partition_names={(p.schema, p.name): self.partition_name(scope, p) for p in table.partitions},
            comment=original.comment if self.kind == "ix" else None,
        )
        return tuple(index.build(scope, table, Phase.BACKFILL))

    def take_names(self, scope: Scope, table: schema.Table) -> Iterator[str]:
        """The statements that give it the original's names."""
        yield f"ALTER INDEX {ident(table.schema, self.name(scope, table))} RENAME TO {ident(self.original.name)}"
        for leaf in table.partitions:
            original = dict(self.original.partition_names).get(f"{leaf.schema}.{leaf.name}")
            if original is not None:
                yield f"ALTER INDEX {ident(leaf.schema, self.partition_name(scope, leaf))} RENAME TO {ident(original)}"


def checked_late(table: schema.Table, index: schema.Index) -> bool:
    """Whether an index backs a deferrable constraint. A unique copy is not, and would refuse what the original allows."""
    return any(k.name == index.constraint and k.deferrable for k in table.constraints)


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


def statistics_name(scope: Scope, table: schema.Table, original: schema.Statistics) -> str:
    """The generated name of a statistics object's copy."""
    return scope.name("st", original.name, table.schema, table.name, original.schema, original.name)


def statistics(scope: Scope, table: schema.Table, original: schema.Statistics, names: Names) -> Step:
    """A copy of an extended statistics object, for the new columns. ANALYZE fills it."""
    made = ident(original.schema, statistics_name(scope, table, original))
    kinds, on_, rest = original.tail.partition("ON ")
    keys, from_, target = rest.rpartition(" FROM ")
    tail = f"{kinds}{on_}{rename_in(keys, names, f'statistics object {original.name}')}{from_}{target}"
    do = [f"CREATE STATISTICS {made} {tail}"]
    if original.target is not None:
        do.append(f"ALTER STATISTICS {made} SET STATISTICS {original.target}")
    if original.comment is not None:
        do.append(f"COMMENT ON STATISTICS {made} IS {literal(original.comment)}")
    if original.owner != scope.snapshot.role:
        do.append(f"ALTER STATISTICS {made} OWNER TO {ident(original.owner)}")
    return transaction_step(
        scope, Phase.BACKFILL, f"statistics.{original.name}", f"copy the statistics object {original.name}",
        probe=probes.statistics((original.schema, statistics_name(scope, table, original))),
        do=do, undo=[f"DROP STATISTICS {made}"],
        locks=on(table, SUE),
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


def rename_in(text: str, names: Names, what: str) -> str:
    """A deparsed definition with columns renamed.

    Raises:
        Unsafe: it cannot be told whether a word is the column.
    """
    try:
        return replace_columns(text, lambda name: ident(names[name]) if name in names else None)
    except AmbiguousName as error:
        raise Unsafe(
            f"the {what} cannot be carried over: {error}", hint=f"drop {what} before, and create it again after"
        ) from error


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
    return (add, validate(scope, table, Phase.BACKFILL, f"valid.{original.name}", name, probes.validated(table, name)))
