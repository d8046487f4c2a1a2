"""An application that sends queries at a fixed rate, however long the answers take: pgbench, open loop.

A query's latency counts from the moment at which it was due, not from when a session was free for it, so that a stall is
seen by all queries that were due meanwhile (no coordinated omission).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from benchmarks.backfill.table import OWNER
from zdmigrate.postgres.binaries import ServerBinaries, find_client
from zdmigrate.postgres.servers import ScratchServer

NAME = "load"
_SESSIONS = 8
_SCRIPTS = {
    # the weight of each
    "SELECT id, user_email, name, address, score, created FROM public.users WHERE id = :id": 70,
    "UPDATE public.users SET name = md5(:other::text) WHERE id = :id": 15,
    "UPDATE public.users SET user_email = 'u' || :other || '@ex.com' WHERE id = :id": 5,
    "INSERT INTO public.users (user_email, name, address, score, created)"
    " VALUES ('u' || :other || '@ex.org', md5(:other::text), repeat(md5(:other::text), 2), :other % 1000, now())": 10,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """One query: when it was due (seconds since 1970), and how long after that it had its answer."""

    due: float
    seconds: float


@contextlib.contextmanager
def load(server: ScratchServer, database: str, *, rows: int, rate: int) -> Iterator[list[Latency]]:
    """So many queries a second for as long as the context is open, which begins when all sessions are there.

    The list is empty until the context has ended.
    """
    latencies: list[Latency] = []
    with tempfile.TemporaryDirectory() as folder:
        process = _start(server, database, Path(folder), rows=rows, rate=rate)
        try:
            _await_sessions(server, process)
            yield latencies
            assert process.poll() is None, f"pgbench ended with {process.returncode}"
        finally:
            _end(server, process)
        latencies += _read(Path(folder))


def _start(server: ScratchServer, database: str, folder: Path, *, rows: int, rate: int) -> subprocess.Popen[bytes]:
    files = []
    for number, (script, weight) in enumerate(_SCRIPTS.items()):
        file = folder / f"{number}.sql"
        file.write_text(f"\\set id random(1, {rows})\n\\set other random(1, 1000000000)\n{script};\n", encoding="utf-8")
        files.append(f"--file={file}@{weight}")
    binaries = find_client("pgbench", at_least=server.major)
    options = (
        "--no-vacuum", "--protocol=prepared", f"--client={_SESSIONS}", "--jobs=1", f"--rate={rate}", "--time=1000000",
        "--random-seed=20261121", "--log", f"--log-prefix={folder / 'log'}",
    )  # fmt: skip
    return subprocess.Popen(
        [str(binaries.bin / "pgbench"), *options, *files],
        env=_environment(binaries, server.conninfo(database, user=OWNER)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )


def _environment(binaries: ServerBinaries, conninfo: str) -> dict[str, str]:
    where = conninfo_to_dict(conninfo)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment |= {f"PG{name.upper()}": str(where[name]) for name in ("host", "port", "user")}
    environment |= {"PGDATABASE": str(where["dbname"]), "PGAPPNAME": NAME}
    if binaries.library_path:
        variable = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        environment[variable] = os.pathsep.join(map(str, binaries.library_path))
    return environment


def _await_sessions(server: ScratchServer, process: subprocess.Popen[bytes]) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with server.connect() as connection:
        while connection.execute(query, (NAME,)).fetchone() != (_SESSIONS,):
            assert process.poll() is None, f"pgbench ended with {process.returncode}"
            time.sleep(0.01)


def _end(server: ScratchServer, process: subprocess.Popen[bytes]) -> None:
    """End its sessions: pgbench then writes the rest of its log, which it would not after a signal."""
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", (NAME,)
        )
    try:
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


def _read(folder: Path) -> list[Latency]:
    """pgbench's log: client, number, latency in µs, script, seconds and µs of the end, how late it began."""
    found = []
    for file in folder.glob("log.*"):
        for line in file.read_text(encoding="ascii").splitlines():
            _, _, microseconds, _, end, fraction, *_ = line.split()
            if microseconds.isdigit():
                seconds = int(microseconds) / 1e6
                found.append(Latency(int(end) + int(fraction) / 1e6 - seconds, seconds))
    return sorted(found, key=lambda latency: latency.due)
