"""The sync triggers against a model: random histories of N, N+1 and the backfill, in two sessions that interleave.

The model knows nothing of the triggers' rules. It remembers who wrote each row last, and what: that side must read so,
and the other side must follow from it. A statement that would block runs in a thread until the other session has
ended its transaction.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.servers import Database, connect
from zdmigrate import schema
from zdmigrate.planning import sync
from zdmigrate.planning.draft import Draft
from zdmigrate.planning.parts import Scope
from zdmigrate.planning.synced import Synced

Value = tuple[str | None, ...]
"""One text for each column of a side, as the server prints it."""

OLDS = (("a",), ("A",), ("Ab c",), ("ab c d",), ("abcdefgh",), ("ABCDEFGH",), ("",), (None,))
NEWS = (("n",), ("N",), ("n-long-value",), ("M",), ("",), (None,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair of shapes, in SQL and once more in Python."""

    name: str
    old: tuple[str, ...] = ("o",)
    new: tuple[str, ...] = ("n",)
    types: tuple[str, str] = ("text", "text")
    up_sql: tuple[str, ...] = ('"o"',)
    down_sql: tuple[str, ...] = ('"n"',)
    up: Callable[[Value], Value] = lambda value: value
    down: Callable[[Value], Value] = lambda value: value
    olds: tuple[Value, ...] = OLDS
    news: tuple[Value, ...] = NEWS
    default: str | None = None
    volatile: bool = False
    on_down_error: Literal["refuse", "null"] = "refuse"
    normal: Callable[[Value], Value] | None = None
    """What a trigger of the table's own makes of old."""

    def written(self, writer: str, value: Value) -> Value:
        """What a side reads after it wrote `value` (or after any other update of the row)."""
        if self.normal is None:
            return value
        if writer == "N":
            return self.normal(value)
        old = self.down(value)
        return value if self.normal(old) == old else self.up(self.normal(old))


def _map(change: Callable[[str], str]) -> Callable[[Value], Value]:
    return lambda value: tuple(None if part is None else change(part) for part in value)


def _split(value: Value) -> Value:
    (text,) = value
    if text is None:
        return (None, None)
    first, last, *_ = [*text.split(" "), "", ""]
    return (first, last)


def _join(value: Value) -> Value:
    return (" ".join(part for part in value if part) or None,)


def _fits(value: Value) -> Value:
    (text,) = value
    return (None if text is None or abs(int(text)) > 2**31 - 1 else text,)


def _numbers(*texts: str | None) -> tuple[Value, ...]:
    return tuple((text,) for text in texts)


