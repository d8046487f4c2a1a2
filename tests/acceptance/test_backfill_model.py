"""The backfill against a model: random interleavings of writes, batches, crashes, takeovers and phase changes.

The model knows nothing of windows and triggers. It remembers who wrote each row last, and what: that side must read so, and the
other side must follow from it. Two workers go on step by step, in between two sessions of an application write.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.support.catalogue import EVERYTHING, ID, Case, Stage
from tests.support.processes import until
from tests.support.stepping import SteppedWorker
from zdmigrate.backfill import filling, worker
from zdmigrate.engine.project import Project
from zdmigrate.errors import LeaseLost
from zdmigrate.phases import Phase
from zdmigrate.plan import RowWork
from zdmigrate.postgres.servers import ScratchServer

Connection = psycopg.Connection[Any]
CONTROL = "zdmigrate"
SEEDS = 24
SETTINGS = worker.Settings(
    window_pages=1, stripes=2, pause=timedelta(0), row_lock_timeout=timedelta(milliseconds=15),
    statement_timeout=timedelta(seconds=10),
)  # fmt: skip

# Eight rows to a page. `other` belongs to nobody's shape.
TABLE = (
    "CREATE TABLE t (id bigint PRIMARY KEY, o integer, other integer DEFAULT 0, pad text DEFAULT repeat('x', 800))",
    "ALTER TABLE t SET (fillfactor = 85)",
    "ALTER TABLE t ALTER pad SET STORAGE PLAIN",
)

# What a batch has written, in its own transaction. A batch in the middle of its work stops while somebody has the brake.
BRAKE = 7
LOG = (
    "CREATE TABLE filled (id bigint, pid integer DEFAULT pg_backend_pid())",
    f"""
    CREATE FUNCTION log_fill() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
    BEGIN
        IF pg_catalog.current_setting('application_name') LIKE 'zdmigrate%' THEN
            INSERT INTO public.filled (id) VALUES (NEW.id);
            PERFORM pg_catalog.pg_advisory_xact_lock_shared({BRAKE});
        END IF;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER log_fill AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log_fill()",
    "ALTER TABLE t ENABLE ALWAYS TRIGGER log_fill",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A change, with both directions once more in Python. N+1's values have several texts for one number."""

    change: str
    new_type: str
    up: Callable[[int | None], Any]
    down: Callable[[Any], int | None]
    news: tuple[Any, ...]


