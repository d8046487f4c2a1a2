"""Tables that change their shape while they are filled.

The command is stopped where the test wants it: by a row that somebody has locked, of which the backfill has to wait at the end of
its relation, or after a batch by a signal. Then another session changes the table, and the command goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

import pytest

from tests.acceptance.test_backfill_shapes import ACCEPTED, COUNTED, ID, ROWS, SIZE, SMALL, N, filled, sized, table
from tests.support.processes import Running, Site, transaction, until
from tests.support.servers import connect

COLUMNS = "id integer, body text, writes integer NOT NULL DEFAULT 0"
PARTITIONED = (
    "CREATE SCHEMA old",
    f"CREATE TABLE docs ({COLUMNS}) PARTITION BY RANGE (id)",
    "CREATE TABLE old.first PARTITION OF docs FOR VALUES FROM (1) TO (301)",
    "CREATE TABLE mid PARTITION OF docs FOR VALUES FROM (301) TO (901) PARTITION BY RANGE (id)",
    "CREATE TABLE second PARTITION OF mid FOR VALUES FROM (301) TO (601)",
    "CREATE TABLE third PARTITION OF mid FOR VALUES FROM (601) TO (901)",
)
BATCH = ("WITH filled AS",)


@contextlib.contextmanager
def held_by_a_row(site: Site, leaf: str) -> Iterator[Running]:
    """All of a partition but its first row is filled."""
    lock = f"SELECT FROM {leaf} WHERE id = (SELECT min(id) FROM {leaf}) FOR UPDATE"
    with transaction(site.database, lock) as holder:
        running = site.start("advance", "--to", "backfill", "--format", "json", *ACCEPTED)
        until(lambda: site.value(f"SELECT count(*) FROM {leaf} WHERE size IS NULL") == 1, "one row is left")
        yield running
        holder.rollback()


@contextlib.contextmanager
def stopped(site: Site, *, batches: int, args: tuple[str, ...] = ()) -> Iterator[Running]:
    """Between two batches of the same table."""
    kill = {"match": "WITH filled AS", "skip": 5 * batches, "stop": True}
    running = site.start("advance", "--to", "backfill", "--format", "json", *ACCEPTED, *args, kill=kill)
    running.wait_until_stopped()
    yield running
    running.send(signal.SIGCONT)


def ready(site: Site, *statements: str, rows: str = ROWS) -> Site:
    shop = table(site, *statements, *COUNTED, rows=rows)
    shop.run("advance", "--to", "dual_write").expect(0)
    return shop


# Partitions ----------------------------------------------------------------------------------------------------------


def test_partitions_that_are_attached(site: Site) -> None:
    """One with rows, and one that has partitions of its own in another schema."""
    shop = ready(site, *PARTITIONED)
    shop.sql(
        "CREATE TABLE late (LIKE docs INCLUDING ALL)",
        "INSERT INTO late (id, body) SELECT n, 'late' FROM generate_series(2001, 2300) AS n",
        f"CREATE TABLE old.tree (LIKE docs INCLUDING ALL) PARTITION BY HASH (id)",
        "CREATE TABLE old.leaf PARTITION OF old.tree FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "INSERT INTO old.tree (id, body) SELECT n, 'tree' FROM generate_series(3001, 3100) AS n",
    )
    with held_by_a_row(shop, "old.first") as running:
        shop.sql(
            "ALTER TABLE docs ATTACH PARTITION late FOR VALUES FROM (2001) TO (3001)",
            "ALTER TABLE docs ATTACH PARTITION old.tree FOR VALUES FROM (3001) TO (4001)",
        )
    assert filled(running.wait().expect(0)) == (N + 400, True)
    assert shop.rows(sized()) == [(N + 400,) * 2]
    assert shop.rows("SELECT DISTINCT writes FROM docs") == [(1,)]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("ALTER TABLE mid DETACH PARTITION third", N - 300),
        ("ALTER TABLE mid DETACH PARTITION third; ALTER TABLE third DROP COLUMN size", N - 300),
        ("ALTER TABLE docs DETACH PARTITION mid", N - 600),
        ("DROP TABLE third", N - 300),
        ("DROP TABLE mid", N - 600),
        ("TRUNCATE third", N - 300),
        ("ALTER TABLE third RENAME TO fourth; ALTER TABLE fourth SET SCHEMA old", N),
        ("CREATE TABLE old.new PARTITION OF docs FOR VALUES FROM (901) TO (9999)", N),
    ],
)
def test_partitions_that_go_or_come(site: Site, change: str, left: int) -> None:
    """What is no part of the table any more is nobody's business; the rest is filled once."""
    shop = ready(site, *PARTITIONED)
    with held_by_a_row(shop, "old.first") as running:
        shop.sql(*change.split("; "))
    done = running.wait()
    print(done)
    done.expect(0)
    assert shop.rows(sized()) == [(left, left)]
    assert shop.rows("SELECT DISTINCT writes FROM docs") == [(1,)]


def test_a_partition_that_goes_while_it_is_filled(site: Site) -> None:
    shop = ready(site, *PARTITIONED)
    with stopped(shop, batches=1):
        shop.sql("ALTER TABLE docs DETACH PARTITION old.first")
