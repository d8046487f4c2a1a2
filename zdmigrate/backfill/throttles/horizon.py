"""The xmin horizon: which transaction keeps dead rows from being pruned, and who it is.

Counted is what holds back rows of an ordinary table of this database: transactions and snapshots of the database,
prepared transactions, feedback of standbys, slots. Not counted are lazy VACUUMs and logical decoding, which the
server leaves out, too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Horizon, Reading
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import literal

# Everybody sees xids, but when a session of another role began its transaction is only for pg_read_all_stats.
_QUERY = """
WITH here AS (SELECT oid, datname FROM pg_database WHERE datname = current_database())
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, 'none', NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
SELECT NULL, 'session', a.pid::text, a.application_name, a.usename, a.backend_xid::text, a.backend_xmin::text,
       clock_timestamp() - a.xact_start
FROM pg_stat_activity a, here
WHERE a.datid = here.oid AND a.pid <> pg_backend_pid() AND coalesce(a.backend_xid, a.backend_xmin) IS NOT NULL
  AND a.leader_pid IS NULL
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
  AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = a.pid)
UNION ALL
SELECT NULL, 'standby', r.pid::text, r.application_name, NULL, NULL, r.backend_xmin::text, NULL
FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL
UNION ALL
SELECT NULL, 'prepared', x.gid, NULL, x.owner, x.transaction::text, NULL, clock_timestamp() - x.prepared
FROM pg_prepared_xacts x, here WHERE x.database = here.datname
UNION ALL
SELECT NULL, 'slot', s.slot_name, NULL, NULL, NULL, s.xmin::text, NULL FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
"""


def unwrapped(xid: int, following: int) -> int:
    """The full number of a 32-bit `xid`, near `following`, which is one (manual, section 66.1)."""
    distance = (xid - following + 2**31) % 2**32 - 2**31
    return following + distance


def oldest(rows: Sequence[tuple[Any, ...]]) -> Horizon:
    """The horizon of what the query returned."""
    following = next(int(row[0]) for row in rows if row[0] is not None)
    found = [
        Horizon(xmin=unwrapped(int(xid), following), holder=_holder(kind, who, application, user), age=age,
                remedy=_remedy(kind, who), ours=kind == "session" and (application or "").startswith(session.NAME))
        for _, kind, who, application, user, *xids, age in rows
        for xid in xids
        if xid is not None
    ]  # fmt: skip
    nobody = Horizon(xmin=following, holder="nobody", age=timedelta(0))
    return min([*found, nobody], key=lambda each: (each.xmin, -(each.age or timedelta(0))))


class OldestXmin:
    """One reading, with the horizon as its measured value.

    Args:
        oldest: how long one transaction may hold it back; None: it is only shown.
    """

    name = "xmin horizon"

    def __init__(self, longest: timedelta | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest, self._clock = longest, clock
        self._limit = None if longest is None else Limit.of_backlog(longest.total_seconds())
        self._threshold = words.at_most(None if longest is None else words.duration(longest))
        self._memory = Hysteresis()
        self._seen: tuple[int, str, float] | None = None

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        horizon = self._aged(oldest(connection.execute(_QUERY).fetchall()))
        healthy = self._memory.is_healthy(
            self.name, None if horizon.age is None else horizon.age.total_seconds(), self._limit
        )
        age = "an unknown time" if horizon.age is None else words.duration(horizon.age)
        hint = words.grant("pg_read_all_stats", connection) if horizon.age is None else horizon.remedy
        return [
            Reading(
                name=self.name,
                value=age if horizon.holder == "nobody" else f"{age}, held by {horizon.holder}",
                threshold=self._threshold,
                healthy=healthy,
                reason=None if healthy else f"{horizon.holder} has held back the xmin horizon for {age}",
                hint=None if healthy else hint,
                measured=horizon,
            )
        ]

    def _aged(self, horizon: Horizon) -> Horizon:
        """For standbys and slots, which say nothing of time: how long we have seen them hold this transaction."""
        if self._seen is None or self._seen[:2] != (horizon.xmin, horizon.holder):
            self._seen = (horizon.xmin, horizon.holder, self._clock())
        if horizon.age is not None or not horizon.holder.startswith(("standby", "slot")):
            return horizon
        age = timedelta(seconds=self._clock() - self._seen[2])
        return dataclasses.replace(horizon, age=age)


def _holder(kind: str, who: str, application: str | None, user: str | None) -> str:
    match kind:
        case "session":
            about = ", ".join(text for text in (user, application) if text)
            return f"pid {who} ({about})" if about else f"pid {who}"
        case "standby":
            return f"standby {application} (hot_standby_feedback)"
        case "prepared":
            return f"prepared transaction {who!r} ({user})"
    return f"slot {who}"


def _remedy(kind: str, who: str) -> str:
    match kind:
        case "session":
            return f"SELECT pg_terminate_backend({who})"
        case "standby":
            return "end the long queries on that standby, or set hot_standby_feedback = off there"
        case "prepared":
            return f"ROLLBACK PREPARED {literal(who)}"
    return f"start its receiver; if it is gone for good: SELECT pg_drop_replication_slot({literal(who)})"