KINDS = {
    "rename": Kind(
        change='RenameColumn("t", "o", "n")', new_type="integer", up=lambda o: o, down=lambda n: n, news=(1, 2, 3, 50)
    ),
    "lossy": Kind(
        change='ChangeType("t", "o", sa.Text(), up="o::text", down="btrim(o)::integer")', new_type="text",
        up=lambda o: None if o is None else str(o), down=int, news=("1", " 1", "01", "50 "),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """Who wrote the row last, and what."""

    writer: str
    value: Any


class Rig:
    """A database with a migration that has its triggers in place; the same for all examples."""

    def __init__(self, server: ScratchServer, directory: Path, kind: Kind, stack: contextlib.ExitStack) -> None:
        self.kind, self._stack = kind, stack
        stage = Stage(server, directory, Case(schema=(*TABLE, *LOG), changes=(kind.change,), by_hand=()))
        stack.callback(stage.close)
        name = stage.make()
        self.conninfo = server.conninfo(name)
        self.project: Project = stack.enter_context(stage.project(name))
        self.control = self.connect("control")
        self.apps = [self.connect("application", autocommit=False) for _ in range(2)]
        self.advance(Phase.DUAL_WRITE)
        (plan,) = self.project.plan([])
        steps = [step for phase in plan.phases for step in phase.steps if ".backfill.fill." in step.id]
        assert len(steps) == 1
        self.step, rows = steps[0].id, steps[0].rows
        assert rows is not None
        self.rows: RowWork = rows
        self.new = rows.assignments[0][0]

    def connect(self, purpose: str, *, autocommit: bool = True) -> Connection:
        connection = psycopg.connect(self.conninfo, autocommit=autocommit, application_name=purpose)
        return self._stack.enter_context(contextlib.closing(connection))

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.control.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *values: Any) -> Any:
        return self.execute(query, *values)[0][0]

    def advance(self, target: Phase) -> None:
        outcome = self.project.advance([], target=target, overrides=EVERYTHING)
        assert outcome.exit_code == 0, [(each.message, each.hint) for each in outcome.migrations]

    def revert(self, target: Phase) -> None:
        outcome = self.project.revert(ID, target=target, overrides=EVERYTHING, allow_lossy=True)
        assert outcome.exit_code == 0, [(each.message, each.hint) for each in outcome.migrations]
        self.project.unhold(ID)

    @property
    def phase(self) -> Phase:
        return Phase(self.value(f"SELECT phase FROM {CONTROL}.migration"))

    def start(self) -> dict[int, Expected]:
        """A table of rows from before the triggers, of which nothing is filled."""
        if self.phase is not Phase.DUAL_WRITE:
            if self.phase is Phase.BACKFILL:
                self.revert(Phase.DUAL_WRITE)
            self.advance(Phase.DUAL_WRITE)
        self.execute(f"DELETE FROM {CONTROL}.backfill; DELETE FROM {CONTROL}.backfill_process; TRUNCATE filled, t")
        self.take_over()
        triggers = [
            name
            for (name,) in self.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal"
            )
        ]
        with self.control.transaction():
            self.execute("ALTER TABLE t DISABLE TRIGGER USER")
            self.execute(f"INSERT INTO t (id, o) SELECT g, g FROM generate_series(1, {SEEDS}) AS g")
            for name in triggers:
                self.execute(f'ALTER TABLE t ENABLE ALWAYS TRIGGER "{name}"')
        return {number: Expected("N", number) for number in range(1, SEEDS + 1)}

    def take_over(self) -> int:
        """Another process has the lease now; its epoch."""
        return int(self.value(f"UPDATE {CONTROL}.lease SET epoch = epoch + 1, holder = NULL RETURNING epoch"))

    def epoch(self) -> int:
        return int(self.value(f"SELECT epoch FROM {CONTROL}.lease"))

    def counted(self) -> int:
        """What the control schema says was filled."""
        return int(
            self.value(
                f"SELECT coalesce((SELECT sum(rows) FROM {CONTROL}.backfill), 0)"
                f" + coalesce((SELECT sum(rows) FROM {CONTROL}.backfill_window), 0)"
            )
        )

    def unfilled(self) -> int:
        return int(self.value(f"SELECT count(*) FROM t WHERE {self.rows.unfilled}"))


