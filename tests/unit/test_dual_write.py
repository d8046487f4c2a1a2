"""What `DualWrite` takes from a migration, what it refuses, and values for statements by hand."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from zdmigrate.app import IGNORED, DualWrite

HEAD = "import sqlalchemy as sa\nfrom zdmigrate import *\n"
RENAME = 'RenameColumn("users", "user_email", "email_address")'


class Declaring:
    """Declares, and takes back at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, list[DualWrite]()

    def file(self, name: str, *changes: str, sync: str = "app") -> None:
        (self.folder / f"{name}.py").write_text(f"{HEAD}migration = Migration({', '.join(changes)}, sync={sync!r})\n")

    def of(self, *changes: str, metadata: sa.MetaData, name: str = "0001_email", **options: Any) -> DualWrite:
        if changes:
            self.file("0001_email", *changes)
        dual = DualWrite.of(name, metadata=metadata, folder=self.folder, **options)
        self.made.append(dual)
        return dual

    def new(self, *given: Any, **options: Any) -> DualWrite:
        dual = DualWrite(*given, **options)
        self.made.append(dual)
        return dual


@pytest.fixture
def declaring(tmp_path: Path) -> Iterator[Declaring]:
    made = Declaring(tmp_path)
    yield made
    for dual in made.made:
        dual.remove()


def models(*columns: sa.Column[Any], schema: str | None = None) -> sa.MetaData:
    metadata = sa.MetaData()
    given = columns or (sa.Column("user_email", sa.String), sa.Column("email_address", sa.Text))
    sa.Table("users", metadata, sa.Column("id", sa.Integer, primary_key=True), *given, schema=schema)
    return metadata


def test_a_rename(declaring: Declaring) -> None:
    dual = declaring.of(RENAME, metadata=models())
    assert [(old.name, new.name) for old, new in dual.columns] == [("user_email", "email_address")]
    assert repr(dual) == "DualWrite(users.user_email and email_address)"
    assert dual.values({"user_email": "x", "name": "n"}) == {"user_email": "x", "email_address": "x", "name": "n"}
    assert dual.values({"email_address": None}) == {"user_email": None, "email_address": None}
    assert dual.values({"user_email": "x", "email_address": "y"}) == {"user_email": "x", "email_address": "y"}
    assert dual.values({"name": "n"}) == {"name": "n"}
    assert dual.values({"user_email": "x"}, table="orders") == {"user_email": "x"}


def test_the_beginning_of_an_id_and_a_schema(declaring: Declaring) -> None:
    change = 'RenameColumn("users", "user_email", "email_address", schema="shop")'
    assert declaring.of(change, metadata=models(schema="shop"), name="0001").columns
    assert declaring.of(metadata=models()).columns, "without a schema the search path finds it"
    with pytest.raises(ValueError, match=r"changes shop\.users, and the metadata has no such table"):
        declaring.of(metadata=models(schema="other"))


def test_several_pairs(declaring: Declaring) -> None:
    columns = [sa.Column(name, sa.Integer) for name in ("a", "b", "c", "d")]
    changes = ('RenameColumn("users", "a", "b")', 'RenameColumn("users", "c", "d")')
    dual = declaring.of(*changes, metadata=models(*columns))
    assert dual.values({"a": 1, "d": 2}) == {"a": 1, "b": 1, "c": 2, "d": 2}


@pytest.mark.parametrize("first", [True, False], ids=["renamed first", "renamed last"])
def test_another_type_under_a_name_of_its_own(declaring: Declaring, first: bool) -> None:  # noqa: FBT001
    def metadata() -> sa.MetaData:
        return models(sa.Column("code", sa.Text), sa.Column("number", sa.Integer))

    type_ = f'ChangeType("users", "{"number" if first else "code"}", sa.Integer())'
    rename = 'RenameColumn("users", "code", "number")'
    dual = declaring.of(*((rename, type_) if first else (type_, rename)), metadata=metadata())
    with pytest.raises(ValueError, match=r"only SQL is known for users\.number: give a Python function"):
        dual.values({"code": "1"})
    given = declaring.of(metadata=metadata(), up={"number": int}, down={"code": str})
    assert given.values({"code": "1"}) == {"code": "1", "number": 1}
    assert given.values({"number": 1}) == {"code": "1", "number": 1}
    assert given.values({"code": None}) == {"code": None, "number": None}, "int() cannot take it"


def test_a_wider_type_is_the_same_in_python(declaring: Declaring) -> None:
    columns = sa.Column("old", sa.Integer), sa.Column("new", sa.BigInteger)
    changes = ('RenameColumn("users", "old", "new")', 'ChangeType("users", "new", sa.BigInteger())')
    assert declaring.of(*changes, metadata=models(*columns)).values({"old": 1}) == {"old": 1, "new": 1}


