"""Constraints that come, go and change their names: the catalog afterwards, and what both versions may do meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.catalogue import ID, Case, NotNullAnywhere, Stage, walk
from tests.support.processes import until
from zdmigrate.config import Config
from zdmigrate.engine.outcome import MigrationStatus, Outcome
from zdmigrate.engine.project import Project
from zdmigrate.errors import Unsafe, ZdmigrateError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import LockMode, Mode, Plan
from zdmigrate.postgres.servers import ScratchServer

ORG = (
    "CREATE TABLE org (id integer PRIMARY KEY, code text NOT NULL UNIQUE)",
    "INSERT INTO org VALUES (1, 'o'), (2, 'p')",
)
T = (
    *ORG,
    """CREATE TABLE t (
        id bigserial PRIMARY KEY,
        a integer DEFAULT 3 NOT NULL,
        b text,
        o integer,
        c text,
        "Odd ""x"" ä" integer,
        during int4range
    )""",
    """INSERT INTO t (a, b, o, c, "Odd ""x"" ä", during)
       SELECT g, 'b' || g, g % 2 + 1, CASE g % 2 WHEN 0 THEN 'o' ELSE 'p' END, g, int4range(g, g + 1)
       FROM generate_series(1, 50) g""",
)
BARE = (
    "CREATE TABLE m (user_id integer, team_id integer NOT NULL, role text)",
    "INSERT INTO m SELECT g, g % 5 + 1, 'r' FROM generate_series(1, 50) g",
)
LONG = "a_rather_long_name_for_a_table_that_somebody_thought_of_ünder"
PARTED = (
    *ORG,
    'CREATE SCHEMA "My Schema"',
    """CREATE TABLE "My Schema".logs (id bigint, at date NOT NULL, o integer, k integer) PARTITION BY RANGE (at)""",
    """CREATE TABLE "My Schema".logs_1 PARTITION OF "My Schema".logs FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')""",
    """CREATE TABLE "My Schema".logs_2 PARTITION OF "My Schema".logs FOR VALUES FROM ('2026-07-01') TO ('2027-01-01')
       PARTITION BY HASH (id)""",
    'CREATE TABLE "My Schema"."logs 2a" PARTITION OF "My Schema".logs_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0)',
    'CREATE TABLE "My Schema".logs_2b PARTITION OF "My Schema".logs_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1)',
    """INSERT INTO "My Schema".logs SELECT g, '2026-06-15'::date + g, 1, g FROM generate_series(1, 40) g""",
)
CONSTRAINED = (
    *PARTED, 'ALTER TABLE "My Schema".logs ADD UNIQUE (at, id), ADD FOREIGN KEY (o) REFERENCES org, ADD CHECK (k > 0)',
)  # fmt: skip

