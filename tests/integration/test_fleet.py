"""Instances that report in, over every driver, from processes that are really forked, stopped and killed."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.processes import ROOT
from tests.support.servers import Database, connect
from zdmigrate.app import Fleet, ReadSwitch, Source, pinned, register, register_async
from zdmigrate.control import install, instances
from zdmigrate.sqltext import ident

MIGRATION = "0001_email"
SCHEMA = "zdmigrate"


@pytest.fixture
def controlled(database: Database) -> Database:
    with connect(database, autocommit=False) as connection, connection.cursor() as cursor:
        install.upgrade(cursor, SCHEMA, 0)
        cursor.execute("CREATE ROLE shop_app LOGIN") if not _role_there(cursor) else None
        for statement in install.grants(SCHEMA, "shop_app"):
            cursor.execute(statement.encode())
        cursor.execute(
            "INSERT INTO zdmigrate.migration (project, id, checksum) VALUES ('default', %s, '')", (MIGRATION,)
        )
    return database


def _role_there(cursor: psycopg.Cursor[Any]) -> bool:
    return cursor.execute("SELECT FROM pg_roles WHERE rolname = 'shop_app'").fetchone() is not None


def run(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with connect(database) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def alive(database: Database) -> list[tuple[str, str]]:
    rows = (
        "SELECT application, version FROM zdmigrate.app_instance WHERE retired_at IS NULL ORDER BY started_at, instance"
    )
    return run(database, rows)


def advanced(database: Database, phase: str, percent: int = 0) -> None:
    run(database, "UPDATE zdmigrate.migration SET phase = %s", phase)
    run(
        database,
        "INSERT INTO zdmigrate.read_switch (name, percent) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET percent = %s",
        MIGRATION, percent, percent,
    )  # fmt: skip


def parts_of(conninfo: str) -> dict[str, Any]:
    """As `sqlalchemy.URL.create` takes them."""
    info: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(conninfo)
    return {"username": info["user"], "host": info["host"], "port": int(info["port"]), "database": info["dbname"]}


def targets(database: Database) -> dict[str, Any]:
    url = database.conninfo_as("shop_app")
    parts: dict[str, Any] = parts_of(url)

    def engine(driver: str) -> sa.Engine:
        if driver == "pg8000":
            socket = f"{parts['host']}/.s.PGSQL.{parts['port']}"
            arguments = {"unix_sock": socket} if parts["host"].startswith("/") else {}
            return sa.create_engine(sa.URL.create(f"postgresql+{driver}", **parts), connect_args=arguments)
        return sa.create_engine(sa.URL.create(f"postgresql+{driver}", **parts))

    return {
        "conninfo": lambda: url,
        "function": lambda: functools.partial(psycopg.connect, url, application_name="shop/1"),
        "psycopg": lambda: engine("psycopg"),
        "psycopg2": lambda: engine("psycopg2"),
        "pg8000": lambda: engine("pg8000"),
    }


@pytest.fixture
def fleet(controlled: Database) -> Iterator[tuple[Fleet, Source]]:
    source = Source()
    made = register(
        controlled.conninfo_as("shop_app"), application="shop", version="1", source=source, interval=0.2
    )  # fmt: skip
    assert made.refresh()
    yield made, source
    made.retire()


@pytest.mark.parametrize("kind", ["conninfo", "function", "psycopg", "psycopg2", "pg8000"])
def test_every_way_to_connect(controlled: Database, kind: str) -> None:
    source = Source()
    switch = ReadSwitch(MIGRATION, source=source)
    metadata = sa.MetaData()
    sa.Table("users", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
    made = register(
        targets(controlled)[kind](), application="shop", version="1", source=source, metadata=metadata, interval=0.2
    )
    assert made.refresh()
    assert alive(controlled) == [("shop", "1")]
    ((needs, role),) = run(controlled, "SELECT v.needs, i.role FROM zdmigrate.app_version v, zdmigrate.app_instance i")
    assert needs == [[None, "users", [["id", "BIGINT", False]]]]
    assert role == "shop_app"
    assert not switch.new(1)
    advanced(controlled, "backfill", 100)
    until(lambda: switch.new(1), "the switch follows")
    until(lambda: not behind(controlled), "it is acknowledged")
    named = run(controlled, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop/1'")
    assert named == [(1,)], "one connection, with the name"
    made.retire()
    assert alive(controlled) == []
    made.retire()


@pytest.mark.parametrize("kind", ["asyncpg engine", "psycopg engine", "conninfo", "asyncpg", "psycopg"])
def test_every_way_to_connect_from_an_event_loop(controlled: Database, kind: str) -> None:
    import asyncpg

    url = controlled.conninfo_as("shop_app")
    parts = parts_of(url)
    own = {"user" if name == "username" else name: value for name, value in parts.items()}
    ways: dict[str, Callable[[], Any]] = {
        "asyncpg engine": lambda: create_async_engine(sa.URL.create("postgresql+asyncpg", **parts)),
        "psycopg engine": lambda: create_async_engine(sa.URL.create("postgresql+psycopg_async", **parts)),
        "conninfo": lambda: url,
        "asyncpg": lambda: functools.partial(asyncpg.connect, **own, server_settings={"application_name": "shop/1"}),
        "psycopg": lambda: functools.partial(
            psycopg.AsyncConnection.connect, url, application_name="shop/1", autocommit=True
        ),
    }

    async def main() -> None:
        target = ways[kind]()
        source = Source()
        switch = ReadSwitch(MIGRATION, source=source)
        async with await register_async(target, application="shop", version="1", source=source, interval=0.2) as made:
            assert await made.refresh()
            assert await asyncio.to_thread(alive, controlled) == [("shop", "1")]
            await asyncio.to_thread(advanced, controlled, "backfill", 100)
            await asyncio.to_thread(until, lambda: switch.new(1) and not behind(controlled), "it follows")
            named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop/1'"
            assert await asyncio.to_thread(run, controlled, named) == [(1,)]
        assert await asyncio.to_thread(alive, controlled) == []
        await made.retire()
        if hasattr(target, "dispose"):
            await target.dispose()

    asyncio.run(main())


def behind(database: Database) -> list[tuple[str, float]]:
    ((version,),) = run(database, "SELECT version FROM zdmigrate.migration")
    with connect(database) as connection:
        return instances.behind(connection, SCHEMA, "default", {MIGRATION: version})


def test_sessions_of_the_engine_are_named_and_its_pool_is_left_alone(controlled: Database) -> None:
    engine = targets(controlled)["psycopg"]()
    made = register(engine, application="shop", version="1", source=Source())
    assert made.refresh()
    assert engine.pool.checkedout() == 0
    with engine.connect() as connection:
        assert connection.execute(sa.text("SHOW application_name")).scalar() == "shop/1"
    made.retire()
    engine.dispose()


def test_a_name_that_somebody_gave_stays(controlled: Database) -> None:
    engine = sa.create_engine(
        targets(controlled)["psycopg"]().url, connect_args={"application_name": "mine"}
    )  # fmt: skip
    made = register(engine, application="shop", version="1", source=Source())
    with engine.connect() as connection:
        assert connection.execute(sa.text("SHOW application_name")).scalar() == "mine"
    made.retire()
    engine.dispose()


def test_a_pool_that_is_exhausted_stops_no_heartbeat(controlled: Database) -> None:
    engine = sa.create_engine(targets(controlled)["psycopg"]().url, pool_size=1, max_overflow=0, pool_timeout=60)
    with engine.connect():
        made = register(engine, application="shop", version="1", source=Source())
        assert made.refresh()
        made.retire()
    engine.dispose()


def test_what_is_pinned_is_not_acknowledged_until_it_ends(controlled: Database, fleet: tuple[Fleet, Source]) -> None:
    made, source = fleet
    switch = ReadSwitch(MIGRATION, source=source)
    with pinned():
        assert not switch.new(1)
        advanced(controlled, "backfill", 100)
        made.refresh()
        made.refresh()
        assert not switch.new(1)
        assert behind(controlled)
    until(lambda: not behind(controlled), "it is acknowledged")
    assert switch.new(1)


def test_whom_the_database_has_forgotten_comes_back(controlled: Database, fleet: tuple[Fleet, Source]) -> None:
    made, _ = fleet
    run(controlled, "DELETE FROM zdmigrate.app_instance")
    assert made.refresh()
    assert alive(controlled) == [("shop", "1")]
    run(controlled, "UPDATE zdmigrate.app_instance SET retired_at = clock_timestamp()")
    assert made.refresh()
    assert alive(controlled) == [("shop", "1")]


def test_a_lost_connection_is_made_again(controlled: Database, fleet: tuple[Fleet, Source]) -> None:
    made, _ = fleet
    seen = "SELECT seen_at FROM zdmigrate.app_instance"
    before = run(controlled, seen)
    run(controlled, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shop/1'")
    until(lambda: run(controlled, seen) > before, "it beats again")
    assert made.refresh()


@pytest.mark.parametrize(
    "harm",
    [
        "DROP SCHEMA zdmigrate CASCADE",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA zdmigrate FROM shop_app",
        "ALTER TABLE zdmigrate.migration RENAME COLUMN version TO other",
        "ALTER DATABASE {database} SET default_transaction_read_only = on",
    ],
    ids=["dropped", "revoked", "newer", "read-only"],
)
def test_the_application_never_notices(controlled: Database, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    run(controlled, harm.format(database=ident(controlled.name)))
    source = Source()
    switch = ReadSwitch(MIGRATION, source=source, otherwise="new")
    with caplog.at_level(logging.WARNING, "zdmigrate.app"):
        made = register(
            controlled.conninfo_as("shop_app"), application="shop", version="1", source=source, interval=0.1
        )
        assert not made.refresh(1.5)
        assert switch.new(1)
        assert not made.ready()
    assert sum("no heartbeat from" in record.message for record in caplog.records) == 1, "said once"
    made.retire()


def test_a_table_that_is_locked_delays_heartbeats_and_nothing_else(
    controlled: Database, fleet: tuple[Fleet, Source]
) -> None:
    made, source = fleet
    switch = ReadSwitch(MIGRATION, source=source)
    advanced(controlled, "backfill", 100)
    until(lambda: switch.new(1), "the switch follows")
    with connect(controlled, autocommit=False) as locked:
        locked.execute("LOCK TABLE zdmigrate.app_instance")
        began = time.monotonic()
        assert all(switch.new(key) for key in range(1000))
        assert time.monotonic() - began < 0.5
        assert not made.refresh(0.5)
        locked.rollback()
    until(made.refresh, "it beats again")


def test_arguments_that_are_wrong_are_said_at_once(controlled: Database) -> None:
    url = controlled.conninfo
    wrong: list[dict[str, Any]] = [
        {"target": 7}, {"application": ""}, {"version": ""}, {"interval": 0}, {"requires": {"a": "soon"}},
        {"shapes": {"a": "up"}}, {"metadata": sa.MetaData(), "footprint": "x"},
    ]  # fmt: skip
    for given in wrong:
        options = {"target": url, "application": "shop", "version": "1", "source": Source(), **given}
        with pytest.raises((TypeError, ValueError)):
            register(options.pop("target"), **options)
    with pytest.raises(TypeError, match="register_async"):
        register(create_async_engine("postgresql+asyncpg://"), application="shop", version="1", source=Source())


@pytest.mark.parametrize("kind", ["conninfo", "function", "psycopg", "psycopg2", "pg8000"])
def test_who_listens_hears_of_a_change_at_once(controlled: Database, kind: str) -> None:
    source = Source()
    switch = ReadSwitch(MIGRATION, source=source)
    target = targets(controlled)[kind]()
    made = register(target, application="shop", version="1", source=source, interval=3600, listen=True)
    assert made.refresh()
    listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()"
    until(lambda: run(controlled, listening), "it listens")
    advanced(controlled, "backfill", 100)
    until(lambda: switch.new(1), "it hears", 10)
    until(lambda: not behind(controlled), "and acknowledges", 10)
    made.retire()
    until(lambda: not run(controlled, listening), "it has stopped")


def test_an_engine_that_names_no_host_says_how_to_listen(controlled: Database) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(controlled.conninfo))
    with pytest.raises(TypeError, match="give a connection string"):
        register(engine, application="shop", version="1", source=Source(), listen=True)


@pytest.mark.parametrize("kind", ["conninfo", "engine"])
def test_event_loops_hear_of_a_change_at_once(controlled: Database, kind: str) -> None:
    url = controlled.conninfo_as("shop_app")

    async def main() -> None:
        engine = create_async_engine(sa.URL.create("postgresql+asyncpg", **parts_of(url)))
        source = Source()
        switch = ReadSwitch(MIGRATION, source=source)
        target: Any = url if kind == "conninfo" else engine
        made = await register_async(target, application="shop", version="1", source=source, interval=3600, listen=True)
        assert await made.refresh()
        listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()"
        await asyncio.to_thread(until, lambda: run(controlled, listening), "it listens")
        await asyncio.to_thread(advanced, controlled, "backfill", 100)
        await asyncio.to_thread(until, lambda: switch.new(1), "it hears", 10)
        await made.retire()
        await engine.dispose()

    asyncio.run(main())


def test_ten_thousand_instances_are_looked_through_in_no_time(controlled: Database) -> None:
    run(
        controlled,
        "INSERT INTO zdmigrate.app_version (project, application, version, needs) "
        "SELECT 'default', 'shop', v::text, '[[null, \"users\", [[\"id\", \"BIGINT\", false]]]]' FROM generate_series(1, 3) AS v",
    )
    run(
        controlled,
        "INSERT INTO zdmigrate.app_instance (instance, project, application, version, expires_at, seen) "
        "SELECT 'web' || n, 'default', 'shop', (n % 3 + 1)::text, clock_timestamp() + interval '1 minute', '{\"0001_email\": 1}' "
        "FROM generate_series(1, 10000) AS n",
    )
    run(controlled, "ANALYZE zdmigrate.app_instance")
    taken, groups = [], []
    with connect(controlled) as connection:
        for _ in range(5):
            began = time.monotonic()
            groups = instances.live(connection, SCHEMA, MIGRATION, timedelta(minutes=15))
            assert instances.behind(connection, SCHEMA, "default", {MIGRATION: 1}) == []
            instances.versions(connection, SCHEMA)
            instances.sessions(connection, (("public", "users"),))
            taken.append(time.monotonic() - began)
    assert [group.count for group in groups] == [3333, 3334, 3333]
    assert min(taken) < 0.1


# Processes ------------------------------------------------------------------------------------------------------------


def program(database: Database, body: str, **options: Any) -> subprocess.Popen[str]:
    text = f"""
