"""Rows that cannot be filled, set aside and tried again, on a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support import servers
from zdmigrate.backfill.bad_rows import quarantine
from zdmigrate.backfill.bad_rows.quarantine import Entry, Failure, Quarantine, QuarantineFull
from zdmigrate.backfill.bad_rows.second_try import Result, SecondTry, Tried
from zdmigrate.backfill.relations import Relation
from zdmigrate.control import install
from zdmigrate.errors import Waiting
from zdmigrate.plan import RowWork
from zdmigrate.postgres import session

SCHEMA = 'Con"trol'
STEP = "1.backfill.fill"
Connection = session.Connection

# A row cannot be filled while `old` is 'bad': what fails is a cast, so that the message quotes the value.
UNFILLED = 'CASE WHEN "old" LIKE \'bad%\' THEN "old"::integer = 1 ELSE "new" IS DISTINCT FROM "old" END'


def work(schema: str = "public", table: str = "t") -> RowWork:
    return RowWork(schema=schema, table=table, assignments=(("new", '"old"'),), unfilled=UNFILLED)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A control schema with one migration, and a table."""

    connection: Connection
    migration: int

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(sql.SQL(statement))
        return cursor.fetchall() if cursor.description else []

    def relation(self, schema: str = "public", name: str = "t") -> Relation:
        quoted = sql.Identifier(schema, name).as_string(self.connection)
        ((oid,),) = self.connection.execute("SELECT %s::regclass::oid::bigint", (quoted,)).fetchall()
        return Relation(oid=oid, schema=schema, name=name)

    def set_aside(self, relation: Relation, *, columns: tuple[str, ...] = (), where: str = "old LIKE 'bad%'") -> int:
        """What the worker does for the rows that fail."""
        query = sql.SQL("SELECT ctid::text FROM ONLY {} WHERE {}").format(relation.identifier, sql.SQL(where))
        tids = [tid for (tid,) in self.connection.execute(query).fetchall()]
        failures = [Failure(tid=tid, sqlstate="22P02", message="no integer") for tid in tids]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            return self.store(columns).record(cursor, relation, failures)

    def store(self, columns: tuple[str, ...] = ()) -> Quarantine:
        return Quarantine(control_schema=SCHEMA, migration=self.migration, step=STEP, columns=columns)

    def entries(self, **options: Any) -> list[Entry]:
        return quarantine.entries(self.connection, control_schema=SCHEMA, migration=self.migration, **options)

    def open(self) -> int:
        return quarantine.open_count(self.connection, control_schema=SCHEMA, migration=self.migration)

    def second_try(self, connection: Connection | None = None, **options: Any) -> SecondTry:
        given: dict[str, Any] = {"guard": lambda _: None, "doubt": lambda _: None} | options
        return SecondTry(
            connection=connection or self.connection, control_schema=SCHEMA, lock_timeout=timedelta(milliseconds=50),
            statement_timeout=timedelta(seconds=5), suppress=True, **given,
        )  # fmt: skip

    def retry(self, rows: RowWork | None = None, **options: Any) -> Tried:
        """The only open entry, once more."""
        (entry,) = self.entries()
        return self.second_try(**options).fill(entry, rows or work())


