"""A primary and its standbys, and what can happen to one of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from zdmigrate.postgres.servers import ScratchServer


@dataclass(frozen=True, slots=True)
class Replicas:
    """A primary and two hot standbys, ``replica1`` and ``replica2``; the second has ``hot_standby_feedback = on``."""

    primary: ScratchServer
    replica1: ScratchServer
    replica2: ScratchServer


@contextlib.contextmanager
def paused(replica: ScratchServer) -> Iterator[None]:
    """Replay stands still; what the primary sends is received meanwhile."""
    with replica.connect() as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def receiving(primary: ScratchServer, folder: Path) -> Iterator[None]:
    """Somebody receives WAL and replays nothing."""
    binaries = primary.binaries
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, binaries.library_path))}
    command = [
        str(binaries.bin / "pg_receivewal"),
        "-D",
        str(folder),
        "-d",
        primary.conninfo("replication"),
        "--no-loop",
    ]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def disconnected(replica: ScratchServer) -> Iterator[None]:
    """The standby is up, but does not know where its primary is."""
    with replica.connect() as connection:
        row = connection.execute("SHOW primary_conninfo").fetchone()
        assert row is not None
        _point(connection, "")
        try:
            yield
        finally:
            _point(connection, row[0])


def _point(connection: psycopg.Connection[tuple[str, ...]], conninfo: str) -> None:
    connection.execute(sql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(sql.Literal(conninfo)))
    connection.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def slow(replica: ScratchServer, *, working: float = 0.003, stopped: float = 0.4) -> Iterator[None]:
    """Replay works for `working` seconds, is stopped for `stopped`, and so on: its process gets no more of a processor."""
    with replica.connect() as connection:
        row = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'").fetchone()
    assert row is not None
    pid, end = int(row[0]), threading.Event()

    def alternate() -> None:
        while not end.wait(working):
            os.kill(pid, signal.SIGSTOP)
            end.wait(stopped)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=alternate, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextlib.contextmanager
def setting(server: ScratchServer, name: str, value: str) -> Iterator[None]:
    """A parameter that a reload changes has another value."""
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
            connection.execute("SELECT pg_reload_conf()")


def promoted(replicas: Replicas) -> None:
    """The first standby becomes the primary, and the second one follows it."""
    new = replicas.replica1
    with new.connect() as connection, replicas.replica2.connect() as other:
        connection.execute("SELECT pg_promote(true)")
        _point(other, make_conninfo(new.conninfo("replication"), dbname=None, application_name="replica2"))
