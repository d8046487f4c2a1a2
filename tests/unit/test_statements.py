"""Which statements name a shape, and what is learnt from how often they ran."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from zdmigrate.app.shapes import Trait
from zdmigrate.control.statements import Counted, Look, Mark, compared
from zdmigrate.engine import statements

COLUMN = Trait(schema="public", table="users", column="email")
TABLE = Trait(schema="public", table="users")
ODD = Trait(schema="public", table='Us"ers', column="E mail")
RESERVED = frozenset(
    ("select", "from", "where", "on", "order", "join", "left", "user", "returning", "as", "group", "for")
)


def names(text: str, trait: Trait = COLUMN) -> bool:
    return statements.touches(text, [trait], RESERVED)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT email FROM users WHERE id = $1",
        "select EMAIL from USERS",
        'UPDATE "public"."users" SET "email" = $1',
        "INSERT INTO users (id, email) VALUES ($1, $2) RETURNING id",
        "SELECT u.email FROM users AS u",
        "SELECT u.email FROM users u JOIN accounts a ON a.id = u.id",
        "SELECT a.id, email FROM accounts a, users",
        "SELECT s.email FROM (SELECT * FROM users) s",
        "WITH s AS (SELECT email FROM users) SELECT count(*) FROM s",
        "DELETE FROM users USING accounts a WHERE users.email = a.name",
        "COPY users (id, email) TO STDOUT",
        "SELECT u.id FROM accounts a LEFT JOIN public.users u ON u.email = a.email",
        "SELECT 1 FROM users u WHERE u.email = $1 FOR UPDATE OF u",
        "INSERT INTO users AS u (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email",
        "MERGE INTO users u USING accounts a ON u.id = a.id WHEN MATCHED THEN UPDATE SET email = a.mail",
        "/* all of them */ SELECT count(email) -- of users\n FROM users",
        "SELECT email AS mail FROM users",
    ],
)
def test_names_the_column(text: str) -> None:
    assert names(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM users",
        "SELECT email FROM people",
        "SELECT 'email' FROM users",
        "SELECT id FROM users -- email",
        "SELECT u.id, a.email FROM users u JOIN accounts a ON a.id = u.id",
        "SELECT users.id, accounts.email FROM users, accounts",
        "SELECT u.id, a.email FROM accounts AS a LEFT JOIN users AS u ON u.id = a.id",
        "SELECT email FROM archive.users",
        "SELECT address AS email FROM users",
        'SELECT "EMAIL" FROM users',
        "SELECT * FROM users",
        "SELECT email(id) FROM users",
        "SELECT user_email, emails FROM users",
    ],
)
def test_does_not_name_the_column(text: str) -> None:
    assert not names(text)


def test_odd_names() -> None:
    assert names('SELECT "E mail" FROM "Us""ers"', ODD)
    assert names('SELECT u."E mail" FROM public."Us""ers" u', ODD)
    assert not names('SELECT "e mail" FROM "Us""ers"', ODD)
    assert not names("SELECT email FROM users", ODD)
    long = Trait(schema="public", table="users", column="x" * 63)
    assert names(f"SELECT {'x' * 70} FROM users", long), "the server cuts names"


def test_words_that_are_names_only_in_quotes() -> None:
    order = Trait(schema="public", table="user", column="order")
    assert not names("SELECT id FROM other WHERE user = $1 ORDER BY id", order)
    assert not names('SELECT id FROM "user" ORDER BY id', order)
    assert names('SELECT "order" FROM "user"', order)
    assert names('SELECT u.order FROM "user" u ORDER BY u.id', order)


def test_tables() -> None:
    for text in (
        "SELECT * FROM users",
        "TRUNCATE users",
        "SELECT 1 FROM a JOIN Users USING (id)",
        "DELETE FROM public.users",
    ):
        assert names(text, TABLE)
    for text in ("SELECT * FROM archive.users", "SELECT a.users FROM a", "SELECT 'users'"):
        assert not names(text, TABLE)


def test_what_no_name_tells_is_left_out() -> None:
    typed = Trait(schema="public", table="users", column="total", type="integer")
    nullable = Trait(schema="public", table="users", column="total", nullable=True)
    assert statements.nameable((typed, COLUMN, nullable, TABLE)) == (COLUMN, TABLE)


def test_a_text_whose_end_is_missing_may_be_of_the_table() -> None:
    for text, expected in (("SELECT id, u.email, u.na", True), ("SELECT id, u.name, u.na", False)):
        assert statements.touches(text, [COLUMN], RESERVED, partial=True) is expected
    assert not statements.touches("SELECT id FROM oth", [TABLE], RESERVED, partial=True)


def test_cut_to_one_line() -> None:
    assert statements.cut("SELECT\n  a -- one\n\n/* zdmigrate */") == "SELECT a"
    assert statements.cut("SELECT " + "x" * 200).endswith("x…")


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
KEY = (10, 4711)


def statement(calls: int, exec_time: float) -> Counted:
    return Counted(key=KEY, role="shop", text="", calls=calls, exec_time=exec_time)


def looked(*found: Counted, before: Look | None = None, at: datetime = NOW) -> Look:
    return compared(before, at, found, 0)


def test_the_first_look_blames_nobody() -> None:
    assert looked(statement(12, 3.5)) == Look(
        since=NOW, looked_at=NOW, forgotten=0, marks={KEY: Mark(calls=12, exec_time=3.5)}
    )


@pytest.mark.parametrize(
    ("calls", "exec_time", "ran"),
    [(12, 3.5, 0), (15, 4.0, 3), (2, 0.1, 2), (12, 3.4, 12)],
    ids=["the same", "more", "fewer after a reset", "as many after a reset"],
)
def test_what_has_run_since(calls: int, exec_time: float, ran: int) -> None:
    mark = looked(statement(calls, exec_time), before=looked(statement(12, 3.5)), at=LATER).marks[KEY]
    assert mark == Mark(calls=calls, exec_time=exec_time, ran=ran, ran_at=LATER if ran else None)


def test_a_new_one_has_run_since_and_one_that_was_forgotten_stays_so() -> None:
    first = looked()
    second = looked(statement(3, 1.0), before=first, at=LATER)
    assert (second.since, second.looked_at) == (NOW, LATER)
    assert second.marks[KEY] == Mark(calls=3, exec_time=1.0, ran=3, ran_at=LATER)
    third = looked(before=second, at=LATER + timedelta(minutes=1))
    assert third.marks == second.marks


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("UPDATE t SET a = 'me' WHERE id = 17 AND b = $2", "UPDATE t SET a = ? WHERE id = ? AND b = $2"),
        ("SELECT $me$it's$me$, 1.5e3, x'1f', N'me', U&'me', \"my col1\"", 'SELECT ?, ?, ?, ?, ?, "my col1"'),
        ("SELECT 'o''me', b /* 'me' */", "SELECT ?, b"),
        (r"SELECT E'o\'me', b", "SELECT ?, b"),
        (r"SELECT 'o\'' WHERE a <> 'me'", "SELECT ?…"),
        (r"SELECT 'o\', 'me'", "SELECT ?…"),
        ("SELECT E'x' -- me\n '\\' me'", "SELECT ? ?…"),
        ("SELECT a, 'me and", "SELECT a, ?…"),
        ("SELECT a, E'me\\", "SELECT a, E?…"),
        ("SELECT a, $me$ and", "SELECT a, ?…"),
        ("SELECT a /* me", "SELECT a"),
    ],
)
def test_values_are_not_shown(text: str, shown: str) -> None:
    assert statements.cut(text) == shown
