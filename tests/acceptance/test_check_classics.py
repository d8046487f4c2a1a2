"""Failures that teams know from their incidents: the check foretells each, and the real driver or ORM then runs into it.

One application, recorded, and one migration with a table for each; what it is made of stands in tests/support/classics.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.support import classics
from tests.support.checks import Bench
from tests.support.classics import CHANGES, New, NewTicket, Old, Order, Secret, Ticket, User
from tests.support.servers import Database, connect
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.footprints.models import tables_of
from zdmigrate.compat.recording import command
from zdmigrate.compat.recording.collecting import Recording, collect
from zdmigrate.compat.report import Finding, Layer, Run, Version
from zdmigrate.postgres.servers import ScratchServer

ROOT = Path(__file__).parents[2]
ROLE = "classics_app"


@pytest.fixture(scope="module")
def before(pg: ScratchServer) -> Iterator[Database]:
    """The schema that version N knows."""
    database = Database(pg, "classics")
    pg.create_database(database.name)
    with connect(database) as owner:
        owner.execute(classics.BEFORE.encode())
        owner.execute(f"CREATE ROLE {ROLE} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}".encode())
        owner.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}".encode())
    yield database
    with connect(database) as owner:
        owner.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}".encode())
    pg.drop_database(database.name)


@contextlib.contextmanager
def copied(database: Database) -> Iterator[Database]:
    copy = Database(database.server, f"{database.name}_copy")
    copy.server.create_database(copy.name, database.name)
    try:
        yield copy
    finally:
        copy.server.drop_database(copy.name)


def change(database: Database) -> None:
    with connect(database) as owner:
        for sql in CHANGES:
            owner.execute(sql.encode())


@pytest.fixture
def changed(before: Database) -> Iterator[Database]:
    """The schema after `expand`."""
    with copied(before) as copy:
        change(copy)
        yield copy


@pytest.fixture(scope="module")
def recording(before: Database, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Version N at work, with all its drivers."""
    directory = tmp_path_factory.mktemp("recording")
    command.prepare(directory, root=ROOT)
    environment = command.environment(directory, os.environ | {"PYTHONPATH": str(ROOT)})
    work = [sys.executable, "-m", "tests.support.classics", before.url]
    subprocess.run(work, env=environment, cwd=ROOT, check=True)
    found = collect(directory)
    assert found.errors == ()
    return found


@pytest.fixture(scope="module")
def run(recording: Recording, check_pg: ScratchServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    locks = dict.fromkeys(classics.TABLES, "ACCESS EXCLUSIVE")
    changes = ", ".join(f"RunSQL({sql!r}, locks={locks!r}, rewrites=True)" for sql in CHANGES)
    old = Footprint.of(tables=tables_of(Old), statements=recording.statements)
    new = Footprint.of(tables=tables_of(New))
    return Bench(check_pg, tmp_path_factory.mktemp("check")).check(classics.BEFORE, changes, old, new)


def findings(run: Run, layer: Layer, hazard: str, about: str) -> list[Finding]:
    """Of version N, in the first phase that breaks it."""
    assert run.unproven == ()
    assert run.exit_code == 6
    return [
        f for f in run.broken
        if (f.version, f.layer, f.hazard) == (Version.OLD, layer, hazard) and about in f"{f.subject} {f.statement}"
    ]  # fmt: skip


@contextlib.contextmanager
def session(database: Database, role: str = ROLE) -> Iterator[Session]:
    """The application's, as its own role."""
    url = sa.make_url(database.sqlalchemy_url).set(username=role)
    engine = sa.create_engine(url)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def test_an_orm_inserts_a_column_that_nobody_reads(run: Run, recording: Recording, changed: Database) -> None:
    assert not any("motto" in statement.sql for statement in recording.statements)
    assert [f for f in findings(run, Layer.PREPARE, "C01", "users") if f.subject == "insert of public.users"]
    with session(changed) as opened:
        opened.add(User(name="Berta"))
        with pytest.raises(sa.exc.ProgrammingError, match='column "motto" of relation "users"'):
            opened.flush()


def test_not_null_without_a_default(run: Run, changed: Database) -> None:
    assert findings(run, Layer.EXECUTE, "C08", "orders")
    with session(changed) as opened:
        opened.add(Order(total=3))
        with pytest.raises(sa.exc.IntegrityError, match="tax"):
            opened.flush()


def test_an_enum_value_that_pythons_enum_cannot_load(run: Run, changed: Database) -> None:
    (found, *_) = findings(run, Layer.CROSS, "C21", "tickets")
    assert "'merged', a label that it does not know" in found.message
    with session(changed) as opened:
        opened.add(NewTicket(state=classics.MoreStates.merged))
        opened.commit()
    with session(changed) as opened, pytest.raises(LookupError, match="merged"):
        opened.scalars(sa.select(Ticket)).all()


def test_an_upsert_on_a_unique_index_that_went_away(run: Run, changed: Database) -> None:
    (found, *_) = findings(run, Layer.EXECUTE, "C17", "keys")
    assert found.statement is not None
    assert "ON CONFLICT" in found.statement
    assert str(found.place).startswith("tests/support/classics.py:")
    with session(changed) as opened, pytest.raises(sa.exc.ProgrammingError, match="ON CONFLICT"):
        opened.execute(classics.UPSERT)


def test_row_security_which_a_superuser_does_not_see(run: Run, changed: Database) -> None:
    assert findings(run, Layer.EXECUTE, "C27", "SELECT secrets.secret")
    with session(changed, role="postgres") as opened:
        assert opened.scalars(sa.select(Secret.secret)).all() == ["hidden"]
    with session(changed) as opened:
        assert opened.scalars(sa.select(Secret.secret)).all() == []


def foretold(run: Run, driver: str) -> set[str]:
    return {str(f.statement) for f in run.broken if f.layer is Layer.WARM and driver in str(f.statement)}


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize(("driver", "work"), [("psycopg", classics.with_psycopg), ("asyncpg", classics.with_asyncpg)])
def test_warm_connections_fail_just_as_it_was_foretold(
    run: Run, before: Database, driver: str, work: Callable[..., set[str]], *, cached: bool
) -> None:
    """SELECT * after ADD COLUMN, and varchar to text: with `prepare_threshold=5` and asyncpg's cache; without, nothing."""
    with copied(before) as copy:
        failed = work(copy.url, change=lambda: change(copy), cached=cached)
    assert failed == foretold(run, f"{driver}_{'default' if cached else 'none'}")
    assert len(failed) == (len(classics.QUERIES) if cached else 0)


def test_what_is_foretold_of_warm_connections_is_c23(run: Run) -> None:
    warm = [f for f in run.findings if f.layer is Layer.WARM]
    assert {(f.version, f.hazard, f.sqlstate) for f in warm} == {(Version.OLD, "C23", "0A000")}
    assert psycopg.errors.FeatureNotSupported.sqlstate == "0A000"
