"""The sync triggers as PostgreSQL runs them: races on unique keys, replica role, cost, partitions, rights, bulk writes.

What the triggers compute is held against a model in test_sync_model.py.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase

RENAME = 'RenameColumn("users", "user_email", "email_address")'
USERS = "CREATE TABLE users (id serial PRIMARY KEY, user_email text, other int NOT NULL DEFAULT 0)"
DIVERGED = "SELECT count(*) FROM users WHERE user_email IS DISTINCT FROM email_address"
PAUSE = 20261121
"""The advisory lock that holds a paused session."""


def migrated(database: Database, directory: Path, *ddl: str, change: str = RENAME, to: Phase = Phase.BACKFILL) -> None:
    """Make the tables, and take one migration to a phase as the command line would."""
    with connect(database) as connection:
        for statement in ddl or (USERS,):
            connection.execute(statement.encode())
    (directory / "0001_m.py").write_text(
        "import sqlalchemy as sa\nfrom zdmigrate import AddColumn, DropColumn, Migration, RenameColumn\n"
        f"migration = Migration({change})\n",
        encoding="utf-8",
    )
    with Project.open(Config(url=database.conninfo, dir=directory), report=lambda _: None) as project:
        project.init(environment="development", app_role=None, confirmed=True)
        assert project.advance([], target=to).exit_code == 0


def rows(connection: psycopg.Connection[Any], query: str, *values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), values).fetchall()


def one(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    (row,) = rows(connection, query, *values)
    return row[0]


def emails(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return rows(connection, "SELECT id, user_email, email_address FROM users ORDER BY id")


# --- unique keys ---------------------------------------------------------------------------------------------------

UPSERT = {
    name: f"INSERT INTO users ({column}) VALUES (%s) ON CONFLICT ({column}) DO UPDATE SET other = users.other + 1"
    for name, column in (("N", "user_email"), ("N+1", "email_address"))
}
PAUSABLE = (
    "CREATE TABLE users (id serial PRIMARY KEY, user_email text, other int NOT NULL DEFAULT 0)",
    # Stops a session that asks for it after ON CONFLICT has looked, and before any unique index is written: indexes
    # are written in the order in which they were made.
    f"""CREATE FUNCTION pause(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
          IF current_setting('test.pause', true) = 'on' THEN
            PERFORM pg_advisory_lock({PAUSE}), pg_advisory_unlock({PAUSE});
          END IF;
          RETURN 0;
        END $$""",
    "CREATE INDEX pauses ON users (pause(id))",
    "CREATE UNIQUE INDEX users_user_email ON users (user_email)",
)


def wait_until_blocked(control: psycopg.Connection[Any], pid: int, thread: threading.Thread, *, by: int) -> None:
    while not one(control, "SELECT %s = ANY (pg_blocking_pids(%s))", by, pid):
        thread.join(0.002)
        assert thread.is_alive(), "it should have waited"


class Background:
    """A statement in a session of its own, in a thread."""

    def __init__(self, connection: psycopg.Connection[Any], statement: str, value: str) -> None:
        self.state: str | None = None
        self._arguments = (connection, statement, value)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        connection, statement, value = self._arguments
        try:
            connection.execute(statement.encode(), (value,))
        except psycopg.Error as error:
            self.state = error.sqlstate

    def join(self) -> str | None:
        """The SQLSTATE it failed with, or None."""
        self.thread.join(30)
        assert not self.thread.is_alive(), "a statement hangs"
        return self.state


@contextmanager
def held(control: psycopg.Connection[Any]) -> Iterator[None]:
    """Whoever wants to pause stays paused inside."""
    control.execute("SELECT pg_advisory_lock(%s)", (PAUSE,))
    try:
        yield
    finally:
        control.execute("SELECT pg_advisory_unlock(%s)", (PAUSE,))


def meet(database: Database, first: str, second: str, key: str, *, queue: bool) -> tuple[str | None, str | None]:
    """Both upsert one new key: `first` has looked and not yet written when `second` does all of its upsert.

    With `queue`, `second` must be found waiting for `first`; without, it must not wait.
    """
    with (
        connect(database) as control,
        connect(database, options="-c test.pause=on") as one_session,
        connect(database) as other,
    ):
        with held(control):
            early = Background(one_session, UPSERT[first], key)
            wait_until_blocked(control, one_session.info.backend_pid, early.thread, by=control.info.backend_pid)
            late = Background(other, UPSERT[second], key)
            if queue:
                wait_until_blocked(control, other.info.backend_pid, late.thread, by=one_session.info.backend_pid)
            else:
                assert late.join() is None
        return early.join(), late.join()


MEETINGS = list(itertools.product(UPSERT, UPSERT))


def test_upserts_of_one_key_queue(database: Database, tmp_path: Path) -> None:
    migrated(database, tmp_path, *PAUSABLE)
    for first, second in MEETINGS:
        assert meet(database, first, second, f"{first} {second}", queue=True) == (None, None), (first, second)
    with connect(database) as connection:
        assert rows(connection, "SELECT DISTINCT other, user_email = email_address FROM users") == [(1, True)]
        assert one(connection, "SELECT count(*) FROM users") == len(MEETINGS)


def test_what_the_queue_is_for(database: Database, tmp_path: Path) -> None:
    migrated(database, tmp_path, *PAUSABLE)
    with connect(database) as connection:
        for (name,) in rows(
            connection, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname ~ '_[xy]key_'"
        ):
            connection.execute(f'DROP TRIGGER "{name}" ON users'.encode())
    for first, second in MEETINGS:
        assert meet(database, first, second, f"{first} {second}", queue=False) == ("23505", None), (first, second)


# --- replica role --------------------------------------------------------------------------------------------------


def test_a_replica_role_does_not_write_past_the_triggers(database: Database, tmp_path: Path) -> None:
    migrated(database, tmp_path)
    with connect(database, options="-c session_replication_role=replica") as applier:
        applier.execute("INSERT INTO users (user_email) VALUES ('a'), ('b')")
        applier.execute("INSERT INTO users (email_address) VALUES ('c'), ('d')")
        applier.execute("UPDATE users SET user_email = 'B' WHERE id = 2")
        applier.execute("UPDATE users SET email_address = 'D' WHERE id = 4")
        assert emails(applier) == [(1, "a", "a"), (2, "B", "B"), (3, "c", "c"), (4, "D", "D")]
        # What ENABLE ALWAYS is for:
        applier.execute("ALTER TABLE users ENABLE TRIGGER USER")
        applier.execute("INSERT INTO users (user_email) VALUES ('e')")
        assert one(applier, DIVERGED) == 1


# --- cost ----------------------------------------------------------------------------------------------------------


def calls(connection: psycopg.Connection[Any], statement: str) -> int:
    """How many of zdmigrate's functions a statement calls."""
    count = (
        "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_xact_user_functions WHERE schemaname = 'zdmigrate' "
        "AND funcname LIKE 'zd%%'"
    )
    with connection.transaction(force_rollback=True):
        before = one(connection, count)
        connection.execute(statement.encode())
        return int(one(connection, count)) - int(before)


@pytest.mark.parametrize(("unique", "keys"), [("", 0), (" UNIQUE", 1)])
def test_plpgsql_runs_only_where_there_is_something_to_do(
    database: Database, tmp_path: Path, unique: str, keys: int
) -> None:
    migrated(database, tmp_path, USERS.replace("user_email text", "user_email text" + unique))
    with connect(database, options="-c track_functions=pl") as connection:
        connection.execute("INSERT INTO users (user_email) SELECT 'user ' || n FROM generate_series(1, 100) n")
        assert calls(connection, "UPDATE users SET other = other + 1") == 0
        assert calls(connection, "UPDATE users SET user_email = user_email, email_address = user_email") == 0
        assert calls(connection, "UPDATE users SET id = id + 1000") == 0
        assert calls(connection, "DELETE FROM users") == 0
        assert calls(connection, "UPDATE users SET user_email = 'x' WHERE id = 1") == 1 + keys
        assert calls(connection, "UPDATE users SET email_address = 'x' WHERE id = 1") == 1 + keys
        assert calls(connection, "INSERT INTO users (user_email) VALUES ('new')") == 1 + keys
        assert calls(connection, "INSERT INTO users (user_email, email_address) VALUES ('new', 'new')") == keys


# --- partitions ----------------------------------------------------------------------------------------------------

PARTITIONED = (
    "CREATE TABLE users (id int, part int, user_email text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
    "CREATE TABLE users_1 PARTITION OF users FOR VALUES IN (1)",
    "CREATE TABLE users_2 PARTITION OF users FOR VALUES IN (2) PARTITION BY LIST (part)",
    "CREATE TABLE users_2_1 PARTITION OF users_2 FOR VALUES IN (2)",
    "INSERT INTO users VALUES (1, 1, 'one'), (2, 2, 'two')",
)
ALWAYS = """
    SELECT relid::regclass::text, array_agg(tgenabled::text ORDER BY tgname) FROM pg_partition_tree('users')
    LEFT JOIN pg_trigger ON tgrelid = relid GROUP BY relid ORDER BY 1
"""


def test_every_partition_has_the_triggers(database: Database, tmp_path: Path) -> None:
    migrated(database, tmp_path, *PARTITIONED)
    with connect(database) as connection:
        connection.execute("CREATE TABLE users_3 PARTITION OF users FOR VALUES IN (3)")
        connection.execute("CREATE TABLE users_4 (email_address text, part int NOT NULL, user_email text, id int)")
        connection.execute("ALTER TABLE users_4 ADD PRIMARY KEY (id, part)")
        connection.execute("INSERT INTO users_4 (id, part, user_email) VALUES (4, 4, 'four')")
        connection.execute("ALTER TABLE users ATTACH PARTITION users_4 FOR VALUES IN (4)")
        names = ["users", "users_1", "users_2", "users_2_1", "users_3", "users_4"]
        assert rows(connection, ALWAYS) == [(name, ["A"]) for name in names]
        assert emails(connection) == [(1, "one", "one"), (2, "two", "two"), (4, "four", None)]
        connection.execute("SET session_replication_role = replica")
        connection.execute("INSERT INTO users (id, part, user_email) VALUES (3, 3, 'three')")
        connection.execute("INSERT INTO users_2_1 (id, part, email_address) VALUES (22, 2, 'past the parent')")
        # From one partition to another, in both directions; the unfilled row is filled as it moves.
        connection.execute("UPDATE users SET part = 1 WHERE id = 4")
        connection.execute("UPDATE users SET part = 4, email_address = 'moved' WHERE id = 1")
        assert emails(connection) == [
            (1, "moved", "moved"), (2, "two", "two"), (3, "three", "three"), (4, "four", "four"),
            (22, "past the parent", "past the parent"),
        ]  # fmt: skip


# --- rights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """An application's role, which may write users and nothing else. Roles belong to the server, so it goes again."""
    name = f"app_{database.name}"
    with connect(database) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
    yield name
    with connect(database) as connection:
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


def as_application(database: Database, role: str) -> psycopg.Connection[Any]:
    with connect(database) as connection:
        # What everybody may is to note a write; who may not even that loses nothing.
        connection.execute("REVOKE USAGE ON SCHEMA zdmigrate FROM PUBLIC")
        assert one(connection, "SELECT has_schema_privilege(%s, 'zdmigrate', 'USAGE')", role) is False
        connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {role}".encode())
        connection.execute(f"GRANT USAGE ON SEQUENCE users_id_seq TO {role}".encode())
    return psycopg.connect(database.conninfo_as(role), autocommit=True)


def test_an_application_needs_no_rights_of_ours(database: Database, tmp_path: Path, role: str) -> None:
    migrated(database, tmp_path, USERS.replace("user_email text", "user_email text UNIQUE"))
    with as_application(database, role) as application:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            application.execute("SELECT 1 FROM zdmigrate.migration")
        for version, key in (("N", "n"), ("N+1", "n1"), ("N", "n1"), ("N+1", "n")):
            application.execute(UPSERT[version].encode(), (key,))
        application.execute("UPDATE users SET user_email = 'x' WHERE user_email = 'n'")
        application.execute("UPDATE users SET email_address = 'y' WHERE email_address = 'n1'")
        assert rows(application, "SELECT user_email, email_address, other FROM users ORDER BY 1") == [
            ("x", "x", 1), ("y", "y", 1),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "insert", "found"),
    [
        (
            'AddColumn("users", sa.Column("handle", sa.Text, nullable=False), backfill="lower(user_email)")',
            "INSERT INTO users (user_email) VALUES ('ABC') RETURNING handle",
            "abc",
        ),
        (
            'DropColumn("users", "user_email", down="\'user \' || id")',
            "INSERT INTO users (id) VALUES (7) RETURNING user_email",
            "user 7",
        ),
    ],
)
def test_expressions_are_evaluated_for_an_application_too(
    database: Database, tmp_path: Path, role: str, change: str, insert: str, found: str
) -> None:
    ddl = USERS.replace("user_email text", "user_email text NOT NULL")
    migrated(database, tmp_path, ddl, change=change, to=Phase.DUAL_WRITE)
    with as_application(database, role) as application:
        # A pooler's session brings whatever search_path its last user left.
        application.execute("SET search_path = pg_temp")
        assert one(application, insert.replace("INTO users", "INTO public.users")) == found


