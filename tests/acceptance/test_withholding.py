"""Rights on the old shape are withheld for a while, and given back, whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.processes import RENAME, Forker, Running, Site, until, with_users
from tests.support.servers import Database, base_for_tests, connect
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries
from zdmigrate.sqltext import ident

ROLE = "shop_app"
SOAKED = ("--override", "soak=test", "--override", "retire_soak=test")
OLD, NEW = "SELECT user_email FROM users WHERE id = 1", "SELECT email_address FROM users WHERE id = 1"
UPSERT = (
    "INSERT INTO users (id, email_address) VALUES (1, 'n3') "
    "ON CONFLICT (id) DO UPDATE SET email_address = excluded.email_address"
)

RIGHTS = """
SELECT c.oid::regclass::text, '', x::text FROM pg_class AS c, unnest(coalesce(c.relacl, acldefault('r', c.relowner))) AS x
WHERE c.relnamespace IN ('public'::regnamespace, to_regnamespace('"Odd sp""ace"')) AND c.relkind IN ('r', 'v')
UNION
SELECT a.attrelid::regclass::text, a.attname, x::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid,
       unnest(a.attacl) AS x
WHERE c.relnamespace IN ('public'::regnamespace, to_regnamespace('"Odd sp""ace"'))"""


def role(site: Site, name: str) -> None:
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ident(name)} LOGIN".encode())


@pytest.fixture
def shop(site: Site) -> Site:
    """At `switch_reads`, in production; somebody has said that N+1 is deployed."""
    role(site, ROLE)
    with_users(site, environment="production")
    site.sql(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {ROLE}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}"
    )
    site.run("advance", "--to", "switch_reads").expect(0)
    return site


def rights(site: Site) -> set[tuple[Any, ...]]:
    return set(site.rows(RIGHTS))


def drained(site: Site) -> str:
    shown = site.run("status", "--format", "json").expect(0)
    found: str = next(gate["detail"] for gate in shown.migration(RENAME)["gates"] if gate["name"] == "drained")
    return found


def withheld(site: Site) -> bool:
    return bool(site.value("SELECT count(*) FROM zdmigrate.withholding WHERE given_back_at IS NULL"))


@contextlib.contextmanager
def client(site: Site, name: str = ROLE, *, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
    options: dict[str, Any] = {"autocommit": autocommit, "application_name": "shop/2"}
    with psycopg.connect(site.database.conninfo_as(name), **options) as connection:
        yield connection


@contextlib.contextmanager
def withholding(site: Site, *more: str, **env: Any) -> Iterator[Running]:
    """A command that withholds, for an hour."""
    running = site.start("withhold", RENAME, "--for", "1h", *more, **env)
    until(lambda: withheld(site) or running.narration.startswith("zdmigrate:"), "it withholds")
    yield running


# Quiet ---------------------------------------------------------------------------------------------------------------


def test_a_quiet_time_ends_with_everything_given_back_and_speaks_for_the_gate(shop: Site) -> None:
    before = rights(shop)
    assert "nothing proves that version N is gone" in drained(shop)
    done = shop.run("withhold", RENAME, "--for", "2s").expect(0)
    assert f"public.users.user_email withheld from {ROLE}; not from postgres (superuser)" in done.out
    assert "nobody failed; everything is given back" in done.out
    assert rights(shop) == before
    said = drained(shop)
    assert f"withheld from {ROLE} for 2" in said
    assert "and nobody failed" in said
    assert "what withholding does not keep from postgres (superuser)" in said
    shop.run("advance", *SOAKED).expect(0)
    assert shop.phase(RENAME) == "retire"
    audit = shop.rows(
        "SELECT action, outcome FROM zdmigrate.event WHERE action IN ('withhold', 'give_back') ORDER BY number"
    )
    assert audit == [("withhold", "started"), ("give_back", "quiet")]


def test_what_n_plus_one_does_goes_on(shop: Site) -> None:
    """Reading, writing, locking, `xmin`; while N's statements and ``*`` fail."""
    with client(shop) as new, withholding(shop) as running:
        for statement in (
            NEW, "SELECT count(*) FROM users", "SELECT xmin, ctid, tableoid, email_address FROM users WHERE id = 1",
            "INSERT INTO users (email_address) VALUES ('n1') RETURNING id", "UPDATE users SET email_address = 'n2' WHERE id = 1",
            "SELECT id FROM users WHERE id = 1 FOR UPDATE", "DELETE FROM users WHERE id = 2",
            UPSERT,
        ):  # fmt: skip
            new.execute(statement.encode())
        assert withheld(shop)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            new.execute("SELECT * FROM users")
        running.wait().expect(4)
    assert shop.value("SELECT user_email FROM users WHERE id = 1") == "n3"
    assert shop.value("SELECT count(*) FROM users WHERE user_email = 'n1'") == 1


