"""Several processes at one backfill: an advance, and those that help it. Nothing twice, nothing left, whoever dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import RENAME, Running, Site, until, with_users

N = 4000
SLOWLY: dict[str, Any] = {
    "ZDMIGRATE_BACKFILL_WINDOW_PAGES": "2", "ZDMIGRATE_BACKFILL_STRIPES": "4", "ZDMIGRATE_BACKFILL_PAUSE": "30ms",
    "ZDMIGRATE_LEASE": "2s",
}  # fmt: skip
FILLED = "SELECT count(*) FROM users WHERE email_address IS NOT NULL"
FRESH = "SELECT count(*) FROM zdmigrate.backfill_process WHERE expires_at > clock_timestamp()"


@pytest.fixture
def shop(site: Site) -> Site:
    """A table of about 200 pages. Every update of a row is counted in it, also those of the backfill."""
    with_users(site, rows=N).sql(
        "ALTER TABLE users ADD filler text",
        "UPDATE users SET filler = repeat('x', 300)",
        "VACUUM FULL users",
        "ALTER TABLE users ADD writes integer NOT NULL DEFAULT 0",
        "CREATE FUNCTION count_writes() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$",
        "CREATE TRIGGER a_count BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION count_writes()",
        "ALTER TABLE users ENABLE ALWAYS TRIGGER a_count",
    )
    site.run("advance", "--to", "dual_write").expect(0)
    return site


def advance(site: Site, *args: str, **env: Any) -> Running:
    given = SLOWLY | env
    return site.start("advance", "--to", "backfill", "--override", "table_triggers=they count", *args, **given)


def work(site: Site, *args: str) -> Running:
    return site.start("backfill", "work", RENAME, *args, **SLOWLY)


def both(site: Site, **env: Any) -> tuple[Running, Running]:
    """An advance and a helper, both of which have written."""
    first = advance(site, **env)
    until(lambda: site.value(FILLED), "the advance fills rows")
    second = work(site)
    until(lambda: site.value(FRESH) == 2, "both take part")
    until(lambda: claimed(site) == 2, "both have claimed something")
    return first, second


def claimed(site: Site) -> int:
    found: int = site.value("SELECT count(DISTINCT process) FROM zdmigrate.backfill_window")
    return found


def right(site: Site) -> None:
    """Every row is filled, was written once, and is counted once."""
    assert site.rows("SELECT DISTINCT writes, email_address = user_email FROM users") == [(1, True)]
    assert site.value("SELECT sum(rows) FROM zdmigrate.backfill") == N
    assert site.value("SELECT count(*) FROM zdmigrate.backfill_window") == 0


def test_two_processes_share_it(shop: Site) -> None:
    first, second = both(shop)
    document = "SELECT count(*) FROM zdmigrate.backfill_process WHERE document -> 'processes' = '2'"
    until(lambda: shop.value(document) == 2, "they know of each other")
    helped = second.wait().expect(0)
    # It may see the last row filled, or the other one's phase complete.
    assert f"{N} rows are filled" in helped.out or "the backfill is complete" in helped.out
    first.wait().expect(0)
    right(shop)
    actions = [action for (action,) in shop.rows("SELECT action FROM zdmigrate.event WHERE action = 'join'")]
    assert actions == ["join"]
    assert "nothing to join" not in work(shop).wait().expect(0).out, "it is complete"


def test_a_helper_dies(shop: Site) -> None:
    first, second = both(shop)
    second.send(signal.SIGKILL)
    second.wait()
    first.wait().expect(0)
    right(shop)


def test_the_advance_dies_and_its_helper_ends(shop: Site) -> None:
    first, second = both(shop)
    first.send(signal.SIGKILL)
    first.wait()
    ended = second.wait().expect(3)
    assert "nobody owns the backfill" in ended.out + ended.err
    left = shop.value(FILLED)
    assert left < N
    assert "nothing to join" in work(shop).wait().expect(4).out
    assert shop.value(FILLED) == left, "nobody writes without an owner"
    advance(shop).wait().expect(0)
    right(shop)


def test_another_advance_takes_over_and_is_helped(shop: Site) -> None:
    first, second = both(shop, ZDMIGRATE_LEASE="30s")  # taken over at once, because its session is gone
    epoch = shop.value("SELECT epoch FROM zdmigrate.lease")
    first.send(signal.SIGKILL)
    first.wait()
    third = advance(shop)
    until(lambda: shop.value("SELECT epoch FROM zdmigrate.lease") > epoch, "it takes over")
    second.wait().expect(0)
    third.wait().expect(0)
    right(shop)
    assert shop.value("SELECT count(*) FROM zdmigrate.event WHERE action = 'join'") == 1


def test_a_helper_that_was_asleep_while_the_lease_passed_on(shop: Site) -> None:
    """It wakes in the middle of a transaction, which the server has ended."""
    first = advance(shop)
    until(lambda: shop.value(FILLED), "the advance fills rows")
    second = shop.start(
        "backfill", "work", RENAME, kill={"match": "SET LOCAL synchronous_commit", "stop": True}, **SLOWLY
    )
    second.wait_until_stopped()
    first.send(signal.SIGKILL)
    first.wait()
    advance(shop).wait().expect(0)
    second.send(signal.SIGCONT)
    assert "stopped for too long" in second.wait().expect(5).err
    right(shop)


@pytest.fixture
def paused(shop: Site) -> Iterator[tuple[Site, Running, Running]]:
    pair = both(shop)
    shop.run("backfill", "pause").expect(0)
    yield shop, *pair
    shop.run("backfill", "resume", RENAME).expect(0)


def test_sigterm_ends_a_helper_and_nobody_else(paused: tuple[Site, Running, Running]) -> None:
    shop, first, second = paused
    second.send(signal.SIGTERM)
    second.wait().expect(3)
    until(lambda: shop.value(FRESH) == 1, "it has left")
    shop.run("backfill", "resume").expect(0)
    first.wait().expect(0)
    right(shop)


def test_a_hold_ends_both(paused: tuple[Site, Running, Running]) -> None:
    shop, first, second = paused
    shop.run("backfill", "abort").expect(0)
    first.wait().expect(4)
    second.wait().expect(4)
    assert "on hold" in work(shop).wait().expect(4).out
    shop.run("unhold", RENAME).expect(0)
    shop.run("backfill", "resume", RENAME).expect(0)
    advance(shop).wait().expect(0)
    right(shop)


def test_a_helper_whose_owner_dies_while_it_is_paused(paused: tuple[Site, Running, Running]) -> None:
    _, first, second = paused
    first.send(signal.SIGKILL)
    first.wait()
    second.wait().expect(3)


def test_a_helper_may_come_before_there_is_anything_to_do(shop: Site) -> None:
    shop.run("backfill", "pause", RENAME).expect(0)
    first = advance(shop)
    until(lambda: shop.value("SELECT holder FROM zdmigrate.lease"), "it holds the lease")
    second = work(shop)
    until(lambda: shop.value(FRESH) == 2, "both take part")
    shop.run("backfill", "resume").expect(0)
    second.wait().expect(0)
    first.wait().expect(0)
    right(shop)


def test_workers_of_one_call(shop: Site) -> None:
    first = advance(shop, "--workers", "3")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zdmigrate backfill'"
    until(lambda: shop.value(sessions) == 3, "two more workers, and the thread that listens")
    second = work(shop, "--workers", "2")
    until(lambda: shop.value(sessions) == 5, "one more, and its thread")
    first.wait().expect(0)
    second.wait().expect(0)
    right(shop)


def test_sigterm_ends_a_helper_that_has_nothing_to_do_yet(shop: Site) -> None:
    first = advance(shop, kill={"match": "backfill_cost", "stop": True}, ZDMIGRATE_LEASE="30s")
    first.wait_until_stopped()  # it holds the lease, and fills no rows
    second = work(shop)
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'zdmigrate work' AND query LIKE '%l.backend = p.backend%'"
    )
    until(lambda: shop.value(query), "it looks who fills rows")
    second.send(signal.SIGTERM)
    second.wait().expect(3)
    first.send(signal.SIGKILL)
    first.wait()


def test_nobody_works_on_it(site: Site) -> None:
    with_users(site).run("advance", "--to", "dual_write").expect(0)
    assert "nobody works on it" in site.run("backfill", "work", RENAME).expect(4).out
    assert "no migration is in its backfill" in site.run("backfill", "work").expect(2).err
    site.run("advance").expect(0)
    document: dict[str, Any] = site.run("backfill", "work", RENAME, "--format", "json").expect(0).document
    assert document["migrations"][0]["message"] == "the backfill is complete"
