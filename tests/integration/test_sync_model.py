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
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.servers import Database, connect
from zdmigrate import schema
from zdmigrate.planning import sync
from zdmigrate.planning.parts import Scope
from zdmigrate.planning.synced import Synced

Value = Any  # a tuple of texts, one for each column of a side


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair of shapes, in SQL and once more in Python."""

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    up_sql: tuple[str, ...]
    down_sql: tuple[str, ...]
    up: Callable[[Value], Value]
    down: Callable[[Value], Value]
    default: str | None = None


def _word(text: str, number: int) -> str:
    return [*text.split(" "), "", ""][number]


PAIRS = [
    Pair("identity", ("o",), ("n",), ('"o"',), ('"n"',), lambda v: v, lambda w: w),
    Pair("default", ("o",), ("n",), ('"o"',), ('"n"',), lambda v: v, lambda w: w, default="'dflt'::text"),
    Pair("lower", ("o",), ("n",), ('lower("o")',), ('"n"',), lambda v: (v[0].lower(),), lambda w: w),
    Pair("truncation", ("o",), ("n",), ('left("o", 5)',), ('"n"',), lambda v: (v[0][:5],), lambda w: w),
    Pair(
        "split", ("o",), ("first", "last"), ("split_part(o, ' ', 1)", "split_part(o, ' ', 2)"),
        ("concat_ws(' ', nullif(first, ''), nullif(last, ''))",),
        lambda v: (_word(v[0], 0), _word(v[0], 1)), lambda w: (" ".join(part for part in w if part),),
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
        columns = [schema.Column(name=name, number=n, type="text") for n, name in enumerate(("o", *pair.new), 1)]
        numbers = [schema.Column(name=name, number=9, type="integer") for name in ("id", "part", "other")]
        table = schema.Table(
            schema="public", name="t", oid=1, kind="p", owner="postgres", owned=True, rows=0, bytes=0,
            columns=(*columns, *numbers),
        )  # fmt: skip
        self.sync_pair = sync.SyncPair(
            columns=table.column_names,
            old=(sync.SyncColumn(name="o", type="text", default=pair.default),),
            new=tuple(sync.SyncColumn(name=name, type="text") for name in pair.new),
            up=pair.up_sql,
            down=pair.down_sql,
        )
        snapshot = schema.Snapshot(server_version=150000, role="postgres", may_suppress_triggers=True, tables=(table,))
        self.synced = Synced(
            scope=Scope(snapshot=snapshot, migration="m", position=0), table=table, pair=self.sync_pair, label="n"
        )
        self._create(table)

    def _create(self, table: schema.Table) -> None:
        default = f" DEFAULT {self.pair.default}" if self.pair.default else ""
        new = ", ".join(f'"{name}" text' for name in self.pair.new)
        columns = f"id int, part int, other int DEFAULT 0, o text{default}, {new}, PRIMARY KEY (id, part)"
        for statement in (
            "CREATE SCHEMA zdmigrate",
            f"CREATE TABLE t ({columns}) PARTITION BY LIST (part)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
            "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
            f"SET search_path = {sync.SEARCH_PATH}",
            *self.synced.install(undo=()).do,
            *(
                f'ALTER TABLE t ALTER COLUMN "{name}" SET DEFAULT {default}'
                for name, default in sync.new_defaults(self.sync_pair).items()
            ),
        ):
            self.control.execute(statement.encode())

    def start(self, seeds: list[Value], authority: sync.Authority) -> dict[int, Expected]:
        """Empty the table, fill it with rows from before the triggers, set the authority."""
        names = [row[0] for row in self.control.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass")]
        empty = ", ".join(f'"{name}" = NULL' for name in self.pair.new)
        with self.control.transaction():
            self.control.execute("TRUNCATE t")
            self.control.execute("ALTER TABLE t DISABLE TRIGGER USER")
            for number, value in enumerate(seeds):
                self.control.execute(
                    "INSERT INTO t (id, part, o) VALUES (%s, 1 + %s %% 2, %s)", (number, number, *value)
                )
            self.control.execute(f"UPDATE t SET {empty}".encode())
            for name in names:
                self.control.execute(f'ALTER TABLE t ENABLE ALWAYS TRIGGER "{name}"'.encode())
            self.control.execute(self.synced.functions(authority)[0].encode())
        return {number: Expected(1 + number % 2, "N", value) for number, value in enumerate(seeds)}

    def close(self) -> None:
        for connection in (self.control, *self.sessions):
            connection.close()


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
        sets_old = "o = %s"
        sets_new = ", ".join(f'"{name}" = %s' for name in pair.new)
        columns, marks = ", ".join(f'"{name}"' for name in pair.new), ", ".join("%s" for _ in pair.new)
        row = self.rows.get(number)
        match operation:
            case "N insert":
                self.fresh += 1
                self.execute(who, "INSERT INTO t (id, part, o) VALUES (%s, 1, %s)", (self.fresh, *old))
                self.wrote(who, self.fresh, Expected(1, "N", old))
            case "N+1 insert":
                self.fresh += 1
                self.execute(who, f"INSERT INTO t (id, part, {columns}) VALUES (%s, 1, {marks})", (self.fresh, *new))
                self.wrote(who, self.fresh, Expected(1, "N+1", new))
            case "N update":
                self._update(who, number, sets_old, old, "N", old)
            case "N+1 update":
                self._update(who, number, sets_new, new, "N+1", new)
            case "both":
                winner = ("N", old) if self.authority == "old" else ("N+1", new)
                if row is not None and self._differs_on_both(number, old, new, who):
                    self._update(who, number, f"{sets_old}, {sets_new}", (*old, *new), *winner)
            case "N upsert":
                statement = (
                    "INSERT INTO t (id, part, o) VALUES (%s, 1, %s) ON CONFLICT (id, part) DO UPDATE SET o = excluded.o"
                )
                self.execute(who, statement, (number % 5, *old))
                self._upserted(who, number % 5, "N", old)
            case "N+1 upsert":
                excluded = ", ".join(f'"{name}" = excluded."{name}"' for name in pair.new)
                statement = (
                    f"INSERT INTO t (id, part, {columns}) VALUES (%s, 1, {marks}) "
                    f"ON CONFLICT (id, part) DO UPDATE SET {excluded}"
                )
                self.execute(who, statement, (number % 5, *new))
                self._upserted(who, number % 5, "N+1", new)
            case "other":
                self.execute(who, "UPDATE t SET other = other + 1 WHERE id = %s", (number,))
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

    def _update(self, who: int, number: int, sets: str, values: Value, writer: str, value: Value) -> None:
        if self.execute(who, f"UPDATE t SET {sets} WHERE id = %s", (*values, number)):
            self.wrote(who, number, Expected(self.rows[number].part, writer, value))
            self.check(self.rig.sessions[who], number)

    def _upserted(self, who: int, number: int, writer: str, value: Value) -> None:
        row = self.rows.get(number)
        # ids below 5 stay in the partition they were seeded in; an upsert makes a second row in partition 1 for the others
        if row is not None and row.part != 1:
            self.rig.sessions[who].execute("DELETE FROM t WHERE id = %s AND part = 1", (number,))
        else:
            self.wrote(who, number, Expected(1, writer, value))

    def _differs_on_both(self, number: int, old: Value, new: Value, who: int) -> bool:
        columns = ", ".join(f'"{name}"' for name in self.rig.pair.new)
        found = (
            self.rig.sessions[who].execute(f"SELECT o, {columns} FROM t WHERE id = %s".encode(), (number,)).fetchone()
        )
        return found is not None and found[0] != old[0] and tuple(found[1:]) != new

    def backfill(self, who: int, first: int, last: int) -> None:
        pair = self.rig.sync_pair
        sets = ", ".join(f'"{name}" = {text}' for name, text in sync.assignments(pair))
        where = f"id BETWEEN %s AND %s AND ({sync.unfilled(pair)})"
        self.execute(who, f"UPDATE t SET {sets} WHERE {where}", (first, last))

    def check(self, connection: psycopg.Connection[Any], number: int, *, filled: bool = False) -> None:
        """The writer's side reads what was written, and the other side follows from it."""
        expected, pair = self.rows[number], self.rig.pair
        columns = ", ".join(f'"{name}"' for name in pair.new)
        found = connection.execute(f"SELECT o, {columns} FROM t WHERE id = %s".encode(), (number,)).fetchall()
        assert len(found) == 1, (number, found)
        old, new = (found[0][0],), tuple(found[0][1:])
        if expected.writer == "N":
            assert old == expected.value, (number, found, expected)
        else:
            assert new == expected.value, (number, found, expected)
        untouched = not filled and all(part is None for part in new)
        assert untouched or new == pair.up(old) or old == pair.down(new), (number, found, expected)

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
            self.apply(1, "N+1 update", number, ("",), tuple(f"later {number}" for _ in self.rig.pair.new))
        self.end(1, "commit")
        assert self.rig.control.execute(count).fetchone() == (0,)


