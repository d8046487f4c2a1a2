"""Processes whose clock is wrong, by libfaketime."""

from __future__ import annotations

import shutil
import subprocess

PROGRAM = shutil.which("faketime")
MISSING = "faketime is not installed (Debian: apt install faketime)"


def off_by(offset: str) -> dict[str, str]:
    """The environment of a process whose wall clock is off by ``+1h`` or ``-1h``. Its monotonic clock is right, as it is where
    a clock is set wrong."""
    assert PROGRAM is not None, MISSING
    shown = subprocess.run(
        [PROGRAM, "-m", "-f", offset, "printenv", "LD_PRELOAD"], check=True, capture_output=True, text=True
    )
    # Not as a child of the program: signals have to reach the process itself.
    return {"LD_PRELOAD": shown.stdout.strip(), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
