"""Replica lag, asked of the standby itself: for those that the primary does not see, such as cascaded ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import psycopg

from zdmigrate.backfill.throttles.heartbeat import Heartbeat
from zdmigrate.backfill.throttles.hysteresis import Hysteresis
from zdmigrate.backfill.throttles.lag import LagLimits, judged
from zdmigrate.backfill.throttles.pursuit import Pursuit
from zdmigrate.backfill.throttles.reading import Lag, Reading, unknown
from zdmigrate.backfill.throttles.steering import Steering
from zdmigrate.backfill.throttles.timeline import Timeline
from zdmigrate.postgres import url
from zdmigrate.postgres.session import Connection

_RETRY = 2.0
"""Seconds between two attempts to connect: each may take as long, and the other throttles wait meanwhile."""

_PREPARE = """
SELECT pg_catalog.set_config('statement_timeout', '1000', false), pg_catalog.set_config('search_path', 'pg_catalog', false)
"""

_PRIMARY = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, clock_timestamp()"

# The last commit that was replayed has the primary's time, as the heartbeat has.
_STANDBY = """
SELECT pg_is_in_recovery(), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint,
       greatest(pg_last_xact_replay_timestamp(), (SELECT at FROM {heartbeat}))
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    in_recovery: bool
    replayed: int | None
    seen_until: datetime | None


class AskedReplica:
    """Connects to a standby and asks how far it is. Its answers are compared by the primary's clock only.

    Args:
        conninfo: of the same database on the standby.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        limits: LagLimits,
        steering: Steering,
        heartbeat: Heartbeat,
        timeline: Timeline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conninfo, self._configured = conninfo, limits
        self._steering, self._heartbeat, self._timeline, self._clock = steering, heartbeat, timeline, clock
        self._who = url.display(conninfo)
        self.name = f"lag of {self._who}"
        self._memory, self._pursuit = Hysteresis(), Pursuit()
        self._connection: Connection | None = None
        self._failure: tuple[float, str] | None = None

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary first: what it has written by then is what the standby must have."""
        limits = self._configured.overridden(self._steering.read(connection))
        self._heartbeat.beat(connection)
        row = connection.execute(_PRIMARY).fetchone()
        assert row is not None
        position, now = row
        self._timeline.note(position, self._clock())
        try:
            answer = self._ask()
        except psycopg.Error as error:
            return [self._failed(error, limits)]
        return [self._judged(answer, position, now, limits)]

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self) -> _Answer:
        if self._connection is None:
            self._connection = self._connect()
        row = self._connection.execute(_STANDBY.replace("{heartbeat}", self._heartbeat.table).encode()).fetchone()
        assert row is not None
        self._failure = None
        return _Answer(in_recovery=row[0], replayed=row[1], seen_until=row[2])

    def _connect(self) -> Connection:
        if self._failure is not None and self._clock() < self._failure[0] + _RETRY:
            raise psycopg.OperationalError(self._failure[1])
        # A standby that is gone without a word is noticed: nothing is acknowledged any more.
        connection = psycopg.connect(
            self._conninfo, autocommit=True, prepare_threshold=None, application_name="zdmigrate throttles",
            connect_timeout=2, tcp_user_timeout=2000,
        )  # fmt: skip
        try:
            connection.execute(_PREPARE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _failed(self, error: psycopg.Error, limits: LagLimits) -> Reading:
        text = url.redact(str(error).strip(), self._conninfo)
        if self._connection is None and (self._failure is None or self._clock() >= self._failure[0] + _RETRY):
            self._failure = (self._clock(), text)
        self.close()
        hint = (
            f"check replica_urls in the table [throttle]: the role there must connect and read {self._heartbeat.table}"
        )
        return unknown(self.name, str(limits), f"no answer from {self._who}: {text}", hint)

    def _judged(self, answer: _Answer, position: int, now: datetime, limits: LagLimits) -> Reading:
        if not answer.in_recovery:
            reason = f"{self._who} is no standby (any more)"
            return unknown(self.name, str(limits), reason, "correct replica_urls in the table [throttle]")
        if answer.replayed is None or answer.seen_until is None:
            return unknown(
                self.name, str(limits), f"{self._who} has not replayed anything yet", "wait until it streams"
            )
        at = self._clock()
        by_position = self._timeline.seconds_behind(answer.replayed, at)
        seconds = max(by_position, self._since_unseen(answer.seen_until, now).total_seconds())
        lag = Lag(bytes=max(0, position - answer.replayed), seconds=seconds)
        lag = self._pursuit.measured(lag, replayed=answer.replayed, limits=limits, at=at)
        return judged(self._who, lag, limits, self._memory)

    def _since_unseen(self, seen_until: datetime, now: datetime) -> timedelta:
        """The age of the first heartbeat that is not visible there; without it, a wrong server would look fine."""
        unseen = self._heartbeat.first_after(seen_until)
        return timedelta(0) if unseen is None else max(timedelta(0), now - unseen)
