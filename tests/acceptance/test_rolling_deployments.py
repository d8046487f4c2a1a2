"""Eight processes of an application, rolled from N to N+1, back and forth again, while the migration advances by itself."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import pgbouncer
from tests.support.processes import RENAME, ROOT, Site, until, with_users
from tests.support.servers import Database, base_for_tests, connect
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

ROLE = "shop_app"
COLUMNS = {"N": "user_email", "N+1": "email_address"}
SOAKED = ("--override", "soak=drill")

# What a request does: it writes a row and reads it back, by the column that its version knows.
_PROGRAM = """
import json, os, signal, sys, time
import psycopg
import sqlalchemy as sa
from zdmigrate.app import register

url, version, column, report = sys.argv[1:]
engine = sa.create_engine(
    "postgresql+psycopg://", creator=lambda: psycopg.connect(url, application_name="shop/" + version, prepare_threshold=None),
    pool_size=1,
)
metadata = sa.MetaData()
users = sa.Table("users", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column(column, sa.Text))
fleet = register(engine, application="shop", version=version, metadata=metadata, interval=0.5)
ended, failed, done, longest = [], [], 0, 0.0
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
assert fleet.refresh(30)
print("registered", flush=True)
while not ended:
    began = time.monotonic()
    value = f"{os.getpid()}-{done}"
    try:
        with engine.begin() as connection:
            key = connection.execute(sa.insert(users).values({column: value}).returning(users.c.id)).scalar_one()
        with engine.begin() as connection:
            found = connection.execute(sa.select(users.c[column]).where(users.c.id == key)).scalar_one()
        assert found == value, (found, value)
        done += 1
    except Exception as error:
        failed.append(f"{type(error).__name__}: {error}"[:300])
    longest = max(longest, time.monotonic() - began)
    time.sleep(0.02)
fleet.retire()
with open(report, "w") as file:
    json.dump({"version": version, "done": done, "failed": failed, "longest": longest}, file)