def compiled(dual: DualWrite, statement: Any) -> str:
    """As it is sent."""
    made, _, _ = dual._before_execute(None, statement, [], {}, {})  # type: ignore[arg-type]
    return " ".join(str(made).split())


def test_sql_of_the_migration_is_over_the_old_shape(declaring: Declaring) -> None:
    columns = [sa.Column(name, sa.Text) for name in ("a", "b", "c", "d")]
    changes = (
        'RenameColumn("users", "c", "d")',
        'ChangeType("users", "a", sa.Text(), up="a || d", down="left(a, 1)")',
        'RenameColumn("users", "a", "b")',
    )
    metadata = models(*columns)
    dual, users = declaring.of(*changes, metadata=metadata), metadata.tables["users"]
    assert compiled(dual, users.update().values(a="x")) == (
        "UPDATE users SET a=:a, b=(CAST(:param_1 AS TEXT) || users.c)"
    )
    assert compiled(dual, users.update().values(b="x")) == "UPDATE users SET a=(left(CAST(:param_1 AS TEXT), 1)), b=:b"
    assert compiled(dual, users.insert().values(a="x", c="y")) == (
        "INSERT INTO users (a, b, c, d) VALUES (:a, (CAST(:param_1 AS TEXT) || CAST(:param_2 AS TEXT)), :c, :d)"
    )
    assert compiled(dual, users.insert().values(a="x")) == (
        "INSERT INTO users (a, b) VALUES (:a, (CAST(:param_1 AS TEXT) || CAST(NULL AS TEXT)))"
    )


