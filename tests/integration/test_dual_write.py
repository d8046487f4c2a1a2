"""`DualWrite` on a real server: whatever writes one column through SQLAlchemy, the other one follows."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, cast

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


class Person(orm.MappedAsDataclass, Base):
    """Its constructor sets every attribute."""

    __tablename__ = "dual_persons"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    name: Mapped[str | None] = mapped_column(default=None)
    title: Mapped[str | None] = mapped_column(default=None)
    city: Mapped[str] = mapped_column(default="")
    town: Mapped[str] = mapped_column(default="")


users = cast(sa.Table, User.__table__)
EMAIL = (User.user_email, User.mail)


def declared() -> list[DualWrite]:
    return [
        DualWrite(*EMAIL),
        DualWrite(User.settings, User.options),
        DualWrite(User.cents, User.price, up=lambda cents: Decimal(cents) / 100, down=lambda price: int(price * 100)),
        DualWrite(User.nick, User.handle, up="'@' || nick", down="substr(handle, 2)"),
        DualWrite(User.updated, User.modified),
        DualWrite(Manager.team, Manager.group),
        DualWrite(Person.name, Person.title),
        DualWrite(Person.city, Person.town),
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
    user.note = sa.func.upper("z")
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
    session.connection().execute(sa.update(cast(Any, alias)).where(alias.c.id == 1).values(user_email="a"))


@writes("a", "b", "d", "dx")
def _tables_that_are_other_objects(session: orm.Session) -> None:
    names = ("id", "kind", "note", "user_email", "email_address")
    light = sa.table(users.name, *(sa.column(name) for name in names))
    copy = users.to_metadata(sa.MetaData())
    connection = session.connection()
    connection.execute(sa.update(light).where(light.c.id == 1).values(user_email="a"))
    session.execute(sa.insert(light), [{"kind": "user", "email_address": "b"}])
    session.execute(sa.insert(light).values([{"kind": "user", "user_email": "c"}]))
    upsert = postgresql.insert(copy).values(id=4, kind="user", user_email="e")
    excluded = {"user_email": sa.func.left("d" + upsert.excluded.user_email, 1)}
    session.execute(upsert.on_conflict_do_update(index_elements=["id"], set_=excluded))
    rows = sa.select(light.c.kind, light.c.user_email + "x").where(light.c.id == 4)
    connection.execute(sa.insert(light).from_select(["kind", "user_email"], rows))


@writes("a", "b")
def _rows_without_names(session: orm.Session) -> None:
    width = list(users.c.keys()).index("user_email")
    rows = [(key, "user", *[None] * (width - 2), value) for key, value in ((11, "a"), (12, "b"))]
    assert len(rows[0]) < len(users.c)
    session.execute(users.insert().values(rows))


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


# What is right where not only one side is written.


def row(engine: sa.Engine, *columns: str, key: int = 1, table: str = "dual_users") -> tuple[Any, ...]:
    with engine.connect() as connection:
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE id = {key}"
        return tuple(connection.execute(sa.text(query)).one())


BOTH = ("user_email", "email_address")


def test_what_both_sides_are_set_to_stays(engine: sa.Engine, dual: list[DualWrite]) -> None:
    with orm.Session(engine) as session:
        session.add(User(id=11, user_email="a", mail="b"))
        one = found(session, 1)
        one.user_email, one.mail = "c", "d"
        session.flush()
        session.execute(sa.insert(User), [{"id": 12, "user_email": "e", "mail": "f"}])
        session.execute(sa.update(User).where(User.id == 2).values(user_email="g", mail=None))
        session.execute(users.insert(), [{"id": 13, "user_email": "h", "email_address": "i"}])
        session.execute(users.insert().values([{"id": 14, "user_email": "j", "email_address": "k"}]))
        insert = postgresql.insert(users).values(id=14)
        changed = {"user_email": "l", "email_address": "m"}
        session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))
        session.commit()
    pairs = [row(engine, *BOTH, key=key) for key in (1, 2, 11, 12, 13, 14)]
    assert pairs == [("c", "d"), ("g", None), ("a", "b"), ("e", "f"), ("h", "i"), ("l", "m")]


def test_a_side_that_is_set_to_what_it_was_has_not_changed(engine: sa.Engine, dual: list[DualWrite]) -> None:
    with orm.Session(engine) as session:
        session.connection().exec_driver_sql("UPDATE dual_users SET user_email = 'a', email_address = 'b' WHERE id = 1")
        one = found(session, 1)
        one.user_email, one.note = "a", "changed"
        session.commit()
        assert row(engine, *BOTH) == ("a", "b"), "what the new side says is not lost"
        assert (one.user_email, one.mail) == ("a", "b")
        one.user_email, one.mail = "c", "b"
        session.commit()
    assert row(engine, *BOTH) == ("c", "c")


def test_a_constructor_that_sets_everything_says_nothing_by_defaults(engine: sa.Engine, dual: list[DualWrite]) -> None:
    with orm.Session(engine) as session:
        session.add_all([Person(name="a", city="x"), Person(title="b", town="y"), Person()])
        session.commit()
    columns, table = ("name", "title", "city", "town"), "dual_persons"
    assert row(engine, *columns, key=1, table=table) == ("a", "a", "x", "x")
    assert row(engine, *columns, key=2, table=table) == ("b", "b", "y", "y")
    assert row(engine, *columns, key=3, table=table) == (None, None, "", "")


def test_values_that_change_in_place_are_followed(run: Run, dual: list[DualWrite]) -> None:
    def work(session: orm.Session) -> None:
        one = found(session, 1)
        one.settings = {"a": {"b": 1}}
        session.flush()
        assert one.options == {"a": {"b": 1}}
        one.settings["c"] = 2
        session.flush()
        assert one.options == {"a": {"b": 1}, "c": 2}
        one.options["d"] = 3
        session.flush()
        assert one.settings["d"] == 3
        one.settings["a"]["b"] = 4
        orm.attributes.flag_modified(one, "settings")
        session.flush()
        assert one.options["a"] == {"b": 4}
        session.add(User(options={"x": 1}))
        session.add(User(settings=None))

    run(work)
    assert run(broken) == []


def test_functions_convert(run: Run, dual: list[DualWrite]) -> None:
    def work(session: orm.Session) -> None:
        session.add_all([User(cents=150), User(price=Decimal("2.5")), User(cents=None)])
        one = found(session, 1)
        one.price = Decimal("9.99")
        session.flush()
        assert one.cents == 999
        session.execute(sa.insert(User), [{"cents": 1}, {"price": Decimal(3)}])
        session.execute(users.insert().values([{"cents": 7}, {"cents": 8}]))
        session.execute(users.insert().values(cents=sa.bindparam("c")), [{"c": 5}, {"c": None}])
        session.execute(sa.update(User).where(User.id == 2).values(cents=20))
        session.execute(
            sa.update(User).where(User.id == 1).values(cents=User.cents - 1, price=User.price - Decimal("0.01"))
        )
        assert (one.cents, found(session, 2).price) == (998, Decimal("0.2"))
        insert = postgresql.insert(users).values(id=2, cents=30)
        upsert = {"cents": insert.excluded.cents}
        session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=upsert))

    run(work)
    assert run(broken) == []


def test_null_as_sql_is_null_on_the_other_side(run: Run, dual: list[DualWrite]) -> None:
    def work(session: orm.Session) -> None:
        session.add_all([User(id=key, cents=100) for key in (11, 12, 13)])
        session.flush()
        session.execute(sa.update(User).where(User.id == 11).values(cents=sa.null()))
        found(session, 12).cents = sa.null()
        insert = postgresql.insert(users).values(id=13, price=sa.null())
        session.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"price": sa.null()}))

    run(work)
    assert run(broken) == []


def test_what_a_function_raises_reaches_the_caller_before_anything_is_written(engine: sa.Engine) -> None:
    def refuse(value: Any) -> Any:
        raise ValueError("no equivalent")

    dual = DualWrite(*EMAIL, up=refuse, down=refuse)
    try:
        with orm.Session(engine) as session:
            session.add(User(user_email="a"))
            with pytest.raises(ValueError, match="no equivalent"):
                session.flush()
            session.rollback()
            for statement in (users.insert().values([{"user_email": "a"}]), sa.update(User).values(user_email="a")):
                with pytest.raises(ValueError, match="no equivalent"):
                    session.execute(statement)
            with pytest.raises(ValueError, match="no equivalent"):
                session.execute(sa.insert(User), [{"user_email": "a"}])
    finally:
        dual.remove()


def test_sql_goes_into_the_statement(run: Run, dual: list[DualWrite]) -> None:
    def work(session: orm.Session) -> None:
        session.add_all([User(nick="a"), User(handle="@b"), User(nick="c%:x")])
        session.flush()
        one = found(session, 1)
        one.nick = "d"
        session.flush()
        assert one.handle == "@d"
        session.execute(sa.insert(User), [{"nick": "e"}, {"nick": "f"}])
        session.execute(users.insert(), [{"nick": "g"}, {"nick": None}, {"nick": "h"}])
        session.execute(users.insert().values([{"nick": "i"}, {"nick": "j"}]))
        session.execute(sa.update(User).where(User.id == 2).values(handle="@k"))
        assert found(session, 2).nick == "k"
        session.execute(sa.update(User).values(nick=User.nick + "x"))
        session.execute(
            users.update().where(users.c.id == sa.bindparam("row")), [{"row": 1, "nick": "y"}, {"row": 2, "nick": "z"}]
        )
        rows = sa.select(users.c.nick).where(users.c.id == 1)
        session.execute(users.insert().from_select(["nick"], rows))
        insert = postgresql.insert(users).values(id=1, nick="l")
        session.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"nick": "m" + insert.excluded.nick}))

    run(work)
    assert run(broken) == []


def test_what_an_expression_reads_besides(engine: sa.Engine) -> None:
    dual = DualWrite(User.nick, User.handle, up="nick || coalesce(note, '-')", down="left(handle, -1)")
    try:
        with orm.Session(engine) as session:
            session.add_all([User(id=11, nick="a", note="b"), User(id=12, nick="a")])
            session.flush()
            session.execute(
                users.insert(), [{"id": 13, "nick": "a", "note": "c"}, {"id": 14, "nick": "a", "note": None}]
            )
            session.execute(users.insert().values(id=15, nick="a", note="d"))
            session.execute(users.update().where(users.c.id == 15).values(nick="e"))
            session.execute(users.update().where(users.c.id == 14).values(nick="e", note="f"))
            session.commit()
        handles = [row(engine, "handle", key=key)[0] for key in range(11, 16)]
        assert handles == ["ab", "a-", "ac", "ef", "ed"]
    finally:
        dual.remove()


def test_defaults_are_called_once_for_both(run: Run, dual: list[DualWrite]) -> None:
    def work(session: orm.Session) -> list[Any]:
        session.add_all([User(), User(updated=-1), User(modified=-2)])
        session.flush()
        session.bulk_insert_mappings(sa.inspect(User), [{"note": "x"}, {"note": "y"}])
        session.execute(users.insert(), [{"note": "x"}, {"note": "y"}])
        session.execute(users.insert().values(note="z"))
        session.execute(users.insert())
        session.execute(users.insert().values([{"note": "x"}, {"note": "y"}]))
        one = found(session, 1)
        before = one.updated
        one.note = "changed"
        session.flush()
        assert one.updated == one.modified
        assert one.updated != before
        session.execute(sa.update(User).where(User.id == 1).values(note="again"))
        session.execute(users.update().where(users.c.id == sa.bindparam("row")), [{"row": 2, "note": "z"}])
        assert one.updated == one.modified
        return list(session.scalars(sa.select(User.updated)).all())

    values = run(work)
    assert run(broken) == []
    assert len(set(values)) == len(values), "each row has its own"


# What it costs, and that it can be undone.


class Heard:
    """What an engine sends: texts, and whether their compiled form was in the cache."""

    def __init__(self, engine: sa.Engine) -> None:
        self.texts: list[str] = []
        self.cached: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", self)

    def __call__(self, connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:  # noqa: FBT001
        self.texts.append(text)
        self.cached.append(context.cache_hit.name)


def test_batches_stay_batches_and_nothing_else_is_sent(engine: sa.Engine) -> None:
    heard, counts = Heard(engine), []
    for dually in (True, False):
        dual = DualWrite(*EMAIL)
        if not dually:
            dual.remove()
        heard.texts.clear()
        with orm.Session(engine) as session:
            session.add_all([User(user_email=str(number)) for number in range(500)])
            session.flush()
            for user in session.scalars(sa.select(User).where(User.user_email.is_not(None))):
                user.user_email = f"{user.user_email}x"
            session.flush()
            session.execute(sa.insert(User), [{"user_email": f"y{number}"} for number in range(500)])
            session.rollback()
        counts.append(len(heard.texts))
        dual.remove()
    assert counts[0] == counts[1]


def test_compiled_statements_are_found_again(engine: sa.Engine, dual: list[DualWrite]) -> None:
    heard = Heard(engine)

    def work(number: int) -> list[str]:
        heard.cached.clear()
        with orm.Session(engine) as session:
            session.add(User(user_email=f"a{number}"))
            session.flush()
            session.execute(users.insert().values(user_email=f"b{number}"))
            session.execute(users.insert(), [{"nick": str(number)}, {"nick": "x"}])
            session.execute(sa.update(User).where(User.id == 1).values(user_email=f"c{number}"))
            session.execute(users.update().where(users.c.id == 1).values(nick=f"d{number}", cents=number))
            session.execute(users.insert().from_select(["cents"], sa.select(users.c.cents).where(users.c.id == number)))
            insert = postgresql.insert(users).values(id=1, user_email=f"e{number}", nick="n")
            session.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"user_email": f"f{number}"}))
            session.rollback()
        return list(heard.cached)

    work(1)
    with_it = work(2)
    for one in dual:
        one.remove()
    work(3)
    assert with_it == work(4), "SQLAlchemy 2.0 caches no ON CONFLICT"
    assert with_it[:-1] == ["CACHE_HIT"] * 6


def test_rows_that_do_not_change_are_not_written(engine: sa.Engine) -> None:
    dual, heard = DualWrite(*EMAIL), Heard(engine)
    try:
        with orm.Session(engine) as session:
            one = found(session, 1)
            one.user_email = "a"
            session.commit()
            session.refresh(one)
            one.user_email = "a"
            session.flush()
            session.expire(one, ["user_email"])
            assert one.mail == "a"
            session.delete(one)
            session.commit()
    finally:
        dual.remove()
    assert [text.split()[0] for text in heard.texts].count("UPDATE") == 1


def test_the_callers_parameters_stay_his(engine: sa.Engine, dual: list[DualWrite]) -> None:
    rows = [{"user_email": "a"}, {"user_email": "b"}]
    values = [{"user_email": "c"}]
    with orm.Session(engine) as session:
        session.execute(sa.insert(User), rows)
        session.rollback()
        session.execute(users.insert(), rows)
        session.execute(users.insert().values(values))
    assert rows == [{"user_email": "a"}, {"user_email": "b"}]
    assert values == [{"user_email": "c"}]


def test_installing_twice_is_harmless_and_removing_undoes_it(engine: sa.Engine) -> None:
    calls: list[Any] = []

    def up(value: Any) -> Any:
        calls.append(value)
        return value

    dual = DualWrite(*EMAIL, up=up, down=up)
    dual.install().install()
    with orm.Session(engine) as session:
        session.add(User(user_email="a"))
        session.flush()
        assert calls == ["a"]
        dual.remove()
        dual.remove()
        session.add(User(id=11, user_email="b"))
        session.execute(users.insert().values(id=12, user_email="c"))
        session.commit()
        assert row(engine, *BOTH, key=11) == ("b", None)
        assert row(engine, *BOTH, key=12) == ("c", None)
        dual.install()
        session.execute(users.insert().values(id=13, user_email="d"))
        session.commit()
        dual.remove()
    assert row(engine, *BOTH, key=13) == ("d", "d")


def test_classes_that_are_mapped_later_or_on_one_side(engine: sa.Engine) -> None:
    dual = DualWrite(users.c.user_email, users.c.email_address)
    try:

        class Late(Base):
            __table__ = users
            __mapper_args__ = {"include_properties": ["id", "user_email"]}  # noqa: RUF012

        class Later(Base):
            __table__ = users
            __mapper_args__ = {"include_properties": ["id", "kind", "user_email", "email_address"]}  # noqa: RUF012

        with orm.Session(engine) as session:
            session.add_all([Late(id=11, user_email="a"), Later(id=12, user_email="b")])
            session.commit()
    finally:
        dual.remove()
    assert row(engine, *BOTH, key=11) == ("a", "a")
    assert row(engine, *BOTH, key=12) == ("b", "b")


def test_what_it_cannot_do_is_done_as_it_is_and_said_once(
    engine: sa.Engine, dual: list[DualWrite], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orm.Session(engine) as session:
        for _ in range(2):
            session.execute(sa.update(User).where(User.id == 1).values(cents=User.id + 5))
        session.commit()
    assert row(engine, "cents", "price") == (6, None)
    [said] = [record for record in caplog.records if record.name == "zdmigrate.app"]
    assert said.levelno == logging.WARNING
    assert "dual_users.cents is set to a SQL expression" in said.message

    def broken(*given: Any) -> Any:
        raise AttributeError("_values")

    monkeypatch.setattr("zdmigrate.app.dual.writing.rewritten", broken)
    with orm.Session(engine) as session:
        session.execute(users.update().where(users.c.id == 1).values(user_email="a"))
        session.commit()
    assert row(engine, *BOTH) == ("a", None)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_attributes_need_no_await(engine: sa.Engine, database: Database, dual: list[DualWrite], driver: str) -> None:
    async def work() -> None:
        made = create_async_engine(engine_url(database, driver))
        async with AsyncSession(made, expire_on_commit=False) as session:
            user = User(user_email="a", cents=5)
            session.add(user)
            await session.commit()
            assert (user.mail, user.price) == ("a", Decimal("0.05"))
            user.mail = "b"
            await session.flush()
            assert user.user_email == "b"
            await session.execute(sa.update(User).where(User.id == user.id).values(cents=7))
            assert user.price == Decimal("0.07")
            await session.execute(sa.update(User).values(user_email=User.user_email + "x"))
            assert user.mail == "bx"
            await session.execute(sa.update(User), [{"id": user.id, "user_email": "c"}])
            assert user.mail == "c"
            await session.commit()
        async with made.begin() as connection:
            await connection.execute(users.insert(), [{"user_email": "d"}, {"user_email": "e"}])
        await made.dispose()

    asyncio.run(work())
    with orm.Session(engine) as session:
        assert broken(session) == []
        assert emails(session) == ["c", "d", "e"]
