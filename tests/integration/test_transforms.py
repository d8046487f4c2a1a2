"""Values that a Python function computes, against a real server: what others do meanwhile is done inside the function."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.range import Range

from tests.support import servers
from tests.support.processes import until
from zdmigrate.backfill import values, verification, worker
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.bad_rows.failures import RowFailed
from zdmigrate.backfill.bad_rows.quarantine import Entry, Limit, Quarantine, QuarantineFull
from zdmigrate.backfill.bad_rows.second_try import Result, SecondTry, Tried
from zdmigrate.backfill.bad_rows.setting_aside import Aside
from zdmigrate.backfill.pacing.governor import Limits
from zdmigrate.backfill.progress import Snapshot
from zdmigrate.backfill.transforming import FunctionBroken
from zdmigrate.control import install
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork, Transform

Connection = psycopg.Connection[Any]
Given = Sequence[Mapping[str, Any]]
SCHEMA = "Control"
CONTROL = """
INSERT INTO "Control".migration (key, project, id, checksum) OVERRIDING SYSTEM VALUE VALUES (1, 'default', '1', '');
INSERT INTO "Control".lease (migration, epoch) VALUES (1, 1);
"""
FENCE = Fence(held=sql.SQL('SELECT FROM "Control".lease WHERE (migration, epoch) = (1, 1)'))
QUICK = worker.Settings(
    window_pages=4, stripes=4, pause=timedelta(0), row_lock_timeout=timedelta(milliseconds=20),
    lock_budget=timedelta(milliseconds=400),
)  # fmt: skip
STEP = "fill"
N = 2000


def work(column: str = "score", *reads: str, table: str = "users", where: str = "") -> RowWork:
    quoted = tuple((name, sql.Identifier(name).as_string()) for name in reads or ("name",))
    empty = f"{sql.Identifier(column).as_string()} IS NULL"
    return RowWork(
        schema="public", table=table, assignments=(), unfilled=f"{empty} AND ({where})" if where else empty,
        transform=Transform(column=column, function="compute@1", reads=quoted),
    )  # fmt: skip


WORK = work()


def lengths(rows: Given) -> list[int]:
    return [len(row["name"]) for row in rows]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A database with the control schema."""

    connection: Connection
    connect: Callable[[], Connection]

    def execute(self, *texts: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for text in texts:
            cursor = self.connection.execute(sql.SQL(text))
            found = cursor.fetchall() if cursor.description else []
        return found

    def users(self, rows: int = N, *, key: str = "PRIMARY KEY", more: str = "") -> None:
        self.execute(
            f"CREATE TABLE public.users (id integer {key}, name text, score integer, writes integer NOT NULL DEFAULT 0) {more}"
        )
        if not more:
            self.execute(
                f"INSERT INTO public.users (id, name) SELECT n, repeat('x', n % 90) FROM generate_series(1, {rows}) n"
            )

    def count_writes(self) -> None:
        self.execute(
            "CREATE FUNCTION public.count_writes() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$",
            "CREATE TRIGGER a_count BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.count_writes()",
            "ALTER TABLE public.users ENABLE ALWAYS TRIGGER a_count",
        )

    def run(
        self, function: Callable[[Any], Any], rows: RowWork = WORK, *, aside: bool = True, limit: Limit | None = None,
        workers: int = 1, settings: worker.Settings = QUICK, stop: Callable[[], bool] = lambda: False,
        told: Callable[[Snapshot], None] = lambda _: None,
    ) -> worker.Outcome:  # fmt: skip
        where = Quarantine(control_schema=SCHEMA, migration=1, step=STEP)
        return worker.run(
            self.connection, control_schema=SCHEMA, migration=1, step=STEP, rows=rows, settings=settings,
            fence=FENCE, progress=told, should_stop=stop, limits=Limits(workers=workers),
            connect=self.connect if workers > 1 else None, function=function,
            aside=Aside(quarantine=where, limit=limit or Limit()) if aside else None,
        )  # fmt: skip

    def unfilled(self, rows: RowWork = WORK) -> int:
        return verification.count_unfilled(
            self.connection, rows=rows, progress=lambda _: None, should_stop=lambda: False
        ).unfilled

    def entries(self) -> list[Entry]:
        return quarantine.entries(self.connection, control_schema=SCHEMA, migration=1)

    def retry(self, function: Callable[[Any], Any], rows: RowWork = WORK) -> Tried:
        (entry,) = self.entries()
        return SecondTry(
            connection=self.connection, control_schema=SCHEMA, guard=lambda _: None, doubt=lambda _: None,
            lock_timeout=timedelta(milliseconds=50), statement_timeout=timedelta(seconds=5), suppress=True,
            function=lambda _: function,
        ).fill(entry, rows)  # fmt: skip


@pytest.fixture
def place(database: servers.Database) -> Iterator[Place]:
    with servers.connect(database) as connection:
        with connection.transaction(), connection.cursor() as cursor:
            install.upgrade(cursor, SCHEMA, 0)
        connection.execute(CONTROL)
        yield Place(connection, lambda: servers.connect(database))


@pytest.fixture
def other(place: Place) -> Iterator[Connection]:
    with place.connect() as connection:
        yield connection


# What is filled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_every_row_is_written_once_and_a_second_run_calls_nothing(place: Place, key: str) -> None:
    place.users(key=key)
    place.count_writes()
    assert place.run(lengths) == worker.Outcome(rows=N, complete=True)
    assert place.execute("SELECT DISTINCT writes, score = length(name) FROM public.users") == [(1, True)]
    assert place.unfilled() == 0
    called: list[Given] = []
    assert place.run(called.append).rows == N
    assert called == []


def test_nothing_is_held_while_the_function_runs(place: Place, other: Connection) -> None:
    place.users(200)
    seen = set()

    def compute(rows: Given) -> list[int]:
        seen.update(
            other.execute(
                "SELECT state, backend_xmin, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND "
                "relation = 'public.users'::regclass) FROM pg_stat_activity a WHERE pid = %s",
                (place.connection.info.backend_pid,),
            ).fetchall()
        )
        return lengths(rows)

    place.run(compute)
    assert seen == {("idle", None, 0)}


def test_batches_are_striped_and_updates_stay_in_their_pages(place: Place) -> None:
    place.users(20_000)
    place.execute("CREATE INDEX ON public.users (name)", "ALTER TABLE public.users SET (autovacuum_enabled = false)")
    place.run(lengths, settings=worker.Settings(pause=timedelta(0)))
    place.execute("SELECT pg_stat_force_next_flush()")
    ((updated, hot),) = place.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'users'"
    )
    assert updated == 20_000
    assert hot > 0.7 * updated


