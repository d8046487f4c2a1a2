"""Runs what the documentation shows, and compares: `python -m tests.docs.consoles` writes what was seen into the pages.

In a ``console`` block, ``$ command`` goes to the shell and ``shop=> statement;`` to a session of its own (a second
terminal); the lines below are their output. ``sql`` blocks are executed and ``python title="path"`` blocks are written
to that path, on pages that have a console.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.support.entry_point import distribution
from tests.support.servers import Database, binaries_for_tests, connect
from zdmigrate.postgres.servers import ScratchServer

ROOT = Path(__file__).parents[2]
MAJOR = 18
"""The server that the shown output comes from."""

_FENCE = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
_PROMPT = re.compile(r"^(\$|shop=>) ")
_ID = "20261121_1432"

# What another run shows differently. Times and numbers of processes, pages and bytes; never what happened.
_VARYING = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00:00| UTC)?", "<time>"),
    (r"(\d+ days?, )?\d+:\d\d:\d\d to go", "<time> to go"),
    (r"(\bpid |\bprocess |backend\()\d+", r"\1<pid>"),
    (r"\d[\d,]* ms +", "<ms> "),
    (r"\d+(\.\d+)? s\b", "<s>"),
    (r"\d+(\.\d+)? (kB|MB)\b", "<size>"),
    (r"\d+ pages\b", "<pages>"),
    (r"\bin \d+\.\d+s\b", "in <s>"),  # pytest
    (r"=+", "="),  # its rules end where the line does
    (r"PostgreSQL \d+\.\d+", "PostgreSQL <version>"),
    (r"\bplan [0-9a-f]{12}\b", "plan <hash>"),  # the pages of the changes show the SQL behind it
    (r" +", " "),
)
_PROGRESS = re.compile(
    r": [\d,]+ rows?, page [\d,]+ of [\d,]+|: forecast and outcome: |: backfill: \S+: (striped|rotating|plain), "
)


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A command and the output that the page gives it."""

    prompt: str
    command: str
    output: list[str]


@dataclasses.dataclass(slots=True)
class Terminal:
    """A shell in an empty directory, and a database session."""

    database: Database
    directory: Path
    code: int = 0
    session: psycopg.Connection[Any] | None = None
    env: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.directory / ".bin"
        programs.mkdir()
        for name in ("zdmigrate", "pytest"):
            shim = programs / name
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n', encoding="utf-8")
            shim.chmod(0o755)
        installed = distribution(programs / "installed")  # pytest looks for plugins there
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ZDMIGRATE_", "PG", "PYTEST_"))}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.env = clean | {
            "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{installed}", "ZDMIGRATE_URL": self.database.url, "COLUMNS": "120",
            "DATABASE_URL": self.database.server.url(self.database.name, driver="psycopg"),
            "ZDMIGRATE_CHECK_SERVER_URL": self.database.server.url("postgres"),
        }  # fmt: skip

    def run(self, shown: Shown) -> list[str]:
        """What the command says now."""
        match shown.prompt, shown.command.split():
            case "shop=>", _:
                return self._query(shown.command)
            case _, ["echo", "$?"]:
                return [str(self.code)]
            case _, ["export", assignment]:
                name, _, value = assignment.partition("=")
                if name != "ZDMIGRATE_URL":
                    self.env[name] = value
                return []
            case _:
                return self._shell(shown.command)

    def close(self) -> None:
        """End the session."""
        if self.session is not None:
            self.session.close()

    def _shell(self, command: str) -> list[str]:
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=self.directory, env=self.env, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.code = done.returncode
        assert "Traceback" not in done.stdout, done.stdout
        return [self._presented(line) for line in done.stdout.rstrip("\n").splitlines()]

    def _presented(self, line: str) -> str:
        line = line.replace(str(self.directory.resolve()), "/home/me/shop").replace(self.database.name, "shop")
        line = line.replace(f"@{socket.gethostname()}", "@laptop").replace(
            f"{socket.gethostname()} (process", "laptop (process"
        )
        return re.sub(r"\bpostgres\b", "me", re.sub(r"\b\d{8}_\d{4}_(?=\w+\.py)", f"{_ID}_", line)).rstrip()

    def _query(self, statement: str) -> list[str]:
        if self.session is None:
            self.session = connect(self.database)
        try:
            cursor = self.session.execute(statement.encode())
        except psycopg.Error as error:
            return [f"ERROR:  {error.diag.message_primary}"]
        if cursor.description is None:
            return [cursor.statusmessage or ""]
        rows = [["" if value is None else str(value) for value in row] for row in cursor.fetchall()]
        return _table([column.name for column in cursor.description], rows)


