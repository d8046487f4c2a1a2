"""Processes whose clock is wrong, by libfaketime."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = shutil.which("faketime")
MISSING = "faketime is not installed (Debian: apt install faketime)"


@contextmanager
def off_by(offset: str) -> Iterator[dict[str, str]]:
    """The environment of processes whose wall clock is off by ``+1h`` or ``-1h``. Their monotonic clock is right, as it is
    where a clock is set wrong."""
    assert PROGRAM is not None, MISSING
    shown = subprocess.run(
        [PROGRAM, "-m", "-f", offset, "printenv", "LD_PRELOAD"], check=True, capture_output=True, text=True
    )
    try:
        # Not as children of the program: signals have to reach the processes themselves.
        yield {"LD_PRELOAD": shown.stdout.strip(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    finally:
        _sweep()


def _sweep() -> None:
    """Remove the shared memory of those that were killed, and could not do it themselves."""
    for path in Path("/dev/shm").glob("*faketime_s*_*"):
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)
