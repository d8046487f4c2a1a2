"""What `backfill_control` says about lag, and where the standbys are kept that were there when the backfill began."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta

from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

_READ = "SELECT max_lag, max_lag_time, standbys, seen_standbys, seen_timeline FROM {control} WHERE migration = %s"

# Whoever comes second keeps what the first has seen: a standby that is gone since is missing.
_KEEP = """
INSERT INTO {control} AS c (migration, seen_standbys, seen_timeline) VALUES (%s, %s, %s)
ON CONFLICT (migration) DO UPDATE SET seen_standbys = coalesce(c.seen_standbys, excluded.seen_standbys),
    seen_timeline = CASE WHEN c.seen_standbys IS NULL THEN excluded.seen_timeline ELSE c.seen_timeline END
RETURNING seen_standbys
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """None: nothing, so what is configured holds. `max_lag` is in bytes.

    `seen` are the standbys of the beginning, and `seen_timeline` is that of the primary then.
    """

    max_lag: int | None = None
    max_lag_time: timedelta | None = None
    standbys: tuple[str, ...] | None = None
    seen: tuple[str, ...] | None = None
    seen_timeline: int | None = None


class Steering:
    """A migration's row."""

    def __init__(self, control_schema: str, migration: int) -> None:
        self._table, self._migration = ident(control_schema, "backfill_control"), migration

    def read(self, connection: Connection) -> Said:
        """What is said now."""
        row = connection.execute(self._sql(_READ), (self._migration,)).fetchone()
        if row is None:
            return Said()
        max_lag, max_lag_time, standbys, seen, timeline = row
        return Said(
            max_lag=max_lag,
            max_lag_time=max_lag_time,
            standbys=_names(standbys),
            seen=_names(seen),
            seen_timeline=timeline,
        )

    def keep_standbys(self, connection: Connection, names: Sequence[str], timeline: int) -> tuple[str, ...]:
        """Store them unless some are stored; those that are."""
        row = connection.execute(self._sql(_KEEP), (self._migration, list(names), timeline)).fetchone()
        assert row is not None
        return tuple(row[0])

    def _sql(self, statement: str) -> bytes:
        return statement.replace("{control}", self._table).encode()


def _names(found: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if found is None else tuple(found)
