"""Changes of columns, alone and in chains, on tables with everything that may hang on a column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.catalogue import EVERYTHING, ID, Case, Stage, walk
from zdmigrate.errors import Unsafe
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Mode, Plan
from zdmigrate.postgres.servers import ScratchServer

T = (
    "CREATE TABLE org (id integer PRIMARY KEY)",
    """CREATE TABLE t (
        id bigserial PRIMARY KEY,
        a integer DEFAULT 3 NOT NULL CHECK (a > 0),
        b varchar(10) DEFAULT 'x',
        o integer REFERENCES org,
        n text,
        u integer UNIQUE,
        d numeric(10, 2)
    )""",
    "CREATE INDEX t_partial ON t (a, b) WHERE a > 1",
    "COMMENT ON COLUMN t.a IS 'c'",
    "GRANT SELECT (a), UPDATE (n) ON t TO PUBLIC",
    "INSERT INTO org VALUES (1)",
    """INSERT INTO t (a, b, o, n, u, d)
       SELECT g, 'b' || g, 1, CASE WHEN g % 2 = 0 THEN 'n' || g END, g, g FROM generate_series(1, 100) g""",
)
FULL = (*T, "UPDATE t SET n = 'n' WHERE n IS NULL")

# Everything that may depend on a column, and stays with it when it is renamed.
RICH = (
    """CREATE TABLE t (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        k integer NOT NULL,
        v text DEFAULT 'v' NOT NULL,
        w text GENERATED ALWAYS AS (upper(v)) STORED,
        during int4range,
        UNIQUE (k) DEFERRABLE INITIALLY DEFERRED,
        UNIQUE NULLS NOT DISTINCT (v, k),
        EXCLUDE USING gist (during WITH &&)
    )""",
    "CREATE TABLE child (t_id integer REFERENCES t ON DELETE CASCADE)",
    "CREATE VIEW shown AS SELECT id, v AS value FROM t WHERE v <> ''",
    "CREATE MATERIALIZED VIEW counted AS SELECT v, count(*) FROM t GROUP BY v",
    "CREATE STATISTICS t_stats (dependencies) ON k, v FROM t",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON t USING (v <> 'secret')",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER on_v AFTER UPDATE OF v, k ON t FOR EACH ROW WHEN (NEW.v <> OLD.v) EXECUTE FUNCTION noted()",
    "ALTER TABLE t ENABLE ALWAYS TRIGGER on_v",
    "CREATE TRIGGER plain AFTER UPDATE OF k OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION noted()",
    "CREATE PUBLICATION published FOR TABLE t (id, k, v) WHERE (id > 0)",
    "INSERT INTO t (k, v, during) SELECT g, 'v' || g, int4range(g, g + 1) FROM generate_series(1, 30) g",
    "INSERT INTO child SELECT g FROM generate_series(1, 30) g",
)

ODD = '"Odd ""name"" ' + "ä" * 20 + '"'
PARTITIONED = (
    'CREATE SCHEMA "My Schema"',
    f"""CREATE TABLE "My Schema".{ODD} (
        id bigint NOT NULL, at date NOT NULL, "Old ""N"" x" text DEFAULT 'x', UNIQUE (id, at, "Old ""N"" x")
    ) PARTITION BY RANGE (at)""",
    f"""CREATE TABLE "My Schema".p1 PARTITION OF "My Schema".{ODD} FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')
        PARTITION BY HASH (id)""",
    'CREATE TABLE "My Schema".p11 PARTITION OF "My Schema".p1 FOR VALUES WITH (MODULUS 2, REMAINDER 0)',
    'CREATE TABLE "My Schema".p12 PARTITION OF "My Schema".p1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)',
    f'CREATE TABLE "My Schema".p2 PARTITION OF "My Schema".{ODD} DEFAULT',
    f'CREATE INDEX ON "My Schema".{ODD} (lower("Old ""N"" x"))',
    f"""INSERT INTO "My Schema".{ODD} SELECT g, '2026-06-20'::date + g, 'v' || g FROM generate_series(1, 40) g""",
)
ODD_TABLE = '\'Odd "name" ' + "ä" * 20 + "'"

CASES = {
    "another type": Case(
        schema=T, changes=('ChangeType("t", "a", sa.BigInteger)',), by_hand=("ALTER TABLE t ALTER a TYPE bigint",),
        data="SELECT id, a FROM t ORDER BY id",
    ),
    "a longer varchar with an index": Case(
        schema=T, changes=('ChangeType("t", "b", sa.String(20))',), by_hand=("ALTER TABLE t ALTER b TYPE varchar(20)",)
    ),
    "in place": Case(
        schema=T, changes=('ChangeType("t", "d", "numeric(12, 2)")',), by_hand=("ALTER TABLE t ALTER d TYPE numeric(12, 2)",)
    ),
    "in place, then renamed": Case(
        schema=T, changes=('ChangeType("t", "d", "numeric(12, 2)")', 'RenameColumn("t", "d", "dd")'),
        by_hand=("ALTER TABLE t ALTER d TYPE numeric(12, 2)", "ALTER TABLE t RENAME d TO dd"),
        data="SELECT id, dd FROM t ORDER BY id",
    ),
    "another type, then renamed": Case(
        schema=T, changes=('ChangeType("t", "a", "bigint")', 'RenameColumn("t", "a", "aa")'),
        by_hand=("ALTER TABLE t ALTER a TYPE bigint", "ALTER TABLE t RENAME a TO aa"),
        data="SELECT id, aa FROM t ORDER BY id",
    ),
    "a unique column": Case(
        schema=T, changes=('ChangeType("t", "u", "bigint")',), by_hand=("ALTER TABLE t ALTER u TYPE bigint",)
    ),
    "a foreign key": Case(
        schema=T, changes=('ChangeType("t", "o", "bigint")',), by_hand=("ALTER TABLE t ALTER o TYPE bigint",)
    ),
    "up and down": Case(
        schema=T,
        changes=("""ChangeType("t", "n", "integer", up="length(n)", down="repeat('x', n)")""",),
        by_hand=("ALTER TABLE t ALTER n TYPE integer USING length(n)",),
        data="SELECT id, n FROM t ORDER BY id",
    ),
    "a chain": Case(
        schema=T,
        changes=(
            'RenameColumn("t", "n", "m")', """SetNotNull("t", "m", backfill="'?'")""", 'ChangeType("t", "m", sa.String(50))',
        ),
        by_hand=(
            "UPDATE t SET n = '?' WHERE n IS NULL", "ALTER TABLE t RENAME n TO m", "ALTER TABLE t ALTER m SET NOT NULL",
            "ALTER TABLE t ALTER m TYPE varchar(50)",
        ),
        data="SELECT id, m FROM t ORDER BY id",
    ),
    "many changes of one table": Case(
        schema=T,
        changes=(
            'RenameColumn("t", "n", "m")', """SetNotNull("t", "m", backfill="'?'")""", 'RenameColumn("t", "a", "aa")',
            'DropColumn("t", "d")', 'AddColumn("t", sa.Column("z", sa.Text, nullable=False), backfill="m || aa")',
            'ChangeType("t", "u", "bigint")',
        ),
        by_hand=(
            "UPDATE t SET n = '?' WHERE n IS NULL", "ALTER TABLE t RENAME n TO m", "ALTER TABLE t ALTER m SET NOT NULL",
            "ALTER TABLE t RENAME a TO aa", "ALTER TABLE t DROP d", "ALTER TABLE t ADD z text", "UPDATE t SET z = m || aa",
            "ALTER TABLE t ALTER z SET NOT NULL", "ALTER TABLE t ALTER u TYPE bigint",
        ),
        data="SELECT id, m, aa, z, u FROM t ORDER BY id",
    ),
    "not null": Case(
        schema=FULL, changes=('SetNotNull("t", "n")',), by_hand=("ALTER TABLE t ALTER n SET NOT NULL",)
    ),
    "not null, filled": Case(
        schema=T,
        changes=("""SetNotNull("t", "n", backfill="'y'")""",),
        by_hand=("UPDATE t SET n = 'y' WHERE n IS NULL", "ALTER TABLE t ALTER n SET NOT NULL"),
        data="SELECT id, n FROM t ORDER BY id",
    ),
    "renamed, then not null": Case(
        schema=FULL,
        changes=('RenameColumn("t", "n", "m")', 'SetNotNull("t", "m")'),
        by_hand=("ALTER TABLE t RENAME n TO m", "ALTER TABLE t ALTER m SET NOT NULL"),
    ),
    "a rename with everything on it": Case(
        schema=RICH,
        changes=('RenameColumn("t", "v", "value")', 'RenameColumn("t", "k", "key")', 'RenameColumn("t", "id", "number")',
                 'RenameColumn("t", "during", "span")'),
        by_hand=("ALTER TABLE t RENAME v TO value", "ALTER TABLE t RENAME k TO key", "ALTER TABLE t RENAME id TO number",
                 "ALTER TABLE t RENAME during TO span"),
    ),
    "odd names, partitions of several levels": Case(
        schema=PARTITIONED,
        changes=(f"""RenameColumn({ODD_TABLE}, 'Old "N" x', "New Name", schema="My Schema")""",),
        by_hand=(f"""ALTER TABLE "My Schema".{ODD} RENAME "Old ""N"" x" TO "New Name" """,),
        data=f"""SELECT * FROM "My Schema".{ODD} ORDER BY id""",
    ),
    "no rows": Case(
        schema=("CREATE TABLE t (a int, b text)",),
        changes=('RenameColumn("t", "a", "c")', 'ChangeType("t", "b", "integer", up="b::integer", down="b::text")'),
        by_hand=("ALTER TABLE t RENAME a TO c", "ALTER TABLE t ALTER b TYPE integer USING b::integer"),
    ),
}  # fmt: skip


@pytest.fixture
def stage(pg: ScratchServer, tmp_path: Path) -> Iterator[Callable[[Case], Stage]]:
    stages: list[Stage] = []

    def made(case: Case) -> Stage:
        stages.append(Stage(pg, tmp_path, case))
        return stages[-1]

    yield made
    for one in stages:
        one.close()


@pytest.mark.parametrize("name", CASES)
def test_forwards_back_and_forwards_again(stage: Callable[[Case], Stage], name: str) -> None:
    plan = walk(stage(CASES[name]), CASES[name])
    assert _count(plan, Mode.BACKFILL) <= 1
    assert len({step.phase for step in plan.steps() if step.renames}) <= 2


def _count(plan: Plan, mode: Mode) -> int:
    return sum(step.mode is mode for step in plan.steps())


def _at(stage: Stage, phase: Phase) -> str:
    name = stage.make()
    with stage.project(name) as project:
        assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
    return name


NARROW = Case(schema=T, changes=('ChangeType("t", "u", "bigint")',), by_hand=())


def test_a_value_that_the_old_type_cannot_hold_is_refused_with_a_reason(stage: Callable[[Case], Stage]) -> None:
    made = stage(NARROW)
    name = _at(made, Phase.SWITCH_READS)
    with pytest.raises(
        psycopg.errors.NumericValueOutOfRange, match=r"the value of .* has no equivalent in u"
    ) as refused:
        made.sql(name, "UPDATE t SET u = 3000000000 WHERE id = 1")
    assert "after contract" in (refused.value.diag.message_hint or "")
    with made.project(name) as project:
        assert project.advance([], target=Phase.CONTRACT, overrides=EVERYTHING).exit_code == 0
    made.sql(name, "UPDATE t SET u = 3000000000 WHERE id = 1")


def test_a_value_without_an_old_one_is_named_before_it_is_lost(stage: Callable[[Case], Stage]) -> None:
    made = stage(Case(schema=T, changes=('ChangeType("t", "u", "bigint", on_down_error="null")',), by_hand=()))
    name = _at(made, Phase.SWITCH_READS)
    made.sql(name, "UPDATE t SET u = 3000000000 WHERE id = 1", "UPDATE t SET n = 'other' WHERE id = 1")
    assert made.rows(name, "SELECT u FROM t WHERE id = 1") == [(3_000_000_000,)]
    with made.project(name) as project:
        refused = project.revert(ID, target=Phase.NONE, overrides=EVERYTHING)
        assert refused.exit_code == 6
        assert "a value of its own in u" in (refused.migrations[0].message or "")
        assert project.revert(ID, target=Phase.NONE, overrides=EVERYTHING, allow_lossy=True).exit_code == 0
    assert made.rows(name, "SELECT u FROM t WHERE id = 1") == [(None,)]


def test_a_function_that_names_the_column_holds_retire_until_it_does_not(stage: Callable[[Case], Stage]) -> None:
    body = "CREATE OR REPLACE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.b := NEW.{}; RETURN NEW; END'"
    made = stage(
        Case(
            schema=(
                *T, body.format("n"), "CREATE TRIGGER noted BEFORE UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION noted()",
            ),
            changes=('RenameColumn("t", "n", "m")',),
            by_hand=(),
        )
    )  # fmt: skip
    name = _at(made, Phase.SWITCH_READS)
    with made.project(name) as project:
        waits = project.advance([], target=Phase.RETIRE)
        assert waits.exit_code == 6
        assert "noted() mentions n: let it use m instead of n" in (waits.migrations[0].message or "")
        made.sql(name, "UPDATE t SET m = 'by n+1' WHERE id = 2", body.format("m"))
        assert made.rows(name, "SELECT b, n, m FROM t WHERE id = 2") == [("by n+1", "by n+1", "by n+1")]
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
    made.sql(name, "UPDATE t SET m = 'now' WHERE id = 2")
    assert made.rows(name, "SELECT b, m FROM t WHERE id = 2") == [("now", "now")]


def test_nulls_of_version_n_become_the_backfill_until_contract(stage: Callable[[Case], Stage]) -> None:
    made = stage(CASES["not null, filled"])
    name = _at(made, Phase.BACKFILL)
    made.sql(name, "UPDATE t SET n = NULL WHERE id = 2", "INSERT INTO t (n) VALUES (NULL)")
    assert made.rows(name, "SELECT count(*) FROM t WHERE n = 'y'") == [(52,)]
    with made.project(name) as project:
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
        with pytest.raises(psycopg.errors.NotNullViolation):
            made.sql(name, "UPDATE t SET n = NULL WHERE id = 2")


def test_not_null_at_the_end_names_rows_before_it_begins(stage: Callable[[Case], Stage]) -> None:
    made = stage(CASES["not null"])
    name = _at(made, Phase.RETIRE)
    made.sql(name, "UPDATE t SET n = NULL WHERE id = 2")
    with made.project(name) as project:
        refused = project.advance([], target=Phase.CONTRACT)
        assert refused.exit_code == 6
        assert "is NULL in n" in (refused.migrations[0].message or "")
        made.sql(name, "UPDATE t SET n = 'n' WHERE id = 2")
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (('ChangeType("t", "n", "integer")',), "invalid input syntax for type integer"),
        (('ChangeType("t", "n", "nothing")',), "the type nothing does not work"),
        (('ChangeType("t", "n", "text")',), "is of type text already"),
        (("""ChangeType("t", "u", "text", down="nothing")""",), 'column "nothing" does not exist'),
        (("""ChangeType("t", "u", "text", down="coalesce(u, '0')::integer")""",), "version N+1 may write NULL"),
        (('ChangeType("t", "id", "numeric")',), "part of the primary key"),
        (('ChangeType("t", "a", "bigint", on_down_error="null")',), "is NOT NULL, so"),
        (('SetNotNull("t", "a")',), "is NOT NULL already"),
        (("""SetNotNull("t", "n", backfill="1 +")""",), "syntax error"),
    ],
)
def test_what_cannot_be_is_said_when_it_is_planned(
    stage: Callable[[Case], Stage], changes: tuple[str, ...], message: str
) -> None:
    made = stage(Case(schema=T, changes=changes, by_hand=()))
    name = made.make()
    with made.project(name) as project:
        with pytest.raises(Unsafe, match=re.escape(message)) as refused:
            project.plan([])
        assert re.match(r".*0001_it\.py:3: ", refused.value.message)


def test_what_fills_a_renamed_column_does_not_overwrite_what_the_new_version_writes(
    stage: Callable[[Case], Stage],
) -> None:
    changes = ('RenameColumn("t", "n", "m")', """SetNotNull("t", "m", backfill="'?'")""")
    made = stage(Case(schema=T, changes=changes, by_hand=()))
    name = made.make()
    with made.project(name) as project:
        for phase in (Phase.DUAL_WRITE, Phase.BACKFILL, Phase.SWITCH_READS):
            assert project.advance([], target=phase).exit_code == 0
            for columns, value, expected in (("m", "'new'", "new"), ("n", "'old'", "old"), ("n", "NULL", "?")):
                found = made.rows(name, f"INSERT INTO t ({columns}) VALUES ({value}) RETURNING n, m")
                assert found == [(expected, expected)], phase


def test_values_of_every_new_column_are_named_before_they_are_lost(stage: Callable[[Case], Stage]) -> None:
    changes = (f'AddColumn("t", sa.Column("{name}", sa.Text), backfill="b")' for name in ("y", "z"))
    made = stage(Case(schema=T, changes=tuple(changes), by_hand=()))
    name = _at(made, Phase.BACKFILL)
    made.sql(name, "UPDATE t SET y = 'mine' WHERE id = 1", "UPDATE t SET z = 'mine' WHERE id = 2")
    with made.project(name) as project:
        refused = project.revert(ID, target=Phase.EXPAND, overrides=EVERYTHING)
        assert refused.exit_code == 6
        assert re.search("of its own in y.*of its own in z", refused.migrations[0].message or "")


VARYING = (
    "CREATE TABLE t (id bigserial PRIMARY KEY, v varchar(5), w varchar(5))",
    "INSERT INTO t (v, w) VALUES (NULL, 'w'), ('v', NULL)",
)


def test_after_a_type_is_changed_in_place_the_others_go_on_with_the_new_one(stage: Callable[[Case], Stage]) -> None:
    changes = (
        'ChangeType("t", "v", "text")', """SetNotNull("t", "v", backfill="'longer than it was'")""",
        'ChangeType("t", "w", "varchar(40)")', 'RenameColumn("t", "w", "W")',
    )  # fmt: skip
    made = stage(Case(schema=VARYING, changes=changes, by_hand=()))
    name = made.make()
    with made.project(name) as project:
        for phase in PHASES[1 : Phase.RETIRE.position]:
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            wanted = "longer than it was" if phase.position >= Phase.DUAL_WRITE.position else None
            assert made.rows(name, "INSERT INTO t (w) VALUES ('more than five') RETURNING w, v") == [
                ("more than five", wanted)
            ]
            assert made.rows(name, "UPDATE t SET w = 'again' WHERE id = 1 RETURNING w") == [("again",)]


def test_a_unique_index_with_a_generated_column_is_carried(stage: Callable[[Case], Stage]) -> None:
    case = Case(
        schema=(
            "CREATE TABLE t (id bigserial PRIMARY KEY, c text NOT NULL, made text GENERATED ALWAYS AS ('x'::text) STORED)",
            "CREATE UNIQUE INDEX t_c ON t (c, made)", "INSERT INTO t (c) VALUES ('c')",
        ),
        changes=('RenameColumn("t", "c", "d")',), by_hand=("ALTER TABLE t RENAME c TO d",), data="SELECT id, d FROM t",
    )  # fmt: skip
    walk(stage(case), case)


FIXED = (
    "CREATE TABLE t (id bigserial PRIMARY KEY, n integer CONSTRAINT positive CHECK (n > 0), j jsonb)",
    "CREATE INDEX ON t USING gin (j)",
    "CREATE TABLE o (id bigint PRIMARY KEY)",
    "ALTER TABLE t ADD o bigint REFERENCES o",
    "INSERT INTO t (n, j) VALUES (1, '{}')",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            'ChangeType("t", "n", "text")',
            "public.t.n cannot become text with its constraints and indexes as they are: operator",
        ),
        (
            'DropConstraint("t", "positive"), ChangeType("t", "n", "text")',
            "public.t.n cannot become text with its constraints and indexes as they are: operator",
        ),
        (
            'ChangeType("t", "o", "text", down="o::bigint")',
            "as they are: t_o_fkey would compare text with bigint, for which there is no operator",
        ),
        (
            'ChangeType("t", "j", "text", down="j::jsonb")',
            "cannot become text with its constraints and indexes as they are",
        ),
    ],
)
def test_checks_and_indexes_that_do_not_fit_the_new_type_are_found_when_it_is_planned(
    stage: Callable[[Case], Stage], change: str, message: str
) -> None:
    made = stage(Case(schema=FIXED, changes=(change,), by_hand=()))
    with made.project(made.make()) as project, pytest.raises(Unsafe, match=re.escape(message)):
        project.plan([])
