"""Statements that the server counts, and that name the shape which is about to go, keep the gate `drained` closed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.processes import RENAME, Forker, Site, until, with_users
from tests.support.servers import Database, base_for_tests
from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable
from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

ROLE, OWNER = "shop_app", "shop_owner"
SOAKED = ("--override", "soak=test", "--override", "retire_soak=test")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def counting(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    """A server that counts statements."""
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    try:
        server = ScratchServer.start(pg_binaries, base=base_for_tests(), settings=settings)
    except ServerUnavailable as error:
        pytest.skip(f"no pg_stat_statements: {error.message}")
    with server:
        with server.connect() as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
            connection.execute(f"CREATE ROLE {OWNER} LOGIN".encode())
        yield server


@pytest.fixture
def shop(forker: Forker, counting: ScratchServer, tmp_path: Path) -> Iterator[Site]:
    """In production, at `switch_reads`; somebody has said that N+1 is deployed. The extension has a schema of its own."""
    name = f"counted_{next(_numbers)}"
    counting.create_database(name)
    try:
        site = with_users(Site(forker, Database(counting, name), tmp_path), environment="production")
        site.sql(
            'CREATE SCHEMA "Ext ension"',
            'CREATE EXTENSION pg_stat_statements SCHEMA "Ext ension"',
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {ROLE}",
            f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}",
        )
        site.run("advance", "--to", "switch_reads").expect(0)
        site.run("deployed", "shop", "2").expect(0)
        yield site
    finally:
        counting.drop_database(name)


def as_shop(site: Site, *statements: str) -> None:
    with psycopg.connect(site.database.conninfo_as(ROLE), autocommit=True, application_name="shop/2") as connection:
        for statement in statements:
            connection.execute(statement.encode())
    name = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = %s"
    until(lambda: site.value(name, ROLE) == 0, "its session is gone")


def drained(site: Site) -> str:
    shown = site.run("status", "--format", "json").expect(0)
    found: str = next(gate["detail"] for gate in shown.migration(RENAME)["gates"] if gate["name"] == "drained")
    return found


def refused(site: Site, **env: Any) -> str:
    """What the gate says when `advance` asks, which must wait for it."""
    return site.run("advance", *SOAKED, **env).expect(4).out


def held(site: Site) -> None:
    """The soak keeps `retire` from beginning: `advance` asks, and looks."""
    out = site.run("advance").expect(4).out
    assert "soak: switch_reads has to soak" in out


def test_one_that_ran_since_the_last_look_keeps_it_closed_for_a_quarter_of_an_hour(shop: Site) -> None:
    as_shop(shop, "SELECT user_email FROM users WHERE id = 1")
    assert "statements before that: they are counted once advance looks" in drained(shop)
    held(shop)
    assert "no statement has named it since" in drained(shop), "what ran before the first look speaks against nobody"
    as_shop(shop, *["UPDATE users SET user_email = 'x' WHERE id = 1"] * 3, "SELECT id, email_address FROM users")
    expected = f"statement of role {ROLE}, ran 3 times since"
    assert expected in drained(shop), "who looks without writing sees it, too"
    out = refused(shop)
    assert expected in out
    assert "UPDATE users SET user_email = $1 WHERE id = $2" in out
    assert "email_address FROM" not in out
    assert expected in refused(shop), "it is not forgotten by looking again"
    shop.sql("UPDATE zdmigrate.statement_mark SET ran_at = ran_at - interval '15 min'")
    shop.sql("UPDATE zdmigrate.write_note SET at = at - interval '15 min'")  # the trigger has seen it as well
    assert "no statement has named it since" in drained(shop)
    shop.run("advance", *SOAKED).expect(0)
    assert shop.phase(RENAME) == "retire"


def test_looking_without_writing_keeps_nothing(shop: Site) -> None:
    for command in ("status", "plan", "history"):
        shop.run(command).expect(0)
    assert shop.value("SELECT count(*) FROM zdmigrate.statement_look") == 0
    held(shop)
    before = shop.rows("SELECT * FROM zdmigrate.statement_look")
    shop.run("status").expect(0)
    assert shop.rows("SELECT * FROM zdmigrate.statement_look") == before


def test_after_a_reset_it_counts_what_ran_again(shop: Site) -> None:
    as_shop(shop, *["SELECT user_email FROM users"] * 3)
    held(shop)
    shop.sql('SELECT "Ext ension".pg_stat_statements_reset()')
    assert "no statement has named it since" in drained(shop)
    as_shop(shop, *["SELECT user_email FROM users"] * 3)
    assert "ran 3 times since" in refused(shop), "as often as before the reset"


def test_what_zdmigrate_itself_does_speaks_against_nobody(shop: Site) -> None:
    held(shop)
    for command in (("verify",), ("revert", RENAME, "--to", "backfill"), ("unhold", RENAME)):
        shop.run(*command).expect(0)
    shop.run("advance", "--to", "switch_reads").expect(0)
    shop.run("verify").expect(0)
    assert "no statement has named it since" in drained(shop)
    shop.run("advance", *SOAKED).expect(0)
    shop.run("revert", RENAME, "--to", "switch_reads", "--override", "drained=test").expect(0)
    assert "statement of role" not in drained(shop)


def test_going_back_looks_for_the_new_shape(shop: Site) -> None:
    shop.run("deployed", "shop", "2", "--footprint", _footprint(shop)).expect(0)
    back = ("revert", RENAME, "--to", "expand")
    with psycopg.connect(shop.database.conninfo_as(ROLE), application_name=""):
        assert "nobody says which version that is" in shop.run(*back).expect(4).out
    as_shop(shop, "SELECT email_address FROM users")
    assert "ran 1 time since" in shop.run(*back).expect(4).out


def _footprint(site: Site) -> str:
    columns = (MappedColumn(name="id", type="BIGINT"), MappedColumn(name="user_email", type="TEXT"))
    path = site.directory / "footprint.json"
    path.write_bytes(Footprint.of(tables=[MappedTable(name="users", columns=columns)]).to_bytes())
    return str(path)


def test_marks_that_cannot_be_kept_are_no_failure(shop: Site) -> None:
    held(shop)
    as_shop(shop, "SELECT user_email FROM users")
    with shop.database.server.connect(shop.database.name, autocommit=False) as other:
        other.execute("SELECT FROM zdmigrate.statement_look FOR UPDATE")
        out = refused(shop)
        other.rollback()
    assert "ran 1 time since" in out
    assert "this look could not be kept: canceling statement due to lock timeout" in out
    assert "ran 1 time since" in refused(shop)


def test_a_role_that_may_not_see_the_others_says_so(shop: Site) -> None:
    as_shop(shop, "SELECT user_email FROM users")
    shop.sql(
        f"ALTER TABLE users OWNER TO {OWNER}", f"GRANT USAGE, CREATE ON SCHEMA public, zdmigrate TO {OWNER}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA zdmigrate TO {OWNER}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA zdmigrate TO {OWNER}",
    )  # fmt: skip
    env: dict[str, Any] = {"ZDMIGRATE_URL": shop.database.server.url(shop.database.name, user=OWNER)}
    gates = shop.run("status", "--format", "json", **env).expect(0).migration(RENAME)["gates"]
    said = next(gate["detail"] for gate in gates if gate["name"] == "drained")
    assert "permission denied for schema Ext ension: GRANT pg_read_all_stats" in said
    shop.sql(f'GRANT USAGE ON SCHEMA "Ext ension" TO {OWNER}')
    gates = shop.run("status", "--format", "json", **env).expect(0).migration(RENAME)["gates"]
    said = next(gate["detail"] for gate in gates if gate["name"] == "drained")
    assert "of other roles' (GRANT pg_read_all_stats)" in said
    shop.sql(f"GRANT pg_read_all_stats TO {OWNER}")
    try:
        gates = shop.run("status", "--format", "json", **env).expect(0).migration(RENAME)["gates"]
        assert "GRANT pg_read_all_stats" not in next(gate["detail"] for gate in gates if gate["name"] == "drained")
    finally:
        shop.sql(
            f"REVOKE pg_read_all_stats FROM {OWNER}", "ALTER TABLE users OWNER TO postgres", f"DROP OWNED BY {OWNER}"
        )


def test_without_the_extension_it_says_so(shop: Site) -> None:
    shop.sql("DROP EXTENSION pg_stat_statements")
    assert "statements: pg_stat_statements is not installed in this database" in drained(shop)
    shop.run("advance", *SOAKED).expect(0)


def test_an_extension_that_is_not_loaded(site: Site) -> None:
    with_users(site, environment="production")
    available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'"
    if not site.value(available):
        pytest.skip("no pg_stat_statements")
    site.sql("CREATE EXTENSION pg_stat_statements")
    site.run("advance", "--to", "switch_reads").expect(0)
    site.run("deployed", "shop", "2").expect(0)
    assert "pg_stat_statements is installed, but not in shared_preload_libraries" in drained(site)
    site.run("advance", *SOAKED).expect(0)
