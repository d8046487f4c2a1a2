"""Statements that the server counts (``pg_stat_statements``), and what they were at the last look.

The server knows how often a statement has run, and not when. So a look is kept: what has run more often at the next one has run
between the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from zdmigrate.control.store import Store
from zdmigrate.postgres import session
from zdmigrate.postgres.session import MARK, Connection

_LOCK = timedelta(milliseconds=250)

_WHERE = """
SELECT n.nspname, clock_timestamp(), current_setting('pg_stat_statements.track', true)
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'"""

# Our own do not count. One statement may have an entry for functions, and one for clients.
_READ = """
SELECT s.userid, pg_get_userbyid(s.userid)::text, s.queryid, min(s.query), sum(s.calls)::bigint,
       sum(s.total_exec_time)::double precision
FROM {view} AS s
WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (s.queryid IS NULL OR s.query IS NULL
       OR strpos(s.query, %s) = 0 AND EXISTS (SELECT FROM unnest(%s::text[]) AS w (w) WHERE strpos(lower(s.query), lower(w)) > 0))
GROUP BY 1, 3"""

_INFO = "SELECT dealloc, stats_reset FROM {info}"

Key = tuple[int, int]
"""A role's oid and the server's number of a statement."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A statement of one role as the server counts it: how often it ran, and for how long in milliseconds."""

    key: Key
    role: str
    text: str
    calls: int
    exec_time: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the server says. `problem` where it says nothing.

    `hidden` statements of other roles may not be read, the text of `lost` ones is gone; `forgotten` had to make room so far, and
    everything was forgotten at `reset`. `reserved`: words that are names only in quotes. `track`: the server's setting.
    """

    at: datetime | None = None
    counted: tuple[Counted, ...] = ()
    hidden: int = 0
    lost: int = 0
    forgotten: int | None = None
    reset: datetime | None = None
    reserved: frozenset[str] = frozenset()
    track: str = "top"
    problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A statement at the last look. `ran`: how often since the first; `ran_at`: the look that found it last."""

    calls: int
    exec_time: float
    ran: int = 0
    ran_at: datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The last look. `since` is when the first one was, and `forgotten` what the server had forgotten by then."""

    since: datetime
    looked_at: datetime
    forgotten: int | None
    marks: Mapping[Key, Mark]


def read(connection: Connection, words: Sequence[str]) -> Reading:
    """This database's statements that contain one of `words`, in any case. Never an error, unless the server is gone."""
    try:
        return _read(connection, words)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        problem = "pg_stat_statements is installed, but not in shared_preload_libraries"
    except psycopg.errors.UndefinedColumn:
        problem = "pg_stat_statements is of an older server: ALTER EXTENSION pg_stat_statements UPDATE"
    except psycopg.errors.InsufficientPrivilege as error:
        problem = f"{error.diag.message_primary}: GRANT pg_read_all_stats"
    except psycopg.Error as error:
        if session.is_lost(error):
            raise
        problem = f"pg_stat_statements cannot be read: {error.diag.message_primary or error}"
    return Reading(problem=problem)


def reserved_words(connection: Connection) -> frozenset[str]:
    """The words that the server takes for names of tables and columns only in quotes."""
    query = "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')"
    return frozenset(word for (word,) in connection.execute(query).fetchall())


def _read(connection: Connection, words: Sequence[str]) -> Reading:
    there = connection.execute(_WHERE.encode()).fetchone()
    if there is None:
        return Reading(problem="pg_stat_statements is not installed in this database")
    schema, at, track = there
    view = sql.SQL(_READ).format(view=sql.Identifier(schema, "pg_stat_statements"))
    rows = connection.execute(view, (MARK, list(words))).fetchall()
    forgotten = reset = None
    with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        info = sql.SQL(_INFO).format(info=sql.Identifier(schema, "pg_stat_statements_info"))
        forgotten, reset = connection.execute(info).fetchone() or (None, None)
    return Reading(
        at=at,
        counted=tuple(
            Counted(key=(userid, queryid), role=role, text=text, calls=calls, exec_time=exec_time)
            for userid, role, queryid, text, calls, exec_time in rows
            if queryid is not None and text is not None
        ),
        hidden=sum(calls for _, _, queryid, _, calls, _ in rows if queryid is None),
        lost=sum(queryid is not None and text is None for _, _, queryid, text, _, _ in rows),
        forgotten=forgotten, reset=reset, reserved=reserved_words(connection), track=track or "top",
    )  # fmt: skip


