"""The backfill against a real server, with a second session in its way.

Nothing here waits for a moment to come: the worker's callables (`fence`, `sleep` after every batch that wrote,
`progress`, `should_stop`) are where the other session acts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support import servers
from zdmigrate.backfill import state, verification, worker
from zdmigrate.backfill.bad_rows.failures import RowFailed
from zdmigrate.backfill.rights import Rights
from zdmigrate.control import install
from zdmigrate.control.fence import Fence
from zdmigrate.errors import LeaseLost, LockBudgetExceeded, Unsafe
from zdmigrate.plan import RowWork
from zdmigrate.planning import sync

Connection = psycopg.Connection[Any]
Connect = Callable[[], Connection]

# The control schema, and a lease as the engine fences with it.
CONTROL = """
INSERT INTO "Control".migration (key, project, id, checksum) OVERRIDING SYSTEM VALUE VALUES (1, 'default', '1', '');
INSERT INTO "Control".lease (migration, epoch) VALUES (1, 1);
"""
# Counts how often each row was written, whoever does it: triggers of a replica role fire only when ALWAYS.
COUNTING = """
CREATE FUNCTION public.count_writes() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$;
CREATE TRIGGER a_count BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.count_writes();
ALTER TABLE public.users ENABLE ALWAYS TRIGGER a_count;
"""
USERS = """
CREATE TABLE public.users (id integer {key}, old text, new text, writes integer NOT NULL DEFAULT 0) {more};
"""
ROWS = "INSERT INTO public.users (id, old) SELECT n, 'value ' || n FROM generate_series({}, {}) AS n"

QUICK = worker.Settings(
    window_pages=4, stripes=4, pause=timedelta(0), row_lock_timeout=timedelta(milliseconds=20),
    lock_budget=timedelta(milliseconds=400),
)  # fmt: skip
N = 2000


def pair(up: str = '"old"', down: str = '"new"', *, type_of_new: str = "text") -> sync.SyncPair:
    return sync.SyncPair(
        columns=frozenset(("id", "old", "new", "writes")),
        old=(sync.SyncColumn(name="old", type="text"),),
        new=(sync.SyncColumn(name="new", type=type_of_new),),
        up=(up,),
        down=(down,),
    )


def work_of(columns: sync.SyncPair, *, schema: str = "public", table: str = "users") -> RowWork:
    return RowWork(
        schema=schema, table=table, assignments=sync.assignments([columns]), unfilled=sync.unfilled(columns)
    )  # fmt: skip


WORK = work_of(pair())


def install_sync(connection: Connection) -> None:
    """The sync trigger, as `dual_write` makes it."""
    columns = pair()
    execute(connection, sync.sync_function([columns], '"Control".sync', "old"))
    statements = [
        *sync.trigger('public."users"', "zd_i", '"Control".sync', events="INSERT", when=None),
        *sync.trigger(
            'public."users"', "zd_u", '"Control".sync', events="UPDATE", when=sync.unfilled(columns, sync.Row("NEW."))
        ),
    ]
    for statement in statements:
        execute(connection, statement)


def execute(connection: Connection, *texts: str) -> list[tuple[Any, ...]]:
    """One message for each text (VACUUM wants its own); the rows of the last."""
    found: list[tuple[Any, ...]] = []
    for text in texts:
        cursor = connection.execute(sql.SQL(text))
        found = cursor.fetchall() if cursor.description else []
    return found


def one(connection: Connection, text: str) -> Any:
    return execute(connection, text)[0][0]


def users(connection: Connection, rows: int = N, *, key: str = "PRIMARY KEY", more: str = "") -> None:
    execute(connection, USERS.format(key=key, more=more))
    if not more:
        execute(connection, ROWS.format(1, rows))


@pytest.fixture
def connect(database: servers.Database) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(servers.connect(database))


@pytest.fixture
def main(connect: Connect) -> Connection:
    connection = connect()
    with connection.transaction(), connection.cursor() as cursor:
        install.upgrade(cursor, "Control", 0)
    execute(connection, CONTROL)
    return connection


HELD = sql.SQL('SELECT FROM "Control".lease WHERE (migration, epoch) = (1, 1)')


@dataclasses.dataclass
class Hooks:
    """What happens while the worker works; each is given the number of its call."""

    after_batch: Callable[[int], None] = lambda _: None
    in_fence: Callable[[int], None] = lambda _: None  # and before it
    on_progress: Callable[[worker.Snapshot], None] = lambda _: None
    stop: Callable[[int], bool] = lambda _: False
    batches: int = 0
    fences: int = 0
    asked: int = 0

    def before_fence(self) -> bool:
        self.fences += 1
        self.in_fence(self.fences)
        return False

    def sleep(self, seconds: float) -> None:
        del seconds
        self.batches += 1
        self.after_batch(self.batches)

    def should_stop(self) -> bool:
        self.asked += 1
        return self.stop(self.asked)


def run(
    connection: Connection,
    hooks: Hooks | None = None,
    *,
    rows: RowWork = WORK,
    settings: worker.Settings = QUICK,
    fence: type[Fence] = Fence,
) -> worker.Outcome:
    hooks = hooks or Hooks()
    return worker.run(
        connection, control_schema="Control", migration=1, step="1.backfill.fill", rows=rows, settings=settings,
        fence=fence(held=HELD, is_lost=hooks.before_fence),
        progress=hooks.on_progress, should_stop=hooks.should_stop, sleep=hooks.sleep,
    )  # fmt: skip


def count(connection: Connection, rows: RowWork = WORK, limit: int = 5) -> verification.Verification:
    return verification.count_unfilled(
        connection, rows=rows, progress=lambda _: None, should_stop=lambda: False, limit=limit
    )


def filled(connection: Connection) -> int:
    return int(one(connection, "SELECT count(*) FROM public.users WHERE new = old"))


def recorded(connection: Connection) -> int:
    finished = 'SELECT coalesce(sum(rows), 0) FROM "Control".backfill'
    under_way = 'SELECT coalesce(sum(rows), 0) FROM "Control".backfill_window'
    return int(one(connection, f"SELECT ({finished}) + ({under_way})"))


# What is filled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_every_row_is_written_once_and_a_second_run_writes_nothing(main: Connection, key: str) -> None:
    users(main, key=key)
    execute(main, COUNTING)
    seen: list[worker.Snapshot] = []
    assert run(main, Hooks(on_progress=seen.append)) == worker.Outcome(rows=N, complete=True)
    assert execute(main, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]
    assert (seen[-1].rows, seen[-1].pages_done) == (N, seen[-1].pages_total)
    assert [p.pages_done for p in seen] == sorted(p.pages_done for p in seen)
    assert run(main) == worker.Outcome(rows=N, complete=True)
    assert execute(main, "SELECT DISTINCT writes FROM public.users") == [(1,)]


def test_a_stripe_is_written_in_short_transactions_with_a_rest_after_each(main: Connection) -> None:
    users(main, 20_000)
    hooks = Hooks()
    run(main, hooks, settings=worker.Settings(stripes=4))
    transactions, most = execute(
        main, "SELECT count(*), max(rows) FROM (SELECT count(*) AS rows FROM public.users GROUP BY xmin) AS batch"
    )[0]
    assert most <= 150
    assert hooks.batches >= transactions > 100


def test_an_expression_is_evaluated_only_for_the_rows_of_its_stripe(main: Connection) -> None:
    users(main)
    execute(
        main,
        "CREATE FUNCTION public.looked() RETURNS boolean LANGUAGE plpgsql COST 1 AS 'BEGIN RETURN true; END'",
        "SET track_functions = 'pl'",
    )
    looking = dataclasses.replace(WORK, unfilled=f"public.looked() AND ({WORK.unfilled})")
    run(main, rows=looking, settings=worker.Settings(stripes=16, pause=timedelta(0)))
    execute(main, "SELECT pg_stat_force_next_flush()")
    calls = one(main, "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'looked'")
    assert N <= calls < 5 * N, "once to count, once to fill, once for what is left"


def test_pages_without_unfilled_rows_cost_one_read(main: Connection) -> None:
    users(main, 20_000)
    execute(main, "UPDATE public.users SET new = old WHERE id < 19990", "VACUUM FULL public.users")
    hooks = Hooks()
    assert run(main, hooks).rows == 11
    assert hooks.batches <= 2


def test_an_empty_table_is_done_at_once(main: Connection) -> None:
    users(main, 0)
    assert run(main) == worker.Outcome(rows=0, complete=True)
    assert one(main, 'SELECT done FROM "Control".backfill') is True


def test_rows_are_filled_directly_and_pages_are_used_again(main: Connection) -> None:
    users(main, 20_000)
    execute(main, "CREATE INDEX ON public.users (old); ALTER TABLE public.users SET (autovacuum_enabled = false)")
    install_sync(main)
    run(main, settings=worker.Settings(pause=timedelta(0)))
    execute(main, "SELECT pg_stat_force_next_flush()")
    hot, updates = execute(main, "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'users'")[0]
    assert updates == 20_000
    assert hot > 0.6 * updates, "striping should make most updates HOT, although the rows grow by a third"


def test_a_single_window_in_one_transaction_would_not_be_hot(main: Connection) -> None:
    users(main, 20_000)
    execute(main, "CREATE INDEX ON public.users (old); ALTER TABLE public.users SET (autovacuum_enabled = false)")
    run(main, settings=worker.Settings(pause=timedelta(0), stripes=1))
    execute(main, "SELECT pg_stat_force_next_flush()")
    assert one(main, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'users'") < 2000


def test_odd_names_another_schema_and_json(main: Connection) -> None:
    schema, table, old, new = 'Odd "schema" %', "ß" * 30, 'Select {0} %s "x"', "n" * 60
    quoted = sql.Identifier(schema, table)
    main.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    main.execute(
        sql.SQL(
            'CREATE TABLE {} ({} json, {} json, "rows" int, "filled" int, "state" int, PRIMARY KEY ("rows"))'
        ).format(quoted, sql.Identifier(old), sql.Identifier(new))
    )
    main.execute(
        sql.SQL("INSERT INTO {} SELECT json_build_object('a', n), NULL, n FROM generate_series(1, 300) n").format(
            quoted
        )
    )
    columns = sync.SyncPair(
        columns=frozenset((old, new)),
        old=(sync.SyncColumn(name=old, type="json"),),
        new=(sync.SyncColumn(name=new, type="json"),),
        up=(sql.Identifier(old).as_string(),),
        down=(sql.Identifier(new).as_string(),),
    )
    rows = work_of(columns, schema=schema, table=table)
    before = count(main, rows, limit=1)
    assert (before.unfilled, before.sample) == (300, (f"{schema}.{table} (rows)=(1)",))
    assert run(main, rows=rows) == worker.Outcome(rows=300, complete=True)
    assert count(main, rows).unfilled == 0


def test_expressions_find_functions_of_public_and_may_contain_percent_signs(main: Connection) -> None:
    users(main, 100)
    execute(main, "CREATE FUNCTION public.up(text) RETURNS text LANGUAGE sql AS $$ SELECT upper($1) $$")
    execute(main, "SET search_path = pg_catalog")
    rows = RowWork(
        schema="public",
        table="users",
        assignments=(("new", """up("old") || '%s' || id % 7"""),),
        unfilled='"new" IS NULL',
    )
    assert run(main, rows=rows).rows == 100
    assert one(main, "SELECT new FROM public.users WHERE id = 9") == "VALUE 9%s2"


# Whatever dies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["after_batch", "in_fence"])
@pytest.mark.parametrize("number", [1, 2, 7, 11])
def test_a_killed_worker_is_resumed_and_every_row_written_once(
    main: Connection, connect: Connect, moment: str, number: int
) -> None:
    users(main)
    execute(main, COUNTING)
    victim = connect()

    def kill(call: int) -> None:
        if call == number:
            execute(main, f"SELECT pg_terminate_backend({victim.info.backend_pid}, 10000)")

    with pytest.raises(psycopg.OperationalError):
        run(victim, Hooks(**{moment: kill}))  # type: ignore[arg-type]
    done = one(main, "SELECT count(*) FROM public.users WHERE new = old")
    assert done < N
    if number > 2:
        assert done > 0
        assert recorded(main) == done
    assert run(connect()) == worker.Outcome(rows=N, complete=True)
    assert execute(main, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]


def test_a_crash_of_the_server_loses_data_and_cursor_together(
    main: Connection, connect: Connect, database: servers.Database
) -> None:
    """Batches do not wait for the disk, so the last ones may be gone; never one half of one."""
    users(main)
    execute(main, COUNTING)
    execute(main, "CHECKPOINT")

    def crash(batch: int) -> None:
        if batch == 7:
            database.server.kill()

    with pytest.raises(psycopg.OperationalError):
        run(connect(), Hooks(after_batch=crash))
    database.server.restart()
    after = connect()
    assert filled(after) == recorded(after) < N
    assert run(after) == worker.Outcome(rows=N, complete=True)
    assert execute(after, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]


def test_stopping_between_batches_and_going_on(main: Connection) -> None:
    users(main)
    execute(main, COUNTING)
    outcomes: list[worker.Outcome] = []
    while not outcomes or not outcomes[-1].complete:
        outcomes.append(run(main, Hooks(stop=lambda call: call > 3)))
    assert len(outcomes) > 3
    assert [o.rows for o in outcomes] == sorted(o.rows for o in outcomes)
    assert outcomes[-1].rows == N
    assert execute(main, "SELECT DISTINCT writes FROM public.users") == [(1,)]


def test_a_zombie_commits_nothing(main: Connection, connect: Connect) -> None:
    users(main)
    zombie = connect()

    def take_over(call: int) -> None:
        if call == 3:
            execute(main, 'UPDATE "Control".lease SET epoch = 2')

    with pytest.raises(LeaseLost):
        run(zombie, Hooks(after_batch=take_over))
    assert 0 < filled(main) == recorded(main) < N
    assert zombie.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    before = filled(main)
    with pytest.raises(LeaseLost):
        run(zombie)
    assert filled(main) == before


def test_the_fence_comes_first_in_every_transaction_that_writes(main: Connection) -> None:
    """A transaction with an id that was begun before the fence would have written before it."""
    users(main)

    class First(Fence):
        @property
        def lock(self) -> sql.Composed:
            return sql.SQL("SELECT 1 / (pg_current_xact_id_if_assigned() IS NULL)::int; {}").format(super().lock)

    run(main, fence=First)
    assert filled(main) == N


def test_forgetting_begins_again(main: Connection) -> None:
    users(main)
    run(main)
    execute(main, "UPDATE public.users SET new = NULL")
    with main.transaction(), main.cursor() as cursor:
        state.forget(cursor, control_schema="Control", migration=1, step="1.backfill.fill")
    assert run(main) == worker.Outcome(rows=N, complete=True)


def test_a_finished_backfill_that_is_run_again_looks_through_everything(main: Connection) -> None:
    users(main)
    run(main)
    execute(main, "UPDATE public.users SET new = NULL WHERE id = 77")
    assert run(main).rows == N + 1
    assert filled(main) == N


# Other sessions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR SHARE"])
def test_locked_rows_come_last_and_their_holder_is_named(main: Connection, connect: Connect, lock: str) -> None:
    users(main)
    holders = [connect(), connect()] if lock == "FOR SHARE" else [connect()]  # two sharers: a multixact
    for holder in holders:
        execute(holder, f"BEGIN; SELECT FROM public.users WHERE id IN (5, 900) {lock}")
    with pytest.raises(LockBudgetExceeded) as caught:
        run(main)
    message = caught.value.message
    assert filled(main) == N - 2 == recorded(main)
    assert "(id)=(5)" in message
    assert "(id)=(900)" not in message or "(id)=(5)" in message
    assert any(f"pid {holder.info.backend_pid}" in message for holder in holders)
    assert lock in message
    assert "since" in message
    assert "pg_terminate_backend" in (caught.value.hint or "")
    for holder in holders:
        execute(holder, "ROLLBACK")
    assert run(main) == worker.Outcome(rows=N, complete=True)


def test_a_prepared_transaction_in_the_way_is_named(main: Connection, connect: Connect) -> None:
    if one(main, "SELECT current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("max_prepared_transactions is 0 on this server")
    users(main, 100)
    execute(connect(), "BEGIN; UPDATE public.users SET writes = 1 WHERE id = 5; PREPARE TRANSACTION 'it''s mine'")
    try:
        with pytest.raises(LockBudgetExceeded, match="prepared transaction") as caught:
            run(main)
        assert caught.value.hint is not None
        assert "ROLLBACK PREPARED 'it''s mine'" in caught.value.hint
    finally:
        execute(main, "ROLLBACK PREPARED 'it''s mine'")
    assert run(main).rows == 100


def test_rows_that_are_released_in_time_are_filled(main: Connection, connect: Connect) -> None:
    users(main)
    holder, observer = connect(), connect()
    execute(holder, "BEGIN; SELECT FROM public.users WHERE id = 5 FOR UPDATE")

    def release(_: int) -> None:
        if filled(observer) == N - 1:
            execute(holder, "ROLLBACK")

    assert run(main, Hooks(after_batch=release)) == worker.Outcome(rows=N, complete=True)


def test_many_locked_rows_are_passed_over_at_once_and_not_one_by_one(main: Connection, connect: Connect) -> None:
    users(main)
    holder, observer = connect(), connect()
    execute(holder, "BEGIN; SELECT FROM public.users WHERE id % 4 = 0 FOR UPDATE")
    hooks = Hooks()
    needed: list[int] = []

    def release(_: int) -> None:
        if not needed and filled(observer) == N * 3 // 4:
            needed.append(hooks.fences)
            execute(holder, "ROLLBACK")

    hooks.after_batch = release
    assert run(main, hooks) == worker.Outcome(rows=N, complete=True)
    assert needed[0] < 120  # one by one it is 500


def test_nobody_waits_long_behind_a_batch_that_waits(main: Connection, connect: Connect) -> None:
    """The batch holds row 1 while it waits for row 100; whoever wants row 1 meanwhile gets it although 100 stays locked."""
    users(main, 100)
    holder, application, observer = connect(), connect(), connect()
    execute(holder, "BEGIN; SELECT FROM public.users WHERE id = 100 FOR UPDATE")
    execute(application, "SET lock_timeout = '5s'")
    waiting = f"SELECT pg_blocking_pids({main.info.backend_pid})"
    errors: list[psycopg.Error] = []

    def write() -> None:
        while one(observer, waiting) != [holder.info.backend_pid]:
            pass
        try:
            execute(application, "UPDATE public.users SET writes = 7 WHERE id = 1")
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    settings = dataclasses.replace(QUICK, row_lock_timeout=timedelta(milliseconds=300))
    with pytest.raises(LockBudgetExceeded):
        run(main, settings=settings)
    thread.join()
    assert errors == []
    assert one(main, "SELECT writes FROM public.users WHERE id = 1") == 7
    assert filled(main) == 99


def test_a_lock_on_the_table_is_waited_for_within_the_budget(main: Connection, connect: Connect) -> None:
    users(main)
    holder = connect()
    execute(holder, "BEGIN; LOCK TABLE public.users IN SHARE MODE")
    with pytest.raises(LockBudgetExceeded, match=f"pid {holder.info.backend_pid}.*LOCK TABLE"):
        run(main)
    execute(holder, "ROLLBACK; BEGIN; LOCK TABLE public.users")
    for attempt in (run, count):
        with pytest.raises(LockBudgetExceeded, match=f"pid {holder.info.backend_pid}.*LOCK TABLE"):
            attempt(main) if attempt is run else verification.count_unfilled(
                main, rows=WORK, progress=lambda _: None, should_stop=lambda: False, settings=QUICK
            )
    execute(holder, "ROLLBACK")
    assert run(main).rows == N


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_row_that_changes_under_a_batch_is_not_overwritten(
    main: Connection, connect: Connect, isolation: str, *, kept: bool
) -> None:
    """The control: with plain inequality for a predicate the batch does overwrite it."""
    users(main, 100)
    columns = pair(up='upper("old")', down='lower("new")')
    rows = (
        work_of(columns) if kept else dataclasses.replace(work_of(columns), unfilled="new IS DISTINCT FROM upper(old)")
    )
    writer = connect()
    execute(main, f"SET default_transaction_isolation = '{isolation}'")
    execute(writer, "BEGIN; UPDATE public.users SET new = 'WRITTEN by N+1', old = 'written by n+1' WHERE id = 50")
    patient = dataclasses.replace(
        QUICK, row_lock_timeout=timedelta(seconds=20), statement_timeout=timedelta(seconds=20)
    )
    observer = connect()
    waiting = f"SELECT pg_blocking_pids({main.info.backend_pid})"

    def commit_when_waited_for() -> None:
        while one(observer, waiting) != [writer.info.backend_pid]:
            pass
        execute(writer, "COMMIT")

    thread = threading.Thread(target=commit_when_waited_for)
    thread.start()
    run(main, rows=rows, settings=patient)
    thread.join()
    found = one(main, "SELECT new FROM public.users WHERE id = 50")
    assert (found == "WRITTEN by N+1") is kept
    assert filled(main) == 0
    assert one(main, "SELECT count(*) FROM public.users WHERE new = upper(old)") == (99 if kept else 100)


def test_a_table_that_grows_faster_than_it_is_filled_ends_all_the_same(main: Connection, connect: Connect) -> None:
    users(main)
    install_sync(main)
    writer, inserted = connect(), [0]

    def insert(batch: int) -> None:
        inserted[0] += 1000
        assert batch < 1000
        execute(writer, ROWS.format(10_000 * batch, 10_000 * batch + 999))

    assert run(main, Hooks(after_batch=insert)) == worker.Outcome(rows=N, complete=True)
    assert inserted[0] > N
    assert count(main).unfilled == 0
    pages = one(main, "SELECT pg_relation_size('public.users') / 8192")
    assert one(main, 'SELECT bound FROM "Control".backfill') < pages


def test_updates_of_other_columns_while_it_runs_lose_nothing(main: Connection, connect: Connect) -> None:
    """They move unfilled rows behind the cursor and beyond the bound: there the trigger's fill has filled them."""
    users(main)
    install_sync(main)
    writer = connect()

    def touch(batch: int) -> None:
        execute(writer, f"UPDATE public.users SET writes = writes + 1 WHERE id % 13 = {batch % 13}")

    assert run(main, Hooks(after_batch=touch)).complete
    assert count(main).unfilled == 0
    assert filled(main) == N


