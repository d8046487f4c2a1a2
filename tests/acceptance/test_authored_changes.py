"""RunSQL and RunPython: done exactly once, whatever dies, and never with another lock than declared."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.support.catalogue import Case, Stage, walk
from tests.support.processes import Site, transaction, until
from zdmigrate.postgres.servers import ScratchServer

COUNTER = ("CREATE TABLE counter (n integer NOT NULL)", "INSERT INTO counter VALUES (0)")
ID = "0001_it"
SQL = """
    from zdmigrate import Migration, RunSQL

    migration = Migration(
        RunSQL(
            ["UPDATE counter SET n = n + 1", "UPDATE counter SET n = n + 10"],
            contract="UPDATE counter SET n = n + 100",
            revert="UPDATE counter SET n = n - 11",
            locks={"counter": "ROW EXCLUSIVE"},
        ),
    )
    """
PYTHON = """
    from zdmigrate import Migration, RunPython

    def forth(connection):
        connection.execute("UPDATE counter SET n = n + 1")
        with connection.transaction():
            connection.execute("UPDATE counter SET n = n + 10")

    def back(connection):
        connection.execute("UPDATE counter SET n = n - 11")

    def finish(connection):
        connection.execute("UPDATE counter SET n = n + 100")

    migration = Migration(RunPython(forth, contract=finish, revert=back, locks={"counter": "ROW EXCLUSIVE"}))
    """
BOTH = {"sql": SQL, "python": PYTHON}


def write(site: Site, source: str, id_: str = ID) -> Path:
    (site.directory / "migrations").mkdir(parents=True, exist_ok=True)
    path = site.directory / "migrations" / f"{id_}.py"
    path.write_text(textwrap.dedent(source))
    return path


def one(site: Site, *schema: str, change: str) -> None:
    """A schema and a migration of one RunSQL."""
    site.sql(*schema)
    write(site, f"from zdmigrate import Migration, RunSQL\nmigration = Migration({change})\n")
    site.init()


def n(site: Site) -> int:
    found: int = site.value("SELECT n FROM counter")
    return found


# Exactly once.


@pytest.mark.parametrize("kind", BOTH)
def test_forwards_back_and_forwards_again(site: Site, kind: str) -> None:
    site.sql(*COUNTER)
    write(site, BOTH[kind])
    site.init()
    for _ in range(2):
        site.run("advance").expect(0)
        assert (site.phase(ID), n(site)) == ("retire", 11), "the rest is irreversible, and asked for by name"
    for _ in range(2):
        site.run("revert", ID, "--to", "none").expect(0)
        assert n(site) == 0
    site.run("unhold", ID).expect(0)
    site.run("advance", "--to", "expand").expect(0)
    assert n(site) == 11
    site.run("verify").expect(0)
    for _ in range(2):
        site.run("advance", "--to", "contract").expect(0)
        assert n(site) == 111
    site.run("revert", ID, "--to", "expand").expect(8)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.nightly), 4])
@pytest.mark.parametrize("when", ["after", "sent"])
@pytest.mark.parametrize("kind", BOTH)
def test_killed_at_any_statement_it_happens_once(site: Site, kind: str, when: str, every: int) -> None:
    site.sql(*COUNTER)
    write(site, BOTH[kind])
    site.init()
    back = ("revert", ID, "--to", "none")
    for args, expected in ((("advance", "--to", "expand"), 11), (back, 0)):
        trace = site.directory / "trace.json"
        site.run(*args, kill={"trace": str(trace)}).expect(0)
        numbers = [at for at, (step, _) in enumerate(json.loads(trace.read_text()), 1) if step]
        assert len(numbers) > 10
        # Always those around the COMMIT of work and record.
        for at in range(numbers[0] - 1, numbers[-1] + 2):
            if at % every == 0 or at >= numbers[-1] - 2:
                _reset(site, before=args == back)
                killed = site.run(*args, kill={"at": at, "when": when})
                assert killed.code in (0, -9), killed
                assert n(site) in (0, 11)
                site.run(*args).expect(0)
                assert n(site) == expected, f"{args}, {when} statement {at}"


def _reset(site: Site, *, before: bool) -> None:
    """The state before the command: `expand` is done, or nothing is."""
    if before:
        site.run("unhold", ID).expect(0)
        site.run("advance", "--to", "expand").expect(0)
        assert n(site) == 11
    elif site.phase(ID) == "expand":
        site.run("revert", ID, "--to", "none").expect(0)
        site.run("unhold", ID).expect(0)
        assert n(site) == 0


def test_what_needs_no_undo_is_done_again(site: Site) -> None:
    one(site, *COUNTER, change='RunSQL("UPDATE counter SET n = n + 1", revert=[], locks={"counter": "ROW EXCLUSIVE"})')
    site.run("advance").expect(0)
    assert (site.phase(ID), n(site)) == ("contract", 1)
    one(site, change='RunSQL("UPDATE counter SET n = n + 1", revert=[], locks={"counter": "ROW EXCLUSIVE"})')
    write(site, (site.directory / "migrations" / f"{ID}.py").read_text(), "0002_again")
    site.run("advance", "0002", "--to", "expand").expect(0)
    site.run("revert", "0002", "--to", "none").expect(0)
    site.run("unhold", "0002").expect(0)
    site.run("advance", "0002", "--to", "expand").expect(0)
    assert n(site) == 3


def test_without_a_way_back_it_is_asked_for_by_name(site: Site) -> None:
    one(site, *COUNTER, change='RunSQL("UPDATE counter SET n = 7", locks={"counter": "ROW EXCLUSIVE"})')
    shown = site.run("plan").expect(0).out
    assert "not possible: this is final" in shown
    site.run("advance").expect(0)
    assert (site.phase(ID), n(site)) == ("none", 0)
    site.run("advance", "--to", "expand").expect(0)
    assert (site.phase(ID), n(site)) == ("expand", 7)
    site.run("revert", ID, "--to", "none").expect(8)
    assert n(site) == 7


def test_two_projects_do_not_share_what_is_recorded(site: Site) -> None:
    site.sql(*COUNTER)
    write(site, SQL)
    site.init()
    for number, project in enumerate(("one", "two"), 1):
        (site.directory / "zdmigrate.toml").write_text(f'project = "{project}"\n')
        site.run("advance", "--to", "expand").expect(0)
        assert n(site) == 11 * number


def test_text_is_literal(site: Site) -> None:
    text = "100 % {table} %s %(x)s {0} '' \\n $1 :name"
    statement = f"INSERT INTO notes VALUES ({text!r})"
    quoted = "INSERT INTO notes VALUES ('" + text.replace("'", "''") + "')"
    assert statement != quoted
    one(
        site,
        "CREATE TABLE notes (note text)",
        change=f'RunSQL({quoted!r}, revert=[], locks={{"notes": "ROW EXCLUSIVE"}})',
    )
    site.run("advance").expect(0)
    assert site.value("SELECT note FROM notes") == text


# Locks.

USERS = (
    "CREATE TABLE users (id bigint PRIMARY KEY, country text, org integer)",
    "CREATE TABLE org (id integer PRIMARY KEY)",
    "CREATE INDEX users_country ON users (country)",
    "CREATE SEQUENCE numbers",
    "CREATE VIEW people AS SELECT id FROM users",
    "CREATE TABLE logs (id bigint, at date) PARTITION BY RANGE (at)",
    "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "INSERT INTO users SELECT g, 'x' FROM generate_series(1, 10) g",
)

# statement, declared -> what the refusal says
TOO_STRONG = {
    "undeclared": ("ALTER TABLE users ADD note text", {}, "ACCESS EXCLUSIVE on public.users"),
    "weaker": ("CREATE INDEX i ON users (org)", {"users": "ROW EXCLUSIVE"}, "it takes SHARE on public.users"),
    "the other side of a foreign key": (
        "ALTER TABLE users ADD FOREIGN KEY (org) REFERENCES org NOT VALID", {"users": "SHARE ROW EXCLUSIVE"},
        "SHARE ROW EXCLUSIVE on public.org",
    ),
    "a write": ("DELETE FROM users", {}, "ROW EXCLUSIVE on public.users"),
    "an index": ("REINDEX INDEX users_country", {"users": "SHARE"}, "ACCESS EXCLUSIVE on public.users"),
    "a function": (
        "DO $$ BEGIN EXECUTE 'TRUNCATE org'; END $$", {"users": "ACCESS EXCLUSIVE"}, "ACCESS EXCLUSIVE on public.org",
    ),
    "a partition": ("TRUNCATE logs_1", {"logs": "ROW EXCLUSIVE"}, "ACCESS EXCLUSIVE on public.logs_1"),
    "a sequence": ("ALTER SEQUENCE numbers RESTART", {}, "on public.numbers"),
    "a view": ("DROP VIEW people", {}, "ACCESS EXCLUSIVE on public.people"),
    "dropped": ("DROP TABLE org", {}, "ACCESS EXCLUSIVE on public.org"),
    "renamed": ("ALTER TABLE org RENAME TO organisation", {}, "ACCESS EXCLUSIVE on public.org"),
    "a rewrite": ("ALTER TABLE users ALTER org TYPE bigint", {"users": "ACCESS EXCLUSIVE"}, "rewriting table"),
    "a scan": ("ALTER TABLE users ADD CHECK (id > 0)", {"users": "ACCESS EXCLUSIVE"}, "verifying table"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_STRONG)
def test_a_stronger_lock_is_refused_and_leaves_nothing(site: Site, name: str) -> None:
    statement, declared, said = TOO_STRONG[name]
    change = f"RunSQL(['CREATE TABLE made (a int)', {statement!r}], revert='DROP TABLE made', locks={declared!r})"
    one(site, *USERS, change=change)
    before = site.rows(
        "SELECT oid, relname, relfilenode, relnatts FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    checked = site.run("plan", "--check-locks").expect(6)
    assert said in checked.err
    refused = site.run("advance", "--format", "json").expect(6).migration(ID)
    assert said in refused["message"]
    assert statement[:40] in refused["message"], "the statement is named"
    after = site.rows(
        "SELECT oid, relname, relfilenode, relnatts FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    assert before == after
    # and the way out
    site.run("revert", ID, "--to", "none").expect(0)
    write(site, "from zdmigrate import Migration, RunSQL\nmigration = Migration(RunSQL('SELECT 1', revert=[]))\n")
    site.run("unhold", ID).expect(0)
    site.run("advance").expect(0)


ENOUGH = {
    "declared": ("ALTER TABLE users ADD note text", {"public.users": "ACCESS EXCLUSIVE"}),
    "the partitions of what is declared": ("ALTER TABLE logs ADD note text", {"logs": "ACCESS EXCLUSIVE"}),
    "reads and numbers": ("DO $$ BEGIN PERFORM nextval('numbers'), (SELECT count(*) FROM users); END $$", {}),
    "new tables": ("CREATE TABLE fresh AS SELECT * FROM users; CREATE INDEX ON fresh (id); DROP TABLE fresh", {}),
    "a view": ("CREATE OR REPLACE VIEW people AS SELECT id, org FROM users", {"people": "ACCESS EXCLUSIVE"}),
    "a proof that blocks nobody": (
        "ALTER TABLE users VALIDATE CONSTRAINT late", {"users": "SHARE UPDATE EXCLUSIVE"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENOUGH)
def test_what_is_declared_is_allowed(site: Site, name: str) -> None:
    statement, declared = ENOUGH[name]
    late = "ALTER TABLE users ADD CONSTRAINT late CHECK (id > 0) NOT VALID"
    one(site, *USERS, late, change=f"RunSQL({statement!r}, locks={declared!r})")
    assert "no step took another lock" in site.run("plan", "--check-locks").expect(0).err
    site.run("advance", "--to", "contract").expect(0)


def test_a_rewrite_can_be_accepted(site: Site) -> None:
    change = """RunSQL("ALTER TABLE users ALTER org TYPE bigint", revert="ALTER TABLE users ALTER org TYPE integer",
                       locks={"users": "ACCESS EXCLUSIVE"}, rewrites=True)"""
    one(site, *USERS, change=change)
    site.run("advance").expect(0)
    site.run("plan").expect(0)
    assert site.value("SELECT pg_typeof(org)::text FROM users LIMIT 1") == "bigint"


def test_it_waits_for_others_without_queueing_and_gives_up(site: Site) -> None:
    one(site, *USERS, change='RunSQL("ALTER TABLE users ADD c int", revert=[], locks={"users": "ACCESS EXCLUSIVE"})')
    with transaction(site.database, "SELECT FROM users"):
        done = site.run("advance", ZDMIGRATE_LOCK_BUDGET="2s").expect(5)
    assert "no lock on public.users" in done.out
    site.run("advance").expect(0)


def test_what_takes_too_long_is_rolled_back(site: Site) -> None:
    one(site, *COUNTER, change='RunSQL(["UPDATE counter SET n = 5", "SELECT pg_sleep(60)"], revert=[], '
        'locks={"counter": "ROW EXCLUSIVE"})')  # fmt: skip
    done = site.run("advance", ZDMIGRATE_LOCK_TIMEOUT="100ms").expect(6)
    assert "not done within 2.1 s" in done.out
    assert "pg_sleep" in done.out
    assert n(site) == 0


# Outside of a transaction.


def test_an_index_is_built_concurrently(site: Site) -> None:
    probe = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('users_org')"
    change = f"""RunSQL(["DROP INDEX CONCURRENTLY IF EXISTS users_org", "create index\\nconcurrently users_org ON users (org)"],
        revert="DROP INDEX CONCURRENTLY users_org", autocommit=True, probe={probe!r})"""
    one(site, *USERS, change=change)
    there = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('users_org')"
    at = {"match": "concurrently users_org ON users", "when": "sent"}
    assert site.run("advance", "--to", "expand", kill=at).code == -9
    until(lambda: site.rows(there), "the server went on by itself")
    site.run("advance", "--to", "expand").expect(0)
    assert site.rows(there) == [(True,)]
    site.run("revert", ID, "--to", "none").expect(0)
    assert site.rows(there) == []
    site.run("unhold", ID).expect(0)
    site.run("advance").expect(0)
    assert site.phase(ID) == "contract"


# Python.


def test_a_function_that_yields_goes_on_after_a_crash(site: Site) -> None:
    source = """
        from zdmigrate import Migration, RunPython

        def upper(connection):
            while connection.execute(
                "UPDATE users SET country = upper(country) WHERE id = (SELECT min(id) FROM users WHERE country <> upper(country))"
            ).rowcount:
                yield

        migration = Migration(RunPython(upper, revert=[], locks={"users": "ROW EXCLUSIVE"}))
        """
    site.sql(*USERS)
    write(site, source)
    site.init()
    done = "SELECT count(*) FROM users WHERE country = 'X'"
    assert site.run("advance", kill={"match": "UPDATE users", "skip": 12}).code == -9
    half = site.value(done)
    assert 0 < half < 10
    assert site.run("advance", "--max-runtime", "0s").code == 3
    site.run("advance").expect(0)
    assert site.value(done) == 10
    assert site.value("SELECT count(*) FROM zdmigrate.event WHERE action = 'do'") == 1


def python(site: Site, body: str, *, revert: str = "[]", locks: str = '{"counter": "ROW EXCLUSIVE"}') -> Path:
    source = (
        "from zdmigrate import Migration, RunPython\nfrom zdmigrate.errors import Unsafe\n"
        "def forth(connection):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
        "def back(connection):\n    connection.execute('UPDATE counter SET n = 0')\n"
        f"migration = Migration(RunPython(forth, revert={revert}, locks={locks}))\n"
    )
    return write(site, source)


# body -> exit code, what is said
WRONG = {
    "fails": ("connection.execute('UPDATE counter SET n = 1')\nreturn 1 / 0", 1, "forth() failed: ZeroDivisionError"),
    "exits": ("raise SystemExit(0)", 1, "forth() failed: SystemExit: 0"),
    "refuses": ("raise Unsafe('not on a Friday')", 6, "not on a Friday"),
    "locks": ("connection.execute('LOCK TABLE counter')", 6, "forth(): it takes ACCESS EXCLUSIVE on public.counter"),
    "locks after a yield": ("yield\nconnection.execute('LOCK TABLE counter')", 6, "it takes ACCESS EXCLUSIVE"),
    "commits": ("connection.commit()", 1, "Explicit commit() forbidden"),
    "commits as text": ("connection.execute('COMMIT')", 6, "it ended the transaction"),
    "server": ("connection.execute('SELECT 1 / 0')", 1, "division by zero"),
    "sleeps": ("connection.execute('SELECT pg_sleep(60)')", 6, "not done within"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_function_that_goes_wrong(site: Site, name: str) -> None:
    body, code, said = WRONG[name]
    site.sql(*COUNTER)
    python(site, body)
    site.init()
    done = site.run("advance", "--format", "json", ZDMIGRATE_LOCK_TIMEOUT="100ms").expect(code).migration(ID)
    assert said in done["message"]
    assert n(site) == 0
    assert site.value("SELECT count(*) FROM zdmigrate.event WHERE action = 'do'") == 0
    site.run("revert", ID, "--to", "none").expect(0)
    python(site, "connection.execute('UPDATE counter SET n = n + 1')")
    site.run("unhold", ID).expect(0)
    site.run("advance").expect(0)
    assert n(site) == 1


def test_a_function_that_was_edited_in_flight_is_not_called(site: Site) -> None:
    site.sql(*COUNTER)
    body = "connection.execute('UPDATE counter SET n = 1')"
    python(site, body, revert="back")
    site.init()
    site.run("advance", "--to", "expand").expect(0)
    path = python(
        site, "# a comment and another layout\nconnection.execute(\n    'UPDATE counter SET n = 1',\n)", revert="back"
    )
    site.run("advance", "--to", "expand").expect(0)

    path.write_text(path.read_text().replace("n = 0", "n = 2"))
    assert "was edited while it is in flight" in site.run("advance", "--to", "contract").expect(7).out
    for there in (True, False):
        if not there:
            path.unlink()
        done = site.run("revert", ID, "--to", "none").expect(7)
        assert "the plan calls back(), which is no longer in the migration's file" in done.out
        assert (site.phase(ID), n(site)) == ("expand", 1)
    python(site, body, revert="back")
    site.run("revert", ID, "--to", "none").expect(0)
    assert n(site) == 0


# The rest of the house.

CASES = {
    "a trigger": Case(
        schema=USERS,
        changes=(
            """RunSQL(
                ["CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
                 "CREATE TRIGGER noted BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION noted()"],
                revert="DROP TRIGGER noted ON users; DROP FUNCTION noted()", locks={"users": "ACCESS EXCLUSIVE"})""",
            """RunSQL(contract="DROP VIEW people", locks={"people": "ACCESS EXCLUSIVE"})""",
        ),
        by_hand=(
            "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
            "CREATE TRIGGER noted BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION noted()",
            "DROP VIEW people",
        ),
    ),
    "a rename around it": Case(
        schema=USERS,
        changes=(
            """RunSQL("CREATE TABLE lands AS SELECT DISTINCT country FROM users", revert="DROP TABLE lands",
                      locks={"lands": "ACCESS EXCLUSIVE"})""",
            'RenameColumn("users", "country", "land")',
            """RunSQL(contract="COMMENT ON COLUMN users.land IS 'two letters'", takes_away=False,
                      locks={"users": "SHARE UPDATE EXCLUSIVE"})""",
        ),
        by_hand=(
            "CREATE TABLE lands (country text)", "ALTER TABLE users RENAME country TO land",
            "COMMENT ON COLUMN users.land IS 'two letters'",
        ),
    ),
    "an index": Case(
        schema=USERS,
        changes=(
            """RunSQL("CREATE INDEX CONCURRENTLY users_org ON users (org)", revert="DROP INDEX CONCURRENTLY users_org",
                      autocommit=True, probe="SELECT to_regclass('users_org') IS NOT NULL")""",
        ),
        by_hand=("CREATE INDEX users_org ON users (org)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_phases_bootstrap_and_ddl_by_hand_leave_the_same(pg: ScratchServer, tmp_path: Path, name: str) -> None:
    stage = Stage(pg, tmp_path, CASES[name])
    try:
        walk(stage, CASES[name])
    finally:
        stage.close()


def test_bootstrap_runs_them_at_once_unless_the_probe_says_that_they_are_done(site: Site) -> None:
    site.sql(*COUNTER, "CREATE TABLE users (id int)")
    for number, source in enumerate(BOTH.values(), 1):
        write(site, source, f"000{number}_it")
    index = (
        'RunSQL("CREATE INDEX CONCURRENTLY i ON users (id)", revert="DROP INDEX CONCURRENTLY i", autocommit=True, '
        "probe=\"SELECT to_regclass('i') IS NOT NULL\")"
    )
    write(site, f"from zdmigrate import Migration, RunSQL\nmigration = Migration({index})\n", "0003_index")
    write(site, f"from zdmigrate import Migration, RunSQL\nmigration = Migration({index})\n", "0004_index")
    site.init()
    done = site.run("bootstrap", "--format", "json").expect(0)
    assert n(site) == 222
    assert done.migration("0003_index")["message"] == "1 statements"
    assert "adopted" in done.migration("0004_index")["message"]
    site.run("bootstrap").expect(0)
    assert n(site) == 222


def test_claimed_tables_conflict_as_a_whole(site: Site) -> None:
    site.sql(*USERS)
    site.write("0001_rename", 'RenameColumn("users", "country", "land")')
    write(site, 'from zdmigrate import Migration, RunSQL\nmigration = Migration(RunSQL("SELECT 1", revert=[], '
          'tables=["public.users"]))\n', "0002_sql")  # fmt: skip
    write(site, 'from zdmigrate import Migration, RunSQL\nmigration = Migration(RunSQL("SELECT 1", revert=[], '
          'tables=["org"]))\n', "0003_other")  # fmt: skip
    site.init()
    site.run("advance", "0001", "--to", "expand").expect(0)
    assert "0001_rename, which is in flight" in site.run("advance", "0002").expect(6).out
    site.run("advance", "0003").expect(0)


def test_the_scratch_server_knows_what_is_in_flight(site: Site) -> None:
    site.sql(*USERS)
    site.write("0001_rename", 'RenameColumn("users", "country", "land")')
    write(
        site,
        'from zdmigrate import Migration, RunSQL\nmigration = Migration(RunSQL("ALTER TABLE users ADD c int DEFAULT 1", '
        'revert="ALTER TABLE users DROP c", locks={"users": "ACCESS EXCLUSIVE"}), requires=["0001_rename"])\n',
        "0002_sql",
    )
    site.init()
    site.run("advance", "0001", "--to", "dual_write").expect(0)
    site.run("plan", "--check-locks").expect(0)
    assert site.phase("0001_rename") == "dual_write"
    assert site.value("SELECT count(*) FROM pg_attribute WHERE attname = 'c'") == 0
