"""An application in the foreground: sessions in processes of their own that run tiny queries and time them.

``python -m benchmarks.foreground CONNINFO NUMBER`` reads scripts from its standard input, one a line, and runs the
queries of the last one, each with one of its keys, until the input ends. It answers each line once the script is played,
so that nothing of the script before is still running, and at the end prints what it measured.
"""

from __future__ import annotations

import dataclasses
import json
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from zdmigrate.sqltext import ident

SESSIONS = 4
PAUSE = 0.004
"""Seconds between two queries of a session: the machine must not be busy with the foreground alone."""
KEYS = 500
"""Rows that one session works on; no two sessions write the same row, so that they wait for the migration alone."""

_REFERENCED = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(%s) AND confdeltype <> 'a')
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query, and the keys that it is run with, one at a time."""

    sql: str
    keys: list[list[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """One query: when it began (monotonic clock, seconds), how long it took, what it was."""

    began: float
    seconds: float
    sql: str


@dataclasses.dataclass(slots=True)
class Measured:
    """What all sessions saw; known when the context has ended."""

    latencies: list[Latency] = dataclasses.field(default_factory=list)
    errors: list[tuple[float, str]] = dataclasses.field(default_factory=list)


Models = Mapping[str, type[DeclarativeBase]]
"""The mapped classes of one version, as an `Example` has them."""


class Foreground:
    """The sessions. They do nothing until `play`."""

    def __init__(self, conninfo: str, sessions: Sequence[subprocess.Popen[str]]) -> None:
        self._conninfo = conninfo
        self._sessions = sessions

    def play(self, version: Models, touched: set[str]) -> None:
        """From now on the queries of one version of the application, given by its models.

        `touched` are columns that the migration works on. Returns when no session runs the queries of before.
        """
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            tables = _tables(version)
            scripts: list[list[Query]] = [[] for _ in self._sessions]
            for table in tables:
                keys = _keys(connection, table, len(self._sessions))
                for number, script in enumerate(scripts):
                    script += [Query(sql=q, keys=keys[number]) for q in _queries(connection, table, touched)]
        for session, script in zip(self._sessions, scripts, strict=True):
            assert session.stdin is not None
            session.stdin.write(json.dumps([[query.sql, query.keys] for query in script if query.keys]) + "\n")
            session.stdin.flush()
        for session in self._sessions:
            assert session.stdout is not None
            assert session.stdout.readline() == "playing\n"


@contextmanager
def foreground(conninfo: str) -> Iterator[tuple[Foreground, Measured]]:
    """Sessions for as long as the context is open."""
    measured = Measured()
    with ExitStack() as stack:
        sessions = [stack.enter_context(_session(conninfo, number)) for number in range(SESSIONS)]
        yield Foreground(conninfo, sessions), measured
        for session in sessions:
            out, _ = session.communicate(timeout=120)
            assert session.returncode == 0
            found = json.loads(out)
            measured.latencies += [Latency(began, seconds, sql) for began, seconds, sql in found["latencies"]]
            measured.errors += [(at, text) for at, text in found["errors"]]


@contextmanager
def _session(conninfo: str, number: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.foreground", conninfo, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def _tables(version: Models) -> list[sa.Table]:
    return next((model.metadata.sorted_tables for model in version.values()), [])


def columns(version: Models) -> set[str]:
    """The columns of models, as ``table.column``."""
    return {f"{t.name}.{c.name}" for t in _tables(version) for c in t.columns}


def _keys(connection: psycopg.Connection[Any], table: sa.Table, parts: int) -> list[list[list[str]]]:
    """Keys of rows from all over the table, as text, dealt out to `parts` sessions."""
    names = ", ".join(f"{ident(column.name)}::text" for column in table.primary_key)
    query = f"SELECT {names} FROM {_name(table)} ORDER BY random() LIMIT {KEYS * parts}"
    rows = [list(row) for row in connection.execute(query.encode()).fetchall()]
    return [rows[part::parts] for part in range(parts)]


def _queries(connection: psycopg.Connection[Any], table: sa.Table, touched: set[str]) -> Iterator[str]:
    """Read a row, change another column of it, and delete it and insert it again: all by the primary key."""
    name = _name(table)
    where = " AND ".join(f"{ident(column.name)} = %s" for column in table.primary_key)
    mapped = ", ".join(ident(column.name) for column in table.columns)
    yield f"SELECT {mapped} FROM {name} WHERE {where}"
    other = [c for c in table.columns if not (c.primary_key or c.computed) and f"{table.name}.{c.name}" not in touched]
    updated = ident((other or list(table.primary_key))[0].name)
    yield f"UPDATE {name} SET {updated} = {updated} WHERE {where}"
    answer = connection.execute(_REFERENCED, (name,)).fetchone()
    if answer == (False,):
        written = ", ".join(ident(column.name) for column in table.columns if not column.computed)
        yield (
            f"WITH gone AS (DELETE FROM {name} WHERE {where} RETURNING {written}) "
            f"INSERT INTO {name} ({written}) OVERRIDING SYSTEM VALUE SELECT {written} FROM gone"
        )


def _name(table: sa.Table) -> str:
    return ident(table.schema or "public", table.name)


def main(conninfo: str, number: str) -> None:
    """Run the queries of the last line of standard input until it ends."""
    chance = random.Random(number)
    latencies: list[tuple[float, float, str]] = []
    errors: list[tuple[float, str]] = []
    script: list[tuple[str, list[list[str]]]] = []
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("SET synchronous_commit = off")  # what is measured is not the disk
        while True:
            if select.select([sys.stdin], [], [], PAUSE)[0]:
                line = sys.stdin.readline()
                if not line:
                    break
                script = json.loads(line)
                print("playing", flush=True)
            if script:
                query, keys = chance.choice(script)
                key, began = chance.choice(keys), time.monotonic()
                try:
                    connection.execute(query.encode(), key)
                except psycopg.Error as error:
                    errors.append((began, f"{type(error).__name__}: {error.diag.message_primary}: {query}"))
                latencies.append((began, time.monotonic() - began, query))
    print(json.dumps({"latencies": latencies, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
