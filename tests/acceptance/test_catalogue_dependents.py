"""What names a column in a definition of its own follows it to another type, or is named and refused."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import catalog_compare
from tests.support.catalogue import EVERYTHING, ID, Case, Stage, walk
from zdmigrate.errors import Drift, Unsafe
from zdmigrate.phases import PHASES, Phase
from zdmigrate.postgres.servers import ScratchServer

TABLES = (
    "CREATE TABLE org (id integer PRIMARY KEY, name text)",
    """CREATE TABLE t (
        id bigint PRIMARY KEY,
        v integer DEFAULT 1 NOT NULL,
        w varchar(10),
        x text,
        o integer
    )""",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "INSERT INTO org VALUES (1, 'one')",
    "INSERT INTO t SELECT g, g, 'w' || g, 'x' || g, 1 FROM generate_series(1, 50) g",
)
INSIDE = (
    "CREATE VIEW inside WITH (security_barrier = true, security_invoker = true) AS "
    "SELECT id, x FROM t WHERE v > 0 AND w <> 'none' WITH LOCAL CHECK OPTION"
)
SHOWN = """CREATE VIEW shown AS
    SELECT t.id, v AS "The value", w AS word, coalesce(w::text, '?') AS w, org.name FROM t JOIN org ON org.id = t.o"""
ABOVE = "CREATE VIEW above AS SELECT x, count(*) FROM inside GROUP BY x"
BELONGINGS = (
    "COMMENT ON VIEW shown IS 'what it''s for'",
    "COMMENT ON COLUMN shown.\"The value\" IS 'a value'",
    "GRANT SELECT ON shown TO PUBLIC",
    "GRANT INSERT ON shown TO pg_monitor WITH GRANT OPTION",
    'GRANT UPDATE ("The value") ON shown TO pg_monitor',
)
POLICY = (
    "CREATE POLICY mine ON t FOR UPDATE TO pg_monitor USING (v < 1000) "
    "WITH CHECK (v < 1000 AND EXISTS (SELECT FROM org WHERE org.id = t.o AND t.v > 0))"
)
TRIGGERS = (
    "CREATE TRIGGER on_v AFTER UPDATE OF v, x ON t FOR EACH ROW WHEN (NEW.v <> OLD.v) EXECUTE FUNCTION noted()",
    "ALTER TABLE t ENABLE REPLICA TRIGGER on_v",
    "COMMENT ON TRIGGER on_v ON t IS 'c'",
    "CREATE CONSTRAINT TRIGGER checked AFTER UPDATE OF v OR DELETE ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION noted()",
    "CREATE TRIGGER whenever BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.v > 5) EXECUTE FUNCTION noted()",
)
ROUTINE = """CREATE FUNCTION total(lowest bigint DEFAULT 0) RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT sum(t.v) FROM t WHERE t.v >= lowest; END"""
STATISTICS = (
    "CREATE STATISTICS t_some (dependencies, mcv) ON v, o FROM t",
    "CREATE STATISTICS t_all ON v, (v + 1), lower(x) FROM t",
    "CREATE STATISTICS t_one ON (v % 10) FROM t",
    "ALTER STATISTICS t_some SET STATISTICS 500",
    "COMMENT ON STATISTICS t_some IS 'c'",
)
KEPT = (INSIDE, "COMMENT ON VIEW inside IS 'c'", "GRANT SELECT ON inside TO PUBLIC", ABOVE)
RICH = (
    *TABLES, *KEPT, SHOWN, *BELONGINGS, "ALTER TABLE t ENABLE ROW LEVEL SECURITY", POLICY, "COMMENT ON POLICY mine ON t IS 'c'",
    *TRIGGERS, ROUTINE, "COMMENT ON FUNCTION total IS 'c'", *STATISTICS,
)  # fmt: skip
AWAY = (
    "DROP VIEW shown", "DROP VIEW above", "DROP VIEW inside", "DROP POLICY mine ON t", "DROP TRIGGER on_v ON t",
    "DROP TRIGGER checked ON t", "DROP TRIGGER whenever ON t", "DROP FUNCTION total",
)  # fmt: skip
AGAIN = (
    *KEPT, SHOWN, *BELONGINGS, POLICY, "COMMENT ON POLICY mine ON t IS 'c'", *TRIGGERS, ROUTINE,
    "COMMENT ON FUNCTION total IS 'c'", "ALTER STATISTICS t_some SET STATISTICS 500",
)  # fmt: skip
ODD = '"Odd ""name"" ' + "ä" * 20 + '"'
ODD_TABLE = '\'Odd "name" ' + "ä" * 20 + "'"

CASES = {
    "another type": Case(
        schema=RICH, changes=('ChangeType("t", "v", "bigint")',),
        by_hand=(*AWAY, "ALTER TABLE t ALTER v TYPE bigint", *AGAIN),
        data='SELECT id, "The value", w, name FROM shown ORDER BY id',
    ),
    "in place": Case(
        schema=RICH, changes=('ChangeType("t", "w", "varchar(20)")',),
        by_hand=(*AWAY, "ALTER TABLE t ALTER w TYPE varchar(20)", *AGAIN),
    ),
    "in place, casts come and go": Case(
        schema=RICH, changes=('ChangeType("t", "w", "text")',), by_hand=(*AWAY, "ALTER TABLE t ALTER w TYPE text", *AGAIN),
    ),
    "under another name": Case(
        schema=RICH, changes=('RenameColumn("t", "v", "year")', 'ChangeType("t", "year", "bigint")'),
        by_hand=(*AWAY, "ALTER TABLE t ALTER v TYPE bigint", *AGAIN, "ALTER TABLE t RENAME v TO year"),
        data='SELECT id, "The value", w, name FROM shown ORDER BY id',
    ),
    "a chain": Case(
        schema=RICH,
        changes=(
            'ChangeType("t", "w", "text")', 'ChangeType("t", "v", "bigint")', 'RenameColumn("t", "v", "number")',
            'RenameColumn("t", "w", "word")', 'ChangeType("t", "o", "bigint")', 'RenameColumn("t", "x", "y")',
            """SetNotNull("t", "y", backfill="'?'")""",
        ),
        by_hand=(
            *AWAY, "ALTER TABLE t ALTER w TYPE text", "ALTER TABLE t ALTER v TYPE bigint", "ALTER TABLE t ALTER o TYPE bigint",
            *AGAIN, "ALTER TABLE t RENAME v TO number", "ALTER TABLE t RENAME w TO word", "ALTER TABLE t RENAME x TO y",
            "ALTER TABLE t ALTER y SET NOT NULL",
        ),
    ),
    "a value that N computes, under another name": Case(
        schema=(*TABLES, "CREATE VIEW both_ways AS SELECT id, v + 1 AS more FROM t WHERE x <> ''", TRIGGERS[0]),
        changes=(
            """SetNotNull("t", "x", backfill="'?'")""", 'ChangeType("t", "x", "varchar(50)")', 'RenameColumn("t", "x", "y")',
        ),
        by_hand=(
            "UPDATE t SET x = '?' WHERE x IS NULL", "ALTER TABLE t ALTER x SET NOT NULL", "DROP VIEW both_ways",
            "DROP TRIGGER on_v ON t", "ALTER TABLE t ALTER x TYPE varchar(50)",
            "CREATE VIEW both_ways AS SELECT id, v + 1 AS more FROM t WHERE x <> ''", TRIGGERS[0],
            "ALTER TABLE t RENAME x TO y",
        ),
    ),
    "a rename, with triggers": Case(
        schema=(*TABLES, *TRIGGERS), changes=('RenameColumn("t", "x", "y")', 'RenameColumn("t", "v", "n")'),
        by_hand=("ALTER TABLE t RENAME x TO y", "ALTER TABLE t RENAME v TO n"),
    ),
    "up and down": Case(
        schema=(*TABLES, "CREATE VIEW counted AS SELECT count(*) FROM t WHERE v IS NOT NULL"),
        changes=("""ChangeType("t", "v", "text", up="'no. ' || v", down="substr(v, 5)::integer")""",),
        by_hand=(
            "DROP VIEW counted", "ALTER TABLE t ALTER v DROP DEFAULT",
            "ALTER TABLE t ALTER v TYPE text USING 'no. ' || v", "ALTER TABLE t ALTER v SET DEFAULT ('no. '::text || 1)",
            "CREATE VIEW counted AS SELECT count(*) FROM t WHERE v IS NOT NULL",
        ),
    ),
    "odd names, partitions": Case(
        schema=(
            'CREATE SCHEMA "My Schema"',
            f"""CREATE TABLE "My Schema".{ODD} (id bigint NOT NULL, "a b" integer) PARTITION BY RANGE (id)""",
            f"""CREATE TABLE "My Schema".p1 PARTITION OF "My Schema".{ODD} DEFAULT""",
            f"""CREATE VIEW "My Schema"."Ünder ""it"" x" AS SELECT a."a b" % 2 AS "odd ""? x" FROM "My Schema".{ODD} a,
                "My Schema".{ODD} WHERE "My Schema".{ODD}.id = a.id""",
            f"""CREATE STATISTICS "My Schema"."s S" ON id, "a b" FROM "My Schema".{ODD}""",
            "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            f"""CREATE TRIGGER "On It" AFTER UPDATE OF "a b" ON "My Schema".{ODD} FOR EACH ROW EXECUTE FUNCTION noted()""",
            f"""INSERT INTO "My Schema".{ODD} SELECT g, g FROM generate_series(1, 30) g""",
        ),
        changes=(f"""ChangeType({ODD_TABLE}, "a b", "numeric", schema="My Schema")""",),
        by_hand=(
            'DROP VIEW "My Schema"."Ünder ""it"" x"', f"""DROP TRIGGER "On It" ON "My Schema".{ODD}""",
            f"""ALTER TABLE "My Schema".{ODD} ALTER "a b" TYPE numeric""",
            f"""CREATE VIEW "My Schema"."Ünder ""it"" x" AS SELECT a."a b" % 2 AS "odd ""? x" FROM "My Schema".{ODD} a,
                "My Schema".{ODD} WHERE "My Schema".{ODD}.id = a.id""",
            f"""CREATE TRIGGER "On It" AFTER UPDATE OF "a b" ON "My Schema".{ODD} FOR EACH ROW EXECUTE FUNCTION noted()""",
        ),
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
    walk(stage(CASES[name]), CASES[name])


SHARED = "CREATE VIEW two AS SELECT t.id, org.name FROM t JOIN org ON org.id = t.o WHERE t.v > 0"


@pytest.mark.parametrize(
    ("object_", "change", "message"),
    [
        ("CREATE MATERIALIZED VIEW m AS SELECT v FROM t", ("v", "bigint"), "on materialized view public.m depend on it"),
        ("ALTER TABLE t ADD g bigint GENERATED ALWAYS AS (v + 1) STORED", ("v", "bigint"), "column g of table public.t depend"),
        ("CREATE PUBLICATION p FOR TABLE t (id, v)", ("v", "bigint"), "publication p depend on it"),
        ("CREATE POLICY p ON org USING (id IN (SELECT v FROM t))", ("v", "bigint"), "policy p on table public.org depend"),
        ("CREATE VIEW a AS SELECT v FROM t; CREATE VIEW b AS SELECT v FROM a", ("v", "bigint"),
         "would show a column of another type, which needs it to be dropped, and view public.b depends on it"),
        ("CREATE VIEW a AS SELECT v FROM t; CREATE FUNCTION f() RETURNS a LANGUAGE sql AS 'SELECT * FROM a'", ("v", "bigint"),
         "function public.f() depends on it"),
        ("CREATE VIEW a AS SELECT v FROM t; CREATE RULE r AS ON DELETE TO a DO INSTEAD NOTHING", ("v", "bigint"),
         "would lose the rule r"),
        ("CREATE VIEW a AS SELECT v FROM t; ALTER VIEW a ALTER v SET DEFAULT 3", ("v", "bigint"),
         "would lose a default of its own"),
        ("CREATE VIEW a AS SELECT v FROM t; REVOKE DELETE ON a FROM postgres", ("v", "bigint"),
         "would lose its owner's lack of the privilege DELETE"),
        ("CREATE VIEW a AS SELECT id FROM t WHERE v > 3", ("v", "text"),
         "does not work with the new type: operator does not exist"),
        ("CREATE POLICY p ON t USING (v > 3)", ("v", "text"), "the policy p of public.t uses a column of public.t"),
        ("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.v > 3) EXECUTE FUNCTION noted()", ("v", "text"),
         "the trigger g of public.t uses a column of public.t that is given another type"),
        ("CREATE FUNCTION f() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT 1 FROM t WHERE v > 3; END", ("v", "text"),
         "the function public.f() uses a column of public.t that is given another type"),
    ],
)  # fmt: skip
def test_what_cannot_follow_is_named_with_the_remedy(
    stage: Callable[[Case], Stage], object_: str, change: tuple[str, str], message: str
) -> None:
    column, type_ = change
    schema = (*TABLES, *object_.split("; ")) if "ATOMIC" not in object_ else (*TABLES, object_)
    made = stage(Case(schema=schema, changes=(f'ChangeType("t", "{column}", "{type_}")',), by_hand=()))
    name = made.make()
    with made.project(name) as project:
        with pytest.raises(Unsafe, match=re.escape(message)) as refused:
            project.plan([])
        assert re.match(r".*0001_it\.py:3: ", refused.value.message)
        assert re.search("before|drop", refused.value.hint or "")


@pytest.mark.parametrize(
    ("object_", "named"),
    [
        ("CREATE VIEW of_part AS SELECT v FROM part", "view public.of_part"),
        ("CREATE STATISTICS s ON id, v FROM part", "statistics object public.s"),
        (
            "CREATE TRIGGER own AFTER UPDATE OF v ON part FOR EACH ROW EXECUTE FUNCTION noted()",
            "trigger own on table public.part",
        ),
        ("CREATE POLICY own ON part USING (v > 0)", "policy own on table public.part"),
    ],
)
@pytest.mark.parametrize("change", ['ChangeType("whole", "v", "bigint")', 'DropColumn("whole", "v")'])
def test_what_hangs_on_a_partition_is_named(
    stage: Callable[[Case], Stage], object_: str, named: str, change: str
) -> None:
    schema = (
        ("CREATE TABLE whole (id bigint, v integer DEFAULT 1, w bigint GENERATED ALWAYS AS (id) STORED) "
        "PARTITION BY RANGE (id)"),
        "CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (10)", "CREATE INDEX ON whole (v)", TABLES[2],
    )  # fmt: skip
    plain = stage(Case(schema=schema, changes=(change,), by_hand=()))
    with plain.project(plain.make()) as project:
        project.plan([])
    made = stage(Case(schema=(*schema, object_), changes=(change,), by_hand=()))
    with made.project(made.make()) as project, pytest.raises(Unsafe, match=re.escape(named)):
        project.plan([])


def test_a_view_of_two_tables_that_both_change_needs_two_migrations(stage: Callable[[Case], Stage]) -> None:
    changes = ('ChangeType("t", "v", "bigint")', 'RenameColumn("org", "name", "title")')
    made = stage(Case(schema=(*TABLES, SHARED), changes=changes, by_hand=()))
    with made.project(made.make()) as project, pytest.raises(Unsafe, match=r"view public\.two must follow a column"):
        project.plan([])


def test_nobody_renames_what_a_view_in_flight_names(stage: Callable[[Case], Stage]) -> None:
    made = stage(Case(schema=(*TABLES, SHARED), changes=('ChangeType("t", "v", "bigint")',), by_hand=()))
    name = made.make()
    with made.project(name) as project:
        assert project.advance([], target=Phase.BACKFILL, overrides=EVERYTHING).exit_code == 0
    made.write("0002_other", 'RenameColumn("org", "name", "title")')
    with made.project(name) as project:
        refused = project.advance(["0002_other"], target=Phase.EXPAND, overrides=EVERYTHING)
        assert refused.exit_code == 6
        assert "public.org.name" in (refused.migrations[0].message or "")


OTHER = INSIDE.replace("SELECT id, x", "SELECT id, x || '!' AS x")


@pytest.mark.parametrize(
    ("before", "by_hand", "back", "said"),
    [
        (INSIDE, OTHER, INSIDE, "the view public.inside"),
        ("", "DROP VIEW inside", INSIDE, "the view public.inside"),
        (POLICY, "ALTER POLICY mine ON t USING (v < 5)", "ALTER POLICY mine ON t USING (v < 1000)", "the policy mine"),
        (ROUTINE, ROUTINE.replace("CREATE", "CREATE OR REPLACE").replace("sum", "max"),
         ROUTINE.replace("CREATE", "CREATE OR REPLACE"), "the function public.total(bigint)"),
        (TRIGGERS[0], "DROP TRIGGER on_v ON t", TRIGGERS[0], "the trigger on_v"),
    ],
)  # fmt: skip
def test_what_was_changed_by_hand_is_not_overwritten(
    stage: Callable[[Case], Stage], before: str, by_hand: str, back: str, said: str
) -> None:
    found = tuple(text for text in (INSIDE, before) if text)
    schema = (*TABLES, *dict.fromkeys(found))
    if "OR REPLACE" not in by_hand and by_hand == OTHER:
        by_hand, back = by_hand.replace("CREATE", "CREATE OR REPLACE"), back.replace("CREATE", "CREATE OR REPLACE")
    made = stage(Case(schema=schema, changes=('ChangeType("t", "v", "bigint")',), by_hand=()))
    name = made.make()
    with made.project(name) as project:
        assert project.advance([], target=Phase.BACKFILL, overrides=EVERYTHING).exit_code == 0
        made.sql(name, by_hand)
        refused = project.advance([], target=Phase.SWITCH_READS, overrides=EVERYTHING)
        assert refused.exit_code == Drift.exit_code
        assert f"{said}" in (refused.migrations[0].message or "")
        assert "was changed since the plan was made" in (refused.migrations[0].message or "")
        made.sql(name, back)
        assert project.advance([], target=Phase.SWITCH_READS, overrides=EVERYTHING).exit_code == 0
        made.sql(name, by_hand)
        refused = project.revert(ID, target=Phase.NONE, overrides=EVERYTHING)
        assert refused.exit_code == Drift.exit_code
        made.sql(name, back)
        assert project.revert(ID, target=Phase.NONE, overrides=EVERYTHING).exit_code == 0


def test_a_trigger_fires_for_the_column_of_the_name_in_every_phase(stage: Callable[[Case], Stage]) -> None:
    log = "CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (NEW.v); RETURN NULL; END'"
    fires = "CREATE TRIGGER fires AFTER UPDATE OF v ON t FOR EACH ROW WHEN (NEW.v <> OLD.v) EXECUTE FUNCTION logged()"
    schema = (*TABLES, "CREATE TABLE log (v bigint)", log, fires)
    made = stage(Case(schema=schema, changes=('ChangeType("t", "v", "bigint")',), by_hand=()))
    name = made.make()
    with made.project(name) as project:
        for number, phase in enumerate(PHASES[1:]):
            # The function names the column, which keeps its name: nothing waits for that.
            overrides = {k: v for k, v in EVERYTHING.items() if k != "functions"}
            assert project.advance([], target=phase, overrides=overrides).exit_code == 0
            made.sql(name, f"UPDATE t SET v = {number} + 1000 WHERE id = 7", "UPDATE t SET x = 'x' WHERE id = 7")
            assert made.rows(name, "SELECT v FROM log ORDER BY v")[-1:] == [(number + 1000,)]
    assert made.rows(name, "SELECT count(*) FROM log") == [(len(PHASES) - 1,)]


def test_an_application_that_syncs_by_itself(stage: Callable[[Case], Stage]) -> None:
    """Of a column that keeps its name nobody could write both shapes: it gets another one, too."""
    made = stage(Case(schema=RICH, changes=(*CASES["another type"].changes, 'sync="app"'), by_hand=()))
    with made.project(made.make()) as project:
        refused = project.advance([], target=Phase.EXPAND)
        assert "keeps its name and gets another type" in (refused.migrations[0].message or "")


@pytest.mark.parametrize("changes", [CASES["under another name"].changes, CASES["under another name"].changes[:1]])
def test_an_application_that_syncs_by_itself_under_another_name(
    stage: Callable[[Case], Stage], changes: tuple[str, ...]
) -> None:
    made = stage(Case(schema=RICH, changes=(*changes, 'sync="app"'), by_hand=()))
    name = made.make()
    before = made.catalog(name)
    with made.project(name) as project:
        for phase in PHASES[1:-1]:
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            back = project.revert(ID, target=Phase.NONE, overrides=EVERYTHING, allow_lossy=True)
            assert back.exit_code == 0, back.migrations[0].message
            assert not catalog_compare.difference(before, made.catalog(name))
            project.unhold(ID)


def test_nobody_who_uses_them_meanwhile_fails(stage: Callable[[Case], Stage]) -> None:
    statements = (
        "SELECT count(*) FROM inside", 'SELECT max("The value") FROM shown', "SELECT total()", "SELECT count(*) FROM above",
        "UPDATE inside SET x = 'y' WHERE id = 3", "UPDATE t SET v = v WHERE id = 4",
    )  # fmt: skip
    made = stage(CASES["another type"])
    name = made.make()
    made.sql(name, "UPDATE t SET x = 'x'")
    stop, counts = threading.Event(), Counter[str]()

    def use(statement: str) -> None:
        with made.connect(name) as connection:
            while not stop.is_set():
                connection.execute(statement.encode())
                counts[statement] += 1

    with ThreadPoolExecutor(len(statements)) as pool, made.project(name) as project:
        users = [pool.submit(use, statement) for statement in statements]
        try:
            assert project.advance([], target=Phase.BACKFILL, overrides=EVERYTHING).exit_code == 0
            for _ in range(3):
                before = counts.copy()
                assert project.advance([], target=Phase.RETIRE, overrides=EVERYTHING).exit_code == 0
                assert project.revert(ID, target=Phase.BACKFILL, overrides=EVERYTHING).exit_code == 0
                project.unhold(ID)
                assert all(counts[statement] > before[statement] for statement in statements)
        finally:
            stop.set()
        for user in users:
            user.result()


def test_as_an_owner_who_is_not_superuser(stage: Callable[[Case], Stage]) -> None:
    case = CASES["another type"]
    made = stage(Case(schema=(), changes=case.changes, by_hand=()))
    name = made.make()
    made.sql(
        name,
        "DROP SCHEMA zdmigrate CASCADE",
        *(f"DROP ROLE IF EXISTS {role}" for role in ("dep_owner", "dep_team", "dep_other")),
        "CREATE ROLE dep_owner LOGIN", "CREATE ROLE dep_team", "CREATE ROLE dep_other", "GRANT dep_team TO dep_owner",
        f"GRANT CREATE ON DATABASE {name} TO dep_owner", "GRANT CREATE ON SCHEMA public TO dep_owner, dep_team",
        "SET ROLE dep_owner", *case.schema, "RESET ROLE", "ALTER VIEW shown OWNER TO dep_team",
        "ALTER STATISTICS t_one OWNER TO dep_team",
        "ALTER DEFAULT PRIVILEGES FOR ROLE dep_owner GRANT SELECT ON TABLES TO dep_other",
    )  # fmt: skip
    before = made.catalog(name)
    with made.project(name, user="dep_owner") as project:
        project.init(environment="development", app_role=None, confirmed=True)
        for phase in PHASES[1:-1]:
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            assert project.revert(ID, target=Phase.NONE, overrides=EVERYTHING).exit_code == 0
            found = catalog_compare.difference(before, _without_control(made.catalog(name)))
            assert not found, "\n".join([str(phase), *found])
            project.unhold(ID)
        made.sql(name, "ALTER VIEW inside OWNER TO dep_other")
        with pytest.raises(Unsafe, match=r"dep_owner may not replace it \(it is owned by dep_other\)"):
            project.plan([])
        made.sql(name, "ALTER VIEW inside OWNER TO dep_owner", "REVOKE CREATE ON SCHEMA public FROM dep_team")
        with pytest.raises(Unsafe, match="may not give the new one to dep_team"):
            project.plan([])
    made.sql(name, *(f"DROP OWNED BY {role} CASCADE" for role in ("dep_owner", "dep_team", "dep_other")))


def _without_control(found: catalog_compare.Catalog) -> catalog_compare.Catalog:
    return {key: value for key, value in found.items() if "zdmigrate" not in key}
