"""Replica lag against a primary with two streaming standbys: paused, disconnected, idle, hidden.

Nothing here sleeps: `Watch.wait` returns with the verdict that is waited for, or the last one after a timeout.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.replicas import Replicas, disconnected, paused, receiving
from tests.support.throttling import SCHEMA, named, opener, prepare, stopped, until
from zdmigrate.backfill import throttles
from zdmigrate.backfill.throttles import Horizon, Lag, Verdict, Watch
from zdmigrate.throttle_settings import Throttle

LONG = timedelta(seconds=30)
NAME = "throttled"


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """The primary's database with the control schema."""

    replicas: Replicas
    key: int

    @property
    def conninfo(self) -> str:
        return self.replicas.primary.conninfo(NAME)

    def watch(self, settings: Throttle | None = None, *, user: str | None = None) -> Watch:
        return throttles.watch(
            settings or Throttle(), opener(self.replicas.primary.conninfo(NAME, user=user)), control_schema=SCHEMA,
            migration=self.key, tables=(),
        )  # fmt: skip

    def say(self, assignment: str) -> None:
        with self.connect() as connection:
            insert = f'INSERT INTO "{SCHEMA}".backfill_control (migration) VALUES (%s) ON CONFLICT DO NOTHING'
            connection.execute(insert.encode(), (self.key,))
            connection.execute(f'UPDATE "{SCHEMA}".backfill_control SET {assignment}'.encode())

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return self.replicas.primary.connect(NAME)

    def write(self, connection: psycopg.Connection[tuple[object, ...]], size: int) -> None:
        """WAL, about as many bytes."""
        connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', %s))", (size,))


@pytest.fixture
def site(replicas: Replicas) -> Iterator[Site]:
    replicas.primary.create_database(NAME)
    try:
        yield Site(replicas, prepare(replicas.primary.conninfo(NAME)))
    finally:
        replicas.primary.drop_database(NAME)


def test_an_idle_primary_is_no_lag(site: Site) -> None:
    with site.watch() as watch:
        first = watch.wait(LONG)
        assert first.is_healthy, first.reasons
        # Not a single reading of the next seconds is a lag, though nobody but the heartbeat writes.
        verdict = watch.wait(timedelta(seconds=4), until=stopped)
        assert verdict.is_healthy, verdict.reasons
        assert verdict.lag.seconds is not None
        assert verdict.lag.seconds < 1
        assert {reading.name for reading in verdict.readings} >= {"lag of replica1", "lag of replica2"}


@pytest.mark.parametrize("number", [1, 2])
def test_replay_paused_on_one_stops_within_two_seconds_and_goes_on_by_itself(site: Site, number: int) -> None:
    replica = site.replicas.replica1 if number == 1 else site.replicas.replica2
    with site.watch() as watch, site.connect() as connection:
        assert watch.wait(LONG).is_healthy
        with paused(replica):
            site.write(connection, 1000)
            began = time.monotonic()
            verdict = watch.wait(LONG, until=stopped)
            assert time.monotonic() - began < 2
            assert [reason.split()[0] for reason in verdict.reasons] == [f"replica{number}"]
            growing = watch.wait(LONG, until=lambda v: (v.lag.seconds or 0) > 1.5)
            assert (growing.lag.seconds_per_second or 0) > 0.3
            assert growing.stopped_since == verdict.stopped_since
        assert watch.wait(LONG).is_healthy


def test_a_pause_is_seen_on_an_idle_primary(site: Site) -> None:
    with site.watch() as watch:
        assert watch.wait(LONG).is_healthy
        with paused(site.replicas.replica1):
            assert "replica1" in watch.wait(timedelta(seconds=5), until=stopped).reasons[0]
        assert watch.wait(LONG).is_healthy


def test_bytes_count_before_seconds_do(site: Site) -> None:
    with site.watch(Throttle(max_lag=2**20, max_lag_time=None)) as watch, site.connect() as connection:
        assert watch.wait(LONG).is_healthy
        with paused(site.replicas.replica1):
            site.write(connection, 2 * 2**20)
            verdict = watch.wait(LONG, until=stopped)
            assert verdict.reasons[0].startswith("replica1 is 2.0 MB")
            assert verdict.lag.bytes is not None
            assert verdict.lag.bytes > 2 * 2**20
        assert watch.wait(LONG).is_healthy


def test_a_disconnected_standby_is_missed_and_comes_back(site: Site) -> None:
    with site.watch() as watch:
        assert watch.wait(LONG).is_healthy
        with disconnected(site.replicas.replica1):
            verdict = watch.wait(LONG, until=stopped)
            assert verdict.reasons == ("replica1 is not connected to the primary",)
            assert "standbys" in verdict.hints[0]
            # Also for who begins now: the names were stored.
            with site.watch() as late:
                assert late.wait(LONG, until=stopped).reasons == verdict.reasons
            with site.watch(Throttle(missing_standby="ignore")) as tolerant:
                assert tolerant.wait(LONG).is_healthy
            with site.watch(Throttle(standbys=("replica2",))) as other:
                assert other.wait(LONG).is_healthy
        assert watch.wait(LONG).is_healthy


def test_a_name_that_never_was_there_is_missing(site: Site) -> None:
    with site.watch(Throttle(standbys=("replica1", "replica1", "berlin"))) as watch:
        verdict = watch.wait(LONG, until=stopped)
    assert verdict.reasons == (
        "berlin is not connected to the primary",
        "replica1 (1 of 2) is not connected to the primary",
    )


