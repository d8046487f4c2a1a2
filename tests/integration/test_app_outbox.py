"""Another store that follows PostgreSQL: in which order, through which drivers, and when something dies in between."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.rows import dict_row
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.support import outboxes
from tests.support.outboxes import WRITER, Store, change, read
from tests.support.processes import ROOT, until
from tests.support.servers import Database, connect
from zdmigrate.app import AsyncDualWriter, DualWriter, outbox_ddl, outbox_table
from zdmigrate.app.outbox.statements import Outbox, Sql


@pytest.fixture
def shop(database: Database) -> Database:
    outboxes.make(database)
    return database


def rows(database: Database, query: str, *values: object) -> list[tuple[Any, ...]]:
    with connect(database) as connection:
        cursor = connection.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def left(database: Database) -> list[str]:
    return [key for (key,) in rows(database, "SELECT key FROM zdmigrate_outbox ORDER BY id")]


def stored(database: Database) -> dict[str, str | None]:
    return dict(rows(database, "SELECT key, value FROM store"))


def writer_for(database: Database, secondary: Callable[..., Any] | None = None, **options: Any) -> DualWriter:
    return DualWriter(WRITER, primary=read, secondary=secondary or Store(database.conninfo).write, **options)


def url(database: Database, driver: str) -> sa.URL:
    info: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    return sa.URL.create(
        f"postgresql+{driver}", username=info["user"], host=info["host"], port=int(info["port"]),
        database=info["dbname"],
    )  # fmt: skip


def engine(database: Database, driver: str, **options: Any) -> sa.Engine:
    given = url(database, driver)
    if driver == "pg8000" and str(given.host).startswith("/"):
        options["connect_args"] = {"unix_sock": f"{given.host}/.s.PGSQL.{given.port}"}
    return sa.create_engine(given, **options)


async def asyncpg_connection(database: Database) -> Any:
    import asyncpg

    given = url(database, "asyncpg")
    return await asyncpg.connect(
        host=given.host, port=given.port, user=given.username, database=given.database, timeout=30
    )  # fmt: skip


# The table


def test_both_ways_to_make_the_table_make_the_same(database: Database) -> None:
    made = engine(database, "psycopg")
    metadata = sa.MetaData()
    outbox_table(metadata)
    with made.begin() as connection:
        connection.exec_driver_sql(outbox_ddl())
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        by_ddl = _catalog(connection)
        connection.exec_driver_sql("DROP TABLE zdmigrate_outbox")
        metadata.create_all(connection)
        assert _catalog(connection) == by_ddl
        connection.exec_driver_sql("CREATE SCHEMA own")
        connection.exec_driver_sql(outbox_ddl("box", schema="own"))
        elsewhere = sa.MetaData()
        outbox_table(elsewhere, "box", schema="own")
        elsewhere.create_all(connection, checkfirst=True)
    made.dispose()


def _catalog(connection: sa.Connection) -> list[Any]:
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = 'zdmigrate_outbox'::regclass AND attnum > 0 ORDER BY attname"
    )
    indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'zdmigrate_outbox' ORDER BY indexname"
    return [*connection.exec_driver_sql(columns).all(), *connection.exec_driver_sql(indexes).all()]


# In the application's transaction


def _session(database: Database) -> Any:
    return orm.Session(engine(database, "psycopg"))


SYNC: dict[str, Callable[[Database], Any]] = {
    "session": _session,
    "scoped session": lambda database: orm.scoped_session(orm.sessionmaker(engine(database, "psycopg"))),
    "psycopg engine": lambda database: engine(database, "psycopg").connect(),
    "psycopg2 engine": lambda database: engine(database, "psycopg2").connect(),
    "pg8000 engine": lambda database: engine(database, "pg8000").connect(),
    "psycopg": lambda database: psycopg.connect(database.conninfo, row_factory=dict_row),
    "psycopg2": lambda database: __import__("psycopg2").connect(database.conninfo),
}


@pytest.mark.parametrize("kind", SYNC)
def test_it_is_one_transaction_with_the_change(shop: Database, kind: str) -> None:
    transaction = SYNC[kind](shop)
    writer = writer_for(shop)
    writer.changed(transaction, "1")
    transaction.rollback()
    assert left(shop) == []
    writer.changed(transaction, "1", "2", "1")
    assert left(shop) == []
    transaction.commit()
    assert left(shop) == ["1", "2"]
    bind = transaction.get_bind() if hasattr(transaction, "get_bind") else getattr(transaction, "engine", None)
    transaction.close()
    if bind is not None:
        bind.dispose()


ASYNC: dict[str, Callable[[Database], Any]] = {
    "asyncpg session": lambda database: AsyncSession(create_async_engine(url(database, "asyncpg"))),
    "psycopg session": lambda database: AsyncSession(create_async_engine(url(database, "psycopg_async"))),
    "asyncpg engine": lambda database: create_async_engine(url(database, "asyncpg")).connect(),
    "psycopg": lambda database: psycopg.AsyncConnection.connect(database.conninfo),
}


@pytest.mark.parametrize("kind", ASYNC)
def test_it_is_one_transaction_with_the_change_in_an_event_loop(shop: Database, kind: str) -> None:
    async def main() -> None:
        writer = AsyncDualWriter(WRITER, primary=read, secondary=read)
        transaction = ASYNC[kind](shop)
        if hasattr(transaction, "__await__"):
            transaction = await transaction
        await writer.changed(transaction, "1")
        await transaction.rollback()
        await writer.changed(transaction, "1", "2")
        assert left(shop) == []
        await transaction.commit()
        assert left(shop) == ["1", "2"]
        await transaction.close()
        if hasattr(transaction, "bind"):
            await transaction.bind.dispose()
        elif hasattr(transaction, "engine"):
            await transaction.engine.dispose()

    asyncio.run(main())


def test_asyncpg_has_to_be_in_a_transaction(shop: Database) -> None:
    async def main() -> None:
        writer = AsyncDualWriter(WRITER, primary=read, secondary=read)
        connection = await asyncpg_connection(shop)
        with pytest.raises(ValueError, match="in none"):
            await writer.changed(connection, "1")
        async with connection.transaction():
            await writer.changed(connection, "1")
            assert left(shop) == []
        assert left(shop) == ["1"]
        await connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_a_connection_that_commits_by_itself_is_refused(shop: Database, driver: str) -> None:
    made = engine(shop, driver, isolation_level="AUTOCOMMIT")
    with made.connect() as connection, pytest.raises(ValueError, match="in none"):
        writer_for(shop).changed(connection, "1")
    made.dispose()


def test_psycopg_in_autocommit_may_be_in_a_transaction(shop: Database) -> None:
    with connect(shop) as connection:
        with pytest.raises(ValueError, match="in none"):
            writer_for(shop).changed(connection, "1")
        with connection.transaction():
            writer_for(shop).changed(connection, "1")
            assert left(shop) == []
    assert left(shop) == ["1"]


def test_djangos_connection_is_asked_when_it_is_open(shop: Database) -> None:
    program = """