JOIN = "nullif(concat_ws(' ', nullif({}, ''), nullif({}, '')), '')"
NAMES = (("n", "m"), ("N", None), (None, "M"), (None, None), ("a b", "c"), ("", "x"))
PAIRS = [
    Pair(name="identity"),
    Pair(name="default", default="'dflt'::text"),
    Pair(name="stable default", default="(now())::text"),
    # An explicit NULL from N+1 means the default: refused, or accepted, when it is planned.
    Pair(name="volatile default", default="md5((random())::text)", volatile=True, news=NEWS[:-1]),
    Pair(name="citext", types=("public.citext", "public.citext")),
    Pair(
        name="numeric", types=("numeric", "numeric"),
        olds=_numbers("1", "1.0", "1.00", "NaN", "0", "0.00", None), news=_numbers("1.0", "1.00", "2", "0.0", None),
    ),
    Pair(
        name="json", types=("json", "json"), default="'{}'::json",
        olds=_numbers("{}", "{ }", '{"a":1}', '{"a": 1}', "null", None), news=_numbers("{}", "{  }", '{"a":1}', None),
    ),
    Pair(
        name="float", types=("double precision", "double precision"), olds=_numbers("0", "-0", "NaN", "1", None),
        news=_numbers("-0", "0", "2", None),
    ),
    Pair(name="composite", types=("public.two", "public.two"), olds=_numbers("(,)", "(1,)", None),
         news=_numbers("(,)", "(,2)", None)),
    Pair(name="lower", up_sql=('lower("o")',), up=_map(str.lower)),
    Pair(name="lower default", up_sql=('lower("o")',), up=_map(str.lower), default="'Dflt'::text"),
    Pair(name="truncation", up_sql=('left("o", 5)',), up=_map(lambda text: text[:5])),
    Pair(
        name="split", new=("first", "last"), up_sql=("split_part(o, ' ', 1)", "split_part(o, ' ', 2)"),
        down_sql=(JOIN.format("first", "last"),), up=_split, down=_join, news=NAMES,
        olds=(*OLDS[:-2], ("x y",), (None,)),
    ),
    Pair(
        name="merge", old=("first", "last"), new=("n",), up_sql=(JOIN.format("first", "last"),),
        down_sql=("split_part(n, ' ', 1)", "split_part(n, ' ', 2)"), up=_join, down=_split, olds=NAMES,
        news=_numbers("x y", "x", "x y z", None),
    ),
    Pair(
        name="widening", types=("integer", "bigint"), on_down_error="null", down=_fits,
        olds=_numbers("1", "2", "3", None), news=_numbers("1", "7", "5000000000", "-5000000000", None),
    ),
    Pair(
        name="widening default", types=("integer", "bigint"), on_down_error="null", down=_fits, default="7",
        olds=_numbers("1", "7", None), news=_numbers("1", "7", "5000000000", None),
    ),
    Pair(name="normalised", normal=_map(str.lower)),
    Pair(name="normalised lossy", up_sql=('left("o", 5)',), up=_map(lambda text: text[:5]), normal=_map(str.lower)),
    Pair(
        name="normalised widening", types=("integer", "bigint"), on_down_error="null", down=_fits,
        olds=_numbers("1", "-2", None), news=_numbers("1", "-7", "5000000000", "-5000000000", None),
        normal=_map(lambda text: text.lstrip("-")),
    ),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Expected:
    """A row as the model has it: where it lives, who wrote it last, and what."""

    part: int
    writer: str
    value: Value


class Rig:
    """The table of one pair, with its triggers, and two sessions."""

    def __init__(self, database: Database, pair: Pair) -> None:
        self.pair = pair
        self.control = connect(database)
        self.sessions = [connect(database, autocommit=False) for _ in range(2)]
        types = {**dict.fromkeys(pair.old, pair.types[0]), **dict.fromkeys(pair.new, pair.types[1])}
        columns = [schema.Column(name=name, number=n, type=kind) for n, (name, kind) in enumerate(types.items(), 1)]
        numbers = [schema.Column(name=name, number=9, type="integer") for name in ("id", "part", "other")]
        own = schema.Trigger(name="normalise", enabled="O", before=True, row=True, events=("INSERT", "UPDATE"))
        table = schema.Table(
            schema="public", name="t", oid=1, kind="p", owner="postgres", owned=True, rows=0, bytes=0,
            columns=(*columns, *numbers), triggers=(own,) if pair.normal else (),
        )  # fmt: skip
        self.sync_pair = sync.SyncPair(
            columns=table.column_names,
            old=tuple(
                sync.SyncColumn(name=name, type=pair.types[0], default=pair.default, default_volatile=pair.volatile)
                for name in pair.old
            ),
            new=tuple(sync.SyncColumn(name=name, type=pair.types[1]) for name in pair.new),
            up=pair.up_sql,
            down=pair.down_sql,
            on_down_error=pair.on_down_error,
        )
        snapshot = schema.Snapshot(server_version=150000, role="postgres", may_suppress_triggers=True, tables=(table,))
        self.synced = Synced(
            scope=Scope(snapshot=snapshot, migration="m", position=0, draft=Draft(snapshot)), table=table,
            pairs=(self.sync_pair,), label="n",
        )  # fmt: skip
        self._create(types)

    def _create(self, types: dict[str, str]) -> None:
        pair = self.pair
        typed = ", ".join(
            f'"{name}" {kind}' + (f" DEFAULT {pair.default}" if pair.default and name in pair.old else "")
            for name, kind in types.items()
        )
        columns = f"id int, part int, other int DEFAULT 0, {typed}, PRIMARY KEY (id, part)"
        for statement in (
            "CREATE SCHEMA zdmigrate",
            *(["CREATE EXTENSION citext"] if "citext" in pair.types[0] else []),
            "CREATE TYPE two AS (a int, b int)",
            f"CREATE TABLE t ({columns}) PARTITION BY LIST (part)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
            "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
            *(self._own_trigger() if pair.normal else ()),
            f"SET search_path = {sync.SEARCH_PATH}",
            *self.synced.install(undo=()).do,
            *(
                f'ALTER TABLE t ALTER COLUMN "{name}" SET DEFAULT {default}'
                for name, default in sync.new_defaults(self.sync_pair).items()
            ),
        ):
            self.control.execute(statement.encode())

    def _own_trigger(self) -> tuple[str, ...]:
        normal = "lower(NEW.o)" if self.pair.types[0] == "text" else "abs(NEW.o)"
        return (
            f"CREATE FUNCTION normalise() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.o := {normal}; RETURN NEW; END$$",
            "CREATE TRIGGER normalise BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION normalise()",
        )

    def start(self, seeds: list[Value], authority: sync.Authority) -> dict[int, Expected]:
        """Empty the table, fill it with rows from before the triggers, set the authority."""
        ours = [
            row[0]
            for row in self.control.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass").fetchall()
            if row[0] != "normalise"
        ]
        empty = ", ".join(f'"{name}" = NULL' for name in self.pair.new)
        old = ", ".join(f'"{name}"' for name in self.pair.old)
        with self.control.transaction():
            self.control.execute("TRUNCATE t")
            self.control.execute("ALTER TABLE t DISABLE TRIGGER USER")
            for number, value in enumerate(seeds):
                marks = ", ".join(f"%s::{self.pair.types[0]}" for _ in value)
                self.control.execute(
                    f"INSERT INTO t (id, part, {old}) VALUES (%s, 1 + %s %% 2, {marks})".encode(),
                    (number, number, *value),
                )
            self.control.execute(f"UPDATE t SET {empty}".encode())
            self.control.execute("ALTER TABLE t ENABLE TRIGGER USER")
            for name in ours:
                self.control.execute(f'ALTER TABLE t ENABLE ALWAYS TRIGGER "{name}"'.encode())
            self.control.execute(self.synced.functions(authority)[0].encode())
        return {number: Expected(1 + number % 2, "N", value) for number, value in enumerate(seeds)}

    def close(self) -> None:
        for connection in (self.control, *self.sessions):
            connection.close()


def _written_as(names: tuple[str, ...], kind: str) -> tuple[str, str, str]:
    """Column list, parameters and SET clause of one side."""
    quoted = [f'"{name}"' for name in names]
    return ", ".join(quoted), ", ".join(f"%s::{kind}" for _ in names), ", ".join(f"{q} = %s::{kind}" for q in quoted)


class History:
    """Runs operations in two sessions and keeps the model beside them."""

    def __init__(self, rig: Rig, rows: dict[int, Expected], authority: sync.Authority) -> None:
        self.rig, self.rows, self.authority = rig, rows, authority
        self.fresh = 1000
        self._before: list[dict[int, Expected | None]] = [{}, {}]

    def execute(self, who: int, statement: str, values: tuple[Any, ...]) -> int:
        """Run it; where the other session is in the way, end that one's transaction first."""
        session, other = self.rig.sessions[who], self.rig.sessions[1 - who]
        done: list[int | BaseException] = []

        def work() -> None:
            try:
                done.append(session.execute(statement.encode(), values).rowcount)
            except psycopg.Error as error:
                done.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 20
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(0.002)
            if thread.is_alive() and self._blocked(session.info.backend_pid, other.info.backend_pid):
                self.end(1 - who, "commit")
                thread.join(20)
        assert done, "a statement hangs"
        if isinstance(done[0], BaseException):
            raise done[0]
        return done[0]

    def _blocked(self, pid: int, by: int) -> bool:
        row = self.rig.control.execute("SELECT %s = ANY (pg_blocking_pids(%s))", (by, pid)).fetchone()
        return bool(row and row[0])

    def wrote(self, who: int, number: int, expected: Expected | None) -> None:
        if expected is not None:
            value = self.rig.pair.written(expected.writer, expected.value)
            expected = dataclasses.replace(expected, value=value)
        self._before[who].setdefault(number, self.rows.get(number))
        self._set(number, expected)

    def _set(self, number: int, expected: Expected | None) -> None:
        if expected is None:
            self.rows.pop(number, None)
        else:
            self.rows[number] = expected

    def end(self, who: int, how: str) -> None:
        """Commit, or roll back and let the model forget."""
        if how == "commit":
            self.rig.sessions[who].commit()
        else:
            self.rig.sessions[who].rollback()
            for number, expected in self._before[who].items():
                self._set(number, expected)
        self._before[who] = {}

    def apply(self, who: int, operation: str, number: int, old: Value, new: Value) -> None:  # noqa: C901
        pair = self.rig.pair
        old_names, old_marks, sets_old = _written_as(pair.old, pair.types[0])
        new_names, new_marks, sets_new = _written_as(pair.new, pair.types[1])
        row = self.rows.get(number)
        match operation:
            case "N insert":
                self._insert(who, old_names, old_marks, "N", old)
            case "N+1 insert":
                self._insert(who, new_names, new_marks, "N+1", new)
            case "bare insert":
                self.fresh += 1
                self.execute(who, "INSERT INTO t (id, part) VALUES (%s, 1)", (self.fresh,))
                self.wrote(who, self.fresh, Expected(1, "N", self.found(self.rig.sessions[who], self.fresh)[0]))
                assert (self.rows[self.fresh].value[0] is None) is (pair.default is None)
            case "N update":
                self._update(who, number, sets_old, old, "N", old)
            case "N+1 update":
                # Before the backfill, N+1 may write NULL blindly as little as it may read what it has not written.
                if any(new) or (row is not None and row.writer == "N+1"):
                    self._update(who, number, sets_new, new, "N+1", new)
            case "both":
                winner = ("N", old) if self.authority == "old" else ("N+1", new)
                if row is not None and self._differs_on_both(number, old, new, who):
                    self._update(who, number, f"{sets_old}, {sets_new}", (*old, *new), *winner)
            case "N upsert":
                self._upsert(who, number % 5, (old_names, old_marks, pair.old), "N", old)
            case "N+1 upsert":
                if any(new):
                    self._upsert(who, number % 5, (new_names, new_marks, pair.new), "N+1", new)
            case "other":
                if self.execute(who, "UPDATE t SET other = other + 1 WHERE id = %s", (number,)):
                    self.wrote(who, number, self.rows[number])
            case "move":
                if self.execute(who, "UPDATE t SET part = 3 - part WHERE id = %s AND id > 4", (number,)):
                    moved = self.rows[number]
                    self.wrote(who, number, dataclasses.replace(moved, part=3 - moved.part))
            case "rekey":
                self.fresh += 1
                if self.execute(who, "UPDATE t SET id = %s WHERE id = %s", (self.fresh, number)):
                    moved = self.rows[number]
                    self.wrote(who, number, None)
                    self.wrote(who, self.fresh, moved)
            case "delete":
                if self.execute(who, "DELETE FROM t WHERE id = %s", (number,)):
                    self.wrote(who, number, None)
            case "backfill":
                self.backfill(who, number, number + 3)
            case _:
                self.end(who, operation)

    def _insert(self, who: int, names: str, marks: str, writer: str, value: Value) -> None:
        self.fresh += 1
        self.execute(who, f"INSERT INTO t (id, part, {names}) VALUES (%s, 1, {marks})", (self.fresh, *value))
        self.wrote(who, self.fresh, Expected(1, writer, value))
        self.check(self.rig.sessions[who], self.fresh)

    def _update(self, who: int, number: int, sets: str, values: Value, writer: str, value: Value) -> None:
        if self.execute(who, f"UPDATE t SET {sets} WHERE id = %s", (*values, number)):
            self.wrote(who, number, Expected(self.rows[number].part, writer, value))
            self.check(self.rig.sessions[who], number)

    def _upsert(self, who: int, number: int, side: tuple[str, str, tuple[str, ...]], writer: str, value: Value) -> None:
        names, marks, columns = side
        excluded = ", ".join(f'"{name}" = excluded."{name}"' for name in columns)
        statement = (
            f"INSERT INTO t (id, part, {names}) VALUES (%s, 1, {marks}) ON CONFLICT (id, part) DO UPDATE SET {excluded}"
        )
        self.execute(who, statement, (number, *value))
        row = self.rows.get(number)
        # ids below 5 stay in the partition they were seeded in; an upsert makes a second row in partition 1 for others
        if row is not None and row.part != 1:
            self.rig.sessions[who].execute("DELETE FROM t WHERE id = %s AND part = 1", (number,))
        else:
            self.wrote(who, number, Expected(1, writer, value))
            self.check(self.rig.sessions[who], number)

    def _differs_on_both(self, number: int, old: Value, new: Value, who: int) -> bool:
        if not self.rig.sessions[who].execute("SELECT FROM t WHERE id = %s", (number,)).fetchone():
            return False
        was_old, was_new = self.found(self.rig.sessions[who], number)
        return was_old != old and was_new != new

    def found(self, connection: psycopg.Connection[Any], number: int) -> tuple[Value, Value]:
        """What a session reads in both shapes."""
        pair = self.rig.pair
        columns = ", ".join(f'"{name}"::text' for name in (*pair.old, *pair.new))
        (row,) = connection.execute(f"SELECT {columns} FROM t WHERE id = %s".encode(), (number,)).fetchall()
        return tuple(row[: len(pair.old)]), tuple(row[len(pair.old) :])

    def backfill(self, who: int, first: int, last: int) -> None:
        pair = self.rig.sync_pair
        sets = ", ".join(f'"{name}" = {text}' for name, text in sync.assignments([pair]))
        where = f"id BETWEEN %s AND %s AND ({sync.unfilled(pair)})"
        self.execute(who, "SET LOCAL session_replication_role = replica", ())
        self.execute(who, f"UPDATE t SET {sets} WHERE {where}", (first, last))
        self.execute(who, "SET LOCAL session_replication_role = origin", ())

    def check(self, connection: psycopg.Connection[Any], number: int, *, filled: bool = False) -> None:
        """The writer's side reads what was written, and the other side follows from it."""
        expected, pair = self.rows[number], self.rig.pair
        old, new = self.found(connection, number)
        assert (old if expected.writer == "N" else new) == expected.value, (number, old, new, expected)
        untouched = not filled and not any(new)
        assert untouched or new == pair.up(old) or old == pair.down(new), (number, old, new, expected)

    def finish(self) -> None:
        """Backfill everything; then nothing is unfilled, also while N+1 goes on."""
        for who in (0, 1):
            self.end(who, "commit")
        self.backfill(0, 0, 1 << 30)
        self.end(0, "commit")
        count = f"SELECT count(*) FROM t WHERE {sync.unfilled(self.rig.sync_pair)}".encode()
        assert self.rig.control.execute(count).fetchone() == (0,)
        assert self.rig.control.execute("SELECT count(*) FROM t").fetchone() == (len(self.rows),)
        for number in list(self.rows):
            self.check(self.rig.control, number, filled=True)
            pair = self.rig.pair
            self.apply(1, "N+1 update", number, pair.olds[0], pair.news[number % len(pair.news)])
        self.end(1, "commit")
        assert self.rig.control.execute(count).fetchone() == (0,)


OPERATIONS = (
    "N insert", "N+1 insert", "bare insert", "N update", "N+1 update", "both", "N upsert", "N+1 upsert", "other", "move", "rekey",
    "delete", "backfill", "commit", "rollback",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(OPERATIONS), st.integers(0, 9), st.integers(0, 7), st.integers(0, 5)),
    min_size=4,
    max_size=14,
)


