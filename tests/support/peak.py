"""Runs a command and tells how long it took and how much memory it had at its peak.

``python -m tests.support.peak COMMAND...`` prints both. It is a small process of its own, because the kernel counts the
memory of the process that starts a command as the command's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Of one process."""

    seconds: float
    bytes: int


def usage(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Usage:
    """Run a command, which must succeed; its output is dropped."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).absolute()), *command], cwd=cwd, env=env, check=True, stdout=subprocess.PIPE
    )
    return Usage(*json.loads(done.stdout))


def main(command: list[str]) -> int:
    """Its exit status is the command's."""
    devnull = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[devnull])
    _, status, resources = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps([seconds, resources.ru_maxrss * unit]))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
