"""A connection on which one key after the other is delivered, each in a transaction at READ COMMITTED.

At a stricter level the snapshot would be older than the lock. A link connects when it is first used, and again after anything
went wrong: then its connection is closed. It is used by one thread or task at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from zdmigrate.app.channels import LEFT_TO_PARENTS, conninfo, own, twin
from zdmigrate.app.outbox.carrying import call as call_sync
from zdmigrate.app.outbox.carrying import call_async, is_asyncpg
from zdmigrate.app.outbox.statements import READ_COMMITTED, plain

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


class Link(Protocol):
    """For threads."""

    def begin(self) -> Any:
        """A transaction; the connection that it is on."""

    def commit(self) -> None:
        """Its end."""

    def close(self) -> None:
        """Whatever was begun is rolled back. Never raises."""

    def forget(self) -> Link:
        """The same for a forked process: the connection is the parent's, and is left alone."""


class AsyncLink(Protocol):
    """For event loops."""

    async def begin(self) -> Any:
        """A transaction; the connection that it is on."""

    async def commit(self) -> None:
        """Its end."""

    async def close(self) -> None:
        """Whatever was begun is rolled back. Never raises."""


class EngineLink:
    """A connection as the engine would make it, and not one of its pool."""

    def __init__(self, engine: Engine) -> None:
        self._origin = engine
        self._engine: Engine | None = None
        self._connection: Any = None

    def begin(self) -> Any:
        if self._connection is None:
            self._engine = twin(self._origin)
            # An engine may be set to autocommit: the lock would be gone with the statement that takes it.
            self._connection = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
        self._connection.begin()
        call_sync(self._connection, READ_COMMITTED)
        return self._connection

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.invalidate()
                connection.close()
        with contextlib.suppress(Exception):
            if engine is not None:
                engine.dispose()

    def forget(self) -> EngineLink:
        LEFT_TO_PARENTS.append((self._connection, self._engine))
        return EngineLink(self._origin)


class DriverLink:
    """A connection of our own. `connect` makes one of psycopg."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def begin(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.autocommit = False
        call_sync(self._connection, READ_COMMITTED)
        return self._connection

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.close()

    def forget(self) -> DriverLink:
        LEFT_TO_PARENTS.append(self._connection)
        return DriverLink(self._connect)


class AsyncEngineLink:
    """`EngineLink` for an async engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._origin = engine
        self._engine: AsyncEngine | None = None
        self._connection: Any = None

    async def begin(self) -> Any:
        from sqlalchemy.ext.asyncio import AsyncEngine

        if self._connection is None:
            self._engine = AsyncEngine(twin(self._origin.sync_engine))
            connection = await self._engine.connect()
            self._connection = await connection.execution_options(isolation_level="READ COMMITTED")
        await self._connection.begin()
        await call_async(self._connection, READ_COMMITTED)
        return self._connection

    async def commit(self) -> None:
        await self._connection.commit()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(Exception):
            if connection is not None:
                await connection.invalidate()
                await connection.close()
        with contextlib.suppress(Exception):
            if engine is not None:
                await engine.dispose()


class AsyncDriverLink:
    """A connection of our own: asyncpg's or psycopg's, whichever `connect` makes."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._connection: Any = None

    async def begin(self) -> Any:
        if self._connection is None:
            self._connection = await self._connect()
            if not is_asyncpg(self._connection):
                await self._connection.set_autocommit(False)
        if is_asyncpg(self._connection):
            await call_async(self._connection, plain("BEGIN"))
        await call_async(self._connection, READ_COMMITTED)
        return self._connection

    async def commit(self) -> None:
        if is_asyncpg(self._connection):
            await call_async(self._connection, plain("COMMIT"))
        else:
            await self._connection.commit()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if connection is not None and is_asyncpg(connection):
                await connection.close(timeout=1)  # the server may not answer
            elif connection is not None:
                await connection.close()


def link(target: Any) -> Link:
    """For an engine, a libpq connection string or URL, or a function that makes psycopg connections.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg  # here, and not in a thread: a fork in the middle of an import leaves its lock held for ever

        return DriverLink(lambda: psycopg.connect(conninfo(target), **_own()))
    if hasattr(target, "sync_engine"):
        raise TypeError("an AsyncEngine is for AsyncDualWriter")
    if hasattr(target, "pool") and hasattr(target, "dialect"):
        return EngineLink(target)
    if callable(target):
        return DriverLink(target)
    raise TypeError(f"DualWriter takes an Engine, a connection string or a function that connects, not {target!r}")


def async_link(target: Any) -> AsyncLink:
    """For an async engine, a connection string (psycopg connects), or a coroutine function that makes connections of asyncpg
    or psycopg.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg

        return AsyncDriverLink(lambda: psycopg.AsyncConnection.connect(conninfo(target), **_own()))
    if hasattr(target, "sync_engine"):
        return AsyncEngineLink(target)
    if callable(target) and not hasattr(target, "dialect"):
        return AsyncDriverLink(target)
    raise TypeError(
        f"AsyncDualWriter takes an AsyncEngine, a connection string or a coroutine function that connects, not {target!r}"
    )


def _own() -> dict[str, Any]:
    """The string says what the session is called."""
    return {name: value for name, value in own("").items() if name not in ("application_name", "autocommit")}