# The table changes ---------------------------------------------------------------------------------------------------


def partitioned(connection: Connection) -> None:
    users(connection, key="", more="PARTITION BY RANGE (id)")
    execute(connection, "CREATE TABLE public.p1 PARTITION OF public.users FOR VALUES FROM (0) TO (1000)")
    execute(connection, "CREATE TABLE public.p2 PARTITION OF public.users FOR VALUES FROM (1000) TO (2000)"
                        " PARTITION BY RANGE (id)")  # fmt: skip
    execute(connection, "CREATE TABLE public.p2a PARTITION OF public.p2 FOR VALUES FROM (1000) TO (1500)")
    execute(connection, "CREATE TABLE public.p2b PARTITION OF public.p2 FOR VALUES FROM (1500) TO (2000)")
    execute(connection, ROWS.format(0, 1999))


def test_partitions_attached_while_it_runs_are_filled(main: Connection, connect: Connect) -> None:
    partitioned(main)
    other = connect()
    execute(other, "CREATE TABLE public.late (LIKE public.users INCLUDING ALL)")
    execute(other, "INSERT INTO public.late (id, old) SELECT n, 'late' FROM generate_series(5000, 5999) n")
    seen: list[str] = []

    def attach(progress: worker.Snapshot) -> None:
        if not seen:
            execute(other, "ALTER TABLE public.users ATTACH PARTITION public.late FOR VALUES FROM (5000) TO (6000)")
        seen.append(progress.relation)

    assert run(main, Hooks(on_progress=attach)) == worker.Outcome(rows=3000, complete=True)
    assert list(dict.fromkeys(seen)) == ["public.p1", "public.p2a", "public.p2b", "public.late"]
    assert count(main).unfilled == 0