"""


class Fleet:
    """The processes of an application that is deployed."""

    def __init__(self, site: Site, url: str, folder: Path) -> None:
        self._site, self._url, self._folder = site, url, folder
        self._number = 0
        self.running: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self, version: str) -> None:
        """One more process; returns when it has registered."""
        self._number += 1
        report = self._folder / f"report{self._number}.json"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_PROGRAM), self._url, version, COLUMNS[version], str(report)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.running.append((version, process))
        assert process.stdout is not None
        with process.stdout as pipe:
            assert pipe.readline().strip() == "registered"

    def stop(self, version: str, *, but: subprocess.Popen[str] | None = None) -> None:
        """The oldest process of a version ends in good order."""
        entry = next(entry for entry in self.running if entry[0] == version and entry[1] is not but)
        self.running.remove(entry)
        entry[1].terminate()
        assert entry[1].wait(30) == 0

    def roll(self, before: str, after: str, number: int) -> None:
        """Replace processes, one after the other."""
        for _ in range(number):
            self.start(after)
            self.stop(before)
            assert self._site.phase(RENAME) != "retire" or not self.has("N")

    def has(self, version: str) -> bool:
        """Whether a process of the version is alive."""
        return any(each == version for each, _ in self.running)

    def reports(self) -> list[dict[str, Any]]:
        """What those that have ended did."""
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("report*.json"))]

    def kill(self) -> None:
        """Whatever is left."""
        for _, process in self.running:
            process.kill()
            process.wait()


@contextmanager
def deployed(site: Site, url: str, folder: Path, number: int) -> Iterator[Fleet]:
    """So many processes of N."""
    fleet = Fleet(site, url, folder)
    try:
        for _ in range(number):
            fleet.start("N")
        yield fleet
    finally:
        fleet.kill()


def prepared(site: Site) -> Site:
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
    with_users(site, rows=5_000, environment="production")
    site.run("init", "--app-role", ROLE).expect(0)
    site.sql(f"GRANT SELECT, INSERT, UPDATE ON users TO {ROLE}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}")
    return site


def refuse_failures(fleet: Fleet, least: int) -> None:
    reports = fleet.reports()
    assert [failure for report in reports for failure in report["failed"]] == []
    assert sum(report["done"] for report in reports) >= least


def everything_is_right(site: Site) -> None:
    site.run("verify").expect(0)
    last = site.rows(
        "SELECT (SELECT max(retired_at) FROM zdmigrate.app_instance WHERE version = 'N'), "
        "(SELECT max(at) FROM zdmigrate.event WHERE action = 'do' AND phase = 'retire')"
    )
    ((gone, taken),) = last
    assert gone < taken, "the old shape was taken away after the last instance of N had gone"


def drill(site: Site, url: str, reports: Path, workers: int) -> None:
    """Back and forth; whoever fails a request says so in its report."""
    reports.mkdir()
    with deployed(site, url, reports, workers) as fleet:
        advancing = site.start("advance", "--to", "backfill")
        advancing.wait().expect(0)
        advancing = site.start("advance", "--to", "retire", "--wait", "10m", *SOAKED)
        fleet.roll("N", "N+1", workers - 1)
        assert site.phase(RENAME) == "switch_reads", "it has gone as far as it may"
        site.run("can-run", "shop", "N").expect(0)
        fleet.roll("N+1", "N", workers - 1)
        # One of N is stopped for longer than its lease, and comes back.
        stopped = next(process for version, process in fleet.running if version == "N")
        stopped.send_signal(signal.SIGSTOP)
        expired = (
            "SELECT count(*) FROM zdmigrate.app_instance WHERE retired_at IS NULL AND expires_at < clock_timestamp()"
        )
        until(lambda: site.value(expired) == 1, "its lease runs out")
        for _ in range(workers - 1):
            fleet.start("N+1")
            fleet.stop("N", but=stopped)
        assert site.phase(RENAME) == "switch_reads", "the one that is stopped may come back"
        stopped.send_signal(signal.SIGCONT)
        until(lambda: site.value(expired) == 0, "it is back")
        assert site.phase(RENAME) == "switch_reads"
        fleet.stop("N")
        advancing.wait().expect(0)
        assert site.phase(RENAME) == "retire"
        time.sleep(0.3)  # some more requests on what is left
        site.run("can-run", "shop", "N").expect(6)
        while fleet.running:
            fleet.stop("N+1")
        refuse_failures(fleet, 500)
    everything_is_right(site)


def test_forth_back_and_forth_again_without_a_failed_request(site: Site, tmp_path: Path) -> None:
    drill(prepared(site), site.database.conninfo_as(ROLE), tmp_path / "reports", workers=8)


@pytest.mark.skipif(pgbouncer.PROGRAM is None, reason=pgbouncer.MISSING)
def test_the_same_through_pgbouncer(site: Site, tmp_path: Path) -> None:
    with pgbouncer.pooled(prepared(site).database, ROLE) as url:
        drill(site, url, tmp_path / "reports", workers=4)


def test_a_restart_of_the_database_changes_nothing(pg_binaries: ServerBinaries, site: Site, tmp_path: Path) -> None:
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as server:
        server.create_database("shop")
        own = prepared(dataclasses.replace(site, database=Database(server, "shop")))
        own.run("advance", "--to", "switch_reads").expect(0)
        fleet = Fleet(own, own.database.conninfo_as(ROLE), tmp_path)
        try:
            fleet.start("N")
            fleet.start("N+1")
            server.restart()
            seen = "SELECT count(*) FROM zdmigrate.app_instance WHERE seen_at > pg_postmaster_start_time()"

            def back() -> bool:
                try:
                    return bool(own.value(seen) == 2)
                except psycopg.OperationalError:
                    return False

            until(back, "both report in again")
            done = own.run("advance", "--to", "retire", *SOAKED).expect(4)
            assert "shop N (" in done.out
            fleet.stop("N")
            own.run("advance", "--to", "retire", *SOAKED).expect(0)
        finally:
            fleet.kill()
