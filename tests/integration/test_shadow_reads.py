"""Reads that are compared: over every driver, in one snapshot, and without the caller noticing any of it."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.support import pgbouncer
from tests.support.processes import ROOT
from tests.support.replicas import paused
from tests.support.servers import Database, ReplicaPair, connect
from zdmigrate.app import AsyncShadowRead, Fleet, ShadowRead, Source, register, register_async
from zdmigrate.app.shadow.comparing import Comparer, Job
from zdmigrate.control import install, shadows
from zdmigrate.control.store import Author, Record, Store

MIGRATION = "0001_email"
SCHEMA = "zdmigrate"
ROLE = "shop_app"
KEYS = 20
OLD, NEW = "SELECT user_email FROM users WHERE id = {}", "SELECT email_address FROM users WHERE id = {}"


def prepare(database: Database) -> None:
    """Both shapes are full, but for key 4, where they differ, and 5, where the new one is empty."""
    with connect(database, autocommit=False) as connection, connection.cursor() as cursor:
        install.upgrade(cursor, SCHEMA, 0)
        if cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
        for statement in install.grants(SCHEMA, ROLE):
            cursor.execute(statement.encode())
        cursor.execute("CREATE TABLE users (id bigint PRIMARY KEY, user_email text, email_address text)")
        cursor.execute(
            "INSERT INTO users SELECT n, 'user' || n, CASE n WHEN 4 THEN 'USER4' WHEN 5 THEN NULL ELSE 'user' || n END "
            "FROM generate_series(1, %s) AS n",
            (KEYS,),
        )
        cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {ROLE}".encode())
        cursor.execute(
            "INSERT INTO zdmigrate.migration (project, id, checksum) VALUES ('default', %s, '')", (MIGRATION,)
        )
        moved(cursor, "backfill")


def moved(cursor: psycopg.Cursor[Any] | psycopg.Connection[Any], phase: str, running: str | None = None) -> None:
    cursor.execute(
        "UPDATE zdmigrate.migration SET phase = %s, running = %s, phase_since = clock_timestamp()", (phase, running)
    )


@pytest.fixture
def shop(database: Database) -> Database:
    prepare(database)
    return database


@pytest.fixture
def fleet(shop: Database) -> Iterator[Fleet]:
    with registered(shop.conninfo_as(ROLE)) as made:
        yield made


@contextmanager
def registered(url: str) -> Iterator[Fleet]:
    source = Source()
    source.tally.every = 0  # with every heartbeat
    made = register(url, application="shop", version="1", source=source, interval=0.1)
    assert made.refresh(20)
    yield made
    made.retire()


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def record(database: Database) -> Record:
    with connect(database) as connection:
        found = Store(SCHEMA, "default", Author(host="")).record(connection, MIGRATION)
    assert found is not None
    return found


def found(database: Database) -> shadows.Compared:
    with connect(database) as connection:
        return shadows.compared(connection, SCHEMA, record(database))


def counts(database: Database) -> tuple[int, int, int, int]:
    now = found(database)
    return now.compares, now.mismatches, now.failures, now.dropped


def in_shadow() -> bool:
    return threading.current_thread().name == "zdmigrate-shadow"


def session_count(database: Database) -> int:
    with connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop/1'").fetchone()
    assert row is not None
    return int(row[0])


def parts_of(conninfo: str) -> dict[str, Any]:
    info: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(conninfo)
    return {"username": info["user"], "host": info["host"], "port": int(info["port"]), "database": info["dbname"]}


def engine_of(database: Database, driver: str = "psycopg", **options: Any) -> sa.Engine:
    parts = parts_of(database.conninfo_as(ROLE))
    if driver == "pg8000" and parts["host"].startswith("/"):
        options["connect_args"] = {"unix_sock": f"{parts['host']}/.s.PGSQL.{parts['port']}"}
    return sa.create_engine(sa.URL.create(f"postgresql+{driver}", **parts), **options)


def scalar(connection: Any, sql: str) -> Any:
    """Of a connection or session of SQLAlchemy, or of psycopg."""
    if isinstance(connection, psycopg.Connection):
        row = connection.execute(sql.encode()).fetchone()
        return None if row is None else row[0]
    return connection.scalar(sa.text(sql))


def reads(sql: str, key: int) -> Callable[[Any], Any]:
    return lambda connection: scalar(connection, sql.format(key))


def read_all(shadow: ShadowRead, on: Any, keys: range = range(1, KEYS + 1)) -> None:
    for key in keys:
        assert shadow.read(key, old=reads(OLD, key), new=reads(NEW, key), on=on) == f"user{key}"


# Every way to connect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conninfo", "function", "autocommit", "psycopg", "psycopg2", "pg8000", "AUTOCOMMIT"])
def test_every_way_to_connect(shop: Database, fleet: Fleet, kind: str) -> None:
    url = shop.conninfo_as(ROLE)
    ways: dict[str, Callable[[], Any]] = {
        "conninfo": lambda: url,
        "function": lambda: functools.partial(psycopg.connect, url),
        "autocommit": lambda: functools.partial(psycopg.connect, url, autocommit=True, row_factory=psycopg.rows.tuple_row),
        "AUTOCOMMIT": lambda: engine_of(shop, isolation_level="AUTOCOMMIT"),
    }  # fmt: skip
    target = ways[kind]() if kind in ways else engine_of(shop, kind)
    shadow = fleet.shadow(MIGRATION, target, sample=1)
    if isinstance(target, sa.Engine):
        with target.connect() as connection:
            read_all(shadow, connection)
        with Session(target) as session:
            until(lambda: counts(shop)[0] == KEYS, "all are compared")
            read_all(shadow, session)
        assert target.pool.status().endswith("Checked out connections: 0")
    else:
        with psycopg.connect(url) as connection:
            read_all(shadow, connection)
            until(lambda: counts(shop)[0] == KEYS, "all are compared")
            read_all(shadow, connection)
    until(lambda: counts(shop)[0] == 2 * KEYS, "all are told")
    now = found(shop)
    assert (now.compares, now.mismatches, now.failures, now.dropped) == (2 * KEYS, 4, 0, 0)
    assert {(each.key, each.old, each.new) for each in now.samples} == {
        ("4", "'user4'", "'USER4'"), ("5", "'user5'", "None")
    }  # fmt: skip
    if kind == "conninfo":
        assert session_count(shop) == 2, "the tool knows whose it is"
    shadow.close()
    if isinstance(target, sa.Engine):
        target.dispose()


@pytest.mark.parametrize("kind", ["asyncpg engine", "psycopg engine", "conninfo", "asyncpg", "psycopg"])
def test_every_way_to_connect_from_an_event_loop(shop: Database, kind: str) -> None:
    import asyncpg

    url = shop.conninfo_as(ROLE)
    parts = parts_of(url)
    own = {"user" if name == "username" else name: value for name, value in parts.items()}
    ways: dict[str, Callable[[], Any]] = {
        "asyncpg engine": lambda: create_async_engine(sa.URL.create("postgresql+asyncpg", **parts)),
        "psycopg engine": lambda: create_async_engine(sa.URL.create("postgresql+psycopg_async", **parts)),
        "conninfo": lambda: url,
        "asyncpg": lambda: functools.partial(asyncpg.connect, **own),
        "psycopg": lambda: functools.partial(psycopg.AsyncConnection.connect, url),
    }

    async def scalar(connection: Any, sql: str) -> Any:
        if hasattr(connection, "fetchval"):
            async with connection.transaction():
                return await connection.fetchval(sql)
        if isinstance(connection, psycopg.AsyncConnection):
            row = await (await connection.execute(sql.encode())).fetchone()
            return None if row is None else row[0]
        return await connection.scalar(sa.text(sql))

    async def read_all(shadow: AsyncShadowRead, on: Any) -> None:
        for key in range(1, KEYS + 1):
            old, new = (functools.partial(scalar, sql=sql.format(key)) for sql in (OLD, NEW))
            value = await shadow.read(key, old=old, new=new, on=on)
            assert value == f"user{key}"

    async def main() -> None:
        target = ways[kind]()
        source = Source()
        source.tally.every = 0
        async with await register_async(url, application="shop", version="1", source=source, interval=0.1) as fleet:
            assert await fleet.refresh(20)
            shadow = fleet.shadow(MIGRATION, target, sample=1)
            if hasattr(target, "sync_engine"):
                async with target.connect() as connection:
                    await read_all(shadow, connection)
                await asyncio.to_thread(until, lambda: counts(shop)[0] == KEYS, "all are compared")
                async with AsyncSession(target) as session:
                    await read_all(shadow, session)
            else:
                connection = await (psycopg.AsyncConnection.connect(url) if kind == "conninfo" else target())
                await read_all(shadow, connection)
                await asyncio.to_thread(until, lambda: counts(shop)[0] == KEYS, "all are compared")
                await read_all(shadow, connection)
                await connection.close()
            await asyncio.to_thread(until, lambda: counts(shop)[0] == 2 * KEYS, "all are told")
            assert counts(shop) == (2 * KEYS, 4, 0, 0)
            await shadow.close()
            await shadow.close()
        if hasattr(target, "dispose"):
            await target.dispose()

    asyncio.run(main())


def test_a_loop_that_ends_takes_its_connection_along(shop: Database) -> None:
    url = shop.conninfo_as(ROLE)

    async def read(connection: psycopg.AsyncConnection[Any]) -> Any:
        return await (await connection.execute("SELECT 1")).fetchall()

    async def main() -> None:
        source = Source()
        async with await register_async(url, application="shop", version="1", source=source, interval=0.1) as fleet:
            assert await fleet.refresh(20)
            shadow = fleet.shadow(MIGRATION, url, sample=1)
            async with await psycopg.AsyncConnection.connect(url) as connection:
                await shadow.read(1, old=read, new=read, on=connection)
            await asyncio.to_thread(until, lambda: source.tally._counts, "it compares")
            assert session_count(shop) == 2

    asyncio.run(main())
    until(lambda: session_count(shop) == 0, "nobody is left")
    assert counts(shop)[0] == 1, "the last report"


# The caller's transaction --------------------------------------------------------------------------------------------


def test_a_caller_whose_transaction_is_aborted_gets_his_error_and_nothing_else(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            read_all(shadow, connection)
        connection.rollback()
    until(lambda: counts(shop) == (1, 0, 0, 0), "it is compared all the same")
    shadow.close()


def test_a_serializable_caller_is_not_drawn_into_it(shop: Database, fleet: Fleet) -> None:
    """What the shadow reads is none of what the caller has read: no conflict comes of it."""
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        before = scalar(connection, "SELECT pg_current_xact_id()::text")
        connection.execute("SAVEPOINT mine")
        read_all(shadow, connection)
        connection.execute("UPDATE users SET user_email = 'mine' WHERE id = 1")
        until(lambda: counts(shop)[0] == KEYS, "all are compared")
        with psycopg.connect(shop.conninfo_as(ROLE)) as other:  # the shadow's reads would make these two conflict
            other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            other.execute("UPDATE users SET email_address = 'other' WHERE id = 2")
        connection.execute("ROLLBACK TO SAVEPOINT mine")
        assert scalar(connection, "SELECT pg_current_xact_id()::text") == before
        assert scalar(connection, "SHOW transaction_isolation") == "serializable"
        connection.commit()
    shadow.close()


def lazily(connection: sa.Connection, statement: sa.Select[Any]) -> Any:
    return connection.execute(statement)


def rows(connection: sa.Connection, statement: sa.Select[Any]) -> Any:
    return lazily(connection, statement).all()


def test_nothing_of_a_compare_stays_in_the_engine_or_its_options(shop: Database, fleet: Fleet) -> None:
    """The pool is exhausted, and tables are translated: the shadow has a connection of its own, made alike."""
    with connect(shop) as connection:
        connection.execute(
            f"CREATE SCHEMA tenant; CREATE TABLE tenant.users AS TABLE users; GRANT USAGE ON SCHEMA tenant TO {ROLE}; "
            f"GRANT SELECT ON tenant.users TO {ROLE}; UPDATE tenant.users SET email_address = user_email".encode()
        )
    engine = engine_of(shop, pool_size=1, max_overflow=0, pool_timeout=60)
    translated = engine.execution_options(schema_translate_map={None: "tenant"})
    users = sa.Table("users", sa.MetaData(), *(sa.Column(name) for name in ("id", "user_email", "email_address")))
    shadow = fleet.shadow(MIGRATION, translated, sample=1)
    with translated.connect() as connection:
        for key in range(1, 6):
            one = users.c.id == key
            shadow.read(
                key,
                old=functools.partial(rows, statement=sa.select(users.c.id, users.c.user_email).where(one)),
                new=functools.partial(lazily, statement=sa.select(users.c.id, users.c.email_address).where(one)),
                on=connection,
            )
        until(lambda: counts(shop) == (5, 0, 0, 0), "all are compared, and lazy results are read")
        assert connection.in_transaction()
    shadow.close()
    engine.dispose()


def test_both_reads_see_one_snapshot_whatever_is_written_in_between(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1, timeout=30)
    read_old, written = threading.Event(), threading.Event()

    def old(connection: Any) -> Any:
        value = scalar(connection, OLD.format(1))
        if in_shadow():
            read_old.set()
            assert written.wait(20)
        return value

    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        assert shadow.read(1, old=old, new=lambda c: scalar(c, NEW.format(1)), on=connection) == "user1"
    assert read_old.wait(20)
    with connect(shop) as writer:
        writer.execute("UPDATE users SET user_email = 'changed', email_address = 'changed' WHERE id = 1")
    written.set()
    until(lambda: counts(shop) == (1, 0, 0, 0), "no mismatch")
    shadow.close()


def test_both_reads_of_an_event_loop_see_one_snapshot(shop: Database) -> None:
    url = shop.conninfo_as(ROLE)

    async def main() -> None:
        source = Source()
        source.tally.every = 0
        read_old, written, caller = asyncio.Event(), asyncio.Event(), asyncio.current_task()

        async def old(connection: Any) -> Any:
            value = await (await connection.execute(OLD.format(1))).fetchall()
            if asyncio.current_task() is not caller:
                read_old.set()
                await written.wait()
            return value

        async def new(connection: Any) -> Any:
            return await connection.execute(NEW.format(1))

        async with await register_async(url, application="shop", version="1", source=source, interval=0.1) as fleet:
            assert await fleet.refresh(20)
            shadow = fleet.shadow(MIGRATION, url, sample=1, timeout=30)
            async with await psycopg.AsyncConnection.connect(url) as connection:
                await shadow.read(1, old=old, new=new, on=connection)
            await asyncio.wait_for(read_old.wait(), 20)
            with connect(shop) as writer:
                writer.execute("UPDATE users SET user_email = 'changed', email_address = 'changed' WHERE id = 1")
            written.set()
            await asyncio.to_thread(until, lambda: counts(shop) == (1, 0, 0, 0), "no mismatch")

    asyncio.run(main())


def test_a_slow_read_delays_nobody_and_is_cut_off(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1, timeout=0.1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        began = time.monotonic()
        shadow.read(1, old=lambda _: 1, new=lambda c: scalar(c, "SELECT pg_sleep(3600)"), on=connection)
        assert time.monotonic() - began < 1
    until(lambda: counts(shop) == (0, 0, 1, 0), "it is given up")
    assert found(shop).failure == "QueryCanceled: canceling statement due to statement timeout"
    shadow.close()


@pytest.mark.parametrize("kind", ["conninfo", "psycopg", "psycopg2", "pg8000"])
def test_a_function_that_writes_changes_nothing(shop: Database, fleet: Fleet, kind: str) -> None:
    target: Any = shop.conninfo_as(ROLE) if kind == "conninfo" else engine_of(shop, kind)
    shadow = fleet.shadow(MIGRATION, target, sample=1)

    def writes(connection: Any) -> Any:
        return scalar(connection, "INSERT INTO users VALUES (99, 'x', 'x') RETURNING id") if in_shadow() else 99

    on: Any = object()
    assert shadow.read(1, old=writes, new=writes, on=on) == 99
    until(lambda: counts(shop) == (0, 0, 1, 0), "it fails")
    assert "read-only transaction" in str(found(shop).failure)
    with connect(shop) as connection:
        assert connection.execute("SELECT count(*) FROM users WHERE id = 99").fetchone() == (0,)
    shadow.close()
    if kind != "conninfo":
        target.dispose()


def test_a_function_that_ends_the_transaction_proves_nothing(shop: Database, fleet: Fleet) -> None:
    engine = engine_of(shop)
    shadow = fleet.shadow(MIGRATION, engine, sample=1)

    def ends(session: Any) -> Any:
        value = session.scalar(sa.text(OLD.format(1)))
        session.rollback()
        return value

    def begins(session: Any) -> Any:
        with session.begin():
            return session.scalar(sa.text(OLD.format(1)))

    with Session(engine) as session:
        shadow.read(1, old=ends, new=ends, on=session)
        until(lambda: counts(shop) == (0, 0, 1, 0), "nobody knows")
        assert "ended the transaction" in str(found(shop).failure)
        until(lambda: shadow._ledger._resting < time.monotonic(), "it has rested")
        session.rollback()
        shadow.read(1, old=begins, new=begins, on=session)
        until(lambda: counts(shop) == (1, 0, 1, 0), "a session of its own may begin and commit as it likes")
    shadow.close()
    engine.dispose()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_email: Mapped[str | None]
    email_address: Mapped[str | None]


def test_objects_are_compared_by_what_a_normaliser_makes_of_them(shop: Database, fleet: Fleet) -> None:
    """Without one they differ, instead of being one object that a session has found twice."""
    engine = engine_of(shop)
    with Session(engine) as session:
        for normalise, expected in ((None, (1, 1, 0, 0)), (lambda user: (user.id, user.user_email), (2, 1, 0, 0))):
            options = {} if normalise is None else {"normalise": normalise}
            shadow = fleet.shadow(MIGRATION, engine, sample=1, **options)
            assert shadow.read(1, old=lambda s: s.get(User, 1), new=lambda s: s.get(User, 1), on=session) is not None
            until(lambda wanted=expected: counts(shop) == wanted, "it is compared")  # type: ignore[misc]
            shadow.close()
    engine.dispose()


# What must not matter ------------------------------------------------------------------------------------------------


def test_a_database_that_is_gone_costs_the_caller_nothing(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, "host=/nowhere dbname=none", sample=1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        read_all(shadow, connection)
    until(lambda: counts(shop) == (0, 0, 0, KEYS), "all are left out, and it is told")
    assert "OperationalError" in str(found(shop).failure)
    shadow.close()


@pytest.mark.parametrize(
    "harm",
    [
        "DROP SCHEMA zdmigrate CASCADE",
        f"REVOKE ALL ON SCHEMA zdmigrate FROM {ROLE}",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA zdmigrate FROM {ROLE}",
        "ALTER TABLE zdmigrate.migration RENAME COLUMN phase_since TO other",
    ],
    ids=["dropped", "revoked", "may not report", "newer"],
)
def test_a_control_schema_in_trouble_costs_the_caller_nothing(shop: Database, fleet: Fleet, harm: str) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        read_all(shadow, connection)
        until(lambda: counts(shop)[0] == KEYS, "all are compared")
        with connect(shop) as owner:
            owner.execute(harm.encode())
        read_all(shadow, connection)
    shadow.close()


def test_what_could_not_be_told_while_the_table_was_locked_is_told_later_and_once(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection:
        with connect(shop, autocommit=False) as locked:
            locked.execute("LOCK TABLE zdmigrate.shadow_read")
            read_all(shadow, connection)
            until(lambda: fleet._source.tally._refused > 0, "a report is lost")
            assert fleet.refresh(20), "heartbeats go on"
        read_all(shadow, connection)
    until(lambda: counts(shop) == (2 * KEYS, 4, 0, 0), "all are told")
    with connect(shop) as connection:
        assert connection.execute("SELECT count(*) FROM zdmigrate.shadow_read").fetchone() == (1,)
    shadow.close()


def test_a_control_table_that_is_locked_ends_a_compare_in_time(shop: Database, fleet: Fleet) -> None:
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1, timeout=0.1)
    with psycopg.connect(shop.conninfo_as(ROLE)) as connection, connect(shop, autocommit=False) as locked:
        locked.execute("LOCK TABLE zdmigrate.migration")
        read_all(shadow, connection, range(1, 2))
        until(lambda: fleet._source.tally._counts, "it is given up")
        locked.rollback()
    until(lambda: counts(shop) == (0, 0, 0, 1), "and told")
    assert "statement timeout" in str(found(shop).failure)
    shadow.close()


def test_behind_pgbouncer_in_transaction_mode(shop: Database) -> None:
    with pgbouncer.pooled(shop, ROLE) as url, registered(url) as fleet:
        engine = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(url, prepare_threshold=None, application_name="shop/1")
        )  # fmt: skip
        shadow = fleet.shadow(MIGRATION, engine, sample=1)
        with engine.connect() as connection:
            for _ in range(3):
                read_all(shadow, connection)
                connection.rollback()
                until(lambda: not shadow._queue.qsize(), "there is room")
        until(lambda: counts(shop)[0] == 3 * KEYS, "all are compared")
        assert counts(shop) == (3 * KEYS, 6, 0, 0)
        with psycopg.connect(url, prepare_threshold=None) as other:
            settings = ("statement_timeout", "transaction_read_only", "transaction_isolation")
            assert [scalar(other, f"SHOW {name}") for name in settings] == ["0", "off", "read committed"]
        shadow.close()
        engine.dispose()


# What counts ---------------------------------------------------------------------------------------------------------


def test_the_snapshot_itself_has_to_say_that_both_shapes_are_full(
    shop: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has not heard yet that the migration went back, and came again."""
    looked_at = watched(monkeypatch)
    shadow = fleet.shadow(MIGRATION, shop.conninfo_as(ROLE), sample=1)
    monkeypatch.setattr(shadow, "_wanted", lambda: True)

    def read(connection: Any, times: int) -> None:
        for key in range(1, KEYS + 1):
            shadow.read(key, old=reads(OLD, key), new=reads(NEW, key), on=connection)
        until(lambda: len(looked_at) == times * KEYS, "all are looked at")

    with psycopg.connect(shop.conninfo_as(ROLE)) as connection, connect(shop) as owner:
        read(connection, 1)
        for times, (phase, running) in enumerate(
            [("dual_write", "backfill"), ("dual_write", None), ("switch_reads", "retire")], start=2
        ):
            moved(owner, phase, running)
            read(connection, times)
        moved(owner, "backfill")
        assert counts(shop) == (0, 0, 0, 0), "what was compared before it went back does not count"
        read(connection, 5)
        until(lambda: counts(shop) == (KEYS, 2, 0, 0), "what is compared now does")
        everything = owner.execute("SELECT sum(compares) FROM zdmigrate.shadow_read").fetchone()
    shadow.close()
    assert everything == (2 * KEYS,)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The keys of the jobs that are through."""
    through: list[object] = []
    run = Comparer.run

    def watching(comparer: Comparer, job: Job) -> None:
        run(comparer, job)
        through.append(job.key)

    monkeypatch.setattr(Comparer, "run", watching)
    return through


def test_a_replica_that_has_not_come_so_far_is_not_compared_on(
    replica_pair: ReplicaPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = watched(monkeypatch)
    primary, replica = (Database(server, "postgres") for server in (replica_pair.primary, replica_pair.replica))
    prepare(primary)
    with connect(primary) as owner:
        moved(owner, "dual_write")
        until(lambda: record_on(replica) == "dual_write", "it has come so far")
        with registered(primary.conninfo_as(ROLE)) as fleet, psycopg.connect(primary.conninfo_as(ROLE)) as connection:
            shadow = fleet.shadow(MIGRATION, replica.conninfo_as(ROLE), sample=1)
            with paused(replica_pair.replica):
                moved(owner, "backfill")
                assert fleet.refresh(20)
                assert fleet.refresh(20)
                read_all(shadow, connection)
                until(lambda: len(looked_at) == KEYS, "all are looked at")
            until(lambda: record_on(replica) == "backfill", "it has come so far")
            assert counts(primary) == (0, 0, 0, 0)
            read_all(shadow, connection)
            until(lambda: counts(primary) == (KEYS, 2, 0, 0), "now they count")
            shadow.close()


def record_on(database: Database) -> str:
    with connect(database) as connection:
        row = connection.execute("SELECT to_regclass('zdmigrate.migration') IS NOT NULL").fetchone()
        if row != (True,):
            return ""
        row = connection.execute("SELECT phase FROM zdmigrate.migration").fetchone()
    return str(row and row[0])


def test_a_report_counts_once_however_often_and_late_it_comes(shop: Database) -> None:
    def report(compares: int, age: float = 1.0, number: int = 1) -> None:
        counted = {
            "number": number, "migration": MIGRATION, "phase_since": record(shop).phase_since.isoformat(), "age": age,
            "compares": compares, "mismatches": 1, "failures": 0, "dropped": 0, "samples": [], "failure": None,
        }  # fmt: skip
        with psycopg.connect(shop.conninfo_as(ROLE), autocommit=True) as connection:
            connection.execute(
                "SELECT zdmigrate.app_shadow('default', 'me', %s)", (psycopg.types.json.Jsonb([counted]),)
            )

    for compares in (5, 9, 9, 5):
        report(compares)
    assert counts(shop) == (9, 1, 0, 0)
    report(100, age=7200, number=2)
    assert counts(shop)[0] == 109
    with connect(shop) as connection:
        lately = shadows.compared(connection, SCHEMA, record(shop), timedelta(hours=1))
        assert lately.compares == 9
        assert lately.since is not None
        assert abs(lately.since - datetime.now(UTC)) < timedelta(minutes=1)
        connection.execute("UPDATE zdmigrate.shadow_read SET began_at = began_at - interval '7 days' WHERE number = 2")
    with registered(shop.conninfo_as(ROLE)), connect(shop) as connection:
        assert connection.execute("SELECT number FROM zdmigrate.shadow_read").fetchall() == [(1,)], "old ones go"


def test_a_day_of_ten_thousand_instances_is_summed_up_in_no_time(shop: Database) -> None:
    with connect(shop) as connection:
        connection.execute(
            "INSERT INTO zdmigrate.shadow_read SELECT 'web' || n % 10000, n / 10000, m.key, m.phase_since, "
            "clock_timestamp() - (n / 10000) * interval '1 hour', clock_timestamp(), 60, 1, 0, 0, "
            '\'[{"key": "1", "old": "a", "new": "b"}]\', NULL '
            "FROM generate_series(0, 239999) AS n, zdmigrate.migration AS m"
        )
        connection.execute("VACUUM ANALYZE zdmigrate.shadow_read")
        now, taken = record(shop), []
        for _ in range(5):
            began = time.monotonic()
            assert shadows.compared(connection, SCHEMA, now, timedelta(hours=48)).compares == 240_000 * 60
            taken.append(time.monotonic() - began)
    print(f"{min(taken) * 1000:.0f} ms")
    assert min(taken) < 0.4


# Processes -----------------------------------------------------------------------------------------------------------


def program(database: Database, body: str) -> subprocess.CompletedProcess[str]:
    text = f"""
