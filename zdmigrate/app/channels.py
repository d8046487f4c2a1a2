"""One connection for heartbeats, over whatever an application connects with. Each call is one statement, in no transaction.

A channel connects when it is first used, and again after anything went wrong: the connection in which a statement failed is
closed. It is used by one thread, or one task, at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

CONNECT_TIMEOUT = 5
"""Seconds that a connection of our own may take."""


class Statement(Protocol):
    """A statement that returns one text: a `zdmigrate.app.calls.Call`, or a query."""

    @property
    def formatted(self) -> str:
        """With ``%s`` for arguments."""

    @property
    def numbered(self) -> str:
        """With ``$1``, ``$2``, …"""

    @property
    def values(self) -> list[Any]:
        """The arguments."""


class Channel(Protocol):
    """For threads."""

    def call(self, call: Statement) -> str | None:
        """The answer. Raises whatever the driver raises."""

    def close(self) -> None:
        """Never raises."""

    def forget(self) -> Channel:
        """The same for a forked process: the connection is the parent's, and is left alone."""


class AsyncChannel(Protocol):
    """For event loops."""

    async def call(self, call: Statement) -> str | None:
        """The answer. Raises whatever the driver raises."""

    async def close(self) -> None:
        """Never raises."""


LEFT_TO_PARENTS: list[object] = []
"""Connections of a process that this one was forked from: collecting them might say goodbye to the server for it."""


class EngineChannel:
    """A connection as the engine would make it, and not one of its pool: a pool that is exhausted must not stop heartbeats,
    nor they take a connection from a request."""

    def __init__(self, engine: Engine) -> None:
        self._origin = engine
        self._connection: Any = None
        self._engine: Engine | None = None

    def call(self, call: Statement) -> str | None:
        try:
            if self._connection is None:
                self._engine = engine_beside(self._origin)
                self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            sql = call.numbered if self._origin.dialect.paramstyle == "numeric_dollar" else call.formatted
            found: str | None = self._connection.exec_driver_sql(sql, tuple(call.values)).scalar()
        except BaseException:
            self.close()
            raise
        return found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.invalidate()  # no ROLLBACK on a connection that may be broken
                connection.close()
        with contextlib.suppress(Exception):
            if engine is not None:
                engine.dispose()

    def forget(self) -> EngineChannel:
        LEFT_TO_PARENTS.append((self._connection, self._engine))
        return EngineChannel(self._origin)


def engine_beside(engine: Engine) -> Engine:
    """An engine of one connection that is made as `engine` makes its own: same arguments, `creator` and listeners."""
    import sqlalchemy as sa

    return sa.create_engine(engine.url, pool=engine.pool.recreate())


def twin(engine: Engine) -> Engine:
    """The same, with the engine's dialect, types and options as well: for functions of the application."""
    import sqlalchemy as sa

    options = engine.get_execution_options()
    return sa.Engine(engine.pool.recreate(), engine.dialect, engine.url, execution_options=options)


class PsycopgChannel:
    """A connection of our own. `connect` makes a psycopg 3 connection."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def call(self, call: Statement) -> str | None:
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.autocommit = True
            row = self._connection.execute(call.formatted, call.values).fetchone()
        except BaseException:
            self.close()
            raise
        return None if row is None else row[0]

    def close(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if connection is not None:
                connection.close()

    def forget(self) -> PsycopgChannel:
        LEFT_TO_PARENTS.append(self._connection)
        return PsycopgChannel(self._connect)


class AsyncEngineChannel:
    """`EngineChannel` for an async engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._origin = engine
        self._connection: Any = None
        self._engine: AsyncEngine | None = None

    async def call(self, call: Statement) -> str | None:
        from sqlalchemy.ext.asyncio import AsyncEngine

        try:
            if self._connection is None:
                self._engine = AsyncEngine(engine_beside(self._origin.sync_engine))
                connection = await self._engine.connect()
                self._connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            sql = call.numbered if self._origin.dialect.paramstyle == "numeric_dollar" else call.formatted
            found: str | None = (await self._connection.exec_driver_sql(sql, tuple(call.values))).scalar()
        except BaseException:
            await self.close()
            raise
        return found

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


