"""Random migrations of random tables: what holds for every example must hold for these.

Through all phases and back from each, with both versions writing in their windows; in the end the catalog and the rows
of `bootstrap`, after a full revert the catalog of before.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stages

from tests.support import catalog_compare
from tests.support.catalogue import EVERYTHING, ID, Case, Stage
from tests.support.random_migrations import Drawn, migrations
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.postgres.servers import ScratchServer
from zdmigrate.sqltext import ident

_numbers = itertools.count(1)
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
EXAMPLES = int(os.environ.get("ZDMIGRATE_TEST_RANDOM", "12"))


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """An application that names its columns, and leaves those out that have a default or may be NULL, now and then."""

    columns: tuple[tuple[str, bool], ...]
    """(name, whether an INSERT must give a value)"""

    def work(self, connection: psycopg.Connection[Any], number: int) -> None:
        """Insert a copy of some row and of its required part, change one column, read it back, delete it."""
        full = [name for name, _ in self.columns]
        least = [name for name, needed in self.columns if needed]
        for names in (full, least):
            listed = ", ".join(ident(name) for name in names)
            source = connection.execute(f"SELECT {ident('id')} FROM t ORDER BY id LIMIT 1".encode()).fetchone()
            if source is None:
                return
            copied = f"SELECT {listed} FROM t WHERE id = {source[0]}" if names else None
            row = connection.execute(
                (
                    f"INSERT INTO t ({listed}) {copied} RETURNING id"
                    if copied
                    else "INSERT INTO t DEFAULT VALUES RETURNING id"
                ).encode()
            ).fetchone()
            assert row is not None
            if names:
                same = " AND ".join(f"NOT record_image_ne(ROW(x.{ident(n)}), ROW(y.{ident(n)}))" for n in names)
                found = connection.execute(
                    f"SELECT count(*) FROM t x, t y WHERE x.id = {row[0]} AND y.id = {source[0]} AND {same}".encode()
                ).fetchone()
                assert found == (1,), f"what was inserted into {listed} is not what is read"
                changed = names[number % len(names)]
                connection.execute(
                    f"UPDATE t SET {ident(changed)} = (SELECT {ident(changed)} FROM t WHERE id = {source[0]}) "
                    f"WHERE id = {row[0]}".encode()
                )
            connection.execute(f"DELETE FROM t WHERE id = {row[0]}".encode())


def version(connection: psycopg.Connection[Any]) -> Version:
    rows = connection.execute(
        "SELECT attname, attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = '' FROM pg_attribute "
        "WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'id' AND attgenerated = '' "
        "ORDER BY attnum"
    ).fetchall()
    return Version(tuple((name, needed) for name, needed in rows))


# An example takes seconds: what fails is reported as it was found.
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=HEALTH, report_multiple_bugs=False,
    phases=(Stages.explicit, Stages.generate),
)  # fmt: skip
@given(drawn=migrations())
def test_a_random_migration(pg: ScratchServer, tmp_path: Path, drawn: Drawn) -> None:
    directory = tmp_path / str(next(_numbers))
    directory.mkdir()
    stage = Stage(pg, directory, Case(schema=drawn.schema, changes=drawn.changes, by_hand=()))
    try:
        _check(stage, pg)
    finally:
        stage.close()


def _check(stage: Stage, pg: ScratchServer) -> None:
    name, once = stage.make(), stage.make()
    before = stage.catalog(name)
    with stage.project(name) as project, pg.connect(name, autocommit=True) as connection:
        try:
            (plan,) = project.plan([])
        except (Unsafe, UsageError):
            assert stage.catalog(name) == before
            return
        with stage.project(once) as other:
            assert other.bootstrap().exit_code == 0
        old = version(connection)
        with pg.connect(once, autocommit=True) as there:
            new = version(there)

        def work(phase: Phase) -> None:
            if phase.position <= plan.window.old_until.position:
                old.work(connection, phase.position)
            if phase.position >= plan.window.new_from.position:
                new.work(connection, phase.position)

        for phase in PHASES[1:]:
            _expect(project.advance([], target=phase, overrides=EVERYTHING))
            work(phase)
            if phase.position <= plan.undoable_until.position:
                _expect(project.revert(ID, target=Phase.NONE, overrides=EVERYTHING, allow_lossy=True))
                found = catalog_compare.difference(before, stage.catalog(name))
                assert not found, "\n".join([f"before (-), back from {phase} (+)", *found])
                project.unhold(ID)
                _expect(project.advance([], target=phase, overrides=EVERYTHING))
                work(phase)
    found = catalog_compare.difference(stage.catalog(once), stage.catalog(name))
    assert not found, "\n".join(["bootstrap (-), phases (+)", *found])
    columns = ", ".join(ident(n) for n, _ in new.columns)
    rows = f"SELECT {columns} FROM t ORDER BY id"
    if not any("random()" in change for change in stage.changes):
        assert stage.rows(once, rows) == stage.rows(name, rows)


def _expect(outcome: Any) -> None:
    assert outcome.exit_code == 0, [(m.message, m.hint) for m in outcome.migrations]
