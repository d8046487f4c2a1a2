"""Several workers and processes at one backfill: nothing twice, nothing left, whoever dies."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support import servers
from zdmigrate.backfill import worker
from zdmigrate.backfill.bad_rows.quarantine import Limit, Quarantine
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.backfill.membership import Membership
from zdmigrate.backfill.pacing.governor import Governor, Limits
from zdmigrate.backfill.rights import Rights
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.state import Store
from zdmigrate.backfill.strategy import Mode, Oldest, Order
from zdmigrate.backfill.working import Stopped, Surroundings, Worker
from zdmigrate.control import install
from zdmigrate.control.fence import Fence
from zdmigrate.errors import LeaseLost, LockBudgetExceeded, Unsafe
from zdmigrate.plan import RowWork

Connection = psycopg.Connection[Any]
WORK = RowWork(schema="public", table="users", assignments=(("new", '"old"'),), unfilled='"new" IS DISTINCT FROM "old"')
N = 4000
SCHEMA = f"""
INSERT INTO "Control".migration (key, project, id, checksum) OVERRIDING SYSTEM VALUE VALUES (1, 'default', '1', '');
INSERT INTO "Control".lease (migration, epoch) VALUES (1, 1);
CREATE TABLE public.users (id integer PRIMARY KEY, old text, new text, writes integer NOT NULL DEFAULT 0);
INSERT INTO public.users (id, old) SELECT n, 'value ' || n FROM generate_series(1, {N}) AS n;
CREATE FUNCTION public.count_writes() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$;
CREATE TRIGGER a_count BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.count_writes();
ALTER TABLE public.users ENABLE ALWAYS TRIGGER a_count;
"""
OPEN = 5
"""Windows that are under way when one is taken away."""
SMALL = worker.Settings(window_pages=2, stripes=4, pause=timedelta(0))


@pytest.fixture
def main(database: servers.Database) -> Iterator[Connection]:
    with servers.connect(database) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            install.upgrade(cursor, "Control", 0)
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def connect(database: servers.Database) -> Callable[[], Connection]:
    return lambda: servers.connect(database)


def fence(is_lost: Callable[[], bool] = lambda: False) -> Fence:
    return Fence(held=sql.SQL('SELECT FROM "Control".lease WHERE (migration, epoch) = (1, 1)'), is_lost=is_lost)


def run(connection: Connection, connect: Callable[[], Connection], workers: int = 1, **more: Any) -> worker.Outcome:
    given: dict[str, Any] = {
        "should_stop": lambda: False,
        "progress": lambda _: None,
        "fence": fence(),
        "settings": SMALL,
    } | more
    return worker.run(
        connection, control_schema="Control", migration=1, step="fill", rows=WORK,
        limits=Limits(workers=workers), connect=connect, **given,
    )  # fmt: skip


def written(connection: Connection) -> set[tuple[int, bool]]:
    """How often rows were written, and whether they are right."""
    return set(connection.execute("SELECT writes, new = old FROM public.users").fetchall())


def counted(connection: Connection) -> int:
    rows = sql.SQL(
        'SELECT (SELECT sum(rows) FROM "Control".backfill) + (SELECT coalesce(sum(rows), 0) FROM "Control".backfill_window)'
    )
    row = connection.execute(rows).fetchone()
    assert row is not None
    return int(row[0])


def test_four_workers_write_every_row_once(main: Connection, connect: Callable[[], Connection]) -> None:
    assert run(main, connect, workers=4) == worker.Outcome(rows=N, complete=True)
    assert written(main) == {(1, True)}
    assert counted(main) == N
    assert main.execute('SELECT count(*) FROM "Control".backfill_window').fetchone() == (0,)
    assert main.execute('SELECT count(*) FROM "Control".backfill_process').fetchone() == (0,)


def test_a_table_that_is_rewritten_under_four_workers(main: Connection, connect: Callable[[], Connection]) -> None:
    """Each of them finds out in its next batch, and what they have counted in windows that are gone is kept."""
    rewritten: list[int] = []

    def rewrite(progress: worker.Snapshot) -> None:
        if threading.current_thread() is threading.main_thread() and progress.rows > 500 * (len(rewritten) + 1):
            rewritten.append(progress.rows)
            with connect() as other:
                other.execute("VACUUM FULL public.users")

    assert run(main, connect, workers=4, progress=rewrite) == worker.Outcome(rows=N, complete=True)
    assert len(rewritten) > 1
    assert written(main) == {(1, True)}
    assert counted(main) == N


def test_two_processes_share_it(main: Connection, connect: Callable[[], Connection]) -> None:
    together = threading.Barrier(2, timeout=30)
    met: list[bool] = []

    def meet(_: object) -> None:
        if not met:
            together.wait()
            met.append(True)

    ended: list[worker.Outcome] = []
    with connect() as theirs:
        second = threading.Thread(target=lambda: ended.append(run(theirs, connect, progress=lambda _: wait_once())))
        waited: list[bool] = []

        def wait_once() -> None:
            if not waited:
                waited.append(True)
                together.wait()

        second.start()
        ended.append(run(main, connect, progress=meet))
        second.join(30)
    assert ended == [worker.Outcome(rows=N, complete=True)] * 2
    assert written(main) == {(1, True)}


def test_what_a_dead_process_has_claimed_is_taken_over(main: Connection, connect: Callable[[], Connection]) -> None:
    victim = connect()
    fences: list[int] = []

    def die() -> bool:
        fences.append(1)
        if len(fences) == 9:
            main.execute("SELECT pg_terminate_backend(%s, 10000)", (victim.info.backend_pid,))
        return False

    with pytest.raises(psycopg.OperationalError):
        run(victim, connect, fence=fence(die))
    done = written(main)
    assert done != {(1, True)}
    assert run(main, connect) == worker.Outcome(rows=N, complete=True)
    assert written(main) == {(1, True)}
    assert counted(main) == N


def test_a_window_that_is_taken_away_leaves_none_behind(main: Connection) -> None:
    """Where windows take turns a worker has many. When it loses one, the others must not stay its own with nobody at work."""
    key: dict[str, Any] = {"control_schema": "Control", "migration": 1, "step": "fill"}
    member = Membership(main, ttl=timedelta(minutes=1), leads=True, **key)
    horizon = [0]

    def take_away(_: float) -> None:
        if horizon == [0] and main.execute('SELECT count(*) FROM "Control".backfill_window').fetchone() == (OPEN,):
            main.execute('UPDATE "Control".backfill_window SET process = 0 WHERE page = 0')
            horizon[:] = [1 << 60]

    session = Session(connection=main, settings=SMALL, fence=fence(), sleep=take_away)
    rotating = Mode(order=Order.ROTATING, why="a test")
    around = Surroundings(
        governor=Governor(Limits(), sleep=take_away), begin=lambda *_: None, mode=lambda _: rotating, check=lambda: None,
        oldest=lambda: Oldest(xmin=horizon[0], holder="a test", stands=timedelta(0)), report=lambda *_: None,
        judge=lambda *_, **__: None, may_begin_anew=True,
    )  # fmt: skip
    alone = Worker(
        0, session, Store(session, process=member.process, **key), WORK, around, aside=None, rights=Rights.of(main)
    )
    alone.fill_all()
    assert horizon != [0]
    assert written(main) == {(1, True)}
    assert counted(main) == N


def test_a_batch_gives_way_to_who_waits_for_it(main: Connection, connect: Callable[[], Connection]) -> None:
    """The batch waits for a row, and an application for the batch: without the cancel, for as long as the timeouts last."""
    patient = dataclasses.replace(SMALL, row_lock_timeout=timedelta(minutes=1), statement_timeout=timedelta(minutes=1))
    ended: list[worker.Outcome] = []
    with connect() as holder, connect() as application, connect() as theirs:
        holder.execute("BEGIN; UPDATE public.users SET old = old WHERE id = 9")  # the batch has id 1 before it
        job = threading.Thread(target=lambda: ended.append(run(theirs, connect, settings=patient)))
        job.start()
        await_blocker(main, theirs.info.backend_pid, holder.info.backend_pid)
        application.execute("SET statement_timeout = '20s'; SELECT FROM public.users WHERE id = 1 FOR UPDATE")
        holder.execute("ROLLBACK")
        job.join(60)
    assert ended == [worker.Outcome(rows=N, complete=True)]
    assert written(main) == {(1, True)}


def await_blocker(connection: Connection, pid: int, blocker: int) -> None:
    deadline = time.monotonic() + 30
    while connection.execute("SELECT pg_blocking_pids(%s)", (pid,)).fetchone() != ([blocker],):
        assert time.monotonic() < deadline


def test_one_that_is_held_back_alone_holds_nobody_else(main: Connection, connect: Callable[[], Connection]) -> None:
    """A throttle of its own machine stops it in the middle of a window; it is alive, so nobody may take the window over."""
    key: dict[str, Any] = {"control_schema": "Control", "migration": 1, "step": "fill"}
    has_begun = threading.Event()
    done = threading.Event()

    class HeldBack(Governor):
        def may_begin(self) -> bool:
            return not has_begun.is_set()

    def check() -> None:
        if done.is_set():
            raise Stopped

    def work(theirs: Connection) -> None:
        around = Surroundings(
            governor=HeldBack(Limits()), begin=lambda *_: None, mode=lambda _: Mode(order=Order.STRIPED, why="a test"),
            oldest=lambda: None, check=check, report=lambda *_: None, judge=lambda *_, **__: has_begun.set(), may_begin_anew=True,
        )  # fmt: skip
        member = Membership(theirs, ttl=timedelta(minutes=5), leads=False, **key)
        store = Store(Session(connection=theirs, settings=SMALL, fence=fence()), process=member.process, **key)
        held = Worker(
            0, Session(connection=theirs, settings=SMALL, fence=fence()), store, WORK, around, aside=None,
            rights=Rights.of(theirs),
        )  # fmt: skip
        with contextlib.suppress(Stopped):
            held.fill_all()

    with connect() as theirs:
        thread = threading.Thread(target=work, args=(theirs,))
        thread.start()
        assert has_begun.wait(30)
        began = time.monotonic()
        assert run(main, connect, should_stop=lambda: time.monotonic() > began + 40).complete
        done.set()
        thread.join(30)
    assert written(main) == {(1, True)}
    assert counted(main) == N


def test_a_worker_that_fails_ends_the_others_and_is_told(main: Connection, connect: Callable[[], Connection]) -> None:
    def lost() -> bool:
        return threading.current_thread() is not threading.main_thread()

    with pytest.raises(LeaseLost):
        run(main, connect, workers=3, fence=fence(lost))
    assert run(main, connect, workers=3).complete
    assert written(main) == {(1, True)}


def test_a_pause_from_elsewhere_holds_it_and_a_resume_lets_it_go(
    main: Connection, connect: Callable[[], Connection]
) -> None:
    pause = (
        'INSERT INTO "Control".backfill_control (migration, paused) VALUES (1, %s) '
        "ON CONFLICT (migration) DO UPDATE SET paused = excluded.paused"
    )
    main.execute(pause, (True,))
    ended: list[worker.Outcome] = []
    with connect() as theirs:
        thread = threading.Thread(target=lambda: ended.append(run(theirs, connect)))
        thread.start()
        query = """SELECT document->>'rows' FROM "Control".backfill_process WHERE document ? 'rows'"""
        seen: list[Any] = []
        while len(seen) < 3:  # it says how it goes, again and again, and does nothing
            seen += main.execute(query).fetchall()
        held = main.execute("SELECT count(*) FROM public.users WHERE new IS NOT NULL").fetchone()
        main.execute(pause, (False,))
        thread.join(30)
    assert ended == [worker.Outcome(rows=N, complete=True)]
    assert held is not None
    assert held[0] < N


def test_a_partition_that_is_dropped_while_it_is_asked_for_its_size(
    main: Connection, connect: Callable[[], Connection]
) -> None:
    main.execute(
        "ALTER TABLE public.users RENAME TO one; "
        "CREATE TABLE public.users (LIKE public.one INCLUDING DEFAULTS) PARTITION BY LIST (id); "
        "CREATE TABLE public.gone PARTITION OF public.users FOR VALUES IN (0); "
        "ALTER TABLE public.users ATTACH PARTITION public.one DEFAULT"
    )
    ended: list[worker.Outcome] = []
    with connect() as theirs, connect() as dropping:
        thread = threading.Thread(target=lambda: ended.append(run(theirs, connect)))
        with dropping.transaction():
            dropping.execute("ALTER TABLE public.users DETACH PARTITION public.gone; DROP TABLE public.gone")
            # Its reads of the catalog see the partition, and then wait for the lock on it.
            thread.start()
            await_blocker(main, theirs.info.backend_pid, dropping.info.backend_pid)
        thread.join(30)
    assert ended == [worker.Outcome(rows=N, complete=True)]
    assert written(main) == {(1, True)}


def test_a_pause_that_comes_when_all_is_done_holds_nobody(main: Connection, connect: Callable[[], Connection]) -> None:
    """The first worker has done its last batch when it comes, and the second waits for the first."""
    ended: list[worker.Outcome] = []
    second: list[Connection] = []
    may_come = threading.Event()
    windows = """SELECT (SELECT page >= bound FROM "Control".backfill) AND NOT EXISTS (SELECT FROM "Control".backfill_window)"""
    leftovers = """SELECT FROM "Control".backfill_window WHERE page = -1 FOR UPDATE"""

    def gated() -> Connection:
        comes = threading.current_thread().name.startswith("zdmigrate worker")
        if comes:
            assert may_come.wait(30)
        connection = connect()
        second.extend([connection] * comes)
        return connection

    with connect() as theirs, connect() as table, connect() as window:

        def lock_before_leftovers(_: worker.Snapshot) -> None:
            if not locked and main.execute(windows.encode()).fetchone() == (True,):
                locked.append(table.execute("BEGIN; LOCK TABLE public.users IN ACCESS EXCLUSIVE MODE"))

        locked: list[object] = []
        work = lambda: ended.append(run(theirs, gated, workers=2, progress=lock_before_leftovers))  # noqa: E731
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        window.execute("BEGIN")
        poll(lambda: window.execute(leftovers.encode()).rowcount == 1)
        table.execute("ROLLBACK")  # now they are looked through, and cannot be finished
        may_come.set()
        query = "SELECT FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%-1, bound%%'"
        poll(lambda: bool(second) and main.execute(query, (second[0].info.backend_pid,)).rowcount == 1)
        main.execute("""INSERT INTO "Control".backfill_control (migration, paused) VALUES (1, true)""")
        paused = """SELECT FROM "Control".backfill_process WHERE document->>'paused' IS NOT NULL"""
        poll(lambda: main.execute(paused.encode()).rowcount == 1)
        quiet = "SELECT FROM pg_stat_activity WHERE pid = %s AND state_change < clock_timestamp() - interval '1 s'"
        with contextlib.suppress(TimeoutError):
            poll(lambda: main.execute(quiet, (second[0].info.backend_pid,)).rowcount == 1, 3)
        window.execute("ROLLBACK")
        thread.join(20)
        main.execute("""UPDATE "Control".backfill_control SET paused = false""")
        assert ended == [worker.Outcome(rows=N, complete=True)]


@pytest.mark.parametrize(
    "error", [Unsafe("the server is a standby"), psycopg.OperationalError("too many clients already")]
)
def test_threads_that_cannot_connect_try_again(
    main: Connection, connect: Callable[[], Connection], error: Exception
) -> None:
    """As after a failover that is not yet over, or while the server has no connection to spare."""
    refused: set[str] = set()
    together = threading.Barrier(3, timeout=30)

    def first_time_in_vain() -> Connection:
        name = threading.current_thread().name
        if name not in refused:
            refused.add(name)
            raise error
        if name.startswith("zdmigrate worker"):
            together.wait()
        return connect()

    said: list[str] = []
    met: list[int] = []

    def meet(_: object) -> None:
        if not met:
            met.append(together.wait())

    assert run(main, first_time_in_vain, workers=3, progress=meet, say=said.append).complete
    assert refused >= {"zdmigrate steering", "zdmigrate worker 1", "zdmigrate worker 2"}
    assert sorted(line for line in said if "connection" in line) == [
        f"worker {number} has no connection: {error}" for number in (1, 2)
    ]
    assert written(main) == {(1, True)}


def test_a_pause_uses_up_nobodys_patience_with_a_lock(main: Connection, connect: Callable[[], Connection]) -> None:
    budget = timedelta(seconds=4)
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(run(theirs, connect, settings=dataclasses.replace(SMALL, lock_budget=budget)))
        except LockBudgetExceeded as error:
            ended.append(error)

    with connect() as theirs, connect() as holder:
        holder.execute("BEGIN; SELECT FROM public.users WHERE id = 9 FOR UPDATE")
        thread = threading.Thread(target=work)
        thread.start()
        leftovers = """SELECT FROM "Control".backfill_window WHERE page = -1"""
        poll(lambda: main.execute(leftovers.encode()).rowcount == 1)
        main.execute("""INSERT INTO "Control".backfill_control (migration, paused) VALUES (1, true)""")
        long = """SELECT FROM "Control".backfill_process WHERE (document->>'paused') IS NOT NULL AND EXISTS (
            SELECT FROM "Control".backfill_window WHERE claimed_at < clock_timestamp() - %s)"""
        poll(lambda: main.execute(long.encode(), (2 * budget,)).rowcount == 1 or bool(ended))
        main.execute("""UPDATE "Control".backfill_control SET paused = false""")
        tried = "SELECT query_start FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        times: set[object] = set()
        while len(times) < 4 and not ended:  # each round waits twice
            times.update(main.execute(tried, (theirs.info.backend_pid,)).fetchall())
        holder.execute("ROLLBACK")
        thread.join(30)
    assert ended == [worker.Outcome(rows=N, complete=True)]
    assert written(main) == {(1, True)}


def poll(until: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError


POISONED = RowWork(
    schema="public",
    table="users",
    assignments=(("number", '"old"::integer'),),
    unfilled='"number" IS DISTINCT FROM "old"::integer',
)


@pytest.mark.parametrize("workers", [1, 3])
def test_exactly_the_rows_that_fail_are_set_aside(
    main: Connection, connect: Callable[[], Connection], workers: int
) -> None:
    main.execute(
        "ALTER TABLE public.users ADD number integer; "
        "UPDATE public.users SET old = CASE WHEN id % 37 = 0 THEN 'x' ELSE id::text END"
    )
    quarantine = Quarantine(control_schema="Control", migration=1, step="fill")
    outcome = worker.run(
        main, control_schema="Control", migration=1, step="fill", rows=POISONED, settings=SMALL,
        limits=Limits(workers=workers), connect=connect, should_stop=lambda: False, progress=lambda _: None, fence=fence(),
        aside=Aside(quarantine=quarantine, limit=Limit(rows=1000, share=1)),
    )  # fmt: skip
    bad = {number for number in range(1, N + 1) if number % 37 == 0}
    assert outcome == worker.Outcome(rows=N - len(bad), complete=True)
    kept = main.execute(
        """SELECT (key->>'id')::integer, sqlstate FROM "Control".quarantine WHERE resolved_at IS NULL"""
    ).fetchall()
    assert sorted(kept) == [(number, "22P02") for number in sorted(bad)]
    left = main.execute(
        "SELECT id FROM public.users WHERE number IS DISTINCT FROM CASE WHEN old <> 'x' THEN id END"
    ).fetchall()
    assert left == []


def test_what_a_function_asserts_is_about_its_row(main: Connection, connect: Callable[[], Connection]) -> None:
    main.execute(
        "CREATE FUNCTION public.checked(value text) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN ASSERT value <> 'value 7'; RETURN value; END $$"
    )
    rows = dataclasses.replace(WORK, assignments=(("new", "public.checked(old)"),), unfilled='"new" IS NULL')
    quarantine = Quarantine(control_schema="Control", migration=1, step="fill")
    outcome = worker.run(
        main, control_schema="Control", migration=1, step="fill", rows=rows, settings=SMALL, connect=connect,
        should_stop=lambda: False, progress=lambda _: None, fence=fence(), aside=Aside(quarantine=quarantine, limit=Limit()),
    )  # fmt: skip
    assert outcome == worker.Outcome(rows=N - 1, complete=True)
    assert main.execute("""SELECT key, sqlstate FROM "Control".quarantine""").fetchall() == [({"id": "7"}, "P0004")]


def test_what_is_known_of_rows_that_fail_does_not_outlive_their_places(
    main: Connection, connect: Callable[[], Connection]
) -> None:
    """They are passed over by their place, and VACUUM FULL gives their places to others."""
    main.execute(
        "ALTER TABLE public.users ADD number integer; "
        "UPDATE public.users SET old = CASE WHEN id % 37 = 0 THEN 'x' ELSE id::text END"
    )
    main.execute("VACUUM FULL public.users")
    kept = 'SELECT count(*) FROM "Control".quarantine'
    moved: list[bool] = []

    def move(_: object) -> None:
        found = main.execute(kept).fetchone()
        if not moved and found is not None and found[0] > 20:
            moved.append(True)
            with connect() as another:
                another.execute("DELETE FROM public.users WHERE number IS NOT NULL")
                another.execute("VACUUM FULL public.users")

    worker.run(
        main, control_schema="Control", migration=1, step="fill", rows=POISONED, settings=SMALL, limits=Limits(),
        should_stop=lambda: False, progress=move, fence=fence(),
        aside=Aside(quarantine=Quarantine(control_schema="Control", migration=1, step="fill"), limit=Limit(share=1)),
    )  # fmt: skip
    assert moved
    wrong = main.execute(
        "SELECT id FROM public.users WHERE number IS DISTINCT FROM CASE WHEN old <> 'x' THEN id END"
    ).fetchall()
    assert wrong == []
