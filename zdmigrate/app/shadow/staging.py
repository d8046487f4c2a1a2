"""Connections of their own, on which both reads run in one transaction that cannot write.

A stage connects when it is first used, and again after `close`. It is used by one thread, or one task, at a time. Everything
that it says to the server is as good behind a pooler that shares connections between transactions: nothing is set for longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from zdmigrate.app.channels import connecting, connecting_async, twin
from zdmigrate.sqltext import ident

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Standing(NamedTuple):
    """A query for one text: since when the migration is in a phase in which both shapes are full, as this transaction sees
    it. None where it is in no such phase, or where this is not the transaction that it should be."""

    schema: str
    project: str
    migration: str

    @property
    def formatted(self) -> str:
        """With ``%s`` for arguments."""
        return self._sql("%s", "%s").replace(self._table, self._table.replace("%", "%%"))

    @property
    def numbered(self) -> str:
        """With ``$1``, ``$2``."""
        return self._sql("$1", "$2")

    @property
    def values(self) -> tuple[str, str]:
        """The arguments."""
        return self.project, self.migration

    @property
    def _table(self) -> str:
        return ident(self.schema, "migration")

    def _sql(self, project: str, migration: str) -> str:
        return (
            f"SELECT to_jsonb(phase_since) #>> '{{}}' FROM {self._table} "
            f"WHERE project = CAST({project} AS text) AND id = CAST({migration} AS text) "
            "AND phase IN ('backfill', 'switch_reads') AND coalesce(running, 'switch_reads') = 'switch_reads' "
            "AND current_setting('transaction_isolation') = 'repeatable read' "
            "AND current_setting('transaction_read_only') = 'on'"
        )


class Stage(Protocol):
    """For threads. Everything but `close` raises whatever the driver raises."""

    def begin(self, name: str, timeout: float) -> None:
        """A transaction whose statements take at most `timeout` seconds each; `name` is what its session is called."""

    def ask(self, query: Standing) -> str | None:
        """The answer, in the transaction."""

    def given(self, *, session: bool) -> Any:
        """What a function reads with: a connection, or a session of its own on it."""

    def end(self) -> None:
        """Roll back."""

    def close(self) -> None:
        """Disconnect. Never raises."""

    def forget(self) -> Stage:
        """The same for a forked process: the connection is the parent's, and is left alone."""


class AsyncStage(Protocol):
    """The same for event loops."""

    async def begin(self, name: str, timeout: float) -> None: ...  # noqa: ASYNC109  # of statements, on the server
    async def ask(self, query: Standing) -> str | None: ...
    def given(self, *, session: bool) -> Any: ...
    async def end(self) -> None: ...
    async def close(self) -> None: ...
    def forget(self) -> AsyncStage: ...


_LEFT_TO_PARENTS: list[object] = []
"""Connections of a process that this one was forked from: collecting them might say goodbye to the server for it."""


def _settings(timeout: float) -> str:
    """Who is stopped in the middle must not keep the tool from a lock for ever."""
    ours, idle = max(1, round(timeout * 1000)), round((timeout + 10) * 1000)
    return (
        f"SELECT set_config('statement_timeout', '{ours}', true) || "
        f"set_config('idle_in_transaction_session_timeout', '{idle}', true)"
    )


