"""Connections, transactions and timeouts. Every session of zdmigrate is made here.

A session that hangs must block nobody: an idle transaction of ours is ended by the server, and a server process whose
client is gone notices (manual, sections 20.3 and 20.11).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Self, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zdmigrate.errors import Unsafe

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Cursor: TypeAlias = psycopg.Cursor[tuple[Any, ...]]

NAME = "zdmigrate "
"""What the ``application_name`` of every session begins with."""
MARK = "/* zdmigrate */"
"""What the text of every statement ends with, so that statistics of statements tell ours from an application's.

At the end: PostgreSQL 18 leaves out comments at the beginning.
"""
CATALOG_PATH = "pg_catalog"
_LAST_WORDS = ("57P01", "57P02", "57P03")  # ended by an administrator, by a crash, not (yet) accepting connections
MINIMUM_VERSION = 150000

_IDLE_IN_TRANSACTION = timedelta(seconds=5)
_SETTINGS = {
    "idle_in_transaction_session_timeout": str(int(_IDLE_IN_TRANSACTION.total_seconds() * 1000)),
    "statement_timeout": "60000",
    "lock_timeout": "2000",
    "row_security": "off",  # rather an error than rows that nobody sees
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "jit": "off",  # the costs of catalog queries are guesses, and compiling one takes longer than a whole plan
    "search_path": CATALOG_PATH,
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
}


# A network that is cut says nothing: within half a minute it is found out, and not after two hours.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}


def connect(conninfo: str, *, purpose: str) -> Connection:
    """A direct, autocommit connection with every timeout set; `purpose` shows in ``application_name``.

    Raises:
        Unsafe: a connection pooler stands between, the server is a standby, or older than 15.
        psycopg.OperationalError: no connection.
    """
    given = _KEEPALIVES | conninfo_to_dict(conninfo) | {"application_name": f"{NAME}{purpose}"}
    connection = psycopg.connect(
        make_conninfo("", **given), autocommit=True, prepare_threshold=None, cursor_factory=_MarkedCursor
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


class _MarkedCursor(psycopg.Cursor[tuple[Any, ...]]):
    """Its statements carry `MARK`."""

    def execute(self, query: Any, params: Any = None, **how: Any) -> Self:
        return super().execute(_marked(query), params, **how)


def _marked(query: Any) -> Any:
    mark = f"\n{MARK}"  # on a line of its own, for what ends in a comment
    match query:
        case bytes():
            return query + mark.encode()
        case str():
            return query + mark
        case _:
            return sql.Composed([query, sql.SQL(mark)])


def _prepare(connection: Connection) -> None:
    about = sql.SQL(", pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()")
    row = connection.execute(_set(_SETTINGS) + about).fetchone()
    assert row is not None
    *_, pid, standby = row
    if pid != connection.info.backend_pid:
        raise Unsafe(
            "a connection pooler stands between zdmigrate and the server (the server process is not the one that "
            "answered the connection)",
            hint="give zdmigrate the server's own host and port; applications may go on using the pooler",
        )
    if standby:
        raise Unsafe("the server is a standby", hint="connect to the primary, or use target_session_attrs=read-write")
    if connection.info.server_version < MINIMUM_VERSION:
        raise Unsafe(f"the server is PostgreSQL {connection.info.server_version // 10000}; zdmigrate needs 15 or later")
    with contextlib.suppress(psycopg.Error):  # not on every platform of the server
        connection.execute("SELECT pg_catalog.set_config('client_connection_check_interval', '2000', false)")


def is_lost(error: psycopg.Error) -> bool:
    """Whether the server, or the way to it, is gone: no answer, or an administrator's or a crash's last words."""
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate is None or error.sqlstate in _LAST_WORDS)


@contextlib.contextmanager
def transaction(
    connection: Connection,
    *,
    lock_timeout: timedelta,
    statement_timeout: timedelta = timedelta(seconds=60),
    search_path: str = CATALOG_PATH,
    read_only: bool = False,
) -> Iterator[Cursor]:
    """One transaction with its own timeouts. They end with it, however it ends."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true), "
            "set_config('search_path', %s, true), set_config('transaction_read_only', %s, true)",
            (milliseconds(lock_timeout), milliseconds(statement_timeout), search_path, "on" if read_only else "off"),
        )
        yield cursor


@contextlib.contextmanager
def rolled_back(
    connection: Connection,
    *,
    lock_timeout: timedelta,
    statement_timeout: timedelta = timedelta(seconds=60),
    search_path: str = CATALOG_PATH,
) -> Iterator[Cursor]:
    """A transaction that leaves nothing behind."""
    inner = transaction(
        connection, lock_timeout=lock_timeout, statement_timeout=statement_timeout, search_path=search_path
    )
    with connection.transaction(force_rollback=True), inner as cursor:
        yield cursor


@contextlib.contextmanager
def settings(connection: Connection, **values: str) -> Iterator[None]:
    """Session settings for statements that cannot run in a transaction; restored afterwards."""
    connection.execute(_set(values))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(_set({name: _SETTINGS[name] for name in values}))


def _set(values: Mapping[str, str]) -> sql.Composed:
    """All of them in one statement, for the session."""
    each = sql.SQL("pg_catalog.set_config({}, {}, false)")
    return sql.SQL("SELECT ") + sql.SQL(", ").join(each.format(*map(sql.Literal, item)) for item in values.items())


def milliseconds(value: timedelta) -> str:
    """A duration as the server's settings take it; at least 1, because 0 would mean "no limit"."""
    return str(max(1, int(value.total_seconds() * 1000)))
