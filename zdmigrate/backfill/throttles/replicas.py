"""Replica lag, as the primary sees it: every expected standby, in bytes and in seconds."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from zdmigrate.backfill.throttles import standbys, words
from zdmigrate.backfill.throttles.heartbeat import Heartbeat
from zdmigrate.backfill.throttles.hysteresis import Hysteresis
from zdmigrate.backfill.throttles.lag import LagLimits, judged
from zdmigrate.backfill.throttles.pursuit import Pursuit
from zdmigrate.backfill.throttles.reading import Lag, Reading, unknown
from zdmigrate.backfill.throttles.standbys import Standby, View
from zdmigrate.backfill.throttles.steering import Said, Steering
from zdmigrate.backfill.throttles.timeline import Timeline
from zdmigrate.postgres.session import Connection

_REMAIN = "start it; if it is gone for good, name those that remain: standbys in the table [throttle]"


class ReplicaLag:
    """One reading for each expected standby; one that is not connected is unhealthy, unless `ignore_missing`.

    Args:
        expected: names as in pg_stat_replication; None: those that were there when the backfill began, and of those
            that have come since, the lag alone.
        timeline: positions of the primary; shared with those who ask standbys themselves.
    """

    name = "replica lag"

    def __init__(
        self,
        *,
        limits: LagLimits,
        expected: Sequence[str] | None,
        steering: Steering,
        heartbeat: Heartbeat,
        timeline: Timeline,
        ignore_missing: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configured, self._expected = limits, expected
        self._steering, self._heartbeat, self._timeline = steering, heartbeat, timeline
        self._ignore_missing, self._clock = ignore_missing, clock
        self._memory = Hysteresis()
        self._pursuits: defaultdict[str, Pursuit] = defaultdict(Pursuit)

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Look at all of them; where there are none, no heartbeat is written either."""
        said = self._steering.read(connection)
        limits = self._configured.overridden(said)
        view = standbys.look(connection)
        now = self._clock()
        self._timeline.note(view.position, now)
        if view.receivers and not view.permitted and self._expected != ():
            return [self._hidden(view, limits, connection)]
        expected = self._expect(connection, said, view)
        if not expected:
            return [Reading(name=self.name, value="no standby", threshold=str(limits), healthy=True)]
        self._heartbeat.beat(connection)
        return [reading for name in sorted(expected) for reading in self._of(name, expected[name], view, limits, now)]

    def _expect(self, connection: Connection, said: Said, view: View) -> Mapping[str, int]:
        """How many of each name must be there. Those that have come since need not, but must not lag either."""
        if self._expected is not None:
            return Counter(self._expected)
        wanted = said.standbys
        expected = self._seen(connection, said, view) if wanted is None else Counter(wanted)
        return dict.fromkeys(view.standbys, 0) | expected

    def _seen(self, connection: Connection, said: Said, view: View) -> Counter[str]:
        """Those of the beginning."""
        if said.seen is None:
            return Counter(self._steering.keep_standbys(connection, view.standbys, view.timeline))
        seen = Counter(said.seen)
        return seen if said.seen_timeline in (None, view.timeline) else _without_promoted(seen, view)

    def _of(self, name: str, expected: int, view: View, limits: LagLimits, now: float) -> Iterator[Reading]:
        """The readings of all standbys of one name."""
        found = view.named(name)
        for standby in found:
            who = name if len(found) == 1 else f"{name} ({standby.address or f'pid {standby.pid}'})"
            yield self._judged(who, standby, view, limits, now)
        missing = expected - len(found)
        if missing > 0:
            yield self._missing(name if expected == 1 else f"{name} ({missing} of {expected})", limits)

    def _judged(self, who: str, standby: Standby, view: View, limits: LagLimits, now: float) -> Reading:
        if standby.replayed is None:
            reason = f"{who} is connected, but says nothing of what it has replayed (state {standby.state})"
            return unknown(f"lag of {who}", str(limits), reason, "wait until it streams")
        seconds = self._timeline.seconds_behind(standby.replayed, now)
        if not self._timeline.reaches(standby.replayed) and standby.replay_lag is not None:
            seconds = max(seconds, standby.replay_lag.total_seconds())
        lag = Lag(bytes=max(0, view.position - standby.replayed), seconds=seconds)
        lag = self._pursuits[who].measured(lag, replayed=standby.replayed, limits=limits, at=now)
        return judged(who, lag, limits, self._memory)

    def _missing(self, who: str, limits: LagLimits) -> Reading:
        return Reading(
            name=f"lag of {who}",
            value="missing",
            threshold=str(limits),
            healthy=self._ignore_missing,
            reason=None if self._ignore_missing else f"{who} is not connected to the primary",
            hint=None if self._ignore_missing else _REMAIN,
        )

    def _hidden(self, view: View, limits: LagLimits, connection: Connection) -> Reading:
        names = ", ".join(sorted({receiver.name for receiver in view.receivers}))
        reason = f"no permission to see the lag of {names}"
        return unknown(self.name, str(limits), reason, words.grant("pg_read_all_stats", connection))


def _without_promoted(expected: Counter[str], view: View) -> Counter[str]:
    """One of them has become the primary since: where a single one is missing, it is that one."""
    missing = expected - Counter(view.standbys)
    return expected - missing if missing.total() == 1 else expected
