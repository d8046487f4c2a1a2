"""Two processes on one migration: who works, how long a dead one delays the next, what a zombie can do."""

from __future__ import annotations

import functools
import signal
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.processes import RENAME, Running, Site, transaction, until, with_users
from zdmigrate.config import Config
from zdmigrate.engine.project import Project

LEASE = "SELECT holder, acquired_at, backend, epoch FROM zdmigrate.lease WHERE holder IS NOT NULL"
SHORT: dict[str, Any] = {"ZDMIGRATE_LEASE": "2s"}
INDEX = (
    "SELECT c.oid::bigint, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname LIKE %s"
)
OLD_SNAPSHOT = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM pg_class")


def holding(site: Site) -> tuple[object, ...]:
    """The row of the lease, once somebody holds it."""
    found: list[tuple[object, ...]] = until(lambda: site.rows(LEASE), "somebody holds the lease")
    return found[0]


def building(site: Site) -> int:
    """The backend that builds an index and waits, once there is one."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%%' "
        "AND wait_event_type = 'Lock'"
    )
    found: int = until(lambda: site.rows(query), "an index is being built")[0][0]
    return found


def alive(site: Site, pid: object) -> bool:
    return bool(site.rows("SELECT FROM pg_stat_activity WHERE pid = %s AND backend_type = 'client backend'", pid))


def steps_done(site: Site) -> list[tuple[str, int]]:
    query = "SELECT step, count(*) FROM zdmigrate.event WHERE action = 'do' GROUP BY step HAVING count(*) > 1"
    return [(step, number) for step, number in site.rows(query)]


def test_of_two_one_works_and_the_other_says_who_does(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance", "--to", "contract")
        holder, since, *_ = holding(site)
        started = time.monotonic()
        second = site.run("advance", "--to", "contract", "--format", "json").expect(5)
        told = second.migration(RENAME)["message"]
        assert str(holder) in told
        assert f"since {since:%Y-%m-%d %H:%M:%S}" in told
        assert str(first.pid) in told
        assert time.monotonic() - started < 10
    first.wait().expect(0)
    assert site.phase(RENAME) == "contract"
    assert steps_done(site) == []


def test_a_reader_needs_no_lease(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance")
        holder, *_ = holding(site)
        assert str(holder) in site.run("status").expect(0).out
        first.send(signal.SIGKILL)
        first.wait()


def test_sigterm_gives_the_lease_back(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance")
        until(lambda: "without queueing" in first.narration, "it works and waits")
        holding(site)
        first.send(signal.SIGTERM)
        first.wait().expect(143)
        assert site.rows(LEASE) == []


def test_a_signal_while_the_heartbeat_starts_gives_the_lease_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with_users(site)

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    config = Config(url=site.database.url, dir=site.directory / "migrations")
    with Project.open(config, report=lambda _: None) as project, pytest.raises(KeyboardInterrupt):
        project.advance([], target=None)
    assert site.value("SELECT count(*) FROM zdmigrate.lease") == 1
    assert site.rows(LEASE) == []


def test_a_killed_holder_hardly_delays_the_next(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance")
        holding(site)
        first.send(signal.SIGKILL)
        assert first.wait().code == -9
    started = time.monotonic()
    site.run("advance").expect(0)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"match": 'ADD COLUMN "email_address"'}, id="before it commits"),
        pytest.param({"match": "WITH filled AS"}, id="in a batch"),
        pytest.param({"match": 'ADD COLUMN "email_address"', "skip": 2}, id="between transactions"),
    ],
)
def test_a_stopped_holder_is_replaced_and_cannot_commit(site: Site, where: dict[str, Any]) -> None:
    """At default settings: at most 12 s. What wakes up afterwards says that it lost the lease, and changes nothing."""
    with_users(site)
    zombie = site.start("advance", "--to", "switch_reads", kill={"stop": True} | where)
    zombie.wait_until_stopped()
    _, _, backend, epoch = holding(site)
    started = time.monotonic()
    site.run("advance", "--to", "contract").expect(0)
    delay = time.monotonic() - started
    assert not alive(site, backend)
    before = site.rows("SELECT number, step, action FROM zdmigrate.event ORDER BY number")

    zombie.send(signal.SIGCONT)
    ended = zombie.wait().expect(5)
    assert "took over" in ended.err + ended.out
    assert site.rows("SELECT number, step, action FROM zdmigrate.event ORDER BY number") == before
    assert site.phase(RENAME) == "contract"
    assert site.value("SELECT epoch FROM zdmigrate.lease") > epoch
    assert steps_done(site) == []
    print(f"the next one waited {delay:.1f} s")
    assert delay <= 12


def test_a_heartbeat_keeps_the_lease_of_one_that_works_for_long(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance", **SHORT)
        epoch = holding(site)[3]
        expiry = "SELECT expires_at FROM zdmigrate.lease"
        begun = site.value("SELECT clock_timestamp()")
        until(lambda: (site.value(expiry) - begun).total_seconds() > 5, "the lease was extended twice over")
        site.run("advance", **SHORT).expect(5)
        assert holding(site)[3] == epoch
    first.wait().expect(0)


def test_a_heartbeat_that_loses_its_connection_takes_another(site: Site) -> None:
    with_users(site)
    heartbeat = "FROM pg_stat_activity WHERE application_name = 'zdmigrate heartbeat' AND datname = current_database()"

    def extended(since: datetime) -> bool:
        left: timedelta = site.value("SELECT expires_at FROM zdmigrate.lease") - since
        return left > timedelta(seconds=4)

    with transaction(site.database, "LOCK TABLE users IN ACCESS SHARE MODE"):
        first = site.start("advance", **SHORT)
        epoch = holding(site)[3]
        for _ in range(2):
            until(lambda: site.rows(f"SELECT {heartbeat}"), "there is a heartbeat")
            begun = site.value("SELECT clock_timestamp()")
            site.rows(f"SELECT pg_terminate_backend(pid) {heartbeat}")
            until(functools.partial(extended, begun), "the lease was extended after that")
        assert holding(site)[3] == epoch
    first.wait().expect(0)


# -- CREATE INDEX CONCURRENTLY, which cannot carry the fence -----------------------------------------------------


def stop_while_building(site: Site, number: signal.Signals) -> tuple[Running, int]:
    """Signal a process whose backend builds an index and waits for an old snapshot."""
    running = site.start("advance", "--to", "backfill", **SHORT)
    backend = building(site)
    assert holding(site)[2] == backend, "the backend is recorded in the lease"
    running.send(number)
    return running, backend


def test_a_backend_that_outlives_its_client_is_ended_and_waited_for(site: Site) -> None:
    """The client is stopped, not dead: its socket stays open, so the server has no reason to end the build."""
    with_users(site)
    with transaction(site.database, *OLD_SNAPSHOT):
        zombie, backend = stop_while_building(site, signal.SIGSTOP)
        (half_built, valid), *_ = site.rows(INDEX, "zd_sx_%")
        assert not valid
        second = site.start("advance", "--to", "backfill", **SHORT)
        until(lambda: building(site) != backend, "the second one builds")
        assert not alive(site, backend), "two would build at once"
    second.wait().expect(0)
    assert "clear away what is half-built" in second.narration
    [(built, valid)] = site.rows(INDEX, "zd_sx_%")
    assert valid
    assert built != half_built
    zombie.send(signal.SIGCONT)
    zombie.wait().expect(5)


def test_a_backend_whose_client_was_killed_delays_the_next_by_little(site: Site) -> None:
    with_users(site)
    with transaction(site.database, *OLD_SNAPSHOT):
        killed, backend = stop_while_building(site, signal.SIGKILL)
        killed.wait()
        assert alive(site, backend)
        started = time.monotonic()
        second = site.start("advance", "--to", "backfill")
        until(lambda: building(site) != backend, "the second one builds")
        delay = time.monotonic() - started
        assert not alive(site, backend)
    second.wait().expect(0)
    assert site.rows(INDEX, "zd_sx_%")[0][1]
    print(f"the next one waited {delay:.1f} s")
    assert delay <= 12


def test_an_index_that_was_finished_without_its_client_is_kept(site: Site) -> None:
    with_users(site)
    killed = site.run("advance", kill={"match": "INDEX CONCURRENTLY", "when": "sent"})
    assert killed.code == -9
    [(finished, _)] = until(lambda: [r for r in site.rows(INDEX, "zd_sx_%") if r[1]], "the server has built it")
    site.run("advance", "--to", "backfill").expect(0)
    assert site.rows(INDEX, "zd_sx_%") == [(finished, True)]


def test_an_invalid_index_is_repaired(site: Site) -> None:
    with_users(site)
    with transaction(site.database, *OLD_SNAPSHOT):
        killed, backend = stop_while_building(site, signal.SIGKILL)
        killed.wait()
        site.rows("SELECT pg_terminate_backend(%s, 10000)", backend)
        [(left, valid)] = site.rows(INDEX, "zd_sx_%")
        assert not valid
    done = site.run("advance", "--to", "backfill").expect(0)
    assert "clear away what is half-built" in done.err
    [(built, valid)] = site.rows(INDEX, "zd_sx_%")
    assert valid
    assert built != left
    assert site.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