@pytest.fixture(params=PAIRS, ids=lambda pair: str(pair.name))
def rig(request: pytest.FixtureRequest, database: Database) -> Iterator[Rig]:
    made = Rig(database, request.param)
    yield made
    made.close()


def run_history(rig: Rig, steps: list[Any], authority: sync.Authority) -> None:
    for session in rig.sessions:
        session.rollback()
    olds, news = rig.pair.olds, rig.pair.news
    history = History(rig, rig.start([olds[number % len(olds)] for number in range(8)], authority), authority)
    for who, operation, number, old, new in steps:
        try:
            history.apply(who, operation, number, olds[old % len(olds)], news[new % len(news)])
        except psycopg.errors.SerializationFailure:
            # A row that moved to another partition while a BEFORE trigger waited for it: the application's to repeat.
            history.end(who, "rollback")
    history.finish()


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=HEALTH)
@given(steps=STEPS, authority=st.sampled_from(["old", "new"]))
def test_no_history_loses_a_write(rig: Rig, steps: list[Any], authority: sync.Authority) -> None:
    run_history(rig, steps, authority)


@pytest.mark.nightly
@settings(max_examples=600, deadline=None, suppress_health_check=HEALTH)
@given(steps=STEPS, authority=st.sampled_from(["old", "new"]))
def test_no_history_loses_a_write_at_length(rig: Rig, steps: list[Any], authority: sync.Authority) -> None:
    run_history(rig, steps, authority)