import sys
from django.conf import settings
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql",
    **dict(zip(("NAME", "USER", "HOST", "PORT"), sys.argv[1:], strict=True))}})
import django
django.setup()
from django.db import connection, transaction
from zdmigrate.app import DualWriter
writer = DualWriter("search", primary=print, secondary=print)
try:
    writer.changed(connection, "alone")
except ValueError as error:
    print("in none" in str(error))
with transaction.atomic():
    writer.changed(connection, "1")
connection.close()
"""
    given = url(shop, "psycopg")
    done = subprocess.run(
        [sys.executable, "-c", program, shop.name, str(given.username), str(given.host), str(given.port)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr
    assert left(shop) == ["1"]


# Through every driver


def _sql_read(connection: sa.Connection, key: str) -> Any:
    assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    with orm.Session(connection) as session:  # as an application with models would
        return session.execute(sa.text("SELECT name FROM users WHERE id = :id"), {"id": key}).scalar()


def _strict(database: Database) -> Any:
    connection = psycopg.connect(database.conninfo, autocommit=True, row_factory=dict_row)
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    return connection


def _driver_read(connection: psycopg.Connection[Any], key: str) -> Any:
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        assert cursor.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    return read(connection, key) if connection.row_factory is not dict_row else "a"


TARGETS: dict[str, tuple[Callable[[Database], Any], Callable[..., Any]]] = {
    "psycopg": (lambda database: engine(database, "psycopg"), _sql_read),
    "psycopg2": (lambda database: engine(database, "psycopg2", isolation_level="SERIALIZABLE"), _sql_read),
    "pg8000": (lambda database: engine(database, "pg8000", isolation_level="AUTOCOMMIT"), _sql_read),
    "autocommit": (lambda database: engine(database, "psycopg", isolation_level="AUTOCOMMIT"), _sql_read),
    "conninfo": (lambda database: database.conninfo, _driver_read),
    "function": (lambda database: functools.partial(_strict, database), _driver_read),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_it_is_delivered(shop: Database, kind: str) -> None:
    rows(shop, f'ALTER DATABASE "{shop.name}" SET default_transaction_isolation = serializable')
    make, primary = TARGETS[kind]
    target = make(shop)
    writer = DualWriter(WRITER, primary=primary, secondary=Store(shop.conninfo).write)
    assert writer.pending(target) == (0, 0, 0)
    change(shop.conninfo, writer, "1", "a")
    change(shop.conninfo, writer, "1", "a")
    pending = writer.pending(target)
    assert (pending.keys, pending.failing) == (1, 0)
    assert 0 < pending.oldest < 60
    assert writer.run_once(target) == (1, 0, None)
    assert stored(shop) == {"1": "a"}
    assert left(shop) == []
    assert writer.run_once(target) == (0, 0, None)
    if isinstance(target, sa.Engine):
        assert target.pool.status().startswith("Pool size: 5  Connections in pool: 0"), "its pool is left alone"


async def _read_async(connection: Any, key: str) -> Any:
    query = "SELECT name FROM users WHERE id = '1'"
    if hasattr(connection, "fetchval"):
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
        return await connection.fetchval(query)
    if hasattr(connection, "exec_driver_sql"):
        assert (await connection.exec_driver_sql("SHOW transaction_isolation")).scalar() == "read committed"
        return (await connection.execute(sa.text(query))).scalar()
    return (await (await connection.execute(query)).fetchone())[0]


ASYNC_TARGETS: dict[str, Callable[[Database], Any]] = {
    "asyncpg engine": lambda database: create_async_engine(url(database, "asyncpg"), isolation_level="AUTOCOMMIT"),
    "psycopg engine": lambda database: create_async_engine(url(database, "psycopg_async")),
    "conninfo": lambda database: database.conninfo,
    "asyncpg": lambda database: functools.partial(asyncpg_connection, database),
    "psycopg": lambda database: functools.partial(psycopg.AsyncConnection.connect, database.conninfo, autocommit=True),
}


@pytest.mark.parametrize("kind", ASYNC_TARGETS)
def test_it_is_delivered_from_an_event_loop(shop: Database, kind: str) -> None:
    rows(shop, f'ALTER DATABASE "{shop.name}" SET default_transaction_isolation = serializable')

    async def main() -> None:
        store = Store(shop.conninfo)

        async def write(key: str, value: str | None) -> None:
            if key == "hangs":
                await asyncio.Event().wait()
            await asyncio.to_thread(store.write, key, value)

        target = ASYNC_TARGETS[kind](shop)
        writer = AsyncDualWriter(WRITER, primary=_read_async, secondary=write, timeout=0.2, interval=3600)
        change(shop.conninfo, writer_for(shop), "hangs", "x")
        change(shop.conninfo, writer_for(shop), "1", "a")
        done = await writer.run_once(target)
        assert (done.delivered, done.failed, done.error) == (1, 1, "hangs: TimeoutError:")
        assert stored(shop) == {"1": "a"}
        assert (await writer.pending(target))[:2] == (1, 1)
        writer.start(target)
        with pytest.raises(RuntimeError, match="already"):
            writer.start(target)
        rows(shop, "UPDATE users SET name = 'b' WHERE id = '1'")
        async with AsyncSession(create_async_engine(url(shop, "asyncpg"))) as session, session.begin():
            await writer.changed(session, "1")
        await asyncio.to_thread(
            until, lambda: stored(shop) == {"1": "b"}, "the task is woken by the commit", timeout=20
        )
        await writer.stop()
        await writer.stop()
        assert left(shop) == ["hangs"]
        await session.bind.dispose()  # type: ignore[union-attr]
        if hasattr(target, "dispose"):
            await target.dispose()

    asyncio.run(main())


# In a thread


def test_the_commit_of_a_session_wakes_the_thread(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    writer = DualWriter(WRITER, primary=_sql_read, secondary=Store(shop.conninfo).write, interval=3600)
    made = engine(shop, "psycopg")
    writer.start(made)
    with pytest.raises(RuntimeError, match="already"):
        writer.start(made)
    with orm.Session(made) as session:
        for value in ("a", "b"):  # a session is used again
            session.execute(
                sa.text("INSERT INTO users VALUES ('1', :v) ON CONFLICT (id) DO UPDATE SET name = :v"), {"v": value}
            )
            with session.begin_nested():
                writer.changed(session, "1")
            assert left(shop) == []
            session.commit()
            until(lambda: stored(shop) == {"1": value}, "it is delivered", timeout=20)  # noqa: B023
    with connect(shop, autocommit=False) as connection:
        connection.execute("DELETE FROM users")
        writer.changed(connection, "1")
        connection.commit()
        writer.wake()
    until(lambda: stored(shop) == {"1": None}, "the deletion is delivered", timeout=20)
    writer.stop()
    writer.stop()
    assert left(shop) == []
    made.dispose()


def test_it_outlives_the_database(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    writer = writer_for(shop, interval=0.05)
    with caplog.at_level(logging.DEBUG, "zdmigrate.app"):
        writer.start(f"{shop.conninfo} application_name=writer")
        for number in range(3):
            change(shop.conninfo, writer, str(number), "a")
            until(lambda: left(shop) == [], "it is delivered", timeout=20)
            rows(shop, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer'")
        rows(shop, "ALTER TABLE zdmigrate_outbox RENAME TO away")
        until(lambda: any("away" in r.message or "does not exist" in r.message for r in caplog.records), "it says so")
        rows(shop, "ALTER TABLE away RENAME TO zdmigrate_outbox")
        change(shop.conninfo, writer, "last", "a")
        until(lambda: "last" in stored(shop), "it is delivered", timeout=20)
        until(lambda: any("delivered to again" in r.message for r in caplog.records), "it says so")
    writer.stop()
    assert sum(r.levelno == logging.WARNING and "does not exist" in r.message for r in caplog.records) <= 1


def test_a_forked_process_delivers_by_itself(shop: Database) -> None:
    program = """
