"""How good forecasts are, and the sizes of WAL records that their model rests on.

``python -m benchmarks.forecast [--rows 200000] [--major 18] [--shape NAME]…`` on a scratch server. Each shape of a table
is forecast from statistics and from a probe, then its backfill runs after a checkpoint: outcome by forecast. Below that
are the records that it wrote for each row, as pg_waldump counts them: `zdmigrate.backfill.forecasts.costs` has their sizes as
constants. The exit status is 1 where WAL or heap growth miss their targets: a factor of 2, with a probe 1.5.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from zdmigrate.backfill.forecasts import forecast
from zdmigrate.backfill.forecasts.forecast import Forecast, Outcome
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.engine.reporting import Event
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries, available_majors, find_binaries

TARGET, PROBED_TARGET = 2.0, 1.5
SETTINGS = {"max_wal_size": "4GB", "wal_keep_size": "4GB", "checkpoint_timeout": "1h"}
MIGRATION = (
    'from zdmigrate import Migration, RenameColumn\nmigration = Migration(RenameColumn("users", "old", "new"))\n'
)
_WIDE = "id integer PRIMARY KEY, old text, a integer, b integer, d text, pad text"
_ROW = "n, 'value ' || n, (random() * 1e9)::int, n, md5(n::text), repeat('x', {pad})"
_RECORD = re.compile(r"(\S+)\s+(\d+) \([^)]*\)\s+(\d+) \([^)]*\)\s+(\d+) \(")
SIZES = (
    "SELECT pg_current_wal_insert_lsn()::text, pg_relation_size('users'), pg_indexes_size('users'), "
    "extract(epoch FROM clock_timestamp())::float8"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A table: its columns, what its rows are, its storage parameters and its further indexes."""

    columns: str = _WIDE
    row: str = _ROW.format(pad=40)
    options: str = ""
    indexes: tuple[str, ...] = ("a", "b", "d")