def last(connection: Connection, store: Store, migration: int, shape: str) -> Look | None:
    """The last look for a shape of a migration; None before the first."""
    query = (
        f"SELECT since, looked_at, forgotten FROM {store.table('statement_look')} WHERE migration = %s AND shape = %s"
    )
    row = connection.execute(query.encode(), (migration, shape)).fetchone()
    if row is None:
        return None
    query = (
        f"SELECT userid, queryid, calls, exec_time, ran, ran_at FROM {store.table('statement_mark')} "
        "WHERE migration = %s AND shape = %s"
    )
    marks = {
        (userid, queryid): Mark(calls=calls, exec_time=exec_time, ran=ran, ran_at=ran_at)
        for userid, queryid, calls, exec_time, ran, ran_at in connection.execute(query.encode(), (migration, shape))
    }
    return Look(since=row[0], looked_at=row[1], forgotten=row[2], marks=marks)


def keep(connection: Connection, store: Store, migration: int, shape: str, look: Look) -> str | None:
    """Keep a look; why not, where that is not possible now: the next look compares with the one before, then.

    Two at once: each adds what it has seen.
    """
    looks, marks = store.table("statement_look"), store.table("statement_mark")
    kept = list(look.marks.items())
    given = (
        migration, shape, [key[0] for key, _ in kept], [key[1] for key, _ in kept], [m.calls for _, m in kept],
        [m.exec_time for _, m in kept], [m.ran for _, m in kept], [m.ran_at for _, m in kept],
    )  # fmt: skip
    upsert_look = f"""
INSERT INTO {looks} AS l (migration, shape, since, looked_at, forgotten) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (migration, shape) DO UPDATE
SET looked_at = greatest(l.looked_at, excluded.looked_at)"""
    upsert_marks = f"""
INSERT INTO {marks} AS m (migration, shape, userid, queryid, calls, exec_time, ran, ran_at)
SELECT %s, %s, * FROM unnest(%s::oid[], %s::bigint[], %s::bigint[], %s::float8[], %s::bigint[], %s::timestamptz[])
ON CONFLICT (migration, shape, userid, queryid) DO UPDATE
SET calls = excluded.calls, exec_time = excluded.exec_time, ran = greatest(m.ran, excluded.ran),
    ran_at = greatest(m.ran_at, excluded.ran_at)"""
    try:
        with session.transaction(connection, lock_timeout=_LOCK, statement_timeout=timedelta(seconds=5)) as cursor:
            about = (migration, shape, look.since, look.looked_at, look.forgotten)
            cursor.execute(upsert_look.encode(), about)
            cursor.execute(upsert_marks.encode(), given)
    except psycopg.Error as error:
        if session.is_lost(error):
            raise
        return error.diag.message_primary or str(error)
    return None


def compared(before: Look | None, at: datetime, found: Iterable[Counted], forgotten: int | None) -> Look:
    """The look that follows: what has run since the one before, and how often since the first. Pure."""
    marks = {} if before is None else dict(before.marks)
    for each in found:
        mark = marks.get(each.key)
        if before is None:
            marks[each.key] = Mark(calls=each.calls, exec_time=each.exec_time)
        elif mark is None or (mark.calls, mark.exec_time) != (each.calls, each.exec_time):
            # Fewer than before, or as many in another time: the statistics were reset, or made room, and began anew.
            more = each.calls - mark.calls if mark is not None else each.calls
            ran = (0 if mark is None else mark.ran) + (more if more > 0 else each.calls)
            marks[each.key] = Mark(calls=each.calls, exec_time=each.exec_time, ran=ran, ran_at=at)
    if before is None:
        return Look(since=at, looked_at=at, forgotten=forgotten, marks=marks)
    return dataclasses.replace(before, looked_at=at, marks=marks)
