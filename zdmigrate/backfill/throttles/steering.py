"""What `backfill_control` says about lag, and where the standbys are kept that were there when the backfill began."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta

from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

_READ = "SELECT max_lag, max_lag_time, standbys, timeline FROM {control} WHERE migration = %s"

# Whoever comes second keeps what the first has seen: a standby that is gone since is missing.
_KEEP = """
INSERT INTO {control} AS c (migration, standbys, timeline) VALUES (%s, %s, %s)
ON CONFLICT (migration) DO UPDATE SET standbys = coalesce(c.standbys, excluded.standbys),
    timeline = CASE WHEN c.standbys IS NULL THEN excluded.timeline ELSE c.timeline END
RETURNING standbys
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """None: nothing, so what is configured holds. `max_lag` is in bytes, `timeline` that of the primary who noted `standbys`."""

    max_lag: int | None = None
    max_lag_time: timedelta | None = None
    standbys: tuple[str, ...] | None = None
    timeline: int | None = None


class Steering:
    """A migration's row."""

    def __init__(self, control_schema: str, migration: int) -> None:
        self._table, self._migration = ident(control_schema, "backfill_control"), migration

    def read(self, connection: Connection) -> Said:
        """What is said now."""
        row = connection.execute(self._sql(_READ), (self._migration,)).fetchone()
        if row is None:
            return Said()
        max_lag, max_lag_time, names, timeline = row
        standbys = None if names is None else tuple(names)
        return Said(max_lag=max_lag, max_lag_time=max_lag_time, standbys=standbys, timeline=timeline)

    def keep_standbys(self, connection: Connection, names: Sequence[str], timeline: int) -> tuple[str, ...]:
        """Store them unless some are stored; those that are."""
        row = connection.execute(self._sql(_KEEP), (self._migration, list(names), timeline)).fetchone()
        assert row is not None
        return tuple(row[0])

    def _sql(self, statement: str) -> bytes:
        return statement.replace("{control}", self._table).encode()