def test_where_says_which_rows_need_a_value(place: Place) -> None:
    place.users(300)
    place.execute("UPDATE public.users SET name = NULL WHERE id % 3 = 0")
    rows = work(where="name IS NOT NULL")
    assert place.run(lengths, rows).rows == 200
    assert place.unfilled(rows) == 0
    assert place.entries() == []


def test_partitions_and_names_that_need_quotes(place: Place) -> None:
    place.execute(
        'CREATE TABLE public."a {} %s "" table" ("the ""key" integer, "a name; --" text, "Score %s" text) '
        'PARTITION BY LIST ("the ""key")',
        'CREATE TABLE public."part {0}" PARTITION OF public."a {} %s "" table" FOR VALUES IN (1)',
        'CREATE TABLE public."part 2" PARTITION OF public."a {} %s "" table" FOR VALUES IN (2)',
        'INSERT INTO public."a {} %s "" table" SELECT n % 2 + 1, $$it\'s %s {}$$ || n FROM generate_series(1, 500) n',
    )
    rows = work("Score %s", "a name; --", 'the "key', table='a {} %s " table')

    def compute(given: Given) -> list[str]:
        return ["{}:{}'%s{{}}\\".format(*(row[name] for name in ('the "key', "a name; --"))) for row in given]

    assert place.run(compute, rows).rows == 500
    found = place.execute(
        'SELECT count(*) FROM public."a {} %s "" table" '
        'WHERE "Score %s" = "the ""key" || \':\' || "a name; --" || $$\'%s{}\\$$'
    )
    assert found == [(500,)]


# Compare and set -----------------------------------------------------------------------------------------------------


