"""Roles without superuser's rights, and passwords that nobody sees."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.processes import RENAME, Forker, Site, transaction, until, with_users
from tests.support.servers import Database, base_for_tests
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

_numbers = itertools.count(1)

TOUCH = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$
"""


@pytest.fixture
def owner(site: Site) -> Iterator[str]:
    """A role that may create in the database and in public, and owns what `as_owner` makes."""
    name = f"owner_{os.getpid()}_{next(_numbers)}"
    site.sql(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT CREATE ON DATABASE {site.database.name} TO {name}",
        f"GRANT CREATE ON SCHEMA public TO {name}",
    )
    yield name
    site.sql(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def as_role(site: Site, role: str) -> Site:
    return dataclasses.replace(site, env={"ZDMIGRATE_URL": site.database.server.url(site.database.name, user=role)})


def owned(site: Site, owner: str) -> Site:
    """The table of the other tests with an updated_at trigger, owned by the role that migrates."""
    site.sql(
        "CREATE TABLE users (id bigserial PRIMARY KEY, user_email text NOT NULL, updated_at timestamptz)",
        "CREATE INDEX users_email ON users (user_email)",
        "INSERT INTO users (user_email, updated_at) SELECT 'u' || g, '2026-01-01' FROM generate_series(1, 40) g",
        TOUCH,
        "CREATE TRIGGER touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch()",
        f"ALTER TABLE users OWNER TO {owner}",
        f"ALTER FUNCTION touch() OWNER TO {owner}",
    )
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    return as_role(site, owner)


TOUCHED = "SELECT count(*) FROM users WHERE updated_at <> '2026-01-01'"


def test_the_owner_of_the_table_runs_everything(site: Site, owner: str) -> None:
    mine = owned(site, owner)
    mine.run("init", "--environment", "development").expect(0)
    refused = mine.run("advance").expect(6)
    assert "table_triggers" in refused.out
    assert "touch" in refused.out
    assert f'GRANT SET ON PARAMETER session_replication_role TO "{owner}"' in refused.out
    assert site.phase(RENAME) == "dual_write"
    accepted = ("--override", "table_triggers=updated_at may change")
    mine.run("advance", *accepted).expect(0)
    assert site.value(TOUCHED) == 40, "the trigger did fire: that is what was accepted"
    mine.run("revert", RENAME, "--to", "none").expect(0)
    mine.run("unhold", RENAME).expect(0)
    mine.run("advance", "--to", "contract", *accepted).expect(0)
    mine.run("verify").expect(0)
    for reading in ("status", "history", "plan"):
        mine.run(reading).expect(0)


def test_with_the_grant_triggers_stay_silent(site: Site, owner: str) -> None:
    mine = owned(site, owner)
    site.sql(f"GRANT SET ON PARAMETER session_replication_role TO {owner}")
    try:
        mine.run("init", "--environment", "development").expect(0)
        mine.run("advance", "--to", "contract").expect(0)
    finally:
        site.sql(f"REVOKE SET ON PARAMETER session_replication_role FROM {owner}")
    assert site.value(TOUCHED) == 0
    site.sql("UPDATE users SET email_address = 'x' WHERE id = 1")
    assert site.value(TOUCHED) == 1, "it fires for everybody else"


def test_a_superuser_keeps_triggers_silent(site: Site, owner: str) -> None:
    owned(site, owner)
    site.init()
    site.run("advance", "--to", "contract").expect(0)
    assert site.value(TOUCHED) == 0


def test_not_the_owner(site: Site, owner: str) -> None:
    with_users(site)
    stranger = as_role(site, owner)
    site.sql(
        f"GRANT USAGE ON SCHEMA zdmigrate TO {owner}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA zdmigrate TO {owner}",
        f"GRANT ALL ON users TO {owner}",
    )
    refused = stranger.run("advance").expect(6)
    assert "public.users is owned by postgres" in refused.out
    assert f'GRANT "postgres" TO "{owner}"' in refused.out
    assert site.phase(RENAME) == "none"


def test_no_right_to_create_temporary_tables(site: Site, owner: str) -> None:
    role = owned(site, owner)
    role.init()
    site.sql(f"REVOKE TEMPORARY ON DATABASE {site.database.name} FROM PUBLIC")
    role.write(RENAME, 'ChangeType("users", "user_email", "varchar(200)")')
    refused = role.run("plan").expect(6)
    assert f"{owner} may not create temporary tables in {site.database.name}" in refused.err
    site.sql(f"GRANT TEMPORARY ON DATABASE {site.database.name} TO {owner}")
    role.run("plan").expect(0)


def test_no_right_to_create_the_control_schema(site: Site, owner: str) -> None:
    site.sql(f"REVOKE CREATE ON DATABASE {site.database.name} FROM {owner}")
    refused = as_role(site, owner).run("init").expect(6)
    assert f'GRANT CREATE ON DATABASE "{site.database.name}" TO "{owner}"' in refused.err


def test_sessions_of_other_roles(site: Site, owner: str) -> None:
    """Their age and their queries are hidden; they are named all the same, and do not keep us from trying."""
    mine = owned(site, owner)
    mine.run("init", "--environment", "development").expect(0)
    with transaction(site.database, "SELECT count(*) FROM users") as blocker:
        refused = mine.run("advance", ZDMIGRATE_LOCK_BUDGET="2s").expect(5)
        assert f"pid {blocker.info.backend_pid}" in refused.out
        assert "without queueing" not in refused.err
    mine.run("advance", "--to", "dual_write").expect(0)


def test_the_application_needs_no_right_in_the_control_schema(site: Site, owner: str) -> None:
    with_users(site)
    site.sql(f"GRANT SELECT, INSERT, UPDATE ON users TO {owner}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {owner}")
    site.run("advance", "--to", "switch_reads").expect(0)
    site.sql(
        f"SET ROLE {owner}",
        "INSERT INTO users (user_email) VALUES ('by N')",
        "INSERT INTO users (email_address) VALUES ('by N+1')",
        "UPDATE users SET email_address = 'changed' WHERE id = 1",
    )
    assert site.value("SELECT count(*) FROM users WHERE email_address IS DISTINCT FROM user_email") == 0


# -- passwords ---------------------------------------------------------------------------------------------------

PASSWORD = "geh/ei@m:5 'x%&"


@pytest.fixture(scope="module")
def tcp(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    with ScratchServer.start(pg_binaries, listen="tcp", base=base_for_tests()) as server:
        hba = server.directory / "data" / "pg_hba.conf"
        hba.write_text("host all sesam 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        with server.connect() as connection:
            secret = PASSWORD.replace("'", "''")
            connection.execute(f"CREATE ROLE sesam LOGIN SUPERUSER PASSWORD '{secret}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            rules = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256' AND error IS NULL"
            until(lambda: connection.execute(rules).fetchone() == (1,), "the server reads its rules")
        yield server


@pytest.fixture
def guarded(tcp: ScratchServer, forker: Forker, tmp_path: Path) -> Iterator[Site]:
    """A site whose database asks for a password; `env` still has none."""
    tcp.create_database("guarded")
    site = Site(forker, Database(tcp, "guarded"), tmp_path)
    yield with_users(site)
    tcp.drop_database("guarded")


def url_with(password: str, site: Site) -> str:
    return f"postgresql+psycopg://sesam:{quote(password, safe='')}@127.0.0.1:{site.database.server.port}/guarded"


def spellings() -> tuple[str, ...]:
    return PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), PASSWORD.replace("'", "\\'"), "geh/ei", "geh%2Fei"


def assert_no_secret(text: str) -> None:
    for secret in spellings():
        assert secret not in text


def everything_stored(site: Site) -> str:
    tables = ("meta", "migration", "lease", "event", "backfill", "read_switch", "app_instance")
    return "\n".join(str(site.rows(f"SELECT to_jsonb(t)::text FROM zdmigrate.{table} t")) for table in tables)


def test_passwords_are_nowhere(guarded: Site) -> None:
    """In no output of any command, with -v and in errors too, and in no control table."""
    guarded.run("status", ZDMIGRATE_URL=url_with("wrong", guarded)).expect(1)  # the server does ask
    env: dict[str, Any] = {"ZDMIGRATE_URL": url_with(PASSWORD, guarded)}
    commands: list[tuple[tuple[str, ...], int]] = [
        (("advance", "-v", "--to", "backfill", "--deployment", "d1"), 0),
        (("advance", "-v", "--override", f"no_such={PASSWORD}"), 2),
        (("status", "-v", "--format", "json"), 0),
        (("hold", RENAME, f"because of {PASSWORD}"), 0),
        (("advance", "-v"), 4),
        (("unhold", RENAME), 0),
        (("plan", "-v"), 0),
        (("history", "-v"), 0),
        (("revert", "-v", RENAME, "--to", "none"), 0),
    ]
    for args, code in commands:
        done = guarded.run(*args, **env).expect(code)
        assert_no_secret(done.out + done.err)
    with transaction(guarded.database, "SELECT count(*) FROM users"):
        guarded.run("unhold", RENAME, **env).expect(0)
        done = guarded.run("advance", "-v", **env | {"ZDMIGRATE_LOCK_BUDGET": "1s"}).expect(5)
        assert_no_secret(done.out + done.err)


def test_the_audit_has_no_password(guarded: Site) -> None:
    env: dict[str, Any] = {"ZDMIGRATE_URL": url_with(PASSWORD, guarded)}
    guarded.run("advance", "--to", "contract", "--deployment", "d1", **env).expect(0)
    guarded.run("advance", "--override", "x=y", **env)
    assert "d1" in everything_stored(guarded)
    assert_no_secret(everything_stored(guarded))


@pytest.mark.parametrize("spelled", ["url", "keywords", "pgpassword", "pgpass", "service"])
def test_every_way_to_say_it_works_and_a_wrong_one_is_not_repeated(guarded: Site, tmp_path: Path, spelled: str) -> None:
    port = guarded.database.server.port
    where = f"host=127.0.0.1 port={port} dbname=guarded user=sesam"

    def env(password: str) -> dict[str, Any]:
        quoted = password.replace("\\", "\\\\").replace("'", "\\'")
        match spelled:
            case "url":
                return {"ZDMIGRATE_URL": url_with(password, guarded)}
            case "keywords":
                return {"ZDMIGRATE_URL": f"{where} password='{quoted}'"}
            case "pgpassword":
                return {"ZDMIGRATE_URL": where, "PGPASSWORD": password}
            case "pgpass":
                file = tmp_path / "pgpass"
                file.write_text(f"127.0.0.1:{port}:guarded:sesam:" + password.replace(":", "\\:") + "\n")
                file.chmod(0o600)
                return {"ZDMIGRATE_URL": where, "PGPASSFILE": str(file)}
            case _:
                file = tmp_path / "services"
                lines = where.replace(" ", "\n")
                file.write_text(f"[shop]\n{lines}\npassword={password}\n")
                return {"ZDMIGRATE_URL": "service=shop", "PGSERVICEFILE": str(file)}

    done = guarded.run("status", "-v", **env(PASSWORD)).expect(0)
    assert_no_secret(done.out + done.err)
    wrong = "an0ther-secret"
    done = guarded.run("status", "-v", **env(wrong)).expect(1)
    assert "password authentication failed" in done.err
    assert wrong not in done.out + done.err
