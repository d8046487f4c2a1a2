"""Seeing that statements fail: sessions, rolled back transactions, and the server's log where it can be read.

No view counts errors. A statement that was refused leaves three traces: its text, until the session's next one; a rolled back
transaction, which a busy session reports within a second, and one that then has nothing to do within ten; and a line in the log.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime

import psycopg

from zdmigrate.postgres import session
from zdmigrate.postgres.session import NAME, Connection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A session whose last statement began, or whose transaction failed, after a moment. `partial`: the text was cut."""

    pid: int
    role: str
    name: str
    aborted: bool
    text: str
    partial: bool

    def __str__(self) -> str:
        return f"role {self.role}, session {self.name or 'without a name'} (pid {self.pid})"


_SESSIONS = """
SELECT pid, usename::text, application_name, state = 'idle in transaction (aborted)', query,
       octet_length(query) >= pg_size_bytes(current_setting('track_activity_query_size')) - 1
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT LIKE %(ours)s
  AND (state = 'idle in transaction (aborted)' AND state_change > %(since)s
       OR query_start > %(since)s AND EXISTS (
           SELECT FROM unnest(%(words)s::text[]) AS w (w) WHERE strpos(lower(query), lower(w)) > 0))"""


def sessions(connection: Connection, since: datetime, words: Sequence[str]) -> list[Seen]:
    """Others' sessions whose last statement is newer and contains one of `words`, or whose transaction failed."""
    given = {"ours": f"{NAME}%", "since": since, "words": list(words)}
    rows = connection.execute(_SESSIONS, given).fetchall()
    names = [field.name for field in dataclasses.fields(Seen)]
    return [Seen(**dict(zip(names, row, strict=True))) for row in rows]


def sees_sessions(connection: Connection) -> bool:
    """Whether we are shown what other roles' sessions do."""
    row = connection.execute("SELECT pg_has_role('pg_read_all_stats', 'USAGE')").fetchone()
    return row is not None and bool(row[0])


def rollbacks(connection: Connection) -> int:
    """How many of this database's transactions were rolled back so far, as far as sessions have reported."""
    query = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


class Rises:
    """How much a counter has risen within a second, at most. Pure; times are in seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.most = 0

    def see(self, now: float, count: int) -> int:
        """The rise within the last second."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - 1.0:
            self._seen.popleft()
        self._seen.append((now, count))
        rise = count - self._seen[0][1]
        self.most = max(self.most, rise)
        return rise

    def forget(self) -> None:
        """What comes next is compared with nothing that was before."""
        self._seen.clear()

    @property
    def allowed(self) -> int:
        """What is still usual: nothing where nothing was seen, else twice as much and a few."""
        return 2 * self.most + 5 if self.most else 0


_LOG = """
SELECT pg_current_logfile(), (pg_stat_file(pg_current_logfile())).size,
       current_setting('log_min_messages') NOT IN ('log', 'fatal', 'panic')
       AND (current_setting('lc_messages') IN ('', 'C', 'POSIX') OR current_setting('lc_messages') ~ '^(C\\.|en)')"""

_READ = "SELECT pg_current_logfile(), pg_read_binary_file(%s, %s, 1000000, true)"


class ServerLog:
    """What the server has written to its log since. Made by `open`."""

    def __init__(self, connection: Connection, path: str, place: int) -> None:
        self._connection = connection
        self._path = path
        self._place = place
        self._rest = ""

    @classmethod
    def open(cls, connection: Connection) -> ServerLog | None:
        """None where there is none, errors are not in it, or we must not read it."""
        try:
            path, size, complete = connection.execute(_LOG).fetchone() or (None, 0, False)
            log = None if path is None or not complete else cls(connection, path, size)
            if log is not None:
                log.lines()
        except psycopg.Error as error:
            if session.is_lost(error):
                raise
            return None
        return log

    def lines(self) -> list[str]:
        """New ones."""
        current, data = self._connection.execute(_READ, (self._path, self._place)).fetchone() or (None, b"")
        self._place += len(data or b"")
        text = self._rest + (data or b"").decode(errors="replace")
        *whole, self._rest = text.split("\n")
        if current is not None and current != self._path and not data:
            self._path, self._place = current, 0
        return whole


def denied(lines: Iterable[str], names: Iterable[str]) -> tuple[str, str] | None:
    """What the server said of the first statement that was refused for want of a right on one of `names`, and its first line."""
    listed = "|".join(re.escape(name) for name in names)
    wanted = re.compile(
        rf'permission denied for (?:materialized |foreign )?(?:table|view|column) (?:{listed})(?=["\s]|$)'
    )
    found = ""
    for line in lines:
        if found and (said := re.search(r"STATEMENT:\s*(.*)", line)):
            return found, said.group(1)
        if not found and (match := wanted.search(line)):
            found = match.group()
    return (found, "") if found else None
