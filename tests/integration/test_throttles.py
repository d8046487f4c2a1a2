"""Each throttle against a real server, and the watch when its connection is lost."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.support.servers import Database, base_for_tests, connect
from tests.support.throttling import SCHEMA, named, opener, prepare, stopped, until
from zdmigrate.backfill import throttles
from zdmigrate.backfill.throttles import Horizon, Reading, Throttle, Watch, sessions
from zdmigrate.backfill.throttles.archive import Archive
from zdmigrate.backfill.throttles.custom import CustomQuery
from zdmigrate.backfill.throttles.endpoint import Endpoint
from zdmigrate.backfill.throttles.flag_file import FlagFile
from zdmigrate.backfill.throttles.horizon import OldestXmin
from zdmigrate.backfill.throttles.open_hours import OpenHours
from zdmigrate.backfill.throttles.seldom import Seldom
from zdmigrate.backfill.throttles.slots import Slots
from zdmigrate.backfill.throttles.wal_rate import WalRate
from zdmigrate.backfill.throttles.wraparound import Wraparound
from zdmigrate.postgres import session
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries
from zdmigrate.postgres.session import Connection
from zdmigrate.throttle_settings import Throttle as Settings
from zdmigrate.throttle_settings import parse_hours

LONG = timedelta(seconds=30)


@pytest.fixture
def watching(database: Database) -> Iterator[Connection]:
    """The connection of the watch's thread."""
    with session.connect(database.conninfo, purpose="throttles") as connection:
        yield connection


@pytest.fixture
def nobody(database: Database) -> Iterator[Connection]:
    """The same for a role without any rights."""
    with connect(database) as admin:
        admin.execute("CREATE ROLE nobody LOGIN")
        with session.connect(database.conninfo_as("nobody"), purpose="throttles") as connection:
            yield connection
        admin.execute("DROP ROLE nobody")


def one(throttle: Throttle, connection: Connection) -> Reading:
    (reading,) = throttle.read(connection)
    return reading


# The horizon ---------------------------------------------------------------------------------------------------------


def horizon(connection: Connection, throttle: OldestXmin | None = None) -> Horizon:
    measured = one(throttle or OldestXmin(), connection).measured
    assert isinstance(measured, Horizon)
    return measured


def xid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


def test_without_others_nobody_holds_the_horizon_and_it_moves_on(database: Database, watching: Connection) -> None:
    with connect(database) as other:
        first = horizon(watching)
        assert first.holder == "nobody"
        used = xid(other)
        assert first.xmin <= used < horizon(watching).xmin


@pytest.mark.parametrize("role", ["watching", "nobody"])
def test_a_long_transaction_holds_the_horizon(database: Database, request: pytest.FixtureRequest, role: str) -> None:
    asker: Connection = request.getfixturevalue(role)
    with connect(database, application_name="nightly report") as reader, connect(database) as writer:
        with reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM pg_class")
            used = xid(writer)
            found = horizon(asker)
            assert found.xmin <= used
            assert found.holder == f"pid {reader.info.backend_pid} (postgres, nightly report)"
            assert found.remedy == f"SELECT pg_terminate_backend({reader.info.backend_pid})"
            assert (found.age is None) == (role == "nobody")
        assert horizon(asker).xmin > used


def test_who_writes_and_then_idles_holds_it_by_its_own_id(database: Database, watching: Connection) -> None:
    with connect(database) as writer, writer.transaction():
        own = xid(writer)
        assert horizon(watching).xmin == own


def test_a_transaction_of_another_database_does_not_count(
    pg: ScratchServer, database: Database, watching: Connection
) -> None:
    with pg.connect("postgres") as elsewhere, connect(database) as other, elsewhere.transaction():
        own = xid(elsewhere)
        used = xid(other)
        assert own < used < horizon(watching).xmin


def test_a_prepared_transaction_holds_it(database: Database, watching: Connection) -> None:
    with connect(database, autocommit=False) as writer:
        own = xid(writer)
        writer.execute("PREPARE TRANSACTION 'it''s stuck'")
        try:
            found = horizon(watching)
            assert (found.xmin, found.holder) == (own, 'prepared transaction "it\'s stuck" (postgres)')
            assert found.remedy == "ROLLBACK PREPARED 'it''s stuck'"
            assert found.age is not None
        finally:
            writer.autocommit = True
            writer.execute("ROLLBACK PREPARED 'it''s stuck'")


