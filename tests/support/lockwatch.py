"""Watches who holds ACCESS EXCLUSIVE on a table, from outside, about once a millisecond.

``python -m tests.support.lockwatch CONNINFO DATABASE`` reads pg_locks until its standard input ends and prints what it
saw. It connects to another database of the server than the one it watches: its snapshots would keep CREATE INDEX
CONCURRENTLY waiting there.

A hold is one transaction's lock on one relation. It is known within two bounds: it was held at least from the answer
that first showed it to the last question that was answered with it, and at most from the last question before it to the
first answer without it. A machine that is too busy to look once a millisecond widens the bounds, and `longest_gap` says
so; it never makes the lower bound too large. A lock that came and went between two looks was held for less than a gap.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

PAUSE = 0.0005
HELD = """
SELECT l.virtualtransaction, l.relation::bigint FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = %s)
"""
RELATIONS = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname <> ALL ('{pg_catalog,information_schema,zdmigrate}')
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """Seconds of the monotonic clock, which is the same in all processes. `since` is when it was first seen."""

    relation: int
    since: float
    at_least: float
    at_most: float


class Watched:
    """What the other process saw; known when the context has ended."""

    def __init__(self) -> None:
        self.holds: tuple[Hold, ...] = ()
        self.longest_gap = 0.0
        self._known: list[tuple[float, frozenset[int]]] = [(0.0, frozenset())]

    def know(self, connection: psycopg.Connection[Any]) -> None:
        """From now on what there is now counts: an application may be using it.

        A lock on what a transaction makes itself blocks nobody.
        """
        there = frozenset(row[0] for row in connection.execute(RELATIONS.encode()).fetchall())
        self._known.append((time.monotonic(), there))

    def keep(self, holds: Iterable[Hold]) -> None:
        """Those on relations that were known at the time."""
        self.holds = tuple(hold for hold in holds if hold.relation in self._known_at(hold.since))

    def _known_at(self, moment: float) -> frozenset[int]:
        return self._known[bisect.bisect_right(self._known, moment, key=lambda entry: entry[0]) - 1][1]


@contextmanager
def lockwatch(conninfo: str, database: str) -> Iterator[Watched]:
    """Watch `database` while the context is open; `conninfo` is of another database of the same server."""
    seen = Watched()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.lockwatch", conninfo, database],
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
        found = json.loads(out)
        seen.keep(Hold(*hold) for hold in found["holds"])
        seen.longest_gap = found["longest_gap"]
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def longest(holds: Iterable[Hold]) -> Hold | None:
    """The one that certainly lasted longest."""
    return max(holds, key=lambda hold: (hold.at_least, hold.at_most), default=None)


class Log:
    """Turns looks into holds."""

    def __init__(self) -> None:
        self.holds: list[Hold] = []
        self.longest_gap = 0.0
        self._asked = time.monotonic()
        self._open: dict[tuple[str, int], tuple[float, float, float]] = {}

    def look(self, asked: float, answered: float, held: Iterable[tuple[str, int]]) -> None:
        """One question and its answer."""
        now = set(held)
        for key in [key for key in self._open if key not in now]:
            before, first, last = self._open.pop(key)
            self.holds.append(Hold(key[1], first, max(0.0, last - first), answered - before))
        for key in now:
            before, first, _ = self._open.get(key, (self._asked, answered, asked))
            self._open[key] = (before, first, asked)
        self.longest_gap = max(self.longest_gap, answered - self._asked)
        self._asked = asked


def main(conninfo: str, database: str) -> None:
    """Look until standard input ends."""
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as connection:
        connection.execute(HELD.encode(), (database,))
        log = Log()
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            asked = time.monotonic()
            held = connection.execute(HELD.encode(), (database,)).fetchall()
            log.look(asked, time.monotonic(), held)
        log.look(time.monotonic(), time.monotonic(), ())
    holds = [dataclasses.astuple(hold) for hold in log.holds]
    print(json.dumps({"holds": holds, "longest_gap": log.longest_gap}))


if __name__ == "__main__":
    main(*sys.argv[1:])