def test_limits_can_be_changed_while_it_runs(site: Site) -> None:
    with site.watch() as watch:
        assert watch.wait(LONG).is_healthy
        with paused(site.replicas.replica1):
            assert not watch.wait(LONG, until=stopped).is_healthy
            site.say("max_lag_time = '1 hour'")
            verdict = watch.wait(LONG)
            assert verdict.is_healthy
            assert named(verdict.readings, "lag of replica1").threshold == "below 64.0 MB and 60 min"
            site.say("max_lag_time = '1 second'")
            assert not watch.wait(LONG, until=stopped).is_healthy


def test_without_permission_it_is_unhealthy_and_the_grant_is_named(site: Site) -> None:
    with site.connect() as connection:
        connection.execute('CREATE ROLE "Nobody" LOGIN')
        grants = ("USAGE ON SCHEMA", "SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA")
        for grant in grants:
            connection.execute(f'GRANT {grant} "{SCHEMA}" TO "Nobody"'.encode())
        try:
            with site.watch(user="Nobody") as watch:
                verdict = watch.wait(LONG, until=stopped)
                assert verdict.reasons == ("no permission to see the lag of replica1, replica2",)
                assert verdict.hints == ('GRANT pg_read_all_stats TO "Nobody"',)
                connection.execute('GRANT pg_read_all_stats TO "Nobody"')
                assert watch.wait(LONG).is_healthy
        finally:
            connection.execute('DROP OWNED BY "Nobody"')
            connection.execute('DROP ROLE "Nobody"')


def asking(site: Site) -> Throttle:
    urls = (site.replicas.replica1.url(NAME), site.replicas.replica2.url(NAME))
    return Throttle(standbys=(), replica_urls=urls)


def test_standbys_are_asked_themselves(site: Site) -> None:
    with site.watch(asking(site)) as watch, site.connect() as connection:
        verdict = watch.wait(LONG)
        assert verdict.is_healthy, verdict.reasons
        lags = [reading for reading in verdict.readings if isinstance(reading.measured, Lag)]
        assert len(lags) == 2
        with paused(site.replicas.replica2):
            site.write(connection, 1000)
            began = time.monotonic()
            verdict = watch.wait(LONG, until=stopped)
            assert time.monotonic() - began < 2
            assert f"port={site.replicas.replica2.port}" in verdict.reasons[0]
            assert len(verdict.reasons) == 1
        assert watch.wait(LONG).is_healthy


def test_one_that_does_not_answer_or_is_no_standby_is_unhealthy(site: Site, replicas: Replicas) -> None:
    nowhere = f"host={replicas.primary.directory} port=1 user=postgres password=geheim dbname=x"
    primary = replicas.primary.url(NAME)
    elsewhere = replicas.replica1.url("postgres")
    with site.watch(Throttle(standbys=(), replica_urls=(nowhere, primary, elsewhere))) as watch:
        verdict = watch.wait(LONG, until=stopped)
    assert len(verdict.reasons) == 3
    assert "no answer from host=" in verdict.reasons[0]
    assert "geheim" not in str(verdict)
    assert "is no standby" in verdict.reasons[1]
    assert f'relation "{SCHEMA}.heartbeat" does not exist' in verdict.reasons[2]


def test_a_query_on_a_standby_with_feedback_holds_the_horizon(site: Site) -> None:
    def by_the_standby(verdict: Verdict) -> bool:
        return verdict.horizon is not None and verdict.horizon.holder == "standby replica2 (hot_standby_feedback)"

    feedback = "ALTER SYSTEM SET wal_receiver_status_interval = '1s'"
    replica = site.replicas.replica2
    with replica.connect() as admin:
        admin.execute(feedback)
        admin.execute("SELECT pg_reload_conf()")
    with site.watch() as watch, replica.connect(NAME) as reader, site.connect() as writer:
        assert watch.wait(LONG).is_healthy
        with reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM pg_class")
            for _ in range(3):
                writer.execute("SELECT pg_current_xact_id()")
            verdict = watch.wait(LONG, until=by_the_standby)
            assert isinstance(verdict.horizon, Horizon)
            assert verdict.horizon.age is not None
            assert verdict.is_healthy, verdict.reasons


def test_auto_means_those_that_replayed_when_it_began(site: Site, tmp_path: Path) -> None:
    receivers = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    with site.connect() as connection, receiving(site.replicas.primary, tmp_path):
        assert until(lambda: connection.execute(receivers).fetchone() == (3,))
        with site.watch() as watch:
            assert watch.wait(LONG).is_healthy
        stored = connection.execute(
            f'SELECT seen_standbys, standbys, changed_by FROM "{SCHEMA}".backfill_control'.encode()
        ).fetchone()
        assert stored == (["replica1", "replica2"], None, None), "seen, and nobody has said so"


def test_one_that_has_come_since_must_not_lag_but_may_go_again(site: Site) -> None:
    site.say("standbys = '{replica2}'")
    with site.watch() as watch:
        assert watch.wait(LONG).is_healthy
        with paused(site.replicas.replica1):
            assert watch.wait(LONG, until=stopped).reasons[0].startswith("replica1 is ")
        with disconnected(site.replicas.replica1):
            verdict = watch.wait(LONG, until=lambda v: len(v.readings) == len(without(v, "replica1")))
            assert watch.wait(LONG).is_healthy, verdict.reasons
        assert watch.wait(
            LONG, until=lambda v: v.is_healthy and len(v.readings) > len(without(v, "replica1"))
        ).is_healthy


def without(verdict: Verdict, name: str) -> list[str]:
    return [reading.name for reading in verdict.readings if name not in reading.name]
