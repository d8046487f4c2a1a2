"""Runs a command so that its Python processes are recorded."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from zdmigrate.compat.recording.collecting import Recording, collect
from zdmigrate.compat.recording.lines import SETTINGS
from zdmigrate.errors import UsageError, ZdmigrateError

__all__ = ["CommandFailed", "environment", "prepare", "record_command"]

VARIABLE = "ZDMIGRATE_RECORD"
SITE = Path(__file__).parent / "site"


class CommandFailed(ZdmigrateError):
    """The command that was recorded failed; the exit code is its own."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(
            f"{command[0]} ended with {code}; nothing was written, because what it did not reach would be missing",
            hint="mend the command (or the tests), and record again",
        )
        self.exit_code = code


def prepare(directory: Path, *, root: Path, literals: bool = False) -> None:
    """Make a directory ready for a recording; files are named relative to `root`."""
    text = json.dumps({"root": str(root), "literals": literals})
    (directory / SETTINGS).write_text(text, encoding="utf-8")


def environment(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which Python processes are recorded into `directory`."""
    path = os.pathsep.join(filter(None, (str(SITE), environ.get("PYTHONPATH", ""))))
    return {**environ, VARIABLE: str(directory), "PYTHONPATH": path}


def record_command(command: Sequence[str], *, literals: bool = False, stdout: IO[str] | int | None = None) -> Recording:
    """Run `command` to its end, here, and return what its processes sent.

    Raises:
        UsageError: there is no such command.
        CommandFailed: it failed.
        ZdmigrateError: it was not recorded, or it sent nothing.
    """
    with tempfile.TemporaryDirectory(prefix="zdmigrate-record-") as name:
        directory = Path(name)
        prepare(directory, root=Path.cwd(), literals=literals)
        code = _run(command, environment(directory, os.environ), stdout)
        if code:
            raise CommandFailed(command, code if code > 0 else 128 - code)
        found = collect(directory)
    _check(command, found)
    return found


def _run(command: Sequence[str], env: dict[str, str], stdout: IO[str] | int | None) -> int:
    try:
        return subprocess.run(list(command), env=env, stdout=stdout, check=False).returncode
    except OSError as error:
        raise UsageError(
            f"{command[0]} cannot be run: {error.strerror}",
            hint="what stands after -- is run as it is, without a shell: zdmigrate record -- pytest tests",
        ) from error


def _check(command: Sequence[str], found: Recording) -> None:
    """Nothing is not a footprint: whoever checks with it would be told that all is well."""
    if found.statements:
        return
    if not found.processes:
        raise ZdmigrateError(
            f"no Python process of {command[0]} was recorded" + "".join(f"; {error}" for error in found.errors),
            hint="python -I and python -E ignore PYTHONPATH, and some tools (tox, sudo) drop it: pass on PYTHONPATH "
            "and ZDMIGRATE_RECORD, or put zdmigrate record inside",
        )
    raise ZdmigrateError(
        f"{found.processes} Python processes of {command[0]} were recorded, and none sent a statement to PostgreSQL"
        + "".join(f"; {error}" for error in found.errors),
        hint="do the tests need a variable to use the database? psycopg, psycopg2, asyncpg, and any driver below "
        "SQLAlchemy are seen",
    )
