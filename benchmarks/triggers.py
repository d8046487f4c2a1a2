"""What a migration costs the application's writes while both shapes are kept equal.

``python -m benchmarks.triggers [--rounds 300] [--case NAME]...`` on a scratch server. Two tables alike, of six narrow
columns and one index besides the key; one of them is in a migration whose rows are filled (phase `backfill`), the other
in none. Statements of 1,000 rows alternate between them. What the migrated table pays more is all of it: the trigger,
the new column, its constraints.

Rows a second are by the wall clock. What a row costs is the CPU time of the server process (on Linux, from schedstat;
elsewhere by the wall clock too), which other processes of a busy machine hardly change; the difference and the ratio are
medians over the pairs, with the quartiles of the ratio.

A case is one line of `CASES`: the changes as a migration file has them, and what is written before and during it.
The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

BATCH = 1_000
TABLES = ("plain", "synced")
TABLE = """
CREATE TABLE {table} (
    id bigint PRIMARY KEY, account integer NOT NULL, code text NOT NULL, amount integer NOT NULL,
    state smallint NOT NULL, note text);
INSERT INTO {table} SELECT n, n % 1000, 'c' || n, n % 77, n % 5, 'n' || n % 10 FROM generate_series(1, {rows}) n;
CREATE INDEX ON {table} (account);
"""
SETTINGS = {"autovacuum": "off", "max_wal_size": "8GB", "shared_buffers": "512MB", "synchronous_commit": "off"}


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """A statement on rows between two keys, as it is without the migration and with it."""

    label: str
    plain: str
    synced: str
    at_most: float | None = None
    """Microseconds a row that the migration may cost."""
    at_most_percent: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Changes of a table called ``synced``, and what is written into it."""

    changes: str
    workloads: tuple[Workload, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one statement."""

    wall: float
    cpu: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table: pairs of statements, without the migration and with it."""

    case: str
    workload: Workload
    pairs: list[tuple[Cost, Cost]] = dataclasses.field(default_factory=list)

    @property
    def microseconds(self) -> float:
        """What a row costs more: the median of the pairs' differences."""
        return statistics.median(synced.cpu - plain.cpu for plain, synced in self.pairs) / BATCH * 1e6

    @property
    def ratios(self) -> list[float]:
        """The quartiles of synced by plain."""
        return statistics.quantiles((synced.cpu / plain.cpu for plain, synced in self.pairs), n=4)

    @property
    def missed(self) -> bool:
        too_slow = self.workload.at_most is not None and self.microseconds > self.workload.at_most
        percent = self.workload.at_most_percent
        return too_slow or (percent is not None and 100 * (self.ratios[1] - 1) > percent)


def insert(columns: str, values: str) -> str:
    return (
        f"INSERT INTO {{table}} ({columns}) SELECT {values} FROM generate_series(%(low)s::bigint, %(high)s::bigint) n"
    )


def update(assignment: str) -> str:
    return f"UPDATE {{table}} SET {assignment} WHERE id BETWEEN %(low)s AND %(high)s"


def both(label: str, statement: str, **targets: float) -> Workload:
    """The same statement with and without the migration."""
    return Workload(label, statement, statement, **targets)


OTHERS = "id, account, amount, state, note"
VALUES = "n, n %% 1000, n %% 77, n %% 5, 'n' || n %% 10"
FEWER, FEW = "id, account, amount, state, code", "n, n %% 1000, n %% 77, n %% 5"
WITH_CODE = insert(f"{OTHERS}, code", f"{VALUES}, 'c' || n")
NEITHER = both("UPDATE of neither side", update("amount = amount + 1"), at_most_percent=5)
CASES = {
    "rename": Case(
        'RenameColumn("synced", "code", "reference")',
        (
            both("INSERT by N", WITH_CODE, at_most=4),
            Workload("INSERT by N+1", WITH_CODE, insert(f"{OTHERS}, reference", f"{VALUES}, 'c' || n"), at_most=4),
            both("UPDATE of the column by N", update("code = code || 'x'"), at_most=4),
            Workload(
                "UPDATE of the column by N+1",
                update("code = code || 'x'"),
                update("reference = reference || 'x'"),
                at_most=4,
            ),
            NEITHER,
        ),
    ),
    "add": Case(
        """AddColumn("synced", sa.Column("label", sa.Text, nullable=False), backfill="'s' || state")""",
        (
            both("INSERT by N", WITH_CODE),
            Workload("INSERT by N+1", WITH_CODE, insert(f"{OTHERS}, code, label", f"{VALUES}, 'c' || n, 's1'")),
            both("UPDATE of what the backfill reads", update("state = state + 1")),
            NEITHER,
        ),
    ),
    "drop": Case(
        """DropColumn("synced", "code", down="'c' || id")""",
        (
            both("INSERT by N", WITH_CODE),
            Workload("INSERT by N+1", WITH_CODE, insert(OTHERS, VALUES)),
            both("UPDATE of the column by N", update("code = code || 'x'")),
            NEITHER,
        ),
    ),
    "change type": Case(
        'ChangeType("synced", "state", sa.BigInteger())',
        (both("INSERT", WITH_CODE), both("UPDATE of the column", update("state = (state + 1) %% 9")), NEITHER),
    ),
    "set not null": Case(
        """SetNotNull("synced", "note", backfill="'none'")""",
        (
            both("INSERT of NULL by N", insert(FEWER, f"{FEW}, 'c' || n")),
            both("INSERT by N+1", WITH_CODE),
            both("UPDATE of the column", update("note = note || 'x'")),
            NEITHER,
        ),
    ),
    "rename, change type, set not null": Case(
        """RenameColumn("synced", "note", "remark"), ChangeType("synced", "remark", sa.String(200), up="left(remark, 200)"),
        SetNotNull("synced", "remark", backfill="'none'")""",
        (
            both("INSERT by N", WITH_CODE),
            Workload("INSERT by N+1", WITH_CODE, insert(f"{FEWER}, remark", f"{FEW}, 'c' || n, 'n' || n %% 10")),
            both("UPDATE of the column by N", update("note = note || 'x'")),
            NEITHER,
        ),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="pairs of statements of each workload")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    arguments = parser.parse_args()
    with ScratchServer.start(find_binaries(arguments.major), settings=SETTINGS) as server:
        names = arguments.case or list(CASES)
        results = [result for name in names for result in measure(server, name, arguments.rounds)]
        print(markdown(results, server.major))
    missed = [result for result in results if result.missed]
    for result in missed:
        print(f"{result.case}: {result.workload.label}: misses its target", file=sys.stderr)
    return 1 if missed else 0


def measure(server: ScratchServer, name: str, rounds: int) -> list[Result]:
    """One case, in a database of its own."""
    case = CASES[name]
    results = [Result(case=name, workload=workload) for workload in case.workloads]
    server.create_database(name)
    with server.connect(name) as connection:
        for table in TABLES:
            connection.execute(TABLE.format(table=table, rows=rounds * BATCH).encode())
        migrate(server.url(name), case.changes)
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")
        # The first round fills caches and plans.
        for number in range(rounds + 1):
            for position, result in enumerate(results):
                # A round has keys of its own: for inserts above all rows, for updates a part that it alone visits.
                new = (rounds + number * len(results) + position + 1) * BATCH
                low = new if result.workload.plain.startswith("INSERT") else (number % rounds) * BATCH
                pair = costs(connection, result.workload, low, reverse=bool(number % 2))
                if number:
                    result.pairs.append(pair)
    server.drop_database(name)
    return results


def costs(connection: psycopg.Connection[Any], workload: Workload, low: int, *, reverse: bool) -> tuple[Cost, Cost]:
    """Of the statement on both tables; which one is first alternates."""
    found = {}
    for table in sorted(TABLES, reverse=reverse):
        statement = (workload.plain if table == "plain" else workload.synced).replace("{table}", table)
        used, began = cpu(connection), time.perf_counter()
        done = connection.execute(statement.encode(), {"low": low + 1, "high": low + BATCH})
        wall = time.perf_counter() - began
        found[table] = Cost(wall, cpu(connection) - used)
        assert done.rowcount == BATCH, (statement, done.rowcount)
    return found["plain"], found["synced"]


def cpu(connection: psycopg.Connection[Any]) -> float:
    """Seconds that the server process has worked so far."""
    connection.execute("SELECT")  # the kernel adds up when a process goes to sleep: it has, after the statement before
    try:
        return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return time.perf_counter()


def migrate(url: str, changes: str) -> None:
    """Fill the rows, and leave the triggers in place."""
    text = f"import sqlalchemy as sa\nfrom zdmigrate import *\n\nmigration = Migration(\n    {changes},\n)\n"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "0001_case.py").write_text(text, encoding="utf-8")
        with Project.open(Config(url=url, dir=Path(folder)), report=lambda _: None) as project:
            project.init(environment="development", app_role=None, confirmed=True)
            (status,) = project.advance([], target=Phase.BACKFILL).migrations
            assert status.exit_code == 0, status.message


def markdown(results: list[Result], major: int) -> str:
    lines = [
        f"PostgreSQL {major}, {BATCH:,} rows a statement, medians of {len(results[0].pairs)} pairs:",
        "",
        "| change | statement | rows/s without | rows/s with | costs a row | ratio (quartiles) | target |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    return "\n".join(lines)


def cells(result: Result) -> Iterator[str]:
    yield result.case
    yield result.workload.label
    for side in zip(*result.pairs, strict=True):
        yield f"{BATCH / statistics.median(cost.wall for cost in side):,.0f}"
    yield f"{result.microseconds:+.2f} µs"
    first, median, third = result.ratios
    yield f"{median:.2f} ({first:.2f}–{third:.2f})"
    micro, percent = result.workload.at_most, result.workload.at_most_percent
    yield f"{micro:g} µs" if micro is not None else f"{percent:g} %" if percent is not None else ""


if __name__ == "__main__":
    raise SystemExit(main())
