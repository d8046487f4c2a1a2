"""What planning costs: one migration of 30 changes on a database with 1,000 tables.

``python -m benchmarks.planning [--tables 1000] [--changes 30] [--rounds 5]`` on a scratch server. Time is that of the
process ``zdmigrate plan``, imports included, and of the same in a process that has imported everything; memory is the
peak of the process (getrusage). The exit status is 1 where a target is missed: 2 s, 150 MB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.support import large_schema, peak
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

ROOT = Path(__file__).parents[1]
SECONDS = 2.0
BYTES = 150e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    arguments = parser.parse_args()
    if arguments.changes > arguments.tables:
        parser.error("every change is on a table of its own: no more changes than tables")
    with (
        ScratchServer.start(find_binaries(arguments.major)) as server,
        tempfile.TemporaryDirectory() as folder,
        server.connect() as connection,
    ):
        for statement in large_schema.tables(arguments.tables):
            connection.execute(statement.encode())
        connection.execute("VACUUM (ANALYZE)")
        large_schema.write_migration(Path(folder, "migrations"), arguments.changes)
        # The first of each imports and caches.
        within = [plan(server.url(), Path(folder)) for _ in range(arguments.rounds + 1)][1:]
        processes = [plan_process(server.url(), Path(folder)) for _ in range(arguments.rounds + 1)][1:]
    seconds = statistics.median(usage.seconds for usage in processes)
    memory = max(usage.bytes for usage in processes)
    print(
        f"PostgreSQL {server.major}, {arguments.changes} changes, {arguments.tables:,} tables, {arguments.rounds} rounds:"
    )
    print()
    print("| | median | fastest | slowest | target |")
    print("|---|---|---|---|---|")
    print(f"| `zdmigrate plan`, the process | {spread([usage.seconds for usage in processes])} | {SECONDS:g} s |")
    print(f"| `Project.plan`, everything imported | {spread(within)} | |")
    print(f"| peak memory of the process | {memory / 1e6:.0f} MB | | | {BYTES / 1e6:.0f} MB |")
    return 1 if seconds >= SECONDS or memory >= BYTES else 0


def spread(seconds: list[float]) -> str:
    values = (statistics.median(seconds), min(seconds), max(seconds))
    return " | ".join(f"{value:.2f} s" for value in values)


def plan(url: str, folder: Path) -> float:
    """Seconds, with the connection."""
    began = time.perf_counter()
    with Project.open(Config(url=url, dir=folder / "migrations"), report=lambda _: None) as project:
        (made,) = project.plan([])
    seconds = time.perf_counter() - began
    assert list(made.steps())
    return seconds


def plan_process(url: str, folder: Path) -> peak.Usage:
    command = (sys.executable, "-m", "zdmigrate", "plan")
    return peak.usage(command, cwd=folder, env=large_schema.environment(url, ROOT, folder / "cache"))


if __name__ == "__main__":
    raise SystemExit(main())
