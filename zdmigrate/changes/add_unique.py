"""Add a unique constraint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.changes.adding import AddsConstraint, require_names, require_timing
from zdmigrate.errors import UsageError
from zdmigrate.planning.keys import Unique


@dataclasses.dataclass(frozen=True, init=False)
class AddUnique(AddsConstraint):
    """Add a unique constraint: ``AddUnique("users", "email")``, ``AddUnique("seats", ["hall", "number"])``.

    Its index refuses duplicates from the moment it begins to be built, so it comes when version N is gone (`contract`);
    earlier on columns that the migration adds and N does not know. The index is built CONCURRENTLY and then made a
    constraint, on a partitioned table in each partition; duplicates are named before. Version N+1 cannot rely on it before
    that: ``ON CONFLICT`` on these columns belongs to the release after.

    Locks: SHARE UPDATE EXCLUSIVE while the index is built; ACCESS EXCLUSIVE, catalog only. Undo: drops it. Refused: on a
    partitioned table, without the columns of the partition keys. A deferrable one must be accepted: its index cannot
    wait. Manual: ALTER TABLE, "ADD table_constraint_using_index".
    """

    columns: tuple[str, ...]
    include: tuple[str, ...]
    nulls_not_distinct: bool
    deferrable: bool
    deferred: bool

    def __init__(
        self,
        table: str,
        columns: str | Sequence[str],
        *,
        name: str | None = None,
        nulls_not_distinct: bool = False,
        deferrable: bool | None = None,
        initially: str | None = None,
        include: str | Sequence[str] | None = None,
        schema: str = "public",
    ) -> None:
        self._place(table, name, schema)
        if not isinstance(nulls_not_distinct, bool):
            raise UsageError(f"AddUnique: nulls_not_distinct must be True or False, got {nulls_not_distinct!r}")
        late, deferred = require_timing(deferrable, initially, "AddUnique")
        self._set(
            columns=require_names(columns, "AddUnique: columns"),
            include=() if include is None else require_names(include, "AddUnique: include"),
            nulls_not_distinct=nulls_not_distinct,
            deferrable=late,
            deferred=deferred,
        )

    @property
    def constraint(self) -> Unique:
        return Unique(
            name=self.name, key=self.columns, include=self.include, nulls_not_distinct=self.nulls_not_distinct,
            deferrable=self.deferrable, deferred=self.deferred,
        )  # fmt: skip
