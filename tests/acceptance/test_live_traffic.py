"""Versions N and N+1 under live traffic through every phase, forwards and backwards, over kinds of columns.

And the proof that these tests can fail: mutants of what zdmigrate does, each of which they must find.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.support import traffic as live
from tests.support.servers import Database
from tests.support.traffic import Duty, Spec, Stage, Traffic, Version
from zdmigrate.backfill import statements, working
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.state import Cursor
from zdmigrate.engine import planned
from zdmigrate.migration import MigrationFile
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, PhasePlan, Plan, Step
from zdmigrate.planning import sync
from zdmigrate.schema import Snapshot
from zdmigrate.sqltext import ident

MINIMUM = 25


def _timestamp(number: int) -> str:
    return f"2026-01-{number % 28 + 1:02} 10:20:30.{number % 99_999 * 10 + 1:06}+00"


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def _often_the_default(number: int) -> str:
    """Where a value is the default, a trigger on INSERT cannot see that it was written."""
    return "nobody" if number % 3 == 0 else f"value{number}"


_LONG = "x" * 50
_TRIMMING = (
    # What such a trigger looks like: it knows N's column only, and here it survives `retire`, too.
    """CREATE FUNCTION trim_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RETURN jsonb_populate_record(NEW, jsonb_build_object('user_email', rtrim(to_jsonb(NEW) ->> 'user_email')));
    END $$""",
    """CREATE FUNCTION touch_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.updated_at := clock_timestamp(); RETURN NEW; END $$""",
    "CREATE TRIGGER a_trim BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION trim_it()",
    "CREATE TRIGGER updated_at BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION touch_it()",
)

PLAIN = Spec(name="nullable")
NOT_NULL = Spec(name="not_null", column="text NOT NULL", nullable=False, may_omit=False)
UNIQUE = Spec(name="unique", column="text NOT NULL UNIQUE", nullable=False, may_omit=False, unique=True)
PARTITIONED = Spec(
    name="partitioned", column="text DEFAULT 'nobody'", value=_often_the_default, omitted="nobody", partitions=3
)
SPECS = (
    PLAIN,
    NOT_NULL,
    Spec(name="constant_default", column="text DEFAULT 'nobody'", value=_often_the_default, omitted="nobody"),
    Spec(
        name="volatile_default", column="uuid NOT NULL DEFAULT gen_random_uuid()", type="uuid", value=_uuid,
        nullable=False, omitted=live.ANYTHING,
    ),
    UNIQUE,
    Spec(name="unique_nullable", column="text UNIQUE", unique=True),
    Spec(
        name="check", column="text NOT NULL DEFAULT 'value0' CHECK ({old} LIKE 'value%%')".replace("%%", "%"),
        nullable=False, omitted="value0",
    ),
    Spec(
        name="foreign_key", column="integer REFERENCES referenced", type="integer", value=lambda n: str(n % 50 + 1),
        before=("CREATE TABLE referenced (id integer PRIMARY KEY)", "INSERT INTO referenced SELECT generate_series(1, 50)"),
    ),
    Spec(
        name="citext", column="citext UNIQUE", type="citext", value="Somebody{}@Example.com".format, unique=True,
        twist=str.swapcase, before=("CREATE EXTENSION citext",),
    ),
    Spec(
        name="numeric", column="numeric DEFAULT 1.50", type="numeric", value="{}.0".format, omitted="1.50",
        twist=lambda v: v + "0",
    ),
    Spec(name="json", column="json", type="json", value='{{"number": {}}}'.format, twist=lambda v: v.replace(" ", "  ")),
    Spec(
        name="timestamptz", column="timestamptz NOT NULL DEFAULT now()", type="timestamptz", value=_timestamp,
        nullable=False, omitted=live.ANYTHING,
    ),
    PARTITIONED,
    Spec(name="warm", column="text NOT NULL DEFAULT ''", nullable=False, omitted="", prepare_threshold=1),
    Spec(
        name="mixed_case", schema="Other Schema", table='User "Accounts"', old='E-Mail "old"', new="E-Mail 'new'",
        column="text CHECK ({old} <> '')",
    ),
    Spec(name="reserved", column="text NOT NULL", nullable=False, may_omit=False, table="order", old="select", new="user"),
    Spec(
        name="60_bytes", column="text UNIQUE", unique=True, table=f"{_LONG}_table_new",
        old=f"{_LONG}_old_after", new=f"{_LONG}_old_later",
    ),
    Spec(name="no_primary_key", column="text NOT NULL DEFAULT 'x'", nullable=False, omitted="x", primary_key=False),
    Spec(name="own_triggers", trims=True, after=_TRIMMING),
)  # fmt: skip


def _name(spec: Spec) -> str:
    return spec.name


def _install(database: Database, spec: Spec) -> Traffic:
    """The table, and everybody who will use it."""
    traffic = Traffic(database.conninfo, spec)
    try:
        traffic.prepare()
    except psycopg.errors.FeatureNotSupported as error:  # wheels without contrib
        pytest.skip(str(error))
    return traffic


@pytest.mark.parametrize("spec", SPECS, ids=_name)
def test_no_request_fails_and_no_value_is_lost(database: Database, tmp_path: Path, spec: Spec) -> None:
    with _install(database, spec) as traffic, live.project(database.url, spec, tmp_path) as project:
        findings = live.travel(project, traffic, minimum=MINIMUM)
    assert findings.violations == []
    for stage in live.JOURNEY:
        for version, duty in stage.duties.items():
            if duty is not Duty.REST:
                assert findings.requests[version, stage.title] >= MINIMUM


def test_a_transaction_that_has_read_may_write(database: Database, tmp_path: Path) -> None:
    """The engine asks for its strongest lock first: else it deadlocks with the application, whose session ends first."""
    spec = next(spec for spec in SPECS if spec.name == "constant_default")
    waiting = "SELECT FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
    _install(database, spec)
    with (
        live.project(database.url, spec, tmp_path) as project,
        psycopg.connect(database.conninfo, options="-c deadlock_timeout=10ms") as application,
        psycopg.connect(database.conninfo, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        assert project.advance([live.MIGRATION], target=Phase.EXPAND).exit_code == 0
        application.execute(f"SELECT id FROM {spec.target}".encode())
        engine = pool.submit(project.advance, [live.MIGRATION], target=Phase.DUAL_WRITE)
        while not engine.done() and observer.execute(waiting, (spec.target,)).fetchone() is None:
            pass
        application.execute(f"UPDATE {spec.target} SET note = 'written'".encode())
        application.commit()
        assert engine.result(timeout=60).exit_code == 0


# -- what must be found --------------------------------------------------------------------------------------------


Mutation = Callable[[Step], Step | None]


def _mutated(monkeypatch: pytest.MonkeyPatch, change: Callable[[Plan], Plan]) -> None:
    """Plans are made as always, and then changed."""
    make = planned.make

    def made(file: MigrationFile, snapshot: Snapshot) -> Plan:
        return change(make(file, snapshot))

    monkeypatch.setattr(planned, "make", made)


def _without_verification(plan: Plan) -> Plan:
    """The engine's own check would stop the mutants that we want the traffic to find."""
    return _with_steps(plan, [step for step in plan.steps() if step.mode is not Mode.VERIFY])


