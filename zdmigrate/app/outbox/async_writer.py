"""`AsyncDualWriter`: the same for event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from zdmigrate.app.outbox.carrying import after_transaction, call_async, connection_of_async, is_session
from zdmigrate.app.outbox.delivery import (
    Delivered,
    Read,
    Step,
    Steps,
    Transaction,
    Write,
    announcement,
    deliveries,
    drive_async,
)
from zdmigrate.app.outbox.links import AsyncLink, async_link
from zdmigrate.app.outbox.writer import GRACE, Pending, Writer


class AsyncDualWriter(Writer):
    """`DualWriter` for an event loop: `primary` and `secondary` are coroutine functions, and a task of the loop delivers."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._task: asyncio.Task[None] | None = None

    __init__.__doc__ = Writer.__init__.__doc__

    async def changed(self, target: Any, *keys: str) -> None:
        """`DualWriter.changed`, in the transaction of an `AsyncSession`, an `AsyncConnection`, or one of psycopg or asyncpg."""
        await call_async(await connection_of_async(target), self._announced(keys))
        if is_session(target):
            after_transaction(target, self.name, self.wake)

    def start(self, target: Any) -> None:
        """Deliver, in a task of the running loop with a connection of its own, until `stop`.

        Args:
            target: an AsyncEngine, a libpq connection string or URL, or a coroutine function that makes connections of
                asyncpg or psycopg. `primary` gets an `AsyncConnection`, or the driver's.

        Raises:
            TypeError: anything else. RuntimeError: it was started already, or no loop runs.
        """
        if self._task is not None:
            raise RuntimeError(f"{self.name} was started already")
        own, self._loop = async_link(target), asyncio.get_running_loop()
        self._ended, self._woken = asyncio.Event(), asyncio.Event()
        living = self._live(own, self._woken, self._ended)
        self._task = self._loop.create_task(living, name=f"zdmigrate-{self.name}")

    async def stop(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # as of the other writer
        """End the task after the key that it is at; cancel it after so many seconds (None: as many as it may take)."""
        task, self._task = self._task, None
        if task is None:
            return
        self._ended.set()
        self._woken.set()
        await asyncio.wait([task], timeout=self._timeout if timeout is None else timeout)
        task.cancel()
        await asyncio.wait([task])

    def wake(self) -> None:
        """Look now: something was committed. From any thread."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._woken.set)

    async def run_once(self, target: Any) -> Delivered:
        """Deliver what is due now, and return. `target` as for `start`.

        Raises: what the driver raises. What `secondary` raises is in the outbox, and counted.
        """
        own = async_link(target)
        try:
            return await self._drive(own, deliveries(self._outbox, self._doubtful))
        finally:
            await self._leave(own)

    async def pending(self, target: Any) -> Pending:
        """What is in the outbox: one query, which reads all of the writer's rows. `target` as for `start`."""
        own = async_link(target)
        try:
            found = await call_async(await own.begin(), self._outbox.pending())
        finally:
            await own.close()
        return Pending(*json.loads(found or "[0, 0, 0]"))

    async def _live(self, own: AsyncLink, woken: asyncio.Event, ended: asyncio.Event) -> None:
        try:
            while not ended.is_set():
                woken.clear()
                done = Delivered()
                try:
                    done = await self._drive(own, self._due_now(ended.is_set))
                    self._tell(done)
                except Exception as error:  # noqa: BLE001  # whatever a driver raises: the application must not notice
                    self._tell(error)
                    await self._announce(own)
                if not done.delivered and not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), self._pause())
        finally:
            await self._leave(own)

    async def _leave(self, own: AsyncLink) -> None:
        """Also when it is cancelled, and once more."""
        self._leaving = asyncio.ensure_future(self._announce(own, last=True))  # referred to: or it might be collected
        await asyncio.shield(self._leaving)

    async def _announce(self, own: AsyncLink, *, last: bool = False) -> None:
        if self._doubtful:
            await own.close()
            try:
                await self._drive(own, announcement(self._outbox, self._doubtful))
            except Exception as error:  # noqa: BLE001
                self._left_behind(error)
        if last:
            await own.close()

    async def _drive(self, own: AsyncLink, steps: Steps) -> Delivered:
        connection: Any = None

        async def take(step: Step) -> Any:
            # Nobody else notices where the network is gone: what the server says of time is not heard.
            async with asyncio.timeout(self._timeout if isinstance(step, Write) else self._timeout + GRACE):
                return await taken(step)

        async def taken(step: Step) -> Any:
            nonlocal connection
            match step:
                case Transaction.BEGIN:
                    connection = await own.begin()
                    return None
                case Transaction.COMMIT:
                    return await own.commit()
                case Read(key):
                    return await self._primary(connection, key)
                case Write(key, value, version):
                    return await self._secondary(key, value, *(() if version is None else (version,)))
                case _:
                    return await call_async(connection, step)

        try:
            return await drive_async(steps, take)
        except BaseException:
            await own.close()
            raise
