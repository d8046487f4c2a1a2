"""What the application does, by driver."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from typing import Any

import sqlalchemy as sa
from shop.models import Base, Employee, Order, Person
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

URL = os.environ["DATABASE_URL"]
SECRET = "secret"


def url(driver: str) -> str:
    """The database's, for SQLAlchemy."""
    return URL.replace("postgresql://", f"postgresql+{driver}://")


def pg8000_engine() -> sa.Engine:
    """It has a parameter of its own for sockets."""
    found = sa.make_url(URL)
    socket = f"{found.query['host']}/.s.PGSQL.{found.query['port']}"
    return sa.create_engine(f"postgresql+pg8000://postgres@/{found.database}", connect_args={"unix_sock": socket})


def setup() -> None:
    """The schema."""
    engine = sa.create_engine(url("psycopg"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    engine.dispose()


def orm(driver: str) -> None:
    """Sessions: unit of work, upsert, lists, raw text."""
    engine = pg8000_engine() if driver == "pg8000" else sa.create_engine(url(driver))
    with Session(engine) as session:
        session.add_all([Person(email=f"{driver}{n}@example.org") for n in range(3)])
        session.add(Employee(email=f"{driver}@example.org", nick="x" * 30))
        session.flush()
        ids = session.scalars(sa.select(Person.id).where(Person.email.in_(["a", "b", "c"]))).all()
        session.scalars(sa.select(Person).where(Person.id.in_([1, 2]))).all()
        session.execute(insert(Person).values(email="a", kind="person").on_conflict_do_nothing())
        session.execute(sa.text(f"SELECT email FROM people WHERE nick = '{SECRET}' AND id > 123456"))
        session.add(
            Order(person_id=session.scalars(sa.select(Person.id)).first() or len(ids), code="c", tags=["a", "b"])
        )
        session.flush()
        session.rollback()
    engine.dispose()


async def orm_async(driver: str) -> None:
    """The same, on an async engine."""
    engine = create_async_engine(url(driver))
    async with AsyncSession(engine) as session:
        session.add(Person(email=f"async-{driver}"))
        await session.flush()
        await session.execute(sa.select(Person.email).where(Person.id == 70_000))
        await session.rollback()
    await engine.dispose()


def psycopg3() -> None:
    """psycopg without anything."""
    import psycopg

    with psycopg.connect(URL) as connection:
        connection.execute("SELECT id FROM people WHERE email = %(who)s OR nick = %(who)s", {"who": "wé"})
        for value in (1, 70_000, None):
            connection.execute("SELECT email FROM people WHERE id = %s", [value])
        connection.execute("SELECT email FROM people WHERE id = ANY(%s)", [[1, 2, 3]])
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO people (kind, email) VALUES (%s, %s)", [("person", "p1"), ("person", "p22")]
            )
            list(cursor.stream("SELECT kind FROM people"))
            with cursor.copy("COPY people (kind, email) FROM STDIN") as copy:
                copy.write_row(("person", "copied"))
            with cursor.copy("COPY (SELECT nick FROM people WHERE kind = %s) TO STDOUT", [SECRET]) as copy:
                list(copy)
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(CLIENT, CLIENT_VALUES)
        with psycopg.RawCursor(connection) as cursor:
            cursor.execute("SELECT nick FROM people WHERE id = $1", [5])
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT email, nick FROM people WHERE kind = %s", ["person"])
            cursor.fetchall()
        connection.rollback()
        connection.prepare_threshold = None
        connection.execute("SELECT id, nick FROM people")


CLIENT = "SELECT id + %s FROM people WHERE email = %s AND now() > now() - interval %s"
CLIENT_VALUES = (7, SECRET, "1 day")


async def psycopg3_async() -> None:
    """The same, async."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(URL) as connection:
        await connection.execute("SELECT kind, nick FROM people WHERE email = %s", ["async"])


def psycopg2() -> None:
    """psycopg2 without anything."""
    import psycopg2
    import psycopg2.extras

    connection = psycopg2.connect(URL, cursor_factory=psycopg2.extras.DictCursor)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id AS two FROM people WHERE email IN %s AND id < %s", (("a", "b"), 5))
        cursor.execute("SELECT kind AS two FROM people WHERE email = %(who)s OR nick = %(who)s", {"who": None})
        rows = [("person", f"v{n}", 1000 + n) for n in range(30)]
        psycopg2.extras.execute_values(cursor, "INSERT INTO people (kind, email, id) VALUES %s", rows, page_size=7)
        cursor.executemany("UPDATE people SET nick = %s WHERE email = %s", iter([("n", "v1"), ("nn", "v2")]))
        cursor.copy_expert("COPY people (email) TO STDOUT", io.StringIO())
        cursor.copy_from(io.StringIO("person\tfrom2\n"), "people", columns=("kind", "email"))
        assert cursor.execute("SELECT 1 AS one") is None
        assert cursor.fetchone()["one"] == 1
        connection.rollback()
    connection.close()


async def asyncpg() -> None:
    """asyncpg without anything."""
    import asyncpg

    connection = await asyncpg.connect(URL)
    await connection.fetch("SELECT id AS apg FROM people WHERE email = $1", "abc")
    await connection.execute("UPDATE people SET nick = 'x' WHERE email = 'nobody'")
    statement = await connection.prepare("SELECT nick AS apg FROM people WHERE id = ANY($1)")
    await statement.fetch([1, 2, 3, 4])
    async with connection.transaction():
        async for _ in connection.cursor("SELECT kind AS apg FROM people WHERE id > $1", 3):
            pass
    await connection.executemany("UPDATE people SET nick = $1 WHERE email = $2", [("a", "b"), (None, "longer")])
    await connection.copy_records_to_table("people", records=[("person", "apg")], columns=["kind", "email"])
    await connection.copy_from_query("SELECT email AS apg FROM people WHERE kind = $1", SECRET, output=io.BytesIO())
    await connection.execute("DELETE FROM people WHERE email = $1", "apg")
    await connection.close()
    connection = await asyncpg.connect(URL, statement_cache_size=0)
    await connection.fetch("SELECT email AS uncached FROM people WHERE id = $1", 4)
    await connection.close()


WORK: dict[str, Any] = {
    "setup": setup,
    "psycopg": psycopg3,
    "psycopg_async": lambda: asyncio.run(psycopg3_async()),
    "psycopg2": psycopg2,
    "asyncpg": lambda: asyncio.run(asyncpg()),
    "orm": lambda: orm("psycopg"),
    "orm_psycopg2": lambda: orm("psycopg2"),
    "orm_pg8000": lambda: orm("pg8000"),
    "orm_async": lambda: asyncio.run(orm_async("psycopg")),
    "orm_asyncpg": lambda: asyncio.run(orm_async("asyncpg")),
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        WORK[name]()