CASES = {
    "a check": Case(
        schema=T,
        changes=('AddCheck("t", expression="a > 0")', "AddCheck(\"t\", \"odd one\", \"a < 100 OR b LIKE '%''{%'\")"),
        by_hand=("ALTER TABLE t ADD CHECK (a > 0)", "ALTER TABLE t ADD CONSTRAINT \"odd one\" CHECK (a < 100 OR b LIKE '%''{%')"),
    ),
    "checks without a name": Case(
        schema=T,
        changes=(
            'AddCheck("t", expression="a > 0")', 'AddCheck("t", expression="a < 1000")',
            'AddCheck("t", expression="a <> o + 1000 AND o > a - 1000")', "AddCheck('t', expression='\"Odd \"\"x\"\" ä\" > 0')",
        ),
        by_hand=(
            "ALTER TABLE t ADD CHECK (a > 0)", "ALTER TABLE t ADD CHECK (a < 1000)",
            "ALTER TABLE t ADD CHECK (a <> o + 1000 AND o > a - 1000)", 'ALTER TABLE t ADD CHECK ("Odd ""x"" ä" > 0)',
        ),
    ),
    "a foreign key": Case(
        schema=T, changes=('AddForeignKey("t", "o", "org", "id")',),
        by_hand=("ALTER TABLE t ADD FOREIGN KEY (o) REFERENCES org (id)",),
    ),
    "foreign keys with everything": Case(
        schema=(*T, "ALTER TABLE org ADD UNIQUE (code, id)", 'CREATE SCHEMA "X y"', 'CREATE TABLE "X y"."T ""t" (LIKE t)'),
        changes=(
            'AddForeignKey("t", ["o", "c"], "org", ["id", "code"], match="full", on_delete="restrict", on_update="cascade")',
            """AddForeignKey("T \\"t", "o", "org", "id", schema="X y", ref_schema="public", name="to org",
                             on_delete="SET NULL", initially="deferred")""",
            'AddForeignKey("t", "o", "t", "id", on_delete="set default")',
        ),
        by_hand=(
            "ALTER TABLE t ADD FOREIGN KEY (o, c) REFERENCES org (id, code) MATCH FULL ON DELETE RESTRICT ON UPDATE CASCADE",
            """ALTER TABLE "X y"."T ""t" ADD CONSTRAINT "to org" FOREIGN KEY (o) REFERENCES public.org (id)
               ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED""",
            "ALTER TABLE t ADD FOREIGN KEY (o) REFERENCES t (id) ON DELETE SET DEFAULT",
        ),
    ),
    "a foreign key of a partitioned table": Case(
        schema=PARTED,
        changes=('AddForeignKey("logs", "o", "org", "id", schema="My Schema", ref_schema="public")',),
        by_hand=('ALTER TABLE "My Schema".logs ADD FOREIGN KEY (o) REFERENCES org (id)',),
    ),
    "a check of a partitioned table": Case(
        schema=PARTED,
        changes=('AddCheck("logs", expression="k > 0", schema="My Schema")',),
        by_hand=('ALTER TABLE "My Schema".logs ADD CHECK (k > 0)',),
    ),
    "unique": Case(
        schema=T, changes=('AddUnique("t", "b")',), by_hand=("ALTER TABLE t ADD UNIQUE (b)",)
    ),
    "unique with everything": Case(
        schema=T,
        changes=(
            'AddUnique("t", ["b", "Odd \\"x\\" ä"], include=["o", "c"], nulls_not_distinct=True)',
            'AddUnique("t", "a", name="late one", initially="deferred")',
        ),
        by_hand=(
            'ALTER TABLE t ADD UNIQUE NULLS NOT DISTINCT (b, "Odd ""x"" ä") INCLUDE (o, c)',
            'ALTER TABLE t ADD CONSTRAINT "late one" UNIQUE (a) DEFERRABLE INITIALLY DEFERRED',
        ),
    ),
    "unique on a table with a long name": Case(
        schema=(f'CREATE TABLE "{LONG}" (a_column_with_a_long_name integer, b integer)',),
        changes=(f'AddUnique("{LONG}", ["a_column_with_a_long_name", "b"])', f'AddCheck("{LONG}", expression="b > 0")'),
        by_hand=(f'ALTER TABLE "{LONG}" ADD UNIQUE (a_column_with_a_long_name, b)', f'ALTER TABLE "{LONG}" ADD CHECK (b > 0)'),
    ),
    "unique on a partitioned table": Case(
        schema=PARTED,
        changes=('AddUnique("logs", ["at", "id"], schema="My Schema", include="k")',),
        by_hand=('ALTER TABLE "My Schema".logs ADD UNIQUE (at, id) INCLUDE (k)',),
    ),
    "several of the same columns of a partitioned table": Case(
        schema=PARTED,
        changes=(
            'AddUnique("logs", ["at", "id"], schema="My Schema")',
            'AddUnique("logs", ["at", "id"], name="once more", nulls_not_distinct=True, schema="My Schema")',
        ),
        by_hand=(
            'ALTER TABLE "My Schema".logs ADD UNIQUE (at, id)',
            'ALTER TABLE "My Schema".logs ADD CONSTRAINT "once more" UNIQUE NULLS NOT DISTINCT (at, id)',
        ),
    ),
    "a primary key": Case(
        schema=BARE, changes=('AddPrimaryKey("m", ["user_id", "team_id"])',),
        by_hand=("ALTER TABLE m ADD PRIMARY KEY (user_id, team_id)",),
    ),
    "an exclusion": Case(
        schema=T,
        changes=(
            'AddExclusion("t", [("during", "&&")])',
            'AddExclusion("t", [("(int4range(a, a + 1))", "="), ("during", "&&")], where="a > 10", name="no two")',
        ),
        by_hand=(
            "ALTER TABLE t ADD EXCLUDE USING gist (during WITH &&)",
            (
                'ALTER TABLE t ADD CONSTRAINT "no two" EXCLUDE USING gist (int4range(a, a + 1) WITH =, during WITH &&) '
                "WHERE (a > 10)"
            ),
        ),
    ),
    "drop": Case(
        schema=(
            *T, "ALTER TABLE t ADD UNIQUE (a), ADD CHECK (a > 0), ADD FOREIGN KEY (o) REFERENCES org",
            "ALTER TABLE t ADD EXCLUDE USING gist (during WITH &&)",
        ),
        changes=tuple(f'DropConstraint("t", "t_{name}")' for name in ("a_key", "a_check", "o_fkey", "during_excl", "pkey")),
        by_hand=(
            "ALTER TABLE t DROP CONSTRAINT t_a_key, DROP CONSTRAINT t_a_check, DROP CONSTRAINT t_o_fkey",
            "ALTER TABLE t DROP CONSTRAINT t_during_excl, DROP CONSTRAINT t_pkey",
        ),
    ),
    "drop a key with the foreign key that points to it": Case(
        schema=(*T, "ALTER TABLE t ADD FOREIGN KEY (c) REFERENCES org (code)"),
        changes=('DropConstraint("t", "t_c_fkey")', 'DropConstraint("org", "org_code_key")'),
        by_hand=("ALTER TABLE t DROP CONSTRAINT t_c_fkey", "ALTER TABLE org DROP CONSTRAINT org_code_key"),
    ),
    "drop on a partitioned table": Case(
        schema=CONSTRAINED,
        changes=tuple(
            f'DropConstraint("logs", "{name}", schema="My Schema")'
            for name in ("logs_at_id_key", "logs_o_fkey", "logs_k_check")
        ),
        by_hand=tuple(
            f'ALTER TABLE "My Schema".logs DROP CONSTRAINT {name}' for name in ("logs_at_id_key", "logs_o_fkey", "logs_k_check")
        ),
    ),
    "rename": Case(
        schema=(*T, "ALTER TABLE t ADD UNIQUE (a), ADD CHECK (a > 0), ADD FOREIGN KEY (o) REFERENCES org"),
        changes=(
            'RenameConstraint("t", "t_pkey", "Key of t")', 'RenameConstraint("t", "t_a_key", "one a")',
            'RenameConstraint("t", "t_a_check", "positive")', 'RenameConstraint("t", "t_o_fkey", "to org")',
        ),
        by_hand=(
            'ALTER TABLE t RENAME CONSTRAINT t_pkey TO "Key of t"', 'ALTER TABLE t RENAME CONSTRAINT t_a_key TO "one a"',
            "ALTER TABLE t RENAME CONSTRAINT t_a_check TO positive", 'ALTER TABLE t RENAME CONSTRAINT t_o_fkey TO "to org"',
        ),
    ),
    "rename on a partitioned table": Case(
        schema=CONSTRAINED,
        changes=tuple(
            f'RenameConstraint("logs", "{name}", "new {name}", schema="My Schema")'
            for name in ("logs_at_id_key", "logs_o_fkey", "logs_k_check")
        ),
        by_hand=tuple(
            f'ALTER TABLE "My Schema".logs RENAME CONSTRAINT {name} TO "new {name}"'
            for name in ("logs_at_id_key", "logs_o_fkey", "logs_k_check")
        ),
    ),
    "on columns that change": Case(
        schema=(*T, "ALTER TABLE t ADD UNIQUE (a), ADD CHECK (a > 0)"),
        changes=(
            'RenameColumn("t", "b", "name")', 'ChangeType("t", "a", sa.BigInteger)',
            'RenameConstraint("t", "t_a_key", "one a")', 'RenameConstraint("t", "t_a_check", "positive")',
            'AddCheck("t", expression="name <> \'\'")', 'AddCheck("t", "small", "a < 1000")', 'AddUnique("t", ["name", "a"])',
        ),
        by_hand=(
            "ALTER TABLE t RENAME b TO name", "ALTER TABLE t ALTER a TYPE bigint",
            'ALTER TABLE t RENAME CONSTRAINT t_a_key TO "one a"', "ALTER TABLE t RENAME CONSTRAINT t_a_check TO positive",
            "ALTER TABLE t ADD CHECK (name <> '')", "ALTER TABLE t ADD CONSTRAINT small CHECK (a < 1000)",
            "ALTER TABLE t ADD UNIQUE (name, a)",
        ),
    ),
    "on columns that come": Case(
        schema=T,
        changes=(
            'AddColumn("t", sa.Column("org_id", sa.Integer))',
            'AddColumn("t", sa.Column("size", sa.Integer, server_default="1"))',
            'AddForeignKey("t", "org_id", "org", "id", on_delete="cascade", on_update="cascade")',
            'AddCheck("t", expression="size > 0")', 'AddUnique("t", "org_id")',
        ),
        by_hand=(
            "ALTER TABLE t ADD org_id integer", "ALTER TABLE t ADD size integer DEFAULT 1",
            "ALTER TABLE t ADD FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE ON UPDATE CASCADE",
            "ALTER TABLE t ADD CHECK (size > 0)", "ALTER TABLE t ADD UNIQUE (org_id)",
        ),
    ),
    "a key, and a foreign key to it": Case(
        schema=(*T, *BARE),
        changes=(
            'DropConstraint("t", "t_pkey")', 'AddPrimaryKey("t", "a", name="t_a_pkey")', 'AddUnique("m", "user_id")',
            'AddForeignKey("m", "team_id", "m", "user_id", name="odd")',
        ),
        by_hand=(
            "ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD CONSTRAINT t_a_pkey PRIMARY KEY (a)",
            "ALTER TABLE m ADD UNIQUE (user_id)", "ALTER TABLE m ADD CONSTRAINT odd FOREIGN KEY (team_id) REFERENCES m (user_id)",
        ),
    ),
}  # fmt: skip