def test_a_slot_holds_it_with_nobody_connected(
    pg_binaries: ServerBinaries, own_server: ScratchServer, watch_own: Connection
) -> None:
    settings = {"hot_standby_feedback": "on", "primary_slot_name": "stays", "wal_receiver_status_interval": "1s"}
    with own_server.connect() as admin:
        admin.execute("SELECT pg_create_physical_replication_slot('stays')")
        replica = own_server.start_replica("replica", settings)
        throttle = OldestXmin(timedelta(days=1))
        reserved = "SELECT xmin IS NOT NULL FROM pg_replication_slots"
        assert until(lambda: admin.execute(reserved).fetchone() == (True,))
        replica.stop()
        used = xid(admin)
        xid(admin)
        found = horizon(watch_own, throttle)
        assert (found.holder, found.age is not None) == ("slot stays", True)
        assert found.xmin <= used
        assert "pg_drop_replication_slot('stays')" in (found.remedy or "")
        assert until(lambda: admin.execute("SELECT active FROM pg_replication_slots").fetchone() == (False,))
        admin.execute("SELECT pg_drop_replication_slot('stays')")


def test_an_age_that_is_hidden_is_unhealthy_where_there_is_a_limit(database: Database, nobody: Connection) -> None:
    with connect(database) as writer, writer.transaction():
        xid(writer)
        assert one(OldestXmin(), nobody).healthy
        reading = one(OldestXmin(timedelta(hours=1)), nobody)
        assert (reading.healthy, reading.hint) == (False, 'GRANT pg_read_all_stats TO "nobody"')


def test_a_horizon_that_is_held_too_long(database: Database, watching: Connection) -> None:
    throttle = OldestXmin(timedelta(milliseconds=1))
    with connect(database) as writer, writer.transaction():
        xid(writer)
        writer.execute("SELECT pg_sleep(0.01)")
        reading = one(throttle, watching)
        assert not reading.healthy
        assert f"pid {writer.info.backend_pid}" in (reading.reason or "")
        assert reading.hint == f"SELECT pg_terminate_backend({writer.info.backend_pid})"


# Slots, archive, wraparound --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server(pg_binaries: ServerBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchServer]:
    """One whose archiving fails, and whose autovacuum is quick to begin and slow to end."""
    settings = {
        "archive_mode": "on", "archive_command": "false", "autovacuum_naptime": "1s", "max_slot_wal_keep_size": "64MB",
        "wal_keep_size": "0", "max_wal_size": "64MB", "min_wal_size": "32MB",
    }  # fmt: skip
    with ScratchServer.start(pg_binaries, settings=settings, base=base_for_tests()) as server:
        yield server


@pytest.fixture
def watch_own(own_server: ScratchServer) -> Iterator[Connection]:
    with session.connect(own_server.conninfo(), purpose="throttles") as connection:
        yield connection


def fill_segment(connection: psycopg.Connection[Any], number: int = 1) -> None:
    for _ in range(number):
        connection.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
        connection.execute("SELECT pg_switch_wal()")


def test_a_slot_that_retains_wal_is_named_until_its_receiver_has_caught_up(
    database: Database, watching: Connection
) -> None:
    throttle = Slots(2**20)
    with connect(database) as admin:
        admin.execute("CHECKPOINT")  # a slot begins at the last one
        admin.execute("SELECT pg_create_physical_replication_slot('behind', true)")
        try:
            assert named(throttle.read(watching), "WAL of slot behind").healthy
            admin.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 2000000))")
            reading = named(throttle.read(watching), "WAL of slot behind")
            assert not reading.healthy
            assert (reading.reason or "").startswith("slot behind retains 1.9 MB")
            assert "pg_drop_replication_slot('behind')" in (reading.hint or "")
        finally:
            admin.execute("SELECT pg_drop_replication_slot('behind')")


def test_a_slot_without_a_position_retains_nothing(database: Database, watching: Connection) -> None:
    with connect(database) as admin:
        admin.execute("SELECT pg_create_physical_replication_slot('never_used')")
        try:
            assert named(Slots(2**20).read(watching), "WAL of slot never_used").healthy
        finally:
            admin.execute("SELECT pg_drop_replication_slot('never_used')")