def test_partitions_that_are_renamed_or_dropped_while_it_runs(main: Connection, connect: Connect) -> None:
    partitioned(main)
    other, changed = connect(), []

    def change(batch: int) -> None:
        if batch == 1:
            execute(other, "ALTER TABLE public.p1 RENAME TO renamed; DROP TABLE public.p2b")
            changed.append(batch)

    assert run(main, Hooks(after_batch=change)) == worker.Outcome(rows=1500, complete=True)
    assert changed
    assert count(main).unfilled == 0


def test_a_foreign_partition_is_refused(main: Connection) -> None:
    partitioned(main)
    execute(main, "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere")
    execute(
        main,
        "CREATE FOREIGN TABLE public.far PARTITION OF public.users FOR VALUES FROM (9000) TO (9999) SERVER nowhere",
    )
    for attempt in (run, count):
        with pytest.raises(Unsafe, match=r"public\.far"):
            attempt(main)


@pytest.mark.parametrize(
    "rewrite",
    ["VACUUM FULL public.users", "CLUSTER public.users USING users_pkey"],
)
def test_a_rewritten_table_is_begun_again(main: Connection, connect: Connect, rewrite: str) -> None:
    """Unfilled rows move in front of the cursor; the windows find them, not the sweep at the end."""
    users(main)
    execute(main, COUNTING)
    other = connect()
    bound = one(main, "SELECT pg_relation_size('public.users') / 8192")

    def now(batch: int) -> None:
        if batch == 5:
            execute(other, "DELETE FROM public.users WHERE id <= 1000")
            execute(other, rewrite)

    outcome = run(main, Hooks(after_batch=now))
    assert outcome.complete
    assert execute(main, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]
    assert one(main, "SELECT count(*) FROM public.users") == 1000
    assert one(main, 'SELECT filenode = pg_relation_filenode(relation) FROM "Control".backfill')
    assert one(main, 'SELECT bound FROM "Control".backfill') < bound


