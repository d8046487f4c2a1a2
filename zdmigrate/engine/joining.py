"""A further process at a backfill that an ``advance`` elsewhere has begun.

It takes no lease. All that it writes is fenced by the lease of the one it helps: when that process has died and its lease
has run out, or somebody else has taken it over, nothing is written any more. It then looks who owns the phase now, and
helps them, or ends.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from zdmigrate.control import lease
from zdmigrate.control.store import Event, Record
from zdmigrate.engine.work import Work
from zdmigrate.errors import Contended, LeaseLost, Progressed, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan, Step
from zdmigrate.wording import counted

_POLL = 0.2

# The one that holds the lease fills rows on the session that has taken it.
_UNDER_WAY = """
SELECT p.step FROM {process} AS p JOIN {lease} AS l ON l.migration = p.migration AND l.backend = p.backend
WHERE p.migration = %s AND l.epoch = %s AND l.expires_at > clock_timestamp() AND p.expires_at > clock_timestamp()
ORDER BY p.process DESC LIMIT 1
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Helps with one migration. `out_of_time` says when to stop."""

    work: Work
    migration: str
    functions: Mapping[str, Callable[[Any], Any]]
    out_of_time: Callable[[], bool]
    sleep: Callable[[float], None] = time.sleep

    def help(self) -> str:
        """Fill rows until none is left; what was done, for people.

        Raises:
            Waiting: a hold, or nobody works on it.
            Progressed: out of time, or the one that was helped is gone.
        """
        with self.work.stop.listening():
            return self._help()

    def _help(self) -> str:
        helped = False
        while (record := self._record()).phase.position < Phase.BACKFILL.position:
            self._refuse_hold(record)
            if self.out_of_time():
                raise Progressed("stopped while others fill rows", hint="run the command again")
            right = lease.join(self.work.store, self.work.connection, record.key)
            if right is None:
                raise self._nobody(helped=helped)
            step = self._under_way(record, right)
            if step is None:  # the other one is not there yet, or is between two tables
                self.sleep(_POLL)
                continue
            filled = self._fill(record, right, step, helped=helped)
            helped = True
            if filled is not None and step == _steps(record)[-1]:
                return f"{counted(filled, 'row')} are filled"
            self.sleep(_POLL)
        return "the backfill is complete"

    def _fill(self, record: Record, right: lease.Joined, step: Step, *, helped: bool) -> int | None:
        """How many rows are filled when none is left; None where the lease was lost."""
        plan, work = _plan(record), self.work
        executor = work.watched(plan, right, self.functions, self.out_of_time)
        if not helped:
            event = Event(migration=record.id, action="join", outcome="started", phase=Phase.BACKFILL, step=step.id)
            work.store.log(work.connection, event)
        try:
            outcome = executor.rows.fill(step, joining=True)
        except LeaseLost:
            return None
        except psycopg.errors.IdleInTransactionSessionTimeout as error:
            raise Contended(
                "this process was stopped for too long in a transaction, which the server has ended",
                hint="run the command again",
            ) from error
        if not outcome.complete:
            raise Progressed(f"stopped while filling rows ({outcome.rows:,} so far)", hint="run the command again")
        return outcome.rows

    def _under_way(self, record: Record, right: lease.Joined) -> Step | None:
        """The step whose rows are filled now."""
        store = self.work.store
        query = _UNDER_WAY.format(process=store.table("backfill_process"), lease=store.table("lease"))
        row = self.work.connection.execute(query.encode(), (record.key, right.epoch)).fetchone()
        return next((step for step in _steps(record) if row is not None and step.id == row[0]), None)

    def _record(self) -> Record:
        record = self.work.store.record(self.work.connection, self.migration)
        assert record is not None
        return record

    def _refuse_hold(self, record: Record) -> None:
        if record.hold_reason is not None:
            raise Waiting(f"on hold: {record.hold_reason}", hint=f"zdmigrate unhold {record.id}")

    def _nobody(self, *, helped: bool) -> Progressed | Waiting:
        hint = f"zdmigrate advance {self.migration}, here or elsewhere; then run the command again"
        if helped:
            return Progressed("the advance that was helped has ended: nobody owns the backfill", hint=hint)
        return Waiting("nobody works on it: there is nothing to join", hint=hint)


def _plan(record: Record) -> Plan:
    plan = record.plan
    assert plan is not None
    return plan


def _steps(record: Record) -> list[Step]:
    """Those that fill rows."""
    return [step for step in _plan(record).steps() if step.mode is Mode.BACKFILL and step.rows is not None]
