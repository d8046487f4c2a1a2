"""A query of the user's own: one number, against a limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from psycopg import errors

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.hysteresis import Hysteresis, Limit
from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

_TIMEOUT = timedelta(seconds=1)
_HINT = "the query of [[throttle.queries]] must return one row with one number, within a second"


class CustomQuery:
    """One reading. The query runs in a read-only transaction, for at most a second; names in it are qualified."""

    def __init__(self, *, name: str, sql: str, most: float) -> None:
        self.name, self._sql = name, sql
        self._limit = Limit.of_level(most)
        self._threshold = words.at_most(f"{most:g}")
        self._memory = Hysteresis()

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Run the query."""
        try:
            value = _number(self._rows(connection))
        except errors.InsufficientPrivilege as error:
            hint = f"grant it to {ident(connection.info.user)}"
            return [unknown(self.name, self._threshold, f"{self.name}: {error.diag.message_primary}", hint)]
        if value is None:
            return [unknown(self.name, self._threshold, f"{self.name}: the query returned no number", _HINT)]
        healthy = self._memory.is_healthy(self.name, value, self._limit)
        reason = None if healthy else f"{self.name} is {value:g}"
        return [Reading(name=self.name, value=f"{value:g}", threshold=self._threshold, healthy=healthy, reason=reason)]

    def _rows(self, connection: Connection) -> list[tuple[Any, ...]]:
        limits = session.transaction(connection, lock_timeout=_TIMEOUT, statement_timeout=_TIMEOUT, read_only=True)
        with limits as cursor:
            cursor.execute(self._sql.encode(), prepare=False)  # its tables may change
            return cursor.fetchall() if cursor.description else []


def _number(rows: Sequence[tuple[Any, ...]]) -> float | None:
    if len(rows) != 1 or len(rows[0]) != 1:
        return None
    value = rows[0][0]
    return float(value) if type(value) in (int, float, Decimal) else None
