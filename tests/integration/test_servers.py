"""Scratch servers: they start wherever there are binaries, and nothing of them stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.servers import Database, ReplicaPair, connect
from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres import _watchdog, binaries
from zdmigrate.postgres.servers import Listen, ScratchServer, ServerBinaries, available_majors, find_binaries

# Prints where its server is, then waits for its end.
OWNER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that both are ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from zdmigrate.postgres.servers import ScratchServer, find_binaries
server = ScratchServer.start(find_binaries(int(sys.argv[1])))
print(server.directory, flush=True)
time.sleep(600)
"""
FORKING_OWNER = OWNER.replace(
    "print",
    """
import os
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b".")
    time.sleep(600)
os.read(reader, 1)
print""",
)


def eventually(condition: Callable[[], bool], *, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def nothing_left(directory: Path) -> bool:
    return not directory.exists() and not _watchdog.serving(str(directory), _watchdog.processes())


@pytest.fixture(scope="module")
def scratch(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    """A server of this module's own, to be restarted and killed."""
    with ScratchServer.start(pg_binaries) as server:
        yield server


@pytest.mark.parametrize("major", available_majors())
def test_every_installed_major_starts_with_a_replica(major: int) -> None:
    with ScratchServer.start(find_binaries(major)) as server:
        replica = server.start_replica("r1")
        with server.connect() as connection:
            assert connection.info.server_version // 10000 == server.major == major
            shown = [
                connection.execute(f"SHOW {name}").fetchone() for name in ("server_encoding", "lc_messages", "fsync")
            ]
        with replica.connect() as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
    assert shown[0] == ("UTF8",)
    assert shown[2] == ("off",)
    assert nothing_left(server.directory)
    assert nothing_left(replica.directory)


def test_the_server_is_not_run_by_root(pg: ScratchServer) -> None:
    assert pg.directory.stat().st_uid != 0
    assert Path(f"/proc/{pg.postmaster_pid}").stat().st_uid != 0


@pytest.mark.parametrize("listen", ["socket", "tcp"])
def test_libpq_and_sqlalchemy_read_the_same_url(pg_binaries: ServerBinaries, listen: Listen) -> None:
    with ScratchServer.start(pg_binaries, listen=listen) as server:
        server.create_database("plain")
        server.create_database("a b/c")
        for name in ("plain", "a b/c"):
            for address in (server.conninfo(name), server.url(name)):
                with psycopg.connect(address) as connection:
                    assert connection.info.dbname == name
        engine = sa.create_engine(server.url("plain", driver="psycopg"), poolclass=sa.NullPool)
        with engine.connect() as found:
            assert found.scalar(sa.text("SELECT current_database()")) == "plain"
    assert nothing_left(server.directory)


def test_roles_connect_without_a_password(database: Database) -> None:
    with connect(database) as connection:
        connection.execute("CREATE ROLE some_app LOGIN")
        with psycopg.connect(database.conninfo_as("some_app")) as other:
            assert other.execute("SELECT current_user").fetchone() == ("some_app",)
        connection.execute("DROP ROLE some_app")


def test_databases_come_from_a_template_and_go_with_their_connections(pg: ScratchServer) -> None:
    pg.create_database("model")
    with pg.connect("model") as connection:
        connection.execute("CREATE TABLE t (id int)")
    pg.create_database("copy", template="model")
    with pg.connect("copy") as connection:
        assert connection.execute("SELECT to_regclass('t') IS NOT NULL").fetchone() == (True,)
        pg.drop_database("copy")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    pg.drop_database("model")
    pg.drop_database("model")


def test_the_replica_follows_its_primary(replica_pair: ReplicaPair) -> None:
    primary, replica = replica_pair.primary, replica_pair.replica
    with primary.connect() as writer, replica.connect() as reader:
        writer.execute("CREATE TABLE followed (id int)")
        there = "SELECT to_regclass('followed') IS NOT NULL"
        assert eventually(lambda: reader.execute(there).fetchone() == (True,))
        found = writer.execute("SELECT application_name, state FROM pg_stat_replication").fetchall()
        writer.execute("DROP TABLE followed")
    assert found == [("replica1", "streaming")]


def test_a_replica_can_be_stopped_before_its_primary(scratch: ScratchServer) -> None:
    replica = scratch.start_replica("short", settings={"recovery_min_apply_delay": "5s"})
    with replica.connect() as connection:
        assert connection.execute("SHOW recovery_min_apply_delay").fetchone() == ("5s",)
    replica.stop()
    replica.stop()
    assert nothing_left(replica.directory)
    with scratch.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_committed_rows_survive_a_restart(scratch: ScratchServer, mode: str) -> None:
    with scratch.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (mode text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (mode,))
    before = scratch.postmaster_pid
    match mode:
        case "kill":
            scratch.kill()
            with pytest.raises(ServerUnavailable, match="is not running"):
                _ = scratch.postmaster_pid
            scratch.restart()
        case "immediate":
            scratch.restart("immediate")
        case _:
            scratch.restart()
    assert scratch.postmaster_pid != before
    with scratch.connect() as connection:
        assert connection.execute("SELECT count(*) FROM kept WHERE mode = %s", (mode,)).fetchone() == (1,)


def test_a_killed_server_leaves_no_backend(scratch: ScratchServer) -> None:
    with scratch.connect() as connection:
        backend = connection.info.backend_pid
        scratch.kill()
        assert backend not in {process.pid for process in _watchdog.processes()}
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    scratch.restart()


def test_a_server_that_does_not_start_shows_its_log(pg_binaries: ServerBinaries) -> None:
    with pytest.raises(ServerUnavailable, match='invalid value for parameter "wal_level": "a\'b') as caught:
        ScratchServer.start(pg_binaries, settings={"wal_level": "a'b\\"})
    assert "does not start" in caught.value.message


def test_settings_reach_the_server(pg_binaries: ServerBinaries) -> None:
    with (
        ScratchServer.start(pg_binaries, settings={"work_mem": "7MB"}, fsync=True) as server,
        server.connect() as connection,
    ):
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)


def test_an_exception_takes_the_server_down(pg_binaries: ServerBinaries) -> None:
    started: list[ScratchServer] = []
    with pytest.raises(ZeroDivisionError), ScratchServer.start(pg_binaries) as server:  # noqa: PT012
        started.append(server)
        raise ZeroDivisionError
    assert nothing_left(started[0].directory)


def test_stopping_works_without_the_watchdog(pg_binaries: ServerBinaries) -> None:
    server = ScratchServer.start(pg_binaries)
    watchdogs = [p.pid for p in _watchdog.processes() if _watchdog.__file__ in p.arguments]
    ours = [pid for pid in watchdogs if str(server.directory) in Path(f"/proc/{pid}/cmdline").read_text()]
    _watchdog.signal_all(set(ours), signal.SIGKILL)
    server.stop()
    assert len(ours) == 1
    assert nothing_left(server.directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("program", [OWNER, FORKING_OWNER], ids=["alone", "forked"])
def test_a_server_goes_with_the_process_that_started_it(pg_major: int, program: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", program, str(pg_major)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as owner:
        try:
            assert owner.stdout is not None
            directory = Path(owner.stdout.readline().strip())
            assert (directory / "data" / "postmaster.pid").exists()
            owner.send_signal(number)
            owner.wait(timeout=30)
            assert eventually(lambda: nothing_left(directory))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(owner.pid, signal.SIGKILL)


def test_a_process_killed_while_its_server_starts_leaves_nothing(pg_major: int, tmp_path: Path) -> None:
    """At any moment of initdb and of the start."""
    code = OWNER.replace("server = ", "import tempfile; tempfile.tempdir = sys.argv[2]; server = ")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    for delay in (0.3, 0.5, 0.7, 0.9):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(pg_major), str(tmp_path)], stdout=subprocess.PIPE
        ) as owner:
            time.sleep(delay)
            owner.kill()
        assert eventually(lambda: not list(tmp_path.glob("zdm-*"))), delay
    assert not _watchdog.serving(str(tmp_path), _watchdog.processes())


def test_signal_handlers_are_left_alone(pg_binaries: ServerBinaries) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with ScratchServer.start(pg_binaries):
        assert [signal.getsignal(number) for number in numbers] == before


def test_a_major_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerUnavailable, match=r"no installation of PostgreSQL 99 was found \(there is: \d+"):
        find_binaries(99)