def test_without_slots_and_archive_nothing_is_wrong(watching: Connection, nobody: Connection) -> None:
    assert str(one(Slots(2**20), watching)) == "WAL of slots no slot (below 1.0 MB)"
    assert str(one(Archive(2**20), nobody)) == "archive off (below 1.0 MB)"


def test_a_slot_that_has_lost_its_wal(own_server: ScratchServer, watch_own: Connection) -> None:
    with own_server.connect() as admin:
        admin.execute("ALTER SYSTEM SET archive_command = 'true'")  # else the segments are kept for the archiver
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("SELECT pg_create_physical_replication_slot('lost', true)")
        try:
            fill_segment(admin, 12)
            seen = named(Slots(2**40).read(watch_own), "WAL of slot lost")
            assert re.match("slot lost (is about to lose|has lost) WAL that it need", seen.reason or "")
            assert until(lambda: one(Archive(2**40), watch_own).value == "0 bytes waiting")
            admin.execute("CHECKPOINT")
            assert (
                named(Slots(2**40).read(watch_own), "WAL of slot lost").reason
                == "slot lost has lost WAL that it needed"
            )
        finally:
            admin.execute("SELECT pg_drop_replication_slot('lost')")
            admin.execute("ALTER SYSTEM RESET archive_command")
            admin.execute("SELECT pg_reload_conf()")


def test_archiving_that_fails_and_then_works(own_server: ScratchServer, watch_own: Connection) -> None:
    throttle = Archive(48 * 2**20)
    with own_server.connect() as admin:
        fill_segment(admin, 4)
        assert until(lambda: "failed at" in (one(throttle, watch_own).reason or ""))
        reading = one(throttle, watch_own)
        assert not reading.healthy
        assert "archive_command" in (reading.hint or "")
        try:
            admin.execute("ALTER SYSTEM SET archive_command = 'true'")
            admin.execute("SELECT pg_reload_conf()")
            fill_segment(admin)
            assert until(lambda: one(throttle, watch_own).healthy)
        finally:
            admin.execute("ALTER SYSTEM RESET archive_command")
            admin.execute("SELECT pg_reload_conf()")


def test_a_backlog_is_counted_or_estimated(own_server: ScratchServer, watch_own: Connection) -> None:
    with own_server.connect() as admin:
        admin.execute("CREATE ROLE guest LOGIN")
        admin.execute("SELECT pg_stat_reset_shared('archiver')")
        fill_segment(admin, 3)
        assert (one(Archive(48 * 2**20), watch_own).reason or "").startswith(("48.0 MB of WAL wait", "archiving of"))
        assert one(Archive(48 * 2**20), watch_own).value == "48.0 MB waiting"
        with session.connect(own_server.conninfo(user="guest"), purpose="throttles") as guest:
            reading = one(Archive(2**30), guest)
            assert (reading.healthy, reading.hint) == (False, 'GRANT pg_monitor TO "guest"')
            admin.execute("ALTER SYSTEM SET archive_command = 'true'")
            admin.execute("SELECT pg_reload_conf()")
            fill_segment(admin)
            assert until(lambda: one(Archive(2**30), guest).value == "0 bytes waiting")
        admin.execute("ALTER SYSTEM RESET archive_command")
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("DROP ROLE guest")


TOO_OLD = """
CREATE TABLE public."Old" (id integer, filler text)
    WITH (autovacuum_freeze_max_age = 100000, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
INSERT INTO public."Old" SELECT n, repeat('x', 2000) FROM generate_series(1, 4000) AS n;
CREATE PROCEDURE public.burn() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. 110000 LOOP
        PERFORM pg_current_xact_id();
        COMMIT;
    END LOOP;
END $$;
"""


