"""Servers of a check: found in order, forced, and left without a trace, however the process ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.processes import ROOT, until
from tests.support.scratch import connected, project, rows, written
from zdmigrate.cli.checking_options import Serving
from zdmigrate.compat.scratch import roles, schemas
from zdmigrate.compat.scratch.given_server import PREFIX
from zdmigrate.compat.scratch.servers import open_servers
from zdmigrate.config import Config
from zdmigrate.errors import ServerUnavailable, Unsafe
from zdmigrate.postgres.binaries import Origin, available_majors
from zdmigrate.postgres.servers import Access, ScratchServer, ServerBinaries


@pytest.fixture(scope="module")
def given(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    """A server that somebody else runs, with a password."""
    access = Access(superuser="admin", password="s3cret")
    with ScratchServer.start(pg_binaries, listen="tcp", access=access) as server:
        with server.connect() as connection:
            connection.execute(
                "CREATE ROLE maker CREATEDB LOGIN PASSWORD 's3cret'; CREATE ROLE nobody LOGIN PASSWORD 's3cret'"
            )
            connection.execute("CREATE ROLE roles_too CREATEDB CREATEROLE LOGIN PASSWORD 's3cret'")
        yield server


def everything(server: ScratchServer) -> tuple[list[str], list[str]]:
    """The databases and roles of a server."""
    return (
        rows(server, "postgres", "SELECT datname FROM pg_database ORDER BY 1"),
        rows(server, "postgres", "SELECT rolname FROM pg_roles ORDER BY 1"),
    )


@contextlib.contextmanager
def owner(**arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], dict[str, Any]]]]:
    """A process that uses a server, and what it says once it does."""
    command = [
        sys.executable,
        "-m",
        "tests.support.check_owner",
        *(f"{key}={value}" for key, value in arguments.items()),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        try:
            stdout = process.stdout
            assert stdout is not None
            yield process, lambda: json.loads(stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("origin", ["local", "embedded"])
def test_every_installation_is_such_a_server(origin: Origin) -> None:
    majors = available_majors(origin)
    if not majors:
        pytest.skip(f"no {origin} installation of PostgreSQL")
    with open_servers([origin]) as (server,):
        assert server.major == max(majors)
        assert server.label.startswith(f"PostgreSQL {server.major}.")
        server.create_database("start")
        with connected(server, "start") as connection:
            connection.execute("CREATE TABLE t (id int)")
            app = roles.application_role(connection)
        server.create_database("copy", template="start")
        assert rows(server, "copy", "SELECT current_user::text", app) == [app]
        address = server.url("copy", user=app, driver="psycopg")
        assert address.startswith(f"postgresql+psycopg://{app}:")
        wrong = server.conninfo("copy").replace("password=", "password=not_")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        server.drop_database("copy")
        directory = Path(str(server).split(" in ")[1].rstrip(">"))
    assert not directory.exists()


def test_the_first_that_works_is_taken(pg_major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with open_servers(major=pg_major) as (server,):
        assert server.major == pg_major


def test_a_kind_that_is_forced_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ServerUnavailable, match=r"container: no Docker engine answers"), open_servers(["container"]):
        pass
    with pytest.raises(ServerUnavailable, match="container: "), open_servers(images=["postgres:17"]):
        pass
    with pytest.raises(ServerUnavailable, match=r"url: no connection to host=127\.0\.0\.1 port=1"):  # noqa: SIM117
        with open_servers(url="postgresql://u:geheim@127.0.0.1:1/d"):
            pass


# A server that is given


@pytest.mark.parametrize("user", ["admin", "roles_too"])
def test_a_given_server_is_left_as_it_was(given: ScratchServer, user: str) -> None:
    before = everything(given)
    with pytest.raises(ZeroDivisionError), open_servers(url=given.url(user=user)) as (server,):  # noqa: PT012
        server.create_database("start")
        with connected(server, "start") as connection:
            connection.execute("CREATE TABLE t (id int)")
            migrating = roles.hand_over(connection)
            app = roles.application_role(connection)
        server.create_database("copy", template="start")
        assert rows(server, "copy", "SELECT count(*) FROM t", app) == [0]
        assert rows(server, "copy", "SELECT count(*) FROM t", migrating) == [0]
        made = {*everything(given)[0]} - {*before[0]}
        assert all(name.startswith(PREFIX) for name in made)
        assert len(made) == 2
        raise ZeroDivisionError
    assert everything(given) == before


@pytest.mark.parametrize(
    ("user", "message"),
    [("nobody", "the role nobody may not create databases there"), ("stranger", r"no connection to host=127\.0\.0\.1")],
)
def test_a_given_server_that_cannot_be_used(given: ScratchServer, user: str, message: str) -> None:
    with pytest.raises(ServerUnavailable, match=message) as caught, open_servers(url=given.url(user=user)):
        pass
    assert "s3cret" not in caught.value.message


def test_another_version_than_was_asked_for_is_refused(given: ScratchServer) -> None:
    with pytest.raises(ServerUnavailable, match="not 99"), open_servers(url=given.url(), major=99):
        pass


def test_roles_of_a_given_server_are_neither_changed_nor_made_without_the_right(given: ScratchServer) -> None:
    before = rows(given, "postgres", "SELECT rolname, rolsuper, rolpassword FROM pg_authid ORDER BY 1")
    with open_servers(url=given.url(user="maker")) as (server,):
        server.create_database("start")
        with connected(server, "start") as connection:
            connection.execute("CREATE TABLE t (id int)")
            assert roles.hand_over(connection) == "maker"
            with pytest.raises(ServerUnavailable, match="the role anybody cannot be made") as caught:
                roles.application_role(connection, "anybody")
            assert "CREATEROLE" in str(caught.value.hint)
            with pytest.raises(Unsafe, match="on this server admin is a superuser"):
                roles.application_role(connection, "admin")
    with given.connect() as connection:
        connection.execute("CREATE ROLE other LOGIN PASSWORD 'unknown'")
    try:
        with open_servers(url=given.url()) as (server,):
            server.create_database("start")
            with connected(server, "start") as connection:
                connection.execute("CREATE TABLE t (id int); GRANT SELECT ON t TO other")
                with pytest.raises(Unsafe, match="the role other is there already, and cannot log in"):
                    roles.application_role(connection)
    finally:
        with given.connect() as connection:
            connection.execute("DROP ROLE other")
    assert rows(given, "postgres", "SELECT rolname, rolsuper, rolpassword FROM pg_authid ORDER BY 1") == before


def test_a_dump_with_owners_belongs_to_a_role_that_is_no_superuser(given: ScratchServer, tmp_path: Path) -> None:
    before = everything(given)
    dump = written(
        tmp_path / "schema.sql",
        """
        CREATE EXTENSION IF NOT EXISTS hstore;
        COMMENT ON EXTENSION hstore IS 'words';
        CREATE TABLE public.t (id int);
        ALTER TABLE public.t OWNER TO shop_owner;
        GRANT SELECT ON TABLE public.t TO shop_app;
        ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA public GRANT SELECT ON TABLES TO shop_app;
        """,
    )
    with open_servers(url=given.url(user="roles_too")) as (server,):
        schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, "start")
        with connected(server, "start") as connection:
            assert roles.migrating_role(connection) == "roles_too"
            assert roles.application_role(connection) == "shop_app"
            connection.execute("CREATE TABLE later (id int)")
        assert rows(server, "start", "SELECT count(*) FROM later", "shop_app") == [0]
    assert everything(given) == before


def test_the_version_is_that_of_the_database(given: ScratchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with Serving().open(Config(url=given.url())) as (server,):
        assert server.major == given.major
    with Serving(pg=given.major).open(Config(url="postgresql://127.0.0.1:1/d")) as (server,):
        assert server.major == given.major
    told: list[str] = []
    with Serving().open(Config(), like="postgresql://u:geheim@127.0.0.1:1/d", report=told.append):
        pass
    assert told == [
        "host=127.0.0.1 port=1 dbname=d user=u does not answer, so the check is not made for its version; --pg says which"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_given_server_is_left_as_it_was_by_an_interrupted_process(
    given: ScratchServer, number: signal.Signals
) -> None:
    before = everything(given)
    with owner(kind="url", url=given.url()) as (process, said):
        assert conninfo_to_dict(said()["conninfo"])["port"] == str(given.port)
        assert everything(given) != before
        process.send_signal(number)
        process.wait(timeout=30)
    assert everything(given) == before


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(given: ScratchServer) -> None:
    before = everything(given)
    with (
        owner(kind="url", url=given.url()) as (alive, said_alive),
        owner(kind="url", url=given.url()) as (killed, said),
    ):
        kept = str(conninfo_to_dict(said_alive()["conninfo"])["dbname"])
        left = str(conninfo_to_dict(said()["conninfo"])["dbname"])
        given.create_database(similar := f"{PREFIX}of_mine")
        killed.kill()
        killed.wait(timeout=30)
        _until_gone(given, left)
        told: list[str] = []
        with open_servers(url=given.url(), report=told.append):
            databases = everything(given)[0]
        assert kept in databases
        assert similar in databases
        assert left not in databases
        assert told == [f"removed what a check that was killed had left on {given.label}: {left[:19]}_…"]
        alive.send_signal(signal.SIGINT)
        alive.wait(timeout=30)
    given.drop_database(similar)
    assert everything(given) == before


def _until_gone(server: ScratchServer, database: str) -> None:
    """Until the server has noticed that the session is gone."""
    token = database[len(PREFIX) : len(PREFIX) + 10]
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%{token}%' AND pid <> pg_backend_pid()"
    until(lambda: rows(server, "postgres", query) == [0], "the killed process's session ends")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_an_embedded_server_goes_with_its_process(number: signal.Signals) -> None:
    if not available_majors("embedded"):
        pytest.skip("no embedded installation of PostgreSQL")
    with owner(kind="embedded") as (process, said):
        conninfo = said()["conninfo"]
        psycopg.connect(conninfo).close()
        process.send_signal(number)
        process.wait(timeout=30)
        until(lambda: not _answers(conninfo), "the server is gone")


def _answers(conninfo: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(conninfo).close()
        return True
    time.sleep(0.05)
    return False