# Somebody fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        OLD,
        "UPDATE users SET user_email = 'me' WHERE id = 1",
        "INSERT INTO users (user_email) VALUES ('me@example.org')",
    ],
)
def test_one_who_needs_it_fails_once_and_goes_on_within_a_second(
    shop: Site, statement: str, *, autocommit: bool
) -> None:
    before = rights(shop)
    with client(shop, autocommit=autocommit) as old, withholding(shop) as running:
        pid = old.info.backend_pid
        failed = time.monotonic()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            old.execute(statement.encode())
        until(lambda: not withheld(shop), "it is given back", timeout=10)
        took = time.monotonic() - failed
        old.rollback()
        old.execute(statement.encode())
        done = running.wait().expect(4)
    assert took < 1.0
    assert f"role {ROLE}, session shop/2 (pid {pid})" in done.out
    assert re.sub(r"'.*?'|\b\d+\b", "?", statement) in done.out
    kept = shop.rows("SELECT detail FROM zdmigrate.withholding UNION ALL SELECT detail FROM zdmigrate.event")
    assert not re.search("'me|id = 1", f"{done.out}{done.err}{kept}"), "no values: they may tell about people"
    assert rights(shop) == before
    assert "and nobody failed" not in drained(shop)


def test_busy_ones_that_hide_what_they_did_are_seen_by_what_was_rolled_back(shop: Site) -> None:
    """The failed statement is followed by another one at once, so that no look finds it."""
    stop, times = threading.Event(), []

    def n() -> None:
        with client(shop, autocommit=False) as old:
            while not stop.is_set():
                try:
                    old.execute(OLD)
                except psycopg.errors.InsufficientPrivilege:
                    times.append(time.monotonic())
                old.rollback()
                for _ in range(20):
                    old.execute("SELECT 1")
                    old.commit()

    thread = threading.Thread(target=n)
    with withholding(shop) as running:
        thread.start()
        until(lambda: not withheld(shop), "it is given back", timeout=15)
        stop.set()
        thread.join()
        running.wait().expect(4)
    assert times[-1] - times[0] < 2.5