# --- bulk writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["user_email", "email_address"])
def test_bulk_writes_are_synced(database: Database, tmp_path: Path, column: str) -> None:
    migrated(database, tmp_path)
    with connect(database) as connection:
        with connection.cursor().copy(f"COPY users (id, {column}) FROM STDIN".encode()) as copy:
            for number in range(1, 4):
                copy.write_row((number, f"copied {number}"))
        connection.execute(
            f"INSERT INTO users (id, {column}) SELECT n, 'selected ' || n FROM generate_series(4, 5) n".encode()
        )
        connection.execute(
            f"MERGE INTO users u USING (VALUES (1), (2), (6)) AS s (id) ON u.id = s.id "
            f"WHEN MATCHED AND s.id = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET {column} = 'merged ' || s.id "
            f"WHEN NOT MATCHED THEN INSERT (id, {column}) VALUES (s.id, 'merged ' || s.id)".encode()
        )
        connection.execute(
            f"WITH s AS (SELECT 5 AS id) UPDATE users u SET {column} = u.{column} || '!' FROM s WHERE u.id = s.id".encode()
        )
        texts = {1: "merged 1", 3: "copied 3", 4: "selected 4", 5: "selected 5!", 6: "merged 6"}
        assert emails(connection) == [(number, text, text) for number, text in texts.items()]


