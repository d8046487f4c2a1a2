"""What a backfill costs: one UPDATE beside the striped worker, with the sync trigger in place.

``python benchmarks/backfill.py --rows 300000 --json results.json`` on a scratch server, or on ``--url``. Prints a
Markdown table. WAL includes the worker's bookkeeping; sizes are compared with the table before.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill import verification, worker
from zdmigrate.plan import RowWork
from zdmigrate.planning import sync
from zdmigrate.postgres.servers import ScratchServer

STATE = """
CREATE SCHEMA zdmigrate;
CREATE TABLE zdmigrate.lease (id bigint, epoch bigint, UNIQUE (id, epoch));
INSERT INTO zdmigrate.lease VALUES (1, 1);
CREATE TABLE zdmigrate.backfill (
    migration bigint NOT NULL, step text NOT NULL, relation oid NOT NULL, relation_name text NOT NULL,
    filenode oid NOT NULL, bound bigint NOT NULL, page bigint NOT NULL DEFAULT 0, stripe integer NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0, done boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (migration, step, relation))
"""
TABLE = """
CREATE TABLE public.users (
    id bigint PRIMARY KEY, user_email text NOT NULL, name text, score integer, created timestamptz NOT NULL);
INSERT INTO public.users
SELECT n, 'user' || n || '@example.org', md5(n::text), n % 1000, timestamptz '2026-01-01' + n * interval '1 s'
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON public.users (user_email);
CREATE INDEX ON public.users (score);
CREATE INDEX ON public.users (created);
ALTER TABLE public.users ADD COLUMN email_address text
"""
COLUMNS = frozenset(("id", "user_email", "name", "score", "created", "email_address"))
PAIR = sync.SyncPair(
    columns=COLUMNS,
    old=(sync.SyncColumn(name="user_email", type="text"),),
    new=(sync.SyncColumn(name="email_address", type="text"),),
    up=('"user_email"',),
    down=('"email_address"',),
)
WORK = RowWork(schema="public", table="users", assignments=sync.assignments([PAIR]), unfilled=sync.unfilled(PAIR))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table."""

    variant: str
    seconds: float
    rows_per_second: float
    wal_bytes_per_row: float
    hot_percent: float
    heap_growth_percent: float
    bloat_percent: float
    index_growth_percent: float
    longest_batch_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--url", help="a server to use; its database is overwritten")
    arguments = parser.parse_args()
    with server(arguments.url) as url:
        results = [measure(url, arguments.rows, name, work) for name, work in variants().items()]
    print(markdown(results, arguments.rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=2) + "\n")
    return 0


Work = Callable[[psycopg.Connection[Any], list[float]], None]


def variants() -> dict[str, Work]:
    """What is compared; the last is what `zdmigrate advance` does."""
    at_once = worker.Settings(pause=timedelta(0))
    shapes = {
        "worker, not striped (250 x 1)": (250, 1),
        "worker, 250 x 8": (250, 8),
        "worker, 500 x 16": (500, 16),
        "worker, 500 x 24": (500, 24),
        "worker, 250 x 32": (250, 32),
        "worker, 250 x 16": (250, 16),
    }
    return {
        "one UPDATE": single_update,
        **{
            name: striped(dataclasses.replace(at_once, window_pages=pages, stripes=stripes))
            for name, (pages, stripes) in shapes.items()
        },
        "worker, 250 x 16, pause 10 ms (default)": striped(worker.Settings()),
    }


def single_update(connection: psycopg.Connection[Any], batches: list[float]) -> None:
    begin = time.perf_counter()
    connection.execute('UPDATE public.users SET email_address = "user_email" WHERE email_address IS NULL')
    batches.append(time.perf_counter() - begin)


def striped(settings: worker.Settings) -> Work:
    def work(connection: psycopg.Connection[Any], batches: list[float]) -> None:
        begun = 0.0

        def fence(cursor: psycopg.Cursor[Any]) -> None:
            nonlocal begun
            begun = time.perf_counter()
            row = cursor.execute("SELECT 1 FROM zdmigrate.lease WHERE (id, epoch) = (1, 1) FOR KEY SHARE").fetchone()
            assert row is not None

        def rest(seconds: float) -> None:
            batches.append(time.perf_counter() - begun)
            time.sleep(seconds)

        outcome = worker.run(
            connection, control_schema="zdmigrate", migration=1, step="fill", rows=WORK, settings=settings,
            fence=fence, progress=lambda _: None, should_stop=lambda: False, sleep=rest,
        )  # fmt: skip
        assert outcome.complete

    return work


