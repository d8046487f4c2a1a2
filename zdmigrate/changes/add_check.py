"""Add a CHECK constraint."""

from __future__ import annotations

import dataclasses

from zdmigrate.changes.adding import AddsConstraint
from zdmigrate.changes.base import declared_sql
from zdmigrate.errors import UsageError
from zdmigrate.planning.constraints import Check


@dataclasses.dataclass(frozen=True, init=False)
class AddCheck(AddsConstraint):
    """Add a CHECK constraint: ``AddCheck("orders", "positive_amount", "amount > 0")``, or without the name.

    `expression` is SQL over the row, with the names that columns have after the migration. The constraint comes when
    version N is gone (`contract`), because it refuses rows from the moment it is there; earlier on columns that the
    migration adds and N does not know. It is added NOT VALID and validated in a transaction of its own; rows that violate
    it are named before.

    Locks: ACCESS EXCLUSIVE, catalog only; then SHARE UPDATE EXCLUSIVE while the rows are read. Undo: drops it. Refused:
    what the server does not accept. Manual: ALTER TABLE, "ADD table_constraint".
    """

    expression: str

    def __init__(
        self, table: str, name: str | None = None, expression: str | None = None, *, schema: str = "public"
    ) -> None:
        self._place(table, name, schema)
        found = declared_sql(expression, "AddCheck: expression")
        if found is None:
            raise UsageError(
                "AddCheck: expression is missing", hint='AddCheck("orders", "positive_amount", "amount > 0")'
            )
        self._set(expression=found)

    @property
    def constraint(self) -> Check:
        return Check(name=self.name, expression=self.expression)
