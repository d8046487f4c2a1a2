"""Reading every row, to count the ones that are still unfilled."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors, sql

from zdmigrate.backfill import relations, statements
from zdmigrate.backfill.bad_rows import failures
from zdmigrate.backfill.bad_rows.failures import RowFailed
from zdmigrate.backfill.bad_rows.quarantine import Failure
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.values import DEFAULTS, Progress, Settings
from zdmigrate.backfill.windows import Pages
from zdmigrate.plan import RowWork

__all__ = ["Verification", "count_unfilled"]

_WHOLE = timedelta(days=20)
"""Longest that a whole table is read in one statement; about what a timeout can be."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """`sample` names a few of the unfilled rows, by primary key or ctid. Not `complete`: `should_stop` said so."""

    unfilled: int
    checked_pages: int
    sample: tuple[str, ...] = ()
    complete: bool = True


def count_unfilled(
    connection: psycopg.Connection[Any],
    *,
    rows: RowWork,
    progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    limit: int = 5,
    settings: Settings = DEFAULTS,
    sleep: Callable[[float], None] = time.sleep,
) -> Verification:
    """Read every row that the table, or a partition, has at the start; rows that move later are the trigger's business.

    A short read transaction for each range of pages, so that no old snapshot keeps dead rows alive. Takes ACCESS SHARE.

    Args:
        connection: in autocommit mode and direct.
        should_stop: asked between ranges.
        limit: how many rows to name.

    Raises:
        RowFailed: an expression fails for a row.
        LockBudgetExceeded: a table stayed locked.
    """
    check = _Check(Session(connection=connection, settings=settings, sleep=sleep), rows, progress, should_stop, limit)
    complete = check.read_all()
    return Verification(
        unfilled=sum(check.unfilled.values()),
        checked_pages=sum(done for done, _ in check.pages.values()),
        sample=tuple(name for names in check.sample.values() for name in names)[:limit],
        complete=complete,
    )


def count_at_once(
    connection: psycopg.Connection[Any], *, rows: RowWork, limit: int = 5, settings: Settings = DEFAULTS,
    sleep: Callable[[float], None] = time.sleep,
) -> Verification:  # fmt: skip
    """Read every row of the table in one statement, however long it takes: for rows that no trigger fills where they move.

    What somebody moves while page after page is read may be missed; one snapshot misses nothing. It keeps dead rows for as
    long as it lasts, as VALIDATE CONSTRAINT does. Takes ACCESS SHARE. A sample is read afterwards.

    Raises:
        LockBudgetExceeded: a table stayed locked.
    """
    session = Session(connection=connection, settings=settings, sleep=sleep)

    def read(query: sql.Composed) -> list[tuple[Any, ...]]:
        whole = dataclasses.replace(session, settings=dataclasses.replace(settings, read_timeout=_WHOLE))
        return session.patiently(lambda: whole.read(query), schema=rows.schema, table=rows.table)

    ((number,),) = read(statements.count_whole(rows))
    found = read(statements.sample_of_whole(rows, limit)) if number else []
    names = [
        name
        for oid, schema, table, tid in found
        for name in relations.names_of_rows(session, Relation(oid=oid, schema=schema, name=table), [tid])
    ]
    return Verification(unfilled=number, checked_pages=_pages(session, rows), sample=tuple(names))


def _pages(session: Session, rows: RowWork) -> int:
    sizes = [session.read(statements.size(leaf))[0][1] for leaf in relations.leaves(session, rows.schema, rows.table)]
    return sum(size or 0 for size in sizes)


class _Check:
    def __init__(
        self,
        session: Session,
        rows: RowWork,
        progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        limit: int,
    ) -> None:
        self._session, self._rows, self._progress, self._should_stop = session, rows, progress, should_stop
        self._limit = limit
        self.pages: dict[int, tuple[int, int]] = {}
        self.unfilled: dict[int, int] = {}
        self.sample: dict[int, list[str]] = {}

    def read_all(self) -> bool:
        """Leaf by leaf, until none is new; False when stopped."""
        while new := [leaf for leaf in self._leaves() if leaf.oid not in self.unfilled]:
            for leaf in new:
                self._begin(leaf)
            for leaf in new:
                if not self._read_relation(leaf):
                    return False
        return True

    def _leaves(self) -> list[Relation]:
        return relations.leaves(self._session, self._rows.schema, self._rows.table)

    def _begin(self, relation: Relation) -> int | None:
        """Forget what was counted in the relation, and note its size; its filenode, or None when it is gone."""
        filenode, pages = self._query(relation, statements.size(relation))[0]
        self.unfilled[relation.oid], self.sample[relation.oid] = 0, []
        self.pages[relation.oid] = (0, pages or 0)
        return None if filenode is None else int(filenode)

    def _read_relation(self, relation: Relation) -> bool:
        while (filenode := self._begin(relation)) is not None:
            try:
                return self._read_pages(relation, filenode)
            except _Moved:
                continue
            except (errors.UndefinedTable, errors.UndefinedColumn):
                now = next((leaf for leaf in self._leaves() if leaf.oid == relation.oid), None)
                if now == relation:
                    raise
                if now is None:
                    break
                relation = now
        self.unfilled[relation.oid], self.sample[relation.oid], self.pages[relation.oid] = 0, [], (0, 0)
        return True

    def _read_pages(self, relation: Relation, filenode: int) -> bool:
        size = self.pages[relation.oid][1]
        pending = list(Pages(0, size).cut(4 * self._session.settings.window_pages))[::-1]
        while pending:
            if self._should_stop():
                return False
            pages = pending.pop()
            try:
                query = statements.count_unfilled(self._rows, relation, pages.condition)
                number, seen = self._query(relation, query)[0]
            except psycopg.Error as error:
                if not (isinstance(error, errors.QueryCanceled) or failures.is_of_a_row(error)):
                    raise
                if len(pages) == 1:
                    self._name_failing(relation, pages)
                    raise
                pending += reversed(pages.halves())
                continue
            if seen != filenode:
                raise _Moved
            self._count(relation, pages, number)
        return True

    def _count(self, relation: Relation, pages: Pages, number: int) -> None:
        self.unfilled[relation.oid] += number
        self.pages[relation.oid] = (pages.end, self.pages[relation.oid][1])
        wanted = self._limit - sum(map(len, self.sample.values()))
        if number and wanted > 0:
            tids = self._query(relation, statements.unfilled_tids(self._rows, relation, pages, wanted))
            self.sample[relation.oid] += relations.names_of_rows(self._session, relation, [tid for (tid,) in tids])
        self._progress(
            Progress(
                relation=str(relation),
                rows=sum(self.unfilled.values()),
                pages_done=sum(done for done, _ in self.pages.values()),
                pages_total=sum(total for _, total in self.pages.values()),
            )
        )

    def _name_failing(self, relation: Relation, pages: Pages) -> None:
        for (tid,) in self._query(relation, statements.all_tids(relation, pages.condition)):
            try:
                self._query(relation, statements.count_unfilled(self._rows, relation, statements.row(tid)))
            except psycopg.Error as error:
                if failures.is_of_a_row(error):
                    # The server's DETAIL may show the row: it must not travel along as the cause.
                    raise RowFailed(
                        relations.name_of_row(self._session, relation, tid), Failure.of(tid, error)
                    ) from None
                raise

    def _query(self, relation: Relation, query: sql.Composable) -> list[tuple[Any, ...]]:
        return self._session.patiently(lambda: self._session.read(query), schema=relation.schema, table=relation.name)


class _Moved(Exception):
    """The relation's file was replaced: its rows are elsewhere."""