def test_rewrites_keep_the_count_exact(main: Connection, connect: Connect) -> None:
    """A batch that finds another file changes neither rows nor counters."""
    users(main)
    execute(main, COUNTING)
    other = connect()

    def now(batch: int) -> None:
        if batch in (3, 6, 9):
            execute(other, "VACUUM FULL public.users")

    assert run(main, Hooks(after_batch=now)) == worker.Outcome(rows=N, complete=True)
    assert recorded(main) == N
    assert execute(main, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]


def test_a_truncated_table_is_begun_again(main: Connection, connect: Connect) -> None:
    users(main)
    other = connect()

    def now(batch: int) -> None:
        if batch == 3:
            execute(other, "TRUNCATE public.users;" + ROWS.format(1, 10))

    assert run(main, Hooks(after_batch=now)).complete
    assert filled(main) == 10


# What the table does itself ------------------------------------------------------------------------------------------

UPDATED_AT = """
CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.writes := 1000; RETURN NEW; END $$;
CREATE TRIGGER mark BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.mark();
"""


def test_the_tables_own_triggers_do_not_fire(main: Connection) -> None:
    users(main)
    execute(main, UPDATED_AT)
    assert Rights.of(main).triggers
    assert run(main).rows == N
    assert execute(main, "SELECT DISTINCT writes FROM public.users") == [(0,)]
    assert one(main, "SHOW session_replication_role") == "origin"