def measure(url: str, rows: int, name: str, work: Work) -> Result:
    """Run one variant on a fresh table."""
    with psycopg.connect(url, autocommit=True) as connection:
        build(connection, rows)
        heap, indexes = sizes(connection)
        before, begin, batches = wal(connection), time.perf_counter(), list[float]()
        work(connection, batches)
        seconds = time.perf_counter() - begin
        written = wal(connection) - before
        check = verification.count_unfilled(connection, rows=WORK, progress=lambda _: None, should_stop=lambda: False)
        assert check.unfilled == 0, check
        hot = hot_share(connection)
        heap_after, indexes_after = sizes(connection)
        connection.execute("VACUUM FULL public.users")
        compact, _ = sizes(connection)
    print(f"{name}: {seconds:.1f} s", file=sys.stderr)
    return Result(
        variant=name,
        seconds=round(seconds, 2),
        rows_per_second=round(rows / seconds),
        wal_bytes_per_row=round(written / rows),
        hot_percent=round(100 * hot, 1),
        heap_growth_percent=round(100 * (heap_after / heap - 1), 1),
        bloat_percent=round(100 * (heap_after / compact - 1), 1),
        index_growth_percent=round(100 * (indexes_after / indexes - 1), 1),
        longest_batch_ms=round(1000 * max(batches), 1),
    )


def build(connection: psycopg.Connection[Any], rows: int) -> None:
    """The table at fillfactor 100 with three secondary indexes, an empty new column, and the sync trigger."""
    connection.execute("DROP SCHEMA IF EXISTS zdmigrate CASCADE; DROP TABLE IF EXISTS public.users CASCADE")
    connection.execute(STATE)
    connection.execute(TABLE.format(rows=rows))  # type: ignore[arg-type,unused-ignore]
    connection.execute(sync.sync_function([PAIR], "zdmigrate.sync", "old"))  # type: ignore[arg-type,unused-ignore]
    changed = sync.unfilled(PAIR, sync.Row("NEW."))
    for trigger, events, when in (("zd_i", "INSERT", None), ("zd_u", "UPDATE", changed)):
        for statement in sync.trigger("public.users", trigger, "zdmigrate.sync", events=events, when=when):
            connection.execute(sql.SQL(statement))
    connection.execute("VACUUM (FREEZE, ANALYZE) public.users")
    connection.execute("CHECKPOINT")


def sizes(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    row = connection.execute("SELECT pg_relation_size('public.users'), pg_indexes_size('public.users')").fetchone()
    assert row is not None
    return row[0], row[1]


def wal(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def hot_share(connection: psycopg.Connection[Any]) -> float:
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")
    row = connection.execute(
        "SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'users' AND n_tup_upd > 0"
    ).fetchone()
    assert row is not None
    return float(row[0])


def markdown(results: list[Result], rows: int) -> str:
    lines = [
        f"{rows} rows, three secondary indexes, fillfactor 100, sync trigger in place:",
        "",
        "| order of work | rows/s | WAL per row | HOT | heap | of it bloat | indexes | longest batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    return "\n".join(lines)


def cells(result: Result) -> Iterator[str]:
    yield result.variant
    yield f"{result.rows_per_second:.0f}"
    yield f"{result.wal_bytes_per_row:.0f} B"
    yield f"{result.hot_percent:.0f} %"
    yield f"{result.heap_growth_percent:+.0f} %"
    yield f"{result.bloat_percent:+.0f} %"
    yield f"{result.index_growth_percent:+.0f} %"
    yield f"{result.longest_batch_ms:.0f} ms"


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server to measure on; no autovacuum and no checkpoint in the middle, which would differ from run to run."""
    if url is not None:
        yield url
        return
    settings = {"wal_level": "replica", "shared_buffers": "256MB", "max_wal_size": "8GB", "autovacuum": "off"}
    with ScratchServer.start(settings=settings, fsync=True) as scratch:
        yield scratch.conninfo()


if __name__ == "__main__":
    raise SystemExit(main())