def test_an_update_after_the_read_is_never_overwritten_from_the_older_version(place: Place, other: Connection) -> None:
    place.users()
    place.count_writes()
    calls: list[list[int]] = []

    def compute(rows: Given) -> list[int]:
        calls.append([row["id"] for row in rows])
        if len(calls) == 1:  # between the read and the write, and committed
            other.execute("UPDATE public.users SET name = 'twelve bytes' WHERE id = %s", (calls[0][0],))
            other.execute("UPDATE public.users SET score = -1 WHERE id = %s", (calls[0][1],))
            other.execute("DELETE FROM public.users WHERE id = %s", (calls[0][2],))
        return lengths(rows)

    place.run(compute, work("score", "name", "id"))
    first, second, third = calls[0][:3]
    assert place.execute(f"SELECT name, score, writes FROM public.users WHERE id = {first}") == [
        ("twelve bytes", 12, 2)
    ]
    assert place.execute(f"SELECT score, writes FROM public.users WHERE id = {second}") == [(-1, 1)]
    assert place.unfilled() == 0
    others = (
        "SELECT count(*), bool_and(score = length(name) AND writes = 1) FROM public.users WHERE id <> ALL(ARRAY[{}])"
    )
    assert place.execute(others.format(f"{first}, {second}, {third}")) == [(N - 3, True)]


@pytest.mark.parametrize(
    ("there_now", "becomes"),
    [("'another', NULL", ("another", 7)), ("name, -1", ("value", -1)), ("name, NULL", ("value", 5))],
)
def test_a_row_that_took_the_place_of_one_that_was_read(
    place: Place, other: Connection, there_now: str, becomes: tuple[str, int]
) -> None:
    """A place is not a row: after a VACUUM another one may be there, which gets no value of the first."""
    place.execute(
        "CREATE TABLE public.users (id integer, name text, score integer) WITH (autovacuum_enabled = false)",
        "INSERT INTO public.users SELECT n, 'value' FROM generate_series(1, 50) n",
    )
    done = False

    def compute(rows: Given) -> list[int]:
        nonlocal done
        if not done:
            done = True
            ((before, name),) = other.execute("SELECT ctid, name FROM public.users WHERE id = 20").fetchall()
            other.execute("DELETE FROM public.users WHERE id = 20")
            other.execute("VACUUM public.users")
            query = "INSERT INTO public.users (id, name, score) SELECT 21, {} FROM (VALUES ({})) v(name) RETURNING ctid"
            insert = sql.SQL(query).format(sql.SQL(there_now), sql.Literal(name))
            assert other.execute(insert).fetchone() == (before,)
        return lengths(rows)

    place.run(compute)
    assert becomes in place.execute("SELECT name, score FROM public.users WHERE id = 21")
    assert place.unfilled() == 0


def test_a_writer_whose_commit_was_waited_for(place: Place, other: Connection) -> None:
    """The server follows the row to its new version, and asks again whether it is what was read."""
    place.users(30)
    other.autocommit = False
    waiting = "SELECT %s = ANY(pg_blocking_pids(%s))"
    pids = (other.info.backend_pid, place.connection.info.backend_pid)

    def commit() -> None:
        with place.connect() as third:
            until(lambda: third.execute(waiting, pids).fetchall() == [(True,)], "the batch waits")
        other.commit()

    writer = threading.Thread(target=commit)

    def compute(rows: Given) -> list[int]:
        if writer.ident is None:
            other.execute("UPDATE public.users SET name = 'abc' WHERE id = 20")
            writer.start()
        return lengths(rows)

    patient = dataclasses.replace(
        QUICK, row_lock_timeout=timedelta(seconds=20), statement_timeout=timedelta(seconds=20)
    )
    place.run(compute, settings=patient)
    writer.join()
    assert place.execute("SELECT name, score FROM public.users WHERE id = 20") == [("abc", 3)]
    assert place.unfilled() == 0


def test_a_writer_that_is_still_at_it_when_the_values_are_written(place: Place, other: Connection) -> None:
    """Its row is locked, so the others are written first; then it is what the writer has made of it."""
    place.users(100)
    other.autocommit = False
    batches = 0

    def compute(rows: Given) -> list[int]:
        nonlocal batches
        batches += 1
        if batches == 1:
            other.execute("UPDATE public.users SET name = 'abc' WHERE id = 50")
        if batches == 3:
            other.commit()
        return lengths(rows)

    settings = dataclasses.replace(QUICK, lock_budget=timedelta(seconds=20))
    place.run(compute, settings=settings)
    assert batches >= 3
    assert place.execute("SELECT score FROM public.users WHERE id = 50") == [(3,)]
    assert place.unfilled() == 0


