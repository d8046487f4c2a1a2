"""Forecasts against what a backfill then does, and what a probe does to the table."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers import Database, ReplicaPair, connect
from zdmigrate.backfill.forecasts import forecast, probe
from zdmigrate.backfill.forecasts.costs import Pacing
from zdmigrate.backfill.forecasts.forecast import Forecast, Outcome
from zdmigrate.config import Backfill, Config
from zdmigrate.engine import forecasting
from zdmigrate.engine.project import Project, forecasts_offline, plan_offline
from zdmigrate.engine.reporting import Event
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import RowWork
from zdmigrate.postgres import session, statistics

ROWS = 200_000
USERS = """
CREATE TABLE users (id integer PRIMARY KEY, old text, a integer, b integer, d text, pad text) {options};
INSERT INTO users SELECT n, 'value ' || n, (random() * 1e9)::int, n, md5(n::text), repeat('x', {pad})
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON users (a); CREATE INDEX ON users (b); CREATE INDEX ON users (d);
"""
PARTITIONED = """
CREATE TABLE users (id integer, old text, a integer) PARTITION BY RANGE (id);
CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (30001);
CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (30001) TO (60001) PARTITION BY RANGE (id);
CREATE TABLE users_2a PARTITION OF users_2 FOR VALUES FROM (30001) TO (60001) WITH (fillfactor = 70);
CREATE TABLE users_3 PARTITION OF users FOR VALUES FROM (60001) TO (90001);
INSERT INTO users SELECT n, 'value ' || n, n FROM generate_series(1, 60000) AS n;
CREATE INDEX ON users (a);
"""
ID = "0001_m"
MIGRATION = (
    'from zdmigrate import Migration, RenameColumn\nmigration = Migration(RenameColumn("users", "old", "new"))\n'
)
SIZES = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
       sum(pg_table_size(relid))::float8, sum(pg_indexes_size(relid))::float8
FROM (SELECT relid FROM pg_partition_tree('users') UNION SELECT 'users') AS relation(relid)
"""