def dropped(admin: psycopg.Connection[Any], table: str) -> bool:
    """Such a vacuum gives way to nobody, so it is ended."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
    admin.execute(query)
    try:
        admin.execute(f"DROP TABLE {table}".encode())
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def test_an_anti_wraparound_vacuum_on_the_table(own_server: ScratchServer, watch_own: Connection) -> None:
    with own_server.connect() as admin:
        admin.execute("CREATE ROLE guest LOGIN")
        admin.execute(TOO_OLD)
        mine, other = Wraparound(['public."Old"']), Wraparound(["pg_catalog.pg_class", "public.gone"])
        assert one(mine, watch_own).healthy
        admin.execute("SET synchronous_commit = off")
        admin.execute("CALL public.burn()")
        assert until(lambda: not one(mine, watch_own).healthy)
        reading = one(mine, watch_own)
        assert (reading.reason or "").startswith("autovacuum prevents wraparound: pid ")
        assert (reading.reason or "").endswith("on public.Old")
        assert one(other, watch_own).healthy
        with session.connect(own_server.conninfo(user="guest"), purpose="throttles") as guest:
            assert one(mine, guest).reason == reading.reason
        admin.execute("SET lock_timeout = '200ms'")
        assert until(lambda: dropped(admin, 'public."Old"'))
        admin.execute("DROP ROLE guest")
        assert one(mine, watch_own).healthy


# Sessions ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def waiting_for_a_lock(database: Database) -> Iterator[int]:
    """The pid of a session that waits."""
    with connect(database) as holder, connect(database) as waiter:
        with holder.transaction():
            holder.execute("SELECT pg_advisory_xact_lock(1)")
            thread = threading.Thread(target=waiter.execute, args=("SELECT pg_advisory_lock(1)",))
            thread.start()
            query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            assert until(lambda: holder.execute(query, (waiter.info.backend_pid,)).fetchone() == (True,))
            try:
                yield waiter.info.backend_pid
            finally:
                holder.execute("SELECT 1")
        thread.join()


@pytest.mark.parametrize("role", ["watching", "nobody"])
def test_who_waits_for_a_lock_is_named(database: Database, request: pytest.FixtureRequest, role: str) -> None:
    asker: Connection = request.getfixturevalue(role)
    throttle = sessions.lock_waiters(1)
    assert one(throttle, asker).healthy
    with waiting_for_a_lock(database) as pid:
        reading = one(throttle, asker)
        assert (reading.healthy, reading.reason) == (False, f"sessions waiting for locks: 1 (pid {pid})")
    assert one(throttle, asker).healthy


def test_active_sessions_are_those_of_others(database: Database, watching: Connection) -> None:
    with waiting_for_a_lock(database) as pid:
        reading = one(sessions.active(1), watching)
        assert not reading.healthy
        assert str(pid) in (reading.reason or "")
        assert one(sessions.active(1000), watching).healthy
        assert one(sessions.io_waiters(1000), watching).healthy


@pytest.mark.parametrize("make", [sessions.active, sessions.io_waiters])
def test_sessions_that_cannot_be_seen_are_unhealthy(nobody: Connection, make: Callable[[int], Throttle]) -> None:
    reading = one(make(1000), nobody)
    assert (reading.healthy, reading.hint) == (False, 'GRANT pg_read_all_stats TO "nobody"')


def test_the_rate_of_wal(database: Database, watching: Connection) -> None:
    seconds = iter(float(second) for second in range(100))
    throttle = WalRate(2**20, clock=lambda: next(seconds))
    assert one(throttle, watching).value == "unknown"
    assert one(throttle, watching).healthy
    with connect(database) as writer:
        writer.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 8000000))")
    assert not one(throttle, watching).healthy
    one(throttle, watching)
    one(throttle, watching)
    assert one(throttle, watching).healthy


# The user's own ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "value", "healthy"),
    [
        ("SELECT 9", "9", True),
        ("SELECT 10.5::numeric", "10.5", False),
        ("SELECT count(*) FROM pg_catalog.pg_class WHERE false", "0", True),
        ("SELECT NULL", "unknown", False),
        ("SELECT true", "unknown", False),
        ("SELECT 'NaN'::float", "nan", False),
        ("SELECT 1 WHERE false", "unknown", False),
        ("SELECT generate_series(1, 2)", "unknown", False),
        ("SELECT 1, 2", "unknown", False),
        ("SELECT 'text'", "unknown", False),
        ("SET work_mem = '1MB'", "unknown", False),
    ],
)
def test_a_custom_query(watching: Connection, query: str, value: str, healthy: bool) -> None:  # noqa: FBT001
    reading = one(CustomQuery(name="queue", sql=query, most=10), watching)
    assert (reading.value, reading.healthy) == (value, healthy)


class _Handler(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.end_headers()
        self.wfile.write(b"too much traffic\nmore")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_endpoint(watching: Connection) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        shown = f"http://127.0.0.1:{server.server_port}/ok"
        throttle = Endpoint(f"{shown}?token=geheim", timeout=timedelta(seconds=5))
        assert one(throttle, watching).healthy
        _Handler.status = 503
        reading = one(throttle, watching)
        assert (reading.healthy, reading.reason) == (False, f"{throttle.name[9:]} answers 503: too much traffic")
        assert "geheim" not in str(reading)
        server.shutdown()
        thread.join()
    reading = one(throttle, watching)
    assert (reading.healthy, reading.value) == (False, "unknown")
    assert "refused" in (reading.reason or "")


def test_an_endpoint_that_does_not_answer(watching: Connection) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as deaf:
        url = f"http://127.0.0.1:{deaf.server_port}/"
        reading = one(Endpoint(url, timeout=timedelta(milliseconds=50)), watching)
    assert not reading.healthy
    assert "timed out" in (reading.reason or "")


def test_a_flag_file(tmp_path: Path, watching: Connection) -> None:
    flag = tmp_path / "stop"
    throttle = FlagFile(flag)
    assert one(throttle, watching).healthy
    flag.write_text("black friday\n")
    assert one(throttle, watching).reason == f"{flag} is there: black friday"
    flag.unlink()
    flag.symlink_to("nowhere")
    assert not one(throttle, watching).healthy
    flag.unlink()
    assert one(throttle, watching).healthy
    reading = one(FlagFile(tmp_path / "unmounted" / "stop"), watching)
    assert (reading.healthy, reading.value) == (False, "unknown")


def test_hours_are_those_of_the_zone(watching: Connection) -> None:
    hours, zone = (parse_hours("22:00-06:00"),), ZoneInfo("Asia/Tokyo")
    night = OpenHours(hours, zone, now=lambda: datetime(2026, 5, 1, 14, tzinfo=UTC))
    assert one(night, watching).healthy
    day = OpenHours(hours, zone, now=lambda: datetime(2026, 5, 1, 22, tzinfo=UTC))
    assert one(day, watching).reason == "it is 07:00, work goes on within 22:00-06:00 Asia/Tokyo"


def test_what_is_asked_seldom_keeps_its_answer(watching: Connection, tmp_path: Path) -> None:
    seconds = [0.0]
    throttle = Seldom(FlagFile(tmp_path / "stop"), every=timedelta(seconds=5), clock=lambda: seconds[0])
    assert one(throttle, watching).healthy
    (tmp_path / "stop").touch()
    assert one(throttle, watching).healthy
    seconds[0] = 5
    assert not one(throttle, watching).healthy


# The watch -----------------------------------------------------------------------------------------------------------


class Scripted:
    """A throttle that does what it is told."""

    name = "scripted"

    def __init__(self, action: Callable[[Connection], Sequence[Reading]]) -> None:
        self._action = action

    def read(self, connection: Connection) -> Sequence[Reading]:
        return self._action(connection)


def quick(throttle: Throttle, open_: Callable[[], Connection], **options: timedelta) -> Watch:
    return Watch([throttle], open_, **({"interval": timedelta(milliseconds=20)} | options))


def test_everything_that_is_configured_is_asked(database: Database, tmp_path: Path) -> None:
    settings = Settings(
        max_active_sessions=1000, max_lock_waiters=1000, max_io_waiters=1000, max_wal_rate=2**40,
        max_horizon_age=timedelta(days=1), flag_file=tmp_path / "stop", hours=(parse_hours("00:00-00:00"),),
    )  # fmt: skip
    key = prepare(database.conninfo)
    with throttles.watch(
        settings, opener(database.conninfo), control_schema=SCHEMA, migration=key, tables=["public.users"]
    ) as watch:
        verdict = watch.wait(LONG)
        assert verdict.is_healthy, verdict.reasons
    assert [reading.name.split(str(tmp_path))[0].strip() for reading in verdict.readings] == [
        "replica lag", "xmin horizon", "WAL of slots", "archive", "anti-wraparound vacuum", "active sessions",
        "sessions waiting for locks", "sessions waiting for WAL or I/O", "WAL rate", "flag file", "hours",
    ]  # fmt: skip
    assert verdict.to_json()["healthy"] is True


def test_before_the_first_answer_it_is_unhealthy(database: Database) -> None:
    watch = quick(OldestXmin(), opener(database.conninfo))
    assert watch.verdict.reasons[0].endswith("not started")
    with watch:
        assert watch.wait(LONG).is_healthy


def test_a_lost_connection_is_opened_again_and_a_short_one_stops_nobody(database: Database) -> None:
    pids: set[int] = set()
    with quick(OldestXmin(), noting(pids, database), silence=timedelta(minutes=1)) as watch, connect(database) as admin:
        assert watch.wait(LONG).is_healthy
        at = watch.verdict.at
        assert at is not None
        admin.execute("SELECT pg_terminate_backend(%s)", tuple(pids))
        assert until(lambda: len(pids) == 2)
        verdict = watch.wait(LONG, until=lambda v: v.at is not None and v.at > at + timedelta(milliseconds=200))
        assert verdict.is_healthy


def noting(pids: set[int], database: Database) -> Callable[[], Connection]:
    def open_() -> Connection:
        connection = opener(database.conninfo)()
        pids.add(connection.info.backend_pid)
        return connection

    return open_


def test_without_a_connection_for_too_long_it_is_unhealthy_until_there_is_one(pg_binaries: ServerBinaries) -> None:
    with (
        ScratchServer.start(pg_binaries, base=base_for_tests()) as server,
        quick(OldestXmin(), opener(server.conninfo()), silence=timedelta(seconds=1)) as watch,
    ):
        assert watch.wait(LONG).is_healthy
        server.kill()
        verdict = watch.wait(LONG, until=lambda v: not v.is_healthy)
        assert "the throttles are unknown for 1" in verdict.reasons[0]
        assert verdict.readings
        server.restart()
        assert watch.wait(LONG).is_healthy


def test_a_question_that_nobody_answers_is_named(database: Database) -> None:
    answer = threading.Event()

    def ask(_: Connection) -> Sequence[Reading]:
        answer.wait()
        return [Reading(name="scripted", value="1", threshold="", healthy=True)]

    with quick(Scripted(ask), opener(database.conninfo), silence=timedelta(milliseconds=50)) as watch:
        verdict = watch.wait(LONG, until=lambda v: v.reasons[0].endswith("waiting for: scripted"))
        assert not verdict.is_healthy
        answer.set()
        assert watch.wait(LONG).is_healthy


def test_an_error_of_one_throttle_is_its_own_and_the_thread_lives(database: Database) -> None:
    failures: list[str] = ["SELECT 1/0", "SELECT nothing", "python"]

    def ask(connection: Connection) -> Sequence[Reading]:
        if not failures:
            return [Reading(name="scripted", value="1", threshold="", healthy=True)]
        what = failures[0]
        if what == "python":
            raise KeyError("some bug")
        connection.execute(what.encode())
        return []

    with quick(Scripted(ask), opener(database.conninfo)) as watch:
        for expected in ("division by zero", 'column "nothing" does not exist', "some bug"):
            verdict = watch.wait(LONG, until=lambda v, text=expected: text in str(v.reasons))  # type: ignore[misc]
            assert expected in verdict.reasons[0]
            failures.pop(0)
        assert watch.wait(LONG).is_healthy


def test_a_throttle_that_may_not_names_the_grant(nobody: Connection) -> None:
    def ask(connection: Connection) -> Sequence[Reading]:
        connection.execute("SELECT pg_ls_waldir()")
        return []

    with quick(Scripted(ask), opener(nobody.info.dsn)) as watch:
        verdict = watch.wait(LONG, until=stopped)
    assert verdict.reasons == ("permission denied for function pg_ls_waldir",)
    assert verdict.hints == ('GRANT pg_monitor TO "nobody"',)


def test_a_custom_query_that_may_not(database: Database, nobody: Connection) -> None:
    with connect(database) as admin:
        admin.execute("CREATE TABLE public.jobs ()")
    reading = one(CustomQuery(name="jobs", sql="SELECT count(*) FROM public.jobs", most=1), nobody)
    assert (reading.reason, reading.hint) == ("jobs: permission denied for table jobs", 'grant it to "nobody"')


def test_stop_ends_the_thread_and_closes_the_connection(database: Database) -> None:
    pids: set[int] = set()
    with quick(OldestXmin(), noting(pids, database)) as watch:
        assert watch.wait(LONG).is_healthy
    with connect(database) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
        assert until(lambda: admin.execute(query, (list(pids),)).fetchone() == (0,))
    assert "zdmigrate throttles" not in {thread.name for thread in threading.enumerate()}