def test_an_update_of_other_columns_moves_the_row_and_it_is_found_again(place: Place, other: Connection) -> None:
    """Also beyond the pages that there were at the beginning: no trigger fills it there."""
    place.users(500)
    moved = False

    def compute(rows: Given) -> list[int]:
        nonlocal moved
        if not moved:
            other.execute("UPDATE public.users SET writes = writes + 1")
            moved = True
        return lengths(rows)

    assert place.run(compute) == worker.Outcome(rows=500, complete=True)
    assert place.execute("SELECT DISTINCT writes, score = length(name) FROM public.users") == [(1, True)]


def test_one_snapshot_sees_a_row_that_moves_while_others_are_read(place: Place, other: Connection) -> None:
    place.users(more="WITH (autovacuum_enabled = false)")
    rows = "INSERT INTO public.users SELECT n, 'x', nullif({}, n) FROM generate_series(1, {}) n"
    place.execute(rows.format(0, 1000))
    ((page,),) = place.execute("SELECT count(*) FROM public.users WHERE ctid < '(1,0)'")
    last = 10 * page
    place.execute(
        "TRUNCATE public.users",
        rows.format(last, last),  # ten full pages
        "DELETE FROM public.users WHERE id < 20",
        "VACUUM public.users",  # there is room in the first page alone
    )
    moved_to = None

    def move(progress: values.Progress) -> None:
        """To a page that has been read, from one that has not."""
        nonlocal moved_to
        if moved_to is None:
            other.execute("UPDATE public.users SET name = repeat('x', 80) WHERE id = %s", (last,))
            ((moved_to,),) = other.execute(
                "SELECT (ctid::text::point)[0] FROM public.users WHERE score IS NULL"
            ).fetchall()
            assert moved_to < progress.pages_done

    small = dataclasses.replace(QUICK, window_pages=1)
    page_by_page = verification.count_unfilled(
        place.connection, rows=WORK, progress=move, should_stop=lambda: False, settings=small
    )
    at_once = verification.count_at_once(place.connection, rows=WORK)
    assert (page_by_page.unfilled, at_once.unfilled) == (0, 1)
    assert at_once.sample == (f"public.users (id)=({last})",)


def test_types_without_equality_are_compared_too(place: Place, other: Connection) -> None:
    place.execute(
        "CREATE TABLE public.users (id integer PRIMARY KEY, name json, point point, score integer)",
        "INSERT INTO public.users SELECT n, '{\"a\": [1,2]}', '(1,2)' FROM generate_series(1, 20) n",
    )
    done = False

    def compute(rows: Given) -> list[int]:
        nonlocal done
        if not done:
            done = True
            other.execute("UPDATE public.users SET name = '{\"a\": [1,2,3]}' WHERE id = 7")
        return [len(row["name"]["a"]) for row in rows]

    place.run(compute, work("score", "name", "point"))
    assert place.execute("SELECT score, count(*) FROM public.users GROUP BY 1 ORDER BY 1") == [(2, 19), (3, 1)]


def test_rows_without_a_value_that_never_end_are_left_to_the_verification(place: Place, other: Connection) -> None:
    place.users(200)

    def compute(rows: Given) -> list[int]:
        other.execute("INSERT INTO public.users (id, name) SELECT max(id) + 1, 'late' FROM public.users")
        return lengths(rows)

    assert place.run(compute).complete
    assert place.unfilled() > 0


# Bad rows ------------------------------------------------------------------------------------------------------------


def test_rows_for_which_it_raises_are_set_aside_and_the_others_filled(place: Place) -> None:
    place.users()
    place.execute("UPDATE public.users SET name = 'secret ' || id WHERE id % 400 = 1")

    def compute(rows: Given) -> list[int]:
        for row in rows:
            if row["name"].startswith("secret"):
                raise LookupError("no such name")
        return lengths(rows)

    place.run(compute)
    entries = place.entries()
    assert sorted(entry.key["id"] for entry in entries) == sorted(str(n) for n in range(1, N, 400))
    assert {(e.sqlstate, e.message, e.data) for e in entries} == {("38000", "LookupError: no such name", None)}
    assert place.execute("SELECT count(*) FROM public.users WHERE score = length(name)") == [(N - len(entries),)]