class History:
    """Runs operations, and keeps the model beside them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.rows = rig.start()
        self._base = 0
        self._before: list[dict[int, Expected | None]] = [{}, {}]
        self._fresh = itertools.count(1000)
        self._workers: dict[int, SteppedWorker] = {}

    # The application ---------------------------------------------------------------------------------------------------

    def write(self, who: int, what: str, number: int, value: int) -> None:
        """One statement in session `who`, whose transaction stays open."""
        kind, new = self.rig.kind, self.rig.new
        if what.startswith("N+1") and not self._has_both_shapes:
            return
        mine = kind.news[value % len(kind.news)]
        if what == "N insert":
            fresh = next(self._fresh)
            self._run(who, "INSERT INTO t (id, o) VALUES (%s, %s)", fresh, value)
            self._note(who, fresh, Expected("N", value))
        elif what == "N+1 insert":
            fresh = next(self._fresh)
            self._run(who, f'INSERT INTO t (id, "{new}") VALUES (%s, %s::{kind.new_type})', fresh, mine)
            self._note(who, fresh, Expected("N+1", mine))
        else:
            self._change(who, what, number, value, mine)

    @property
    def _has_both_shapes(self) -> bool:
        return self.rig.phase.position >= Phase.DUAL_WRITE.position

    def _change(self, who: int, what: str, number: int, value: int, mine: Any) -> None:
        if not self.rows:
            return
        id_ = sorted(self.rows)[number % len(self.rows)]
        if id_ in self._before[1 - who]:
            self.end(1 - who, commit=True)  # it would block
            if id_ not in self.rows:
                return
        expected = self.rows[id_]
        match what:
            case "N update":
                self._run(who, "UPDATE t SET o = %s WHERE id = %s", value, id_)
                # What already follows from the other side changes nothing.
                if self._old(expected) != value:
                    expected = Expected("N", value)
            case "N+1 update":
                kind = self.rig.kind
                self._run(who, f'UPDATE t SET "{self.rig.new}" = %s::{kind.new_type} WHERE id = %s', mine, id_)
                if self._new(expected) != mine:
                    expected = Expected("N+1", mine)
            case "other update":
                self._run(who, "UPDATE t SET other = other + 1 WHERE id = %s", id_)
            case _:
                self._run(who, "DELETE FROM t WHERE id = %s", id_)
                self._note(who, id_, None)
                return
        self._note(who, id_, expected)

    def end(self, who: int, *, commit: bool) -> None:
        """End a session's transaction; the model forgets what was rolled back."""
        session = self.rig.apps[who]
        if commit:
            session.commit()
        else:
            session.rollback()
            for number, expected in self._before[who].items():
                self._set(number, expected)
        self._before[who] = {}

    def _run(self, who: int, statement: str, *values: Any) -> None:
        assert self.rig.apps[who].execute(statement.encode(), values).rowcount == 1

    def _note(self, who: int, number: int, expected: Expected | None) -> None:
        self._before[who].setdefault(number, self.rows.get(number))
        self._set(number, expected)

    def _set(self, number: int, expected: Expected | None) -> None:
        if expected is None:
            self.rows.pop(number, None)
        else:
            self.rows[number] = expected

    def _old(self, expected: Expected) -> Any:
        return expected.value if expected.writer == "N" else self.rig.kind.down(expected.value)

    def _new(self, expected: Expected) -> Any:
        return self.rig.kind.up(expected.value) if expected.writer == "N" else expected.value

    # The backfill ------------------------------------------------------------------------------------------------------

    def step(self, which: int, steps: int) -> None:
        """A worker goes on; one that is not there begins."""
        for _ in range(steps):
            stepped = self._worker(which)
            if stepped is None:
                return
            stepped.step()
            if stepped.ended is not None:
                self._expect_complete(which)
                return

    def crash(self, which: int) -> None:
        """A worker's connection breaks between two transactions, and it knows nothing of it."""
        if (stepped := self._workers.pop(which, None)) is not None:
            self._terminate(stepped)

    def crash_in_a_batch(self, which: int) -> None:
        """The same in the middle of the next batch that writes something."""
        if self._worker(which) is None:
            return
        self.rig.execute("SELECT pg_advisory_lock(%s)", BRAKE)
        try:
            stepped = self._workers[which]
            while stepped.ended is None and not self._is_in_a_batch(stepped):
                stepped.begin_step()
                until(lambda: stepped.is_at_rest or self._is_in_a_batch(stepped), "it comes to a batch")
                if any(self._before):
                    break  # it may go round and round for a row that is locked
            if stepped.ended is None:
                self._terminate(self._workers.pop(which))
        finally:
            self.rig.execute("SELECT pg_advisory_unlock(%s)", BRAKE)
        if which in self._workers:
            self._expect_complete(which)

    def stop(self, which: int) -> None:
        """A worker is asked to stop, and does."""
        if (stepped := self._workers.pop(which, None)) is not None:
            stepped.ask_to_stop()
            ended = stepped.run_out()
            assert isinstance(ended, worker.Outcome), ended

    def oversleep(self, which: int) -> None:
        """A worker is not heard of for too long, right before it writes; another one takes over what it has claimed."""
        self._bring_to_a_transaction(which)
        self._expire()
        self.step(1 - which, 6)

    def take_over(self, which: int) -> None:
        """Somebody else has the lease, right before a worker writes: those that are there never write again."""
        self._bring_to_a_transaction(which)
        self.rig.take_over()
        self._expect_no_more_writes()

    def rewrite(self, which: int) -> None:
        """All rows move, right before a worker writes."""
        self._bring_to_a_transaction(which)
        self._commit()
        self.rig.execute("VACUUM FULL t")

    def complete(self) -> None:
        """The phase, through the library: with its own worker, its verification, its lease."""
        self._commit()
        if self.rig.phase.position < Phase.BACKFILL.position:
            self._expire()
            self.rig.advance(Phase.BACKFILL)
            self._expect_no_more_writes()
            self.check()

    def go_back(self, *, far: bool) -> None:
        """To `dual_write`, where all data stays; `far`: to `expand`, where only N's shape is left."""
        self._commit()
        if far:
            self.rig.revert(Phase.EXPAND)
            self.rows = {number: Expected("N", self._old(each)) for number, each in self.rows.items()}
            self.rig.execute("TRUNCATE filled")
        elif self.rig.phase is Phase.BACKFILL:
            self.rig.revert(Phase.DUAL_WRITE)
        else:
            return
        self._expect_no_more_writes()
        self._base = self._logged() - self.rig.counted()

    def forward(self) -> None:
        """With triggers again."""
        if not self._has_both_shapes:
            self._commit()
            self.rig.advance(Phase.DUAL_WRITE)

    def _worker(self, which: int) -> SteppedWorker | None:
        if which not in self._workers:
            if self.rig.phase is not Phase.DUAL_WRITE:
                return None
            held = sql.SQL("SELECT FROM {} WHERE migration = 1 AND epoch = {}").format(
                sql.Identifier(CONTROL, "lease"), sql.Literal(self.rig.epoch())
            )
            connection = psycopg.connect(self.rig.conninfo, autocommit=True, application_name="zdmigrate worker")
            self._workers[which] = SteppedWorker(
                connection, control_schema=CONTROL, step=self.rig.step, rows=self.rig.rows, settings=SETTINGS, held=held
            )
        return self._workers[which]

    def _bring_to_a_transaction(self, which: int) -> None:
        for _ in range(8):
            stepped = self._worker(which)
            if stepped is None or stepped.at_transaction:
                return
            self.step(which, 1)

    def _expire(self) -> None:
        self.rig.execute(f"UPDATE {CONTROL}.backfill_process SET expires_at = clock_timestamp()")

    def _expect_complete(self, which: int) -> None:
        ended = self._workers.pop(which).run_out()
        assert isinstance(ended, worker.Outcome), ended
        assert ended.complete
        assert self.rig.unfilled() == 0

    def _is_in_a_batch(self, stepped: SteppedWorker) -> bool:
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND NOT granted)"
        return bool(self.rig.value(query, stepped.pid))

    def _terminate(self, stepped: SteppedWorker) -> None:
        assert self.rig.value("SELECT pg_terminate_backend(%s)", stepped.pid)
        ended = stepped.run_out()
        assert isinstance(ended, psycopg.OperationalError), ended

    def _expect_no_more_writes(self) -> None:
        """The workers find out that the lease is not theirs; or that their column is gone."""
        workers, self._workers = self._workers, {}
        before = self._logged()
        for stepped in workers.values():
            ended = stepped.run_out()
            assert isinstance(ended, LeaseLost | psycopg.errors.UndefinedColumn), ended
        assert self._logged() == before

    # What must hold ----------------------------------------------------------------------------------------------------

    def finish(self, *, through_the_library: bool) -> None:
        """Complete it, and look."""
        self._commit()
        self.forward()
        if through_the_library:
            self.complete()
        elif self.rig.phase is Phase.DUAL_WRITE:
            for which in list(self._workers) or [0]:
                stepped = self._worker(which)
                assert stepped is not None
                stepped.let_go()
            for which in list(self._workers):
                self._expect_complete(which)
            assert self.rig.value(f"SELECT count(*) FROM {CONTROL}.backfill_window") == 0
        self.check()

    def check(self) -> None:
        """Every row is right; what was counted was written, and none twice."""
        found = {
            number: (old, new)
            for number, old, new in self.rig.execute(f'SELECT id, o, "{self.rig.new}" FROM t ORDER BY id')
        }
        assert found == {number: (self._old(each), self._new(each)) for number, each in sorted(self.rows.items())}
        assert self.rig.counted() == self._logged() - self._base
        assert self.rig.execute("SELECT id FROM filled GROUP BY id HAVING count(*) > 1") == []

    def close(self) -> None:
        """Nothing of it goes on."""
        for session in self.rig.apps:
            session.rollback()
        for stepped in self._workers.values():
            self.rig.execute("SELECT pg_terminate_backend(%s)", stepped.pid)
            stepped.run_out()

    def _commit(self) -> None:
        for who in range(2):
            self.end(who, commit=True)

    def _logged(self) -> int:
        return int(self.rig.value("SELECT count(*) FROM filled"))