def test_a_pool_that_rolls_back_all_the_time_is_no_failure(shop: Site) -> None:
    stop = threading.Event()

    def n_plus_one() -> None:
        with client(shop, autocommit=False) as new:
            while not stop.wait(0.02):
                new.execute(NEW.encode())
                new.rollback()

    thread = threading.Thread(target=n_plus_one)
    thread.start()
    try:
        shop.run("withhold", RENAME, "--for", "3s").expect(0)
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def logging(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    """A server that collects its log where it can be asked for it."""
    settings = {"logging_collector": "on", "lc_messages": "C"}
    with ScratchServer.start(pg_binaries, base=base_for_tests(), settings=settings) as server:
        yield server


def test_where_the_log_can_be_read_it_names_the_statement_among_many_rollbacks(
    logging: ScratchServer, forker: Forker, tmp_path: Path
) -> None:
    logging.create_database("logged")
    site = Site(forker, Database(logging, "logged"), tmp_path)
    role(site, ROLE)
    with_users(site)
    site.sql(f"GRANT SELECT ON users TO {ROLE}")
    site.run("advance", "--to", "switch_reads").expect(0)
    stop, times = threading.Event(), []

    def rolls_back() -> None:
        with client(site, autocommit=False) as new:
            while not stop.is_set():
                new.execute(NEW.encode())
                new.rollback()

    thread = threading.Thread(target=rolls_back)
    thread.start()
    try:
        with client(site, autocommit=False) as old, withholding(site) as running:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(OLD)
            times.append(time.monotonic())
            old.rollback()
            old.execute("SELECT 1")
            until(lambda: not withheld(site), "it is given back", timeout=10)
            assert time.monotonic() - times[0] < 1.0
            done = running.wait().expect(4)
    finally:
        stop.set()
        thread.join()
    assert f"permission denied for table users: {OLD[:-1]}? (the server's log)" in done.out


# Given back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 3), (signal.SIGINT, 130)])
def test_a_signal_gives_back(shop: Site, number: signal.Signals, code: int) -> None:
    before = rights(shop)
    with withholding(shop) as running:
        assert rights(shop) != before
        until(lambda: "for 1 h" in running.narration, "it watches")
        running.send(number)
        running.wait().expect(code)
    assert rights(shop) == before
    assert shop.value("SELECT outcome FROM zdmigrate.withholding") == "stopped"
    assert "nothing proves" in drained(shop)


def test_another_terminal_gives_back(shop: Site) -> None:
    before = rights(shop)
    assert "nothing is withheld" in shop.run("withhold", RENAME, "--stop").expect(0).out
    with withholding(shop) as running:
        shop.run("advance").expect(5)
        shop.run("advance", "--to", "switch_reads").expect(0)
        assert withheld(shop), "nobody ends it who does not mean it"
        assert "everything is given back" in shop.run("withhold", RENAME, "--stop").expect(0).out
        assert rights(shop) == before
        assert "it was ended by postgres" in running.wait().expect(3).out


def test_after_sigkill_the_server_gives_back_by_itself(shop: Site) -> None:
    before = rights(shop)
    with withholding(shop) as running:
        killed = time.monotonic()
        running.send(signal.SIGKILL)
        until(lambda: not withheld(shop), "the server gives it back", timeout=10)
        took = time.monotonic() - killed
    assert rights(shop) == before
    assert took < 2.0
    until(lambda: not watches(shop), "its session ends")


@pytest.mark.parametrize(
    ("skip", "when", "taken"), [(0, "sent", False), (0, "after", False), (2, "sent", True), (2, "after", True)]
)
def test_killed_while_it_takes_them(shop: Site, skip: int, when: str, *, taken: bool) -> None:
    """Before and after COMMIT, with and without an answer."""
    before = rights(shop)
    kill = {"match": 'withholding" AS w', "skip": skip, "when": when}
    assert shop.run("withhold", RENAME, "--for", "1h", kill=kill).code == -signal.SIGKILL
    until(lambda: not watches(shop), "the server's watch ends", timeout=10)
    assert rights(shop) == before
    assert shop.value("SELECT count(*) FROM zdmigrate.withholding WHERE outcome = 'lost'") == taken


def test_one_that_is_stopped_is_not_waited_for(shop: Site) -> None:
    before = rights(shop)
    with withholding(shop) as running:
        running.send(signal.SIGSTOP)
        until(lambda: not withheld(shop), "the server gives it back", timeout=10)
        assert rights(shop) == before
        running.send(signal.SIGCONT)
        assert "did not answer" in running.wait().expect(3).out


@pytest.mark.parametrize(
    "command", [("advance",), ("revert", RENAME, "--to", "backfill"), ("withhold", RENAME, "--for", "1s"), ("verify",)]
)
def test_when_the_server_was_killed_too_the_next_command_gives_back(shop: Site, command: tuple[str, ...]) -> None:
    before = rights(shop)
    with withholding(shop, ZDMIGRATE_LEASE="2s") as running:
        # In one message, or the watch would be quicker.
        running.send(signal.SIGSTOP)
        shop.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'CALL%keep_watch%' AND pid <> pg_backend_pid()"
        )
        running.send(signal.SIGKILL)
    until(lambda: not watches(shop), "its session ends")
    assert withheld(shop)
    assert "the old shape is withheld until" in drained(shop)
    done = shop.run(*command)
    assert f"given back to {ROLE}" in done.err, done
    assert rights(shop) == before


def watches(site: Site) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zdmigrate withhold' AND datname = current_database()"
    return bool(site.value(query))


def test_who_changes_the_table_meanwhile_is_waited_for(shop: Site) -> None:
    before = rights(shop)
    with withholding(shop) as running:
        with connect(shop.database, autocommit=False) as other:
            other.execute("ALTER TABLE users ADD COLUMN fax text")
            running.send(signal.SIGTERM)
            time.sleep(1)
            assert withheld(shop)
            other.commit()
        running.wait().expect(3)
    assert rights(shop) == before


