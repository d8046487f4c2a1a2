"""Application processes that register, to be stopped, killed and asked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from tests.support.processes import ROOT
from tests.support.servers import Database

_PROGRAM = """
import sys
import sqlalchemy as sa
from zdmigrate.app import ReadSwitch, pinned, register

url, version, columns, interval = sys.argv[1:]
metadata = sa.MetaData()
if columns:
    sa.Table("users", metadata, *(sa.Column(name, sa.Text) for name in columns.split(",")))
fleet = register(
    url, application="shop", version=version, metadata=metadata if columns else None, interval=float(interval)
)
switch = ReadSwitch("0001_email")
assert fleet.refresh(30)
print("registered", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Worker:
    """One process of an application. Every line that is sent to it is an expression, which it answers."""

    def __init__(self, process: subprocess.Popen[str], pipes: tuple[IO[str], IO[str]]) -> None:
        self.process = process
        self._stdin, self._stdout = pipes

    def ask(self, expression: str) -> str:
        """The value of an expression over `fleet`, `switch` and `pinned`."""
        self._stdin.write(expression + "\n")
        self._stdin.flush()
        return self._stdout.readline().strip()

    def end(self) -> None:
        """SIGTERM, and its end."""
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def worker(
    database: Database, role: str, version: str, columns: Sequence[str] = (), *, interval: float = 0.5,
    env: Mapping[str, str] | None = None,
) -> Iterator[Worker]:  # fmt: skip
    """A process of version `version`, whose models map these columns of ``users``; none: it does not say."""
    arguments = (database.conninfo_as(role), version, ",".join(columns), str(interval))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "registered"
        yield Worker(process, (process.stdin, process.stdout))
    finally:
        process.kill()
        process.communicate()
