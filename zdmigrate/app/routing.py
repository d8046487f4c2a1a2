"""Sessions that read from a replica where it is fit, and from the primary where none is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import GenerativeSelect

from zdmigrate.app.channels import AsyncChannel, AsyncEngineChannel, Channel, EngineChannel
from zdmigrate.app.replicas import POSITION, REPLAYED, Watch
from zdmigrate.app.snapshot import DEFAULT, Source

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log = logging.getLogger("zdmigrate.app")

_PRIMARY = 1 << 64
"""No replica ever gets there."""


class Router:
    """Chooses, in memory, an engine for each transaction of a session. Made by `replica_aware`.

    A transaction reads from a replica until it writes, locks rows or executes SQL of its own; from then on it uses the
    primary, so that it sees what it wrote. Replicas take turns. One that cannot be connected to is passed over.
    """

    def __init__(
        self, primary: Engine, replicas: Sequence[Engine], *, max_lag: float, interval: float, source: Source
    ) -> None:
        self.engine, self._replicas, self._source = primary, tuple(replicas), source
        self._watch = Watch(len(replicas), max_lag=max_lag, interval=interval)
        self._interval = interval
        self._turns = itertools.count()
        self._at_least: ContextVar[int] = ContextVar("zdmigrate_at_least", default=0)
        self._told: tuple[bool, ...] | None = None
        self.session_class: type[Session] = type("ReplicaAwareSession", (_RoutedSession,), {"_router": self})
        event.listen(self.session_class, "after_transaction_end", _forget)

    @property
    def lags(self) -> tuple[float | None, ...]:
        """Seconds that each replica was behind at the last look; None where nobody knows."""
        return self._watch.lags

    @contextlib.contextmanager
    def on_primary(self) -> Iterator[None]:
        """Within it everything reads from the primary."""
        with self.at_least(_PRIMARY):
            yield

    @contextlib.contextmanager
    def at_least(self, position: int) -> Iterator[None]:
        """Within it a replica is read from only when it has replayed what `written` has returned."""
        token = self._at_least.set(position)
        try:
            yield
        finally:
            self._at_least.reset(token)

    def written(self, session: Session) -> int:
        """The primary's position now, for `at_least`: call it after the commit, and keep it with the user's session.

        One query on the primary. For an `AsyncSession`: ``await session.run_sync(router.written)``.
        """
        connection = session.connection(bind_arguments={"bind": self.engine})
        position = int(connection.exec_driver_sql(POSITION.formatted).scalar_one())
        session.rollback()
        return position

    def fit(self) -> Iterator[Engine]:
        """The replicas that may be read from now, the one whose turn it is first."""
        view = self._watch.view
        if time.monotonic() > view.until or view.news != self._source.news:
            return
        wanted = self._at_least.get()
        number, first = len(self._replicas), next(self._turns)
        for place in range(number):
            index = (first + place) % number
            replayed = view.replayed[index]
            if replayed is not None and replayed >= wanted:
                yield self._replicas[index]

    def _note(self, replayed: Sequence[int | None]) -> None:
        view = self._watch.replicas(replayed, now=time.monotonic())
        fit = tuple(position is not None for position in view.replayed)
        if fit != self._told:
            self._told = fit
            shown = ", ".join(
                f"{engine.url.host}:{engine.url.port} {'is read from' if good else 'is not'}"
                for engine, good in zip(self._replicas, fit, strict=True)
            )
            log.info("replicas: %s", shown)


class _RoutedSession(Session):
    """A session whose reads go where its router says."""

    _router: Router
    _chosen: Engine | None = None
    _wrote = False

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any) -> Any:
        if bind is not None:
            return bind
        if self._wrote or self._flushing or not _only_reads(clause):
            self._wrote = True
            return self._router.engine
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def _choose(self) -> Engine:
        for engine in self._router.fit():
            try:
                self.connection(bind_arguments={"bind": engine})
            except Exception as error:  # noqa: BLE001  # whatever a driver raises
                log.warning(
                    "a replica cannot be connected to, the next one is read from: %s", " ".join(str(error).split())
                )
            else:
                return engine
        return self._router.engine


def _only_reads(clause: Any) -> bool:
    """A SELECT that locks no rows. Text may be anything."""
    return isinstance(clause, GenerativeSelect) and clause._for_update_arg is None


def _forget(session: Any, transaction: Any) -> None:
    if transaction.parent is None:
        session._chosen, session._wrote = None, False


class ReplicaRouter(Router):
    """With a thread that looks at primary and replicas. `close` ends it."""

    def __init__(self, primary: Engine, replicas: Sequence[Engine], **options: Any) -> None:
        super().__init__(primary, replicas, **options)
        self._channels: list[Channel] = [EngineChannel(engine) for engine in (primary, *replicas)]
        self._start()
        _LIVING.add(self)
        _hook()

    def close(self) -> None:
        """Stop looking: everything is read from the primary from now on."""
        self._ended.set()
        self._thread.join(5)
        _LIVING.discard(self)

    def _start(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="zdmigrate-replicas", daemon=True)
        self._thread.start()

    def _after_fork(self) -> None:
        self._channels = [channel.forget() for channel in self._channels]
        self._start()

    def _live(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(Exception):
                now, news = time.monotonic(), self._source.news
                self._watch.primary(int(self._channels[0].call(POSITION) or 0), now=now, news=news)
            self._note([self._asked(channel) for channel in self._channels[1:]])
            self._ended.wait(self._interval)
        self._watch.replicas([None] * len(self._replicas), now=time.monotonic())
        for channel in self._channels:
            channel.close()

    def _asked(self, channel: Channel) -> int | None:
        try:
            found = channel.call(REPLAYED)
        except Exception:  # noqa: BLE001
            return None
        return None if found is None else int(found)


_LIVING: set[ReplicaRouter] = set()


@functools.cache
def _hook() -> None:
    """Once a process: a forked one looks by itself."""
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for router in list(_LIVING):
        router._after_fork()


class AsyncReplicaRouter(Router):
    """With a task that looks at primary and replicas. ``await close()`` ends it."""

    def __init__(self, primary: AsyncEngine, replicas: Sequence[AsyncEngine], **options: Any) -> None:
        super().__init__(primary.sync_engine, [engine.sync_engine for engine in replicas], **options)
        self._channels: list[AsyncChannel] = [AsyncEngineChannel(engine) for engine in (primary, *replicas)]
        self._task = asyncio.get_running_loop().create_task(self._live(), name="zdmigrate-replicas")

    async def close(self) -> None:
        """Stop looking: everything is read from the primary from now on."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._watch.replicas([None] * len(self._replicas), now=time.monotonic())
        for channel in self._channels:
            await channel.close()

    async def _live(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                now, news = time.monotonic(), self._source.news
                self._watch.primary(int(await self._channels[0].call(POSITION) or 0), now=now, news=news)
            self._note(await asyncio.gather(*(self._asked(channel) for channel in self._channels[1:])))
            await asyncio.sleep(self._interval)

    async def _asked(self, channel: AsyncChannel) -> int | None:
        try:
            found = await channel.call(REPLAYED)
        except Exception:  # noqa: BLE001
            return None
        return None if found is None else int(found)


def replica_aware(
    engine: Engine, replicas: Sequence[Engine], *, max_lag: float = 1.0, interval: float = 1.0, source: Source = DEFAULT
) -> ReplicaRouter:
    """Sessions that read from replicas: ``sessionmaker(class_=replica_aware(engine, [replica]).session_class)``.

    A replica is read from while it is at most `max_lag` seconds behind *and* has replayed what the primary had written when
    the newest phase of a migration became known here (by the fleet that feeds `source`); and it is looked at every
    `interval` seconds, by a thread with a connection of its own to each. Where that is not so, or nobody knows, the
    primary is. Decided in memory. Locks: none.
    """
    return ReplicaRouter(engine, replicas, max_lag=max_lag, interval=interval, source=source)


async def replica_aware_async(
    engine: AsyncEngine, replicas: Sequence[AsyncEngine], *, max_lag: float = 1.0, interval: float = 1.0,
    source: Source = DEFAULT,
) -> AsyncReplicaRouter:  # fmt: skip
    """The same for async engines: ``async_sessionmaker(sync_session_class=router.session_class)``."""
    return AsyncReplicaRouter(engine, replicas, max_lag=max_lag, interval=interval, source=source)
