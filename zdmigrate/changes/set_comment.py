"""Say in the catalog what something is for."""

from __future__ import annotations

import dataclasses
from typing import Any

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, Window
from zdmigrate.planning import probes
from zdmigrate.planning.parts import ChangePlan, Scope, Target, on, transaction_step
from zdmigrate.sqltext import ident, literal

KINDS = ("column", "constraint", "index")


@dataclasses.dataclass(frozen=True, init=False)
class SetComment(Change):
    """Set the comment of a table: ``SetComment("users", "people who log in")``; None takes it away.

    With ``column=``, ``constraint=`` or ``index=`` it is that of one of the table's. Nobody notices it. Comments of
    constraints and indexes are set in `contract`, because changes of the same migration may put copies in their places.

    Locks: SHARE UPDATE EXCLUSIVE at most. Undo: the comment of before. Manual: COMMENT.
    """

    table: str
    comment: str | None
    column: str | None
    constraint: str | None
    index: str | None
    schema: str

    def __init__(
        self,
        table: str,
        comment: str | None,
        *,
        column: str | None = None,
        constraint: str | None = None,
        index: str | None = None,
        schema: str = "public",
    ) -> None:
        for field, value in (("table", table), ("schema", schema)):
            object.__setattr__(self, field, require_name(value, f"SetComment: {field}"))
        given = dict(zip(KINDS, (column, constraint, index), strict=True))
        if sum(value is not None for value in given.values()) > 1:
            raise UsageError("SetComment: give one of column=, constraint= and index=, or none for the table itself")
        for field, name in given.items():
            object.__setattr__(self, field, None if name is None else require_name(name, f"SetComment: {field}"))
        if comment is not None and (not isinstance(comment, str) or not comment or "\0" in comment):
            raise UsageError(f"SetComment: the comment must be text, or None to take it away, got {comment!r}")
        object.__setattr__(self, "comment", comment)

    def targets(self) -> tuple[Target, ...]:
        if self.column is not None:
            return (Target(self.schema, self.table, self.column),)
        return (Target(self.schema, self.table, item=self.constraint or self.index or "comment"),)

    def describe(self) -> dict[str, Any]:
        return {"change": "SetComment", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        column = None if self.column is None else scope.live_column(table, self.column)
        before = self._before(table, column)
        return OneShot(self._set(table, self.column, self.comment), there=before == self.comment)

    def plan(self, scope: Scope) -> ChangePlan:
        table = scope.table(self.schema, self.table)
        live = table.live
        column = None if self.column is None else table.live_column(self.column)
        before = self._before(live, column)
        scope.draft.claim(f"the comment of {self._shown}", f"set by change {scope.position + 1}")
        late = column is None and (self.constraint or self.index) is not None
        name = None if column is None else column.name
        mode = LockMode.SHARE_UPDATE_EXCLUSIVE if self.constraint is None else LockMode.ACCESS_SHARE
        step = transaction_step(
            scope, Phase.CONTRACT if late else Phase.EXPAND, f"comment.{self._shown}", f"comment on {self._shown}",
            probe=self._probe(live, column),
            do=[self._set(live, name, self.comment)], undo=[self._set(live, name, before)],
            locks=on(live, LockMode.ACCESS_SHARE if self.index else mode),
        )  # fmt: skip
        if self.column is not None:
            table.amend(self.column, comment=self.comment)
        return ChangePlan(steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE))

    @property
    def _shown(self) -> str:
        name = self.column or self.constraint or self.index
        return f"{self.schema}.{self.table}" + ("" if name is None else f".{name}")

    def _before(self, table: catalog.Table, column: catalog.Column | None) -> str | None:
        if column is not None:
            return column.comment
        for kind, name, there in (
            ("constraint", self.constraint, table.constraints), ("index", self.index, table.indexes),
        ):  # fmt: skip
            if name is not None:
                found = {one.name: one.comment for one in there}
                if name not in found:
                    known = ", ".join(sorted(found)) or "none"
                    raise Unsafe(f"{self.schema}.{self.table} has no {kind} {name!r}", hint=f"there is: {known}")
                return found[name]
        return table.comment

    def _set(self, table: catalog.Table, column: str | None, comment: str | None) -> str:
        target = ident(table.schema, table.name)
        what = f"TABLE {target}"
        if column is not None:
            what = f"COLUMN {target}.{ident(column)}"
        elif self.constraint is not None:
            what = f"CONSTRAINT {ident(self.constraint)} ON {target}"
        elif self.index is not None:
            what = f"INDEX {ident(table.schema, self.index)}"
        return f"COMMENT ON {what} IS {'NULL' if comment is None else literal(comment)}"

    def _probe(self, table: catalog.Table, column: catalog.Column | None) -> str:
        if column is not None:
            return probes.column_comment(table, column.number, self.comment)
        relation = f"to_regclass({literal(ident(table.schema, table.name))})::oid"
        if self.constraint is not None:
            named = (
                f"SELECT oid FROM pg_constraint WHERE conrelid = {relation} AND conname = {literal(self.constraint)}"
            )
            return probes.comment("pg_constraint", named, self.comment)
        if self.index is not None:
            relation = f"to_regclass({literal(ident(table.schema, self.index))})::oid"
        return probes.comment("pg_class", f"SELECT {relation}", self.comment)
