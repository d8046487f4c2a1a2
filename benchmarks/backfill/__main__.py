"""What a backfill costs, and what others notice of it: zdmigrate's beside other ways, in one run, on the same data.

``python -m benchmarks.backfill [--rows 2000000] [--only FIGURE]... [--json FILE] [--plots FOLDER]`` on scratch servers
(PostgreSQL 18): a primary with one streaming replica, a table with a primary key and three secondary indexes, the sync
triggers of a renamed column, and pgbench as an application that reads and writes single rows at a fixed rate.

* Rounds go through all variants, every second one backwards. Each run has a fresh copy of the same files.
* **WAL** is what was written while the variant worked, bookkeeping included, without the load's. Every page is new to
  the WAL, as after a checkpoint.
* **Latency** counts from when a query was due. **Alone** is the load before and after, on the same copy.
* The **control** uses no database at all, only three tenths of one core in short bursts: what two cores that everything
  shares do to the load by themselves.
* **Lag** is sampled at 10 Hz: seconds since the primary's WAL was as long as what the replica has replayed.
* The servers' files are in memory where there is room (`--base`), so that the disk is not what is measured. Autovacuum
  is off and no checkpoint happens in the middle: both would differ from run to run. Files of WAL are used again, as on
  a server that has been at work for long, and not made anew.
* `memory` and `cost` compare `--sizes`, without load; `restart` kills the command and starts it again.

The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.backfill import figures, report, restart, runs, scale
from benchmarks.backfill.figures import Measured
from benchmarks.backfill.variants import VARIANTS, is_available

_BYTES_PER_ROW = 6_000
"""Of a table with its copy, templates, WAL, on both servers."""


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    groups = set(arguments.only or figures.NEEDED)
    notes, names = [], _variants(groups, only=bool(arguments.only))
    for name in [name for name in names if not is_available(name)]:
        notes.append(f"{VARIANTS[name].title}: not measured, the program is not on PATH.")
        names.remove(name)
    notes += _conditions(arguments, names)
    measured = _measure(arguments, groups, names)
    notes += [
        f"Index builds, statistics and verification after the fill, at {size.rows:,} rows: {size.wal_bytes_after:.0f} B of "
        "WAL a row."
        for size in measured.sizes
    ]
    found = list(figures.figures(measured))
    found = [figure for figure in found if figure.group in groups]
    print(report.markdown(measured, found, notes))
    if arguments.json:
        arguments.json.write_text(
            json.dumps(report.document(measured, found, notes), indent=2) + "\n", encoding="utf-8"
        )
    if arguments.plots and measured.runs:
        _draw(measured, arguments.plots)
    return 0 if all(figure.reached for figure in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backfill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="of all variants (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="with and without a backfill (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=200, help="queries a second (default: %(default)s)")
    parser.add_argument("--baseline", type=float, default=10, help="seconds of load alone, before and after each run")
    parser.add_argument(
        "--sizes", type=_numbers, default="1000000,20000000", help="rows, for memory and cost (default: %(default)s)"
    )
    parser.add_argument("--restarts", type=int, default=3, help="kills (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=figures.NEEDED, metavar="FIGURE",
                        help=f"may be repeated: {', '.join(figures.NEEDED)}")  # fmt: skip
    parser.add_argument(
        "--base", type=Path, help="where the servers' files go (default: in memory, where there is room)"
    )
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--plots", type=Path, help="a folder for pictures: latency, lag, what was written")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _conditions(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{arguments.rows:,} rows, one replica, {arguments.rate} queries a second."
    before = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    yield f"{os.cpu_count()} cores; load average when it began (1, 5, 15 minutes): {before}."


def _variants(groups: Iterable[str], *, only: bool) -> list[str]:
    """All for a whole run; else those that the figures are about."""
    if not only:
        return list(VARIANTS)
    wanted = {name for group in groups for name in (*figures.NEEDED[group], *figures.BESIDE.get(group, ()))}
    return [name for name in VARIANTS if name in wanted]


def _measure(arguments: argparse.Namespace, groups: set[str], names: Sequence[str]) -> Measured:
    measured = Measured()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if names:
            for run in _runs(arguments, names, folder):
                measured.runs.append(run)
        if groups & figures.OF_SIZES:
            base = arguments.base or _roomy(max(arguments.sizes))
            # The smaller ones before and after: a machine that is faster for a minute must not pass for a difference.
            found = [
                scale.measure(rows, base=base, folder=folder) for rows in (*arguments.sizes, *arguments.sizes[:-1])
            ]
            measured.sizes += scale.together(found)
        if "restart" in groups:
            base = arguments.base or _roomy(restart.ROWS)
            measured.restarts += restart.measure(arguments.restarts, base=base, folder=folder)
    return measured


def _runs(arguments: argparse.Namespace, names: Sequence[str], folder: Path) -> Iterator[runs.Run]:
    conditions = runs.Conditions(rows=arguments.rows, rate=arguments.rate, baseline=arguments.baseline)
    fillfactors = {VARIANTS[name].fillfactor for name in names}
    base = arguments.base or _roomy(arguments.rows)
    with runs.stage(conditions, fillfactors, base=base, folder=folder) as stage:
        for name in _order(names, arguments.rounds, arguments.pairs):
            run = stage.run(name)
            _narrate(f"{name}: {run.seconds:.1f} s, p99 {run.latency_ratio:.2f} ×, lag {run.lag_seconds:.2f} s")
            yield run


def _order(names: Sequence[str], rounds: int, pairs: int) -> Iterator[str]:
    """Every second round is backwards; what is measured in pairs goes on where there are to be more of them."""
    for number in range(max(rounds, pairs)):
        wanted = [name for name in names if number < rounds or (VARIANTS[name].paced and number < pairs)]
        yield from reversed(wanted) if number % 2 else wanted


def _roomy(rows: int) -> Path | None:
    """In memory, where there is room for it and something left for everybody else."""
    folder, statistics = Path("/dev/shm"), Path("/proc/meminfo")  # noqa: S108 (the server makes a directory of its own)
    if not (folder.is_dir() and statistics.is_file()):
        return None
    (available,) = (int(line.split()[1]) for line in statistics.read_text().splitlines() if "MemAvailable" in line)
    room = min(shutil.disk_usage(folder).free, available * 1024 - (4 << 30))
    return folder if room > rows * _BYTES_PER_ROW else None


def _draw(measured: Measured, folder: Path) -> None:
    try:
        from benchmarks.backfill import plots

        made = plots.draw(measured.runs, folder)
    except ImportError:
        _narrate("no pictures: matplotlib is missing (pip install 'zdmigrate[bench]')")
        return
    _narrate("written: " + ", ".join(map(str, made)))


def _narrate(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
