"""Reads that are compared, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zdmigrate.app.chance import CHANCE
from zdmigrate.app.shadow.comparing import AsyncComparer, Job
from zdmigrate.app.shadow.reading import IDLE, WAITING, Shadow
from zdmigrate.app.shadow.staging import async_stage

C = TypeVar("C")
T = TypeVar("T")


class AsyncShadowRead(Shadow):
    """`ShadowRead` for an event loop: a task compares, and functions return awaitables. Ends with ``await shadow.close()``,
    or with the loop; in another loop it begins anew."""

    def __init__(self, migration: str, target: Any, **options: Any) -> None:
        """
        Args:
            target: where to compare: an AsyncEngine, a libpq connection string or URL, or a coroutine function that makes
                connections of asyncpg or psycopg.

        The others are those of `ShadowRead`.

        Raises:
            TypeError, ValueError: a wrong argument.
        """
        super().__init__(migration, **options)
        self._comparer = AsyncComparer(async_stage(target), self._ledger, self._timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pid = os.getpid()

    async def read(
        self, key: object = None, *, old: Callable[[C], Awaitable[T]], new: Callable[[C], Awaitable[T]], on: C
    ) -> T:
        """As `ShadowRead.read`."""
        authority = new if self.switch.new(key) else old
        if CHANCE.random() >= self._sample:
            return await authority(on)
        try:
            return await authority(on)
        finally:
            self._offer(key, old, new, on)

    async def close(self) -> None:
        """Compare nothing any more, and disconnect. Never raises."""
        self._closed = True
        task = self._task
        if task is not None and self._loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    def _offer(self, key: object, old: Callable[[Any], Any], new: Callable[[Any], Any], on: object) -> None:
        with contextlib.suppress(Exception):
            if not self._wanted() or not self._runs():
                return
            if self._queue.full():
                self._ledger.dropped()
            else:
                self._queue.put_nowait(Job(key, old, new, session=not hasattr(on, "exec_driver_sql")))

    def _runs(self) -> bool:
        """Whether this loop has the task, which is begun if need be."""
        loop, task = asyncio.get_running_loop(), self._task
        if task is not None and not task.done() and loop is self._loop:
            return True
        if self._loop is not None and (loop is not self._loop or os.getpid() != self._pid):
            if loop is not self._loop and self._loop.is_running() and os.getpid() == self._pid:
                return False  # another thread's loop has it
            self._comparer = self._comparer.forget()
        self._loop, self._pid = loop, os.getpid()
        self._queue: asyncio.Queue[Job] = asyncio.Queue(WAITING)
        # Without what a request's context holds: the task outlives it.
        self._task = loop.create_task(self._live(), name="zdmigrate-shadow", context=contextvars.Context())
        return True

    async def _live(self) -> None:
        jobs, comparer, wait = self._queue, self._comparer, None
        try:
            while True:
                try:
                    job = await asyncio.wait_for(jobs.get(), wait)
                except TimeoutError:
                    await comparer.close()
                    wait = None
                    continue
                await comparer.run(job)
                del job
                wait = IDLE
        finally:
            await comparer.close()
