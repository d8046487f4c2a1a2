"""What the sync triggers note of writes through the shape that has not the authority, and that nobody fails because of it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase
from zdmigrate.planning import sync

USERS = "CREATE TABLE users (id serial PRIMARY KEY, user_email text, other int NOT NULL DEFAULT 0)"
RENAME = 'RenameColumn("users", "user_email", "email_address")'


class Site:
    """A database with one migration."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database, self.directory = database, directory

    def make(self, *ddl: str, change: str = RENAME, id_: str = "0001_m", to: Phase | None = None) -> None:
        with connect(self.database) as connection:
            for statement in ddl or (USERS,):
                connection.execute(statement.encode())
        text = f"import sqlalchemy as sa\nfrom zdmigrate import *\nmigration = Migration({change})\n"
        (self.directory / f"{id_}.py").write_text(text, encoding="utf-8")
        self.work(lambda project: project.init(environment="development", app_role=None, confirmed=True))
        if to is not None:
            self.advance(to)

    def work(self, do: Callable[[Project], Any]) -> Any:
        with Project.open(Config(url=self.database.conninfo, dir=self.directory), report=lambda _: None) as project:
            return do(project)

    def advance(self, to: Phase) -> None:
        done = self.work(lambda project: project.advance([], target=to))
        assert done.exit_code == 0, done.migrations[0].message

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(query.encode()).fetchall()

    @property
    def notes(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT side, statement FROM zdmigrate.write_note ORDER BY number")


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, tmp_path)


def test_what_comes_through_the_other_shape_is_noted_once_a_minute(site: Site) -> None:
    site.make(to=Phase.BACKFILL)
    with connect(site.database, application_name="shop/2") as session:
        session.execute("INSERT INTO users (user_email) VALUES ('secret')")
        assert site.notes == [], "the old shape has the authority"
        for number in range(3):
            session.execute("INSERT INTO users (email_address) VALUES (%s)", (f"n{number}",))
        session.execute("INSERT INTO users (email_address) SELECT 'b' || n FROM generate_series(1, 1000) n")
        assert site.notes == [("new", "INSERT INTO users (email_address) VALUES ($1)")]
        site.advance(Phase.SWITCH_READS)
        session.execute("UPDATE users SET email_address = 'x' WHERE id = 1")
        session.execute("UPDATE users SET other = 17 WHERE id = 1")
        assert len(site.notes) == 1, "the new shape has it now"
        session.execute("UPDATE users SET user_email = 'o''clock' WHERE id = 1")
        session.execute("UPDATE users SET user_email = 'y' WHERE id = 2")
        assert site.notes[1:] == [("old", "UPDATE users SET user_email = ? WHERE id = ?")]
    found = site.rows(
        "SELECT migration, table_name, application, role, diverged, backend > 0 FROM zdmigrate.write_note"
    )
    assert found == [("0001_m", "public.users", "shop/2", "postgres", False, True)] * 2


def test_a_session_that_was_reset_by_a_pool_notes_no_more(site: Site) -> None:
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database) as session:
        for number in range(3):
            session.execute("UPDATE users SET other = 1")
            session.execute(f"INSERT INTO users (user_email) VALUES ('n{number}')".encode())
            session.execute("RESET ALL" if number else "DISCARD ALL")
        assert len(site.notes) == 1
        # Another client of the same server process, behind a pooler.
        session.execute("SET application_name = 'cron'")
        session.execute("INSERT INTO users (user_email) VALUES ('c')")
    assert site.rows("SELECT application FROM zdmigrate.write_note ORDER BY number") == [("",), ("cron",)]


def test_a_minute_later_it_is_noted_again(site: Site) -> None:
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database) as session:
        session.execute("INSERT INTO users (user_email) VALUES ('a')")
        text = "SELECT substring(prosrc FROM 'zdmigrate[.]noted_[a-z0-9_]+') FROM pg_proc WHERE proname ~ 'zd_sync'"
        ((setting,),) = site.rows(text)
        assert session.execute("SELECT current_setting(%s)", (setting,)).fetchone() != ("",)
        session.execute("SELECT set_config(%s, '5', false)", (setting,))
        site.rows("UPDATE zdmigrate.write_note SET at = at - interval '1 min' RETURNING 1")
        session.execute("INSERT INTO users (user_email) VALUES ('b')")
    assert len(site.notes) == 2


