"""Rows that could not be filled: show them, try them again, settle them by hand."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import psycopg

from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.bad_rows.quarantine import Entry
from zdmigrate.backfill.bad_rows.second_try import Result, SecondTry, Tried
from zdmigrate.backfill.rights import Rights
from zdmigrate.backfill.transforming import Function
from zdmigrate.control.store import Event, Record, Store
from zdmigrate.engine import functions, steering
from zdmigrate.engine.reporting import Event as Narrated
from zdmigrate.engine.reporting import EventKind, Reporter
from zdmigrate.errors import Drift, Unsafe, UsageError, Waiting
from zdmigrate.migration import find_id
from zdmigrate.phases import Phase
from zdmigrate.plan import RowWork
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection, Cursor
from zdmigrate.wording import counted

_STATEMENT = timedelta(milliseconds=500)
"""Longest that somebody waits for a row that is tried again, as for a batch."""
_PATIENCE = timedelta(seconds=10)
_PAGE = 500

# Whoever holds the lease may change the phase meanwhile, but not before the transaction has ended; and neither can
# anybody take the lease over.
_GUARD = """
SELECT FROM {migration} AS m JOIN {lease} AS l ON l.migration = m.key
WHERE m.key = %s AND (m.running = 'backfill' AND m.phase = 'dual_write' OR m.running IS NULL AND m.phase = 'backfill')
FOR SHARE OF m FOR KEY SHARE OF l
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The entries of a migration, or the first of them; `open` is how many rows wait for somebody."""

    id: str
    open: int
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What became of the entries that were tried; `open` are still left."""

    id: str
    open: int
    tried: tuple[Tried, ...]

    @property
    def doubtful(self) -> bool:
        """Whether only reading every row can tell that none is unfilled."""
        return any(not each.is_certain for each in self.tried)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quarantining:
    """The quarantine of a project's migrations."""

    connection: Connection
    store: Store
    report: Reporter
    lock_timeout: timedelta
    functions: Callable[[str], Mapping[str, Function]]
    """What the file of a migration (its id) has for its plan, by reference; nothing where the file is gone."""

    def list(self, id_: str | None, *, settled: bool, limit: int) -> list[Listing]:
        """One migration's, or those of all that have any."""
        records = self._records()
        if id_ is not None:
            return [self._listing(records[find_id(records, id_)], settled=settled, limit=limit)]
        found = [self._listing(record, settled=settled, limit=limit) for record in records.values()]
        return [listing for listing in found if listing.entries]

    def retry(self, id_: str | None, numbers: Sequence[int]) -> Retried | None:
        """Fill rows once more, all or those that are named; None where there is nothing to do.

        Rows are found by their key and locked, each in a short transaction of its own, also while the backfill is under way.

        Raises:
            UsageError: a number is not one of the migration's open entries.
            Waiting: the migration has left its backfill.
        """
        record = self._chosen(id_)
        if record is None:
            return None
        tried: list[Tried] = []
        try:
            with self._permitted():
                tried.extend(self._retry(record, numbers))
        finally:  # what was done stays done, also where it is interrupted
            self._account(record, tried)
        return Retried(id=record.id, open=self._open(record), tried=tuple(tried))

    def resolve(self, id_: str | None, numbers: Sequence[int], reason: str) -> Listing | None:
        """Settle entries by hand, all or those that are named: somebody has seen to the rows.

        Where the backfill is complete, every row has to be verified again: nobody but the database says that they are filled.

        Raises:
            UsageError: a number is not one of the migration's open entries.
        """
        record = self._chosen(id_)
        if record is None:
            return None
        wanted = tuple(self._wanted(record, numbers))
        with self._permitted(), session.transaction(self.connection, lock_timeout=_PATIENCE) as cursor:
            self.store.set_verified(cursor, record.key, verified=False)
            chosen = [entry.number for entry in wanted]
            settled = quarantine.settle(cursor, chosen, reason, control_schema=self.store.schema)
            for entry in wanted:
                if entry.number in settled:
                    self._log(cursor, record, "resolve", "done", f"{entry.row}: {reason}")
        return Listing(id=record.id, open=self._open(record), entries=wanted)

    def _retry(self, record: Record, numbers: Sequence[int]) -> Iterator[Tried]:
        work, attempt = self._work_of(record), self._second_try(record)
        total = len(numbers) or self._open(record)
        for number, entry in enumerate(self._wanted(record, numbers), start=1):
            yield attempt.fill(entry, self._rows(record, work, entry))
            self._progress(record, number, total)

    def _account(self, record: Record, tried: Sequence[Tried]) -> None:
        if tried and not self.connection.closed:
            outcome = "failed" if any(each.is_open for each in tried) else "done"
            self._log(self.connection, record, "retry", outcome, outcomes(tried))

    # What is meant ------------------------------------------------------------------------------------------------

    def _chosen(self, id_: str | None) -> Record | None:
        records = self._records()
        if id_ is not None:
            return records[find_id(records, id_)]
        found = [record for record in records.values() if self._open(record)]
        return steering.only(found, "has rows in quarantine") if found else None

    def _wanted(self, record: Record, numbers: Sequence[int]) -> Iterator[Entry]:
        if not numbers:
            yield from self._all(record)
            return
        there = {entry.number: entry for entry in self._all(record)}
        missing = [str(number) for number in numbers if number not in there]
        if missing:
            raise UsageError(
                f"{record.id} has no open entry {', '.join(missing)}", hint=f"zdmigrate quarantine list {record.id}"
            )
        yield from (there[number] for number in dict.fromkeys(numbers))

    def _all(self, record: Record) -> Iterator[Entry]:
        after = 0
        while page := quarantine.entries(
            self.connection, control_schema=self.store.schema, migration=record.key, limit=_PAGE, after=after
        ):
            yield from page
            after = page[-1].number

    def _work_of(self, record: Record) -> Mapping[str, RowWork]:
        plan = record.plan
        return {} if plan is None else {step.id: step.rows for step in plan.steps() if step.rows is not None}

    def _rows(self, record: Record, work: Mapping[str, RowWork], entry: Entry) -> RowWork:
        if entry.step not in work:
            raise Drift(f"the plan of {record.id} has no step {entry.step} that fills rows", hint="zdmigrate plan")
        return work[entry.step]

    # Transactions -------------------------------------------------------------------------------------------------

    def _second_try(self, record: Record) -> SecondTry:
        statement = _GUARD.format(migration=self.store.table("migration"), lease=self.store.table("lease")).encode()

        def guard(cursor: Cursor) -> None:
            if cursor.execute(statement, (record.key,)).rowcount != 1:
                raise Waiting(
                    f"{record.id} is not in its backfill, nor right behind it", hint=f"zdmigrate status {record.id}"
                )

        return SecondTry(
            connection=self.connection,
            control_schema=self.store.schema,
            guard=guard,
            doubt=lambda cursor: self.store.set_verified(cursor, record.key, verified=False),
            lock_timeout=self.lock_timeout,
            statement_timeout=max(_STATEMENT, self.lock_timeout + _STATEMENT),
            suppress=Rights.of(self.connection).triggers,
            function=lambda reference: functions.find(self.functions(record.id), record.id, reference),
        )

    @contextlib.contextmanager
    def _permitted(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise Unsafe(
                f"the quarantine may not be changed: {error.diag.message_primary}",
                hint="run it as the role that migrates",
            ) from error

    def _log(self, where: Cursor | Connection, record: Record, action: str, outcome: str, detail: str) -> None:
        event = Event(migration=record.id, action=action, outcome=outcome, phase=Phase.BACKFILL, detail=detail)
        self.store.log(where, event)

    def _progress(self, record: Record, number: int, total: int) -> None:
        self.report(
            Narrated(
                kind=EventKind.PROGRESS, migration=record.id, message=f"row {number} of {total}", phase=Phase.BACKFILL,
                done=number, total=total,
            )
        )  # fmt: skip

    # Reading ------------------------------------------------------------------------------------------------------

    def _records(self) -> dict[str, Record]:
        return {record.id: record for record in self.store.records(self.connection)}

    def _open(self, record: Record) -> int:
        return quarantine.open_count(self.connection, control_schema=self.store.schema, migration=record.key)

    def _listing(self, record: Record, *, settled: bool, limit: int) -> Listing:
        found = quarantine.entries(
            self.connection, control_schema=self.store.schema, migration=record.key, limit=limit, settled=settled
        )
        return Listing(id=record.id, open=self._open(record), entries=tuple(found))


_SAID = {
    Result.FILLED: "filled",
    Result.WAS_FILLED: "filled already",
    Result.GONE: "gone",
    Result.UNKNOWN: "not to be found any more",
    Result.SETTLED: "settled by somebody else",
    Result.FAILED: "failed again",
    Result.BUSY: "locked by somebody",
}


def outcomes(tried: Sequence[Tried]) -> str:
    """``3 rows: 2 filled, 1 failed again``."""
    numbers = collections.Counter(each.result for each in tried)
    said = [f"{numbers[result]} {text}" for result, text in _SAID.items() if numbers[result]]
    return f"{counted(len(tried), 'row')}: {', '.join(said)}"


def result_text(result: Result) -> str:
    """How it ended, for people."""
    return _SAID[result]