SHAPES = {
    "three indexes": Shape(),
    "five indexes": Shape(indexes=("a", "b", "d", "old, a", "d, b")),
    "no further index": Shape(indexes=()),
    "fillfactor 90": Shape(options="WITH (fillfactor = 90)"),
    "fillfactor 70": Shape(options="WITH (fillfactor = 70)"),
    "rows of 500 bytes": Shape(row=_ROW.format(pad=400)),
    "rows of 1,600 bytes": Shape(row=_ROW.format(pad=1500)),
    "narrow rows, no key": Shape(columns="id bigint, old text", row="n, n::text", indexes=()),
    "two thirds NULL": Shape(row=_ROW.format(pad=40).replace("'value ' || n", "CASE WHEN n % 3 = 0 THEN 'value ' || n END")),
    "random keys": Shape(
        columns="id uuid PRIMARY KEY, old text, at timestamptz", row="gen_random_uuid(), repeat(md5(n::text), 2), now()",
        indexes=("old", "at"),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The two forecasts of a shape, its outcome, and (type, number, bytes without images, bytes of images) of records."""

    name: str
    by_statistics: Forecast
    by_probe: Forecast
    outcome: Outcome
    records: tuple[tuple[str, int, int, int], ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    parser.add_argument("--shape", action="append", choices=SHAPES, default=[])
    arguments = parser.parse_args()
    binaries = find_binaries(arguments.major)
    with ScratchServer.start(binaries, settings=SETTINGS) as server:
        names = arguments.shape or SHAPES
        results = [measured(server, binaries, name, SHAPES[name], arguments.rows) for name in names]
    print(f"PostgreSQL {binaries.major}, {arguments.rows:,} rows, outcome by forecast from statistics / from a probe:")
    print("\n| table | rows | WAL | heap | indexes | time |\n|---|---|---|---|---|---|")
    for result in results:
        print(f"| {result.name} | {' | '.join(cells(result))} |")
    print("\nRecords of a filled row:\n\n| table | record | number | bytes | images |\n|---|---|---|---|---|")
    for result in results:
        for kind, number, size, images in result.records:
            rows = result.outcome.rows
            print(f"| {result.name} | {kind} | {number / rows:.3f} | {size / number:.0f} | {images / rows:.1f} |")
    return 0 if all(map(good, results)) else 1


def measured(server: ScratchServer, binaries: ServerBinaries, name: str, shape: Shape, rows: int) -> Result:
    database = "forecast_" + re.sub(r"\W+", "_", name)
    server.create_database(database)
    try:
        with tempfile.TemporaryDirectory() as folder, server.connect(database) as connection:
            Path(folder, "0001_m.py").write_text(MIGRATION, encoding="utf-8")
            make(connection, shape, rows)
            return result_of(connection, binaries, name, Config(url=server.url(database), dir=Path(folder)))
    finally:
        server.drop_database(database)


def make(connection: psycopg.Connection[Any], shape: Shape, rows: int) -> None:
    connection.execute(f"CREATE TABLE users ({shape.columns}) {shape.options}".encode())
    connection.execute(f"INSERT INTO users SELECT {shape.row} FROM generate_series(1, {rows}) AS n".encode())
    for index in shape.indexes:
        connection.execute(f"CREATE INDEX ON users ({index})".encode())
    connection.execute("VACUUM (FREEZE, ANALYZE) users")


def result_of(connection: psycopg.Connection[Any], binaries: ServerBinaries, name: str, config: Config) -> Result:
    marks: list[tuple[Any, ...]] = []

    def report(event: Event) -> None:
        if event.kind == "step" and event.phase is Phase.BACKFILL and len(marks) < 2:
            if not marks:
                connection.execute("CHECKPOINT")
            marks.append(connection.execute(SIZES).fetchone() or ())

    with Project.open(config, report=report) as project:
        project.init(environment="development", app_role=None, confirmed=True)
        plans = project.plan([])
        by_statistics, by_probe = (project.forecasts(plans, probe=probe)["0001_m"][0] for probe in (False, True))
        connection.execute("VACUUM users")
        if project.advance([], target=Phase.BACKFILL).exit_code:
            raise SystemExit(f"{name}: the backfill did not come to its end")
    begin, *_ = before = marks[0]
    end, *_ = after = marks[1]
    wal = connection.execute("SELECT pg_wal_lsn_diff(%s, %s)::float8", (end, begin)).fetchone() or (0.0,)
    count = connection.execute("SELECT count(new) FROM users").fetchone() or (0,)
    heap, indexes, seconds = (new - old for new, old in zip(after[1:], before[1:], strict=True))
    outcome = Outcome(rows=count[0], wal_bytes=wal[0], heap_bytes=heap, index_bytes=indexes, seconds=seconds)
    directory = (connection.execute("SHOW data_directory").fetchone() or ("",))[0]
    records = tuple(counted(binaries, directory, begin, end, count[0]))
    return Result(name=name, by_statistics=by_statistics, by_probe=by_probe, outcome=outcome, records=records)


def counted(
    binaries: ServerBinaries, directory: str, begin: str, end: str, rows: int
) -> Iterator[tuple[str, int, int, int]]:
    """The types of records of which there is at least one for a hundred rows; none without pg_waldump."""
    dump = binaries.bin / "pg_waldump"
    if not dump.exists():
        return
    command = [str(dump), "--path", f"{directory}/pg_wal", "--start", begin, "--end", end, "--stats=record"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for kind, number, size, images in _RECORD.findall(done.stdout):
        if int(number) >= rows / 100:
            yield kind, int(number), int(size), int(images)


def cells(result: Result) -> Iterator[str]:
    pairs = zip(ratios(result.by_statistics, result.outcome), ratios(result.by_probe, result.outcome), strict=True)
    for first, second in pairs:
        yield " / ".join("–" if each is None else f"{each:.2f}" for each in (first, second))


def ratios(found: Forecast, outcome: Outcome) -> list[float | None]:
    return [each.ratio for each in forecast.compared(found, outcome)]


def good(result: Result) -> bool:
    _, wal, heap, *_ = ratios(result.by_statistics, result.outcome)
    _, probed, *_ = ratios(result.by_probe, result.outcome)
    return within(wal, TARGET) and within(probed, PROBED_TARGET) and within(heap, TARGET)


def within(ratio: float | None, target: float) -> bool:
    return ratio is None or 1 / target <= ratio <= target


if __name__ == "__main__":
    sys.exit(main())