# --- the table's own triggers --------------------------------------------------------------------------------------

NORMALISING = (
    """CREATE FUNCTION normalise() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN NEW.user_email := lower(NEW.user_email); RETURN NEW; END $$""",
    "CREATE TRIGGER normalise BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION normalise()",
)


@pytest.mark.parametrize("unique", ["", " UNIQUE"])
def test_what_a_trigger_of_the_table_makes_of_old_is_settled(database: Database, tmp_path: Path, unique: str) -> None:
    ddl = USERS.replace("user_email text", "user_email text" + unique)
    migrated(database, tmp_path, ddl, *NORMALISING, "INSERT INTO users (user_email) VALUES ('Before')")
    with connect(database) as connection:
        connection.execute("INSERT INTO users (user_email) VALUES ('By N')")
        connection.execute("INSERT INTO users (email_address) VALUES ('By N+1')")
        texts = ["before", "by n", "by n+1"]
        assert emails(connection) == [(number, text, text) for number, text in enumerate(texts, 1)]
        connection.execute("UPDATE users SET user_email = 'Again By N' WHERE id = 1")
        connection.execute("UPDATE users SET email_address = 'Again By N+1' WHERE id = 2")
        connection.execute("UPDATE users SET other = 1 WHERE id = 3")
        texts = ["again by n", "again by n+1", "by n+1"]
        assert emails(connection) == [(number, text, text) for number, text in enumerate(texts, 1)]


