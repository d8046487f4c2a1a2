"""Whether size matters: what a row costs, and how much memory the process takes, at several sizes of the table.

Without replica and load, on a server of its own for each size. Memory is that of `zdmigrate advance --to backfill` as
a command, with verification and index builds; the cost is that of the step that fills rows, unthrottled.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.backfill import job, runs, table, wal
from tests.support import large_schema, peak
from zdmigrate.postgres.servers import ScratchServer, find_binaries

ROOT = Path(__file__).parents[2]
_TEMPLATE, _COPY = "whole", "copy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One size of the table. Costs are per row, `wal_bytes_after` those of the rest of the phase; memory is of the process."""

    rows: int
    seconds: float
    wal_bytes: float
    wal_bytes_after: float
    peak_memory: int


def measure(rows: int, *, base: Path | None, folder: Path) -> Size:
    """Fill a table of that size twice: its copy by our function alone, then itself by the command."""
    with ScratchServer.start(find_binaries(18), settings=runs.settings(rows), fsync=True, base=base) as server:
        table.prepare(server)
        table.build(server, _TEMPLATE, rows=rows, fillfactor=100, migrations=table.write_project(folder))
        table.copy(server, _COPY, _TEMPLATE)
        with server.connect() as connection:
            begin = wal.now(connection).bytes
            done = job.run("ours_fast", server.conninfo(_COPY, user=table.OWNER))
            filled = wal.now(connection).bytes
            server.drop_database(_COPY)
            again = wal.now(connection).bytes
            memory = _peak_of_command(server.conninfo(_TEMPLATE, user=table.OWNER), folder)
            end = wal.now(connection).bytes
    fill = (filled - begin) / rows
    print(
        f"{rows:,} rows: {done.seconds / rows * 1e6:.1f} µs a row, {memory / 1e6:.0f} MB", file=sys.stderr, flush=True
    )
    return Size(
        rows=rows,
        seconds=done.seconds / rows,
        wal_bytes=fill,
        wal_bytes_after=(end - again) / rows - fill,
        peak_memory=memory,
    )


def together(sizes: Sequence[Size]) -> list[Size]:
    """Each size once: the median of its runs' seconds and WAL, and the most memory of them."""
    found = []
    for rows in dict.fromkeys(size.rows for size in sizes):
        runs_of = [size for size in sizes if size.rows == rows]
        found.append(
            Size(
                rows=rows,
                seconds=statistics.median(size.seconds for size in runs_of),
                wal_bytes=statistics.median(size.wal_bytes for size in runs_of),
                wal_bytes_after=statistics.median(size.wal_bytes_after for size in runs_of),
                peak_memory=max(size.peak_memory for size in runs_of),
            )
        )
    return found


def _peak_of_command(conninfo: str, folder: Path) -> int:
    command = (sys.executable, "-m", "zdmigrate", "advance", "--to", "backfill")
    environment = large_schema.environment(conninfo, ROOT, folder / "cache")
    environment["ZDMIGRATE_BACKFILL_PAUSE"] = "0ms"  # rests take time and no memory
    return peak.usage(command, cwd=folder, env=environment).bytes