def test_what_is_rolled_back_leaves_no_note_and_forgets_none(site: Site) -> None:
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database, autocommit=False) as session:
        session.execute("INSERT INTO users (user_email) VALUES ('a')")
        session.rollback()
        assert site.notes == []
        session.execute("SAVEPOINT here")
        session.execute("INSERT INTO users (user_email) VALUES ('b')")
        session.execute("ROLLBACK TO here")
        session.execute("INSERT INTO users (user_email) VALUES ('c')")
        session.commit()
        assert len(site.notes) == 1


def test_a_default_that_nobody_can_tell_from_a_value_is_not_taken_for_one(site: Site) -> None:
    """Version N+1 leaves the new column out; the old one gets its volatile default."""
    site.make(
        USERS.replace("user_email text", "user_email text NOT NULL DEFAULT md5(random()::text)"), to=Phase.SWITCH_READS
    )
    with connect(site.database) as session:
        session.execute("INSERT INTO users (other) VALUES (1)")
        assert site.notes == []
        session.execute("UPDATE users SET user_email = 'n'")
        assert [side for side, _ in site.notes] == ["old"]


# Nobody fails, and nobody waits ---------------------------------------------------------------------------------------


BREAKAGES = {
    "no function": "DROP FUNCTION zdmigrate.note_write(text, text, text, boolean, boolean)",
    "no table": "DROP TABLE zdmigrate.write_note CASCADE",
    "no rights": "REVOKE USAGE ON SCHEMA zdmigrate FROM PUBLIC",
    "no right to call": "REVOKE EXECUTE ON FUNCTION zdmigrate.note_write(text, text, text, boolean, boolean) FROM PUBLIC",
    "another table": "ALTER TABLE zdmigrate.write_note DROP COLUMN side CASCADE",
}


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("to", [Phase.BACKFILL, Phase.SWITCH_READS])
def test_a_note_that_cannot_be_made_fails_no_write(site: Site, breakage: str, to: Phase) -> None:
    site.make(to=to)
    role = f"writer_{site.database.name}"
    with connect(site.database) as connection:
        connection.execute(BREAKAGES[breakage].encode())
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        connection.execute(f"GRANT ALL ON users TO {role}; GRANT ALL ON SEQUENCE users_id_seq TO {role}".encode())
    try:
        with psycopg.connect(site.database.conninfo_as(role)) as session:
            for isolation in psycopg.IsolationLevel:
                session.isolation_level = isolation
                session.execute("INSERT INTO users (user_email) VALUES ('a')")
                session.execute("INSERT INTO users (email_address) VALUES ('b')")
                session.execute("UPDATE users SET user_email = user_email || 'c'")
                session.execute("UPDATE users SET email_address = email_address || 'd'")
                session.commit()
        assert site.rows("SELECT count(*) FROM users WHERE user_email IS DISTINCT FROM email_address") == [(0,)]
    finally:
        with connect(site.database) as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("table", ["write_note", "migration"])
def test_a_locked_table_holds_nobody_up(site: Site, table: str) -> None:
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database, autocommit=False) as locker, connect(site.database) as session:
        locker.execute(f"LOCK TABLE zdmigrate.{table} IN ACCESS EXCLUSIVE MODE".encode())
        session.execute("SET statement_timeout = '2s'")
        began = time.monotonic()
        session.execute("INSERT INTO users (user_email) SELECT 'n' || n FROM generate_series(1, 2000) n")
        for number in range(100):
            session.execute("INSERT INTO users (user_email) VALUES (%s)", (f"a{number}",))
        assert time.monotonic() - began < 1.5, "not once a row, and not once a statement"
        assert session.execute("SHOW lock_timeout").fetchone() == ("0",)
        locker.rollback()
    assert site.notes == []


def test_writes_of_a_replication_role_are_noted_too(site: Site) -> None:
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database, options="-c session_replication_role=replica") as applier:
        applier.execute("INSERT INTO users (user_email) VALUES ('a')")
        assert applier.execute("SELECT email_address FROM users").fetchall() == [("a",)]
    assert [side for side, _ in site.notes] == ["old"]