import os, signal, sys, time
from tests.support.outboxes import Store, change, read
from zdmigrate.app import DualWriter
conninfo = sys.argv[1]
def write(key, value):
    Store(conninfo).write(key, f"{value} by {os.getpid()}")
writer = DualWriter("search", primary=read, secondary=write, interval=3600)
writer.start(conninfo)
change(conninfo, writer, "parent", "a")
writer.wake()
def wait(key):
    import psycopg
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for _ in range(2000):
            if (row := connection.execute("SELECT value FROM store WHERE key = %s", (key,)).fetchone()):
                return row[0]
            time.sleep(0.01)
assert wait("parent") == f"a by {os.getpid()}"
if (child := os.fork()) == 0:
    os.kill(os.getppid(), signal.SIGSTOP)  # or it might be the one that delivers
    change(conninfo, writer, "child", "b")
    writer.wake()
    found = wait("child")
    os.kill(os.getppid(), signal.SIGCONT)
    os._exit(found != f"b by {os.getpid()}")
assert os.waitpid(child, 0)[1] == 0
change(conninfo, writer, "again", "c")
writer.wake()
assert wait("again") == f"c by {os.getpid()}"
writer.stop()
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, shop.conninfo], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


# In which order


class Paused:
    """A store whose first write waits, in the middle of a delivery."""

    def __init__(self, database: Database) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self._store = Store(database.conninfo)
        self._first = True

    def __call__(self, key: str, value: str | None) -> None:
        first, self._first = self._first, False
        if first:
            self.reached.set()
            assert self.go.wait(30)
        self._store.write(key, value)


