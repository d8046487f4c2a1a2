"""What is said to a backfill from another terminal, in the control schema."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from tests.support import servers
from zdmigrate.backfill import control
from zdmigrate.backfill.control import Control
from zdmigrate.control import install
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection

EVERYTHING = Control(
    paused=True, reason="it's %s", rate=20 << 20, workers=4, target_latency=timedelta(milliseconds=50), max_lag=1 << 40,
    max_lag_time=timedelta(days=3), standbys=("a,b", 'c"d'),
)  # fmt: skip


@pytest.fixture
def connect(database: servers.Database) -> Iterator[Callable[[], Connection]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(session.connect(database.conninfo, purpose="test"))


@pytest.fixture
def main(connect: Callable[[], Connection]) -> Connection:
    connection = connect()
    with connection.transaction(), connection.cursor() as cursor:
        install.upgrade(cursor, "z", 0)
        cursor.execute("INSERT INTO z.migration (project, id, checksum) VALUES ('p', 'm', '')")
    return connection


def read(connection: Connection) -> Control:
    return control.read(connection, control_schema="z", migration=1)


def say(connection: Connection, **values: object) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        before = control.lock(cursor, control_schema="z", migration=1)
        control.write(cursor, dataclasses.replace(before, **values), control_schema="z", migration=1)  # type: ignore[arg-type]


def said(found: Control) -> Control:
    return dataclasses.replace(found, paused_by=None, paused_at=None, changed_by=None, changed_at=None)


def test_nothing_was_said(main: Connection) -> None:
    assert read(main) == Control()
    assert read(main).limits == {}


def test_everything_comes_back_as_it_was_said(main: Connection) -> None:
    say(main, **{field.name: getattr(EVERYTHING, field.name) for field in dataclasses.fields(EVERYTHING)})
    assert said(read(main)) == EVERYTHING
    assert read(main).changed_by == "postgres"
    say(main, standbys=())
    assert read(main).standbys == (), "nobody is expected, which is not: as configured"
    say(main, rate=None, standbys=None)
    assert said(read(main)) == dataclasses.replace(EVERYTHING, rate=None, standbys=None)


def test_who_has_paused_it_is_not_who_said_something_last(main: Connection, connect: Callable[[], Connection]) -> None:
    other = connect()
    other.execute("CREATE ROLE z_oncall SUPERUSER; SET SESSION AUTHORIZATION z_oncall")
    try:
        say(other, paused=True, reason="incident 512")
        paused = read(main)
        say(main, paused=True, rate=5)
        assert (read(main).paused_by, read(main).paused_at) == ("z_oncall", paused.paused_at)
        assert read(main).changed_by == "postgres"
        assert read(main).pause == f"paused since {paused.paused_at:%Y-%m-%d %H:%M} UTC by z_oncall: incident 512"
        say(main, paused=False)
        assert (read(main).paused_by, read(main).paused_at) == (None, None)
    finally:
        other.execute("RESET SESSION AUTHORIZATION")
        main.execute("DROP ROLE z_oncall")


def test_standbys_that_were_seen_are_nothing_that_was_said(main: Connection) -> None:
    main.execute("INSERT INTO z.backfill_control (migration, seen_standbys) VALUES (1, '{a,b}')")
    assert read(main) == Control()


def test_looking_waits_for_nobody(main: Connection, connect: Callable[[], Connection]) -> None:
    say(main, rate=1)
    other = connect()
    other.execute("SET statement_timeout = 1000")
    with main.transaction(), main.cursor() as cursor:
        control.lock(cursor, control_schema="z", migration=1)
        assert read(other).rate == 1


def test_two_who_steer_at_once_do_so_one_after_the_other(main: Connection, connect: Callable[[], Connection]) -> None:
    second = connect()
    second.execute("SET lock_timeout = 100")
    with main.transaction(), main.cursor() as cursor:
        before = control.lock(cursor, control_schema="z", migration=1)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            say(second, workers=2)
        control.write(cursor, dataclasses.replace(before, rate=5), control_schema="z", migration=1)
    say(second, workers=2)
    assert (read(main).rate, read(main).workers) == (5, 2)


def test_a_batch_in_its_transaction_keeps_nobody_from_steering(
    main: Connection, connect: Callable[[], Connection]
) -> None:
    """What a batch locks of the control schema: the lease by its epoch, the cursor of its table."""
    main.execute("INSERT INTO z.lease (migration) VALUES (1)")
    main.execute(
        "INSERT INTO z.backfill (migration, step, relation, relation_name, filenode, bound) VALUES (1, 's', 1, 'r', 1, 1)"
    )
    second = connect()
    second.execute("SET lock_timeout = 100")
    with main.transaction():
        main.execute("SELECT FROM z.lease WHERE migration = 1 AND epoch = 0 FOR KEY SHARE")
        main.execute("UPDATE z.backfill SET rows = rows + 1")
        say(second, paused=True)
    assert read(main).paused


@pytest.mark.parametrize("values", ["rate = 0", "workers = -1", "max_lag = 0", "target_latency = '0'"])
def test_the_schema_refuses_what_makes_no_sense(main: Connection, values: str) -> None:
    say(main, rate=1)
    with pytest.raises(psycopg.errors.CheckViolation):
        main.execute(sql.SQL("UPDATE z.backfill_control SET " + values))


def test_a_network_that_is_cut_is_found_out_unless_the_url_says_otherwise(database: servers.Database) -> None:
    with session.connect(database.conninfo, purpose="test") as connection:
        assert connection.info.get_parameters()["tcp_user_timeout"] == "30000"
    with session.connect(f"{database.conninfo} tcp_user_timeout=5000", purpose="test") as connection:
        parameters = connection.info.get_parameters()
    assert (parameters["tcp_user_timeout"], parameters["keepalives_idle"]) == ("5000", "10")
    assert parameters["application_name"] == "zdmigrate test"