PARTED_KEY = Case(
    schema=PARTED,
    changes=('AddPrimaryKey("logs", ["at", "id"], schema="My Schema")',),
    by_hand=('ALTER TABLE "My Schema".logs ADD PRIMARY KEY (at, id)',),
)

Make = Callable[[Case], Stage]


@pytest.fixture
def make(pg: ScratchServer, tmp_path: Path) -> Iterator[Make]:
    stages: list[Stage] = []

    def made(case: Case) -> Stage:
        stages.append(Stage(pg, tmp_path, case))
        return stages[-1]

    yield made
    for stage in stages:
        stage.close()


@pytest.mark.parametrize("name", CASES)
def test_the_catalog_ends_as_by_hand(make: Make, name: str) -> None:
    plan = walk(make(CASES[name]), CASES[name])
    if "exclusion" not in name:
        assert_short_locks(plan)


def test_a_primary_key_of_a_partitioned_table(pg: ScratchServer, tmp_path: Path) -> None:
    stage = NotNullAnywhere(pg, tmp_path, PARTED_KEY)
    assert_short_locks(walk(stage, PARTED_KEY))
    stage.close()


def assert_short_locks(plan: Plan) -> None:
    """Nothing that reads rows holds a lock that anybody waits for."""
    for step in plan.steps():
        if step.scans or step.mode is not Mode.TRANSACTION:
            assert all(lock.mode.blocks == "nothing" for lock in step.locks), step
        assert "CONCURRENTLY" not in "".join(step.do) or step.mode is Mode.AUTOCOMMIT
        assert "VALIDATE" not in "".join(step.do) or step.mode is Mode.AUTOCOMMIT
        assert len({(lock.schema, lock.name) for lock in step.locks if lock.mode is LockMode.ACCESS_EXCLUSIVE}) <= 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strict:
    """A change, a statement of version N that it forbids, and what makes it possible again."""

    change: str
    forbidden: str
    cure: str
    error: type[psycopg.Error]
    named: str
    schema: tuple[str, ...] = T


