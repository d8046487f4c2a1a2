"""A control schema that is slow, locked, gone, read-only or somebody else's: the application serves as one without it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from tests.support.processes import RENAME, ROOT, Site, until, with_users
from tests.support.servers import connect
from tests.support.workers import Worker

ROLE, HEART = "shop_app", "shop_heart"
ROUNDS, WINDOW = 8, 0.2
"""In turns with a process that has nothing to do with the control schema, so that a busy machine slows both."""

# A request writes a row by both names and reads it back by the one that the switch says: it is right whichever that is,
# and without the sync triggers, too, which go with the schema.
_PROGRAM = """
import json, sys, time
import sqlalchemy as sa
from zdmigrate.app import ReadSwitch, register

url, heart, otherwise = sys.argv[1:]
engine = sa.create_engine(url, pool_size=1, max_overflow=0)
users = sa.table("users", sa.column("id"), sa.column("user_email"), sa.column("email_address"))
switch = ReadSwitch("0001_email", otherwise=otherwise)
if heart:
    fleet = register(engine if heart == url else sa.create_engine(heart), application="shop", version="1", interval=0.5)
    assert fleet.refresh(30)


def request(number):
    column = switch.pick(number, old=users.c.user_email, new=users.c.email_address)
    value = f"request {number}"
    with engine.begin() as connection:
        written = sa.insert(users).values(user_email=value, email_address=value).returning(users.c.id)
        key = connection.execute(written).scalar_one()
        assert connection.execute(sa.select(column).where(users.c.id == key)).scalar_one() == value
    return column.name


def serve(seconds):
    columns, taken, failed, end = set(), [], [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            columns.add(request(len(taken)))
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}"[:300])
        taken.append(time.monotonic() - began)
    return json.dumps({"columns": sorted(columns), "taken": taken, "failed": failed})


print("registered", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What was made of some time: the columns that were read, and what each request took in seconds."""

    columns: list[str]
    taken: list[float]

    def __add__(self, other: Served) -> Served:
        return Served(sorted({*self.columns, *other.columns}), self.taken + other.taken)


class Serving(Worker):
    """A process that serves requests when it is told to."""

    def serve(self, seconds: float = WINDOW) -> Served:
        """For so long, as quickly as it can; no request fails."""
        answer = json.loads(self.ask(f"serve({seconds})"))
        assert answer.pop("failed") == []
        return Served(**answer)


def in_turns(*processes: Serving) -> list[Served]:
    """What each has served in the same while."""
    served = [Served([], []) for _ in processes]
    for _ in range(ROUNDS):
        served = [before + process.serve() for before, process in zip(served, processes, strict=True)]
    return served


@contextmanager
def serving(site: Site, heart: str | None, otherwise: Literal["old", "new"]) -> Iterator[Serving]:
    """A process whose heartbeats go over connections of the role `heart`; None: it does not register."""
    url = f"postgresql+psycopg://{ROLE}@/{site.database.name}?host={site.database.server.host}&port={site.database.server.port}"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), url, (heart and url.replace(ROLE, heart)) or "", otherwise],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "registered"
        yield Serving(process, (process.stdin, process.stdout))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def shop(site: Site) -> Site:
    """Both shapes are full; heartbeats may have a role of their own."""
    with connect(site.database) as connection:
        for role in (ROLE, HEART):
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    with_users(site)
    for role in (ROLE, HEART):
        site.run("init", "--app-role", role).expect(0)
    site.sql(f"GRANT SELECT, INSERT ON users TO {ROLE}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}")
    site.run("advance", "--to", "backfill").expect(0)
    return site


SLOW = """
CREATE OR REPLACE FUNCTION zdmigrate.app_beat(of_instance text, lease interval, of_seen jsonb, asked text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_sleep(10);
    RETURN zdmigrate.app_snapshot('default', asked);
END $$
"""
READ_ONLY = (
    f"ALTER ROLE {HEART} SET default_transaction_read_only = on",
    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{HEART}' AND datname = current_database()",
)
NEWER = """
UPDATE zdmigrate.meta SET value = '99' WHERE key = 'schema_version';
DROP FUNCTION zdmigrate.app_beat, zdmigrate.app_register, zdmigrate.app_retire, zdmigrate.app_snapshot;
CREATE FUNCTION zdmigrate.app_beat(of_instance uuid, document jsonb) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea';
CREATE FUNCTION zdmigrate.app_register(document jsonb) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea';
"""


@contextmanager
def sick(site: Site, how: str) -> Iterator[None]:
    """The control schema is, until the end."""
    with contextlib.ExitStack() as until_the_end:
        match how:
            case "slow":
                site.sql(SLOW)
            case "locked":
                blocker = until_the_end.enter_context(connect(site.database, autocommit=False))
                blocker.execute("LOCK TABLE zdmigrate.app_instance IN ACCESS EXCLUSIVE MODE")
            case "dropped":
                site.sql("DROP SCHEMA zdmigrate CASCADE")
            case "read-only":
                until_the_end.callback(site.sql, f"ALTER ROLE {HEART} RESET default_transaction_read_only")
                site.sql(*READ_ONLY)
            case _:
                site.sql(NEWER)
        yield


@pytest.mark.parametrize(
    ("how", "otherwise"),
    [("slow", "old"), ("locked", "new"), ("dropped", "old"), ("read-only", "new"), ("newer", "old")],
)
def test_it_serves_at_full_speed_and_reads_the_safe_side(
    shop: Site, how: str, otherwise: Literal["old", "new"]
) -> None:
    """Before, everybody reads the other side."""
    old, new = ["user_email"], ["email_address"]
    other, safe, percent = (new, old, "100") if otherwise == "old" else (old, new, "0")
    shop.run("switch", RENAME, percent).expect(0)
    with (
        serving(shop, HEART if how == "read-only" else ROLE, otherwise) as application,
        serving(shop, None, otherwise) as control,
    ):
        assert application.serve().columns == other
        with sick(shop, how):
            until(lambda: application.serve().columns == safe, "its lease is over")
            ours, theirs = in_turns(application, control)
            assert ours.columns == safe
            assert len(ours.taken) > len(theirs.taken) / 4
            assert statistics.median(ours.taken) < 4 * statistics.median(theirs.taken)
            assert max(ours.taken) < max(theirs.taken) + 1, "a heartbeat would take two seconds, or ten, or for ever"
            assert application.ask("bool(fleet.ready())") == "True", "no balancer takes it out"
            began = time.monotonic()
            assert application.ask("fleet.retire()") == "None"
            assert time.monotonic() - began < 8, "it says goodbye, and does not wait until that is heard"
