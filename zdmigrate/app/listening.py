"""Hearing of a change at once (LISTEN), over a psycopg connection that does nothing else.

A pooler that shares connections between transactions delivers nothing, and says nothing of it: heartbeats bring the news then,
as they do without it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from zdmigrate.app.chance import CHANCE
from zdmigrate.app.channels import connecting
from zdmigrate.sqltext import ident

log = logging.getLogger("zdmigrate.app")

_LOOK = 1.0
"""Seconds after which a listener looks whether it is still wanted."""
_AGAIN = 10.0
"""Seconds before another attempt to connect."""
_SPREAD = 0.5
"""Seconds over which instances that hear of the same change spread their heartbeats."""


class Listener:
    """A thread that calls `hear` soon after something has changed, until `ended` says so."""

    def __init__(
        self, target: Any, name: str, channel: str, hear: Callable[[], None], ended: Callable[[], bool]
    ) -> None:
        """
        Raises:
            TypeError: nothing can listen over such a target.
        """
        self._connect, self._channel = connecting(target, name), channel
        self._hear, self._ended = hear, ended

    def start(self) -> None:
        """Begin; again in a forked process."""
        threading.Thread(target=self._live, name="zdmigrate-listener", daemon=True).start()

    def _live(self) -> None:
        while not self._ended():
            try:
                with contextlib.closing(self._connect()) as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001  # whatever a driver raises: heartbeats go on
                log.debug("not listening for %g s: %s", _AGAIN, error)
                threading.Event().wait(_AGAIN if not self._ended() else 0)

    def _listen(self, connection: Any) -> None:
        connection.autocommit = True
        connection.execute(f"LISTEN {ident(self._channel)}".encode())
        self._hear()  # what changed before
        while not self._ended():
            for _ in connection.notifies(timeout=_LOOK, stop_after=1):
                threading.Event().wait(CHANCE.uniform(0, _SPREAD))
                self._hear()


async def listen(connect: Callable[[], Any], channel: str, hear: Callable[[], None]) -> None:
    """The same as a coroutine, until it is cancelled. `connect` makes a psycopg `AsyncConnection`."""
    import asyncio  # costs an application without an event loop 20 ms

    while True:
        try:
            connection = await connect()
            try:
                await connection.set_autocommit(True)
                await connection.execute(f"LISTEN {ident(channel)}".encode())
                hear()
                while True:
                    async for _ in connection.notifies(timeout=60, stop_after=1):
                        await asyncio.sleep(CHANCE.uniform(0, _SPREAD))
                        hear()
            finally:
                await connection.close()
        except Exception as error:  # noqa: BLE001
            log.debug("not listening for %g s: %s", _AGAIN, error)
            await asyncio.sleep(_AGAIN)
