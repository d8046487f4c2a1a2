"""Instances that report to the database that they are alive, from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from zdmigrate.app.channels import AsyncChannel, async_channel, connecting_async
from zdmigrate.app.fleet import Membership, checked
from zdmigrate.app.heart import INTERVAL
from zdmigrate.app.listening import listen as listening_to
from zdmigrate.app.member import session_name
from zdmigrate.app.naming import name_sessions
from zdmigrate.app.snapshot import DEFAULT, Source

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import MetaData

    from zdmigrate.app.shadow.async_reading import AsyncShadowRead

log = logging.getLogger("zdmigrate.app")


class AsyncFleet(Membership):
    """This event loop's membership. Made by `register_async`; ends with ``await fleet.retire()`` or ``async with``."""

    def __init__(
        self, channel: AsyncChannel, listening: Callable[..., Coroutine[Any, Any, None]] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._channel = channel
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Event] = []
        self._task = asyncio.get_running_loop().create_task(self._live(), name="zdmigrate-heartbeat")
        self._listener = None
        if listening is not None:
            self._listener = asyncio.get_running_loop().create_task(
                listening(self._wake.set), name="zdmigrate-listener"
            )

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.retire()

    def shadow(self, migration: str, target: Any, **options: Any) -> AsyncShadowRead:
        """An `AsyncShadowRead` that follows this fleet, and reports with it."""
        from zdmigrate.app.shadow.async_reading import AsyncShadowRead

        return AsyncShadowRead(migration, target, source=self._source, **options)

    async def refresh(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109  # as of the other fleet
        """Send a heartbeat now, and wait for its answer; whether there was one within `timeout` seconds. Never raises."""
        answered = asyncio.Event()
        self._waiting.append(answered)
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(answered.wait(), timeout)
        return answered.is_set()

    async def retire(self, timeout: float = 2.0) -> None:  # noqa: ASYNC109
        """Say goodbye and stop: this instance needs nothing any more. Again does nothing; never raises."""
        tasks = [task for task in (self._task, self._listener) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._part(), timeout)

    async def _live(self) -> None:
        heart = self._member.heart
        while True:
            waiting = self._waiting[:]
            try:
                async with asyncio.timeout(heart.lease):
                    answered = self._member.answered(await self._channel.call(self._member.beat()))
                    if not answered:
                        answered = self._member.answered(await self._channel.call(self._member.beat()))
                wait = self._succeeded()
                for each in waiting:
                    self._waiting.remove(each)
                    each.set()
                await self._report()
            except Exception as error:  # noqa: BLE001  # whatever a driver raises: the application must not notice
                wait = self._failed(error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
            self._wake.clear()

    async def _report(self, *, last: bool = False) -> None:
        report = self._member.report(last=last)
        if report is None:
            return
        try:
            async with asyncio.timeout(self._member.heart.lease):
                await self._channel.call(report)
        except Exception as error:  # noqa: BLE001
            self._unreported(error)
        else:
            self._source.tally.told()

    async def _part(self) -> None:
        await self._report(last=True)
        goodbye = self._member.goodbye()
        try:
            if goodbye is not None:
                await self._channel.call(goodbye)
                self._member.answered(None)
        except Exception as error:  # noqa: BLE001
            log.debug("no goodbye from %s: %s", self.instance, error)
        await self._channel.close()


async def register_async(
    target: Any, *, application: str, version: str, metadata: MetaData | None = None, footprint: Path | None = None,
    requires: Mapping[str, str] | None = None, shapes: Mapping[str, str] | None = None, schema: str = "zdmigrate",
    project: str = "default", interval: float = INTERVAL, listen: bool = False, source: Source = DEFAULT,
) -> AsyncFleet:  # fmt: skip
    """`zdmigrate.app.register` for an event loop: a task of the running loop sends the heartbeats.

    Returns at once. The instance retires with ``await fleet.retire()``, which belongs into the application's shutdown.

    Args:
        target: an AsyncEngine, a libpq connection string or URL, or a coroutine function that makes connections of asyncpg
            or psycopg (``functools.partial(asyncpg.connect, dsn)``).

    The others are those of `register`.

    Raises:
        TypeError, ValueError: a wrong argument. Nothing else.
    """
    name = session_name(application, version)
    options = checked(metadata, footprint, requires, shapes)
    made = async_channel(target, name)
    if hasattr(target, "sync_engine"):
        name_sessions(target.sync_engine, name)
    listening = functools.partial(listening_to, connecting_async(target, name), schema) if listen else None
    return AsyncFleet(
        made, listening, application=application, version=version, schema=schema, project=project, source=source,
        interval=interval, **options,
    )  # fmt: skip
