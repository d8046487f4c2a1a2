"""Takes a scratch server down when the process that started it is gone, however it went.

Runs as a script of its own (``python -I -S _watchdog.py DIRECTORY``), with a pipe from its owner as standard input.
The owner never writes to it: the pipe ends when the owner closes it or dies, kill -9 included. Everything here is
the standard library, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_PROGRAMS = frozenset({"initdb", "pg_basebackup", "pg_ctl", "postgres"})


class Process(NamedTuple):
    """A line of the process table; zombies are left out."""

    pid: int
    parent: int
    arguments: tuple[str, ...]


def processes() -> list[Process]:
    """All processes. `/proc/PID/cwd` would say more, but in a container root may not read it for other users."""
    if Path("/proc/self/stat").exists():
        return list(_from_proc())
    table = subprocess.run(["ps", "-Awwo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in table.stdout.splitlines())
    return [Process(int(row[0]), int(row[1]), tuple(row[3:])) for row in rows if not row[2].startswith("Z")]


def _from_proc() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            # "pid (name) state parent …", and the name may contain anything
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            arguments = (entry / "cmdline").read_text(errors="replace").split("\0")
            if state not in ("Z", "X"):
                yield Process(int(entry.name), int(parent), tuple(arguments))


def serving(directory: str, table: Sequence[Process]) -> list[Process]:
    """PostgreSQL's programs that were started on `directory`: their arguments say so, their children's do not."""
    return [
        process
        for process in table
        if process.arguments
        and Path(process.arguments[0]).name in _PROGRAMS
        and any(f"{directory}/" in argument for argument in process.arguments[1:])
    ]


def descendants(pids: set[int], table: Sequence[Process]) -> set[int]:
    """`pids` with their children, and theirs."""
    more = {process.pid for process in table if process.parent in pids} - pids
    return descendants(pids | more, table) if more else pids


def signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def crash(directory: str) -> None:
    """Kill everything on `directory` at once, so that nothing can be cleaned up or written any more."""
    parents = {process.pid for process in serving(directory, processes())}
    signal_all(parents, signal.SIGSTOP)  # no new children while they are counted
    victims = descendants(parents, processes())
    signal_all(victims, signal.SIGKILL)
    _wait(victims, seconds=10)


def take_down(directory: str) -> None:
    """Stop what runs on `directory`, the immediate way (nothing in it is needed again), and remove it."""
    table = processes()
    found = serving(directory, table)
    everybody = descendants({process.pid for process in found}, table)
    # SIGQUIT is the immediate shutdown: unlike SIGKILL it gives shared memory back (manual, section 18.5).
    postmasters = {process.pid for process in found if Path(process.arguments[0]).name == "postgres"}
    signal_all({process.pid for process in found} - postmasters, signal.SIGKILL)
    signal_all(postmasters, signal.SIGQUIT)
    if not _wait(everybody, seconds=8):
        crash(directory)
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not Path(directory).exists():
            return
        time.sleep(0.05)


def _wait(pids: set[int], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pause = 0.01
    while time.monotonic() < deadline:
        if not pids & {process.pid for process in processes()}:
            return True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return False


def main(directory: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the owner must not end us first
    sys.stdin.buffer.read()
    take_down(directory)
    if serving(directory, processes()):  # pg_ctl may have been about to start a server
        take_down(directory)


if __name__ == "__main__":
    main(sys.argv[1])
