"""Rows that cannot be filled: found, recorded, and from then on passed over.

They are recorded by key, and passed over by their place: an expression is evaluated for every row that is read, a look into the
quarantine would cost more than it. A row that has moved was written meanwhile, which the sync trigger saw; where it fails
once more, it is found once more.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from psycopg import sql

from zdmigrate.backfill.bad_rows import isolation, quarantine
from zdmigrate.backfill.bad_rows.quarantine import Failure, Limit, Quarantine
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Cursor
from zdmigrate.backfill.windows import Pages
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
        self._file: tuple[int, int] | None = None
        self._known: dict[int, set[str]] = collections.defaultdict(set)

    @property
    def is_wanted(self) -> bool:
        """Whether rows may be set aside."""
        return self._aside is not None

    def begin(self, cursor: Cursor) -> None:
        """A relation is under way. What is known of another one, or of its replaced file, is forgotten."""
        file = (cursor.relation.oid, cursor.filenode)
        if file != self._file:
            self._file = file
            self._known.clear()

    def rows(self, pages: Pages) -> RowWork:
        """What is to be done with rows of the pages, but for those that are known to be set aside."""
        known = self._known_in(pages)
        if not known:
            return self._rows
        among = sql.SQL("ctid = ANY ({}::tid[])").format(sql.Literal(known)).as_string(self._session.connection)
        return dataclasses.replace(
            self._rows, unfilled=f"CASE WHEN {among} THEN false ELSE ({self._rows.unfilled}) END"
        )

    def find(self, relation: Relation, pages: Pages, which: sql.Composable) -> int:
        """Set aside those of the rows whose expressions raise; how many must be passed over now that were not before.

        Args:
            which: a condition for rows of the pages.

        Raises:
            QuarantineFull: there are too many.
            psycopg.errors.QueryCanceled: it took too long; fewer rows may not.
        """
        if self._aside is None or self._rows.transform is not None:  # what a function fails for is known at once
            return 0
        before = len(self._known_in(pages))
        query = self._aside.quarantine.tids(self._session.connection, relation)
        self._know(tid for (tid,) in self._session.read(sql.SQL("{} AND {}").format(query, which)))
        known = self._known_in(pages)
        self.record(relation, isolation.failing(self._session, self._rows, relation, which, known=known))
        return len(self._known_in(pages)) - before

    def record(self, relation: Relation, failures: Sequence[Failure]) -> None:
        """Set rows aside.

        Raises:
            QuarantineFull: there are too many.
        """
        if self._aside is None or not failures:
            return
        with self._session.writing() as cursor:
            self._aside.quarantine.record(cursor, relation, failures)
        self._know(failure.tid for failure in failures)
        self._refuse_too_many(self._aside, relation)

    def _refuse_too_many(self, aside: Aside, relation: Relation) -> None:
        connection = self._session.connection
        row = connection.execute(_ROWS, (relation.oid,)).fetchone()
        limit = aside.limit.of(None if row is None else row[0])
        where = aside.quarantine
        quarantine.refuse_above(connection, limit, control_schema=where.control_schema, migration=where.migration)

    def _know(self, tids: Iterable[str]) -> None:
        for tid in tids:
            self._known[Pages.of(tid).first].add(tid)

    def _known_in(self, pages: Pages) -> list[str]:
        among = range(pages.first, pages.end)
        return [tid for page in among if page in self._known for tid in self._known[page]]