@contextmanager
def delivering(database: Database, secondary: Callable[..., Any], **options: Any) -> Iterator[DualWriter]:
    """In another thread, with a session of its own."""
    writer = writer_for(database, secondary, **options)
    thread = threading.Thread(target=writer.run_once, args=(database.conninfo,))
    thread.start()
    try:
        yield writer
    finally:
        thread.join(30)
        assert not thread.is_alive()


def _without_the_lock(self: Outbox, until: str) -> Sql:
    found = _pick(self, until)
    pieces = [piece.replace("pg_try_advisory_xact_lock(lock)", "lock IS NOT NULL") for piece in found.pieces]
    assert pieces != list(found.pieces)
    return Sql(pieces, found.values)


def _whatever_is_there(self: Outbox, seen: str) -> Sql:
    return self._sql("DELETE FROM <outbox> WHERE writer = CAST(? AS text)", WRITER)


_pick = Outbox.pick


def _two_at_once(shop: Database) -> None:
    """One has read the older truth and is about to write it; the truth changes; another one delivers what is due."""
    change(shop.conninfo, writer_for(shop), "1", "old")
    paused = Paused(shop)
    with delivering(shop, paused):
        assert paused.reached.wait(30)
        change(shop.conninfo, writer_for(shop), "1", "new")
        writer_for(shop).run_once(shop.conninfo)
        paused.go.set()
    writer_for(shop).run_once(shop.conninfo)
    assert left(shop) == []


