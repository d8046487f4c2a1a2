"""Locks that are not granted: `advance` gives up in time and says why, and nobody else has to wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.processes import RENAME, Site, transaction, until, with_users
from tests.support.servers import Database, connect
from tests.support.stopwatch import stopwatch

BUDGET = 3.0
SHORT: dict[str, Any] = {"ZDMIGRATE_LOCK_BUDGET": f"{BUDGET:g}s"}
WRITE = "UPDATE users SET user_email = user_email WHERE id = 7"
PROMISED = 0.25
NOISE = 0.25
"""Two busy cores: how much longer than the lock timeout a measured wait may be."""


@contextmanager
def relay(database: Database, statement: str, *, each: float) -> Iterator[None]:
    """Transactions that hold a lock on the table at every moment, none of them for long."""
    stop = threading.Event()
    held = threading.Semaphore(0)
    failed: list[BaseException] = []

    def runner(mine: threading.Semaphore, other: threading.Semaphore) -> None:
        try:
            with connect(database, autocommit=False) as connection:
                while not stop.is_set():
                    mine.acquire()
                    connection.execute(statement.encode())
                    held.release()
                    stop.wait(each)
                    other.release()  # the other one takes its lock before this one is given back
                    stop.wait(each / 5)
                    connection.rollback()
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            failed.append(error)
            held.release()
        finally:
            other.release()

    first, second = threading.Semaphore(1), threading.Semaphore(0)
    threads = [threading.Thread(target=runner, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    try:
        held.acquire()
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed


def test_a_long_transaction_is_named_and_nobody_queues_behind_us(site: Site) -> None:
    with_users(site)
    with (
        transaction(site.database, "SELECT 'the long report', count(*) FROM users") as blocker,
        stopwatch(site.database.conninfo, WRITE) as writer,
    ):
        pid = blocker.info.backend_pid
        time_limit = "SELECT clock_timestamp() - xact_start > interval '1.2 s' FROM pg_stat_activity WHERE pid = %s"
        until(lambda: site.value(time_limit, pid), "the transaction is an old one")
        started = time.monotonic()
        done = site.run("advance", "--format", "json", **SHORT).expect(5)
        took = time.monotonic() - started
    message = done.migration(RENAME)["message"]
    assert f"pid {pid}" in message
    assert "the long report" in message
    assert "public.users" in message
    assert '"kind":"blocked"' in done.err.replace(" ", "")
    print(f"gave up after {took:.1f} s; the longest of {writer.count} writes took {writer.longest * 1000:.0f} ms")
    assert BUDGET - 1.5 <= took <= BUDGET + 3
    assert writer.count > 100
    # Not even a lock timeout: whoever is that old is waited for without queueing.
    assert writer.longest < PROMISED + NOISE
    assert site.phase(RENAME) == "none"
    site.run("advance", "--to", "contract").expect(0)


def test_short_transactions_one_after_the_other(site: Site) -> None:
    """There is always one in the way, and none that is old: now `advance` queues, each time for the lock timeout."""
    with_users(site)
    with (
        relay(site.database, "SELECT count(*) FROM users", each=0.8),
        stopwatch(site.database.conninfo, WRITE) as writer,
    ):
        # It gets through where a transaction ends while it queues, so this may succeed as well.
        assert site.run("advance", "--to", "switch_reads", **SHORT).code in (0, 5)
    print(f"the longest of {writer.count} writes took {writer.longest * 1000:.0f} ms")
    assert writer.longest < PROMISED + NOISE
    site.run("advance", "--to", "contract").expect(0)


def test_the_stopwatch_would_notice(site: Site) -> None:
    """The same with a lock timeout beyond what is promised: others wait for that long."""
    with_users(site)
    with (
        relay(site.database, "SELECT count(*) FROM users", each=1.5),
        stopwatch(site.database.conninfo, WRITE) as writer,
    ):
        site.run("advance", "--to", "switch_reads", **SHORT | {"ZDMIGRATE_LOCK_TIMEOUT": "1500ms"})
    assert writer.longest > PROMISED + NOISE


def test_partitions_are_locked_within_one_timeout(site: Site) -> None:
    """Each partition's lock has a timeout of its own, and all of them together may not take longer than one."""
    parts = range(8)
    site.sql(
        "CREATE TABLE users (id bigint, user_email text) PARTITION BY HASH (id)",
        *(f"CREATE TABLE users_{n} PARTITION OF users FOR VALUES WITH (MODULUS 8, REMAINDER {n})" for n in parts),
        "INSERT INTO users SELECT g, 'u' || g FROM generate_series(1, 100) g",
    )
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    site.init()
    stop = threading.Event()

    def hold(number: int) -> None:
        # A lock that is taken again and again, for a little less than the timeout: each of them can be waited for.
        with connect(site.database, autocommit=False, options="-c lock_timeout=5s") as connection:
            while not stop.is_set():
                try:
                    connection.execute(f"SELECT FROM ONLY users_{number} LIMIT 1".encode())
                    stop.wait(0.2)
                finally:
                    connection.rollback()

    threads = [threading.Thread(target=hold, args=(number,)) for number in parts]
    for thread in threads:
        thread.start()
    try:
        with stopwatch(site.database.conninfo, "INSERT INTO users VALUES (1, 'x')") as writer:
            site.run("advance", "--to", "dual_write", **SHORT)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"the longest of {writer.count} writes took {writer.longest * 1000:.0f} ms")
    assert writer.longest < PROMISED + NOISE