WRITES = ("N insert", "N update", "N update", "N+1 insert", "N+1 update", "N+1 update", "other update", "delete")
SELDOM = st.integers(0, 7).map(lambda number: number == 7)
_who = st.integers(0, 1)
_write = st.tuples(st.just("write"), _who, st.sampled_from(WRITES), st.integers(0, 40), st.integers(0, 50))
_step = st.tuples(st.just("step"), _who, st.integers(1, 12))
STEPS = st.lists(
    st.one_of(
        *[_write] * 5,
        *[_step] * 3,
        st.tuples(st.sampled_from(["commit", "roll back"]), _who),
        st.tuples(st.sampled_from(["crash", "crash in a batch", "stop"]), _who),
        st.tuples(st.sampled_from(["oversleep", "take over", "rewrite"]), _who),
        st.tuples(st.sampled_from(["complete", "back", "far back", "forward"])),
    ),
    min_size=8,
    max_size=24,
)


def run_history(rig: Rig, steps: list[Any], *, through_the_library: bool) -> None:
    history = History(rig)
    try:
        for name, *arguments in steps:
            OPERATIONS[name](history, *arguments)
        history.finish(through_the_library=through_the_library)
    finally:
        history.close()


OPERATIONS: dict[str, Callable[..., None]] = {
    "write": History.write,
    "commit": lambda history, who: history.end(who, commit=True),
    "roll back": lambda history, who: history.end(who, commit=False),
    "step": History.step,
    "crash": History.crash,
    "crash in a batch": History.crash_in_a_batch,
    "stop": History.stop,
    "oversleep": History.oversleep,
    "take over": History.take_over,
    "rewrite": History.rewrite,
    "complete": History.complete,
    "back": lambda history: history.go_back(far=False),
    "far back": lambda history: history.go_back(far=True),
    "forward": History.forward,
}


@pytest.fixture(params=sorted(KINDS))
def rig(
    request: pytest.FixtureRequest, pg: ScratchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    monkeypatch.setattr(filling, "_SPARSE", 0)  # as in large tables: stripe by stripe
    with contextlib.ExitStack() as stack:
        yield Rig(pg, tmp_path, KINDS[request.param], stack)


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
@given(steps=STEPS, through_the_library=SELDOM)
def test_every_row_is_right_whatever_happens(rig: Rig, steps: list[Any], through_the_library: bool) -> None:  # noqa: FBT001
    run_history(rig, steps, through_the_library=through_the_library)


@pytest.mark.nightly
@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=HEALTH)
@given(steps=STEPS, through_the_library=SELDOM)
def test_every_row_is_right_at_length(rig: Rig, steps: list[Any], through_the_library: bool) -> None:  # noqa: FBT001
    run_history(rig, steps, through_the_library=through_the_library)