def test_the_older_value_is_never_the_last(shop: Database) -> None:
    _two_at_once(shop)
    assert stored(shop) == {"1": "new"}


@pytest.mark.parametrize(
    ("name", "mutant"), [("pick", _without_the_lock), ("done", _whatever_is_there)], ids=["no lock", "deletes too much"]
)
def test_without_the_protection_it_would_be(
    shop: Database, monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any
) -> None:
    """That the test above can fail."""
    monkeypatch.setattr(Outbox, name, mutant)
    _two_at_once(shop)
    assert stored(shop) == {"1": "old"}


def test_a_row_that_is_committed_while_the_truth_is_read_delivers_once_more(shop: Database) -> None:
    change(shop.conninfo, writer_for(shop), "1", "old")

    def slow(connection: Any, key: str) -> str | None:
        found = read(connection, key)
        if found == "old":
            change(shop.conninfo, writer_for(shop), "1", "new")
        return found

    writer = DualWriter(WRITER, primary=slow, secondary=Store(shop.conninfo).write)
    writer.run_once(shop.conninfo)
    assert stored(shop) == {"1": "old"}
    assert left(shop) == ["1"]
    writer.run_once(shop.conninfo)
    assert stored(shop) == {"1": "new"}


# What is held meanwhile


@pytest.mark.parametrize("versions", [False, True], ids=["plain", "versions"])
def test_what_a_call_holds_up(shop: Database, *, versions: bool) -> None:
    change(shop.conninfo, writer_for(shop), "1", "a")
    held: list[Any] = []

    def look(*_: Any) -> None:
        mine = "FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE application_name = 'writer'"
        held.extend(rows(shop, f"SELECT DISTINCT backend_xid IS NULL, backend_xmin IS NULL {mine}"))
        held.extend(rows(shop, f"SELECT locktype {mine} AND locktype <> 'relation' ORDER BY 1"))
        held.extend(rows(shop, f"SELECT DISTINCT left(relation::regclass::text, 16) {mine} AND locktype = 'relation'"))
        rows(shop, "ALTER TABLE users ADD COLUMN more text")  # would wait for a lock that reading had left

    writer = writer_for(shop, look, versions=versions)
    assert writer.run_once(f"{shop.conninfo} application_name=writer") == (1, 0, None)
    with_id = [("transactionid",)] if versions else []
    assert held == [(not versions, True), ("advisory",), *with_id, ("virtualxid",), ("zdmigrate_outbox",)]


def _sleeping(shop: Database, secondary: Callable[..., Any]) -> DualWriter:
    change(shop.conninfo, writer_for(shop), "1", "old")
    late = writer_for(shop, secondary, timeout=0.1, interval=3600)
    late._outbox._hold = 0.2
    return late


