"""What the catalogue of changes costs, as far as a busy machine can tell; benchmarks/ measures the rest."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support import large_schema, peak
from tests.support.examples import FOLDER, NAMES
from tests.support.lockwatch import lockwatch, longest
from tests.support.processes import ROOT
from tests.support.servers import Database, connect
from zdmigrate.config import Backfill, Config
from zdmigrate.demo.example import Example
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES
from zdmigrate.postgres.servers import ScratchServer

ROWS = 200_000
LONGEST_HOLD = 0.050
RUNS = 3


def run(pg: ScratchServer, example: Example, name: str) -> float:
    """Seconds that the longest hold of ACCESS EXCLUSIVE certainly lasted, through all phases."""
    config = Config(url=pg.url(name), dir=example.migrations, backfill=Backfill(pause=timedelta(0)))
    pg.create_database(name)
    try:
        with connect(Database(pg, name)) as connection:
            connection.execute(example.seed(ROWS).encode())
            connection.execute("VACUUM (ANALYZE)")
            with (
                Project.open(config, report=lambda _: None) as project,
                lockwatch(pg.conninfo(), name) as locks,
            ):
                project.init(environment="development", app_role=None, confirmed=True)
                for phase in PHASES[1:]:
                    locks.know(connection)
                    outcome = project.advance([], target=phase, overrides=example.overrides)
                    assert outcome.exit_code == 0, outcome
        hold = longest(locks.holds)
        return 0.0 if hold is None else hold.at_least
    finally:
        pg.drop_database(name)


def in_turn(pg: ScratchServer, example: Example) -> Iterator[float]:
    """Runs until their median is sure to be on one side of the limit."""
    within, beyond = 0, 0
    while max(within, beyond) <= RUNS // 2:
        seconds = run(pg, example, f"figures_{within + beyond}")
        within, beyond = within + (seconds <= LONGEST_HOLD), beyond + (seconds > LONGEST_HOLD)
        yield seconds


USUAL = ("add_column", "change_type", "rename_column")
"""The rest in the nightly run: they take seconds each, and a quiet machine."""

EXAMPLES = [pytest.param(name, id=name, marks=() if name in USUAL else pytest.mark.nightly) for name in NAMES]


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_transaction_holds_access_exclusive_for_long(name: str, pg: ScratchServer) -> None:
    example = Example.load(FOLDER / name)
    if pg.major not in example.majors:
        pytest.skip(f"not on PostgreSQL {pg.major}")
    seconds = list(in_turn(pg, example))
    print(f"{example.name}: at least {', '.join(f'{s * 1000:.1f}' for s in seconds)} ms")
    assert statistics.median_low(seconds) <= LONGEST_HOLD


def test_the_watch_sees_a_lock_that_is_held(pg: ScratchServer, database: Database) -> None:
    with connect(database) as connection:
        connection.execute("CREATE TABLE known (); CREATE TABLE unknown ()")
        with lockwatch(pg.conninfo(), database.name) as locks:
            connection.execute("LOCK TABLE unknown; SELECT pg_sleep(0.1)")
            locks.know(connection)
            with connection.transaction():
                connection.execute("LOCK TABLE known IN SHARE ROW EXCLUSIVE MODE")
                connection.execute("SELECT pg_sleep(0.1)")
            with connection.transaction():
                connection.execute("LOCK TABLE known IN ACCESS EXCLUSIVE MODE")
                connection.execute("SELECT pg_sleep(0.5)")
    (hold,) = locks.holds
    assert LONGEST_HOLD < hold.at_least < hold.at_most
    assert hold.at_most >= 0.5


def test_planning_30_changes_on_1000_tables(database: Database, tmp_path: Path) -> None:
    with connect(database) as connection:
        for statement in large_schema.tables(1_000):
            connection.execute(statement.encode())
    large_schema.write_migration(tmp_path / "migrations", 30)
    environment = large_schema.environment(database.url, ROOT, tmp_path / "cache")
    command = (sys.executable, "-m", "zdmigrate", "plan")
    # The first fills the caches.
    _, *measured = [peak.pair(command, cwd=tmp_path, env=environment) for _ in range(1 + RUNS)]
    seconds = statistics.median(pair.unloaded for pair in measured)
    memory = max(pair.command.bytes for pair in measured)
    print(f"plan: {seconds:.2f} s on an idle machine, {memory / 1e6:.0f} MB")
    assert seconds < 2
    assert memory < 150e6