import os, signal, sys, time
from zdmigrate.app import register
fleet = register({database.conninfo_as("shop_app")!r}, application="shop", version="1", interval=0.2)
assert fleet.refresh(20)
{textwrap.dedent(body)}
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=env, **options)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_script_that_ends_says_goodbye(controlled: Database) -> None:
    process = program(controlled, "print('there', flush=True)")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert alive(controlled) == []
    assert run(controlled, "SELECT count(*) FROM zdmigrate.app_instance WHERE retired_at IS NOT NULL") == [(1,)]


def test_sigterm_says_goodbye_and_ends_the_process_as_it_would_have(controlled: Database) -> None:
    process = program(controlled, "print('there', flush=True); time.sleep(60)")
    assert line(process) == "there"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert alive(controlled) == []


def test_a_handler_of_the_application_stays(controlled: Database) -> None:
    process = program(
        controlled, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('there', flush=True); time.sleep(60)"
    )
    assert line(process) == "there"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 7
    assert alive(controlled) == []


def test_one_that_is_killed_is_silent_and_not_gone(controlled: Database) -> None:
    process = program(controlled, "print('there', flush=True); time.sleep(60)")
    assert line(process) == "there"
    process.kill()
    process.communicate(timeout=30)
    assert alive(controlled) == [("shop", "1")]
    run(controlled, "UPDATE zdmigrate.app_instance SET expires_at = clock_timestamp() - interval '14 minutes'")
    with connect(controlled) as connection:
        (group,) = instances.live(connection, SCHEMA, MIGRATION, timedelta(minutes=15))
        assert (group.count, group.silent) == (1, 1)
        run(controlled, "UPDATE zdmigrate.app_instance SET expires_at = expires_at - interval '2 minutes'")
        assert instances.live(connection, SCHEMA, MIGRATION, timedelta(minutes=15)) == []


