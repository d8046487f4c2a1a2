"""Foreign keys that a migration adds.

NOT VALID, then validated: SHARE ROW EXCLUSIVE on both tables for an instant, and while the rows are read only SHARE UPDATE
EXCLUSIVE on the one and ROW SHARE on the other (manual, ALTER TABLE, "ADD table_constraint" and "VALIDATE CONSTRAINT"). Before
18 a partitioned table cannot have one that is NOT VALID: there each partition gets its own, and the table's takes them over
without a look at the rows, because they are validated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Step, TableLock
from zdmigrate.planning.constraints import Addition, NewConstraint
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import Scope, item_name, on
from zdmigrate.sqltext import ident, literal, tokens

SHARE_ROW_EXCLUSIVE = LockMode.SHARE_ROW_EXCLUSIVE

_REFUSING = ("NO ACTION", "RESTRICT")
_WHOLE = ("smallint", "integer", "bigint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignKey(NewConstraint):
    """FOREIGN KEY (columns) REFERENCES table (columns). `on_delete` and `on_update` are actions in upper case."""

    own: tuple[str, ...]
    ref_schema: str
    ref_table: str
    ref_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    match_full: bool = False
    deferrable: bool = False
    deferred: bool = False

    kind = "f"
    label = "fkey"

    @property
    def clause(self) -> str:
        own, theirs = (", ".join(map(ident, columns)) for columns in (self.own, self.ref_columns))
        actions = (("ON UPDATE", self.on_update), ("ON DELETE", self.on_delete))
        return (
            f"FOREIGN KEY ({own}) REFERENCES {ident(self.ref_schema, self.ref_table)}({theirs})"
            + " MATCH FULL" * self.match_full
            + "".join(f" {when} {action}" for when, action in actions if action != "NO ACTION")
            + " DEFERRABLE" * self.deferrable
            + " INITIALLY DEFERRED" * self.deferred
        )

    def columns(self, table: TableDraft) -> tuple[str, ...]:
        return tuple(table.column(name).name for name in self.own)

    @property
    def _is_deferrable(self) -> bool:
        return self.deferrable

    @property
    def _shown_ref(self) -> str:
        return f"{self.ref_schema}.{self.ref_table}"

    def _earliest(self, scope: Scope, table: TableDraft, columns: tuple[str, ...]) -> Phase:
        ref = self._referenced(scope)
        # Version N's DELETE of a row would be refused for a row of N+1's that it does not know.
        refuses = not ref.fresh and self.on_delete in _REFUSING
        found = (Phase.CONTRACT if refuses else table.strict_phase(columns), self._key(ref)[1])
        return max(found, key=lambda phase: phase.position)

    def _referenced(self, scope: Scope) -> TableDraft:
        """The table that it points to, as the migration leaves it; it need not be ours.

        Raises:
            Unsafe: there is none, or it cannot be pointed to.
        """
        found = scope.draft.find(self.ref_schema, self.ref_table)
        if found is not None:
            return found
        why = scope.draft.gone(self.ref_schema, self.ref_table)
        live = scope.any_table(self.ref_schema, self.ref_table)
        if why is not None or live is None:
            problem = f"there is no table {self._shown_ref}" if why is None else f"{self._shown_ref} was {why}"
            raise Unsafe(f"{problem}, which the foreign key points to", hint="check ref_table= and ref_schema=")
        if live.kind not in ("r", "p"):
            raise Unsafe(f"{self._shown_ref} is not a table (relkind {live.kind!r}): no foreign key can point to it")
        if not live.may_reference:
            grant = f'GRANT REFERENCES ON {ident(self.ref_schema, self.ref_table)} TO "{scope.snapshot.role}"'
            raise Unsafe(f"{scope.snapshot.role} may not make foreign keys to {self._shown_ref}", hint=grant)
        return TableDraft(live, scope.position)

    def _key(self, ref: TableDraft) -> tuple[str, Phase]:
        """The unique index or constraint on the columns that it points to, and since when it is there.

        Raises:
            Unsafe: there is none.
        """
        columns = [ref.column(name) for name in self.ref_columns]
        now = {c.name if c.live is None else c.live.name for c in columns}
        for index in ref.live.indexes:
            usable = index.unique and index.valid and index.predicate is None and now == set(map(_column, index.keys))
            late = any(k.name == index.constraint and k.deferrable for k in ref.live.constraints)
            if usable and not late and not ref.drops_constraint(index.constraint or index.name):
                return index.constraint or index.name, Phase.NONE
        for added in ref.added:
            if added.kind in ("p", "u") and not added.deferrable and set(added.columns) == set(self.ref_columns):
                return added.name, added.phase
        raise Unsafe(
            f"{self._shown_ref} has no unique constraint on ({', '.join(self.ref_columns)}) that a foreign key could point to",
            hint="put AddUnique or AddPrimaryKey before it, not deferrable; or name the columns of one that is there",
        )

    def _refuse(self, addition: Addition) -> None:
        ref = self._referenced(addition.scope)
        by = f"the foreign key {addition.name} of {addition.table.shown}"
        addition.scope.draft.need(item_name(self.ref_schema, self.ref_table, self._key(ref)[0]), by)
        for own, theirs in zip(self.own, self.ref_columns, strict=True):
            mine, other = addition.table.column(own).type, ref.column(theirs).type
            if not _comparable(addition.scope, addition.live, mine, other):
                raise Unsafe(
                    f"{addition.table.shown}.{own} is {mine}, and {self._shown_ref}.{theirs} is {other}, "
                    "which the server does not compare",
                    hint="a foreign key needs columns of the same type: ChangeType one of them before",
                )

    def _reads(self, scope: Scope) -> Iterable[str]:
        ref = self._referenced(scope)
        for name in self.ref_columns:
            live = ref.column(name).live
            yield f"{self._shown_ref}.{name if live is None else live.name}"
        yield f"{self._shown_ref}: {self._key(ref)[0]}"

    def _hazards(self, addition: Addition) -> Iterator[Hazard]:
        own, theirs, ref = addition.table.shown, ", ".join(self.ref_columns), self._referenced(addition.scope)
        if not self._indexed(addition.table):
            yield Hazard(
                id="L34", phase=addition.phase, remedy="build one before (CreateIndex)",
                message=f"no index of {own} begins with {', '.join(self.own)}: a DELETE in {self._shown_ref}, or an UPDATE of "
                f"its {theirs}, reads all of {own}",
            )  # fmt: skip
        if not addition.strict and not ref.fresh and self.on_update in _REFUSING:
            yield Hazard(
                id="C15", phase=addition.phase, remedy='on_update="cascade", if N changes them',
                message=f"version N cannot change {theirs} of a row of {self._shown_ref} that N+1's rows of {own} point to",
            )  # fmt: skip

        for name, other in zip(self.own, self.ref_columns, strict=True):
            mine, its = addition.table.column(name).type, ref.column(other).type
            if mine in _WHOLE and its in _WHOLE[_WHOLE.index(mine) + 1 :]:
                yield Hazard(
                    id="C24", phase=addition.phase, remedy="ChangeType it to the other's type, before its numbers run out",
                    message=f"{own}.{name} is {mine}, and {self._shown_ref}.{other}, to which it points, is {its}: rows with "
                    "numbers beyond it cannot be pointed to",
                )  # fmt: skip

    def _indexed(self, table: TableDraft) -> bool:
        live = [table.column(name).live for name in self.own]
        now, count = {column.name for column in live if column is not None}, len(self.own)
        led = [{_column(key) for key in i.keys[:count]} for i in table.live.indexes if i.valid and i.predicate is None]
        added = [set(a.columns[:count]) for a in table.added if a.kind in ("p", "u")]
        return (None not in live and now in led) or set(self.own) in added or table.indexes_anew(self.own)

    def _locks(self, addition: Addition) -> tuple[TableLock, ...]:
        return self._both(addition.live)

    def _both(self, at: schema.Table) -> tuple[TableLock, ...]:
        theirs = TableLock(schema=self.ref_schema, name=self.ref_table, mode=SHARE_ROW_EXCLUSIVE)
        return tuple(dict.fromkeys((*on(at, SHARE_ROW_EXCLUSIVE), theirs)))

    def _steps(self, addition: Addition) -> Iterator[Step]:
        live, violations = addition.live, self._violations(addition)
        if not live.partitioned or addition.scope.snapshot.major >= 18:
            yield from addition.not_valid_then_validate(self.clause, locks=self._locks(addition), violations=violations)
            return
        for leaf in (p for p in live.partitions if not p.partitioned):
            at = dataclasses.replace(live, schema=leaf.schema, name=leaf.name, kind="r", partitions=())
            yield from addition.not_valid_then_validate(self.clause, locks=self._both(at), violations=violations, at=at)
        title = f"add {addition.name} to the whole table; its partitions' are validated, so no row is read"
        yield addition.step("add", title, [addition.add(self.clause)], locks=self._locks(addition))

    def _violations(self, addition: Addition) -> str:
        """Rows that point nowhere."""
        shown, target = literal(addition.table.shown), ident(addition.live.schema, addition.live.name)
        pairs = zip(self.own, self.ref_columns, strict=True)
        same = " AND ".join(f"p.{ident(theirs)} = c.{ident(own)}" for own, theirs in pairs)
        there = " AND ".join(f"c.{ident(own)} IS NOT NULL" for own in self.own)
        orphan = f"{there} AND NOT EXISTS (SELECT FROM {ident(self.ref_schema, self.ref_table)} p WHERE {same})"
        if self.match_full and len(self.own) > 1:
            none = " AND ".join(f"c.{ident(own)} IS NULL" for own in self.own)
            orphan = f"({orphan}) OR NOT ({there}) AND NOT ({none})"
        return (
            f"SELECT format('row %s of %s points to no row of %s (%s)', c.ctid, {shown}, {literal(self._shown_ref)}, "
            f"{literal(', '.join(self.own))}) FROM {target} c WHERE {orphan} LIMIT 5"
        )


def _column(key: str) -> str | None:
    """The column that an index's key is, where it is one."""
    found = [token for token in tokens(key) if token.kind != "space"]
    return found[0].name if len(found) == 1 else None


def incomparable(scope: Scope, table: schema.Table, column: str, type_: str) -> Iterator[str]:
    """Why foreign keys of the table cannot be kept when its column is of another type."""
    for key in table.constraints:
        if key.kind == "f" and column in key.columns:
            other = key.referenced_types[key.columns.index(column)]
            if not _comparable(scope, table, type_, other):
                yield f"{key.name} would compare {type_} with {other}, for which there is no operator"


def _comparable(scope: Scope, table: schema.Table, one: str, other: str) -> bool:
    """Whether the server has an operator for the two types."""
    if one != other:
        try:
            scope.expression(table, f"NULL::{one} = NULL::{other}")
        except Unsafe:
            return False
    return True
