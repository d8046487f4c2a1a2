"""Changes of columns while both versions are at work: an owner that is no superuser, and an application with fewer rights."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.catalogue import EVERYTHING, ID
from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES, Phase

_numbers = itertools.count(1)
Write = Callable[[psycopg.Connection[Any]], object]


class Table:
    """A table of an owner without special rights, an application that may read and write it, and one migration."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database, self.directory = database, directory
        number = f"{os.getpid()}_{next(_numbers)}"
        self.owner, self.app = f"columns_owner_{number}", f"columns_app_{number}"

    def make(self, columns: str, change: str) -> None:
        (self.directory / f"{ID}.py").write_text(
            f"import sqlalchemy as sa\nfrom zdmigrate import *\nmigration = Migration({change})\n", encoding="utf-8"
        )
        self.sql(
            f"CREATE ROLE {self.owner} LOGIN", f"CREATE ROLE {self.app} LOGIN",
            f"GRANT CREATE ON DATABASE {self.database.name} TO {self.owner}",
            f"GRANT CREATE, USAGE ON SCHEMA public TO {self.owner}",
        )  # fmt: skip
        with psycopg.connect(self.database.conninfo_as(self.owner), autocommit=True) as connection:
            connection.execute(f"CREATE TABLE t ({columns})".encode())
            connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {self.app}".encode())
            connection.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {self.app}".encode())
        with self.project() as project:
            project.init(environment="development", app_role=None, confirmed=True)

    def sql(self, *statements: str) -> None:
        with connect(self.database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(query.encode()).fetchall()

    @contextmanager
    def project(self) -> Iterator[Project]:
        config = Config(
            url=self.database.conninfo_as(self.owner), dir=self.directory, lock_budget=timedelta(seconds=20)
        )
        with Project.open(config, report=lambda _: None) as project:
            yield project

    def advance(self, phase: Phase) -> None:
        with self.project() as project:
            outcome = project.advance([], target=phase, overrides=EVERYTHING)
        assert outcome.exit_code == 0, [(m.message, m.hint) for m in outcome.migrations]

    def revert(self, phase: Phase, *, lossy: bool = False) -> str:
        """What it says if it refuses."""
        with self.project() as project:
            outcome = project.revert(ID, target=phase, overrides=EVERYTHING, allow_lossy=lossy)
            if outcome.exit_code == 0:
                project.unhold(ID)
        return "" if outcome.exit_code == 0 else outcome.migrations[0].message or "refused"

    @contextmanager
    def writing(self, *writes: Write, least: int = 40) -> Iterator[None]:
        """Everybody writes all the time, and at least so often; a failure is one of the test."""
        stopped, counts = threading.Event(), [0] * len(writes)

        def work(place: int) -> None:
            with psycopg.connect(self.database.conninfo_as(self.app), autocommit=True) as connection:
                while not stopped.is_set() or counts[place] < least:
                    writes[place](connection)
                    counts[place] += 1

        with ThreadPoolExecutor(len(writes)) as pool:
            working = [pool.submit(work, place) for place in range(len(writes))]
            try:
                yield
            finally:
                stopped.set()
        for one in working:
            one.result()

    def drop(self) -> None:
        self.sql(*(f"DROP OWNED BY {role} CASCADE" for role in (self.owner, self.app)))
        self.sql(*(f"DROP ROLE {role}" for role in (self.owner, self.app)))


@pytest.fixture
def table(database: Database, tmp_path: Path) -> Iterator[Table]:
    made = Table(database, tmp_path)
    yield made
    made.drop()


def statement(text: str) -> Write:
    return lambda connection: connection.execute(text.encode())


def test_a_serial_column_becomes_an_identity_under_traffic(table: Table) -> None:
    table.make("id serial PRIMARY KEY, a text", 'AddIdentity("t", "id", always=True)')
    omitted = statement("INSERT INTO t (a) VALUES ('x')")
    drawn = statement("INSERT INTO t (a) SELECT 'y' FROM generate_series(1, 3)")
    with table.writing(omitted, drawn):
        table.advance(Phase.EXPAND)
        assert table.revert(Phase.NONE) == ""
        table.advance(Phase.RETIRE)
        assert table.revert(Phase.NONE) == ""
        table.advance(Phase.CONTRACT)
    # The primary key has refused nothing, so no number was given twice; and none was skipped for long.
    assert table.rows("SELECT max(id) - count(*) < 100 FROM t") == [(True,)]
    assert table.rows(
        "SELECT attidentity::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'id'"
    ) == [("a",)]
    assert table.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'zd%'") == [(0,)]


def test_numbers_of_version_n_and_of_the_identity(table: Table) -> None:
    table.make("id bigint PRIMARY KEY, a text", 'AddIdentity("t", "id", start=1000000)')
    numbers = itertools.count(1)
    old: Write = lambda connection: connection.execute("INSERT INTO t VALUES (%s, 'N')", (next(numbers),))  # noqa: E731
    with table.writing(old):
        table.advance(Phase.EXPAND)
        with table.writing(statement("INSERT INTO t (a) VALUES ('N+1')")):
            for phase in PHASES[2:]:
                table.advance(phase)
    assert table.rows("SELECT min(id) FROM t WHERE a = 'N+1'") == [(1000000,)]


def test_a_start_that_is_taken_is_refused_with_the_row(table: Table) -> None:
    table.make("id bigint PRIMARY KEY, a text", 'AddIdentity("t", "id", start=10)')
    table.sql("INSERT INTO t VALUES (9), (12)")
    with table.project() as project:
        outcome = project.advance([], target=Phase.EXPAND)
    assert outcome.exit_code == 6
    assert "row (0,2) of public.t has the number 12, which is not before 10" in (outcome.migrations[0].message or "")


def test_what_version_n_numbered_after_expand_is_caught_up_with(table: Table) -> None:
    table.make("id bigint PRIMARY KEY, a text", 'AddIdentity("t", "id")')
    table.sql("INSERT INTO t SELECT generate_series(1, 10)")
    table.advance(Phase.RETIRE)
    table.sql("INSERT INTO t SELECT generate_series(1000000, 1000020)")
    with table.writing(statement("INSERT INTO t (a) VALUES ('N+1')"), least=20):
        table.advance(Phase.CONTRACT)
    assert table.rows("INSERT INTO t DEFAULT VALUES RETURNING id > 1000020") == [(True,)]


def test_an_added_identity_numbers_the_rows_of_both_versions(table: Table) -> None:
    table.make("id bigserial PRIMARY KEY, a text", 'AddColumn("t", sa.Column("n", sa.BigInteger, sa.Identity()))')
    table.sql("INSERT INTO t (a) SELECT 'before' FROM generate_series(1, 300)")
    old = statement(
        "WITH w AS (INSERT INTO t (a) VALUES ('N') RETURNING id) UPDATE t SET a = 'n' FROM w WHERE t.id = w.id"
    )
    with table.writing(old):
        table.advance(Phase.BACKFILL)
        assert table.revert(Phase.NONE, lossy=True) == ""
        table.advance(Phase.BACKFILL)
        with table.writing(statement("INSERT INTO t (a, n) VALUES ('N+1', DEFAULT)")):
            for phase in (Phase.SWITCH_READS, Phase.RETIRE, Phase.CONTRACT):
                table.advance(phase)
    assert table.rows("SELECT count(*) - count(DISTINCT n), count(*) FILTER (WHERE n IS NULL) FROM t") == [(0, 0)]
    assert table.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'zd%'") == [(0,)]


def test_nulls_that_version_n_plus_1_wrote_keep_not_null_away(table: Table) -> None:
    table.make(
        "id bigserial PRIMARY KEY, a text NOT NULL, j jsonb", 'DropNotNull("t", "a"), RenameColumn("t", "a", "b")'
    )
    table.sql("INSERT INTO t (a) VALUES ('x')")
    table.advance(Phase.RETIRE)
    assert table.revert(Phase.NONE) == "", "nothing is NULL yet"
    table.advance(Phase.RETIRE)
    table.sql("INSERT INTO t (b) VALUES (NULL)")
    assert "of public.t is NULL in a" in table.revert(Phase.NONE)
    table.sql("UPDATE t SET b = '' WHERE b IS NULL")
    assert table.revert(Phase.NONE) == ""


def test_a_default_that_replaces_another_waits_for_version_n_to_go(table: Table) -> None:
    table.make(
        "id bigserial PRIMARY KEY, a text DEFAULT 'old', b text",
        """SetDefault("t", "a", "'new'"), SetDefault("t", "b", "'b'")""",
    )
    table.advance(Phase.RETIRE)
    assert table.rows("INSERT INTO t DEFAULT VALUES RETURNING a, b") == [("old", "b")]
    table.advance(Phase.CONTRACT)
    assert table.rows("INSERT INTO t DEFAULT VALUES RETURNING a, b") == [("new", "b")]
    assert table.revert(Phase.NONE) == ""
    assert table.rows("INSERT INTO t DEFAULT VALUES RETURNING a, b") == [("old", None)]


def test_a_default_set_by_hand_meanwhile_is_drift(table: Table) -> None:
    table.make("id bigserial PRIMARY KEY, b text", """SetDefault("t", "b", "'b'")""")
    table.advance(Phase.EXPAND)
    table.sql("ALTER TABLE t ALTER b SET DEFAULT 'c'")
    with table.project() as project:
        outcome = project.verify([])
    assert outcome.exit_code == 7
    assert "a default that is not the plan's" in (outcome.migrations[0].message or "")


def test_a_default_of_a_renamed_column_in_both_versions(table: Table) -> None:
    table.make("id bigserial PRIMARY KEY, a text", """SetDefault("t", "a", "'d'"), RenameColumn("t", "a", "b")""")
    table.advance(Phase.BACKFILL)
    values = ("a", "b")
    assert table.rows("INSERT INTO t DEFAULT VALUES RETURNING a, b") == [("d", "d")]
    for name in values:
        assert table.rows(f"INSERT INTO t ({name}) VALUES ('v') RETURNING a, b") == [("v", "v")]
