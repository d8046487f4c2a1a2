"""One statement in the application's own session or connection, whatever it connects with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zdmigrate.app.channels import Statement

_MARK = "zdmigrate_outbox"


def call(connection: Any, statement: Statement) -> str | None:
    """Over a SQLAlchemy `Connection`, or one of a driver: the first value of the result, if there is one."""
    if hasattr(connection, "exec_driver_sql"):
        sql = statement.numbered if connection.dialect.paramstyle == "numeric_dollar" else statement.formatted
        result = connection.exec_driver_sql(sql, tuple(statement.values))
        return result.scalar() if result.returns_rows else None
    with _cursor(connection) as cursor:
        cursor.execute(statement.formatted, statement.values or None)
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


async def call_async(connection: Any, statement: Statement) -> str | None:
    """Over an `AsyncConnection` of SQLAlchemy or psycopg, or one of asyncpg."""
    if hasattr(connection, "exec_driver_sql"):
        return await connection.run_sync(call, statement)  # type: ignore[no-any-return]
    if is_asyncpg(connection):
        return await connection.fetchval(statement.numbered, *statement.values)  # type: ignore[no-any-return]
    async with _cursor(connection) as cursor:
        await cursor.execute(statement.formatted, statement.values or None)
        row = await cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


def _cursor(connection: Any) -> Any:
    """One whose rows are tuples, whatever the connection's are."""
    if not hasattr(connection, "row_factory"):
        return connection.cursor()
    from psycopg.rows import tuple_row

    return connection.cursor(row_factory=tuple_row)


def is_asyncpg(connection: Any) -> bool:
    """Whether it is asyncpg's."""
    return hasattr(connection, "fetchval")


def connection_of(target: Any) -> Any:
    """A session's connection; a connection itself.

    Raises:
        ValueError: it commits every statement by itself.
    """
    connection = target.connection() if is_session(target) else target
    return _in_transaction(connection)


async def connection_of_async(target: Any) -> Any:
    """The same for event loops."""
    return _in_transaction(await target.connection() if is_session(target) else target)


def is_session(target: Any) -> bool:
    """Whether it is one of SQLAlchemy's sessions, of any kind."""
    return hasattr(target, "get_bind") and hasattr(target, "connection")


def _in_transaction(connection: Any) -> Any:
    """`connection`, unless what it is told would be committed apart from the change that it belongs to."""
    alone = not connection.is_in_transaction() if is_asyncpg(connection) else _commits_itself(connection)
    if alone:
        raise ValueError(
            "changed() belongs into the transaction of the change, and this connection is in none (autocommit)"
        )
    return connection


def _commits_itself(connection: Any) -> bool:
    if hasattr(connection, "ensure_connection"):  # Django's does not know before
        connection.ensure_connection()
    sync = getattr(connection, "sync_connection", connection)
    driver = sync.connection.dbapi_connection if hasattr(sync, "exec_driver_sql") else sync
    if not getattr(driver, "autocommit", False):
        return False
    info = getattr(driver, "info", None)  # psycopg may be in a transaction all the same
    return not getattr(info, "transaction_status", 0)


def after_transaction(session: Any, writer: str, wake: Callable[[], None]) -> None:
    """Call `wake` once the session's transaction has ended, however."""
    from sqlalchemy import event

    session = session.registry() if hasattr(session, "registry") else session
    session = getattr(session, "sync_session", session)
    marks: dict[str, Any] = session.info.setdefault(_MARK, {})
    if not marks:
        event.listen(session, "after_transaction_end", _ended)
    marks[writer] = wake
    session.info[_MARK, "armed"] = True


def _ended(session: Any, transaction: Any) -> None:
    if transaction.parent is None and session.info.pop((_MARK, "armed"), False):
        for wake in session.info[_MARK].values():
            wake()