class AsyncDriverChannel:
    """A connection of our own: asyncpg's or psycopg's, whichever `connect` makes."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._connection: Any = None

    async def call(self, call: Statement) -> str | None:
        try:
            if self._connection is None:
                self._connection = await self._connect()
                if not _is_asyncpg(self._connection):
                    await self._connection.set_autocommit(True)
            if _is_asyncpg(self._connection):
                found: str | None = await self._connection.fetchval(call.numbered, *call.values)
                return found
            cursor = await self._connection.execute(call.formatted, call.values)
            row = await cursor.fetchone()
        except BaseException:
            await self.close()
            raise
        return None if row is None else row[0]

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            if connection is not None:
                await connection.close()


def _is_asyncpg(connection: Any) -> bool:
    return hasattr(connection, "fetchval")


def channel(target: Any, name: str) -> Channel:
    """For an engine, a libpq connection string or URL, or a function that makes psycopg connections.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg  # here, and not in the thread: a fork in the middle of an import leaves its lock held for ever

        return PsycopgChannel(lambda: psycopg.connect(conninfo(target), **own(name)))
    if hasattr(target, "sync_engine"):
        raise TypeError("an AsyncEngine is registered with register_async")
    if hasattr(target, "pool") and hasattr(target, "dialect"):
        return EngineChannel(target)
    if callable(target):
        return PsycopgChannel(target)
    raise TypeError(f"register takes an Engine, a connection string or a function that connects, not {target!r}")


def async_channel(target: Any, name: str) -> AsyncChannel:
    """For an async engine, a connection string (psycopg connects), or a coroutine function that makes connections of asyncpg
    or psycopg.

    Raises:
        TypeError: for anything else. Nothing is connected yet.
    """
    if isinstance(target, str):
        import psycopg

        return AsyncDriverChannel(lambda: psycopg.AsyncConnection.connect(conninfo(target), **own(name)))
    if hasattr(target, "sync_engine"):
        return AsyncEngineChannel(target)
    if callable(target):
        return AsyncDriverChannel(target)
    raise TypeError(
        f"register_async takes an AsyncEngine, a connection string or a coroutine function that connects, not {target!r}"
    )


def connecting(target: Any, name: str) -> Callable[[], Any]:
    """What makes a psycopg connection to the same database.

    Raises:
        TypeError: an engine of another driver, or one that connects by a function of its own, is no way to do that.
    """
    import psycopg

    if isinstance(target, str):
        return lambda: psycopg.connect(conninfo(target), **own(name))
    if not hasattr(target, "dialect"):
        return target  # type: ignore[no-any-return]  # a function that connects
    url = _url_of(target)
    return lambda: psycopg.connect(url, **own(name))


def connecting_async(target: Any, name: str) -> Callable[[], Awaitable[Any]]:
    """What makes a psycopg `AsyncConnection` to the same database.

    Raises:
        TypeError: as of `connecting`, and a function that may make connections of another driver.
    """
    import psycopg

    if not isinstance(target, str) and not hasattr(target, "sync_engine"):
        raise TypeError("listen: give a connection string or an engine")
    url = target if isinstance(target, str) else _url_of(target.sync_engine)
    return lambda: psycopg.AsyncConnection.connect(conninfo(url), **own(name))


def _url_of(engine: Engine) -> str:
    """As libpq takes it: what a driver above it has in its URL is libpq's, of the others' only the hosts are."""
    from psycopg.conninfo import make_conninfo

    url = engine.url
    libpq = engine.dialect.driver.startswith("psycopg")
    query = {
        name: value if isinstance(value, str) else ",".join(value)
        for name, value in url.query.items()
        if libpq or name in ("host", "port")
    }
    parts = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    given = {**{name: value for name, value in parts.items() if value is not None}, **query}
    if "host" not in given:
        raise TypeError("listen: the engine's URL names no host; give a connection string")
    return make_conninfo("", **given)


def own(name: str) -> dict[str, Any]:
    """How we connect ourselves. Nothing is prepared: a pooler may stand in between."""
    return {
        "application_name": name,
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "prepare_threshold": None,
        "tcp_user_timeout": 15_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
    }


def conninfo(target: str) -> str:
    """A SQLAlchemy URL without its driver; anything else as it is."""
    head, sep, tail = target.partition("://")
    return f"postgresql://{tail}" if sep and head.partition("+")[0] in ("postgresql", "postgres") else target
