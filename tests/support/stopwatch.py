"""An application that writes a table all the time, in a process of its own, and tells how long it ever had to wait.

``python -m tests.support.stopwatch CONNINFO STATEMENT`` runs until its standard input ends; then it prints the number
of statements and the longest one in seconds.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


class Stopwatch:
    """What the other process saw; known when the context has ended."""

    count = 0
    longest = 0.0


@contextmanager
def stopwatch(conninfo: str, statement: str) -> Iterator[Stopwatch]:
    """Measure from another process while the context is open."""
    seen = Stopwatch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stopwatch", conninfo, statement],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield seen
        out, _ = process.communicate(timeout=60)
        seen.count, seen.longest = json.loads(out)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def main(conninfo: str, statement: str) -> None:
    """Write, without a pause."""
    count, longest = 0, 0.0
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            started = time.monotonic()
            connection.execute(statement.encode())
            longest = max(longest, time.monotonic() - started)
            count += 1
    print(json.dumps([count, longest]))


if __name__ == "__main__":
    main(*sys.argv[1:])
