"""A truth and another store that follows it, for tests and for processes that they start, stop and kill.

As a process: ``python -m tests.support.outboxes CONNINFO COMMAND [ARGUMENT…]``; it says what it has done on stdout.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from tests.support.servers import Database, connect
from zdmigrate.app import DualWriter, outbox_ddl

WRITER = "search"


def make(database: Database) -> None:
    """The truth with its outbox, and the other store, which is a table here to be looked at by the same server."""
    with connect(database) as connection:
        connection.execute("CREATE TABLE users (id text PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE store (key text PRIMARY KEY, value text, calls integer NOT NULL DEFAULT 1)")
        connection.execute(outbox_ddl().encode())


def read(connection: Any, key: str) -> str | None:
    """The truth, over psycopg."""
    row = connection.execute("SELECT name FROM users WHERE id = %s", (key,)).fetchone()
    return None if row is None else row[0]


class Store:
    """The other store."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    def write(self, key: str, value: str | None) -> None:
        """Make it so, whatever it was."""
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO store VALUES (%s, %s)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value, calls = store.calls + 1",
                (key, value),
            )


def change(conninfo: str, writer: DualWriter, key: str, name: str | None) -> None:
    """The truth, in one transaction with its announcement."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "INSERT INTO users VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET name = excluded.name", (key, name)
        )
        writer.changed(connection, key)


def _hang(conninfo: str) -> None:
    """Deliver, and stop after the first write: to be killed."""
    store = Store(conninfo)

    def write(key: str, value: str | None) -> None:
        store.write(key, value)
        print("written", flush=True)
        sys.stdin.read()

    DualWriter(WRITER, primary=read, secondary=write).run_once(conninfo)


def _deliver(conninfo: str) -> None:
    """What is due, when told so."""
    writer = DualWriter(WRITER, primary=read, secondary=Store(conninfo).write)
    print("ready", flush=True)
    sys.stdin.readline()
    print(writer.run_once(conninfo).delivered, flush=True)


def _traffic(conninfo: str, rounds: str, keys: str) -> None:
    """Change a few keys again and again, and deliver them meanwhile."""
    writer = DualWriter(WRITER, primary=read, secondary=Store(conninfo).write, interval=0.05, longest_pause=0.05)
    writer.start(conninfo)
    me = threading.get_native_id()
    with psycopg.connect(conninfo) as connection:
        for number in range(int(rounds)):
            key = str(number % int(keys))
            connection.execute("UPDATE users SET name = %s WHERE id = %s", (f"{me}:{number}", key))
            writer.changed(connection, key)
            connection.commit()
            writer.wake()
            print(number, flush=True)
    writer.stop()


_COMMANDS: dict[str, Callable[..., None]] = {"hang": _hang, "deliver": _deliver, "traffic": _traffic}

if __name__ == "__main__":
    _COMMANDS[sys.argv[2]](sys.argv[1], *sys.argv[3:])
