"""Rows that cannot be filled: found, recorded, and from then on passed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate.backfill import isolation, quarantine
from zdmigrate.backfill.quarantine import Failure, Limit, Quarantine
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.windows import Batch
from zdmigrate.plan import RowWork

_ROWS = "SELECT reltuples::bigint FROM pg_catalog.pg_class WHERE oid = %s"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """Where rows are set aside, and how many may be."""

    quarantine: Quarantine
    limit: Limit


class SettingAside:
    """One worker's. Without `aside` nothing is set aside, and the first row that fails ends the work."""

    def __init__(self, session: Session, rows: RowWork, aside: Aside | None) -> None:
        self._session, self._rows, self._aside = session, rows, aside
        self._known: dict[int, RowWork] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether rows may be set aside."""
        return self._aside is not None

    def rows(self, relation: Relation) -> RowWork:
        """What is to be done with the relation's rows, but those that are set aside."""
        return self._known.get(relation.oid, self._rows)

    def expects_more(self, relation: Relation) -> bool:
        """Whether rows of the relation have failed: more are likely."""
        return relation.oid in self._known

    def begin(self, relation: Relation) -> None:
        """Find out whether an earlier run, or another process, has set rows aside."""
        if self._aside is not None and not self._aside.quarantine.is_empty(self._session.connection, relation):
            self._pass_over(self._aside.quarantine, relation)

    def find(self, relation: Relation, batch: Batch) -> int:
        """Set aside the rows of a batch whose expressions raise; how many were new. A function's are known before.

        Raises:
            QuarantineFull: there are too many.
        """
        if self._rows.transform is not None:
            return 0
        return self.record(relation, isolation.failing(self._session, self.rows(relation), relation, batch))

    def record(self, relation: Relation, failures: Sequence[Failure]) -> int:
        """Set rows aside; how many were new.

        Raises:
            QuarantineFull: there are too many.
        """
        if self._aside is None or not failures:
            return 0
        with self._session.writing() as cursor:
            new = self._aside.quarantine.record(cursor, relation, failures)
        self._pass_over(self._aside.quarantine, relation)
        self._refuse_too_many(self._aside, relation)
        return new

    def _refuse_too_many(self, aside: Aside, relation: Relation) -> None:
        connection = self._session.connection
        row = connection.execute(_ROWS, (relation.oid,)).fetchone()
        limit = aside.limit.of(None if row is None else row[0])
        where = aside.quarantine
        quarantine.refuse_above(connection, limit, control_schema=where.control_schema, migration=where.migration)

    def _pass_over(self, where: Quarantine, relation: Relation) -> None:
        if relation.oid not in self._known:
            unfilled = where.passed_over(self._session.connection, relation, self._rows.unfilled)
            self._known[relation.oid] = dataclasses.replace(self._rows, unfilled=unfilled)
