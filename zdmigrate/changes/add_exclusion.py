"""Add an exclusion constraint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.changes.adding import AddsConstraint
from zdmigrate.changes.base import declared_sql, require_name
from zdmigrate.errors import UsageError
from zdmigrate.planning.exclusion import Exclusion


@dataclasses.dataclass(frozen=True, init=False)
class AddExclusion(AddsConstraint):
    """Add an exclusion constraint: ``AddExclusion("bookings", [("room", "="), ("during", "&&")])``.

    Each element is a column with an operator; an expression stands in parentheses: ``("(tsrange(starts, ends))", "&&")``.
    `using` is the access method, `where` a SQL expression over the row. With expressions it needs a name.

    The table stands still while the index is built, because PostgreSQL has no other way: on a table of at most 1,000 rows
    and 1 MB that takes an instant; on a larger one it must be accepted (gate `exclusion_scan`). It comes when version N
    is gone (`contract`). Rows that conflict are named before.

    Locks: ACCESS EXCLUSIVE, also while all rows are read. Undo: drops it. Refused: partitioned tables; operators without
    an operator class of the method (btree_gist has those of plain types). Manual: CREATE TABLE, "EXCLUDE".
    """

    elements: tuple[tuple[str, str], ...]
    using: str
    where: str | None

    def __init__(
        self,
        table: str,
        elements: Sequence[tuple[str, str]],
        *,
        using: str = "gist",
        where: str | None = None,
        name: str | None = None,
        schema: str = "public",
    ) -> None:
        self._place(table, name, schema)
        self._set(
            elements=_elements(elements),
            using=require_name(using, "AddExclusion: using"),
            where=declared_sql(where, "AddExclusion: where"),
        )
        _ = self.constraint  # it may not fit together

    @property
    def constraint(self) -> Exclusion:
        return Exclusion(name=self.name, method=self.using, elements=self.elements, where=self.where)


def _elements(given: object) -> tuple[tuple[str, str], ...]:
    pairs = isinstance(given, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given)
    if not isinstance(given, list | tuple) or not given or not pairs:
        raise UsageError(
            f"AddExclusion: elements must be a list of (column, operator), got {given!r}",
            hint='[("room", "="), ("during", "&&")]',
        )
    return tuple((_element(element), str(operator)) for element, operator in given)


def _element(element: object) -> str:
    if isinstance(element, str) and element.startswith("("):
        return declared_sql(element, "AddExclusion: an element") or ""
    return require_name(element, "AddExclusion: an element's column")
