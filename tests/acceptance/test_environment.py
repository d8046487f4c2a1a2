"""Where a command ends up: the wrong environment, a newer schema, a standby, a pooler, a server that restarts."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import RENAME, Forker, Site, until, with_users
from tests.support.servers import Database, ReplicaPair, base_for_tests
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

WRITING = (
    ("advance",), ("revert", RENAME, "--to", "none"), ("hold", RENAME, "x"), ("unhold", RENAME), ("bootstrap",),
    ("verify",),
)  # fmt: skip


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_another_environment_than_the_configuration_says(site: Site, command: tuple[str, ...]) -> None:
    with_users(site, environment="production")
    done = site.run(*command, ZDMIGRATE_ENVIRONMENT="development").expect(7)
    assert "this database is production, the configuration says development" in done.err
    assert site.value("SELECT count(*) FROM zdmigrate.migration") == 0


def test_the_same_environment(site: Site) -> None:
    with_users(site, environment="production")
    site.run("advance", "--to", "expand", ZDMIGRATE_ENVIRONMENT="production").expect(0)
    site.run("status", ZDMIGRATE_ENVIRONMENT="development").expect(0)


@pytest.mark.parametrize("command", [*WRITING, ("init",)], ids=lambda command: command[0])
def test_a_newer_control_schema_is_not_written(site: Site, command: tuple[str, ...]) -> None:
    with_users(site)
    site.run("advance", "--to", "expand").expect(0)
    site.sql("UPDATE zdmigrate.meta SET value = '99' WHERE key = 'schema_version'")
    before = site.rows("SELECT * FROM zdmigrate.event"), site.rows("SELECT * FROM zdmigrate.migration")
    done = site.run(*command).expect(7)
    assert "must not write it" in done.err
    assert before == (site.rows("SELECT * FROM zdmigrate.event"), site.rows("SELECT * FROM zdmigrate.migration"))
    for reading in (("status",), ("history",)):
        site.run(*reading).expect(0)


def test_without_init(site: Site) -> None:
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")')
    assert "zdmigrate init" in site.run("advance").expect(2).err


def test_the_audit_cannot_be_changed(site: Site) -> None:
    with_users(site)
    for statement in ("UPDATE zdmigrate.event SET detail = ''", "DELETE FROM zdmigrate.event"):
        with pytest.raises(Exception, match="append-only"):
            site.sql(statement)


def test_a_standby(replica_pair: ReplicaPair, forker: Forker, tmp_path: Path) -> None:
    site = Site(forker, Database(replica_pair.replica, "postgres"), tmp_path)
    done = site.run("status").expect(6)
    assert "the server is a standby" in done.err


# -- a pooler in between ------------------------------------------------------------------------------------------


@contextmanager
def pooler(server: ScratchServer, directory: Path) -> Iterator[str]:
    """What a pooler does that matters: its clients get a cancel key of its own, not that of a server process."""
    path = directory / ".s.PGSQL.7777"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    open_sockets: list[socket.socket] = [listener]

    def forward(source: socket.socket, target: socket.socket, *, rewrite: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(_with_another_pid(data) if rewrite else data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(f"{server.host}/.s.PGSQL.{server.port}")
                open_sockets.extend((client, upstream))
                for pair, rewrite in (((client, upstream), False), ((upstream, client), True)):
                    threading.Thread(target=forward, args=pair, kwargs={"rewrite": rewrite}, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield str(directory)
    finally:
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _with_another_pid(data: bytes) -> bytes:
    """BackendKeyData is the byte K, the length, the pid, the secret (manual, section 55.7)."""
    for length in (12, 40):  # the secret is longer where protocol 3.2 was asked for
        head = b"K" + struct.pack("!I", length)
        at = data.find(head)
        if at >= 0:
            return data[: at + 5] + struct.pack("!I", 4_000_001) + data[at + 9 :]
    return data


def test_a_pooler_is_found_out_and_named(site: Site, tmp_path: Path) -> None:
    with_users(site)
    with pooler(site.database.server, tmp_path) as host:
        url = f"host={host} port=7777 dbname={site.database.name} user=postgres"
        done = site.run("advance", ZDMIGRATE_URL=url).expect(6)
    assert "pooler" in done.err
    assert "the server's own host and port" in done.err
    assert site.value("SELECT count(*) FROM zdmigrate.migration") == 0


# -- the server goes away ----------------------------------------------------------------------------------------


@pytest.fixture
def own_server(pg_binaries: ServerBinaries, forker: Forker, tmp_path: Path) -> Iterator[Site]:
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as server:
        server.create_database("app")
        yield Site(forker, Database(server, "app"), tmp_path)


ROWS = 30_000


def test_a_crash_of_the_server_in_the_middle_of_the_backfill(own_server: Site) -> None:
    site = with_users(own_server, rows=ROWS)
    site.run("advance", "--to", "dual_write").expect(0)
    running = site.start("advance", "--to", "backfill", ZDMIGRATE_BACKFILL_PAUSE="50ms")
    filled = (
        "SELECT coalesce(sum(rows), 0) "
        "FROM (SELECT rows FROM zdmigrate.backfill UNION ALL SELECT rows FROM zdmigrate.backfill_window) AS filled"
    )
    until(lambda: 2000 < site.value(filled) < ROWS * 3 / 4, "it is in the middle")
    site.database.server.restart("immediate")
    broken = running.wait()
    assert broken.code == 1
    assert "Traceback" not in broken.err
    kept = site.value(filled)
    really = site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL")
    assert kept == really, "the counter and the rows were lost together, or not at all"
    assert 0 <= kept < ROWS
    site.run("advance", "--to", "backfill").expect(0)
    assert site.value(filled) == ROWS
    assert site.value("SELECT count(*) FROM users WHERE email_address IS DISTINCT FROM user_email") == 0
    site.run("advance", "--to", "contract").expect(0)


def test_a_restart_between_two_phases(own_server: Site) -> None:
    site = with_users(own_server)
    site.run("advance", "--to", "backfill").expect(0)
    site.database.server.restart("immediate")
    site.run("advance", "--to", "contract").expect(0)


def test_a_session_that_somebody_ends(site: Site) -> None:
    with_users(site, rows=ROWS)
    running = site.start("advance", "--to", "backfill", ZDMIGRATE_BACKFILL_PAUSE="50ms")
    query = "SELECT backend FROM zdmigrate.lease WHERE backend IS NOT NULL AND EXISTS (SELECT FROM zdmigrate.backfill)"
    [(backend,)] = until(lambda: site.rows(query), "the backfill has begun")
    site.rows("SELECT pg_terminate_backend(%s)", backend)
    ended = running.wait().expect(1)
    assert "Traceback" not in ended.err
    site.run("advance", "--to", "contract").expect(0)
    assert site.value("SELECT count(*) FROM users WHERE email_address <> 'u' || id") == 0


def test_a_replaced_site_is_the_same_project(site: Site) -> None:
    """The project's name comes from the configuration, not from the directory."""
    with_users(site)
    site.run("advance", "--to", "expand").expect(0)
    other = dataclasses.replace(site, env={"ZDMIGRATE_PROJECT": "another"})
    other.run("advance", "--to", "expand").expect(6)  # the same columns are in flight in the first project
    assert site.phase(RENAME) == "expand"