def _overtaken(shop: Database) -> None:
    change(shop.conninfo, writer_for(shop), "1", "new")
    until(lambda: writer_for(shop).run_once(shop.conninfo).delivered, "the lock is free again", timeout=20)
    assert stored(shop) == {"1": "new"}


def _put_right(shop: Database) -> None:
    """By somebody who knows nothing of the sleeper, which may have ended."""
    assert stored(shop) == {"1": "old"}, "a store that knows no versions"
    assert left(shop) == ["1"]
    writer_for(shop).run_once(shop.conninfo)
    assert stored(shop) == {"1": "new"}
    assert left(shop) == []


def test_the_server_ends_a_delivery_that_has_fallen_asleep(shop: Database) -> None:
    """And then another one delivers; what the sleeper does late is put right, also when it does nothing any more."""
    paused = Paused(shop)
    late = _sleeping(shop, paused)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            late.run_once(shop.conninfo)
        except psycopg.Error as error:
            errors.append(error)

    sleeper = threading.Thread(target=run)
    sleeper.start()
    assert paused.reached.wait(30)
    _overtaken(shop)
    paused.go.set()
    sleeper.join(30)
    assert len(errors) == 1, "it could not say that it is done"
    _put_right(shop)


@pytest.mark.parametrize("ending", [False, True], ids=["goes on", "is stopped"])
def test_a_thread_that_has_fallen_asleep_is_put_right(shop: Database, *, ending: bool) -> None:
    paused = Paused(shop)
    late = _sleeping(shop, paused)
    late.start(shop.conninfo)
    assert paused.reached.wait(30)
    _overtaken(shop)
    if ending:
        late.stop(0.001)
    paused.go.set()
    until(lambda: left(shop) == ["1"], "it is announced without waiting for an hour", timeout=20)
    _put_right(shop)
    late.stop()


@pytest.mark.parametrize("how", ["run_once", "stopped", "cancelled"])
def test_a_task_that_has_fallen_asleep_is_put_right(shop: Database, how: str) -> None:
    async def main() -> None:
        reached, go = asyncio.Event(), asyncio.Event()

        async def write(key: str, value: str | None) -> None:
            try:
                reached.set()
                await go.wait()
            finally:  # late, also when it is cancelled
                await asyncio.to_thread(Store(shop.conninfo).write, key, value)

        change(shop.conninfo, writer_for(shop), "1", "old")
        late = AsyncDualWriter(WRITER, primary=_read_async, secondary=write, interval=3600)
        late._outbox._hold = 0.2
        if how == "stopped":
            late.start(shop.conninfo)
            running = late._task
        else:
            running = asyncio.create_task(late.run_once(shop.conninfo))  # type: ignore[arg-type]
        assert running is not None
        await reached.wait()
        await asyncio.to_thread(_overtaken, shop)
        if how == "cancelled":
            running.cancel()
        go.set()
        if how == "stopped":
            await late.stop()
        else:
            with pytest.raises((psycopg.Error, asyncio.CancelledError)):
                await running

    asyncio.run(main())
    _put_right(shop)


def test_what_cannot_be_announced_is_said(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    writer = writer_for(shop)
    writer._doubtful.add("1")
    rows(shop, "DROP TABLE zdmigrate_outbox")
    with pytest.raises(psycopg.errors.UndefinedTable):
        writer.run_once(shop.conninfo)
    assert "the other store may have an older value of '1'" in caplog.text


def test_one_that_was_not_waited_for_ends_all_the_same(shop: Database) -> None:
    paused = Paused(shop)
    writer = writer_for(shop, paused, interval=3600)
    change(shop.conninfo, writer, "1", "a")
    writer.start(shop.conninfo)
    first = writer._thread
    assert paused.reached.wait(30)
    writer.stop(0.001)
    writer.start(shop.conninfo)
    paused.go.set()
    first.join(30)
    assert not first.is_alive()
    assert writer._thread.is_alive()
    writer.stop()


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1)], ids=repr)
def test_a_thread_tries_again_when_it_is_due(shop: Database, failure: BaseException) -> None:
    calls: list[str] = []

    def write(key: str, _: str | None) -> None:
        calls.append(key)
        if len(calls) < 2:
            raise failure

    writer = writer_for(shop, write, interval=3600 if isinstance(failure, Exception) else 1)
    change(shop.conninfo, writer, "1", "a")
    writer.start(shop.conninfo)
    until(lambda: len(calls) == 2, "not only at the next look", timeout=20)
    writer.stop()
    assert left(shop) == []