@pytest.mark.parametrize(
    ("type_", "good", "bad", "sqlstate", "says"),
    [
        ("integer", 1, None, "22004", "compute() returned None"),
        ("integer", 1, 1.5, "22P02", 'invalid input syntax for type integer: "1.5"'),
        ("integer", 1, 2**40, "22003", 'value "1099511627776" is out of range for type integer'),
        ("varchar(3)", "abc", "abcd", "22001", "value too long for type character varying(3)"),
        ("char(3)", "abc", "abcd", "22001", "value too long for type character(3)"),
        ("numeric(4,2)", Decimal("1.5"), Decimal(100), "22003", "numeric field overflow"),
        ("date", dt.date(2026, 1, 1), "soon", "22007", 'invalid input syntax for type date: "soon"'),
        ("text", "x", "a\0b", "22000", "compute() returned str, which cannot be written: "),
        ("text", "x", object(), "22000", "compute() returned object, which cannot be written: cannot adapt type 'object'"),
        ("jsonb", {"a": 1}, {"a": object()}, "22000", "compute() returned dict, which cannot be written: "),
        ("integer CHECK (score < 5)", 1, 9, "23514", "new row for relation \"users\" violates check constraint"),
    ],
)  # fmt: skip
def test_values_that_the_column_does_not_take(
    place: Place, type_: str, good: object, bad: object, sqlstate: str, says: str
) -> None:
    place.execute(
        f"CREATE TABLE public.users (id integer PRIMARY KEY, name text, score {type_})",
        "INSERT INTO public.users SELECT n, 'n' || n FROM generate_series(1, 300) n",
    )

    def compute(rows: Given) -> list[object]:
        return [bad if row["name"] == "n150" else good for row in rows]

    place.run(compute)
    (entry,) = place.entries()
    assert (entry.key, entry.sqlstate) == ({"id": "150"}, sqlstate)
    assert entry.message.startswith(says)
    assert place.execute("SELECT count(score) FROM public.users") == [(299,)]


def test_a_value_of_the_server_that_python_does_not_have(place: Place) -> None:
    place.execute(
        "CREATE TABLE public.users (id integer PRIMARY KEY, name timestamp, score text)",
        "INSERT INTO public.users SELECT n, CASE n WHEN 77 THEN 'infinity' ELSE now() END FROM generate_series(1, 200) n",
    )
    place.run(lambda rows: [row["name"].isoformat() for row in rows])
    (entry,) = place.entries()
    assert (entry.key, entry.sqlstate) == ({"id": "77"}, "38000")
    assert entry.message.startswith("psycopg cannot read the row: ")
    assert place.execute("SELECT count(score) FROM public.users") == [(199,)]


