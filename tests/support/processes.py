"""Commands as processes, and a project (a directory of migrations and a database) to run them on."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers import Database, connect

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0


class Running:
    """A command that was started. Use `wait`; `kill` ends it."""

    def __init__(self, pipe: Path, out: Path, err: Path) -> None:
        self._out, self._err = out, err
        self._pipe = os.open(pipe, os.O_RDONLY)
        self._buffer = b""
        self._ended: int | None = None
        self.pid = int(self._line(DEADLINE))

    def wait(self, timeout: float = DEADLINE) -> Done:
        """Its result, once it has ended."""
        while self._ended is None:
            line = self._line(timeout)
            if line != "stopped":
                self._ended = int(line)
        os.close(self._pipe)
        return Done(self._ended, self._out.read_text(), self._err.read_text())

    def wait_until_stopped(self) -> None:
        """Until SIGSTOP has reached it."""
        line = self._line(DEADLINE)
        assert line == "stopped", f"it ended with {line}: {self._err.read_text()}"

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        os.kill(self.pid, number)

    @property
    def narration(self) -> str:
        """What is on stderr so far."""
        return self._err.read_text() if self._err.exists() else ""

    def _line(self, timeout: float) -> str:
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"nothing happened within {timeout:g} s; stderr: {self.narration}"
            self._buffer += os.read(self._pipe, 4096)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: its exit code (negative: the signal), stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout of ``--format json``."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def migration(self, id_: str) -> dict[str, Any]:
        """One migration of the document."""
        return next(each for each in self.document["migrations"] if each["id"] == id_)

    def expect(self, code: int) -> Done:
        """The same, if it ended so."""
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.out}\n{self.err}"
        return self


class Forker:
    """The driver of `tests.support.killer`, and orders to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ZDMIGRATE_", "PG"))}
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killer"],
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=clean | {"PYTHONPATH": str(ROOT)},
        )

    def start(
        self, args: list[str], *, cwd: Path, env: Mapping[str, str], kill: Mapping[str, Any] | None = None
    ) -> Running:
        """Run the command line in a process of its own."""
        number = next(self._numbers)
        pipe, out, err = (self._directory / f"{number}.{name}" for name in ("pipe", "out", "err"))
        os.mkfifo(pipe)
        order = {
            "args": args, "cwd": str(cwd), "env": dict(env), "kill": kill and dict(kill),
            "pipe": str(pipe), "out": str(out), "err": str(err),
        }  # fmt: skip
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps(order) + "\n")
        self._driver.stdin.flush()
        return Running(pipe, out, err)

    def close(self) -> None:
        """End the driver; what it has started goes on."""
        assert self._driver.stdin is not None
        self._driver.stdin.close()
        self._driver.wait(timeout=DEADLINE)


@dataclass(frozen=True, slots=True)
class Site:
    """A directory of migrations, a database, and the command line for both."""

    forker: Forker
    database: Database
    directory: Path
    env: dict[str, str] = field(default_factory=dict)

    def write(self, id_: str, *changes: str, **options: Any) -> Path:
        """A migration file; `changes` are source text."""
        (self.directory / "migrations").mkdir(parents=True, exist_ok=True)
        path = self.directory / "migrations" / f"{id_}.py"
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        body = f"""
            import sqlalchemy as sa
            from zdmigrate import *

            migration = Migration({", ".join(changes)}{given})
            """
        path.write_text(textwrap.dedent(body))
        return path

    def start(self, *args: str, kill: Mapping[str, Any] | None = None, **env: Any) -> Running:
        """Start a command in the background."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {"ZDMIGRATE_URL": self.database.url} | self.env | env
        return self.forker.start(list(args), cwd=self.directory, env=environment, kill=kill)

    def run(self, *args: str, kill: Mapping[str, Any] | None = None, **env: Any) -> Done:
        """Run a command to its end."""
        return self.start(*args, kill=kill, **env).wait()

    def init(self, environment: str = "development") -> None:
        """Make the control schema."""
        self.run("init", "--environment", environment).expect(0)

    def sql(self, *statements: str) -> None:
        """Execute statements as superuser."""
        with connect(self.database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with connect(self.database) as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def value(self, query: str, *values: Any) -> Any:
        """The one value of a query."""
        return self.rows(query, *values)[0][0]

    def phase(self, id_: str) -> str:
        """The last completed phase."""
        found: str = self.value("SELECT phase FROM zdmigrate.migration WHERE id = %s", id_)
        return found


RENAME = "0001_email"


def with_users(site: Site, *, rows: int = 40, environment: str = "development") -> Site:
    """A table with an index, a migration that renames a column of it, and the control schema."""
    site.sql(
        "CREATE TABLE users (id bigserial PRIMARY KEY, user_email text NOT NULL)",
        "CREATE INDEX users_email ON users (user_email)",
        f"INSERT INTO users (user_email) SELECT 'u' || g FROM generate_series(1, {rows}) g",
    )
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    site.init(environment)
    return site


def until(condition: Callable[[], Any], what: str, *, timeout: float = DEADLINE) -> Any:
    """Poll until `condition` is true; fail after `timeout`."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return found


@contextmanager
def transaction(database: Database, *statements: str) -> Iterator[psycopg.Connection[Any]]:
    """A session with an open transaction that has executed `statements`; rolled back at the end."""
    with connect(database, autocommit=False) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.rollback()
