"""The gate ``shadow_reads``, on the command line, with processes that compare."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.processes import RENAME, ROOT, Site, until
from tests.support.servers import connect

ROLE = "shop_app"
SWITCH = ("advance", "--to", "switch_reads")

_PROGRAM = """
import sys, time
import psycopg
from zdmigrate.app import ShadowRead, register
url = sys.argv[1]
fleet = register(url, application="shop", version="2", interval=0.2)
fleet._source.tally.every = 0.2
shadow = fleet.shadow("0001_email", url, sample=1)
connection = psycopg.connect(url, autocommit=True)
assert fleet.refresh(30)
def compare(number, new="email_address"):
    old = lambda key: lambda c: c.execute("SELECT user_email FROM users WHERE id = %s", (key,)).fetchall()
    other = lambda key: lambda c: c.execute(f"SELECT {new} FROM users WHERE id = %s", (key,)).fetchall()
    for key in range(1, number + 1):
        shadow.read(key, old=old(key), new=other(key), on=connection)
        while shadow._queue.qsize() > 20:
            time.sleep(0.001)
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@contextmanager
def comparing(shop: Site) -> Iterator[subprocess.Popen[str]]:
    """An instance that compares what it is asked to."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), shop.database.conninfo_as(ROLE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], expression: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(expression + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.fixture
def shop(site: Site) -> Site:
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
    site.sql(
        "CREATE TABLE users (id bigserial PRIMARY KEY, user_email text NOT NULL)",
        "INSERT INTO users (user_email) SELECT 'u' || g FROM generate_series(1, 40) g",
        f"GRANT SELECT ON users TO {ROLE}",
    )
    declare(site, 'ShadowReads(compares=30, mismatches="5 %")')
    site.init("development")
    site.run("init", "--app-role", ROLE).expect(0)
    return site


def declare(site: Site, demand: str) -> None:
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")', f"shadow_reads={demand}")


def gate(shop: Site) -> tuple[bool, str]:
    shown = shop.run("status", "--format", "json").expect(0).migration(RENAME)
    [found] = [each for each in shown["gates"] if each["name"] == "shadow_reads"]
    return found["satisfied"], found["detail"]


def compares(shop: Site) -> int:
    return int(shop.value("SELECT coalesce(sum(compares), 0) FROM zdmigrate.shadow_read"))


def test_it_is_closed_until_enough_was_compared_and_little_differs(shop: Site) -> None:
    shown = shop.run("plan").expect(0).out
    assert (
        "gate  shadow_reads (before switch_reads, else exit 4): instances compared both reads at least 30 times"
        in shown
    )
    shop.run("advance", "--to", "backfill").expect(0)
    done = shop.run(*SWITCH).expect(4)
    assert "shadow_reads: no instance has compared both reads within 1 day" in done.out
    assert '--override shadow_reads="reason"' in done.out
    with comparing(shop) as process:
        ask(process, "compare(20)")
        until(lambda: compares(shop) == 20, "they are told")
        done = shop.run(*SWITCH).expect(4)
        assert "shadow_reads: 20 of 30 compares since" in done.out
        shown = shop.run("status").expect(0).out
        assert "  shadow  20 compares since" in shown
        found = shop.run("status", "--format", "json").expect(0).migration(RENAME)["compared"]
        assert (found["compares"], found["mismatches"], found["samples"]) == (20, 0, [])

        ask(process, 'compare(10, "upper(email_address)")')
        until(lambda: compares(shop) == 30, "they are told")
        done = shop.run(*SWITCH).expect(4)
        assert "30 compares since" in done.out
        assert "10 mismatches (33.33 %, at most 5 %): key " in done.out
        assert "old [('u" in done.out
        assert "new [('U" in done.out
        done = shop.run(*SWITCH, "--steps", "5,100", "--every", "1s").expect(4)
        assert "10 mismatches" in done.out
        assert shop.value("SELECT count(*) FROM zdmigrate.read_switch WHERE percent > 0") == 0, "nobody reads it yet"

        for times in range(1, 5):
            ask(process, "compare(40)")
            until(lambda expected=30 + 40 * times: compares(shop) == expected, "they are told")  # type: ignore[misc]
        assert gate(shop)[0] is False
        ask(process, "compare(40)")
        until(lambda: compares(shop) == 230, "they are told")
        satisfied, detail = gate(shop)
        assert (satisfied, "230 compares" in detail, "10 mismatches (4.348 %, at most 5 %)" in detail) == (
            True,
            True,
            True,
        )
        shop.run(*SWITCH).expect(0)
        ask(process, "compare(5)")
        until(lambda: "  shadow  5 compares" in shop.run("status").out, "they go on until the old shape goes")


def test_who_goes_back_and_comes_again_has_to_compare_again(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    with comparing(shop) as process:
        ask(process, "compare(40)")
        until(lambda: compares(shop) == 40, "they are told")
        assert gate(shop)[0] is True
        shop.run("revert", RENAME, "--to", "expand", "--override", "drained=test").expect(0)
        ask(process, "compare(40)")
        shop.run("unhold", RENAME).expect(0)
        shop.run("advance", "--to", "backfill").expect(0)
        assert gate(shop)[0] is False
        until(lambda: ask(process, "bool(fleet.refresh() and shadow._wanted())") == "True", "it has heard of it")
        ask(process, "compare(40)")
        until(lambda: gate(shop)[0], "the new ones count")
        assert "40 compares" in gate(shop)[1]


def test_somebody_may_know_better(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    shop.run(*SWITCH, "--override", "shadow_reads=compared by hand").expect(0)
    assert shop.rows("SELECT detail FROM zdmigrate.event WHERE action = 'override'") == [
        ("shadow_reads: compared by hand",)
    ]


def test_a_demand_that_is_changed_in_flight_is_another_migration(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    declare(shop, "ShadowReads(compares=1)")
    shop.run(*SWITCH).expect(7)
    declare(shop, "ShadowReads(compares=0)")
    assert "compares must be a number from 1 on" in shop.run(*SWITCH).expect(2).err
