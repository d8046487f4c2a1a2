"""A backfill on a primary with two standbys: behind, gone, slow; the primary crashes; a standby takes over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.backfill import lag
from tests.support.processes import RENAME, Forker, Running, Site, until
from tests.support.replicas import Replicas, disconnected, paused
from tests.support.servers import Database
from zdmigrate.postgres.servers import ScratchServer

_numbers = itertools.count(1)
TABLE = """
CREATE TABLE users (id bigint PRIMARY KEY, user_email text NOT NULL, writes integer NOT NULL DEFAULT 0);
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
    site.sql(TABLE, f"INSERT INTO users SELECT g, 'user ' || g || repeat('.', 60) FROM generate_series(1, {rows}) g")
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
    running = site.start(*ADVANCE, **env)
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
    rows, replica = 60_000, (replicas.replica1, replicas.replica2)[number - 1]
    running = under_way(with_rows(shop, rows), ZDMIGRATE_BACKFILL_RATE="2MB/s")
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