# --- waiting for no more than there is to wait for -----------------------------------------------------------------


@pytest.mark.parametrize("column", ["user_email", "email_address"])
def test_a_key_that_is_there_is_not_queued_for(database: Database, tmp_path: Path, column: str) -> None:
    migrated(database, tmp_path, USERS.replace("user_email text", "user_email text UNIQUE"))
    insert = f"INSERT INTO users ({column}) VALUES (%s) ON CONFLICT DO NOTHING".encode()
    with connect(database) as control, connect(database, autocommit=False) as first, connect(database) as second:
        second.execute("SET lock_timeout = '5s'")
        second.execute("SET search_path = pg_temp, public")
        control.execute("INSERT INTO users (user_email) VALUES ('a'), ('b')")
        for session in (first, second):
            with session.transaction():
                for key in ("a", "b") if session is first else ("b", "a"):
                    session.execute(insert, (key,))
            if session is first:
                session.execute(insert, ("a",))  # stays open
        # What the look at the row took is given back.
        assert one(second, "SHOW search_path") == "pg_temp, public"
        control.execute("SET lock_timeout = '1s'")
        control.execute("DELETE FROM users WHERE user_email = 'b'")
        first.execute(insert, ("b",))
        late = Background(second, insert.decode(), "b")
        wait_until_blocked(control, second.info.backend_pid, late.thread, by=first.info.backend_pid)
        first.rollback()
        assert late.join() is None
        assert rows(control, "SELECT user_email, email_address FROM users ORDER BY 1") == [("a", "a"), ("b", "b")]