def test_serializable_writers_do_not_conflict_over_notes(site: Site) -> None:
    """Each writes a row of its own; reading notes, they would have read what the other one inserts."""
    site.make(USERS, "CREATE TABLE others (id int)", to=Phase.SWITCH_READS)
    with connect(site.database, autocommit=False) as first, connect(site.database, autocommit=False) as second:
        for session in (first, second):
            session.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for session in (first, second):
            session.execute("INSERT INTO users (user_email) VALUES ('a')")
        first.commit()
        second.commit()
    assert len(site.notes) == 2


def test_a_cancelled_statement_is_cancelled(site: Site) -> None:
    """The note swallows errors, and not the user's wish to end."""
    site.make(to=Phase.SWITCH_READS)
    with connect(site.database) as session:
        session.execute("""
            CREATE OR REPLACE FUNCTION zdmigrate.without_values(query text) RETURNS text
            LANGUAGE sql AS 'SELECT pg_sleep(60)::text'
        """)
        cancel = threading.Timer(0.3, session.cancel_safe)
        cancel.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute("INSERT INTO users (user_email) VALUES ('a')")
        cancel.join()


def test_odd_names(site: Site) -> None:
    table = 'CREATE TABLE "us\'er\\s $zd$" (id serial PRIMARY KEY, "o\'ld" text)'
    site.make(table, change='RenameColumn("us\'er\\\\s $zd$", "o\'ld", "n\\"ew")', to=Phase.SWITCH_READS)
    with connect(site.database) as session:
        session.execute(b"INSERT INTO \"us'er\\s $zd$\" (\"o'ld\") VALUES ('v')")
    assert site.rows("SELECT migration, table_name, side FROM zdmigrate.write_note") == [
        ("0001_m", "public.us'er\\s $zd$", "old")
    ]


def test_several_pairs_and_a_conversion(site: Site) -> None:
    change = (
        'RenameColumn("users", "user_email", "email_address"), RenameColumn("users", "other", "others"), '
        'ChangeType("users", "others", sa.BigInteger(), up="others * 2", down="(others / 2)::integer")'
    )
    site.make(change=change, to=Phase.SWITCH_READS)
    with connect(site.database) as session:
        session.execute("INSERT INTO users (email_address, others) VALUES ('a', 4)")
        assert site.notes == []
        session.execute("UPDATE users SET other = 3")
        session.execute("UPDATE users SET user_email = 'b'")
        assert session.execute("SELECT email_address, others FROM users").fetchall() == [("b", 6)]
    assert [side for side, _ in site.notes] == ["old"]


def test_going_back_and_forth(site: Site) -> None:
    """Every probe that compares the functions' texts."""
    site.make(to=Phase.RETIRE)
    for target in (Phase.SWITCH_READS, Phase.BACKFILL, Phase.NONE):
        done = site.work(functools.partial(Project.revert, id_="0001_m", target=target))
        assert done.exit_code == 0, done.migrations[0].message
        site.work(lambda project: project.verify([]))
        site.work(lambda project: project.unhold("0001_m"))
        site.advance(Phase.RETIRE)
    site.advance(Phase.CONTRACT)
    assert site.rows("SELECT proname FROM pg_proc WHERE proname LIKE 'zd_%'") == []


def test_old_notes_go_and_what_must_be_answered_for_stays(site: Site) -> None:
    site.make(to=Phase.BACKFILL)
    site.rows(
        "INSERT INTO zdmigrate.write_note (migration, table_name, application, backend, at, diverged, side) "
        "SELECT m, 't', '', 1, clock_timestamp() - age, diverged, 'old' FROM (VALUES ('0001_m'), ('gone')) AS a (m), "
        "(VALUES (interval '6 days'), (interval '8 days')) AS b (age), (VALUES (true), (false)) AS c (diverged) RETURNING 1"
    )
    site.advance(Phase.SWITCH_READS)
    age = "date_trunc('day', clock_timestamp() - at)::text"
    kept = f"SELECT migration, {age}, diverged FROM zdmigrate.write_note ORDER BY 1, 2, 3"
    assert site.rows(kept) == [
        ("0001_m", "6 days", False), ("0001_m", "6 days", True), ("0001_m", "8 days", True), ("gone", "6 days", False),
        ("gone", "6 days", True),
    ]  # fmt: skip