import os, sys, time
import psycopg
from zdmigrate.app import ShadowRead, register
url = {database.conninfo_as(ROLE)!r}
shadow = ShadowRead({MIGRATION!r}, url, sample=1)  # before anybody has registered
fleet = register(url, application="shop", version="1", interval=0.2)
assert fleet.refresh(20)
def read(connection):
    return connection.execute("SELECT count(*) FROM users").fetchall()
def compare():
    with psycopg.connect(url) as connection:
        assert shadow.read(1, old=read, new=read, on=connection) == [({KEYS},)]
def compared(number):
    end = time.monotonic() + 20
    while sum(count.compares for count in fleet._source.tally._counts.values()) < number:
        assert time.monotonic() < end
        time.sleep(0.01)
{textwrap.dedent(body)}
"""
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_end_of_a_process_tells_what_nobody_knows_yet(shop: Database) -> None:
    done = program(shop, "fleet._source.tally._due = float('inf')\ncompare()\ncompared(1)")
    assert (done.returncode, done.stderr) == (0, "")
    assert counts(shop) == (1, 0, 0, 0)


def test_a_forked_process_compares_by_itself(shop: Database) -> None:
    done = program(
        shop,
        """
        compare()
        compared(1)
        if (child := os.fork()) == 0:
            assert fleet.refresh(20)
            compare()
            compared(1)
            fleet.retire()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        compare()
        compared(2)
        sys.exit(os.waitstatus_to_exitcode(status))
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert counts(shop) == (3, 0, 0, 0)
    with connect(shop) as connection:
        rows = connection.execute("SELECT count(DISTINCT reporter) FROM zdmigrate.shadow_read").fetchone()
    assert rows == (2,)