def owner(main: Connection, connect: Connect) -> Connection:
    """A connection as an owner who is nothing else."""
    name = "owner_of_" + one(main, "SELECT current_database()")
    execute(main, f'CREATE ROLE "{name}"; GRANT ALL ON SCHEMA public, "Control" TO "{name}"')
    execute(
        main, f'GRANT ALL ON ALL TABLES IN SCHEMA "Control" TO "{name}"; ALTER TABLE public.users OWNER TO "{name}"'
    )
    connection = connect()
    execute(connection, f'SET ROLE "{name}"')
    return connection


@pytest.fixture
def as_owner(main: Connection, connect: Connect) -> Any:
    made = []

    def make() -> Connection:
        made.append(owner(main, connect))
        return made[-1]

    yield make
    for connection in made:
        name = one(connection, "SELECT current_user")
        execute(connection, "RESET ROLE")
        execute(connection, f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


def test_an_owner_without_the_privilege_fires_them(main: Connection, as_owner: Callable[[], Connection]) -> None:
    users(main)
    execute(main, UPDATED_AT)
    plain = as_owner()
    assert not Rights.of(plain).triggers
    assert run(plain).rows == N
    assert execute(main, "SELECT DISTINCT writes FROM public.users") == [(1000,)]


def test_a_granted_owner_may_suppress_them(main: Connection, as_owner: Callable[[], Connection]) -> None:
    users(main)
    execute(main, UPDATED_AT)
    plain = as_owner()
    name = one(plain, "SELECT current_user")
    execute(main, f'GRANT SET ON PARAMETER session_replication_role TO "{name}"')
    assert Rights.of(plain).triggers
    assert run(plain).rows == N
    assert execute(main, "SELECT DISTINCT writes FROM public.users") == [(0,)]


def test_rows_hidden_by_a_policy_are_an_error_and_not_overlooked(
    main: Connection, as_owner: Callable[[], Connection]
) -> None:
    users(main)
    execute(main, "CREATE POLICY few ON public.users USING (id < 10)")
    execute(main, "ALTER TABLE public.users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    plain = as_owner()
    for attempt in (run, count):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            attempt(plain)


def test_foreign_keys_are_checked_where_the_table_has_no_triggers_of_its_own(main: Connection) -> None:
    users(main, 100)
    execute(
        main,
        "CREATE TABLE public.known (value text PRIMARY KEY)",
        "INSERT INTO public.known SELECT 'value ' || n FROM generate_series(1, 99) AS n",
        "ALTER TABLE public.users ADD FOREIGN KEY (new) REFERENCES public.known",
    )
    with pytest.raises(RowFailed, match="foreign key"):
        run(main)
    assert filled(main) == 99


# Rows that cannot be filled, or take long ---------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "shown"), [("PRIMARY KEY", "public.users (id)=(1234) "), ("", "public.users ctid (")])
def test_a_row_whose_expression_fails_is_named(main: Connection, key: str, shown: str) -> None:
    users(main, key=key)
    execute(main, "ALTER TABLE public.users ADD secret text DEFAULT 'do not show', ALTER new TYPE int USING NULL")
    execute(main, "UPDATE public.users SET old = id; UPDATE public.users SET old = 'zero' WHERE id = 1234")
    rows = RowWork(schema="public", table="users", assignments=(("new", "old::int"),), unfilled="new IS NULL")
    with pytest.raises(RowFailed) as caught:
        run(main, rows=rows)
    assert caught.value.message.startswith(shown)
    assert caught.value.sqlstate == "22P02"
    assert "SQLSTATE 22P02" in caught.value.message
    assert "do not show" not in "".join(traceback.format_exception(caught.value))
    assert one(main, "SELECT count(*) FROM public.users WHERE new::text = old") == recorded(main)
    execute(main, "UPDATE public.users SET old = '0' WHERE id = 1234")
    assert run(main, rows=rows).rows == N


def test_the_data_of_a_row_that_a_constraint_refuses_is_not_shown(main: Connection) -> None:
    users(main)
    execute(main, "ALTER TABLE public.users ADD secret text DEFAULT 'do not show', ADD CHECK (new <> 'value 99')")
    with pytest.raises(RowFailed, match=r"users_new_check.*23514") as caught:
        run(main)
    assert caught.value.row == "public.users (id)=(99)"
    assert "do not show" not in "".join(traceback.format_exception(caught.value))


def test_a_row_whose_predicate_fails_is_named_by_backfill_and_verification(main: Connection) -> None:
    users(main)
    rows = dataclasses.replace(WORK, unfilled="new IS NULL AND 1 / (id - 700) <> 77")
    for attempt in (run, count):
        with pytest.raises(RowFailed, match=r"public\.users \(id\)=\(700\) .*22012"):
            attempt(main, rows=rows)


def test_an_expression_that_is_wrong_for_every_row_is_the_servers_error(main: Connection) -> None:
    users(main, 10)
    rows = dataclasses.replace(WORK, assignments=(("new", "no_such_function(old)"),))
    with pytest.raises(psycopg.errors.UndefinedFunction):
        run(main, rows=rows)


def test_batches_that_take_too_long_are_divided_down_to_rows(main: Connection) -> None:
    users(main, 40)
    execute(main, COUNTING)
    slow = dataclasses.replace(WORK, assignments=(("new", "CASE WHEN pg_sleep(0.02) IS NOT NULL THEN old END"),))
    hooks = Hooks()
    settings = dataclasses.replace(QUICK, statement_timeout=timedelta(milliseconds=70))
    assert run(main, hooks, rows=slow, settings=settings) == worker.Outcome(rows=40, complete=True)
    assert execute(main, "SELECT DISTINCT writes, new = old FROM public.users") == [(1, True)]


# Verification --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "shown"), [("PRIMARY KEY", "public.users (id)=(77)"), ("", "public.users ctid (")])
def test_every_unfilled_row_is_counted_and_a_few_are_named(main: Connection, key: str, shown: str) -> None:
    users(main, key=key)
    execute(main, "UPDATE public.users SET new = old WHERE id NOT IN (77, 78, 1999)")
    found = count(main, limit=2)
    assert (found.unfilled, found.complete, len(found.sample)) == (3, True, 2)
    assert found.checked_pages == one(main, "SELECT pg_relation_size('public.users') / 8192")
    assert found.sample[0].startswith(shown)


def test_partitions_are_verified_too(main: Connection) -> None:
    partitioned(main)
    execute(main, "UPDATE public.users SET new = old WHERE id <> 1600")
    found = count(main)
    assert found.unfilled == 1
    assert found.sample[0].startswith("public.p2b ctid (")


def test_a_rewrite_in_the_middle_begins_the_verification_again(main: Connection, connect: Connect) -> None:
    """VACUUM FULL moves an unfilled row from the end to pages that were read already."""
    users(main)
    execute(main, "UPDATE public.users SET new = old WHERE id < 2000", "VACUUM public.users")
    other, calls = connect(), [0]

    def rewrite(_: object) -> None:
        calls[0] += 1
        if calls[0] == 2:
            execute(other, "DELETE FROM public.users WHERE id BETWEEN 10 AND 1999", "VACUUM FULL public.users")

    found = verification.count_unfilled(
        main, rows=WORK, progress=rewrite, should_stop=lambda: False,
        settings=dataclasses.replace(QUICK, window_pages=1),
    )  # fmt: skip
    assert found.unfilled == 1
    assert found.sample == ("public.users (id)=(2000)",)


def test_a_stopped_verification_says_that_it_is_not_complete(main: Connection) -> None:
    users(main)
    found = verification.count_unfilled(main, rows=WORK, progress=lambda _: None, should_stop=lambda: True)
    assert (found.complete, found.checked_pages) == (False, 0)


def test_the_verification_holds_no_snapshot_between_ranges(main: Connection) -> None:
    users(main)
    idle = psycopg.pq.TransactionStatus.IDLE
    statuses: list[psycopg.pq.TransactionStatus] = []
    verification.count_unfilled(
        main, rows=WORK, should_stop=lambda: False, settings=dataclasses.replace(QUICK, window_pages=1),
        progress=lambda _: statuses.append(main.info.transaction_status),
    )  # fmt: skip
    assert len(statuses) > 3
    assert set(statuses) == {idle}
