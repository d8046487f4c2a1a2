"""Tables that change their shape while they are filled.

The command is stopped where the test wants it: by a row that somebody has locked, of which the backfill has to wait at the end of
its relation, or after a batch by a signal. Then another session changes the table, and the command goes on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from tests.acceptance.test_backfill_shapes import ACCEPTED, COUNTED, ID, ROWS, N, filled, sized, table
from tests.support.processes import Running, Site, transaction, until

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
def stopped(site: Site, *, batches: int = 1) -> Iterator[Running]:
    """After so many batches, between two transactions."""
    kill = {"match": "WITH filled AS", "skip": 2 * (batches - 1), "stop": True}
    running = site.start("advance", "--to", "backfill", "--format", "json", *ACCEPTED, kill=kill)
    running.wait_until_stopped()
    try:
        yield running
    finally:
        running.send(signal.SIGCONT)


def counted(site: Site, *statements: str) -> Site:
    """A table that counts how often its rows are written."""
    return table(site, *statements, *COUNTED)


def synced(site: Site, *statements: str) -> Site:
    shop = counted(site, *statements)
    shop.run("advance", "--to", "dual_write").expect(0)
    return shop


# Partitions ----------------------------------------------------------------------------------------------------------


def test_partitions_that_are_attached(site: Site) -> None:
    """One with rows, and one that has partitions of its own in another schema."""
    shop = synced(site, *PARTITIONED)
    shop.sql(
        "CREATE TABLE late (LIKE docs INCLUDING ALL)",
        "INSERT INTO late (id, body) SELECT n, 'late' FROM generate_series(2001, 2300) AS n",
        "CREATE TABLE old.tree (LIKE docs INCLUDING ALL) PARTITION BY HASH (id)",
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
    shop = synced(site, *PARTITIONED)
    with held_by_a_row(shop, "old.first") as running:
        shop.sql(*change.split("; "))
    assert filled(running.wait().expect(0))[1]
    assert shop.rows(sized()) == [(left, left)]
    assert shop.rows("SELECT DISTINCT writes FROM docs") == [(1,)]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("ALTER TABLE docs DETACH PARTITION old.first", N - 300),
        ("ALTER TABLE docs DETACH PARTITION old.first; ALTER TABLE old.first DROP COLUMN size", N - 300),
        ("DROP TABLE old.first", N - 300),
        ("TRUNCATE docs", 0),
        ("ALTER TABLE old.first RENAME TO last", N),
        ("ALTER SCHEMA old RENAME TO older", N),
        ("VACUUM FULL old.first", N),
    ],
)
def test_the_partition_that_is_being_filled(site: Site, change: str, left: int) -> None:
    shop = counted(site, *PARTITIONED)
    with stopped(shop) as running:
        shop.sql(*change.split("; "))
    done = running.wait().expect(0)
    assert shop.rows(sized()) == [(left, left)]
    assert shop.rows("SELECT DISTINCT writes FROM docs") == ([(1,)] if left else [])
    assert filled(done)[1]
    assert left < N or filled(done)[0] == N


# The table itself ----------------------------------------------------------------------------------------------------


AGAIN = "INSERT INTO docs (id, body) SELECT n, repeat('x', n) FROM generate_series(1, 450) AS n"
REWRITES = {
    "VACUUM FULL": "VACUUM FULL docs",
    "CLUSTER": "CLUSTER docs USING docs_pkey",
    "without WAL from here on": "ALTER TABLE docs SET UNLOGGED",
    "another column's type": "ALTER TABLE docs ALTER COLUMN other TYPE bigint",
    "a column with a volatile default": "ALTER TABLE docs ADD COLUMN more uuid DEFAULT gen_random_uuid()",
    "more room in its pages": "ALTER TABLE docs SET (fillfactor = 30); VACUUM FULL docs",
    "an index on the new column": "CREATE INDEX ON docs (size)",
    "fewer rows, and then more": f"DELETE FROM docs WHERE id <= 450; VACUUM FULL docs; {AGAIN}",
    "truncated": f"TRUNCATE docs; {ROWS}",
    "truncated and filled past the triggers": f"TRUNCATE docs; SET session_replication_role = replica; {ROWS}",
}


@pytest.mark.parametrize("change", REWRITES)
def test_a_table_that_is_rewritten(site: Site, change: str) -> None:
    """No row is written twice, and what is counted is what was written."""
    shop = counted(site, f"CREATE TABLE docs ({COLUMNS}, other integer)", "ALTER TABLE docs ADD PRIMARY KEY (id)")
    with stopped(shop, batches=3) as running:
        before = shop.value("SELECT sum(writes) FROM docs")
        assert 0 < before < N
        shop.sql(*REWRITES[change].split("; "))
        gone = before - (shop.value("SELECT sum(writes) FROM docs") or 0)
    number, complete = filled(running.wait().expect(0))
    assert shop.rows(sized()) == [(N, N)]
    assert shop.value("SELECT max(writes) FROM docs") <= 1
    assert (number, complete) == (shop.value("SELECT sum(writes) FROM docs") + gone, True)


@pytest.mark.parametrize("change", ["DROP TABLE docs", "ALTER TABLE docs RENAME TO papers"])
def test_a_table_that_is_gone(site: Site, change: str) -> None:
    shop = counted(site, f"CREATE TABLE docs ({COLUMNS})")
    with stopped(shop) as running:
        shop.sql(change)
    told = running.wait().expect(7).migration(ID)
    assert told["message"] == "there is no table public.docs any more"
    assert "give it its name back" in told["hint"]
    if "papers" in change:
        shop.sql("ALTER TABLE papers RENAME TO docs")
        shop.run("advance", "--to", "backfill", *ACCEPTED).expect(0)
        assert shop.rows(sized()) == [(N, N)]
        assert shop.rows("SELECT DISTINCT writes FROM docs") == [(1,)]


def test_a_child_that_inherits_from_it_meanwhile(site: Site) -> None:
    """Triggers of a parent are none of its children, and version N+1 would meet rows that nobody has filled."""
    shop = counted(site, f"CREATE TABLE docs ({COLUMNS})")
    with stopped(shop) as running:
        shop.sql("CREATE TABLE child (more text) INHERITS (docs)", "INSERT INTO child (id, body) VALUES (1001, 'new')")
    told = running.wait().expect(7).migration(ID)
    assert told["message"].endswith("changed by hand (missing or not ENABLE ALWAYS) on public.child")
    assert shop.phase(ID) == "dual_write"