STRICT = {
    "check": Strict(
        change='AddCheck("t", expression="a > 0")', forbidden="INSERT INTO t (a) VALUES (0)",
        cure="DELETE FROM t WHERE a = 0", error=psycopg.errors.CheckViolation, named="of public.t violates t_a_check",
    ),
    "foreign key": Strict(
        change='AddForeignKey("t", ["o", "c"], "org", ["id", "code"], name="it", match="full")',
        schema=(*T, "ALTER TABLE org ADD UNIQUE (id, code)", "UPDATE t SET c = CASE o WHEN 1 THEN 'o' ELSE 'p' END"),
        forbidden="INSERT INTO t (o) VALUES (1)", cure="DELETE FROM t WHERE c IS NULL",
        error=psycopg.errors.ForeignKeyViolation, named="of public.t points to no row of public.org (o, c)",
    ),
    "the parent's side of a foreign key": Strict(
        change='AddForeignKey("t", "o", "org", "id")', forbidden="DELETE FROM org WHERE id = 2",
        cure="INSERT INTO org VALUES (2, 'p')",
        error=psycopg.errors.ForeignKeyViolation, named="of public.t points to no row of public.org (o)",
    ),
    "unique": Strict(
        change='AddUnique("t", ["a", "b"])', forbidden="INSERT INTO t (a, b) VALUES (1, 'b1')",
        cure="DELETE FROM t WHERE id > 50", error=psycopg.errors.UniqueViolation, named="of public.t have the same a, b",
    ),
    "unique with NULL": Strict(
        change='AddUnique("t", "b", nulls_not_distinct=True)', forbidden="INSERT INTO t (b) VALUES (NULL), (NULL)",
        cure="DELETE FROM t WHERE b IS NULL", error=psycopg.errors.UniqueViolation, named="of public.t have the same b",
    ),
    "unique on a partitioned table": Strict(
        change='AddUnique("logs", ["at", "id"], schema="My Schema")', schema=PARTED,
        forbidden="""INSERT INTO "My Schema".logs (id, at) VALUES (40, '2026-07-25')""",
        cure='DELETE FROM "My Schema".logs WHERE k IS NULL', error=psycopg.errors.UniqueViolation,
        named="of My Schema.logs have the same at, id",
    ),
    "foreign key of a partitioned table": Strict(
        change='AddForeignKey("logs", "o", "org", "id", schema="My Schema", ref_schema="public")', schema=PARTED,
        forbidden="""INSERT INTO "My Schema".logs (id, at, o) VALUES (40, '2026-07-25', 7)""",
        cure='DELETE FROM "My Schema".logs WHERE k IS NULL', error=psycopg.errors.ForeignKeyViolation,
        named="of My Schema.logs points to no row of public.org (o)",
    ),
    "primary key": Strict(
        change='AddPrimaryKey("m", ["user_id", "team_id"])', schema=BARE, forbidden="INSERT INTO m VALUES (NULL, 1)",
        cure="DELETE FROM m WHERE user_id IS NULL", error=psycopg.errors.NotNullViolation,
        named="of public.m is NULL in user_id",
    ),
    "exclusion": Strict(
        change='AddExclusion("t", [("during", "&&")])', forbidden="INSERT INTO t (during) VALUES ('[3,7)')",
        cure="DELETE FROM t WHERE id > 50", error=psycopg.errors.ExclusionViolation,
        named="of public.t conflict by t_during_excl",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRICT)
def test_what_it_forbids_works_until_contract_and_is_named_then(make: Make, name: str) -> None:
    strict = STRICT[name]
    stage = make(Case(schema=strict.schema, changes=(strict.change,), by_hand=()))
    database = stage.make()
    with stage.project(database) as project:
        assert project.advance([], target=Phase.RETIRE).exit_code == 0
        stage.sql(database, strict.forbidden)
        refused = project.advance([], target=Phase.CONTRACT).migrations[0]
        assert refused.exit_code == 6
        assert strict.named in (refused.message or "")
        assert refused.phase is Phase.RETIRE
        stage.sql(database, strict.cure)
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
        with pytest.raises(strict.error):
            stage.sql(database, strict.forbidden)
        assert project.revert(ID, target=Phase.RETIRE).exit_code == 0
        stage.sql(database, strict.forbidden)


def test_duplicates_that_are_written_while_the_index_is_built(make: Make, pg: ScratchServer) -> None:
    stage = make(Case(schema=T, changes=('AddUnique("t", "a")',), by_hand=()))
    database = stage.make()
    outcomes: list[MigrationStatus] = []

    def advance() -> None:
        with stage.project(database) as project:
            outcomes.append(project.advance([], target=Phase.CONTRACT).migrations[0])

    with pg.connect(database, autocommit=False) as old:
        old.execute("UPDATE t SET c = c WHERE id = 2")
        building = threading.Thread(target=advance)
        building.start()
        until(
            lambda: stage.rows(
                database, "SELECT FROM pg_stat_progress_create_index WHERE phase = 'waiting for writers before build'"
            ),
            "the index waits for the writer",
        )
        stage.sql(database, "INSERT INTO t (a) VALUES (1)")
    building.join()
    (refused,) = outcomes
    assert refused.exit_code == 6
    assert "contract cannot go on: rows (0,1) and" in (refused.message or "")
    stage.sql(database, "DELETE FROM t WHERE id > 50")
    with stage.project(database) as project:
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
    assert stage.rows(database, "SELECT conname FROM pg_constraint WHERE conname = 't_a_key'") == [("t_a_key",)]


def test_columns_that_version_n_does_not_know_are_constrained_with_the_data(make: Make) -> None:
    stage = make(
        Case(
            schema=T,
            changes=(
                'AddColumn("t", sa.Column("org_id", sa.Integer))', 'AddUnique("t", "org_id")',
                'AddForeignKey("t", "org_id", "org", "id", on_delete="set null")',
            ),
            by_hand=(),
        )
    )  # fmt: skip
    database = stage.make()
    with stage.project(database) as project:
        (plan,) = project.plan([])
        assert project.advance([], target=Phase.BACKFILL).exit_code == 0
    assert [hazard.id for hazard in plan.hazards if hazard.phase is Phase.BACKFILL] == ["C15"]
    # N+1 meets its constraints, and N none.
    stage.sql(database, "UPDATE t SET org_id = 2 WHERE id = 1", "INSERT INTO t (a) VALUES (1)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        stage.sql(database, "UPDATE t SET org_id = 3 WHERE id = 1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        stage.sql(database, "UPDATE t SET org_id = 2 WHERE id = 2")
    stage.sql(database, "DELETE FROM org WHERE id = 2")
    assert stage.rows(database, "SELECT org_id FROM t WHERE id = 1") == [(None,)]


BUSY = {
    "plain": Case(
        schema=(*T, "ALTER TABLE t ADD CHECK (o < 9)", "ALTER TABLE t DROP CONSTRAINT t_pkey"),
        changes=(
            'AddCheck("t", expression="a > 0")', 'AddForeignKey("t", "o", "org", "id")', 'AddUnique("t", ["b", "id"])',
            'AddPrimaryKey("t", "id")', 'RenameConstraint("t", "t_o_check", "few")',
        ),
        by_hand=(),
    ),
    "partitioned": Case(
        schema=(
            *ORG, "CREATE TABLE t (id bigserial, a integer, b text, o integer) PARTITION BY HASH (id)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY HASH (id)",
            "CREATE TABLE t_11 PARTITION OF t_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "CREATE TABLE t_2 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "INSERT INTO t (a, b, o) SELECT g, 'b' || g, 1 FROM generate_series(1, 50) g",
        ),
        changes=(
            'AddCheck("t", expression="a > 0")', 'AddForeignKey("t", "o", "org", "id")', 'AddUnique("t", ["b", "id"])',
            'AddPrimaryKey("t", "id")',
        ),
        by_hand=(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUSY)
def test_version_n_plus_1_writes_all_the_time(make: Make, pg: ScratchServer, name: str) -> None:
    stage = make(BUSY[name])
    database = stage.make()
    stop, failures, requests = threading.Event(), list[str](), list[int]()

    def traffic(number: int) -> None:
        with pg.connect(database, autocommit=True) as connection:
            for turn in itertools.count():
                if stop.is_set():
                    requests.append(turn)
                    return
                try:
                    row = connection.execute(
                        "INSERT INTO t (a, b, o) VALUES (%s, %s, 1) RETURNING id", (turn + 1, f"{number} {turn}")
                    ).fetchone()
                    connection.execute("UPDATE t SET o = 2, a = a + 1 WHERE id = %s", row)
                    connection.execute("SELECT b FROM t JOIN org ON org.id = t.o WHERE t.id = %s", row)
                    if turn % 2:
                        connection.execute("DELETE FROM t WHERE id = %s", row)
                except psycopg.Error as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=traffic, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        with stage.project(database) as project:
            for _ in range(2):
                _succeeds(project.advance([], target=Phase.CONTRACT))
                _succeeds(project.revert(ID, target=Phase.NONE))
                project.unhold(ID)
            _succeeds(project.advance([], target=Phase.CONTRACT))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(requests) > 20


def _succeeds(outcome: Outcome) -> None:
    assert outcome.exit_code == 0, [(m.message, m.hint) for m in outcome.migrations]


def test_a_constraint_that_is_dropped_binds_until_contract(make: Make) -> None:
    stage = make(Case(schema=T, changes=('DropConstraint("org", "org_code_key")',), by_hand=()))
    database = stage.make()
    upsert = "INSERT INTO org VALUES (3, 'o') ON CONFLICT (code) DO UPDATE SET code = excluded.code"
    with stage.project(database) as project:
        assert project.advance([], target=None).migrations[0].phase is Phase.RETIRE, "the drop is asked for by name"
        stage.sql(database, upsert)
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
        with pytest.raises(psycopg.errors.InvalidColumnReference):
            stage.sql(database, upsert)
        assert project.revert(ID, target=Phase.NONE).exit_code == 8


def test_a_published_table_keeps_its_key(make: Make) -> None:
    stage = make(Case(schema=T, changes=('DropConstraint("t", "t_pkey")',), by_hand=()))
    database = stage.make()
    stage.sql(database, "CREATE PUBLICATION p FOR TABLE t")
    with stage.project(database) as project:
        refused = project.advance([], target=Phase.CONTRACT).migrations[0]
        assert refused.exit_code == 6
        assert "replica identity" in (refused.message or "")
        stage.sql(database, "ALTER TABLE t REPLICA IDENTITY FULL")
        assert project.advance([], target=Phase.CONTRACT).exit_code == 0
    stage.sql(database, "UPDATE t SET a = 1 WHERE id = 1")


def test_names_are_known_until_retire(make: Make) -> None:
    stage = make(Case(schema=T, changes=('RenameConstraint("org", "org_code_key", "one code")',), by_hand=()))
    database = stage.make()
    upsert = "INSERT INTO org VALUES (3, 'o') ON CONFLICT ON CONSTRAINT {} DO UPDATE SET code = excluded.code"
    with stage.project(database) as project:
        for phase in PHASES[1:]:
            assert project.advance([], target=phase).exit_code == 0
            stage.sql(
                database, upsert.format("org_code_key" if phase.position < Phase.RETIRE.position else '"one code"')
            )
            stage.sql(database, upsert.replace("ON CONSTRAINT {}", "(code)"))
        assert project.revert(ID, target=Phase.SWITCH_READS).exit_code == 0
        stage.sql(database, upsert.format("org_code_key"))


def test_a_name_that_something_else_has_is_found_before_the_phase(make: Make) -> None:
    stage = make(
        Case(schema=T, changes=('AddUnique("t", "a")', 'RenameConstraint("org", "org_pkey", "t_c")'), by_hand=())
    )
    database = stage.make()
    with stage.project(database) as project:
        assert project.advance([], target=Phase.EXPAND).exit_code == 0
        stage.sql(database, "CREATE SEQUENCE t_a_key", "CREATE INDEX t_c ON t (c)")
        refused = project.advance([], target=Phase.RETIRE).migrations[0]
        assert (refused.exit_code, refused.phase) == (6, Phase.SWITCH_READS)
        assert "the name t_c is taken" in (refused.message or "")
        stage.sql(database, "DROP INDEX t_c")
        refused = project.advance([], target=Phase.CONTRACT).migrations[0]
        assert (refused.exit_code, refused.phase) == (6, Phase.RETIRE)
        assert "the name t_a_key is taken" in (refused.message or "")


def test_a_table_that_is_not_tiny_stands_still_only_when_that_is_accepted(make: Make) -> None:
    stage = make(Case(schema=T, changes=('AddExclusion("t", [("during", "&&")])',), by_hand=()))
    database = stage.make()
    stage.sql(database, "INSERT INTO t (during) SELECT int4range(g, g + 1) FROM generate_series(51, 1100) g")
    with stage.project(database) as project:
        refused = project.advance([], target=Phase.CONTRACT).migrations[0]
        assert (refused.exit_code, refused.phase) == (6, Phase.RETIRE)
        assert "exclusion_scan: public.t has about" in (refused.message or "")
        assert project.advance([], target=Phase.CONTRACT, overrides={"exclusion_scan": "at night"}).exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('DropConstraint("org", "org_pkey")', "the foreign key f of public.t, view public.shown depend on it"),
        (
            'DropConstraint("t", "f"), DropColumn("t", "o"), DropConstraint("org", "org_pkey")',
            "view public.shown depend on it",
        ),
        ('DropColumn("t", "o"), DropConstraint("t", "f")', "goes with the column o"),
        ('AddExclusion("t", [("a", "=")])', "btree_gist"),
        ('AddCheck("t", expression="a > (SELECT 1)")', "without SELECT"),
        ('AddCheck("t", expression="a > \'x\'")', "invalid input syntax"),
        ('AddCheck("t", expression="t.a > 0")', "FROM-clause entry for table"),
        ('AddForeignKey("t", "o", "org", "code")', "public.t.o is integer, and public.org.code is text, which the"),
        ('AddUnique("t", "j")', "no default operator class"),
        ('AddCheck("t", "f", "a > 0")', "already has a constraint or index 'f'"),
        ('AddForeignKey("t", "o", "org", "id")', "already has this constraint: f"),
        ('RenameColumn("t", "o", "q"), AddForeignKey("t", "q", "org", "id")', "already has this constraint: f"),
        ('AddCheck("t", "k", "a > 0"), AddCheck("t", expression="a > 0")', "already has this constraint: k"),
    ],
)
def test_what_the_server_would_refuse_is_refused_when_it_is_planned(make: Make, change: str, message: str) -> None:
    schema = (
        *T, "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (o) REFERENCES org, ADD j json",
        "CREATE VIEW shown AS SELECT id, code FROM org GROUP BY id",
    )  # fmt: skip
    stage = make(Case(schema=schema, changes=(change,), by_hand=()))

    def plan() -> None:
        with stage.project(stage.make()) as project:
            project.plan([])

    with pytest.raises(ZdmigrateError) as refused:
        plan()
    assert message in f"{refused.value.message} {refused.value.hint}"


def test_a_role_that_owns_the_table_only(make: Make, pg: ScratchServer, tmp_path: Path) -> None:
    """And may not point to a table of somebody else's."""
    stage = make(Case(schema=T, changes=('AddForeignKey("t", "o", "org", "id")', 'AddUnique("t", "a")'), by_hand=()))
    database = stage.make()
    role = f"owner_of_{database}"
    stage.sql(
        database, f"CREATE ROLE {role} LOGIN", f"ALTER TABLE t OWNER TO {role}", f"GRANT CREATE ON SCHEMA public TO {role}",
        f"GRANT USAGE ON SCHEMA zdmigrate TO {role}", f"GRANT ALL ON ALL TABLES IN SCHEMA zdmigrate TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA zdmigrate TO {role}",
    )  # fmt: skip
    config = Config(url=pg.conninfo(database, user=role), dir=tmp_path)
    try:
        with Project.open(config, report=lambda _: None) as project:
            with pytest.raises(Unsafe, match=r"may not make foreign keys to public\.org"):
                project.plan([])
            stage.sql(database, f"GRANT REFERENCES (id), SELECT ON org TO {role}")
            _succeeds(project.advance([], target=Phase.CONTRACT))
    finally:
        stage.sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_bootstrap_knows_what_is_there(make: Make) -> None:
    case = Case(
        schema=T,
        changes=('AddCheck("t", expression="a > 0 AND a < 99")', 'AddUnique("t", "b")', 'AddForeignKey("t", "o", "org", "id")'),
        by_hand=(
            "ALTER TABLE t ADD CONSTRAINT other CHECK (a > 0 AND a < 99)", "ALTER TABLE t ADD UNIQUE (b)",
            "ALTER TABLE t ADD FOREIGN KEY (o) REFERENCES org",
        ),
    )  # fmt: skip
    stage = make(case)
    adopted, mixed = stage.make(), stage.make()
    stage.sql(adopted, *case.by_hand)
    before = stage.catalog(adopted)
    with stage.project(adopted) as project:
        assert project.bootstrap().exit_code == 0
    assert before == stage.catalog(adopted)
    stage.sql(mixed, "ALTER TABLE t ADD UNIQUE (b)")
    with stage.project(mixed) as project:
        assert project.bootstrap().exit_code == 7
