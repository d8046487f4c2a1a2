"""Replication slots: the WAL that they retain fills the disk, or is taken from them (manual, section 26.2.6)."""

from __future__ import annotations

from collections.abc import Sequence

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Reading
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import literal

# Everybody may see this view. A slot that never had a position retains nothing.
_QUERY = """
SELECT slot_name, active_pid, wal_status,
       CASE WHEN restart_lsn IS NOT NULL THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
            WHEN wal_status IS NULL OR wal_status = 'lost' THEN 0 END
FROM pg_replication_slots ORDER BY slot_name
"""


class Slots:
    """One reading for each slot.

    Args:
        most: bytes of WAL that a slot may retain.
    """

    name = "WAL of slots"

    def __init__(self, most: int) -> None:
        self._limit = Limit.of_backlog(most)
        self._threshold = words.at_most(words.size(most))
        self._memory = Hysteresis()

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        rows = connection.execute(_QUERY).fetchall()
        if not rows:
            return [Reading(name=self.name, value="no slot", threshold=self._threshold, healthy=True)]
        return [self._judged(*row) for row in rows]

    def _judged(self, slot: str, pid: int | None, status: str | None, retained: int | None) -> Reading:
        value = "unknown" if retained is None else words.size(retained)
        reason = self._reason(slot, status, value, small=self._memory.is_healthy(slot, retained, self._limit))
        return Reading(
            name=f"WAL of slot {slot}",
            value=f"{value} ({status or 'nothing reserved'})",
            threshold=self._threshold,
            healthy=reason is None,
            reason=reason,
            hint=None if reason is None else _hint(slot, pid),
        )

    def _reason(self, slot: str, status: str | None, value: str, *, small: bool) -> str | None:
        if status == "lost":
            return f"slot {slot} has lost WAL that it needed"
        if status == "unreserved":
            return f"slot {slot} is about to lose WAL that it needs ({value} behind)"
        return None if small else f"slot {slot} retains {value} of WAL"


def _hint(slot: str, pid: int | None) -> str:
    if pid is not None:
        return f"see why its receiver is slow (pid {pid})"
    return f"start its receiver; if it is gone for good: SELECT pg_drop_replication_slot({literal(slot)})"