class EngineStage:
    """A connection as the engine would make it, and not one of its pool."""

    def __init__(self, engine: Engine) -> None:
        self._origin = engine
        self._engine: Engine | None = None
        self._connection: Any = None
        self._sessions: list[Any] = []

    def begin(self, name: str, timeout: float) -> None:
        if self._connection is None:
            self._engine = twin(self._origin)
            # The transaction is begun in words: how a driver would, differs, and might outlast it.
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.exec_driver_sql(_BEGIN)
        self._connection.exec_driver_sql(_settings(timeout))

    def ask(self, query: Standing) -> str | None:
        numbered = self._origin.dialect.paramstyle == "numeric_dollar"
        sql = query.numbered if numbered else query.formatted
        found: str | None = self._connection.exec_driver_sql(sql, query.values).scalar()
        return found

    def given(self, *, session: bool) -> Any:
        if not session:
            return self._connection
        from sqlalchemy.orm import Session

        # Each read has one of its own: they must not find each other's objects in it.
        made = Session(self._connection, autoflush=False)
        self._sessions.append(made)
        return made

    def end(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()
        self._connection.exec_driver_sql("ROLLBACK")
        self._connection.rollback()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        self._sessions = []
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.invalidate()
                connection.close()
        with contextlib.suppress(Exception):
            if engine is not None:
                engine.dispose()

    def forget(self) -> EngineStage:
        _LEFT_TO_PARENTS.append((self._connection, self._engine, self._sessions))
        return EngineStage(self._origin)


class PsycopgStage:
    """A psycopg connection. `connect` takes the session's name."""

    def __init__(self, connect: Callable[[str], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def begin(self, name: str, timeout: float) -> None:
        if self._connection is None:
            self._connection = self._connect(name)
            self._connection.autocommit = True
        self._connection.execute(_BEGIN)
        self._connection.execute(_settings(timeout))

    def ask(self, query: Standing) -> str | None:
        from psycopg.rows import tuple_row

        with self._connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(query.formatted, query.values).fetchone()
        return None if row is None else row[0]

    def given(self, *, session: bool) -> Any:
        return self._connection

    def end(self) -> None:
        self._connection.execute("ROLLBACK")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.close()

    def forget(self) -> PsycopgStage:
        _LEFT_TO_PARENTS.append(self._connection)
        return PsycopgStage(self._connect)


class AsyncEngineStage:
    """`EngineStage` for an async engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._origin = engine
        self._engine: AsyncEngine | None = None
        self._connection: Any = None
        self._sessions: list[Any] = []

    async def begin(self, name: str, timeout: float) -> None:  # noqa: ASYNC109
        from sqlalchemy.ext.asyncio import AsyncEngine

        if self._connection is None:
            self._engine = AsyncEngine(twin(self._origin.sync_engine))
            connection = await self._engine.connect()
            self._connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await self._connection.exec_driver_sql(_BEGIN)
        await self._connection.exec_driver_sql(_settings(timeout))

    async def ask(self, query: Standing) -> str | None:
        numbered = self._origin.dialect.paramstyle == "numeric_dollar"
        sql = query.numbered if numbered else query.formatted
        found: str | None = (await self._connection.exec_driver_sql(sql, query.values)).scalar()
        return found

    def given(self, *, session: bool) -> Any:
        if not session:
            return self._connection
        from sqlalchemy.ext.asyncio import AsyncSession

        made = AsyncSession(self._connection, autoflush=False)
        self._sessions.append(made)
        return made

    async def end(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.close()
        await self._connection.exec_driver_sql("ROLLBACK")
        await self._connection.rollback()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        self._sessions = []
        with contextlib.suppress(Exception):
            if connection is not None:
                await connection.invalidate()
                await connection.close()
        with contextlib.suppress(Exception):
            if engine is not None:
                await engine.dispose()

    def forget(self) -> AsyncEngineStage:
        _LEFT_TO_PARENTS.append((self._connection, self._engine, self._sessions))
        return AsyncEngineStage(self._origin)


class AsyncDriverStage:
    """asyncpg's or psycopg's connection, whichever `connect` makes."""

    def __init__(self, connect: Callable[[str], Awaitable[Any]]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._transaction: Any = None

    async def begin(self, name: str, timeout: float) -> None:  # noqa: ASYNC109
        if self._connection is None:
            connection = await self._connect(name)
            if not _is_asyncpg(connection):
                await connection.set_autocommit(True)
            self._connection = connection
        if _is_asyncpg(self._connection):  # which wants to know of its transactions, or functions could not nest theirs
            self._transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
            await self._transaction.start()
        else:
            await self._connection.execute(_BEGIN)
        await self._connection.execute(_settings(timeout))

    async def ask(self, query: Standing) -> str | None:
        if _is_asyncpg(self._connection):
            found: str | None = await self._connection.fetchval(query.numbered, *query.values)
            return found
        from psycopg.rows import tuple_row

        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query.formatted, query.values)
            row = await cursor.fetchone()
        return None if row is None else row[0]

    def given(self, *, session: bool) -> Any:
        return self._connection

    async def end(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.rollback()
        else:
            await self._connection.execute("ROLLBACK")

    async def close(self) -> None:
        connection, self._connection, self._transaction = self._connection, None, None
        with contextlib.suppress(Exception):
            if connection is not None and _is_asyncpg(connection):
                connection.terminate()  # a farewell would wait for a server that may not answer
            elif connection is not None:
                await connection.close()

    def forget(self) -> AsyncDriverStage:
        _LEFT_TO_PARENTS.append((self._connection, self._transaction))
        return AsyncDriverStage(self._connect)


def _is_asyncpg(connection: Any) -> bool:
    return hasattr(connection, "fetchval")


def stage(target: Any) -> Stage:
    """For an engine, a libpq connection string or URL, or a function that makes psycopg connections.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg  # noqa: F401  # here, and not in the thread: a fork in the middle of an import leaves its lock held

        return PsycopgStage(lambda name: connecting(target, name)())
    if hasattr(target, "sync_engine"):
        raise TypeError("an AsyncEngine needs an AsyncShadowRead")
    if hasattr(target, "pool") and hasattr(target, "dialect"):
        return EngineStage(target)
    if callable(target):
        return PsycopgStage(lambda _name: target())
    raise TypeError(f"ShadowRead takes an Engine, a connection string or a function that connects, not {target!r}")


def async_stage(target: Any) -> AsyncStage:
    """For an async engine, a connection string (psycopg connects), or a coroutine function that makes connections of asyncpg
    or psycopg.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg  # noqa: F401

        return AsyncDriverStage(lambda name: connecting_async(target, name)())
    if hasattr(target, "sync_engine"):
        return AsyncEngineStage(target)
    if callable(target) and not hasattr(target, "dialect"):
        return AsyncDriverStage(lambda _name: target())
    raise TypeError(
        f"AsyncShadowRead takes an AsyncEngine, a connection string or a coroutine function that connects, not {target!r}"
    )