def _table(names: list[str], rows: list[list[str]]) -> list[str]:
    """As psql shows it."""
    widths = [max(len(row[number]) for row in [names, *rows]) for number in range(len(names))]
    head = " | ".join(name.center(width) for name, width in zip(names, widths, strict=True))
    body = [" | ".join(_cell(*pair) for pair in zip(row, widths, strict=True)) for row in rows]
    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    lines = [f" {head}", "-" + "-+-".join("-" * width for width in widths) + "-", *(f" {line}" for line in body), count]
    return [line.rstrip() for line in lines]


def _cell(text: str, width: int) -> str:
    return text.rjust(width) if text.isdigit() else text.ljust(width)


def pages() -> list[Path]:
    """Every page that shows a console."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "```console\n" in page.read_text(encoding="utf-8")]


def parsed(body: str) -> list[Shown]:
    """The commands of a console block."""
    found: list[Shown] = []
    lines = iter(body.splitlines())
    for line in lines:
        if match := _PROMPT.match(line):
            command = line[match.end() :]
            while command.endswith("\\"):
                command = command[:-1] + next(lines)
            found.append(Shown(match[1], command, []))
        else:
            found[-1].output.append(line)
    return found


def replayed(text: str, terminal: Terminal) -> Iterator[tuple[re.Match[str], Shown, list[str]]]:
    """Every command of a page, with what it says now. A command that fails must be followed by ``$ echo $?``."""
    for block in _FENCE.finditer(text):
        match block["language"]:
            case "sql" if not block["title"]:
                with connect(terminal.database) as connection:
                    connection.execute(block["body"].encode())
            case "python" | "sql" | "toml" if block["title"]:
                path = terminal.directory / block["title"]
                for made in path.parent.glob(f"*{path.stem.removeprefix(_ID)}.py"):
                    made.unlink()  # what `new` has written, minutes apart from the page
                path.parent.mkdir(exist_ok=True)
                path.write_text(block["body"], encoding="utf-8")
            case "console":
                yield from ((block, shown, seen) for shown, seen in _replayed_block(block["body"], terminal))


def _replayed_block(body: str, terminal: Terminal) -> Iterator[tuple[Shown, list[str]]]:
    failed = ""
    for shown in parsed(body):
        asked = shown.command == "echo $?"
        assert asked or not failed, failed
        seen = terminal.run(shown)
        yield shown, seen
        if asked:
            terminal.code = 0
        failed = "\n".join([f"{shown.command}: exit code {terminal.code} is not shown", *seen]) if terminal.code else ""
    assert not failed, failed


def comparable(lines: list[str]) -> list[str]:
    """The lines without what differs from run to run; how often progress was reported does."""
    found: list[str] = []
    for line in lines:
        text = line
        for pattern, replacement in _VARYING:
            text = re.sub(pattern, replacement, text)
        if not _PROGRESS.search(line) and (not found or found[-1] != text):
            found.append(text.strip())
    return found


def differences(shown: Shown, seen: list[str]) -> list[str]:
    """What the page shows and what was seen, where they differ."""
    old, new = comparable(shown.output), comparable(seen)
    return (
        []
        if old == new
        else [f"{shown.prompt} {shown.command}", *difflib.unified_diff(old, new, "shown", "seen", lineterm="")]
    )


def updated(text: str, terminal: Terminal) -> str:
    """The page with the outputs of now."""
    blocks: dict[tuple[int, int], list[str]] = {}
    for block, shown, seen in replayed(text, terminal):
        lines = blocks.setdefault(block.span("body"), [])
        lines += [*_as_written(block["body"], shown), *(seen if differences(shown, seen) else shown.output)]
    for (start, end), lines in sorted(blocks.items(), reverse=True):
        text = text[:start] + "".join(f"{line}\n" for line in lines) + text[end:]
    return text


def _as_written(body: str, shown: Shown) -> list[str]:
    """The command's own lines, which may be continued."""
    lines = body.splitlines()
    for number, line in enumerate(lines):
        written = [line]
        while written[-1].endswith("\\"):
            written.append(lines[number + len(written)])
        if "".join(part.removesuffix("\\") for part in written) == f"{shown.prompt} {shown.command}":
            return written
    raise AssertionError(shown.command)


def _main(names: list[str]) -> None:
    with ScratchServer.start(binaries_for_tests()) as server:
        assert server.major == MAJOR, f"the pages show PostgreSQL {MAJOR}"
        for number, page in enumerate(pages()):
            if names and page.name not in names:
                continue
            server.create_database(f"docs_{number}")
            with tempfile.TemporaryDirectory() as directory:
                terminal = Terminal(Database(server, f"docs_{number}"), Path(directory))
                try:
                    page.write_text(updated(page.read_text(encoding="utf-8"), terminal), encoding="utf-8")
                finally:
                    terminal.close()


if __name__ == "__main__":
    _main(sys.argv[1:])
