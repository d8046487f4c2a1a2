"""Connections that were open before, and columns that a version ignores: with real drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.servers import Database, connect
from zdmigrate.app import IGNORED, IgnoredColumns, include_object, install
from zdmigrate.app.needs import of_metadata


@pytest.fixture
def users(database: Database) -> Database:
    with connect(database) as connection:
        connection.execute("CREATE TABLE users (id bigint PRIMARY KEY, name text, legacy text NOT NULL DEFAULT 'x')")
        connection.execute("INSERT INTO users (id, name) VALUES (1, 'a')")
    return database


def url(database: Database, driver: str) -> sa.URL:
    info: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=info["user"],
        host=info["host"],
        port=int(info["port"]),
        database=info["dbname"],
    )


CHANGES = ("ALTER TABLE users ADD COLUMN extra text", "ALTER TABLE users ALTER COLUMN id TYPE numeric")


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "plain"])
def test_psycopg_connections_survive_a_change_of_columns(users: Database, *, installed: bool) -> None:
    engine = sa.create_engine(url(users, "psycopg"), isolation_level="AUTOCOMMIT")
    if installed:
        install(engine)
    with engine.connect() as warm:
        for _ in range(10):
            warm.execute(sa.text("SELECT * FROM users")).all()
        with connect(users) as connection:
            for change in CHANGES:
                connection.execute(change.encode())
        if installed:
            assert len(warm.execute(sa.text("SELECT * FROM users")).one()) == 4
        else:
            with pytest.raises(sa.exc.NotSupportedError, match="cached plan"):
                warm.execute(sa.text("SELECT * FROM users"))
    engine.dispose()


def test_asyncpg_connections_survive_a_change_of_columns(users: Database) -> None:
    engine = create_async_engine(url(users, "asyncpg"), isolation_level="AUTOCOMMIT")
    install(engine)

    async def main() -> None:
        async with engine.connect() as warm:
            for _ in range(10):
                (await warm.execute(sa.text("SELECT * FROM users"))).all()
            await asyncio.to_thread(change)
            assert len((await warm.execute(sa.text("SELECT * FROM users"))).one()) == 4
        await engine.dispose()

    def change() -> None:
        with connect(users) as connection:
            for statement in CHANGES:
                connection.execute(statement.encode())

    asyncio.run(main())


@pytest.fixture
def recorded(users: Database) -> Iterator[tuple[sa.Engine, list[str]]]:
    engine, statements = sa.create_engine(url(users, "psycopg")), []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def record(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    yield engine, statements
    engine.dispose()


def classes(kind: str, engine: sa.Engine) -> tuple[type[Any], sa.MetaData]:
    class Base(orm.DeclarativeBase):
        pass

    if kind == "declared":

        class Declared(IgnoredColumns, Base):
            __tablename__ = "users"
            __ignored_columns__ = ("legacy",)
            id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
            name: orm.Mapped[str | None] = orm.mapped_column(sa.Text)

        return Declared, Base.metadata
    if kind == "reflected":

        class Reflected(IgnoredColumns, Base):
            __table__ = sa.Table("users", Base.metadata, autoload_with=engine)
            __ignored_columns__ = ("legacy",)

        return Reflected, Base.metadata

    class Flagged(IgnoredColumns, Base):
        __table__ = sa.Table(
            "users", Base.metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.Text),
            sa.Column("legacy", sa.Text, nullable=False, info=dict(IGNORED)),
        )  # fmt: skip

    return Flagged, Base.metadata


@pytest.mark.parametrize("kind", ["declared", "reflected", "flagged"])
def test_an_ignored_column_is_neither_loaded_nor_written_nor_dropped(
    recorded: tuple[sa.Engine, list[str]], kind: str
) -> None:
    engine, statements = recorded
    user, metadata = classes(kind, engine)
    statements.clear()
    with orm.Session(engine) as session:
        session.add(user(id=2, name="b"))
        session.commit()
        assert sorted(row.name for row in session.scalars(sa.select(user))) == ["a", "b"]
        session.execute(sa.update(user).values(name="c"))
        session.execute(sa.insert(user), [{"id": 3, "name": "d"}])
        session.commit()
    assert statements
    assert not any("legacy" in statement for statement in statements)
    assert {column.name for table in of_metadata(metadata) for column in table.columns} == {"id", "name"}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object(metadata)})
        assert compare_metadata(context, metadata) == []
        if kind == "declared":
            blind = MigrationContext.configure(connection)
            assert [change[0] for change in compare_metadata(blind, metadata)] == ["remove_column"]
