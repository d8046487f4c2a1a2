"""An application that runs into the classics: ``python -m tests.support.classics URL`` does its work once.

Version N maps `Old`, version N+1 maps `New`. What the drivers do, the tests do with them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
from collections.abc import Callable

import asyncpg
import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

BEFORE = """
CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL, motto text);
CREATE TABLE orders (id serial PRIMARY KEY, total int NOT NULL);
CREATE TYPE state AS ENUM ('open', 'closed');
CREATE TABLE tickets (id serial PRIMARY KEY, state state NOT NULL);
CREATE TABLE keys (id serial PRIMARY KEY, code text NOT NULL, uses int NOT NULL);
CREATE UNIQUE INDEX keys_code ON keys (code);
CREATE TABLE secrets (id serial PRIMARY KEY, secret text NOT NULL);
CREATE TABLE articles (id serial PRIMARY KEY, title text);
CREATE TABLE labels (id serial PRIMARY KEY, label varchar(20));
INSERT INTO users (name) VALUES ('Anna');
INSERT INTO orders (total) VALUES (1);
INSERT INTO tickets (state) VALUES ('open');
INSERT INTO keys (code, uses) VALUES ('one', 1);
INSERT INTO secrets (secret) VALUES ('hidden');
INSERT INTO articles (title) VALUES ('first');
INSERT INTO labels (label) VALUES ('red');
"""
CHANGES = (
    "ALTER TABLE users DROP motto",
    "ALTER TABLE orders ADD tax int NOT NULL DEFAULT 0",
    "ALTER TABLE orders ALTER tax DROP DEFAULT",
    "ALTER TYPE state ADD VALUE 'merged'",
    "DROP INDEX keys_code",
    "ALTER TABLE secrets ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE articles ADD teaser text",
    "ALTER TABLE labels ALTER label TYPE text",
)
TABLES = ("users", "orders", "tickets", "keys", "secrets", "articles", "labels")
WARM = 6
"""psycopg prepares what was executed five times before."""


class Old(DeclarativeBase):
    """Version N."""


class State(enum.Enum):
    """All labels that version N knows."""

    open = 1
    closed = 2


class User(Old):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    motto: Mapped[str | None]


class Order(Old):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]


class Ticket(Old):
    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State] = mapped_column(sa.Enum(State, name="state"))


class Key(Old):
    __tablename__ = "keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]
    uses: Mapped[int]


class Secret(Old):
    __tablename__ = "secrets"

    id: Mapped[int] = mapped_column(primary_key=True)
    secret: Mapped[str]


class New(DeclarativeBase):
    """Version N+1, as far as it matters."""


class MoreStates(enum.Enum):
    """One label more."""

    open = 1
    closed = 2
    merged = 3


class NewTicket(New):
    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[MoreStates] = mapped_column(sa.Enum(MoreStates, name="state"))


UPSERT = insert(Key).values(code="one", uses=1)
UPSERT = UPSERT.on_conflict_do_update(index_elements=["code"], set_={"uses": UPSERT.excluded.uses})

QUERIES = (
    "SELECT * FROM articles AS {} WHERE id > {{}}",
    "SELECT label FROM labels AS {} WHERE id > {{}}",
)
"""The first braces are for an alias, by which a driver's statements are known, the others for its placeholder."""


def queries(driver: str) -> list[str]:
    """As the driver is given them."""
    placeholder = "%s" if driver.startswith("psycopg") else "$1"
    return [query.format(driver).format(placeholder) for query in QUERIES]


def with_psycopg(url: str, *, change: Callable[[], object] = lambda: None, cached: bool = True) -> set[str]:
    """Warm connections; the statements that fail after the change."""
    failed = set()
    options = {} if cached else {"prepare_threshold": None}
    with contextlib.ExitStack() as stack:
        warm = {}
        for query in queries(f"psycopg_{'default' if cached else 'none'}"):
            connection = warm[query] = stack.enter_context(psycopg.connect(url, autocommit=True, **options))
            for _ in range(WARM):
                connection.execute(query.encode(), (0,)).fetchall()
        change()
        for query, connection in warm.items():
            try:
                connection.execute(query.encode(), (0,)).fetchall()
            except psycopg.errors.FeatureNotSupported:
                failed.add(query.replace("%s", "$1"))
    return failed


def with_asyncpg(url: str, *, change: Callable[[], object] = lambda: None, cached: bool = True) -> set[str]:
    """Likewise. Outside of a transaction asyncpg asks again by itself; in one it cannot, and forgets all that it cached."""
    options = {} if cached else {"statement_cache_size": 0}

    async def work() -> set[str]:
        failed = set()
        warm = {
            query: await asyncpg.connect(url, **options)
            for query in queries(f"asyncpg_{'default' if cached else 'none'}")
        }
        for query, connection in warm.items():
            await connection.fetch(query, 0)
        change()
        for query, connection in warm.items():
            try:
                async with connection.transaction():
                    await connection.fetch(query, 0)
            except asyncpg.InvalidCachedStatementError:
                failed.add(query)
            await connection.close()
        return failed

    return asyncio.run(work())


def work(url: str) -> None:
    """What is recorded of version N: nobody reads mottoes."""
    for cached in (True, False):
        with_psycopg(url, cached=cached)
        with_asyncpg(url, cached=cached)
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with Session(engine) as session:
        session.scalars(sa.select(User.name)).all()
        session.scalars(sa.select(Ticket)).all()
        session.scalars(sa.select(Secret.secret)).all()
        session.execute(UPSERT)
    engine.dispose()


if __name__ == "__main__":
    work(sys.argv[1])