def test_after_a_crash_of_the_server_the_command_tries_until_it_is_back(
    pg_binaries: ServerBinaries, forker: Forker, tmp_path: Path
) -> None:
    with ScratchServer.start(pg_binaries, base=base_for_tests(), fsync=True) as server:
        server.create_database("crashed")
        site = Site(forker, Database(server, "crashed"), tmp_path)
        role(site, ROLE)
        with_users(site)
        site.sql(f"GRANT SELECT ON users TO {ROLE}")
        site.run("advance", "--to", "switch_reads").expect(0)
        before = rights(site)
        with withholding(site) as running:
            server.kill()
            until(lambda: "trying again" in running.narration, "it has tried once")
            server.restart()
            done = running.wait().expect(1)
        assert "nothing is withheld any more" in done.err
        assert rights(site) == before
        assert not withheld(site)


# Exactly as it was ---------------------------------------------------------------------------------------------------

TABLE, COLUMN, SPACE = 'Us"er s', 'E "mail', 'Odd sp"ace'
ROLES = ('A "role', "user", "shop_app", "shop group", "public")


def test_odd_names_and_every_kind_of_right(site: Site) -> None:
    for name in ROLES[:-1]:
        role(site, name)
    table = ident(SPACE, TABLE)
    odd, user, app, group = (ident(name) for name in ROLES[:-1])
    site.sql(
        f"CREATE SCHEMA {ident(SPACE)}",
        f'CREATE TABLE {table} (id bigserial PRIMARY KEY, {ident(COLUMN)} text, "Other one" int, secret text)',
        f"GRANT USAGE ON SCHEMA {ident(SPACE)} TO PUBLIC",
        f"GRANT {group} TO {user}",
        f"GRANT ALL ON {table} TO {odd} WITH GRANT OPTION",
        f"GRANT SELECT, REFERENCES, TRIGGER ON {table} TO {group}",
        f"GRANT SELECT (id, {ident(COLUMN)}), UPDATE ({ident(COLUMN)}) ON {table} TO {app}",
        f"GRANT INSERT ({ident(COLUMN)}, secret) ON {table} TO {app} WITH GRANT OPTION",
        f"GRANT UPDATE (secret) ON {table} TO {group} WITH GRANT OPTION",
        f"GRANT SELECT (secret) ON {table} TO {odd}",
        f"GRANT SELECT ({ident(COLUMN)}) ON {table} TO PUBLIC",
        f"GRANT INSERT ON {table} TO PUBLIC",
    )
    site.write(RENAME, f"RenameColumn({TABLE!r}, {COLUMN!r}, 'email', schema={SPACE!r})")
    site.init()
    site.run("advance", "--to", "switch_reads").expect(0)
    before = rights(site)
    column = f"{table}.{ident(COLUMN)}"
    with withholding(site) as running:
        for name in ROLES[:-1]:
            with psycopg.connect(site.database.conninfo_as(name), application_name="shop/2") as connection:
                for privilege in ("SELECT", "INSERT", "UPDATE"):
                    query = "SELECT has_column_privilege(%s, %s, %s)"
                    assert connection.execute(query, (table, COLUMN, privilege)).fetchone() == (False,), (
                        name,
                        privilege,
                    )
                assert connection.execute(
                    "SELECT has_column_privilege(%s, 'email', 'INSERT')", (table,)
                ).fetchone() == (True,)
        running.send(signal.SIGTERM)
        running.wait().expect(3)
    assert rights(site) == before, column


def test_what_may_be_passed_on_is_given_back(shop: Site) -> None:
    """The application may grant what it has; not what it is lent, unless somebody lets it."""
    role(shop, "reporting")
    shop.sql(f"GRANT SELECT, UPDATE ON users TO {ROLE} WITH GRANT OPTION", f"GRANT SELECT (id) ON users TO {ROLE}")
    before = rights(shop)
    with withholding(shop) as running:
        shop.sql(f"SET ROLE {ROLE}; GRANT SELECT (id) ON users TO reporting")  # a warning
        running.send(signal.SIGTERM)
        running.wait().expect(3)
    assert rights(shop) == before
    with withholding(shop) as running:
        shop.sql(f"GRANT SELECT (id) ON users TO {ROLE} WITH GRANT OPTION")
        shop.sql(f"SET ROLE {ROLE}; GRANT SELECT (id) ON users TO reporting")
        running.send(signal.SIGTERM)
        said = f"stays behind, for others depend on it: SELECT (id) on public.users of {ROLE}"
        assert said in running.wait().expect(3).out
    assert rights(shop) - before == {("users", "id", f"{ROLE}=r*/postgres"), ("users", "id", f"reporting=r/{ROLE}")}
    assert before - rights(shop) == {("users", "id", f"{ROLE}=r/postgres")}