def test_too_many_end_the_work(place: Place) -> None:
    place.users(500)
    with pytest.raises(QuarantineFull, match="ZeroDivisionError"):
        place.run(lambda rows: [1 // 0 for _ in rows], limit=Limit(rows=20, share=1))


@pytest.mark.parametrize("workers", [1, 3])
def test_one_that_calls_exit_is_no_end_of_the_command(place: Place, workers: int) -> None:
    place.users(500)
    with pytest.raises(QuarantineFull, match="SystemExit: 0"):
        place.run(lambda _: sys.exit(0), limit=Limit(rows=20, share=1), workers=workers)


def test_who_goes_on_begins_with_what_is_done(place: Place) -> None:
    place.users(2000)
    calls = 0

    def counting(rows: Given) -> list[int]:
        nonlocal calls
        calls += 1
        return lengths(rows)

    begun = place.run(counting, stop=lambda: calls >= 3)
    assert not begun.complete
    told: list[Snapshot] = []
    place.run(lengths, told=told.append, workers=2)
    (done,) = {(each.pages_done, each.eta_seconds) for each in told[:1]}
    bound = told[-1].pages_total
    assert told[0].rows == begun.rows
    assert (0 < done[0] < 4, done[1]) == (True, None), f"{done} of {bound}: the window of 4 pages is not done yet"


def test_without_a_place_for_them_the_first_ends_the_work(place: Place) -> None:
    place.users(20)
    with pytest.raises(RowFailed, match=r"public.users \(id\)=\(\d+\) cannot be filled: ZeroDivisionError"):
        place.run(lambda rows: [1 // 0 for _ in rows], aside=False)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda rows: [1] * (len(rows) - 1), r"compute\(\) returned \d+ values for \d+ rows"),
        (lambda rows: (1 for _ in [*rows, 0]), r"compute\(\) returned \d+ values for \d+ rows"),
        (lambda rows: rows.clear() or [], r"compute\(\) returned 0 values for \d+ rows"),
        (lambda _: None, r"compute\(\) returned NoneType, and not a list"),
        (lambda rows: "x" * len(rows), r"compute\(\) returned str, and not a list"),
        (lambda rows: dict.fromkeys(range(len(rows))), r"compute\(\) returned dict, and not a list"),
    ],
)
def test_a_function_that_breaks_its_word_writes_nothing(
    place: Place, returned: Callable[[Any], Any], says: str
) -> None:
    place.users(100)

    def compute(rows: Given) -> object:
        return returned(rows)

    with pytest.raises(FunctionBroken, match=says):
        place.run(compute)
    assert place.execute("SELECT count(score) FROM public.users") == [(0,)]
    assert place.entries() == []


def test_what_it_does_to_its_rows_changes_nothing(place: Place) -> None:
    place.users(50)
    failed = False

    def compute(rows: list[dict[str, Any]]) -> list[int]:
        nonlocal failed
        found = [len(row.pop("name")) for row in rows]
        if not failed:
            failed = True
            raise ValueError("the first time")
        return found

    place.run(compute)
    assert place.execute("SELECT DISTINCT score = length(name) FROM public.users") == [(True,)]
    assert place.entries() == []


# The second try ------------------------------------------------------------------------------------------------------


def poisoned(place: Place) -> None:
    place.users(20)
    place.execute("UPDATE public.users SET name = 'bad' WHERE id = 3")
    place.run(strict)
    assert len(place.entries()) == 1


def strict(rows: Given) -> list[int]:
    if any(row["name"] == "bad" for row in rows):
        raise ValueError("a bad name")
    return lengths(rows)


def test_a_row_that_was_mended_is_filled(place: Place) -> None:
    poisoned(place)
    place.execute("UPDATE public.users SET name = 'good' WHERE id = 3")
    assert place.retry(strict).result is Result.FILLED
    assert place.execute("SELECT score FROM public.users WHERE id = 3") == [(4,)]
    assert place.entries() == []
    assert place.unfilled() == 0


def test_a_row_that_fails_again(place: Place) -> None:
    poisoned(place)
    assert place.retry(strict).result is Result.FAILED
    (entry,) = place.entries()
    assert (entry.attempts, entry.message) == (2, "ValueError: a bad name")
    assert place.retry(lambda rows: ["x" for _ in rows]).result is Result.FAILED
    assert place.entries()[0].sqlstate == "22P02"


def test_a_row_that_somebody_filled_or_deleted(place: Place) -> None:
    poisoned(place)
    place.execute("UPDATE public.users SET score = 9 WHERE id = 3")
    assert place.retry(strict).result is Result.WAS_FILLED
    place.execute("DELETE FROM public.users", "INSERT INTO public.users VALUES (3, 'bad')")
    place.run(strict)
    place.execute("DELETE FROM public.users")
    assert place.retry(strict).result is Result.GONE


def test_a_row_that_changes_while_it_is_tried_again(place: Place, other: Connection) -> None:
    poisoned(place)
    place.execute("UPDATE public.users SET name = 'good' WHERE id = 3")

    def compute(rows: Given) -> list[int]:
        other.execute("UPDATE public.users SET name = 'better' WHERE id = 3")
        return lengths(rows)

    assert place.retry(compute).result is Result.BUSY
    assert place.execute("SELECT score FROM public.users WHERE id = 3") == [(None,)]
    assert len(place.entries()) == 1
    assert place.retry(strict).result is Result.FILLED
    assert place.execute("SELECT score FROM public.users WHERE id = 3") == [(6,)]


# Several -------------------------------------------------------------------------------------------------------------


def test_several_workers_write_every_row_once(place: Place) -> None:
    place.users(6000)
    place.count_writes()
    threads = set()
    together = threading.Barrier(3)

    def compute(rows: Given) -> list[int]:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait(timeout=20)  # nobody goes on before three are inside
        return lengths(rows)

    assert place.run(compute, workers=3).rows == 6000
    assert len(threads) == 3
    assert place.execute("SELECT DISTINCT writes, score = length(name) FROM public.users") == [(1, True)]


def test_stopped_between_batches_it_goes_on_where_it_was(place: Place) -> None:
    place.users()
    place.count_writes()
    calls = 0

    def compute(rows: Given) -> list[int]:
        nonlocal calls
        calls += 1
        return lengths(rows)

    first = place.run(compute, stop=lambda: calls >= 3)
    assert not first.complete
    assert calls == 3
    assert place.run(compute) == worker.Outcome(rows=N, complete=True)
    assert place.execute("SELECT DISTINCT writes, score = length(name) FROM public.users") == [(1, True)]


# Types ---------------------------------------------------------------------------------------------------------------


class Mood(enum.Enum):
    happy = 1


UTC = dt.UTC
VALUES: list[tuple[str, object]] = [
    ("smallint", -5), ("bigint", 2**62), ("numeric", Decimal("12345678901234567890.123456789")), ("numeric", Decimal("NaN")),
    ("double precision", 0.1), ("double precision", float("-inf")), ("boolean", False), ("text", ""), ("text", "ä€𝄞'\\\"\n\t"),
    ("uuid", uuid.UUID(int=7)), ("bytea", b"\x00\xff'\\"), ("date", dt.date(1, 1, 1)), ("time", dt.time(23, 59, 59, 999999)),
    ("timestamptz", dt.datetime(2026, 3, 29, 1, 30, tzinfo=UTC)), ("timestamp", dt.datetime(1999, 12, 31, 23, 59, 59, 1)),  # noqa: DTZ001
    ("interval", dt.timedelta(days=-1, microseconds=5)), ("integer[]", [1, 2, 3]), ("text[]", ["a,b", 'c"d', "", "NULL"]),
    ("text[]", []), ("integer[]", [[1, 2], [3, 4]]), ("jsonb", {"a": [1, None, "ä"]}), ("jsonb", "text"), ("jsonb", [1, 2]),
    ("json", {"b": 1, "a": 2}), ("int4range", Range(1, 5)), ("inet", ipaddress.ip_address("::1")), ("char(4)", "ab"),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "value"), VALUES)
def test_values_go_there_and_back(place: Place, type_: str, value: object) -> None:
    """Written into the new column, read from it again, and written into another one."""
    place.execute(
        f"CREATE TABLE public.users (id integer, name text, score {type_}, again {type_})",
        "INSERT INTO public.users SELECT n, 'x' FROM generate_series(1, 3) n",
    )
    given: list[object] = []

    def same(rows: Given) -> list[object]:
        given.extend(row["score"] for row in rows)
        return [row["score"] for row in rows]

    assert place.run(lambda rows: [value for _ in rows]).rows == 3
    place.execute('DELETE FROM "Control".backfill')
    assert place.run(same, work("again", "score")).rows == 3
    assert [repr(each).rstrip(" '") for each in given] == [repr(value).rstrip(" '")] * 3
    assert place.execute("SELECT count(*) FROM public.users WHERE record_image_eq(ROW(score), ROW(again))") == [(3,)]


def test_an_enum_and_a_composite_key_with_uuids(place: Place) -> None:
    place.execute(
        "CREATE TYPE public.mood AS ENUM ('happy', 'sad')",
        "CREATE TABLE public.users (tenant uuid, part public.mood, name text, score public.mood, PRIMARY KEY (tenant, part))",
        "INSERT INTO public.users SELECT gen_random_uuid(), m, 'x' FROM generate_series(1, 50), unnest('{happy,sad}'::mood[]) m",
        "UPDATE public.users SET name = 'bad' WHERE ctid = '(0,5)'",
    )

    def compute(rows: Given) -> list[object]:
        return ["cross" if row["name"] == "bad" else Mood.happy for row in rows]

    place.run(compute, work("score", "name", "tenant", "part"))
    assert place.execute("SELECT score::text, count(*) FROM public.users GROUP BY 1 ORDER BY 1") == [
        ("happy", 99),
        (None, 1),
    ]
    (entry,) = place.entries()
    assert set(entry.key) == {"tenant", "part"}
    assert entry.sqlstate == "22P02"
    assert place.retry(lambda rows: ["sad" for _ in rows], work("score", "name")).result is Result.FILLED
    assert place.unfilled() == 0
