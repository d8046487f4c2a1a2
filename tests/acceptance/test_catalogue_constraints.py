"""Constraints that come, go and change their names: the catalog afterwards, and what both versions may do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import catalog_compare
from tests.support.catalogue import Case, Stage, walk
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
            'ALTER TABLE t ADD CONSTRAINT "no two" EXCLUDE USING gist (int4range(a, a + 1) WITH =, during WITH &&) WHERE (a > 10)',
        ),
    ),
    "drop": Case(
        schema=(
            *T, "ALTER TABLE t ADD UNIQUE (a), ADD CHECK (a > 0), ADD FOREIGN KEY (o) REFERENCES org, "
            "ADD EXCLUDE USING gist (during WITH &&)",
        ),
        changes=tuple(f'DropConstraint("t", "t_{name}")' for name in ("a_key", "a_check", "o_fkey", "during_excl", "pkey")),
        by_hand=(
            "ALTER TABLE t DROP CONSTRAINT t_a_key, DROP CONSTRAINT t_a_check, DROP CONSTRAINT t_o_fkey, "
            "DROP CONSTRAINT t_during_excl, DROP CONSTRAINT t_pkey",
        ),
    ),
    "drop a key with the foreign key that points to it": Case(
        schema=(*T, "ALTER TABLE t ADD FOREIGN KEY (c) REFERENCES org (code)"),
        changes=('DropConstraint("t", "t_c_fkey")', 'DropConstraint("org", "org_code_key")'),
        by_hand=("ALTER TABLE t DROP CONSTRAINT t_c_fkey", "ALTER TABLE org DROP CONSTRAINT org_code_key"),
    ),
    "drop on a partitioned table": Case(
        schema=(*PARTED, 'ALTER TABLE "My Schema".logs ADD UNIQUE (at, id), ADD FOREIGN KEY (o) REFERENCES org, ADD CHECK (k > 0)'),
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
        schema=(*PARTED, 'ALTER TABLE "My Schema".logs ADD UNIQUE (at, id), ADD FOREIGN KEY (o) REFERENCES org, ADD CHECK (k > 0)'),
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
            'AddColumn("t", sa.Column("org_id", sa.Integer))', 'AddColumn("t", sa.Column("size", sa.Integer, server_default="1"))',
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


class NotNullAnywhere(Stage):
    """Does not ask whether the NOT NULL of a partition is its own, too: a primary key made on it says so for good."""

    def catalog(self, name: str) -> catalog_compare.Catalog:
        found = super().catalog(name)
        return {key: (*facts[:5], *facts[6:]) if facts[0] == "n" else facts for key, facts in found.items()}


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