def test_a_wrong_directory_is_refused_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZDMIGRATE_PG_BIN", str(tmp_path))
    with pytest.raises(ServerUnavailable, match="ZDMIGRATE_PG_BIN is"):
        find_binaries()


def test_the_given_directory_comes_first(monkeypatch: pytest.MonkeyPatch, pg_binaries: ServerBinaries) -> None:
    monkeypatch.setenv("ZDMIGRATE_PG_BIN", str(pg_binaries.bin))
    assert find_binaries() == pg_binaries


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_binaries_that_the_server_may_not_read_are_copied_once(
    monkeypatch: pytest.MonkeyPatch, pg_binaries: ServerBinaries, tmp_path: Path
) -> None:
    store, locked = tmp_path / "store", tmp_path / "locked"
    (locked / "pg" / "bin").mkdir(parents=True)
    (locked / "pg" / "bin" / "postgres").write_text("x")
    locked.chmod(0o700)
    store.mkdir()
    monkeypatch.setattr(binaries, "temporary_base", lambda *_, **__: store)
    given = ServerBinaries(pg_binaries.major, locked / "pg" / "bin")
    user = binaries.Account(12345, 12345)

    copy = binaries.usable_by(user, given)
    made = (copy.bin / "postgres").stat()
    assert copy.bin != given.bin
    assert binaries.usable_by(user, given) == copy
    assert (copy.bin / "postgres").stat().st_ino == made.st_ino

    (copy.bin / "postgres").unlink()  # as a cleaner of temporary files does
    assert binaries.usable_by(user, given) == copy
    assert (copy.bin / "postgres").read_text() == "x"
    assert [path.name for path in store.glob("*/*-*")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a directory away")
def test_a_store_that_belongs_to_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "temporary_base", lambda *_, **__: tmp_path)
    store = tmp_path / "zdmigrate-postgres-0"
    store.mkdir()
    os.chown(store, 12345, 12345)
    with pytest.raises(ServerUnavailable, match="belongs to somebody else"):
        binaries._store()
