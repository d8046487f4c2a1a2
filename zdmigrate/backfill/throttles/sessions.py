"""How many sessions of others are active, or wait. Each is a query for their pids."""

from __future__ import annotations

from collections.abc import Sequence

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.postgres.session import Connection

_OTHERS = "a.pid <> pg_backend_pid() AND a.application_name NOT LIKE 'zdmigrate%'"

_ACTIVE = f"""
SELECT a.pid FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.state = 'active' AND {_OTHERS}
"""

# Locks are everybody's to see.
_LOCK_WAITERS = f"""
SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE NOT l.granted AND a.datname = current_database() AND {_OTHERS}
"""

# Names of wait events were changed in 17: WALWrite became WalWrite.
_IO_WAITERS = f"""
SELECT a.pid FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.state = 'active' AND {_OTHERS}
  AND (a.wait_event_type = 'IO' OR lower(a.wait_event) IN ('walwrite', 'walinsert', 'walsync'))
"""
_PERMITTED = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"


class Sessions:
    """One reading: the number of sessions that a query finds. Those of zdmigrate do not count."""

    def __init__(self, name: str, query: str, most: int, *, hidden: bool) -> None:
        self.name, self._query, self._hidden = name, query, hidden
        self._limit = Limit.of_level(most)
        self._threshold = words.at_most(str(most))
        self._memory = Hysteresis()

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        if self._hidden and connection.execute(_PERMITTED).fetchone() != (True,):
            hint = words.grant("pg_read_all_stats", connection)
            return [unknown(self.name, self._threshold, f"no permission to see {self.name}", hint)]
        pids = [pid for (pid,) in connection.execute(self._query.encode()).fetchall()]
        healthy = self._memory.is_healthy(self.name, len(pids), self._limit)
        shown = ", ".join(str(pid) for pid in sorted(pids)[:5]) + (", …" if len(pids) > 5 else "")
        return [
            Reading(
                name=self.name,
                value=str(len(pids)),
                threshold=self._threshold,
                healthy=healthy,
                reason=None if healthy else f"{self.name}: {len(pids)} (pid {shown})",
            )
        ]


def active(most: int) -> Sessions:
    """Sessions that execute something, of the whole server; needs pg_read_all_stats."""
    return Sessions("active sessions", _ACTIVE, most, hidden=True)


def lock_waiters(most: int) -> Sessions:
    """Sessions of the database that wait for a lock, of whatever kind."""
    return Sessions("sessions waiting for locks", _LOCK_WAITERS, most, hidden=False)


def io_waiters(most: int) -> Sessions:
    """Sessions that wait for a disk, or for the WAL to be written; needs pg_read_all_stats."""
    return Sessions("sessions waiting for WAL or I/O", _IO_WAITERS, most, hidden=True)
