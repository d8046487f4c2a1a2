"""The files of a recording: one for each process, a line for each thing that is new."""

from __future__ import annotations

import json
import os
import time
from typing import Any

__all__ = ["SETTINGS", "Lines"]

SETTINGS = "settings.json"
_ERRORS = 20
"""So many different errors are told by one process."""


class Lines:
    """Appends to the process's own file. Nothing is kept open: programs close descriptors that they do not know."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._process = 0
        self._path = ""
        self._errors: set[str] = set()

    def settings(self) -> dict[str, Any]:
        """What `zdmigrate record` wants: ``root`` and ``literals``."""
        with open(os.path.join(self.directory, SETTINGS), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def started(self) -> None:
        """This process is recorded, whatever it does."""
        self._append({"process": os.getpid()})

    def statement(self, found: dict[str, Any]) -> None:
        """What was seen of a statement, all of it that is known so far."""
        self._append(found)

    def temporary(self, table: str) -> None:
        """The application makes this table for a session: what uses it can be tried nowhere else."""
        self._append({"temporary": table})

    def failed(self, what: str, error: BaseException) -> None:
        """Something could not be recorded. Each kind of error is told once, without any value."""
        text = f"{what}: {type(error).__name__} at {_where(error)}"
        if text not in self._errors and len(self._errors) < _ERRORS:
            self._errors.add(text)
            self._append({"error": text})

    def _append(self, found: dict[str, Any]) -> None:
        """One write, so that a process that is killed leaves whole lines. A disk that is full is not our problem."""
        try:
            data = json.dumps(found, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            file = os.open(self._file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, data)
            finally:
                os.close(file)
        except OSError:
            pass

    def _file(self) -> str:
        if self._process != os.getpid():  # also after a fork
            self._process = os.getpid()
            self._path = os.path.join(self.directory, f"{self._process}-{time.time_ns()}.jsonl")
        return self._path


def _where(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "an unknown place"
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"