def _with_steps(plan: Plan, steps: Sequence[Step]) -> Plan:
    phases = tuple(
        PhasePlan(phase=phase, steps=tuple(s for s in steps if s.phase is phase), gates=plan.phase(phase).gates)
        for phase in Phase
        if phase is not Phase.NONE
    )
    return dataclasses.replace(plan, phases=phases)


def _found(database: Database, tmp_path: Path, spec: Spec, **options: Callable[[Traffic], None]) -> list[str]:
    """Violations on the way to `backfill`; `options` are called at the ends of stages."""
    with _install(database, spec) as traffic, live.project(database.url, spec, tmp_path) as project:
        return live.travel(project, traffic, live.STRAIGHT[:4], minimum=MINIMUM, after=options).violations


def _drop_triggers(traffic: Traffic) -> None:
    duties = traffic.duties
    traffic.assign(dict.fromkeys(Version, Duty.REST))  # on partitions it deadlocks with who is at work
    with psycopg.connect(traffic.conninfo, autocommit=True) as connection:
        names = connection.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", (traffic.spec.target,)
        ).fetchall()
        assert names
        for (name,) in names:
            connection.execute(f"DROP TRIGGER {ident(name)} ON {traffic.spec.target}".encode())
    traffic.assign(duties)


@pytest.mark.parametrize("spec", [PLAIN, UNIQUE, PARTITIONED], ids=_name)
def test_the_trigger_removed(database: Database, tmp_path: Path, spec: Spec) -> None:
    remain = Stage(title="without triggers", phase=Phase.NONE, new=Duty.BLIND)
    with _install(database, spec) as traffic, live.project(database.url, spec, tmp_path) as project:
        findings = live.travel(
            project, traffic, (*live.STRAIGHT[:3], remain), minimum=MINIMUM, after={"dual_write": _drop_triggers}
        )
        assert findings.violations
        (status,) = project.advance([live.MIGRATION], target=Phase.BACKFILL).migrations
        assert (status.exit_code, status.phase) == (7, Phase.DUAL_WRITE)