def test_a_forked_process_is_an_instance_of_its_own(controlled: Database) -> None:
    body = """
    parent = fleet.instance
    child = os.fork()
    if child == 0:
        assert fleet.instance != parent
        assert fleet.refresh(20)
        print("child", flush=True)
        time.sleep(60)
    time.sleep(60)
    """
    process = program(controlled, body)
    assert line(process) == "child"
    until(lambda: len(alive(controlled)) == 2, "both are there")
    before = run(controlled, "SELECT min(seen_at) FROM zdmigrate.app_instance")
    until(lambda: run(controlled, "SELECT min(seen_at) FROM zdmigrate.app_instance") > before, "both go on")
    os.killpg(0, 0)
    for (pid,) in run(controlled, "SELECT pid FROM zdmigrate.app_instance ORDER BY started_at DESC"):
        os.kill(pid, signal.SIGTERM)
    process.communicate(timeout=30)
    until(lambda: alive(controlled) == [], "both say goodbye")


def test_multiprocessing_pools_may_fork_while_heartbeats_are_under_way(controlled: Database) -> None:
    body = """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for _ in range(20):
            assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    print(json.dumps("fine") if (json := __import__("json")) else "", flush=True)
    """
    process = program(controlled, body)
    assert json.loads(line(process)) == "fine"
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_one_that_is_stopped_for_a_while_relies_on_nothing_afterwards(controlled: Database) -> None:
    advanced(controlled, "backfill", 100)
    body = """
    from zdmigrate.app import ReadSwitch
    switch = ReadSwitch("0001_email")
    assert fleet.refresh(20) and switch.new(1)
    print("there", flush=True)
    fleet._channel.call = None                  # the network stays away when it wakes up
    sys.stdin.readline()
    print(switch.new(1), flush=True)
    """
    process = program(controlled, body, stdin=subprocess.PIPE)
    assert line(process) == "there"
    process.send_signal(signal.SIGSTOP)
    lease = "SELECT count(*) FROM zdmigrate.app_instance WHERE expires_at > clock_timestamp()"
    until(lambda: run(controlled, lease) == [(0,)], "its lease runs out")
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("go\n", timeout=30)
    assert out.strip() == "False", "the old shape is the safe side"
