"""How long a backfill stands still when its process is killed and started again at once, with default settings."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.backfill import runs, table
from tests.support import large_schema
from zdmigrate.postgres.servers import ScratchServer, find_binaries

ROOT = Path(__file__).parents[2]
ROWS = 1_000_000
_PATIENCE = 60.0
_STATE = """
SELECT (SELECT max(epoch) FROM zdmigrate.lease),
       (SELECT coalesce(sum(rows), 0) FROM zdmigrate.backfill)
       + (SELECT coalesce(sum(rows), 0) FROM zdmigrate.backfill_window)
"""


def measure(times: int, *, base: Path | None, folder: Path) -> list[float]:
    """Seconds from each kill -9 to the next batch that a new process has committed."""
    with ScratchServer.start(find_binaries(18), settings=runs.settings(ROWS), fsync=True, base=base) as server:
        table.prepare(server)
        table.build(server, "restart", rows=ROWS, fillfactor=100, migrations=table.write_project(folder))
        with server.connect("restart") as connection, contextlib.ExitStack() as stack:
            conninfo = server.conninfo("restart", user=table.OWNER)
            return list(_kills(connection, lambda: stack.enter_context(_command(conninfo, folder)), times))


def _kills(
    connection: psycopg.Connection[Any], start: Callable[[], subprocess.Popen[bytes]], times: int
) -> Iterator[float]:
    process = start()
    _await_batch(connection, process, after=_state(connection))
    for _ in range(times):
        process.kill()
        process.wait()
        killed = time.monotonic()
        process = start()
        _await_batch(connection, process, after=_state(connection))
        yield time.monotonic() - killed


@contextlib.contextmanager
def _command(conninfo: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "zdmigrate", "advance", "--to", "backfill"],
        cwd=folder,
        env=large_schema.environment(conninfo, ROOT, folder / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _await_batch(
    connection: psycopg.Connection[Any], process: subprocess.Popen[bytes], *, after: tuple[int, int]
) -> None:
    """Until somebody with a newer lease has filled rows: what the killed one's session still does is none of that."""
    epoch, _ = after
    deadline, rows_at_start = time.monotonic() + _PATIENCE, None
    while time.monotonic() < deadline:
        assert process.poll() is None, "the backfill ended before it could be killed: the table is too small"
        now, rows = _state(connection)
        if now > epoch and rows_at_start is None:
            rows_at_start = rows
        if rows_at_start is not None and rows > rows_at_start:
            return
        time.sleep(0.005)
    raise AssertionError(f"no batch was committed within {_PATIENCE:g} s")


def _state(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    row = connection.execute(_STATE).fetchone()
    assert row is not None
    return row[0], row[1]
