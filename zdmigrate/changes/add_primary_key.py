"""Add a primary key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.changes.adding import AddsConstraint, require_names
from zdmigrate.planning.keys import PrimaryKey


@dataclasses.dataclass(frozen=True, init=False)
class AddPrimaryKey(AddsConstraint):
    """Add a primary key to a table that has none: ``AddPrimaryKey("memberships", ["user_id", "team_id"])``.

    It comes when version N is gone (`contract`), because N may write duplicates or NULLs; both are named before. Columns
    are proven NOT NULL without a scan under ACCESS EXCLUSIVE, the unique index is built CONCURRENTLY and then made the
    primary key, on a partitioned table in each partition.

    Locks: SHARE UPDATE EXCLUSIVE while rows are read; ACCESS EXCLUSIVE, catalog only. Undo: drops it, and NOT NULL where it
    was set. Refused: where there is one that the migration does not drop before; on a partitioned table, without the columns
    of the partition keys. Manual: ALTER TABLE, "ADD table_constraint_using_index".
    """

    columns: tuple[str, ...]

    def __init__(
        self, table: str, columns: str | Sequence[str], *, name: str | None = None, schema: str = "public"
    ) -> None:
        self._place(table, name, schema)
        self._set(columns=require_names(columns, "AddPrimaryKey: columns"))

    @property
    def constraint(self) -> PrimaryKey:
        return PrimaryKey(name=self.name, key=self.columns)