def test_a_prepared_transaction_is_named(site: Site) -> None:
    with_users(site)
    site.sql("BEGIN", WRITE, "PREPARE TRANSACTION 'forgotten'")
    try:
        done = site.run("advance", "--format", "json", **SHORT).expect(5)
    finally:
        site.sql("ROLLBACK PREPARED 'forgotten'")
    told = done.migration(RENAME)
    assert "gid 'forgotten'" in told["message"]
    assert "ROLLBACK PREPARED 'forgotten'" in told["hint"]
    site.run("advance", "--to", "contract").expect(0)


@pytest.mark.parametrize("target", ["backfill", "retire"])
def test_locked_rows_and_later_phases_give_up_too(site: Site, target: str) -> None:
    with_users(site)
    site.run("advance", "--to", "dual_write" if target == "backfill" else "switch_reads").expect(0)
    with transaction(site.database, WRITE) as blocker:
        started = time.monotonic()
        done = site.run("advance", "--to", target, **SHORT).expect(5)
        assert f"pid {blocker.info.backend_pid}" in done.out
        assert "UPDATE users" in done.out
        assert time.monotonic() - started < 2 * BUDGET + 3
    site.run("advance", "--to", "contract").expect(0)


def test_an_old_snapshot_that_an_index_waits_for_is_named(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "dual_write").expect(0)
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ"
    with transaction(site.database, begin, "SELECT 'an old snapshot', count(*) FROM pg_class") as blocker:
        done = site.run("advance", "--to", "backfill", **SHORT).expect(5)
        assert f"pid {blocker.info.backend_pid}" in done.out
    assert "an old snapshot" in done.out
    site.run("advance", "--to", "contract").expect(0)


def test_a_revert_gives_up_as_well(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "retire").expect(0)
    with transaction(site.database, "SELECT count(*) FROM users") as blocker:
        done = site.run("revert", RENAME, "--to", "none", **SHORT).expect(5)
        assert f"pid {blocker.info.backend_pid}" in done.out
    site.run("revert", RENAME, "--to", "none").expect(0)
    left = (
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    assert site.value(left) == ["id", "user_email"]


def test_wait_goes_on_until_the_lock_is_free(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "SELECT count(*) FROM users"):
        running = site.start("advance", "--wait", "60s", "--to", "backfill", **SHORT | {"ZDMIGRATE_LOCK_BUDGET": "1s"})
        until(lambda: "waiting" in running.narration or "no lock" in running.narration, "it has given up once")
    running.wait().expect(0)
    assert site.phase(RENAME) == "backfill"


def test_nothing_of_ours_stays_locked_after_giving_up(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "SELECT count(*) FROM users"):
        site.run("advance", **SHORT).expect(5)
    site.sql("SET lock_timeout = '2s'", "BEGIN", "LOCK TABLE users IN ACCESS EXCLUSIVE MODE", "COMMIT")
