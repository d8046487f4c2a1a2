"""Concurrent upserts of one key while old and new both have a unique index."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase

WRITERS = 4
UPSERTS = (
    "INSERT INTO users (user_email) VALUES (%s) ON CONFLICT (user_email) DO UPDATE SET seen = users.seen + 1",
    "INSERT INTO users (email_address) VALUES (%s) ON CONFLICT (email_address) DO UPDATE SET seen = users.seen + 1",
)


def at_backfill(database: Database, directory: Path) -> None:
    with connect(database) as connection:
        connection.execute(
            "CREATE TABLE users (id serial PRIMARY KEY, user_email text UNIQUE, seen int NOT NULL DEFAULT 1)"
        )
    (directory / "0001_email.py").write_text(
        "from zdmigrate import Migration, RenameColumn\n"
        'migration = Migration(RenameColumn("users", "user_email", "email_address"))\n',
        encoding="utf-8",
    )
    with Project.open(Config(url=database.conninfo, dir=directory), report=lambda _: None) as project:
        project.init(environment="development", app_role=None, confirmed=True)
        assert project.advance([], target=Phase.BACKFILL).exit_code == 0


def race(database: Database, keys: int, *, stop_at_failure: bool = False) -> list[str | None]:
    """Every writer upserts every key, all of them each key at once; half by the old name, half by the new one."""
    barrier = threading.Barrier(WRITERS)
    failed: list[str | None] = []

    def write(number: int) -> None:
        with connect(database) as connection:
            for key in range(keys):
                barrier.wait(60)
                if stop_at_failure and failed:
                    return
                barrier.wait(60)  # so that all of them have looked
                try:
                    connection.execute(UPSERTS[number % 2].encode(), (f"key {key}",))
                except psycopg.Error as error:
                    failed.append(error.sqlstate)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def one(database: Database, query: str) -> Any:
    with connect(database) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_no_upsert_fails_and_none_is_lost(database: Database, tmp_path: Path) -> None:
    at_backfill(database, tmp_path)
    assert race(database, 200) == []
    assert one(database, "SELECT count(*) FROM users") == 200
    assert one(database, "SELECT sum(seen) FROM users") == 200 * WRITERS
    assert one(database, "SELECT count(*) FROM users WHERE user_email IS DISTINCT FROM email_address") == 0


def test_without_the_queue_they_fail(database: Database, tmp_path: Path) -> None:
    at_backfill(database, tmp_path)
    with connect(database) as connection:
        names = connection.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname ~ '_[xy]key_'"
        ).fetchall()
        assert len(names) == 2
        for (name,) in names:
            connection.execute(f'DROP TRIGGER "{name}" ON users'.encode())
    assert "23505" in race(database, 5000, stop_at_failure=True)