@pytest.fixture
def connect(database: servers.Database) -> Iterator[Callable[[], Connection]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(session.connect(database.conninfo, purpose="test"))


@pytest.fixture
def place(connect: Callable[[], Connection]) -> Place:
    connection = connect()
    with connection.transaction(), connection.cursor() as cursor:
        install.upgrade(cursor, SCHEMA, 0)
    statement = sql.SQL("INSERT INTO {} (project, id, checksum) VALUES ('p', 'm', '') RETURNING key")
    ((key,),) = connection.execute(statement.format(sql.Identifier(SCHEMA, "migration"))).fetchall()
    return Place(connection, key)


def table(place: Place, columns: str = "id integer PRIMARY KEY", values: str = "g", rows: int = 3) -> Relation:
    """Rows of which the last one cannot be filled."""
    place.execute(f"CREATE TABLE public.t ({columns}, old text, new text)")
    place.execute(
        f"INSERT INTO public.t SELECT {values}, CASE WHEN g = {rows} THEN 'bad' ELSE 'v' || g END "
        f"FROM generate_series(1, {rows}) AS g"
    )
    return place.relation()


# Setting aside -------------------------------------------------------------------------------------------------------


def test_a_row_is_named_by_its_key_and_shows_no_more(place: Place) -> None:
    relation = table(place)
    assert place.set_aside(relation) == 1
    (entry,) = place.entries()
    assert (dict(entry.key), entry.data, entry.attempts) == ({"id": "3"}, None, 1)
    assert (entry.relation, entry.relation_name, entry.step) == (relation.oid, "public.t", STEP)
    assert str(entry) == "public.t (id)=(3): no integer (SQLSTATE 22P02)"


def test_a_composite_key_keeps_its_order_for_people(place: Place) -> None:
    relation = table(place, '"Z z" text, "a%s{}" integer, PRIMARY KEY ("a%s{}", "Z z")', "'it''s \\ %s', g")
    place.set_aside(relation)
    (entry,) = place.entries()
    assert dict(entry.key) == {"a%s{}": "3", "Z z": "it's \\ %s"}
    place.execute("UPDATE public.t SET old = 'good'")
    assert place.retry().result is Result.FILLED


def test_what_an_index_only_carries_is_no_key(place: Place) -> None:
    place.set_aside(table(place, "id integer, secret text, PRIMARY KEY (id) INCLUDE (secret)", "g, 'geheim'"))
    assert [dict(entry.key) for entry in place.entries()] == [{"id": "3"}]


def test_a_table_without_a_key_is_named_by_ctid(place: Place) -> None:
    place.set_aside(table(place, "id integer"))
    (entry,) = place.entries()
    assert entry.row == "public.t ctid (0,3)"
    assert entry.key["ctid"] == "(0,3)"
    assert not entry.has_key


def test_values_are_kept_of_the_configured_columns_alone(place: Place) -> None:
    relation = table(place, 'id integer PRIMARY KEY, "E mail" text, secret text', "g, repeat('x', 5000), 'geheim'")
    place.set_aside(relation, columns=("E mail", "no such column", "new"))
    (entry,) = place.entries()
    assert entry.data == {"E mail": "x" * 1000, "new": None}
    assert "geheim" not in str(place.execute(f"SELECT * FROM {quoted('quarantine')}"))


def quoted(name: str) -> str:
    return '"Con""trol".' + name


def test_a_failure_keeps_the_message_and_never_the_detail(place: Place) -> None:
    place.execute("CREATE TABLE public.t (id integer PRIMARY KEY, secret text, CHECK (id < 5))")
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        place.execute("INSERT INTO public.t VALUES (7, 'geheim')")
    assert "geheim" in (refused.value.diag.message_detail or "")
    failure = Failure.of("(0,1)", refused.value)
    assert "geheim" not in str(failure)
    assert (failure.sqlstate, "t_id_check" in failure.message) == ("23514", True)


def test_the_same_row_again_is_one_entry(place: Place) -> None:
    relation = table(place)
    assert [place.set_aside(relation), place.set_aside(relation)] == [1, 0]
    (entry,) = place.entries()
    assert (entry.attempts, place.open()) == (2, 1)


def test_a_row_that_was_settled_may_come_back(place: Place) -> None:
    relation = table(place)
    place.set_aside(relation)
    with place.connection.cursor() as cursor:
        assert quarantine.settle(cursor, [1, 99], "by hand", control_schema=SCHEMA) == [1]
        assert quarantine.settle(cursor, [1], "again", control_schema=SCHEMA) == []
    assert place.set_aside(relation) == 1
    assert [entry.resolution for entry in place.entries(settled=True)] == ["by hand", None]


def test_a_row_that_has_moved_is_passed_over(place: Place) -> None:
    relation = table(place)
    failure = Failure(tid="(0,3)", sqlstate="22P02", message="x")
    place.execute("UPDATE public.t SET old = 'good' WHERE id = 3")
    with place.connection.transaction(), place.connection.cursor() as cursor:
        assert place.store().record(cursor, relation, [failure]) == 0
    assert place.open() == 0


def test_entries_are_part_of_the_callers_transaction(place: Place) -> None:
    relation = table(place)
    with contextlib.suppress(ZeroDivisionError), place.connection.transaction(), place.connection.cursor() as cursor:
        place.store().record(cursor, relation, [Failure(tid="(0,3)", sqlstate="22P02", message="x")])
        raise ZeroDivisionError
    assert place.open() == 0


def test_many_rows_at_once_cost_a_scan_of_those_rows(place: Place) -> None:
    place.execute("CREATE TABLE public.t (id integer PRIMARY KEY, old text, new text)")
    place.execute(
        "INSERT INTO public.t SELECT g, CASE WHEN g % 1000 = 0 THEN 'bad' END FROM generate_series(1, 50000) AS g"
    )
    relation = place.relation()
    tids = [tid for (tid,) in place.execute("SELECT ctid::text FROM public.t WHERE old = 'bad'")]
    failures = [Failure(tid=tid, sqlstate="22P02", message="x") for tid in tids]
    with place.connection.transaction(), place.connection.cursor() as cursor:
        read = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 't'"
        before = place.execute(read)
        assert place.store().record(cursor, relation, failures) == 50
        assert place.execute(read) == before
    assert [dict(entry.key) for entry in place.entries(limit=2, after=48)] == [{"id": "49000"}, {"id": "50000"}]


def test_too_many_are_refused_with_the_first(place: Place) -> None:
    table(place)
    place.set_aside(place.relation(), where="true")
    quarantine.refuse_above(place.connection, 3, control_schema=SCHEMA, migration=place.migration)
    with pytest.raises(QuarantineFull) as refused:
        quarantine.refuse_above(place.connection, 2, control_schema=SCHEMA, migration=place.migration)
    assert refused.value.message.startswith("3 rows cannot be filled, and 2 may be; the first: public.t (id)=(1): no")


# Trying again --------------------------------------------------------------------------------------------------------

KEYS = [
    ("text", "'a''b\\c %s {} \u00e9' || g"),
    ("char(8)", "'a' || g"),
    ("uuid", "('00000000-0000-0000-0000-00000000000' || g)::uuid"),
    ("timestamptz", "'2026-03-29 01:59:59.123456+00'::timestamptz + g * interval '1 hour'"),
    ("timestamp", "CASE g WHEN 3 THEN 'infinity'::timestamp ELSE now()::timestamp + g * interval '1 s' END"),
    ("date", "current_date + g"),
    ("interval", "g * interval '1 month 2 days 00:00:00.5'"),
    ("double precision", "0.1::double precision * g"),
    ("numeric", "CASE g WHEN 3 THEN 'NaN' ELSE g / 3.0 END"),
    ("boolean", "g = 3"),
    ("bytea", "decode('00ff5c' || g || g, 'hex')"),
    ("integer[]", "ARRAY[g, NULL, 7]"),
    ("text[]", "ARRAY['a,b', 'c\"d', g::text]"),
    ("int4range", "int4range(g, g + 5)"),
    ("inet", "('10.0.0.' || g)::inet"),
    ("jsonb", "jsonb_build_object('k', g)"),
    ("mood", "CASE g WHEN 1 THEN 'it''s' WHEN 2 THEN 'fine' ELSE '%s' END::mood"),
    ("pair", "ROW(g, 'a,b')::pair"),
    ("posint", "g"),
]


@pytest.mark.parametrize(("type_", "value"), KEYS, ids=[type_ for type_, _ in KEYS])
def test_a_row_is_found_by_the_text_of_its_key(place: Place, type_: str, value: str) -> None:
    place.execute("CREATE TYPE public.mood AS ENUM ('it''s', 'fine', '%s')")
    place.execute("CREATE TYPE public.pair AS (a integer, b text)")
    place.execute("CREATE DOMAIN public.posint AS integer CHECK (VALUE > 0)")
    place.execute("SET search_path = pg_catalog, public")
    rows = 3 if type_ != "boolean" else 1
    values = value if type_ != "boolean" else "true"
    place.set_aside(table(place, f"id public.{type_} PRIMARY KEY" if type_ in ("mood", "pair", "posint") else
                          f"id {type_} PRIMARY KEY", values, rows))  # fmt: skip
    place.execute("UPDATE public.t SET old = 'good' WHERE old = 'bad'")
    assert place.retry().result is Result.FILLED
    assert place.execute("SELECT count(*) FROM public.t WHERE new = 'good'") == [(1,)]


def test_a_row_that_still_fails_keeps_its_entry_with_the_new_message(place: Place) -> None:
    place.set_aside(table(place))
    place.execute("UPDATE public.t SET old = 'bad again' WHERE id = 3")
    tried = place.retry()
    assert (tried.result, tried.is_open) == (Result.FAILED, True)
    (entry,) = place.entries()
    assert (entry.attempts, entry.message) == (2, 'invalid input syntax for type integer: "bad again"')


def test_a_row_that_was_filled_meanwhile(place: Place) -> None:
    place.set_aside(table(place))
    place.execute("UPDATE public.t SET old = 'x', new = 'x' WHERE id = 3")
    assert place.retry().result is Result.WAS_FILLED
    (entry,) = place.entries(settled=True)
    assert (entry.resolution, entry.resolved_by) == ("was filled already", "postgres")


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_a_row_that_is_gone(place: Place, key: str) -> None:
    doubts: list[str] = []
    place.set_aside(table(place, f"id integer {key}"))
    place.execute("DELETE FROM public.t WHERE id = 3")
    tried = place.retry(doubt=lambda _: doubts.append("doubt"))
    assert (tried.result, tried.is_certain, place.open()) == (Result.GONE, bool(key), 0)
    assert doubts == ([] if key else ["doubt"])


def test_a_table_that_is_gone(place: Place) -> None:
    place.set_aside(table(place))
    place.execute("DROP TABLE public.t")
    assert place.retry().result is Result.GONE


def test_a_table_without_a_key_that_was_rewritten(place: Place) -> None:
    doubts: list[str] = []
    place.set_aside(table(place, "id integer"))
    place.execute("DELETE FROM public.t WHERE id = 1")
    place.execute("VACUUM FULL public.t")
    tried = place.retry(doubt=lambda _: doubts.append("doubt"))
    assert (tried.result, doubts) == (Result.UNKNOWN, ["doubt"]), "another row may have the place of the bad one"


@pytest.mark.parametrize("change", ["RENAME COLUMN id TO nr", "ALTER COLUMN id TYPE date USING current_date + id"])
def test_a_key_that_is_another_one_now(place: Place, change: str) -> None:
    place.set_aside(table(place))
    place.execute(f"ALTER TABLE public.t {change}")
    assert place.retry().result is Result.UNKNOWN


def test_a_row_that_is_locked_is_left_alone(place: Place, connect: Callable[[], Connection]) -> None:
    place.set_aside(table(place))
    with connect() as other, other.transaction():
        other.execute("UPDATE public.t SET old = 'good' WHERE id = 3")
        assert place.retry().result is Result.BUSY
    assert place.entries()[0].attempts == 1
    assert place.retry().result is Result.FILLED


def test_no_other_rows_expression_is_evaluated(place: Place) -> None:
    """Every row but one would fail, in a table so small that the planner reads it whole."""
    relation = table(place)
    place.set_aside(relation)
    place.execute("UPDATE public.t SET old = CASE id WHEN 3 THEN 'good' ELSE 'bad' END")
    assert place.retry().result is Result.FILLED


def test_the_tables_own_triggers_stay_silent(place: Place) -> None:
    place.set_aside(table(place))
    place.execute("UPDATE public.t SET old = 'good' WHERE id = 3")
    place.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$; "
        "CREATE TRIGGER a BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    assert place.retry().result is Result.FILLED


def test_a_partition_and_one_that_was_detached(place: Place) -> None:
    place.execute("CREATE TABLE public.t (id integer PRIMARY KEY, old text, new text) PARTITION BY RANGE (id)")
    for name, first in (("p 1", 0), ("p2", 10)):
        place.execute(f'CREATE TABLE public."{name}" PARTITION OF public.t FOR VALUES FROM ({first}) TO ({first + 10})')
    place.execute("INSERT INTO public.t VALUES (1, 'bad'), (11, 'bad')")
    place.set_aside(place.relation(name="p 1"))
    place.execute("UPDATE public.t SET old = 'good'; ALTER TABLE public.\"p 1\" RENAME TO q")
    assert place.retry().result is Result.FILLED
    place.set_aside(place.relation(name="p2"), where="true")
    place.execute("ALTER TABLE public.t DETACH PARTITION public.p2")
    assert place.retry().result is Result.GONE
    assert place.execute("SELECT new FROM public.p2") == [(None,)]


def test_odd_names(place: Place) -> None:
    place.execute('CREATE SCHEMA "S%s"; CREATE TABLE "S%s"."T "".{}" ("I d" integer PRIMARY KEY, old text, new text)')
    place.execute('INSERT INTO "S%s"."T "".{}" VALUES (1, \'bad\')')
    place.set_aside(place.relation("S%s", 'T ".{}'))
    place.execute('UPDATE "S%s"."T "".{}" SET old = \'good\'')
    assert place.retry(work("S%s", 'T ".{}')).result is Result.FILLED


def test_nothing_happens_where_the_guard_refuses(place: Place) -> None:
    place.set_aside(table(place))
    place.execute("UPDATE public.t SET old = 'good' WHERE id = 3")

    def guard(_: object) -> None:
        raise Waiting("too late")

    with pytest.raises(Waiting):
        place.retry(guard=guard)
    assert (place.open(), place.execute("SELECT new FROM public.t WHERE id = 3")) == (1, [(None,)])


def test_two_at_once_do_it_once(place: Place, connect: Callable[[], Connection]) -> None:
    """The second one has looked the entry up, and comes when the first is done."""
    place.set_aside(table(place))
    place.execute("UPDATE public.t SET old = 'good' WHERE id = 3")
    (entry,) = place.entries()
    inside, released = threading.Event(), threading.Event()

    def guard(_: object) -> None:
        inside.set()
        assert released.wait(30)

    results: list[Result] = []
    other = place.second_try(connect(), guard=guard)
    thread = threading.Thread(target=lambda: results.append(other.fill(entry, work()).result))
    thread.start()
    assert inside.wait(30)
    results.append(place.second_try().fill(entry, work()).result)
    released.set()
    thread.join(30)
    assert results == [Result.FILLED, Result.SETTLED]
