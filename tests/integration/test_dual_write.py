"""`DualWrite` on a real server: whatever writes one column through SQLAlchemy, the other one follows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg.conninfo
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, mapped_column

from tests.support.servers import Database
from zdmigrate.app import DualWrite


class Base(orm.DeclarativeBase):
    pass


_ticks = itertools.count(1)


class User(Base):
    __tablename__ = "dual_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="user")
    note: Mapped[str | None]
    user_email: Mapped[str | None] = mapped_column(unique=True)
    mail: Mapped[str | None] = mapped_column("email_address", sa.Text, unique=True)
    settings: Mapped[Any] = mapped_column(MutableDict.as_mutable(postgresql.JSONB), nullable=True)
    options: Mapped[Any] = mapped_column(MutableDict.as_mutable(postgresql.JSONB), nullable=True)
    cents: Mapped[int | None]
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    nick: Mapped[str | None]
    handle: Mapped[str | None]
    updated: Mapped[int | None] = mapped_column(default=lambda: next(_ticks), onupdate=lambda: next(_ticks))
    modified: Mapped[int | None] = mapped_column(default=lambda: next(_ticks), onupdate=lambda: next(_ticks))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user"}  # noqa: RUF012


class Robot(User):
    """In the same table."""

    __mapper_args__ = {"polymorphic_identity": "robot"}  # noqa: RUF012


class Manager(User):
    """In a table of its own as well, which has a pair, too."""

    __tablename__ = "dual_managers"
    id: Mapped[int] = mapped_column(sa.ForeignKey("dual_users.id"), primary_key=True)
    team: Mapped[str | None]
    group: Mapped[str | None] = mapped_column("team_name")
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Other(Base):
    __tablename__ = "dual_others"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]


users = User.__table__
assert isinstance(users, sa.Table)
EMAIL = (User.user_email, User.mail)


def declared() -> list[DualWrite]:
    return [
        DualWrite(*EMAIL),
        DualWrite(User.settings, User.options),
        DualWrite(User.cents, User.price, up=lambda cents: Decimal(cents) / 100, down=lambda price: int(price * 100)),
        DualWrite(User.nick, User.handle, up="'@' || nick", down="substr(handle, 2)"),
        DualWrite(User.updated, User.modified),
        DualWrite(Manager.team, Manager.group),
    ]


@pytest.fixture
def dual() -> Iterator[list[DualWrite]]:
    made = declared()
    yield made
    for one in made:
        one.remove()


Work = Callable[[orm.Session], Any]
Run = Callable[[Work], Any]


def engine_url(database: Database, driver: str) -> sa.URL:
    parts = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    return sa.URL.create(
        f"postgresql+{driver}", username=str(parts["user"]), database=database.name,
        query={"host": str(parts["host"]), "port": str(parts["port"])},
    )  # fmt: skip


@pytest.fixture
def engine(database: Database) -> Iterator[sa.Engine]:
    """Two rows are there, empty."""
    made = sa.create_engine(engine_url(database, "psycopg"))
    Base.metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(sa.text("INSERT INTO dual_users (kind) VALUES ('user'), ('user')"))
    yield made
    made.dispose()


@pytest.fixture(params=["psycopg", "psycopg_async", "asyncpg"])
def run(request: pytest.FixtureRequest, engine: sa.Engine, database: Database) -> Run:
    """Runs something with a session, and commits: over this driver, by an `AsyncSession` where it is asynchronous."""

    def sync(work: Work) -> Any:
        with orm.Session(engine, expire_on_commit=False) as session:
            found = work(session)
            session.commit()
            return found

    async def in_a_loop(work: Work) -> Any:
        made = create_async_engine(engine_url(database, request.param))
        async with AsyncSession(made, expire_on_commit=False) as session:
            found = await session.run_sync(work)
            await session.commit()
        await made.dispose()
        return found

    return sync if request.param == "psycopg" else lambda work: asyncio.run(in_a_loop(work))


BROKEN = {
    "email": "user_email IS DISTINCT FROM email_address",
    "settings": "settings IS DISTINCT FROM options",
    "price": "price IS DISTINCT FROM cents / 100.0",
    "nick": "handle IS DISTINCT FROM '@' || nick",
    "updated": "updated IS DISTINCT FROM modified",
    "team": "team IS DISTINCT FROM team_name",
}


def broken(session: orm.Session) -> list[Any]:
    """Rows whose sides disagree, by pair."""
    joined = "dual_users LEFT JOIN dual_managers USING (id)"
    return [
        (pair, tuple(row))
        for pair, condition in BROKEN.items()
        for row in session.execute(sa.text(f"SELECT * FROM {joined} WHERE {condition}"))
    ]


def emails(session: orm.Session) -> list[Any]:
    """The new side of all rows but the empty ones."""
    query = "SELECT email_address FROM dual_users WHERE email_address IS NOT NULL ORDER BY id"
    return list(session.execute(sa.text(query)).scalars())


def found(session: orm.Session, key: int) -> User:
    user = session.get(User, key)
    assert user is not None
    return user


WRITES: dict[str, tuple[Work, list[str]]] = {}


def writes(*expected: str) -> Callable[[Work], Work]:
    """One way to write `user_email`, and what `email_address` is then."""

    def noted(work: Work) -> Work:
        WRITES[work.__name__.strip("_")] = (work, list(expected))
        return work

    return noted


# Objects.


@writes("a", "b", "c")
def _constructor(session: orm.Session) -> None:
    session.add_all([User(user_email="a"), User(mail="b"), User(user_email="c", note="x")])


@writes("a")
def _attribute(session: orm.Session) -> None:
    user = found(session, 1)
    user.user_email = "a"
    session.flush()
    assert user.mail == "a"


@writes("a")
def _new_attribute(session: orm.Session) -> None:
    user = found(session, 1)
    user.mail = "a"
    session.flush()
    assert user.user_email == "a"


@writes("c", "a")
def _changed_twice_and_swapped(session: orm.Session) -> None:
    one, two = found(session, 1), found(session, 2)
    one.user_email = "a"
    session.flush()
    one.mail = "b"
    session.flush()
    one.user_email = "c"
    session.flush()
    two.mail = "a"
    session.flush()
    assert (one.mail, two.user_email) == ("c", "a")


@writes()
def _set_to_none(session: orm.Session) -> None:
    user = found(session, 1)
    user.user_email = "a"
    session.flush()
    user.mail = None
    session.flush()
    assert user.user_email is None


@writes("a")
def _merged(session: orm.Session) -> None:
    session.merge(User(id=1, user_email="a"))


@writes("a")
def _expired_and_refreshed(session: orm.Session) -> None:
    user = found(session, 1)
    session.expire(user)
    user.user_email = "a"
    session.flush()
    session.refresh(user)
    assert user.mail == "a"


@writes("a", "b")
def _subclasses(session: orm.Session) -> None:
    session.add_all([Robot(user_email="a"), Manager(mail="b", team="red")])
    session.flush()
    session.scalars(sa.select(Manager)).one().group = "blue"


@writes("x")
def _sql_in_attributes(session: orm.Session) -> None:
    session.add(User(id=3, user_email=sa.func.lower("X")))
    session.flush()
    user = found(session, 1)
    user.note = sa.func.upper("z")  # type: ignore[assignment]
    session.flush()


@writes("a")
def _replaced(session: orm.Session) -> None:
    """Deleted and added within one flush is one UPDATE."""
    user = found(session, 1)
    session.delete(user)
    session.add(User(id=1, user_email="a"))


# In bulk.


@writes("a", "b")
def _bulk_save(session: orm.Session) -> None:
    one = found(session, 1)
    with session.no_autoflush:
        one.user_email = "a"
        session.bulk_save_objects([one, User(id=3, user_email="b")])
        session.expire_all()


@writes("a", "b")
def _bulk_insert_mappings(session: orm.Session) -> None:
    session.bulk_insert_mappings(sa.inspect(User), [{"user_email": "a"}, {"mail": "b", "note": "x"}])


@writes("a", "b")
def _bulk_update_mappings(session: orm.Session) -> None:
    session.bulk_update_mappings(sa.inspect(User), [{"id": 1, "user_email": "a"}, {"id": 2, "mail": "b"}])


@writes("a", "b", "c", "d")
def _insert_dicts(session: orm.Session) -> None:
    session.execute(sa.insert(User), [{"user_email": "a"}, {"user_email": "b", "mail": None}])
    session.execute(sa.insert(User), [{"mail": "c"}])
    session.execute(sa.insert(User), {"user_email": "d"})


@writes("a", "b")
def _insert_dicts_returning(session: orm.Session) -> None:
    made = session.scalars(sa.insert(User).returning(User), [{"user_email": "a"}, {"user_email": "b"}]).all()
    assert sorted(str(user.mail) for user in made) == ["a", "b"]


@writes("a")
def _insert_dicts_of_a_subclass(session: orm.Session) -> None:
    session.execute(sa.insert(Manager), [{"user_email": "a", "group": "red"}])


@writes("a", "b", "c")
def _insert_values(session: orm.Session) -> None:
    session.execute(sa.insert(User).values(user_email="a"))
    session.execute(sa.insert(User).values({User.mail: "b"}))
    session.execute(sa.insert(User).values(user_email=sa.func.lower("C"), mail=None))


@writes("a", "b")
def _insert_values_of_many(session: orm.Session) -> None:
    session.execute(sa.insert(User).values([{"user_email": "a"}, {"user_email": "b"}]))


@writes("ax", "bx")
def _update_values(session: orm.Session) -> None:
    one, two = found(session, 1), found(session, 2)
    session.execute(sa.update(User).where(User.id == 1).values(user_email="a"))
    session.execute(sa.update(User).where(User.id == 2).values({User.mail: "b"}))
    assert (one.mail, two.user_email) == ("a", "b")
    session.execute(sa.update(User).values(user_email=User.user_email + "x"))
    assert (one.mail, two.mail) == ("ax", "bx")


@writes("a", "a")
def _update_values_fetched(session: orm.Session) -> None:
    session.connection().exec_driver_sql("ALTER TABLE dual_users DROP CONSTRAINT dual_users_user_email_key")
    session.connection().exec_driver_sql("ALTER TABLE dual_users DROP CONSTRAINT dual_users_email_address_key")
    one = found(session, 1)
    statement = sa.update(User).where(User.id > 0).values(user_email=sa.func.lower("A"))
    session.execute(statement, execution_options={"synchronize_session": "fetch"})
    session.refresh(one)
    assert one.mail == "a"


@writes("a")
def _update_returning(session: orm.Session) -> None:
    statement = sa.update(User).where(User.id == 1).values(user_email="a").returning(User)
    assert session.scalars(statement).one().mail == "a"


@writes("a", "b")
def _update_by_key(session: orm.Session) -> None:
    one = found(session, 1)
    session.execute(sa.update(User), [{"id": 1, "user_email": "a"}, {"id": 2, "mail": "b"}])
    assert one.mail == "a"


@writes("a")
def _query_update(session: orm.Session) -> None:
    session.query(User).filter(User.id == 1).update({"user_email": "a"})


# Core.


@writes("a", "b", "c", "d")
def _core_insert(session: orm.Session) -> None:
    connection = session.connection()
    connection.execute(users.insert().values(user_email="a"))
    connection.execute(users.insert(), {"user_email": "b"})
    connection.execute(users.insert(), [{"user_email": "c"}, {"user_email": "d"}])


@writes("a", "b", "c")
def _core_insert_of_the_new_one(session: orm.Session) -> None:
    connection = session.connection()
    connection.execute(users.insert().values(email_address="a"))
    connection.execute(users.insert().values({users.c.email_address: "b"}))
    session.execute(users.insert(), {"email_address": "c"})


@writes("a", "b", "c")
def _core_insert_many(session: orm.Session) -> None:
    session.execute(users.insert().values([{"user_email": "a"}, {"user_email": "b"}]))
    session.execute(users.insert().values([{users.c.email_address: "c", "note": sa.func.lower("N")}]))


@writes("a", "b")
def _core_insert_by_name(session: orm.Session) -> None:
    statement = users.insert().values(user_email=sa.bindparam("e"))
    session.execute(statement, [{"e": "a"}, {"e": "b"}])


@writes("a", "c")
def _core_insert_with_nulls(session: orm.Session) -> None:
    rows = [{"user_email": "a", "email_address": None}, {"user_email": None, "email_address": "c"}]
    session.connection().execute(users.insert(), rows)


@writes("a", "b", "ax", "bx")
def _core_insert_from_select(session: orm.Session) -> None:
    session.execute(users.update().where(users.c.id == 1).values(user_email="a"))
    session.execute(users.update().where(users.c.id == 2).values(user_email="b"))
    rows = sa.select(users.c.user_email + "x").where(users.c.user_email.is_not(None)).order_by(users.c.id)
    session.execute(users.insert().from_select(["user_email"], rows))


@writes("a", "bx")
def _core_update(session: orm.Session) -> None:
    connection = session.connection()
    by_id = users.c.id == sa.bindparam("row")
    connection.execute(users.update().where(by_id), [{"row": 1, "user_email": "a"}, {"row": 2, "user_email": "b"}])
    connection.execute(users.update().where(by_id).values(email_address=users.c.user_email + "x"), {"row": 2})


@writes("a", "b")
def _core_update_in_order(session: orm.Session) -> None:
    values = ((users.c.note, "n"), (users.c.user_email, "a"))
    session.connection().execute(users.update().where(users.c.id == 1).ordered_values(*values))
    session.execute(sa.update(User).where(User.id == 2).ordered_values((User.note, "n"), (User.mail, "b")))


@writes("c", "b", "dx")
def _upserts(session: orm.Session) -> None:
    insert = postgresql.insert(users)
    upsert = insert.on_conflict_do_update(index_elements=["id"], set_={"user_email": insert.excluded.user_email})
    session.execute(upsert.values(id=1, user_email="a"))
    session.execute(upsert, [{"id": 1, "user_email": "c"}, {"id": 2, "user_email": "b"}])
    of_class = postgresql.insert(User).values(id=3, user_email="d")
    session.execute(of_class)
    changed = {User.mail: User.mail + "x"}
    session.execute(of_class.on_conflict_do_update(index_elements=[User.id], set_=changed))
    session.execute(of_class.on_conflict_do_nothing())


@writes("plain")
def _upsert_to_a_value(session: orm.Session) -> None:
    insert = postgresql.insert(users).values(id=1, note="n")
    session.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"user_email": "plain"}))


@writes("a")
def _aliased_table(session: orm.Session) -> None:
    alias = users.alias("u")
    session.connection().execute(sa.update(alias).where(alias.c.id == 1).values(user_email="a"))


@pytest.mark.parametrize("name", WRITES)
def test_the_other_side_follows(run: Run, dual: list[DualWrite], name: str, caplog: pytest.LogCaptureFixture) -> None:
    work, expected = WRITES[name]
    run(work)
    assert run(broken) == []
    assert run(emails) == expected
    assert caplog.messages == []


@pytest.mark.parametrize("name", WRITES)
def test_without_it_the_sides_disagree(engine: sa.Engine, name: str) -> None:
    """What the tests above prove anything by."""
    work, _ = WRITES[name]
    with orm.Session(engine) as session:
        try:
            work(session)
            session.commit()
        except AssertionError:
            return
        assert broken(session) or name == "set_to_none"
