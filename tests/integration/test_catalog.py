"""What a plan may know of a live database: everything a snapshot claims, read from a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers import Database, connect
from zdmigrate import schema
from zdmigrate.config import Config
from zdmigrate.engine import planned
from zdmigrate.engine.project import Project
from zdmigrate.errors import Unsafe
from zdmigrate.migration import load_directory
from zdmigrate.phases import Phase
from zdmigrate.postgres import catalog, session

ODD_SCHEMA = 'it\'s "odd" 100%s {0}'
ODD_TABLE = "Ünï.cödé {table} %(x)s"
ODD_OLD = 'old "c" %s {} .\\'
ODD_NEW = "new 'c' %d {n} ♥"


def quoted(*names: str) -> str:
    return psycopg.sql.Identifier(*names).as_string(None)


@pytest.fixture
def owner(database: Database) -> Iterator[str]:
    """A role that owns tables and is nothing else."""
    name = f"owner_{database.name}"
    run(
        database,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON DATABASE {database.name} TO {name}",
        f"GRANT ALL ON SCHEMA public TO {name}",
    )
    yield name
    run(database, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def run(database: Database, *statements: str, user: str | None = None) -> None:
    conninfo = database.conninfo if user is None else database.conninfo_as(user)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def read(
    database: Database,
    *names: tuple[str, str],
    user: str | None = None,
    expressions: tuple[str, ...] = (),
    types: tuple[str, ...] = (),
) -> schema.Snapshot:
    questions = [schema.Question(schema=names[0][0], table=names[0][1], expression=text) for text in expressions]
    questions += [schema.Question(type=text) for text in types]
    conninfo = database.conninfo if user is None else database.conninfo_as(user)
    with session.connect(conninfo, purpose="test") as connection:
        return catalog.snapshot(connection, names, questions, control_schema="zdmigrate")


def table_of(database: Database, name: str = "t", **options: Any) -> schema.Table:
    found = read(database, ("public", name), **options).table("public", name)
    assert found is not None
    return found


def column_of(table: schema.Table, name: str) -> schema.Column:
    found = table.column(name)
    assert found is not None
    return found


def advanced(database: Database, directory: Path, change: str, *, to: Phase, user: str | None = None) -> None:
    imports = "import sqlalchemy as sa\nfrom zdmigrate import AddColumn, DropColumn, Migration, RenameColumn\n"
    (directory / "0001_m.py").write_text(f"{imports}migration = Migration({change})\n", encoding="utf-8")
    url = database.conninfo if user is None else database.conninfo_as(user)
    with Project.open(Config(url=url, dir=directory), report=lambda _: None) as project:
        project.init(environment="development", app_role=None, confirmed=True)
        outcome = project.advance(["0001_m"], target=to)
        assert outcome.exit_code == 0, outcome


def test_columns(database: Database) -> None:
    run(
        database,
        "CREATE ROLE reader",
        "CREATE COLLATION mine FROM \"C\"",
        """CREATE TABLE t (
            id bigserial, plain varchar(7) COLLATE "C" NOT NULL, own text COLLATE mine,
            constant text DEFAULT 'it''s 100% {x}', stable timestamptz(3) DEFAULT now(), volatile float DEFAULT random(),
            hidden text DEFAULT (CASE WHEN clock_timestamp() > now() THEN 'a' END),
            ident int GENERATED ALWAYS AS IDENTITY, gen text GENERATED ALWAYS AS (lower(constant)) STORED,
            dropped int, numbers numeric(9, 2)[])""",
        "ALTER TABLE t DROP COLUMN dropped, ALTER plain SET STATISTICS 77, ALTER own SET STORAGE EXTERNAL, "
        "ALTER constant SET (n_distinct = -0.5)",
        "COMMENT ON COLUMN t.plain IS 'a 100% {comment}'",
        "GRANT SELECT (plain), UPDATE (plain) ON t TO reader WITH GRANT OPTION",
        "GRANT INSERT (plain) ON t TO PUBLIC",
    )  # fmt: skip
    table = table_of(database)
    assert {c.name: c.type for c in table.columns} == {
        "id": "bigint", "plain": "character varying(7)", "own": "text", "constant": "text",
        "stable": "timestamp(3) with time zone", "volatile": "double precision", "hidden": "text", "ident": "integer",
        "gen": "text", "numbers": "numeric(9,2)[]",
    }  # fmt: skip
    assert {c.name: c.default_volatile for c in table.columns if c.default} == {
        "id": True, "constant": False, "stable": False, "volatile": True, "hidden": True,
    }  # fmt: skip
    assert column_of(table, "constant").default == "'it''s 100% {x}'::text"
    assert column_of(table, "id").owned_sequences == ("public.t_id_seq",)
    assert (column_of(table, "ident").identity, column_of(table, "gen").generated) == ("a", "s")
    assert column_of(table, "gen").default is None
    plain = column_of(table, "plain")
    assert (plain.collation, column_of(table, "own").collation) == ('pg_catalog."C"', "public.mine")
    assert (plain.not_null, plain.statistics_target, plain.comment) == (True, 77, "a 100% {comment}")
    assert column_of(table, "own").storage == "EXTERNAL"
    assert column_of(table, "constant").options == ("n_distinct=-0.5",)
    assert set(plain.grants) == {
        schema.Grant(grantee="reader", privilege="SELECT", grantable=True),
        schema.Grant(grantee="reader", privilege="UPDATE", grantable=True),
        schema.Grant(grantee=None, privilege="INSERT"),
    }
    run(database, "DROP OWNED BY reader", "DROP ROLE reader")


def test_indexes_and_constraints(database: Database) -> None:
    run(
        database,
        "CREATE TABLE other (id int PRIMARY KEY)",
        """CREATE TABLE t (id int PRIMARY KEY, a text, b int REFERENCES other DEFERRABLE INITIALLY DEFERRED,
            c json, UNIQUE (a, b), CHECK (a <> 'it''s 100% {x}'), UNIQUE NULLS NOT DISTINCT (b))""",
        "CREATE INDEX t_expr ON t (lower(a), b DESC) INCLUDE (id) WITH (fillfactor = 70) WHERE a ~ '^[''\"%{}]'",
        "ALTER TABLE t ADD CONSTRAINT later CHECK (b > 0) NOT VALID",
        "COMMENT ON INDEX t_expr IS 'why'",
        "COMMENT ON CONSTRAINT later ON t IS 'not yet'",
    )
    table = table_of(database)
    indexes = {i.name: i for i in table.indexes}
    assert (indexes["t_pkey"].primary, indexes["t_pkey"].columns) == (True, ("id",))
    assert indexes["t_a_b_key"].constraint == "t_a_b_key"
    assert (indexes["t_b_key"].unique, indexes["t_b_key"].nulls_not_distinct) == (True, True)
    found = indexes["t_expr"]
    assert (found.keys, found.columns, found.comment) == (("lower(a)", "b"), ("id", "a", "b"), "why")
    assert found.tail.startswith("btree (lower(a), b DESC) INCLUDE (id)")
    assert found.predicate == "(a ~ '^[''\"%{}]'::text)"
    constraints = {k.name: k for k in table.constraints if k.kind != "n"}
    assert {name: k.kind for name, k in constraints.items()} == {
        "t_pkey": "p", "t_a_b_key": "u", "t_b_key": "u", "t_a_check": "c", "t_b_fkey": "f", "later": "c",
    }  # fmt: skip
    assert constraints["t_a_check"].definition == "CHECK ((a <> 'it''s 100% {x}'::text))"
    assert (constraints["later"].validated, constraints["later"].comment) == (False, "not yet")
    foreign = constraints["t_b_fkey"]
    assert (foreign.references, foreign.deferrable, foreign.deferred) == (("public", "other"), True, True)


def test_a_type_without_a_hash_function(database: Database) -> None:
    run(database, "CREATE TABLE t (a tsvector UNIQUE, b text UNIQUE)")
    table = table_of(database)
    assert {c.name: c.hashable for c in table.columns} == {"a": False, "b": True}


def test_what_depends_on_a_column(database: Database, owner: str) -> None:
    run(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b text, c text, d text, e text, free text)",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE MATERIALIZED VIEW m AS SELECT upper(b) AS b FROM t",
        "CREATE POLICY only_mine ON t USING (c = CURRENT_USER)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER of_d BEFORE UPDATE OF d ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER when_e BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.e IS NOT NULL) EXECUTE FUNCTION f()",
        "CREATE TABLE child (a text REFERENCES t (a))",
        "CREATE STATISTICS s ON b, c FROM t",
        "ALTER TABLE t ADD g text GENERATED ALWAYS AS (d || '!') STORED",
    )
    found = {(d.column, d.kind) for d in table_of(database).dependents}
    assert found == {
        ("a", "rule"), ("a", "table constraint"), ("b", "rule"), ("b", "statistics object"), ("c", "statistics object"),
        ("c", "policy"), ("d", "trigger"), ("d", "default value"), ("e", "trigger"),
    }  # fmt: skip
    identities = {d.identity for d in table_of(database).dependents if d.column == "a"}
    assert identities == {"constraint child_a_fkey on table public.child", "rule _RETURN on view public.v"}


def test_definitions_that_name_columns(database: Database) -> None:
    run(
        database,
        "CREATE TABLE u (id int, n text)",
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
        "CREATE VIEW v WITH (security_invoker = on) AS SELECT t.a, u.n AS other FROM t JOIN u USING (id)",
        "CREATE VIEW above AS SELECT a FROM v",
        "GRANT SELECT (a) ON v TO PUBLIC",
        "COMMENT ON COLUMN v.other IS 'c'",
        "CREATE POLICY p ON t USING (a = CURRENT_USER)",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT max(b) FROM t; END",
        "CREATE STATISTICS s (ndistinct) ON a, b FROM t",
    )
    table = table_of(database)
    (view,), (policy,), (routine,), (statistics) = table.views, table.policies, table.routines, table.statistics
    assert (view.schema, view.name, view.columns, view.reads) == (
        "public",
        "v",
        ("a", "id"),
        ("public.u.id", "public.u.n"),
    )
    assert (view.options, view.reliant, view.peculiar) == (("security_invoker=on",), ("view public.above",), ())
    first = schema.ViewColumn(name="a", type="text", grants=(schema.Grant(grantee=None, privilege="SELECT"),))
    assert view.columns_shown == (first, schema.ViewColumn(name="other", type="text", comment="c"))
    assert view.definition.endswith("JOIN public.u USING (id))")
    assert (policy.columns, policy.using, policy.check) == (("a",), "(a = CURRENT_USER)", None)
    assert (routine.signature, routine.columns) == ("public.f()", ("b",))
    assert routine.head.startswith("CREATE OR REPLACE FUNCTION public.f()")
    assert routine.body.startswith("BEGIN ATOMIC")
    assert [(s.name, s.columns, s.tail) for s in statistics] == [("s", ("a", "b"), "(ndistinct) ON a, b FROM public.t")]


def test_triggers_but_not_ours(database: Database) -> None:
    run(
        database,
        "CREATE SCHEMA zdmigrate",
        "CREATE TABLE t (a int, b int)",
        *(
            f"CREATE FUNCTION {home}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
            for home in ("public", "zdmigrate")
        ),
        "CREATE TRIGGER theirs BEFORE INSERT OR UPDATE OF b ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER late AFTER DELETE ON t EXECUTE FUNCTION f()",
        "CREATE TRIGGER ours BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION zdmigrate.f()",
        "ALTER TABLE t ENABLE REPLICA TRIGGER theirs",
        "COMMENT ON TRIGGER theirs ON t IS 'noted'",
    )
    assert {t.name: t for t in table_of(database).triggers} == {
        "theirs": schema.Trigger(
            name="theirs", enabled="R", before=True, row=True, events=("INSERT", "UPDATE"), update_of=("b",),
            definition="CREATE TRIGGER theirs BEFORE INSERT OR UPDATE OF b ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()",
            comment="noted", identity="trigger theirs on table public.t",
        ),
        "late": schema.Trigger(
            name="late", enabled="O", before=False, row=False, events=("DELETE",),
            definition="CREATE TRIGGER late AFTER DELETE ON public.t FOR EACH STATEMENT EXECUTE FUNCTION public.f()",
            identity="trigger late on table public.t",
        ),
    }  # fmt: skip


def test_partitions(database: Database) -> None:
    run(
        database,
        "CREATE TABLE t (id int, at int, sub int) PARTITION BY RANGE (at)",
        'CREATE TABLE "t.one" PARTITION OF t FOR VALUES FROM (0) TO (10)',
        "CREATE TABLE t_two PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (sub)",
        "CREATE SCHEMA elsewhere",
        'CREATE TABLE elsewhere."%s" PARTITION OF t_two DEFAULT',
        "CREATE INDEX by_id ON t (id)",
        "CREATE TABLE parent (a int)",
        "CREATE TABLE heir () INHERITS (parent)",
        "CREATE VIEW seen AS SELECT 1 AS a",
    )
    table = table_of(database)
    assert (table.kind, table.partitioned, table.is_partition, table.inherits) == ("p", True, False, False)
    assert set(table.partition_columns) == {"at", "sub"}
    assert {(p.schema, p.name, p.parent_name, p.partitioned) for p in table.partitions} == {
        ("public", "t.one", "t", False), ("public", "t_two", "t", True), ("elsewhere", "%s", "t_two", False),
    }  # fmt: skip
    # Parents before their partitions: an index is attached bottom up.
    assert [p.name for p in table.partitions].index("t_two") < [p.name for p in table.partitions].index("%s")
    (index,) = table.indexes
    assert {home for home, _ in index.partition_names} == {"public.t.one", "public.t_two", "elsewhere.%s"}
    assert table_of(database, "t_two").is_partition
    assert table_of(database, "parent").inherits
    assert table_of(database, "heir").inherits
    assert table_of(database, "seen").kind == "v"
    assert read(database, ("public", "missing")).tables == ()


def test_publications_without_a_column_list(database: Database) -> None:
    run(
        database,
        "CREATE TABLE t (a int PRIMARY KEY, b int)",
        'CREATE PUBLICATION "whole table" FOR TABLE t',
        "CREATE PUBLICATION some_columns FOR TABLE t (a)",
        "CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public",
        "CREATE PUBLICATION everything FOR ALL TABLES",
    )
    assert set(table_of(database).publications) == {"whole table", "of_schema", "everything"}


def test_rows_bytes_and_rules(database: Database) -> None:
    run(
        database,
        "CREATE TABLE t (a int)",
        "INSERT INTO t SELECT generate_series(1, 5000)",
        "ANALYZE t",
        "CREATE RULE nothing AS ON DELETE TO t DO INSTEAD NOTHING",
    )
    table = table_of(database)
    assert (table.rows, table.rules) == (5000, ("nothing",))
    assert table.bytes > 5000 * 28


def test_who_may_what(database: Database, owner: str) -> None:
    run(database, "CREATE TABLE foreign_ (a int)")
    run(database, "CREATE TABLE t (a int)", user=owner)
    run(database, f"REVOKE CREATE ON SCHEMA public FROM PUBLIC, {owner}")
    found = read(database, ("public", "t"), ("public", "foreign_"), user=owner)
    assert (found.role, found.may_suppress_triggers) == (owner, False)
    assert {t.name: (t.owned, t.may_create) for t in found.tables} == {"t": (True, False), "foreign_": (False, False)}
    run(database, f"GRANT SET ON PARAMETER session_replication_role TO {owner}")
    assert read(database, ("public", "t"), user=owner).may_suppress_triggers
    run(database, f"REVOKE SET ON PARAMETER session_replication_role FROM {owner}")
    assert read(database, ("public", "t")).may_suppress_triggers


def test_expressions_are_checked_and_tried(database: Database) -> None:
    run(
        database,
        "CREATE SEQUENCE s",
        "CREATE TABLE t (a text, n int)",
        "INSERT INTO t VALUES ('12', 0), ('x', 1)",
        "CREATE FUNCTION dice() RETURNS int LANGUAGE sql VOLATILE RETURN 4",
    )
    texts = (
        "lower(a) || '100% {x}'", "a::int", "1 / n", "nope", "count(*)", "generate_series(1, 2)", "now()", "dice()",
        "nextval('s')", "CURRENT_TIMESTAMP", "a; DROP TABLE t", "a) FROM t; --",
    )  # fmt: skip
    facts = {f.expression: f for f in read(database, ("public", "t"), expressions=texts).expressions}
    assert {text for text in texts if facts[text].error is None} == {
        "lower(a) || '100% {x}'", "now()", "dice()", "nextval('s')", "CURRENT_TIMESTAMP",
    }  # fmt: skip
    assert {text for text in texts if facts[text].volatile} == {"dice()", "nextval('s')"}
    assert facts["lower(a) || '100% {x}'"].type == "text"
    assert "invalid input syntax" in (facts["a::int"].error or "")
    assert "division by zero" in (facts["1 / n"].error or "")
    with connect(database) as connection:
        assert connection.execute("SELECT is_called FROM s").fetchone() == (False,)


def test_types_are_called_as_the_server_calls_them(database: Database) -> None:
    run(
        database,
        "CREATE DOMAIN bare AS varchar(10)",
        "CREATE DOMAIN checked AS int CHECK (VALUE > 0)",
        "CREATE DOMAIN upon AS checked",
        "CREATE DOMAIN filled AS text DEFAULT 'x'",
        "CREATE DOMAIN required AS text NOT NULL",
        """CREATE TYPE "it's %s {}" AS ENUM ('a')""",
    )
    texts = ("VARCHAR(20)", "bare", "checked", "upon", "filled", "FLOAT[]", '"it\'s %s {}"', "nope", "TIMESTAMP(3)")
    facts = {f.text: f for f in read(database, ("public", "t"), types=(*texts, "required")).types}
    assert [facts[text].canonical for text in texts] == [
        "character varying(20)", "public.bare", "public.checked", "public.upon", "public.filled", "double precision[]",
        'public."it\'s %s {}"', None, "timestamp(3) without time zone",
    ]  # fmt: skip
    assert {text: facts[text].brings for text in texts if facts[text].brings} == {
        "checked": ("constraints",), "upon": ("constraints",), "filled": ("a default",),
    }  # fmt: skip
    assert "does not exist" in (facts["nope"].error or "")
    assert "null" in (facts["required"].error or "")


DOMAINS = (
    "CREATE DOMAIN checked AS text CHECK (VALUE <> '')",
    "CREATE DOMAIN filled AS text DEFAULT 'x'",
    "CREATE DOMAIN bare AS text",
)


@pytest.mark.parametrize(("domain", "refused"), [("checked", "rewrite"), ("filled", "in every row"), ("bare", None)])
@pytest.mark.parametrize(
    "change", ['RenameColumn("t", "a", "b")', 'AddColumn("t", sa.Column("b", postgresql.DOMAIN("{}", sa.Text)))']
)
def test_domains_that_do_more_than_name_a_type(
    database: Database, tmp_path: Path, change: str, domain: str, refused: str | None
) -> None:
    run(database, *DOMAINS, f"CREATE TABLE t (id int, a {domain})", "INSERT INTO t SELECT 1, 'value'")
    filenode = "SELECT pg_relation_filenode('t')"
    with connect(database) as connection:
        before = connection.execute(filenode).fetchone()
        text = change.replace("postgresql.", "sa.dialects.postgresql.").replace("{}", domain)
        if refused is None:
            advanced(database, tmp_path, text, to=Phase.CONTRACT)
        else:
            (tmp_path / "0001_m.py").write_text(
                "import sqlalchemy as sa\nimport sqlalchemy.dialects.postgresql\n"
                f"from zdmigrate import AddColumn, Migration, RenameColumn\nmigration = Migration({text})\n",
                encoding="utf-8",
            )
            (file,) = load_directory(tmp_path)
            with session.connect(database.conninfo, purpose="test") as ours, pytest.raises(Unsafe, match=refused):
                planned.make(file, planned.read(ours, [file], "zdmigrate"))
        assert connection.execute(filenode).fetchone() == before


def test_odd_names_go_all_the_way(database: Database, tmp_path: Path, owner: str) -> None:
    """Names and texts that would break SQL or Python formatting anywhere, from expand to contract, as a mere owner."""
    target = quoted(ODD_SCHEMA, ODD_TABLE)
    old, new = quoted(ODD_OLD), quoted(ODD_NEW)
    run(
        database,
        f"CREATE SCHEMA {quoted(ODD_SCHEMA)}",
        f"CREATE TABLE {target} (id serial, {old} text NOT NULL DEFAULT '100% {{x}} %s \\' CHECK ({old} <> '%s {{}}'))",
        f"CREATE UNIQUE INDEX {quoted('idx %s {}')} ON {target} ({old}, id) WHERE {old} <> '%d {{1}}'",
        f"COMMENT ON COLUMN {target}.{old} IS '100% {{comment}}'",
        f"INSERT INTO {target} ({old}) SELECT 'row ' || n FROM generate_series(1, 50) n",
        user=owner,
    )
    change = f"RenameColumn({ODD_TABLE!r}, {ODD_OLD!r}, {ODD_NEW!r}, schema={ODD_SCHEMA!r})"
    run(database, f"GRANT SET ON PARAMETER session_replication_role TO {owner}")
    with psycopg.connect(database.conninfo_as(owner), autocommit=True) as application:
        found = f"SELECT count(*) FROM {target} WHERE {old} = {new}".encode()
        for phase in (Phase.DUAL_WRITE, Phase.BACKFILL, Phase.RETIRE):
            advanced(database, tmp_path, change, to=phase, user=owner)
            application.execute(f"INSERT INTO {target} ({new}) VALUES ('by N+1 %s {{}}')".encode())
            if phase is not Phase.RETIRE:
                application.execute(f"INSERT INTO {target} DEFAULT VALUES".encode())
                assert application.execute(found).fetchone() == ((2,) if phase is Phase.DUAL_WRITE else (54,))
        advanced(database, tmp_path, change, to=Phase.CONTRACT, user=owner)
    table = read(database, (ODD_SCHEMA, ODD_TABLE)).table(ODD_SCHEMA, ODD_TABLE)
    assert table is not None
    column = column_of(table, ODD_NEW)
    assert (column.default, column.comment, column.not_null) == ("'100% {x} %s \\'::text", "100% {comment}", True)
    assert [i.name for i in table.indexes] == ["idx %s {}"]
    assert ODD_OLD not in table.column_names
    run(database, f"REVOKE SET ON PARAMETER session_replication_role FROM {owner}")


@pytest.mark.parametrize(
    ("more", "value"),
    [
        ("backfill=\"'100%s {x} %% ' || a\"", "100%s {x} %% v"),
        ('server_default="100%s {x}"', "100%s {x}"),
        ("server_default=sa.text(\"'%s {x} ' || nextval('s')\")", "%s {x} 1"),
    ],
)
def test_odd_texts_are_added(database: Database, tmp_path: Path, more: str, value: str) -> None:
    where = "), " if more.startswith("backfill") else ", "
    end = ")" if where == "), " else "))"
    change = f'AddColumn("t", sa.Column({ODD_NEW!r}, sa.Text, nullable=False{where}{more}{end}'
    run(database, "CREATE SEQUENCE s", "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('v')")
    advanced(database, tmp_path, change, to=Phase.CONTRACT)
    with connect(database) as connection:
        assert connection.execute(f"SELECT {quoted(ODD_NEW)} FROM t".encode()).fetchone() == (value,)


def test_five_hundred_tables(database: Database, tmp_path: Path) -> None:
    with connect(database) as connection, connection.transaction():
        for number in range(500):
            connection.execute(
                f"CREATE TABLE t{number} (id int PRIMARY KEY, a text DEFAULT 'x' NOT NULL CHECK (a <> ''), b int, c int)".encode()
            )
            connection.execute(f"CREATE UNIQUE INDEX ON t{number} (lower(a), b)".encode())
    every = ", ".join(f'RenameColumn("t{number}", "a", "z")' for number in range(500))
    for name, changes in (("0001_one", 'RenameColumn("t7", "a", "z")'), ("0002_every", every)):
        (tmp_path / f"{name}.py").write_text(
            f"from zdmigrate import Migration, RenameColumn\nmigration = Migration({changes})\n", encoding="utf-8"
        )
    one, many = load_directory(tmp_path)
    with session.connect(database.conninfo, purpose="test") as ours:
        for file, tables, seconds in ((one, 1, 1), (many, 500, 10)):
            started = time.perf_counter()
            snapshot = planned.read(ours, [file], "zdmigrate")
            plan = planned.make(file, snapshot)
            took = time.perf_counter() - started
            assert len(snapshot.tables) == tables
            assert len(list(plan.steps())) >= 9 * tables
            assert took < seconds, took
            print(tables, took)
