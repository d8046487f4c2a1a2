"""Sessions that read from replicas, with a real primary and a real replica."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.support.replicas import Replicas, paused
from zdmigrate.app import Source, replica_aware, replica_aware_async
from zdmigrate.app.routing import ReplicaRouter

WHERE = "CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END"


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "routed_users"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


@dataclasses.dataclass
class Routed:
    router: ReplicaRouter
    source: Source
    replicas: Replicas

    def where(self) -> str:
        with self.session() as session:
            return where(session)

    def session(self) -> orm.Session:
        return self.router.session_class()


def where(session: orm.Session) -> str:
    found: str = session.execute(sa.select(sa.literal_column(WHERE))).scalar_one()
    return found


@pytest.fixture
def routed(replicas: Replicas) -> Iterator[Routed]:
    engines = [sa.create_engine(server.url(driver="psycopg")) for server in (replicas.primary, replicas.replica1)]
    Base.metadata.create_all(engines[0])
    source = Source()
    router = replica_aware(engines[0], engines[1:], interval=0.1, source=source)
    made = Routed(router, source, replicas)
    until(lambda: made.where() == "replica", "the replica is fit")
    yield made
    router.close()
    Base.metadata.drop_all(engines[0])
    for engine in engines:
        engine.dispose()


def test_reads_go_to_the_replica_and_writes_to_the_primary(routed: Routed) -> None:
    with routed.session() as session:
        assert where(session) == "replica"
        session.add(User(id=1, name="a"))
        session.flush()
        assert where(session) == "primary", "it has to see what it wrote"
        assert session.get(User, 1) is not None
        session.commit()
        assert where(session) == "replica", "another transaction"
    with routed.session() as session:
        session.execute(sa.update(User).values(name="b"))
        assert where(session) == "primary"
    with routed.session() as session:
        session.execute(sa.select(User).with_for_update()).all()
        assert where(session) == "primary"
    with routed.session() as session:
        assert session.execute(sa.text(f"SELECT {WHERE}")).scalar_one() == "primary", "text may be anything"
    with routed.session() as session:
        assert session.connection().exec_driver_sql(f"SELECT {WHERE}").scalar_one() == "primary"


def test_a_replica_that_is_behind_is_not_read_from(routed: Routed) -> None:
    with paused(routed.replicas.replica1):
        with routed.session() as session:
            session.add(User(id=2, name="a"))
            session.commit()
        assert routed.where() == "replica", "within the bound"
        until(lambda: routed.where() == "primary", "it is too far behind")
        assert (routed.router.lags[0] or 0) > 1
    until(lambda: routed.where() == "replica", "it has caught up")


def test_who_is_told_of_a_phase_never_meets_a_replica_without_it(routed: Routed) -> None:
    with paused(routed.replicas.replica1):
        with routed.session() as session:
            session.execute(sa.text("ALTER TABLE routed_users ADD COLUMN extra text"))
            session.commit()
        routed.source.news += 1
        assert routed.where() == "primary", "at once, although the replica is within the bound"
        with routed.session() as session:
            assert session.execute(sa.select(sa.literal_column("extra")).select_from(User)).all() == []
    until(lambda: routed.where() == "replica", "it has replayed the phase")
    with routed.session() as session:
        assert session.execute(sa.select(sa.literal_column("extra")).select_from(User)).all() == []


def test_one_reads_what_one_wrote_where_it_is_asked_for(routed: Routed) -> None:
    with paused(routed.replicas.replica1):
        with routed.session() as session:
            session.add(User(id=3, name="mine"))
            session.commit()
            mark = routed.router.written(session)
        assert routed.where() == "replica"
        with routed.router.at_least(mark):
            assert routed.where() == "primary"
        with routed.router.on_primary():
            assert routed.where() == "primary"
        assert routed.where() == "replica"

    def mine() -> str:
        with routed.router.at_least(mark):
            return routed.where()

    until(lambda: mine() == "replica", "it has replayed it")


def test_one_that_cannot_be_connected_to_is_passed_over(replicas: Replicas) -> None:
    primary = sa.create_engine(replicas.primary.url(driver="psycopg"))
    there = sa.create_engine(replicas.replica1.url(driver="psycopg"))
    router = replica_aware(primary, [there], interval=0.1, source=Source())
    made = Routed(router, Source(), replicas)
    until(lambda: made.where() == "replica", "it is fit")
    there.dispose()

    @sa.event.listens_for(there, "do_connect")
    def refuse(*_: Any) -> None:
        raise OSError("no route to host")

    assert made.where() == "primary"
    router.close()
    primary.dispose()


def test_a_primary_is_no_replica(replicas: Replicas) -> None:
    primary = sa.create_engine(replicas.primary.url(driver="psycopg"))
    router = replica_aware(primary, [sa.create_engine(primary.url)], interval=0.05, source=Source())
    until(lambda: len(router._watch._positions) > 2, "it has looked at both, twice")
    assert list(router.fit()) == []
    router.close()
    primary.dispose()


def test_a_closed_router_reads_from_the_primary(routed: Routed) -> None:
    routed.router.close()
    assert routed.where() == "primary"


def test_a_forked_process_looks_by_itself(routed: Routed) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            routed.router._watch.view = dataclasses.replace(routed.router._watch.view, until=float("-inf"))
            end = time.monotonic() + 20
            while not list(routed.router.fit()) and time.monotonic() < end:
                time.sleep(0.01)
            os.write(writing, b"fit" if list(routed.router.fit()) else b"unfit")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"fit"
    assert routed.where() == "replica"


@pytest.mark.parametrize("driver", ["psycopg_async", "asyncpg"])
def test_async_sessions_do_the_same(replicas: Replicas, driver: str) -> None:
    async def main() -> None:
        engines = [
            create_async_engine(sa.make_url(server.url(driver="psycopg")).set(drivername=f"postgresql+{driver}"))
            for server in (replicas.primary, replicas.replica1)
        ]
        async with engines[0].begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        router = await replica_aware_async(engines[0], engines[1:], interval=0.1, source=Source())
        sessions = async_sessionmaker(class_=AsyncSession, sync_session_class=router.session_class)
        query: sa.Select[Any] = sa.select(sa.literal_column(WHERE))

        async def where() -> str:
            async with sessions() as session:
                found: str = (await session.execute(query)).scalar_one()
                return found

        await asyncio.to_thread(until, lambda: list(router.fit()), "it is fit")
        assert await where() == "replica"
        async with sessions() as session:
            session.add(User(id=9, name="a"))
            await session.flush()
            assert (await session.execute(query)).scalar_one() == "primary"
            await session.commit()
            assert await session.run_sync(router.written) > 0
        await router.close()
        assert await where() == "primary"
        async with engines[0].begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        for engine in engines:
            await engine.dispose()

    asyncio.run(main())


def test_choosing_takes_no_time(routed: Routed) -> None:
    statement = sa.select(User)
    session = routed.session()
    assert where(session) == "replica"
    number = 2000
    again = min(timeit.repeat(lambda: session.get_bind(clause=statement), number=number, repeat=5)) / number
    first = min(timeit.repeat(lambda: next(routed.router.fit()), number=number, repeat=5)) / number
    assert again + first < 20e-6
    session.close()
