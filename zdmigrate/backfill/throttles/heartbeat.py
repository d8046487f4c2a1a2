"""A row that is written now and then, so that on an idle primary a standby that stands still is told from one that has
nothing to do.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

# Several processes share the row: one of them writes. A time of the future is that of a clock that was set back.
_BEAT = """
INSERT INTO {heartbeat} AS h (at) VALUES (clock_timestamp())
ON CONFLICT (id) DO UPDATE SET at = excluded.at WHERE h.at NOT BETWEEN excluded.at - %s AND excluded.at
RETURNING at
"""


class Heartbeat:
    """The row `heartbeat` of the control schema, written at most every `every`.

    Takes a lock on that row. It does not wait for standbys: the session has ``synchronous_commit = off``.
    """

    def __init__(
        self,
        control_schema: str,
        *,
        every: timedelta = timedelta(seconds=1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = ident(control_schema, "heartbeat")
        self._every, self._clock = every, clock
        self._next = float("-inf")
        self._written: deque[datetime] = deque(maxlen=4096)

    def beat(self, connection: Connection) -> None:
        """Write the row if it is time."""
        if self._clock() < self._next:
            return
        statement = _BEAT.replace("{heartbeat}", self.table)
        row = connection.execute(statement.encode(), (self._every / 2,)).fetchone()
        self._next = self._clock() + self._every.total_seconds()
        if row is not None:
            if self._written and row[0] < self._written[-1]:
                self._written.clear()
            self._written.append(row[0])

    def first_after(self, at: datetime) -> datetime | None:
        """The first beat of ours that somebody who has seen everything up to `at` has not seen."""
        number = bisect_right(self._written, at)
        return self._written[number] if number < len(self._written) else None
