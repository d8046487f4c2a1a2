"""A backfill on a primary with two standbys: behind, gone, slow; the primary crashes; a standby takes over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.backfill import lag
from tests.support.processes import RENAME, Forker, Running, Site, transaction, until
from tests.support.replicas import Replicas, disconnected, paused, promoted, setting, slow
from tests.support.servers import Database, base_for_tests
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

_numbers = itertools.count(1)
TABLE = """
CREATE TABLE users (id bigint PRIMARY KEY, user_email text NOT NULL, note text, writes integer NOT NULL DEFAULT 0);
CREATE FUNCTION count_writes() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$;
CREATE TRIGGER a_count BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION count_writes();
ALTER TABLE users ENABLE ALWAYS TRIGGER a_count;
"""
FILLED = """
SELECT ((SELECT coalesce(sum(rows), 0) FROM zdmigrate.backfill)
      + (SELECT coalesce(sum(rows), 0) FROM zdmigrate.backfill_window))::bigint
"""
ADVANCE = ("advance", "--to", "backfill", "--override", "table_triggers=they count")
WRONG = "SELECT id FROM users WHERE writes <> 1 OR email_address IS DISTINCT FROM user_email"


@pytest.fixture
def shop(replicas: Replicas, forker: Forker, tmp_path: Path) -> Iterator[Site]:
    name = f"shop_{next(_numbers)}"
    replicas.primary.create_database(name)
    try:
        yield Site(forker, Database(replicas.primary, name), tmp_path)
    finally:
        replicas.primary.drop_database(name)


def with_rows(site: Site, rows: int) -> Site:
    """A table whose every row counts how often it was written, and a migration that is about to fill it."""
    site.sql(TABLE, f"INSERT INTO users SELECT g, 'user ' || g, repeat('.', 60) FROM generate_series(1, {rows}) g")
    site.sql("VACUUM ANALYZE users")
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    site.run("init", "--environment", "development", "--yes").expect(0)
    site.run("advance", "--to", "dual_write").expect(0)
    return site


def filled(site: Site) -> int:
    found: int = site.value(FILLED)
    return found


def under_way(site: Site, **env: str) -> Running:
    """A backfill that has filled something."""
    before = filled(site)
    running = site.start(*ADVANCE, kill=None, **env)
    try:
        until(lambda: filled(site) > before, "the first rows are filled", timeout=10)
    except AssertionError:
        print(running.narration, running.wait(1), status(site))
        raise
    return running


def refuse_wrong(site: Site, rows: int) -> None:
    """Every row is right and was written once, and the counters equal what was done."""
    assert site.rows(WRONG + " LIMIT 5") == []
    assert filled(site) == rows
    assert site.value("SELECT count(*) FROM users") == rows


def status(site: Site) -> str:
    return site.run("backfill", "status", "--format", "json").expect(0).out


def last_change(value: Callable[[], int], seconds: float) -> float:
    """After how many seconds it changed for the last time, looked at for so long."""
    began = time.monotonic()
    changed, before = 0.0, value()
    while (now := time.monotonic() - began) < seconds:
        if (found := value()) != before:
            changed, before = now, found
        time.sleep(0.02)
    return changed


@pytest.mark.parametrize("number", [1, 2])
def test_replay_that_stands_still_stops_it_within_two_seconds(shop: Site, replicas: Replicas, number: int) -> None:
    rows, replica = 40_000, (replicas.replica1, replicas.replica2)[number - 1]
    running = under_way(with_rows(shop, rows), ZDMIGRATE_BACKFILL_RATE="1MB/s")
    with paused(replica):
        assert last_change(lambda: filled(shop), 4) < 2
        until(lambda: f"replica{number} is " in status(shop), "the standby is named")
        assert f"replica{3 - number} is " not in status(shop)
        stopped = filled(shop)
        assert stopped < rows
    until(lambda: filled(shop) > stopped, "it goes on by itself", timeout=10)
    shop.run("backfill", "set", "--rate", "100MB/s").expect(0)
    running.wait().expect(0)
    refuse_wrong(shop, rows)


def test_a_standby_that_is_gone_stops_it_within_two_seconds(shop: Site, replicas: Replicas) -> None:
    rows = 40_000
    running = under_way(with_rows(shop, rows), ZDMIGRATE_BACKFILL_RATE="1MB/s")
    streaming = "SELECT count(*) FROM pg_stat_replication"
    with disconnected(replicas.replica1):
        until(lambda: shop.value(streaming) == 1, "it is gone")
        assert last_change(lambda: filled(shop), 4) < 2
        assert "replica1 is not connected to the primary" in status(shop)
        stopped = filled(shop)
        assert stopped < rows
    until(lambda: filled(shop) > stopped, "it goes on by itself", timeout=20)
    shop.run("backfill", "set", "--rate", "100MB/s").expect(0)
    running.wait().expect(0)
    refuse_wrong(shop, rows)


@pytest.mark.parametrize(("megabytes", "seconds"), [(64, 3.0), (2, 60.0)])
def test_a_slow_standby_is_held_within_the_configured_lag(
    shop: Site, replicas: Replicas, megabytes: int, seconds: float
) -> None:
    rows = 40_000
    with_rows(shop, rows)
    env = {"ZDMIGRATE_THROTTLE_MAX_LAG": f"{megabytes}MB", "ZDMIGRATE_THROTTLE_MAX_LAG_TIME": f"{seconds}s"}
    with slow(replicas.replica1), setting(replicas.replica2, "hot_standby_feedback", "off"):
        lag.await_replica(replicas.primary, replicas.replica1)
        with lag.sampled(replicas.primary, replicas.replica1) as samples:
            running = shop.start(*ADVANCE, kill=None, **env)
            began = time.monotonic()
            until(lambda: filled(shop) == rows, "all rows are filled")
            took = time.monotonic() - began
    running.wait().expect(0)
    seen = lag.lags(samples)
    print(
        f"{took:.1f} s, at most {max(each.seconds for each in seen):.2f} s and {max(each.bytes for each in seen)} bytes behind"
    )
    assert max(each.seconds for each in seen) <= 1.2 * seconds
    assert max(each.bytes for each in seen) <= 1.2 * megabytes * 2**20
    refuse_wrong(shop, rows)


# The primary dies ----------------------------------------------------------------------------------------------------


@pytest.fixture
def crashing(pg_binaries: ServerBinaries, forker: Forker, tmp_path: Path) -> Iterator[Site]:
    """A server of its own."""
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as server:
        server.create_database("shop")
        yield Site(forker, Database(server, "shop"), tmp_path)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_of_the_primary_loses_nothing_and_repeats_nothing_that_was_durable(
    crashing: Site, workers: int
) -> None:
    rows = 40_000
    server = crashing.database.server
    running = under_way(
        with_rows(crashing, rows), ZDMIGRATE_BACKFILL_RATE="2MB/s", ZDMIGRATE_BACKFILL_WORKERS=str(workers)
    )
    until(lambda: filled(crashing) > rows / 10, "some windows are done")
    server.kill()
    ended = running.wait(20).expect(1)
    assert f"{RENAME}: the connection to the database was lost" in ended.err
    assert "hint: what was committed stays" in ended.err
    server.restart()
    durable = filled(crashing)
    assert crashing.value("SELECT sum(writes) FROM users") == durable
    assert 0 < durable < rows
    crashing.run(*ADVANCE).expect(0)
    refuse_wrong(crashing, rows)


def test_a_standby_that_is_promoted_goes_on_with_it(
    pg_binaries: ServerBinaries, forker: Forker, tmp_path: Path
) -> None:
    rows = 40_000
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as primary:
        replicas = Replicas(primary, primary.start_replica("replica1"), primary.start_replica("replica2"))
        primary.create_database("shop")
        env = {"ZDMIGRATE_URL": either(primary, replicas.replica1)}
        before = Site(forker, Database(primary, "shop"), tmp_path, env)
        after = Site(forker, Database(replicas.replica1, "shop"), tmp_path, env)
        running = under_way(with_rows(before, rows), ZDMIGRATE_BACKFILL_RATE="2MB/s")
        until(lambda: filled(before) > rows / 10, "some windows are done")
        primary.kill()
        assert "the connection to the database was lost" in running.wait(20).expect(1).err
        promoted(replicas)
        done = filled(after)
        assert after.value("SELECT sum(writes) FROM users") == done
        assert 0 < done < rows
        after.run(*ADVANCE).expect(0)
        refuse_wrong(after, rows)


def either(*servers: ScratchServer) -> str:
    """A connection string for whichever of them is the primary."""
    hosts, ports = (",".join(str(getattr(server, name)) for server in servers) for name in ("host", "port"))
    return f"host={hosts} port={ports} dbname=shop user=postgres target_session_attrs=read-write"


# The horizon ---------------------------------------------------------------------------------------------------------


def order(site: Site) -> dict[str, Any]:
    """What the process that works says of its order of work."""
    found = site.rows("SELECT document->>'strategy', document->>'why' FROM zdmigrate.backfill_process")
    return dict(zip(("strategy", "why"), found[0], strict=True)) if found else {"strategy": None, "why": None}


def hot(site: Site, rows: int) -> float:
    """The share of HOT updates, once the server has counted those of a session that has just closed."""
    counted = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'users'"
    until(lambda: site.rows(counted)[0][1] >= rows, "the updates are counted")
    share, total = site.rows(counted)[0]
    return float(share / total)


def test_a_standby_that_feeds_back_its_horizon_makes_windows_take_turns(shop: Site, replicas: Replicas) -> None:
    rows = 40_000  # the first tenth is written before it is noticed
    with_rows(shop, rows)
    with setting(replicas.replica2, "wal_receiver_status_interval", "1s"):
        running = under_way(shop, ZDMIGRATE_BACKFILL_WINDOW_PAGES="15")
        until(lambda: order(shop)["strategy"] == "rotating", "windows take turns", timeout=20)
        assert "standby replica2 (hot_standby_feedback)" in order(shop)["why"]
        running.wait().expect(0)
    refuse_wrong(shop, rows)
    assert hot(shop, rows) >= 0.5


def test_without_turns_hardly_an_update_is_hot_then(shop: Site) -> None:
    """What the one before is compared with: all rows of a page at once."""
    rows = 16_000
    with_rows(shop, rows).run(*ADVANCE, ZDMIGRATE_BACKFILL_STRIPES="1").expect(0)
    assert hot(shop, rows) < 0.2


SNAPSHOT = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT FROM pg_class")
WITH_ID = ("SELECT pg_current_xact_id()",)


@pytest.mark.parametrize("statements", [SNAPSHOT, WITH_ID], ids=["snapshot", "id"])
def test_a_transaction_that_stays_open_is_named_and_the_order_falls_back(
    shop: Site, statements: tuple[str, ...]
) -> None:
    rows = 40_000
    with_rows(shop, rows)
    with transaction(shop.database, *statements) as idle:
        running = under_way(shop, ZDMIGRATE_BACKFILL_RATE="500kB/s")
        pid = idle.info.backend_pid
        until(lambda: order(shop)["strategy"] == "plain", "it falls back", timeout=40)
        assert f"pid {pid} " in order(shop)["why"]
        shop.run("backfill", "set", "--rate", "100MB/s").expect(0)
        ended = running.wait().expect(0)
        assert f"plain, pid {pid} " in ended.err
    refuse_wrong(shop, rows)