OPERATIONS = (
    "N insert", "N+1 insert", "N update", "N+1 update", "both", "N upsert", "N+1 upsert", "other", "move", "rekey",
    "delete", "backfill", "commit", "rollback",
)  # fmt: skip
TEXTS = st.sampled_from(["a", "A", "Ab c", "ab c d", "abcdefgh", "ABCDEFGH", "x y", ""])
NEW_TEXTS = st.sampled_from(["n", "N", "n-long-value", "M", "m"])
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(OPERATIONS), st.integers(0, 9), TEXTS, st.tuples(NEW_TEXTS, NEW_TEXTS)
    ),
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
    seeds = [(text,) for text in ("Seed One", "seed", "S", "LONGSEEDVALUE", "", "five", "six", "seven")]
    history = History(rig, rig.start(seeds, authority), authority)
    for who, operation, number, old, new in steps:
        history.apply(who, operation, number, (old,), tuple(new[: len(rig.pair.new)]))
    history.finish()


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=HEALTH)
@given(steps=STEPS, authority=st.sampled_from(["old", "new"]))
def test_no_history_loses_a_write(rig: Rig, steps: list[Any], authority: sync.Authority) -> None:
    run_history(rig, steps, authority)


@pytest.mark.nightly
@settings(max_examples=600, deadline=None, suppress_health_check=HEALTH)
@given(steps=STEPS, authority=st.sampled_from(["old", "new"]))
def test_no_history_loses_a_write_at_length(rig: Rig, steps: list[Any], authority: sync.Authority) -> None:
    run_history(rig, steps, authority)