def test_a_task_does_not_wait_for_a_server_for_ever(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdmigrate.app.outbox.async_writer.GRACE", 0.5)

    async def hangs(_: Any, __: str) -> None:
        await asyncio.Event().wait()

    async def nowhere() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        writer = AsyncDualWriter(WRITER, primary=hangs, secondary=hangs, timeout=0.5)
        with pytest.raises(TimeoutError):
            await writer.run_once(nowhere)
        change(shop.conninfo, writer_for(shop), "1", "a")
        assert (await writer.run_once(shop.conninfo)).failed == 1

    asyncio.run(asyncio.wait_for(main(), 60))


def test_versions_grow_with_every_delivery_of_a_key(shop: Database) -> None:
    seen: list[int] = []

    def write(key: str, value: str | None, version: int) -> None:
        seen.append(version)
        if len(seen) % 2:
            raise RuntimeError("once more")

    writer = writer_for(shop, write, versions=True, longest_pause=0.001)
    change(shop.conninfo, writer, "1", "a")
    while len(seen) < 6:
        writer.run_once(shop.conninfo)
        change(shop.conninfo, writer, "1", "a")
    assert seen == sorted(set(seen))


# When something fails


def test_a_key_that_fails_stops_no_other_and_is_tried_again(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    broken = True
    calls: list[str] = []

    def write(key: str, value: str | None) -> None:
        calls.append(key)
        if broken and key.startswith("bad"):
            raise ValueError(f"no \0{key}")
        Store(shop.conninfo).write(key, value)

    writer = writer_for(shop, write)
    keys = ["bad1", *(f"good{n}" for n in range(5)), "bad2"]
    for key in keys:
        change(shop.conninfo, writer, key, "a")
    done = writer.run_once(shop.conninfo)
    assert (done.delivered, done.failed) == (5, 2)
    assert done.error == "bad2: ValueError: no bad2"
    assert calls == keys
    assert left(shop) == ["bad1", "bad2"]
    change(shop.conninfo, writer, "bad1", "b")
    assert writer.run_once(shop.conninfo) == (0, 0, None), "it waits, also when it changes again"
    state = (
        "SELECT attempts, last_error, next_at > clock_timestamp() FROM zdmigrate_outbox WHERE attempts > 0 ORDER BY id"
    )
    assert rows(shop, state)[0] == (1, "ValueError: no bad1", True)
    assert writer.pending(shop.conninfo)[:2] == (2, 2)
    for attempt in (2, 3):
        rows(shop, "UPDATE zdmigrate_outbox SET next_at = now()")
        assert writer.run_once(shop.conninfo).failed == 2
        assert left(shop) == ["bad1", "bad2"], "one row each"
        assert [found[0] for found in rows(shop, state)] == [attempt, attempt]
    broken = False
    rows(shop, "UPDATE zdmigrate_outbox SET next_at = now()")
    assert writer.run_once(shop.conninfo) == (2, 0, None)
    assert stored(shop)["bad1"] == "b"
    assert writer.pending(shop.conninfo) == (0, 0, 0)


@pytest.mark.parametrize(("attempts", "least", "most"), [(0, 0.7, 1.3), (3, 5.9, 10.1), (40, 224, 376)])
def test_pauses_grow_and_are_bounded(shop: Database, attempts: int, least: float, most: float) -> None:
    writer = writer_for(shop, lambda *_: 1 / 0)
    change(shop.conninfo, writer, "1", "a")
    rows(shop, "UPDATE zdmigrate_outbox SET attempts = %s", attempts)
    writer.run_once(shop.conninfo)
    ((pause,),) = rows(shop, "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM zdmigrate_outbox")
    assert least - 1 < pause < most


@pytest.mark.parametrize("wrong", ["SELECT 1 / 0", "SELECT missing FROM users"])
def test_a_truth_that_cannot_be_read_is_a_failure_like_another(shop: Database, wrong: str) -> None:
    def primary(connection: Any, key: str) -> Any:
        return connection.execute(wrong) if key == "bad" else read(connection, key)

    writer = DualWriter(WRITER, primary=primary, secondary=Store(shop.conninfo).write)
    for key in ("bad", "good"):
        change(shop.conninfo, writer, key, "a")
    done = writer.run_once(shop.conninfo)
    assert (done.delivered, done.failed) == (1, 1)
    assert left(shop) == ["bad"]


def test_writers_do_not_get_into_each_others_way(shop: Database) -> None:
    cache = DualWriter("cache", primary=read, secondary=lambda *_: None)
    writer = writer_for(shop)
    for each in (cache, writer):
        change(shop.conninfo, each, "1", "a")
    assert cache.run_once(shop.conninfo).delivered == 1
    assert writer.pending(shop.conninfo).keys == 1
    assert writer.run_once(shop.conninfo).delivered == 1


# Processes


@contextmanager
def process(database: Database, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.support.outboxes", database.conninfo, *arguments], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_killed_between_the_write_and_the_commit(shop: Database) -> None:
    writer = writer_for(shop)
    change(shop.conninfo, writer, "1", "a")
    with process(shop, "hang") as first:
        assert line(first) == "written"
        assert writer.run_once(shop.conninfo) == (0, 0, None), "somebody is at it"
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        assert left(shop) == ["1"]
        until(lambda: writer.run_once(shop.conninfo).delivered, "the server has noticed", timeout=20)
    assert rows(shop, "SELECT key, value, calls FROM store") == [("1", "a", 2)]
    assert left(shop) == []


def test_processes_share_the_work_and_do_nothing_twice(shop: Database) -> None:
    writer = writer_for(shop)
    with connect(shop, autocommit=False) as connection:
        keys = [str(number) for number in range(300)]
        connection.execute("INSERT INTO users SELECT g::text, 'a' FROM generate_series(0, 299) g")
        writer.changed(connection, *keys, *keys)
        writer.changed(connection, *keys)
    with process(shop, "deliver") as one, process(shop, "deliver") as two, process(shop, "deliver") as three:
        workers = (one, two, three)
        assert [line(each) for each in workers] == ["ready"] * 3
        for each in workers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        shares = [int(line(each)) for each in workers]
    assert sum(shares) == 300
    assert min(shares) > 0
    assert rows(shop, "SELECT count(*), max(calls) FROM store") == [(300, 1)]
    assert left(shop) == []


def test_under_traffic_with_processes_that_are_killed_the_store_becomes_as_the_truth(shop: Database) -> None:
    rows(shop, "INSERT INTO users SELECT g::text, 'a' FROM generate_series(0, 2) g")
    with process(shop, "traffic", "150", "3") as one, process(shop, "traffic", "150", "3") as two:
        for _ in range(2):
            with process(shop, "traffic", "100000", "3") as victim:
                for _ in range(40):
                    assert line(victim)
                victim.send_signal(signal.SIGKILL)
        for each in (one, two):
            assert each.communicate(timeout=120)[0].split()[-1] == "149"
            assert each.returncode == 0
    writer = writer_for(shop, longest_pause=0.01)
    until(lambda: writer.run_once(shop.conninfo) and not left(shop), "everything is delivered", timeout=30)
    assert stored(shop) == dict(rows(shop, "SELECT id, name FROM users"))


# What it costs


def test_finding_the_next_key_does_not_depend_on_how_many_wait(shop: Database) -> None:
    rows(
        shop,
        "INSERT INTO zdmigrate_outbox (writer, key, attempts, next_at) SELECT 'search', g::text, g % 2,"
        " now() + CASE WHEN g % 2 = 1 THEN interval '1 h' ELSE interval '0' END FROM generate_series(1, 100000) g",
    )
    statement = Outbox(WRITER, "zdmigrate_outbox", None, hold=35, longest=300, versions=False).pick(str(time.time()))
    with connect(shop) as connection:
        for _ in range(2):  # before the table was analysed, and after
            explained = connection.execute(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.formatted}".encode(), statement.values
            )
            plan = json.dumps(explained.fetchall())
            assert "Seq Scan" not in plan
            assert '"Sort"' not in plan
            connection.execute("ANALYZE zdmigrate_outbox")