# Statements without values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT 'a''b', 12.5e3, col1 FROM t2 -- me@example.org", "SELECT ?, ?, col1 FROM t2"),
        (r"SELECT E'it\'s me' AS e, U&'me' , $1", "SELECT ? AS e, U&? , $1"),
        ("/* don't */ SELECT 'me', \"it's\"\n\tFROM x", 'SELECT ?, "it\'s" FROM x'),
        ("SELECT $me$ it's $me$, 'after'", "SELECT ?"),
        ("SELECT 1 AS a, $$me$$", "SELECT ? AS a, ?"),
        ("SELECT 1 /* a /* b */ don't */, 'me'", "SELECT ?"),
        ("SELECT a$b$c, 'unfinished me", "SELECT a$b$c, ?"),
        (r"SELECT E'me\ ".rstrip(), "SELECT ?"),
        ("SELECT /* me", "SELECT"),
        ("SELECT 0x1f + x'1f' - -7", "SELECT ? + x? - -?"),
        ("UPDATE t SET n = 'ü' WHERE ü1 = 'me'", None),
        (r"SELECT 'o\'' FROM t WHERE a <> 'me'", "SELECT ?"),
        (r"SELECT 'o\', 'me', ' me '", "SELECT ?"),
        (r"SELECT 'o\\', b, 'me'", "SELECT ?"),
        ("SELECT E'x'\n '\\' me'", "SELECT ? ?"),
        ("SELECT a, E'x\\'' -- c\n  /* d */ '\\' me, y '", "SELECT a, ?     ?"),
        ("SELECT 'x', 'y' || E'\\'me' || 'z'", "SELECT ?, ? || ? || ?"),
    ],
)
def test_statements_are_shown_without_values(site: Site, statement: str, shown: str | None) -> None:
    site.make()
    with connect(site.database) as session:
        found = session.execute("SELECT zdmigrate.without_values(%s)", (statement,)).fetchone()
        assert found is not None
        assert "me" not in found[0]
        assert shown is None or found[0] == shown


@pytest.mark.parametrize("setting", ["on", "off"])
def test_strings_with_backslashes_as_of_old(site: Site, setting: str) -> None:
    """What the trigger's function has set tells nothing about the statement."""
    site.make(to=Phase.SWITCH_READS)
    ((function,),) = site.rows("SELECT tgfoid::regprocedure::text FROM pg_trigger WHERE tgname ~ 'sync' LIMIT 1")
    with connect(site.database) as session:
        session.execute(f"ALTER FUNCTION {function} SET standard_conforming_strings = {setting}".encode())
        session.execute("SET standard_conforming_strings = off")
        session.execute(b"INSERT INTO users (user_email) VALUES ('me'), ('o\\''), (' me, me ')")
    assert site.notes == [("old", "INSERT INTO users (user_email) VALUES (?), (?")]


def test_long_statements_are_cut_and_prepared_ones_looked_up(site: Site) -> None:
    site.make()
    with connect(site.database) as session:
        query = f"SELECT {'x, ' * 300}'me', {'1' * 3000}"
        (found,) = session.execute("SELECT zdmigrate.without_values(%s)", (query,)).fetchone() or ("",)
        assert len(found) <= 500
        session.execute("PREPARE \"My one\" (int) AS SELECT 'me', $1")
        (found,) = session.execute("SELECT zdmigrate.without_values(' EXECUTE \"My one\"(5)')").fetchone() or ("",)
        assert found == 'PREPARE "My one" (int) AS SELECT ?, $1'


def test_a_guard_of_an_older_version_still_writes(site: Site) -> None:
    site.make()
    site.rows(
        "INSERT INTO zdmigrate.sync_violation (migration, table_name, application, backend) "
        "VALUES ('m', 't', 'a', 1) RETURNING 1"
    )
    assert site.rows("SELECT side, diverged, role, statement FROM zdmigrate.write_note") == [
        ("both", True, "postgres", None)
    ]


def test_what_they_cost_is_a_branch(site: Site) -> None:
    """The other side's branch alone looks at a setting."""
    text = sync.sync_function(
        [
            sync.SyncPair(
                columns=frozenset(("a", "b")), old=(sync.SyncColumn(name="a", type="text"),),
                new=(sync.SyncColumn(name="b", type="text"),), up=('"a"',), down=('"b"',),
            )
        ],
        '"z"."f"', "new", None, sync.Noting(function='"z"."n"', migration="m", table="t"),
    )  # fmt: skip
    before, after = text.split("  ELSE\n")[-1], text.split("  IF new_written THEN")[1].split("  ELSE\n")[0]
    assert "zdmigrate.looked_" in before
    assert "zdmigrate." not in after
