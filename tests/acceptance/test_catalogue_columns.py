"""Changes of columns that are there: NOT NULL, defaults, comments, identities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.catalogue import Case, Stage, walk
from zdmigrate.postgres.servers import ScratchServer

T = (
    """CREATE TABLE t (
        id bigint NOT NULL PRIMARY KEY,
        a text NOT NULL,
        b varchar(10) DEFAULT 'x',
        n integer DEFAULT 7 NOT NULL,
        CONSTRAINT positive CHECK (n > 0)
    )""",
    "CREATE INDEX t_a ON t (a)",
    "COMMENT ON COLUMN t.b IS 'before'",
    "COMMENT ON CONSTRAINT positive ON t IS 'before'",
    "INSERT INTO t (id, a) SELECT g, 'a' || g FROM generate_series(1, 50) g",
)
SERIAL = (
    "CREATE TABLE s (id serial PRIMARY KEY, small smallserial, a text)",
    "ALTER SEQUENCE s_small_seq INCREMENT BY 3 CACHE 5 CYCLE",
    "INSERT INTO s (a) SELECT 'a' FROM generate_series(1, 20) g",
)
ODD = '"Odd ""name"" ' + "ä" * 20 + '"'
ODD_TABLE = '\'Odd "name" ' + "ä" * 20 + "'"
PARTITIONED = (
    'CREATE SCHEMA "My Schema"',
    f"""CREATE TABLE "My Schema".{ODD} (id bigint NOT NULL, at date NOT NULL, "Old ""N"" x" text DEFAULT 'x' NOT NULL)
        PARTITION BY RANGE (at)""",
    f"""CREATE TABLE "My Schema".p1 PARTITION OF "My Schema".{ODD} FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')
        PARTITION BY HASH (id)""",
    'CREATE TABLE "My Schema".p11 PARTITION OF "My Schema".p1 FOR VALUES WITH (MODULUS 1, REMAINDER 0)',
    f'CREATE TABLE "My Schema".p2 PARTITION OF "My Schema".{ODD} DEFAULT',
    f"""INSERT INTO "My Schema".{ODD} SELECT g, '2026-06-20'::date + g, 'v' || g FROM generate_series(1, 40) g""",
)

CASES = {
    "drop not null": Case(
        schema=T, changes=('DropNotNull("t", "a")',), by_hand=("ALTER TABLE t ALTER a DROP NOT NULL",)
    ),
    "drop not null and rename": Case(
        schema=T,
        changes=('RenameColumn("t", "a", "aa")', 'DropNotNull("t", "aa")'),
        by_hand=("ALTER TABLE t ALTER a DROP NOT NULL", "ALTER TABLE t RENAME a TO aa"),
    ),
    "drop not null, then another type": Case(
        schema=T,
        changes=('DropNotNull("t", "n")', 'ChangeType("t", "n", "bigint")'),
        by_hand=("ALTER TABLE t ALTER n DROP NOT NULL", "ALTER TABLE t ALTER n TYPE bigint"),
    ),
    "another type, then drop not null": Case(
        schema=T,
        changes=('ChangeType("t", "n", "bigint")', 'DropNotNull("t", "n")'),
        by_hand=("ALTER TABLE t ALTER n TYPE bigint", "ALTER TABLE t ALTER n DROP NOT NULL"),
    ),
    "a default": Case(
        schema=T,
        changes=("""SetDefault("t", "a", "'it''s ' || 1 || '%'")""",),
        by_hand=("ALTER TABLE t ALTER a SET DEFAULT 'it''s ' || 1 || '%'",),
    ),
    "a volatile default": Case(
        schema=T,
        changes=('SetDefault("t", "a", "gen_random_uuid()::text")',),
        by_hand=("ALTER TABLE t ALTER a SET DEFAULT gen_random_uuid()::text",),
    ),
    "another default": Case(
        schema=T,
        changes=('SetDefault("t", "n", "8")', """SetDefault("t", "b", "'y'")"""),
        by_hand=("ALTER TABLE t ALTER n SET DEFAULT 8, ALTER b SET DEFAULT 'y'",),
    ),
    "a default of a renamed column": Case(
        schema=T,
        changes=(
            'RenameColumn("t", "a", "aa")', """SetDefault("t", "aa", "'new'")""", 'RenameColumn("t", "b", "bb")',
            """SetDefault("t", "bb", "'y'")""",
        ),
        by_hand=(
            "ALTER TABLE t ALTER a SET DEFAULT 'new', ALTER b SET DEFAULT 'y'", "ALTER TABLE t RENAME a TO aa",
            "ALTER TABLE t RENAME b TO bb",
        ),
    ),
    "a default, then a rename": Case(
        schema=T,
        changes=("""SetDefault("t", "a", "'new'")""", 'RenameColumn("t", "a", "aa")'),
        by_hand=("ALTER TABLE t ALTER a SET DEFAULT 'new'", "ALTER TABLE t RENAME a TO aa"),
    ),
    "a default, then another type": Case(
        schema=T,
        changes=("""SetDefault("t", "a", "'5'")""", 'ChangeType("t", "a", "varchar(20)")'),
        by_hand=("ALTER TABLE t ALTER a SET DEFAULT '5'", "ALTER TABLE t ALTER a TYPE varchar(20)"),
    ),
    "another type, then another default": Case(
        schema=T,
        changes=('ChangeType("t", "n", "bigint")', 'SetDefault("t", "n", "9000000000")'),
        by_hand=("ALTER TABLE t ALTER n TYPE bigint", "ALTER TABLE t ALTER n SET DEFAULT 9000000000"),
    ),
    "no default": Case(
        schema=T,
        changes=('DropDefault("t", "b")', 'RenameColumn("t", "n", "m")', 'DropDefault("t", "m")'),
        by_hand=("ALTER TABLE t ALTER b DROP DEFAULT, ALTER n DROP DEFAULT", "ALTER TABLE t RENAME n TO m"),
    ),
    "comments": Case(
        schema=T,
        changes=(
            'SetComment("t", "it\'s {odd} %s \\\\")', 'SetComment("t", "of a", column="a")', 'SetComment("t", None, column="b")',
            'SetComment("t", "of it", constraint="positive")', 'SetComment("t", "for the list", index="t_a")',
        ),
        by_hand=(
            "COMMENT ON TABLE t IS E'it''s {odd} %s \\\\'", "COMMENT ON COLUMN t.a IS 'of a'", "COMMENT ON COLUMN t.b IS NULL",
            "COMMENT ON CONSTRAINT positive ON t IS 'of it'", "COMMENT ON INDEX t_a IS 'for the list'",
        ),
    ),
    "comments of what another change moves": Case(
        schema=T,
        changes=(
            'ChangeType("t", "n", "bigint")', 'SetComment("t", "n!", column="n")',
            'SetComment("t", "of it", constraint="positive")', 'RenameColumn("t", "a", "aa")',
            'SetComment("t", "aa!", column="aa")', 'SetComment("t", "of t_a", index="t_a")',
            'SetComment("t", "b!", column="b")', 'RenameColumn("t", "b", "bb")',
        ),
        by_hand=(
            "ALTER TABLE t ALTER n TYPE bigint", "ALTER TABLE t RENAME a TO aa", "ALTER TABLE t RENAME b TO bb",
            "COMMENT ON COLUMN t.n IS 'n!'", "COMMENT ON CONSTRAINT positive ON t IS 'of it'",
            "COMMENT ON COLUMN t.aa IS 'aa!'", "COMMENT ON INDEX t_a IS 'of t_a'", "COMMENT ON COLUMN t.bb IS 'b!'",
        ),
    ),
    "an identity": Case(
        schema=T,
        changes=('AddIdentity("t", "id")',),
        by_hand=("ALTER TABLE t ALTER id ADD GENERATED BY DEFAULT AS IDENTITY", "SELECT setval('t_id_seq', 50)"),
        data="SELECT nextval(pg_get_serial_sequence('t', 'id'))",
    ),
    "an identity with options, renamed": Case(
        schema=T,
        changes=('RenameColumn("t", "id", "key")', 'AddIdentity("t", "key", always=True, start=1000, increment=10)'),
        by_hand=(
            "ALTER TABLE t RENAME id TO key",
            "ALTER TABLE t ALTER key ADD GENERATED ALWAYS AS IDENTITY (START WITH 1000 INCREMENT BY 10)",
        ),
        data="SELECT nextval(pg_get_serial_sequence('t', 'key'))",
    ),
    "counting down": Case(
        schema=("CREATE TABLE t (id integer NOT NULL)", "INSERT INTO t SELECT -g FROM generate_series(1, 5) g"),
        changes=('AddIdentity("t", "id", increment=-1)',),
        by_hand=(
            "ALTER TABLE t ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY -1)", "SELECT setval('t_id_seq', -5)",
        ),
        data="SELECT nextval(pg_get_serial_sequence('t', 'id'))",
    ),
    "an identity without rows": Case(
        schema=("CREATE TABLE t (id integer NOT NULL)",),
        changes=('AddIdentity("t", "id")',),
        by_hand=("ALTER TABLE t ALTER id ADD GENERATED BY DEFAULT AS IDENTITY",),
        data="SELECT nextval(pg_get_serial_sequence('t', 'id'))",
    ),
    "serial": Case(
        schema=SERIAL,
        changes=('AddIdentity("s", "id")', 'AddIdentity("s", "small", always=True)'),
        by_hand=(
            "ALTER TABLE s ALTER id DROP DEFAULT, ALTER small DROP DEFAULT",
            "DROP SEQUENCE s_id_seq, s_small_seq",
            "ALTER TABLE s ALTER id ADD GENERATED BY DEFAULT AS IDENTITY",
            "ALTER TABLE s ALTER small ADD GENERATED ALWAYS AS IDENTITY (INCREMENT BY 3 CACHE 5 CYCLE)",
            "SELECT setval('s_id_seq', 20)",
        ),
        data="SELECT nextval(pg_get_serial_sequence('s', 'id'))",
    ),
    "serial, renamed": Case(
        schema=SERIAL,
        changes=('RenameColumn("s", "id", "key")', 'AddIdentity("s", "key")'),
        by_hand=(
            "ALTER TABLE s RENAME id TO key", "ALTER TABLE s ALTER key DROP DEFAULT", "DROP SEQUENCE s_id_seq",
            "ALTER TABLE s ALTER key ADD GENERATED BY DEFAULT AS IDENTITY",
        ),
    ),
    "a serial whose sequence has a name and privileges of its own": Case(
        schema=(
            'CREATE SEQUENCE "N""umbers" AS integer START 100',
            """CREATE TABLE t (id integer DEFAULT nextval('"N""umbers"') NOT NULL)""",
            'ALTER SEQUENCE "N""umbers" OWNED BY t.id', 'GRANT USAGE ON SEQUENCE "N""umbers" TO pg_monitor',
            """COMMENT ON SEQUENCE "N""umbers" IS 'tickets'""", "INSERT INTO t DEFAULT VALUES",
        ),
        changes=('AddIdentity("t", "id")',),
        by_hand=(
            "ALTER TABLE t ALTER id DROP DEFAULT", 'DROP SEQUENCE "N""umbers"',
            "ALTER TABLE t ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (START 100)", "SELECT setval('t_id_seq', 100)",
            "GRANT USAGE ON SEQUENCE t_id_seq TO pg_monitor", "COMMENT ON SEQUENCE t_id_seq IS 'tickets'",
        ),
        data="SELECT nextval(pg_get_serial_sequence('t', 'id'))",
    ),
    "odd names, partitions of several levels": Case(
        schema=PARTITIONED,
        changes=(
            f"""DropNotNull({ODD_TABLE}, 'Old "N" x', schema="My Schema")""",
            f"""SetDefault({ODD_TABLE}, 'Old "N" x', "'y'", schema="My Schema")""",
            f"""SetComment({ODD_TABLE}, "free", column='Old "N" x', schema="My Schema")""",
            f"""SetDefault({ODD_TABLE}, "at", "current_date", schema="My Schema")""",
        ),
        by_hand=(
            f"""ALTER TABLE "My Schema".{ODD} ALTER "Old ""N"" x" DROP NOT NULL, ALTER "Old ""N"" x" SET DEFAULT 'y',
                ALTER at SET DEFAULT current_date""",
            f"""COMMENT ON COLUMN "My Schema".{ODD}."Old ""N"" x" IS 'free'""",
        ),
    ),
}  # fmt: skip

PARTITIONED_SERIAL = Case(
    schema=(
        "CREATE TABLE p (id serial NOT NULL, n bigint NOT NULL, k integer NOT NULL) PARTITION BY RANGE (k)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10) PARTITION BY LIST (k)",
        "CREATE TABLE p11 PARTITION OF p1 DEFAULT",
        "CREATE TABLE p2 PARTITION OF p DEFAULT",
        "INSERT INTO p (n, k) SELECT g, g FROM generate_series(1, 20) g",
    ),
    changes=('AddIdentity("p", "id")', 'AddIdentity("p", "n")'),
    by_hand=(
        "ALTER TABLE p ALTER id DROP DEFAULT", "DROP SEQUENCE p_id_seq",
        "ALTER TABLE p ALTER id ADD GENERATED BY DEFAULT AS IDENTITY, ALTER n ADD GENERATED BY DEFAULT AS IDENTITY",
        "SELECT setval('p_id_seq', 20), setval('p_n_seq', 20)",
    ),
    data="SELECT nextval(pg_get_serial_sequence('p', 'id')), nextval(pg_get_serial_sequence('p', 'n'))",
)  # fmt: skip


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
    walk(stage(CASES[name]), CASES[name])


def test_an_identity_of_a_partitioned_table(stage: Callable[[Case], Stage], pg_major: int) -> None:
    if pg_major < 17:
        made = stage(PARTITIONED_SERIAL)
        with made.project(made.make()) as project:
            (refused,) = project.advance([], target=None).migrations
        assert "before PostgreSQL 17 partitions have no identity columns" in (refused.message or "")
    else:
        walk(stage(PARTITIONED_SERIAL), PARTITIONED_SERIAL)