def test_what_somebody_revokes_meanwhile_stays_revoked(shop: Site) -> None:
    role(shop, "reporting")
    shop.sql("GRANT SELECT (id, user_email) ON users TO reporting", "GRANT SELECT, INSERT ON users TO PUBLIC")
    before = rights(shop)
    with withholding(shop) as running:
        shop.sql(f"REVOKE ALL ON users FROM {ROLE}, reporting", "REVOKE INSERT (id) ON users FROM PUBLIC")
        revoked = rights(shop)
        running.send(signal.SIGTERM)
        done = running.wait().expect(3)
    assert "everything else was given back" in done.out
    assert "was changed meanwhile: " in done.out
    for each in (
        "INSERT on public.users of PUBLIC",
        f"UPDATE on public.users of {ROLE}",
        "SELECT on public.users of reporting",
    ):
        assert each in done.out
    assert not [entry for entry in rights(shop) if ROLE in entry[2] or "reporting" in entry[2]]
    assert ("users", "", "=r/postgres") in rights(shop) - revoked
    assert ("users", "", "=ar/postgres") in before - rights(shop)
    detail = "SELECT detail FROM zdmigrate.event WHERE action = 'give_back'"
    assert "was changed meanwhile" in shop.value(detail)


def test_rights_that_somebody_else_granted_are_refused(shop: Site) -> None:
    role(shop, "reporting")
    shop.sql(
        f"GRANT SELECT ON users TO {ROLE} WITH GRANT OPTION",
        f"SET ROLE {ROLE}; GRANT SELECT ON users TO reporting",
    )  # fmt: skip
    before = rights(shop)
    done = shop.run("withhold", RENAME, "--for", "1s").expect(6)
    assert f"SELECT of reporting, granted by {ROLE}" in done.out
    assert rights(shop) == before


def test_where_the_application_is_the_owner(shop: Site) -> None:
    shop.sql(f"REVOKE ALL ON users FROM {ROLE}", f"ALTER TABLE users OWNER TO {ROLE}")
    before = rights(shop)
    done = shop.run("withhold", RENAME, "--for", "1s").expect(6)
    assert "nobody but the owner has rights on public.users" in done.out
    with client(shop) as old, withholding(shop, "--owner") as running:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            old.execute(OLD)
        running.wait().expect(4)
    assert rights(shop) == before
    shop.sql("CREATE VIEW mails AS SELECT user_email FROM users")
    done = shop.run("withhold", RENAME, "--for", "1s", "--owner").expect(6)
    assert "view public.mails" in done.out


def test_as_the_owner_without_a_superusers_rights(site: Site) -> None:
    """What others do is hidden: that something was rolled back is not."""
    role(site, ROLE)
    role(site, "shop_owner")
    site.sql(
        f"GRANT CREATE ON DATABASE {site.database.name} TO shop_owner", "GRANT CREATE ON SCHEMA public TO shop_owner"
    )
    mine = dataclasses.replace(
        site, env={"ZDMIGRATE_URL": site.database.server.url(site.database.name, user="shop_owner")}
    )
    site.sql(
        "SET ROLE shop_owner; CREATE TABLE users (id bigint PRIMARY KEY, user_email text)",
        f"GRANT SELECT ON users TO {ROLE}; GRANT UPDATE ON users TO PUBLIC",
    )
    mine.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    try:
        mine.init()
        mine.run("advance", "--to", "switch_reads").expect(0)
        before = rights(site)
        done = mine.run("withhold", RENAME, "--for", "1s").expect(0)
        assert f"withheld from PUBLIC, {ROLE}; not from postgres (superuser), shop_owner" in done.out
        assert "statements of other roles are hidden: GRANT pg_read_all_stats" in done.out
        assert rights(site) == before
        with client(site) as old, withholding(mine) as running:
            old.execute("SELECT 1")
            time.sleep(1.1)  # a session that has just reported does so again a second later at the earliest
            failed = time.monotonic()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(OLD)
            until(lambda: not withheld(site), "it is given back", timeout=10)
            assert time.monotonic() - failed < 1.0
            assert "1 transaction rolled back within a second, where none is usual" in running.wait().expect(4).out
        assert rights(site) == before
        with withholding(mine) as running:
            running.send(signal.SIGKILL)
            until(lambda: not withheld(site), "the server gives it back", timeout=10)
        assert rights(site) == before
    finally:
        site.sql("DROP OWNED BY shop_owner CASCADE")


