"""A database with the control schema and a migration's row, for throttles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from zdmigrate.backfill.throttles import Reading, Verdict
from zdmigrate.control import install
from zdmigrate.control.store import Author, Store
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection

SCHEMA = "Control"


def prepare(conninfo: str) -> int:
    """Install the control schema and register a migration; its key."""
    store = Store(SCHEMA, "test", Author(host="here"))
    with session.connect(conninfo, purpose="test") as connection, connection.transaction():
        install.upgrade(connection.cursor(), SCHEMA, 0)
        store.register(connection.cursor(), "0001", "", "checksum")
        record = store.record(connection, "0001")
    assert record is not None
    return record.key


def opener(conninfo: str) -> Callable[[], Connection]:
    """As the engine opens the watch's connection."""
    return lambda: session.connect(conninfo, purpose="throttles")


def named(readings: Sequence[Reading], name: str) -> Reading:
    """The reading of that name."""
    return next(reading for reading in readings if reading.name == name)


def stopped(verdict: Verdict) -> bool:
    """That a reading has stopped it, not silence."""
    return verdict.at is not None and any(not reading.healthy for reading in verdict.readings)


def until(condition: Callable[[], bool], *, seconds: float = 30) -> bool:
    """Ask again and again."""
    ended = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        ended.wait(0.05)
    return False
