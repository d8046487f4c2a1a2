"""What is wrong in a migration is said when the plan is made, with file and line, and nothing is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalogue import ID, Case, Stage, walk
from zdmigrate.errors import ZdmigrateError
from zdmigrate.postgres.servers import ScratchServer

FILE, CATALOG = 2, 6

SCHEMA = (
    """CREATE TABLE t (
        id bigint CONSTRAINT t_pkey PRIMARY KEY, a integer, b text DEFAULT 'x', d date NOT NULL, CONSTRAINT t_ck CHECK (a > 0)
    )""",
    "CREATE INDEX t_b ON t (b)",
    "ALTER TABLE t ADD COLUMN k integer",
    "CREATE UNIQUE INDEX t_k ON t (k)",
    "ALTER TABLE t ADD COLUMN local_at timestamp, ADD COLUMN zoned_at timestamptz",
    "CREATE VIEW v AS SELECT 1 AS x",
    "INSERT INTO t SELECT g, g, 'b', '2026-01-01' FROM generate_series(1, 5) g",
)


@pytest.fixture(scope="module")
def stage(pg: ScratchServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, str]]:
    made = Stage(pg, tmp_path_factory.mktemp("wrong"), Case(schema=SCHEMA, changes=(), by_hand=()))
    try:
        yield made, made.make()
    finally:
        made.close()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        # Names that a column, a table or an index cannot have.
        ("RenameColumn('t', 'a', 'ctid')", CATALOG, "ctid is a system column"),
        ("AddColumn('t', sa.Column('xmin', sa.Integer))", CATALOG, "xmin is a system column"),
        ("AddUnique('t', 'a', name='v')", CATALOG, "the name public.v is taken"),
        ("RenameConstraint('t', 't_pkey', 'v')", CATALOG, "the name public.v is taken"),
        # Schemas of somebody else.
        ("RenameColumn('pg_class', 'relname', 'z', schema='pg_catalog')", CATALOG, "schema pg_catalog is the server's"),
        ("SetComment('tables', 'x', schema='information_schema')", CATALOG, "information_schema is the server's own"),
        (
            "RenameColumn('migration', 'id', 'z', schema='zdmigrate')",
            CATALOG,
            "the schema zdmigrate is zdmigrate's own",
        ),
        ("CreateTable('n', sa.Column('id', sa.Integer), schema='zdmigrate')", CATALOG, "is zdmigrate's own"),
        # Expressions and types that end what is around them.
        ("AddColumn('t', sa.Column('x', sa.Integer), backfill='a) + (1')", FILE, "a ) closes nothing"),
        ("AddColumn('t', sa.Column('x', sa.Integer), backfill='1 -- one')", FILE, "it ends in a comment"),
        ("AddColumn('t', sa.Column('x', sa.Integer, server_default=sa.text('1) --')))", FILE, "a ) closes nothing"),
        (
            "AddColumn('t', sa.Column('x', sa.Integer, sa.Computed('a) * (2', persisted=True)))",
            FILE,
            "a ) closes nothing",
        ),
        ("AddCheck('t', 'k', 'a > 0) NOT VALID, DROP COLUMN b, ADD CHECK (a > 0')", FILE, "a ) closes nothing"),
        ("CreateIndex('t', 'i', Key.sql('lower(b)) , (a'))", FILE, "a ) closes nothing"),
        ("ChangeType('t', 'a', 'bigint -- x')", FILE, "it ends in a comment"),
        ("ChangeType('t', 'a', 'anyelement')", CATALOG, "anyelement is a pseudo-type"),
        ("ChangeType('t', 'd', 'timestamptz')", CATALOG, "depends on the TimeZone of the session that writes"),
        # Expressions that fit in form only.
        ("SetNotNull('t', 'a', backfill='NULL')", FILE, "a backfill of NULL fills nothing"),
        ("DropColumn('t', 'd', down=\"'soon'\")", CATALOG, 'invalid input syntax for type date: "soon"'),
        ("DropColumn('t', 'a', down='zz + 1')", CATALOG, 'column "zz" does not exist'),
        ("AddCheck('t', 'k', 'a +')", CATALOG, 'the server refused: ALTER TABLE "public"."t" ADD CONSTRAINT'),
        # Foreign keys.
        ("AddColumn('t', sa.Column('x', sa.Integer, sa.ForeignKey('t')))", FILE, "to a table's column, not to 't'"),
        ("CreateTable('n', sa.Column('x', sa.Integer, sa.ForeignKey('t')))", FILE, "to a table's column, not to 't'"),
        (
            "AddColumn('t', sa.Column('x', sa.Text, sa.ForeignKey('t.id')))",
            CATALOG,
            "t.x is text, and public.t.id is bigint",
        ),
        ("AddForeignKey('t', 'b', 't', 'id')", CATALOG, "t.b is text, and public.t.id is bigint"),
        # Arguments of another type.
        ("AddColumn('t', sa.Column('x', sa.Integer, comment=5))", FILE, "the comment of x must be text, got 5"),
        ("AddColumn('t', sa.Column('x', sa.Integer, comment='a\\0b'))", FILE, "the comment of x must be text"),
        ("CreateTable('n', sa.Column('x', sa.Integer), comment=5)", FILE, "the comment of n must be text, got 5"),
        ("CreateTable('n', sa.Column('x', sa.Integer, comment='\\0'))", FILE, "the comment of n.x must be text"),
        ("AddIdentity('t', 'id', always='no')", FILE, "always must be True or False"),
        ("RunSQL(expand='SELECT 1', autocommit='no')", FILE, "autocommit must be True or False"),
        ("RunPython(expand=print, rewrites='no')", FILE, "must be"),
    ],
)
def test_one_message_before_anything_is_done(stage: tuple[Stage, str], change: str, code: int, message: str) -> None:
    made, name = stage
    made.write(ID, change)
    with pytest.raises(ZdmigrateError) as refused, made.project(name) as project:
        project.plan([])
    assert f"{ID}.py:3: " in refused.value.message
    assert message in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.exit_code == code


KEYED = "CreateTable('n', sa.Column('t_id', sa.BigInteger, sa.ForeignKey('t.id')))"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("DropIndex('t_b', table='t')", "Reindex('t_b', table='t')"), "already dropped by change 1"),
        (("RenameIndex('t_b', 'z', table='t')", "Reindex('t_b', table='t')"), "already renamed by change 1"),
        (("Reindex('t_b', table='t')", "RenameIndex('t_b', 'z', table='t')"), "already needed by a Reindex"),
        ((KEYED, "DropConstraint('t', 't_pkey')"), "the foreign key n_t_id_fkey of n depend on it"),
        (("DropConstraint('t', 't_pkey')", KEYED), "needs a unique key on (id) of public.t"),
        (
            ("AddForeignKey('t', 'a', 't', 'id', name='f')", "DropConstraint('t', 't_pkey')"),
            "the foreign key f of public.t depend on it",
        ),
        (
            ("AddForeignKey('t', 'a', 't', 'k', name='f')", "DropIndex('t_k', table='t')"),
            "the foreign key f of public.t of the same migration needs it",
        ),
        (
            ("DropColumn('t', 'b')", "CreateIndex('t', 'i', Key.sql('lower(b)'))"),
            "t.b was dropped by the same migration",
        ),
        (("DropColumn('t', 'b')", "CreateIndex('t', 'i', 'a', where='b IS NULL')"), "t.b was dropped by the same"),
        (("RenameColumn('t', 'b', 'c')", "AddCheck('t', 'k', \"b <> ''\")"), "t.b was renamed by the same migration"),
        (
            ("DropColumn('t', 'b')", "AddColumn('t', sa.Column('c', sa.Text), backfill='lower(b)')"),
            "t.b was dropped by the same migration",
        ),
    ],
)
def test_contradictions(stage: tuple[Stage, str], changes: tuple[str, ...], message: str) -> None:
    made, name = stage
    made.write(ID, *changes)
    with pytest.raises(ZdmigrateError) as refused, made.project(name) as project:
        project.plan([])
    assert message in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.exit_code == CATALOG


@pytest.mark.parametrize(("column", "type_"), [("local_at", "timestamptz"), ("d", "timestamptz"), ("zoned_at", "date")])
def test_the_zone_is_asked_for_with_ways_that_work(stage: tuple[Stage, str], column: str, type_: str) -> None:
    made, name = stage
    made.write(ID, f"ChangeType('t', '{column}', '{type_}')")
    with made.project(name) as project, pytest.raises(ZdmigrateError) as refused:
        project.plan([])
    ways = re.fullmatch(r'give both ways, and name the zone: up="(.+)", down="(.+)"', refused.value.hint or "")
    assert ways is not None
    made.write(ID, f"ChangeType('t', '{column}', '{type_}', up={ways[1]!r}, down={ways[2]!r})")
    with made.project(name) as project:
        assert len(project.plan([])) == 1


def test_a_key_of_an_added_column_may_have_another_type_that_the_server_compares(stage: tuple[Stage, str]) -> None:
    made, name = stage
    made.write(ID, "AddColumn('t', sa.Column('x', sa.Integer, sa.ForeignKey('t.id')))")
    with made.project(name) as project:
        assert len(project.plan([])) == 1


def test_text_that_looks_like_a_placeholder_is_text(pg: ScratchServer, tmp_path: Path) -> None:
    case = Case(
        schema=SCHEMA,
        changes=(
            "SetDefault('t', 'b', \"'{table} %s {0} \\\\\\\\ $zd$'\")",
            "AddCheck('t', 'k', \"b <> '{table}' AND b NOT LIKE '%{0}%'\")",
            "AddColumn('t', sa.Column('{table}', sa.Text, server_default='{table} %(x)s'))",
        ),
        by_hand=(
            "ALTER TABLE t ALTER b SET DEFAULT '{table} %s {0} \\\\ $zd$'",
            "ALTER TABLE t ADD CONSTRAINT k CHECK (b <> '{table}' AND b NOT LIKE '%{0}%')",
            "ALTER TABLE t ADD COLUMN \"{table}\" text DEFAULT '{table} %(x)s'",
        ),
    )
    stage = Stage(pg, tmp_path, case)
    try:
        walk(stage, case)
    finally:
        stage.close()
