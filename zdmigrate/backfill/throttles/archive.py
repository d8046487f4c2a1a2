"""Archiving of WAL: segments that wait for it fill the disk, and one that cannot be archived makes all others wait."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.postgres.session import Connection

_QUERY = """
SELECT current_setting('archive_mode') <> 'off', pg_size_bytes(current_setting('wal_segment_size')),
       pg_walfile_name(pg_current_wal_lsn()), last_archived_wal, last_archived_time, last_failed_wal, last_failed_time,
       has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')
FROM pg_stat_archiver
"""
_READY = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
_HINT = "see the server's log for what archive_command or archive_library says"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    on: bool
    segment: int
    current: str
    archived: str | None
    archived_at: datetime | None
    failed: str | None
    failed_at: datetime | None
    may_list: bool

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self.failed_at is not None and (self.archived_at is None or self.failed_at > self.archived_at)


class Archive:
    """One reading: bytes that wait to be archived, and whether archiving works.

    Segments are counted where the role may (pg_monitor); else what lies between the last archived one and the current.

    Args:
        most: bytes that may wait.
    """

    name = "archive"

    def __init__(self, most: int) -> None:
        self._limit = Limit.of_backlog(most)
        self._threshold = words.at_most(words.size(most))
        self._memory = Hysteresis()

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        row = connection.execute(_QUERY).fetchone()
        assert row is not None
        names = [field.name for field in dataclasses.fields(_State)]
        state = _State(**dict(zip(names, row, strict=True)))
        if not state.on:
            return [Reading(name=self.name, value="off", threshold=self._threshold, healthy=True)]
        waiting = _listed(connection) if state.may_list else between(state.archived, state.current, state.segment)
        if waiting is None:
            hint = words.grant("pg_monitor", connection)
            return [
                unknown(self.name, self._threshold, "no permission to see how many segments wait for archiving", hint)
            ]
        return [self._judged(state, waiting * state.segment)]

    def _judged(self, state: _State, waiting: int) -> Reading:
        reason = None
        if not self._memory.is_healthy(self.name, waiting, self._limit):
            reason = f"{words.size(waiting)} of WAL wait to be archived"
        if state.is_failing:
            reason = f"archiving of {state.failed} failed at {state.failed_at:%Y-%m-%d %H:%M:%S} UTC"
        return Reading(
            name=self.name,
            value=f"{words.size(waiting)} waiting",
            threshold=self._threshold,
            healthy=reason is None,
            reason=reason,
            hint=None if reason is None else _HINT,
        )


def _listed(connection: Connection) -> int:
    row = connection.execute(_READY).fetchone()
    assert row is not None
    return int(row[0])


def between(archived: str | None, current: str, segment: int) -> int | None:
    """Complete segments after the archived one; None where no segment is known to be archived.

    A name is timeline, and the segment's number in two parts (manual, section 28.5); suffixes are of other files.
    """
    if archived is None:
        return None
    try:
        return max(0, _number(current, segment) - _number(archived, segment) - 1)
    except ValueError:  # a timeline's history file
        return None


def _number(name: str, segment: int) -> int:
    return int(name[8:16], 16) * (2**32 // segment) + int(name[16:24], 16)