@pytest.mark.parametrize("direction", ["_fill", "_mirror"])
def test_one_direction_only(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    def nothing(pair: sync.SyncPair, row: sync.Row) -> list[str]:
        return ["NULL;"]

    monkeypatch.setattr(sync, direction, nothing)
    _mutated(monkeypatch, _without_verification)
    assert _found(database, tmp_path, PLAIN)


def _burst(traffic: Traffic, statement: str) -> int:
    """What version N does at one particular moment; the number of rows."""
    with psycopg.connect(traffic.conninfo, autocommit=True) as connection:
        return connection.execute(statement.encode()).rowcount


def test_the_bound_read_before_the_trigger(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, bounds = PLAIN, dict[str, int]()
    original = statements.size

    def read_bound(traffic: Traffic) -> None:
        with psycopg.connect(traffic.conninfo, autocommit=True) as connection:
            row = connection.execute(
                "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int", (spec.target,)
            ).fetchone()
        assert row is not None
        bounds[spec.table] = row[0]
        # Between the bound and the trigger, N goes on:
        _burst(traffic, f"UPDATE {spec.target} SET note = note || 'x'")

    def size(relation: Relation) -> sql.Composed:
        return sql.SQL("SELECT filenode, {} FROM ({}) AS now(filenode, pages)").format(
            sql.Literal(bounds[relation.name]), original(relation)
        )

    monkeypatch.setattr(statements, "size", size)
    _mutated(monkeypatch, _without_verification)
    assert _found(database, tmp_path, spec, expand=read_bound)


@pytest.mark.parametrize("fills", [True, False], ids=["as it is", "without the fill"])
@pytest.mark.parametrize("spec", [PLAIN, PARTITIONED], ids=_name)
def test_rows_that_move_past_the_bound_need_the_triggers_fill(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Spec, *, fills: bool
) -> None:
    """Rows that are updated, or change their partition, right after the bound was read."""
    moves = "region = (region + 1) % 3, " if spec.partitions else ""

    moved: list[int] = []
    with _install(database, spec) as traffic, live.project(database.url, spec, tmp_path) as project:
        windows = working.Worker._fill_windows

        def bounded(self: working.Worker, cursor: Cursor) -> None:
            if not moved:
                duties = traffic.duties
                traffic.assign(dict.fromkeys(Version, Duty.REST))  # a moved row is 40001 for who waits for it
                moved.append(_burst(traffic, f"UPDATE {spec.target} SET {moves} note = note || 'moved'"))
                traffic.assign(duties)
            windows(self, cursor)

        monkeypatch.setattr(working.Worker, "_fill_windows", bounded)
        if not fills:
            _mutated(monkeypatch, lambda plan: _without_verification(_only_what_was_written(plan)))
        findings = live.travel(project, traffic, live.STRAIGHT[:4], minimum=MINIMUM)
    assert moved
    assert moved[0] >= live.ROWS // 2
    assert (findings.violations == []) is fills


def _only_what_was_written(plan: Plan) -> Plan:
    """The trigger's function copies old to new where the statement wrote old, and fills nothing else."""
    fill, written = re.compile(r"\bELSE(\s+NEW\.)"), r"ELSIF old_written THEN\1"
    changed = [
        dataclasses.replace(
            step,
            do=tuple(fill.sub(written, text) for text in step.do),
        )
        for step in plan.steps()
    ]
    assert changed != list(plan.steps())
    return _with_steps(plan, changed)


def test_a_lost_row_and_a_failed_request_are_found(database: Database) -> None:
    """The harness by itself, without any migration."""
    with _install(database, PLAIN) as traffic:
        traffic.stage = "baseline"
        traffic.assign({Version.OLD: Duty.FULL})
        traffic.hold(MINIMUM)
        traffic.stop()
        traffic.compare(Version.OLD)
        assert traffic.findings.violations == []
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            connection.execute(f"DELETE FROM {PLAIN.target} WHERE id = 1".encode())
        traffic.compare(Version.OLD)
        assert traffic.findings.wrong == ["the hot row 1 is lost"]