def test_a_key_that_is_being_deleted_is_queued_for(database: Database, tmp_path: Path) -> None:
    migrated(database, tmp_path, USERS.replace("user_email text", "user_email text UNIQUE"))
    with (
        connect(database) as control,
        connect(database, autocommit=False) as deleting,
        connect(database, autocommit=False) as first,
        connect(database) as second,
    ):
        control.execute("INSERT INTO users (user_email) VALUES ('a')")
        deleting.execute("DELETE FROM users")
        early = Background(first, UPSERT["N"], "a")
        wait_until_blocked(control, first.info.backend_pid, early.thread, by=deleting.info.backend_pid)
        late = Background(second, UPSERT["N+1"], "a")
        wait_until_blocked(control, second.info.backend_pid, late.thread, by=first.info.backend_pid)
        deleting.commit()
        assert early.join() is None
        first.commit()
        assert late.join() is None
        assert rows(control, "SELECT user_email, email_address, other FROM users") == [("a", "a", 1)]


# --- search_path ---------------------------------------------------------------------------------------------------

EVIL = (
    "CREATE SCHEMA evil",
    "CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false)",
    *(
        f"CREATE FUNCTION evil.{name}({a}, {b}) RETURNS {result} LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'evil'; END $$"
        for name, a, b, result in (
            ("eq", "pg_catalog.text", "pg_catalog.text", "boolean"),
            ("ne", "pg_catalog.text", "pg_catalog.text", "boolean"),
            ("lt", "int", "int", "boolean"),
            ("plus", "int", "int", "int"),
        )
    ),
    "CREATE OPERATOR evil.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = evil.eq)",
    "CREATE OPERATOR evil.<> (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = evil.ne)",
    "CREATE OPERATOR evil.< (leftarg = int, rightarg = int, function = evil.lt)",
    "CREATE OPERATOR evil.+ (leftarg = int, rightarg = int, function = evil.plus)",
    "CREATE FUNCTION evil.lower(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql RETURN 'evil'",
)


@pytest.mark.parametrize("default", ["", " DEFAULT lower('DEF')"])
@pytest.mark.parametrize("index", ["(user_email)", "(lower(user_email)) WHERE other < 1000"])
def test_what_the_callers_search_path_finds_does_not_matter(
    database: Database, tmp_path: Path, default: str, index: str
) -> None:
    unique = f"CREATE UNIQUE INDEX users_email ON users {index}"
    migrated(database, tmp_path, USERS.replace("user_email text", "user_email text" + default), unique, *EVIL)
    with connect(database) as connection:
        connection.execute("SET search_path = evil, public, pg_catalog")
        connection.execute("INSERT INTO users (user_email) VALUES ('By N')")
        connection.execute("INSERT INTO users (email_address) VALUES ('By N+1')")
        connection.execute("INSERT INTO users (other) VALUES (1)")
        connection.execute("UPDATE users SET user_email = 'Again' WHERE id OPERATOR(pg_catalog.=) 1")
        left = "def" if default else None
        assert emails(connection) == [(1, "Again", "Again"), (2, "By N+1", "By N+1"), (3, left, left)]
