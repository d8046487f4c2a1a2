"""Add a foreign key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.changes.adding import AddsConstraint, require_names, require_timing
from zdmigrate.changes.base import require_name
from zdmigrate.errors import UsageError
from zdmigrate.planning.foreignkeys import ForeignKey

_ACTIONS = ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT")


@dataclasses.dataclass(frozen=True, init=False)
class AddForeignKey(AddsConstraint):
    """Add a foreign key: ``AddForeignKey("orders", "user_id", "users", "id", on_delete="cascade")``.

    Columns are one name or a list of names. The key comes when version N is gone (`contract`), because it refuses rows from
    the moment it is there; earlier on columns or tables that the migration makes, where it cannot refuse N's DELETE
    either (`on_delete` is not "no action" or "restrict"). It is added NOT VALID and validated in a transaction of its
    own; rows that point nowhere are named before. What it points to may be made by the same migration, before it.

    Locks: SHARE ROW EXCLUSIVE on both tables, catalog only; then SHARE UPDATE EXCLUSIVE and ROW SHARE while the rows are read.
    Undo: drops it (ACCESS EXCLUSIVE on both). Refused: columns without a unique constraint to point to, types that cannot
    be compared. Manual: ALTER TABLE, "ADD table_constraint"; CREATE TABLE, "REFERENCES".
    """

    columns: tuple[str, ...]
    ref_table: str
    ref_columns: tuple[str, ...]
    ref_schema: str
    on_delete: str
    on_update: str
    match: str
    deferrable: bool
    deferred: bool

    def __init__(
        self,
        table: str,
        columns: str | Sequence[str],
        ref_table: str,
        ref_columns: str | Sequence[str],
        *,
        name: str | None = None,
        ref_schema: str | None = None,
        on_delete: str | None = None,
        on_update: str | None = None,
        deferrable: bool | None = None,
        initially: str | None = None,
        match: str | None = None,
        schema: str = "public",
    ) -> None:
        self._place(table, name, schema)
        late, deferred = require_timing(deferrable, initially, "AddForeignKey")
        self._set(
            columns=require_names(columns, "AddForeignKey: columns"),
            ref_table=require_name(ref_table, "AddForeignKey: ref_table"),
            ref_columns=require_names(ref_columns, "AddForeignKey: ref_columns"),
            ref_schema=require_name(schema if ref_schema is None else ref_schema, "AddForeignKey: ref_schema"),
            on_delete=_one_of(_ACTIONS, on_delete, "on_delete"),
            on_update=_one_of(_ACTIONS, on_update, "on_update"),
            match=_one_of(("SIMPLE", "FULL"), match, "match"),
            deferrable=late,
            deferred=deferred,
        )
        if len(self.columns) != len(self.ref_columns):
            raise UsageError(
                f"AddForeignKey: {len(self.columns)} columns cannot point to {len(self.ref_columns)}",
                hint="name as many columns of the one table as of the other",
            )

    @property
    def constraint(self) -> ForeignKey:
        return ForeignKey(
            name=self.name, own=self.columns, ref_schema=self.ref_schema, ref_table=self.ref_table,
            ref_columns=self.ref_columns, on_delete=self.on_delete, on_update=self.on_update,
            match_full=self.match == "FULL", deferrable=self.deferrable, deferred=self.deferred,
        )  # fmt: skip


def _one_of(known: tuple[str, ...], value: str | None, what: str) -> str:
    """`value` in upper case; the first of `known` where there is none."""
    if value is None:
        return known[0]
    found = " ".join(value.upper().split()) if isinstance(value, str) else ""
    if found not in known:
        raise UsageError(f"AddForeignKey: {what} must be one of {', '.join(map(str.lower, known))}, got {value!r}")
    return found
