"""A backfill under fire: processes killed, a crowd of clients, poisoned rows, a pause and SIGTERM while a batch waits."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import backfilling, servers
from tests.support.backfilling import Connection
from tests.support.crowd import Crowd
from tests.support.processes import ROOT, Forker, Running, Site, transaction, until
from tests.support.servers import Database, base_for_tests
from zdmigrate.backfill import worker
from zdmigrate.backfill.bad_rows.quarantine import Limit, Quarantine
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.plan import RowWork
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

Process = subprocess.Popen[str]


@pytest.fixture
def main(database: Database) -> Iterator[Connection]:
    with servers.connect(database) as connection:
        backfilling.make_control(connection)
        yield connection


def value(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query.encode(), values or None).fetchone()
    return None if row is None else row[0]


# kill -9 -------------------------------------------------------------------------------------------------------------

ROWS = 40_000
FILLED = "SELECT count(*) FROM public.users WHERE new IS NOT NULL"
UNDER_WAY = """
SELECT count(DISTINCT process.pid) FROM "Control".backfill_window AS w
JOIN "Control".backfill_process AS process USING (process) WHERE w.stripe > 0
"""


@contextlib.contextmanager
def processes(database: Database, number: int) -> Iterator[list[Process]]:
    """Processes that share the backfill; those that still run are killed at the end."""
    command = [sys.executable, "-m", "tests.support.backfilling", database.conninfo]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def sessions_of(connection: Connection, process: Process) -> int:
    """How many sessions of a process the server still has."""
    query = """
        SELECT count(*) FROM pg_stat_activity AS session JOIN "Control".backfill_process AS process
        ON (session.pid, session.backend_start) = (process.backend, process.backend_start) WHERE process.pid = %s
        """
    return int(value(connection, query, process.pid))


def stop_with_a_window(connection: Connection, process: Process) -> None:
    """Stop the process where it has filled a part of a window, and nothing of its own is under way on the server."""
    query = """
        SELECT count(*) FROM "Control".backfill_window AS w JOIN "Control".backfill_process AS process USING (process)
        WHERE process.pid = %s AND w.stripe > 0 AND w.page >= 0 AND NOT EXISTS (
            SELECT FROM pg_stat_activity AS session WHERE session.pid = process.backend AND session.state = 'active')
        """

    def is_there() -> bool:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        found = value(connection, query, process.pid)
        if not found:
            assert process.poll() is None, "it was done too soon"
            process.send_signal(signal.SIGCONT)
        return bool(found)

    until(is_there, "it is in the middle of a window")


def expect_all_written_once(connection: Connection) -> None:
    found = connection.execute("SELECT writes, new = old, count(*) FROM public.users GROUP BY 1, 2").fetchall()
    assert found == [(1, True, ROWS)]
    assert backfilling.counted(connection) == ROWS
    assert value(connection, 'SELECT count(*) FROM "Control".backfill_window') == 0


def test_one_of_four_processes_is_killed(main: Connection, database: Database) -> None:
    backfilling.make_users(main, ROWS)
    with processes(database, 4) as started:
        until(lambda: value(main, UNDER_WAY) == 4, "all four fill windows")
        victim, *others = started
        stop_with_a_window(main, victim)
        victim.kill()
        for process in others:
            out, _ = process.communicate(timeout=60)
            assert (process.returncode, out) == (0, f"begun\n{ROWS}\n")
    expect_all_written_once(main)


def test_all_of_four_processes_are_killed(main: Connection, database: Database) -> None:
    backfilling.make_users(main, ROWS)
    with processes(database, 4) as started:
        until(lambda: value(main, UNDER_WAY) == 4, "all four fill windows")
        for process in started:
            process.kill()
        until(lambda: not sum(sessions_of(main, process) for process in started), "the server has noticed")
    filled = value(main, FILLED)
    assert 0 < filled < ROWS
    assert backfilling.counted(main) == filled
    outcome = backfilling.run(main, lambda: servers.connect(database))
    assert outcome == worker.Outcome(rows=ROWS, complete=True)
    expect_all_written_once(main)


# A crowd of clients --------------------------------------------------------------------------------------------------

CLIENTS = 200
RENAME = "0001_email"


@pytest.fixture
def crowded(pg_binaries: ServerBinaries, forker: Forker, tmp_path: Path) -> Iterator[Site]:
    """A project whose server lets everybody in."""
    settings = {"max_connections": str(CLIENTS + 50)}
    with ScratchServer.start(pg_binaries, settings=settings, base=base_for_tests()) as server:
        server.create_database("crowded")
        yield Site(forker, Database(server, "crowded"), tmp_path)


def with_users(site: Site, rows: int) -> None:
    """A table of so many rows, and a migration that has its triggers in place."""
    site.sql(
        "CREATE TABLE users (id bigserial PRIMARY KEY, user_email text NOT NULL)",
        f"INSERT INTO users (user_email) SELECT 'u' || g FROM generate_series(1, {rows}) AS g",
    )
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    site.init()
    site.run("advance", "--to", "dual_write").expect(0)


FILLED_ROWS = (
    "SELECT coalesce((SELECT sum(rows) FROM zdmigrate.backfill), 0)"
    " + coalesce((SELECT sum(rows) FROM zdmigrate.backfill_window), 0)"
)
WRONG = "SELECT count(*) FROM users WHERE email_address IS DISTINCT FROM user_email"


def test_a_backfill_ends_while_two_hundred_clients_insert_faster(crowded: Site) -> None:
    before = 20_000
    with_users(crowded, before)
    insert = "INSERT INTO users (user_email) SELECT 'c' || g FROM generate_series(1, 10) AS g"
    with Crowd(crowded.database.conninfo, insert, clients=CLIENTS, rest=0.1) as crowd:
        until(lambda: crowd.rows > CLIENTS, "they insert")
        began = crowd.rows
        running = crowded.start(
            "advance", "--to", "backfill", ZDMIGRATE_BACKFILL_WINDOW_PAGES="20", ZDMIGRATE_BACKFILL_PAUSE="20ms"
        )
        until(lambda: crowded.value(FILLED_ROWS) == before, "every row of before is filled")
        inserted = crowd.rows - began
        running.wait(120).expect(0)
    assert inserted > before, "they were slower than the backfill"
    assert crowded.value(FILLED_ROWS) == before, "what they have inserted is the trigger's business"
    assert crowded.value(WRONG) == 0
    assert crowded.value("SELECT count(*) FROM users") == before + crowd.rows


# Poisoned rows -------------------------------------------------------------------------------------------------------


class Poisoned:
    """Tables of numbers as texts, some of which are none; each is backfilled as a step of its own name."""

    def __init__(self, main: Connection, database: Database, rows: int) -> None:
        self._main, self._database, self._rows = main, database, rows

    def seconds(self, name: str, *, bad: int) -> float:
        """How long a backfill takes of a table in which so many rows fail; exactly those are set aside."""
        self._make(name, bad)
        began = time.monotonic()
        outcome = self._fill(name)
        elapsed = time.monotonic() - began
        assert outcome == worker.Outcome(rows=self._rows - bad, complete=True)
        self._check(name)
        self._main.execute(f"DROP TABLE {name}".encode())
        return elapsed

    def _make(self, name: str, bad: int) -> None:
        # Scattered, and as many as wanted: those with the lowest hashes.
        text = f"CASE WHEN rank() OVER (ORDER BY hashint8(n), n) <= {bad} THEN 'x' ELSE n::text END"
        for statement in (
            f"CREATE TABLE {name} (id integer PRIMARY KEY, old text, number integer)",
            f"INSERT INTO {name} SELECT n, {text} FROM generate_series(1::bigint, {self._rows}) AS g(n) ORDER BY g.n",
            f"VACUUM ANALYZE {name}",
            "CHECKPOINT",
        ):
            self._main.execute(statement.encode())

    def _fill(self, name: str) -> worker.Outcome:
        work = RowWork(
            schema="public", table=name, assignments=(("number", '"old"::integer'),),
            unfilled='"number" IS DISTINCT FROM "old"::integer',
        )  # fmt: skip
        quarantine = Quarantine(control_schema=backfilling.SCHEMA, migration=1, step=name)
        aside = Aside(quarantine=quarantine, limit=Limit(rows=self._rows))
        return backfilling.run(
            self._main, lambda: servers.connect(self._database), rows=work, step=name, settings=worker.Settings(),
            aside=aside,
        )  # fmt: skip

    def _check(self, name: str) -> None:
        difference = (
            """
            SELECT count(*) FROM (SELECT (key->>'id')::integer AS id FROM "Control".quarantine
                                  WHERE step = %s AND sqlstate = '22P02' AND attempts = 1 AND resolved_at IS NULL) AS entry
            FULL JOIN (SELECT id FROM """
            + name
            + """ WHERE old = 'x') AS bad USING (id) WHERE entry IS NULL OR bad IS NULL
            """
        )
        assert value(self._main, difference, name) == 0
        wrong = f"SELECT count(*) FROM {name} WHERE number IS DISTINCT FROM CASE WHEN old <> 'x' THEN id END"
        assert value(self._main, wrong) == 0


@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_one_in_a_hundred_rows_is_poisoned(main: Connection, database: Database, rows: int) -> None:
    tables = Poisoned(main, database, rows)
    pairs = [(tables.seconds(f"clean{n}", bad=0), tables.seconds(f"poisoned{n}", bad=rows // 100)) for n in range(3)]
    ratio = statistics.median(poisoned / clean for clean, poisoned in pairs)
    assert ratio < 2, f"seconds, clean and poisoned: {pairs}"


# A batch that waits --------------------------------------------------------------------------------------------------

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'zdmigrate%' AND wait_event_type = 'Lock' "
    "AND backend_type = 'client backend'"
)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'zdmigrate%'"
MANY = 40_000


@contextlib.contextmanager
def waiting(site: Site) -> Iterator[Running]:
    """A backfill of which a batch waits for a row that somebody has locked, with most of the table before it."""
    with_users(site, MANY)
    with transaction(site.database, "SELECT FROM users WHERE id = 1 FOR UPDATE"):
        running = site.start(
            "advance", "--to", "backfill", ZDMIGRATE_BACKFILL_WINDOW_PAGES="10", ZDMIGRATE_BACKFILL_STRIPES="4",
            ZDMIGRATE_BACKFILL_PAUSE="50ms",
        )  # fmt: skip
        until(lambda: site.value(WAITING), "a batch waits for the row")
        yield running


def test_a_pause_while_a_batch_waits_takes_effect_within_a_second(site: Site) -> None:
    with waiting(site) as running:
        site.run("backfill", "pause", "--reason", "now").expect(0)
        said = time.monotonic()
        until(lambda: time.monotonic() > said + 1, "a second has passed")
        held = site.value(FILLED_ROWS)
        until(lambda: time.monotonic() > said + 2.5, "it would have gone on")
        assert site.value(WAITING) == 0
    assert site.value(FILLED_ROWS) == held == site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL")
    assert held < MANY - 1, "there was something left to do"
    site.run("backfill", "resume").expect(0)
    running.wait().expect(0)
    assert site.value(FILLED_ROWS) == MANY
    assert site.value(WRONG) == 0


def test_sigterm_while_a_batch_waits_ends_it_on_the_server_too(site: Site) -> None:
    with waiting(site) as running:
        running.send(signal.SIGTERM)
        sent = time.monotonic()
        running.wait().expect(3)
        assert time.monotonic() - sent < 2
        assert site.value(SESSIONS) == 0, "the batch is still there"
        filled = site.value(FILLED_ROWS)
        assert filled == site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL") < MANY
    site.run("advance", "--to", "backfill").expect(0)
    assert site.value(FILLED_ROWS) == MANY
    assert site.value(WRONG) == 0
