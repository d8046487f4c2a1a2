"""A virtual environment for each release, made once."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Environment", "Failed"]

ROOT = Path(__file__).parents[2]
_RECORDER = ("click", "msgspec", "psycopg[binary]", "rich", "tenacity", "alembic")
"""What zdmigrate needs there to record; its own code is found on PYTHONPATH."""
_TAIL = 30


class Failed(Exception):
    """A command in an environment failed; the message has the end of its output."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment of one release in `folder`."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def install(self, requirements: Sequence[str]) -> None:
        """Make it, unless it is there."""
        done = self.folder / "requirements.txt"
        wanted = "\n".join(requirements)
        if done.is_file() and done.read_text(encoding="utf-8") == wanted:
            return
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)], os.environ)
        _run([self.python, "-m", "pip", "install", "--quiet", *requirements, *_RECORDER], os.environ)
        done.write_text(wanted, encoding="utf-8")

    def run(self, arguments: Sequence[str], *, url: str, home: Path) -> None:
        """Run its Python with `arguments`. The database is in DATABASE_URL; what it writes is for `home`.

        Raises:
            Failed: it did not end with 0.
        """
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "ZDMIGRATE_"))}
        mine = {"DATABASE_URL": url, "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        _run([self.python, *arguments], kept | mine, directory=home)


def _run(command: Sequence[str], environment: Mapping[str, str], *, directory: Path | None = None) -> None:
    done = subprocess.run(
        command, env=dict(environment), cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL:])
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