def test_what_an_expression_reads_may_have_a_default_that_nobody_knows(
    declaring: Declaring, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = models(sa.Column("a", sa.Text), sa.Column("b", sa.Text), sa.Column("c", sa.Text, server_default="x"))
    users = metadata.tables["users"]
    dual = declaring.new(users.c.a, users.c.b, up="a || c", down="left(b, 1)")
    assert compiled(dual, users.insert().values(a="x")) == "INSERT INTO users (a) VALUES (:a)"
    [said] = caplog.messages
    assert said.startswith(
        "a statement writes only one side of DualWrite(users.a and b): users.b is computed from c as well"
    )


@pytest.mark.parametrize(
    ("changes", "columns", "options", "message"),
    [
        ([RENAME], [sa.Column("user_email", sa.Text)], {}, "users has no email_address: map it as well"),
        (['AddColumn("users", sa.Column("x", sa.Text))'], [], {}, "has no two columns side by side"),
        (['ChangeType("users", "id", sa.BigInteger())'], [], {}, "another type under the same name: no version can write both"),
        ([RENAME], [], {"up": {"user_email": str}}, "has no pair for user_email: up= goes by new names, down= by old ones"),
        (
            [RENAME, 'ChangeType("users", "email_address", sa.Integer())', 'SetNotNull("users", "email_address", backfill="0")'],
            [], {}, "say what becomes of values",
        ),
        ([RENAME, "nonsense"], [], {}, "0001_email.py:3: NameError"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_when_it_is_declared(
    declaring: Declaring, changes: list[str], columns: list[sa.Column[Any]], options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        declaring.of(*changes, metadata=models(*columns), **options)


def test_where_triggers_do_the_work_there_is_nothing_to_do(declaring: Declaring) -> None:
    declaring.file("0002_other", RENAME, sync="trigger")
    with pytest.raises(
        ValueError, match='0002_other has sync="trigger": the database\'s triggers keep both shapes equal'
    ):
        declaring.of(metadata=models(), name="0002")
    with pytest.raises(ValueError, match="there is no migration '0003'"):
        declaring.of(metadata=models(), name="0003")
    with pytest.raises(ValueError, match="there is no migrations directory"):
        DualWrite.of("0001", metadata=models(), folder=declaring.folder / "none")


def test_columns_that_nobody_can_write(declaring: Declaring) -> None:
    metadata = models(
        sa.Column("a", sa.Integer),
        sa.Column("ignored", sa.Integer, info=dict(IGNORED)),
        sa.Column("generated", sa.Integer, sa.Computed("a + 1")),
        sa.Column("numbered", sa.Integer, sa.Identity()),
    )
    users = metadata.tables["users"].c
    other = models().tables["users"].c
    for new, message in (
        (users.ignored, "is ignored"),
        (users.generated, "is a generated column"),
        (users.numbered, "is numbered by the server"),
        (users.id, "is numbered by the server"),
        (users.a, "must be two columns of one table"),
        (other.user_email, "must be two columns of one table"),
        ("a", "'a' is neither an attribute that maps a column nor a column of a table"),
    ):
        with pytest.raises(ValueError, match=message):
            declaring.new(users.a, new)
    with pytest.raises(ValueError, match=r"give both up= .* and down= .*, or neither"):
        declaring.new(users.a, users.a, up=int)


def test_attributes_of_classes_whose_relationships_are_not_there_yet(declaring: Declaring) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id = sa.Column(sa.Integer, primary_key=True)
        user_email = sa.Column(sa.Text)
        email_address = sa.Column(sa.Text)
        orders = orm.relationship("Order")

    dual = declaring.new(User.user_email, User.email_address)
    assert dual.values({"user_email": "x"}) == {"user_email": "x", "email_address": "x"}


class Color(enum.Enum):
    RED = "red"


class Secret(sa.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True


def by_value(colors: type[Color]) -> list[str]:
    return [color.value for color in colors]


COLOR = sa.Enum(Color, native_enum=False, values_callable=by_value)


@pytest.mark.parametrize(
    ("old", "new", "fine"),
    [
        (sa.String(), sa.Text(), True),
        (sa.Integer(), sa.BigInteger(), True),
        (sa.JSON(), postgresql.JSONB(), True),
        (postgresql.INET(), postgresql.INET(), True),
        (sa.ARRAY(sa.Integer), postgresql.ARRAY(sa.BigInteger), True),
        (Secret(), Secret(), True),
        (COLOR, sa.Enum(Color), True),
        (sa.Enum("a", name="x"), sa.String(), True),
        (COLOR, sa.String(), False),
        (sa.Integer(), sa.Text(), False),
        (sa.Text(), sa.Integer(), False),
        (sa.ARRAY(sa.Integer), sa.ARRAY(sa.Text), False),
        (Secret(), sa.String(), False),
        (Secret(), postgresql.INET(), False),
        (sa.JSON(), postgresql.INET(), False),
        (sa.DateTime(timezone=True), sa.DateTime(), False),
    ],
    ids=lambda given: given.__class__.__name__,
)  # fmt: skip
def test_values_that_are_not_the_same_in_python_need_functions(
    declaring: Declaring, old: Any, new: Any, *, fine: bool
) -> None:
    def columns() -> sa.MetaData:
        return models(sa.Column("user_email", old), sa.Column("email_address", new))

    users = columns().tables["users"].c
    if fine:
        declaring.new(users.user_email, users.email_address)
        declaring.of(RENAME, metadata=columns())
        return
    with pytest.raises(ValueError, match=r"different values in Python.*give up= and down="):
        declaring.new(users.user_email, users.email_address)
    with pytest.raises(ValueError, match="give up= and down="):
        declaring.of(RENAME, metadata=columns())
    declaring.new(users.user_email, users.email_address, up=str, down=str)
    declaring.of(RENAME, metadata=columns(), up={"email_address": str}, down={"user_email": str})


def test_another_object_for_the_table_has_to_know_both_columns(
    declaring: Declaring, caplog: pytest.LogCaptureFixture
) -> None:
    users = models().tables["users"]
    dual = declaring.new(users.c.user_email, users.c.email_address)
    for old in (sa.table("users", sa.column("user_email")), models(sa.Column("user_email", sa.Text)).tables["users"]):
        caplog.clear()
        dual._said.clear()
        assert compiled(dual, sa.insert(old).values(user_email="x")) == (
            "INSERT INTO users (user_email) VALUES (:user_email)"
        )
        [said] = caplog.messages
        assert "it uses another object for the table users" in said
    caplog.clear()
    dual._said.clear()
    for quiet in (
        sa.update(sa.table("users", sa.column("note"))).values(note="x"),
        sa.update(sa.table("users", sa.column("user_email"), schema="elsewhere")).values(user_email="x"),
        sa.update(sa.table("others", sa.column("user_email"))).values(user_email="x"),
    ):
        assert " SET " in compiled(dual, quiet)
    assert caplog.messages == []


def test_what_the_other_object_lacks_is_not_taken_from_the_declared_one(
    declaring: Declaring, caplog: pytest.LogCaptureFixture
) -> None:
    users = models(*(sa.Column(name, sa.Text) for name in ("a", "b", "c"))).tables["users"]
    dual = declaring.new(users.c.a, users.c.b, up="a || c", down="left(b, 1)")
    same = sa.table("users", sa.column("a"), sa.column("b"))
    assert compiled(dual, sa.update(same).values(a="x")) == "UPDATE users SET a=:a"
    assert "users.c is read, too" in caplog.text
    assert compiled(dual, sa.update(same).values(b="x")) == (
        "UPDATE users SET a=(left(CAST(:param_1 AS TEXT), 1)), b=:b"
    )
