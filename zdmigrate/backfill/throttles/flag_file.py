"""A file that stops the work while it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zdmigrate.backfill.throttles.reading import Reading, unknown
from zdmigrate.postgres.session import Connection

_THRESHOLD = "no such file"


class FlagFile:
    """One reading; the file's first line is the reason. A folder that is not there may be one that is not mounted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"flag file {path}"

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Look for it."""
        try:
            return [self._look()]
        except OSError as error:
            reason = f"{self._path} cannot be looked for: {error.strerror}"
            return [unknown(self.name, _THRESHOLD, reason, f"make {self._path.parent} readable")]

    def _look(self) -> Reading:
        self._path.parent.stat()
        try:
            self._path.lstat()
        except FileNotFoundError:
            return Reading(name=self.name, value="not there", threshold=_THRESHOLD, healthy=True)
        text = _first_line(self._path)
        reason = f"{self._path} is there" + (f": {text}" if text else "")
        hint = f"rm {self._path}"
        return Reading(name=self.name, value="there", threshold=_THRESHOLD, healthy=False, reason=reason, hint=hint)


def _first_line(path: Path) -> str:
    """What it says, if it says anything; that it is there is enough."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(200).strip()
    except OSError:
        return ""