def test_who_does_not_own_the_table_is_told(shop: Site) -> None:
    role(shop, "operator")
    shop.sql(
        "GRANT USAGE ON SCHEMA zdmigrate TO operator", "GRANT ALL ON ALL TABLES IN SCHEMA zdmigrate TO operator",
        "GRANT EXECUTE ON ALL ROUTINES IN SCHEMA zdmigrate TO operator", "GRANT SELECT ON users TO operator",
    )  # fmt: skip
    env: dict[str, Any] = {"ZDMIGRATE_URL": shop.database.server.url(shop.database.name, user="operator")}
    try:
        assert "belongs to postgres" in shop.run("withhold", RENAME, "--for", "1s", **env).expect(6).out
    finally:
        shop.sql("DROP OWNED BY operator")


# When ----------------------------------------------------------------------------------------------------------------


def test_only_right_before_the_old_shape_goes(site: Site) -> None:
    role(site, ROLE)
    with_users(site)
    site.sql(f"GRANT SELECT ON users TO {ROLE}")
    one = ("withhold", RENAME, "--for", "1s")
    site.run(*one).expect(2)
    site.run("advance", "--to", "backfill").expect(0)
    assert "rights are withheld right before retire" in site.run(*one).expect(4).out
    site.run("advance", "--to", "switch_reads").expect(0)
    site.run("hold", RENAME, "freeze").expect(0)
    assert "freeze" in site.run(*one).expect(4).out
    site.run("unhold", RENAME).expect(0)
    site.run(*one).expect(0)
    site.run("advance", "--to", "retire").expect(0)
    assert "out of the way already" in site.run(*one).expect(6).out
    for wrong in (
        ("withhold", RENAME),
        (*one, "--stop"),
        (*one, "--override", "soak=x"),
        ("withhold", RENAME, "--for", "0s"),
    ):
        site.run(*wrong).expect(2)


def test_not_where_those_who_need_it_are_known(shop: Site) -> None:
    shop.run("deployed", "shop", "1").expect(0)
    shop.sql("UPDATE zdmigrate.app_version SET deployed_at = deployed_at - interval '1 day'")
    assert "these would fail: shop 1" in shop.run("withhold", RENAME, "--for", "1s").expect(4).out
    shop.run("withhold", RENAME, "--for", "1s", "--override", "drained=trying it out").expect(0)
    detail = shop.value("SELECT detail FROM zdmigrate.event WHERE action = 'withhold'")
    assert detail.endswith("although: trying it out")


def test_a_table_that_goes_is_withheld_as_a_whole(site: Site) -> None:
    role(site, ROLE)
    with_users(site)
    site.sql(f"GRANT SELECT, INSERT ON users TO {ROLE}", f"GRANT SELECT (id), UPDATE (user_email) ON users TO {ROLE}")
    site.write("0002_drop", 'DropTable("users")', requires=["0001_email"])
    site.run("advance", "0001", "--to", "contract").expect(0)
    site.run("advance", "0002", "--to", "switch_reads").expect(0)
    before = rights(site)
    running = site.start("withhold", "0002", "--for", "1h")
    until(lambda: withheld(site), "it withholds")
    with client(site) as old:
        for statement in ("SELECT id FROM users", "INSERT INTO users DEFAULT VALUES"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                old.execute(statement.encode())
        running.wait().expect(4)
    assert rights(site) == before


def test_a_table_that_is_renamed_is_withheld_under_its_old_name(site: Site) -> None:
    role(site, ROLE)
    site.sql("CREATE TABLE users (id bigint PRIMARY KEY)", f"GRANT SELECT, INSERT ON users TO {ROLE}")
    site.write(RENAME, 'RenameTable("users", "people")')
    site.init()
    site.run("advance", "--to", "retire", "--override", "view_limits=test").expect(0)
    before = rights(site)
    running = site.start("withhold", RENAME, "--for", "1h")
    until(lambda: withheld(site), "it withholds")
    with client(site) as both:
        both.execute("SELECT id FROM people")
        assert withheld(site)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            both.execute("SELECT id FROM users")
        running.wait().expect(4)
    assert rights(site) == before