class Site:
    """A database, a directory with one migration, and what one may ask of both."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database, self.config = database, Config(url=database.conninfo, dir=directory)
        self.told: list[str] = []
        (directory / f"{ID}.py").write_text(MIGRATION, encoding="utf-8")

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            found: list[tuple[Any, ...]] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                found = cursor.fetchall() if cursor.description else []
            return found

    @contextlib.contextmanager
    def project(self, report: Callable[[Event], None] | None = None) -> Iterator[Project]:
        def tell(event: Event) -> None:
            self.told.append(event.message)

        with Project.open(self.config, report=report or tell) as project:
            project.init(environment="development", app_role=None, confirmed=True)
            yield project

    def forecast(self, *, probe: bool = False) -> Forecast:
        with self.project() as project:
            (found,) = project.forecasts(project.plan([]), probe=probe)[ID]
        return found

    def advance(self, to: Phase) -> None:
        with self.project() as project:
            assert project.advance([], target=to).exit_code == 0

    def outcome(self) -> Outcome:
        """Of the step that fills, begun after a checkpoint, as in a table that nobody has written to for a while."""
        marks: dict[str | None, tuple[Any, ...]] = {}

        def report(event: Event) -> None:
            # A step may say more than that it begins: another order of work, for instance.
            if event.kind == "step" and event.phase is Phase.BACKFILL and event.step not in marks and len(marks) < 2:
                marks[event.step] = self.run(SIZES)[0] if marks else self.run("CHECKPOINT", SIZES)[0]

        with self.project(report) as project:
            assert project.advance([], target=Phase.BACKFILL).exit_code == 0
        wal, heap, indexes = (after - before for before, after in zip(*marks.values(), strict=True))
        (rows,) = self.run("SELECT count(new) FROM users")[0]
        return Outcome(rows=rows, wal_bytes=wal, heap_bytes=heap, index_bytes=indexes)


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, tmp_path)


def users(*, rows: int = ROWS, pad: int = 40, options: str = "") -> str:
    return USERS.format(rows=rows, pad=pad, options=options)


def ratios(found: Forecast, outcome: Outcome) -> dict[str, float]:
    return {each.figure: each.ratio for each in forecast.compared(found, outcome) if each.ratio is not None}


# How good it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "WITH (fillfactor = 90)"])
def test_wal_and_growth_are_forecast_within_a_factor_of_two_and_probed_within_half(site: Site, options: str) -> None:
    site.run(users(options=options), "VACUUM (FREEZE, ANALYZE) users", "CHECKPOINT")
    by_statistics, by_probe = site.forecast(), site.forecast(probe=True)
    assert (by_statistics.basis, by_probe.basis) == ("statistics", "probe")
    site.run("VACUUM users")
    outcome = site.outcome()
    told, measured = ratios(by_statistics, outcome), ratios(by_probe, outcome)
    assert told["rows"] == measured["rows"] == 1
    assert 1 / 2 < told["WAL"] < 2
    assert 1 / 2 < told["table"] < 2
    assert 1 / 1.5 < measured["WAL"] < 1.5


def test_wide_rows_of_which_a_third_has_no_value(site: Site) -> None:
    site.run(
        users(rows=50_000, pad=400), "UPDATE users SET old = NULL WHERE id % 3 = 0", "VACUUM (FULL, ANALYZE) users"
    )
    found = site.forecast()
    told = ratios(found, site.outcome())
    assert 0.95 < told["rows"] < 1.05
    assert 1 / 2 < told["WAL"] < 2


def test_room_in_the_pages_is_seen_by_both(site: Site) -> None:
    site.run(users(rows=20_000, options="WITH (fillfactor = 60)"), "VACUUM ANALYZE users")
    for found in (site.forecast(), site.forecast(probe=True)):
        assert (found.striped.hot_share, found.striped.heap_bytes) == (1, 0)
    assert site.outcome().heap_bytes == 0


def test_a_probe_after_dual_write_fills_the_column_itself(site: Site) -> None:
    site.run(users(rows=50_000), "VACUUM ANALYZE users")
    site.advance(Phase.DUAL_WRITE)
    found = site.forecast(probe=True)
    assert "rows were filled and rolled back" in site.told[-1]
    assert site.run("SELECT count(new) FROM users") == [(0,)]
    site.run("VACUUM users")
    assert 1 / 1.5 < ratios(found, site.outcome())["WAL"] < 1.5


# Shapes of tables ----------------------------------------------------------------------------------------------------


def test_partitions_each_have_their_own_statistics(site: Site) -> None:
    site.run(PARTITIONED, "ANALYZE users_1", "ANALYZE users_2a", "ANALYZE users_3")
    by_statistics, by_probe = site.forecast(), site.forecast(probe=True)
    probed = [text for text in site.told if text.startswith("probed ")]
    assert [text.split(":")[0] for text in sorted(probed)] == ["probed public.users_1", "probed public.users_2a"]
    outcome = site.outcome()
    for found in (by_statistics, by_probe):
        told = ratios(found, outcome)
        assert told["rows"] == 1
        assert 1 / 2 < told["WAL"] < 2


def test_a_table_that_nobody_has_analyzed_is_guessed(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users SET (autovacuum_enabled = off)")
    site.run("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'users'::regclass")
    site.run("DELETE FROM pg_statistic WHERE starelid = 'users'::regclass")
    found = site.forecast()
    assert (found.basis, found.notes[0]) == (
        "guess", "nobody has analyzed public.users: ANALYZE gives a better forecast"
    )  # fmt: skip
    told = ratios(found, site.outcome())
    assert 1 / 2 < told["rows"] < 2
    assert 1 / 2 < told["WAL"] < 2


def test_an_empty_table_has_nothing_to_fill_and_nothing_to_probe(site: Site) -> None:
    site.run(users(rows=0))
    found = site.forecast(probe=True)
    assert (found.rows, list(found.lines())) == (0, ["no rows to fill"])
    assert site.told == ["not probed: public.users is empty"]


def test_a_backfill_that_is_over_has_no_forecast(site: Site) -> None:
    site.run(users(rows=100))
    site.advance(Phase.BACKFILL)
    with site.project() as project:
        assert project.forecasts(project.plan([]), probe=True) == {}


def test_the_same_without_the_database(site: Site) -> None:
    site.run(users(rows=10_000), "ANALYZE users")
    with site.project() as project:
        stats = project.snapshot([])
    plans = plan_offline(site.config, [], stats)
    assert forecasts_offline(site.config, plans, stats) == {ID: (site.forecast(),)}


def test_what_a_role_may_not_see_is_said(site: Site) -> None:
    site.run(users(rows=100), "CREATE ROLE forecaster LOGIN", "ALTER TABLE users OWNER TO forecaster")
    with psycopg.connect(site.database.conninfo_as("forecaster"), autocommit=True) as connection:
        assert statistics.server(connection.cursor()).standbys is None
    site.run("GRANT pg_read_all_stats TO forecaster")
    with psycopg.connect(site.database.conninfo_as("forecaster"), autocommit=True) as connection:
        assert statistics.server(connection.cursor()).standbys == 0
    site.run("ALTER TABLE users OWNER TO postgres", "DROP ROLE forecaster")


# What a probe does ---------------------------------------------------------------------------------------------------

WORK = RowWork(schema="public", table="users", assignments=(("new", '"old"'),), unfilled='"new" IS NULL')
STATE = "SELECT md5(string_agg(users::text, ',' ORDER BY id)), count(*) FROM users"


def measured(database: Database, *, suppress: bool = True) -> probe.Report:
    with contextlib.closing(session.connect(database.conninfo, purpose="probe")) as connection:
        return probe.measure(connection, WORK, stripes=16, control_schema="zdmigrate", suppress=suppress)


def test_a_probe_leaves_every_row_as_it_was_and_says_what_it_did(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users ADD new text", "CHECKPOINT")
    before = site.run(STATE)
    report = measured(site.database)
    assert site.run(STATE) == before
    (found,), (said,) = report.probed, report.said
    assert (found.relation, found.stand_in, found.moved) == ("public.users", False, 1.0)
    assert 500 < found.rows < 5_000
    assert 100 < found.record_bytes < 2_000
    assert found.image_bytes is not None
    assert 4_000 < found.image_bytes < 8_300
    assert said.startswith(f"probed public.users: {found.rows:,} rows were filled and rolled back, in ")
    assert said.endswith(" of WAL and left as many dead row versions to VACUUM")


def test_a_probe_waits_for_nobody(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users ADD new text")
    with connect(site.database, autocommit=False) as other:
        other.execute("SELECT FROM users FOR UPDATE")
        report = measured(site.database)
    assert report.probed == ()
    assert report.said == ("not probed: public.users: canceling statement due to lock timeout",)


def test_a_probe_holds_no_lock_when_it_is_done(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users ADD new text")
    with contextlib.closing(session.connect(site.database.conninfo, purpose="probe")) as connection:
        probe.measure(connection, WORK, stripes=16, control_schema="zdmigrate", suppress=True)
        site.run("BEGIN", "LOCK TABLE users IN ACCESS EXCLUSIVE MODE NOWAIT")
        shown = connection.execute("SELECT current_setting('statement_timeout'), current_setting('enable_seqscan')")
        assert shown.fetchone() == ("1min", "on")


def test_rows_that_cannot_be_filled_are_passed_over(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users ADD new text CHECK (new IS NULL)")
    report = measured(site.database)
    assert report.probed == ()
    assert "violates check constraint" in report.said[0]


def test_triggers_that_this_role_cannot_keep_from_firing_prevent_it(site: Site) -> None:
    site.run(
        users(rows=1000),
        "CREATE TABLE seen (id integer)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'fired'; END $$",
        "CREATE TRIGGER note AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION note()",
        "ALTER TABLE users ADD new text",
    )
    assert measured(site.database).probed != ()  # they do not fire
    assert measured(site.database, suppress=False).said == (
        "not probed: triggers of public.users fire for every UPDATE, and this role cannot prevent it",
    )
    site.run("ALTER TABLE users ENABLE ALWAYS TRIGGER note")
    assert measured(site.database).said[0].startswith("not probed: triggers of public.users")


def test_a_standby_is_refused(replica_pair: ReplicaPair) -> None:
    with (
        psycopg.connect(replica_pair.replica.conninfo("postgres"), autocommit=True) as connection,
        pytest.raises(Unsafe, match="standby"),
    ):
        probe.measure(connection, WORK, stripes=16, control_schema="zdmigrate", suppress=True)
    with psycopg.connect(replica_pair.primary.conninfo("postgres"), autocommit=True) as connection:
        facts = statistics.server(connection.cursor())
    assert (facts.standbys, facts.feedback) == (1, False)


def test_applications_write_while_it_probes(site: Site) -> None:
    site.run(users(rows=20_000), "ALTER TABLE users ADD new text")
    stop, failed, written = threading.Event(), [], [0]

    def write() -> None:
        with connect(site.database) as connection:
            while not stop.is_set():
                try:
                    connection.execute("UPDATE users SET a = a + 1 WHERE id = %s", (1 + written[0] * 7 % 20_000,))
                    written[0] += 1
                except psycopg.Error as error:
                    failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            measured(site.database)
    finally:
        stop.set()
        writer.join()
    assert failed == []
    assert written[0] > 0
    assert site.run("SELECT count(new) FROM users") == [(0,)]


def test_the_snapshot_is_a_file_that_people_can_read(site: Site) -> None:
    site.run(users(rows=1000), "ANALYZE users")
    with site.project() as project:
        document = json.loads(project.snapshot([]))
    (storage,) = document["storage"]
    assert (storage["relation"], storage["rows"]) == ("public.users", 1000)
    assert document["server"]["block_size"] == 8192


def test_the_pace_is_the_configured_one(site: Site) -> None:
    assert forecasting.pacing(site.config.backfill) == Pacing()
    given = Backfill(window_pages=7, stripes=3, batch_rows=9, pause=timedelta(milliseconds=20))
    assert forecasting.pacing(given) == Pacing(window_pages=7, stripes=3, batch_rows=9, pause=0.02)
