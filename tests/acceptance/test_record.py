"""`zdmigrate record`: a small application, and what is written down of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Database, base_for_tests, connect
from zdmigrate.compat.footprint import Footprint, Parameter, Statement
from zdmigrate.errors import ZdmigrateError
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests" / "support" / "footprint_app"
EVERYTHING = (
    "psycopg", "psycopg_async", "psycopg2", "asyncpg", "orm", "orm_psycopg2", "orm_pg8000", "orm_async", "orm_asyncpg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recorder:
    """The command line in a directory with the application on its path."""

    database: Database
    directory: Path

    def __call__(self, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return self.process([sys.executable, "-m", "zdmigrate", "record", *args], cwd=cwd, env=env)

    def process(
        self, args: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ZDMIGRATE_", "PG"))}
        given = clean | {
            "DATABASE_URL": self.database.url,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(APP)]),
            **(env or {}),
        }
        return subprocess.run(args, cwd=cwd or self.directory, env=given, capture_output=True, text=True, check=False)

    def footprint(self, *args: str) -> Footprint:
        done = self("--out", "footprint.json", *args)
        assert done.returncode == 0, done.stderr
        return Footprint.read(self.directory / "footprint.json")

    def script(self, body: str, name: str = "script.py") -> str:
        (self.directory / name).write_text(textwrap.dedent(body))
        return name

    def recorded(self, body: str, *options: str) -> dict[str, Statement]:
        """The statements of a script."""
        found = self.footprint(*options, "--", sys.executable, self.script(body))
        return {each.sql: each for each in found.statements}


@pytest.fixture
def record(database: Database, tmp_path: Path) -> Recorder:
    with connect(database) as connection:
        connection.execute("CREATE TABLE people (id serial PRIMARY KEY, kind text, email text, nick text)")
    return Recorder(database, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pg: Any) -> dict[str, Statement]:
    pg.create_database("recorded")
    try:
        made = Recorder(Database(pg, "recorded"), tmp_path_factory.mktemp("recorded"))
        assert made.process([sys.executable, "-m", "shop.work", "setup"]).returncode == 0
        done = made("--out", "all.json", "--", sys.executable, "-m", "shop.work", *EVERYTHING)
        assert done.returncode == 0, done.stderr
        assert "not everything" not in done.stderr
        text = (made.directory / "all.json").read_text()
        assert "secret" not in text
        assert "example.org" not in text
        return {each.sql: each for each in Footprint.read(made.directory / "all.json").statements}
    finally:
        pg.drop_database("recorded")


UNKNOWN = Parameter(types=("unknown",))


def text(longest: int, *, null: bool = False) -> Parameter:
    return Parameter(types=("unknown",), longest=longest, null=null)


@pytest.mark.parametrize(
    ("sql", "parameters", "prepared"),
    [
        # psycopg
        ("SELECT id FROM people WHERE email = $1 OR nick = $1", (text(2),), True),
        ("SELECT email FROM people WHERE id = $1", (Parameter(types=("int2", "int4"), null=True),), True),
        ("SELECT email FROM people WHERE id = ANY($1)", (Parameter(types=("_int2",), longest=3),), True),
        ("INSERT INTO people (kind, email) VALUES ($1, $2)", (text(6), text(3)), True),
        ("SELECT kind FROM people", (), False),
        ("COPY people (kind, email) FROM STDIN", (), False),
        ("COPY (SELECT nick FROM people WHERE kind = NULL) TO STDOUT", (), False),
        (
            "SELECT id + $1 FROM people WHERE email = $2 AND now() > now() - CAST($3 AS interval)",
            (Parameter(types=("int4",)), text(6), text(5)), False,
        ),
        ("SELECT nick FROM people WHERE id = $1", (Parameter(types=("int2",)),), True),
        ("SELECT email, nick FROM people WHERE kind = $1", (text(6),), False),
        ("SELECT id, nick FROM people", (), False),
        ("SELECT kind, nick FROM people WHERE email = $1", (text(5),), True),
        # psycopg2
        ("SELECT id AS two FROM people WHERE email IN ($1) AND id < $2", (text(1), Parameter(types=("int4",))), False),
        ("SELECT kind AS two FROM people WHERE email = $1 OR nick = $1", (text(0, null=True),), False),
        ("INSERT INTO people (kind, email, id) VALUES ($1, $2, $3)", (text(6), text(3), Parameter(types=("int4",))), False),
        ("COPY people (email) TO STDOUT", (), False),
        ('COPY "people" ("kind", "email") FROM STDIN', (), False),
        # asyncpg
        ("SELECT id AS apg FROM people WHERE email = $1", (text(3),), True),
        ("SELECT nick AS apg FROM people WHERE id = ANY($1)", (text(4),), True),
        ("SELECT kind AS apg FROM people WHERE id > $1", (UNKNOWN,), True),
        ("UPDATE people SET nick = $1 WHERE email = $2", (text(2, null=True), text(6)), True),
        ('COPY "people"("kind", "email") FROM STDIN (FORMAT binary)', (), False),
        ("COPY (SELECT email AS apg FROM people WHERE kind = NULL) TO STDOUT", (), False),
        ("DELETE FROM people WHERE email = $1", (text(3),), True),
        ("SELECT email AS uncached FROM people WHERE id = $1", (UNKNOWN,), False),
        # SQLAlchemy: psycopg and asyncpg write types, the others do not
        ("SELECT people.id FROM people WHERE people.email IN ($1::VARCHAR)", (text(1),), True),
        ("SELECT people.id FROM people WHERE people.email IN ($1)", (text(1),), False),
        ("SELECT email FROM people WHERE nick = $1 AND id > 100000", (text(6),), True),
        (
            "SELECT people.email FROM people WHERE people.id = $1::INTEGER",
            (Parameter(types=("int4", "unknown")),), True,
        ),
    ],
)  # fmt: skip
def test_what_each_driver_sends(
    whole: dict[str, Statement],
    sql: str,
    parameters: tuple[Parameter, ...],
    prepared: bool,  # noqa: FBT001
) -> None:
    found = whole[sql]
    assert (found.parameters, found.prepared) == (parameters, prepared)
    assert all(re.fullmatch(r"shop/work\.py:\d+", place) for place in found.places)
    assert found.places


def test_rows_of_inserts_are_one(whole: dict[str, Statement]) -> None:
    assert len([sql for sql in whole if "imp_sen" in sql]) <= 3
    assert not [sql for sql in whole if "), (" in sql]


def test_nothing_of_the_drivers_own(whole: dict[str, Statement]) -> None:
    assert not [
        sql for sql in whole if re.search(r"(?i)pg_|set_config|version\(\)|current_schema|^(begin|show|set)", sql)
    ]


def test_models_command_and_other_footprints_in_one_file(record: Recorder) -> None:
    first = record.footprint("--models", "shop.models:Base", "--application", "shop", "--version", "2.4.0")
    assert [table.name for table in first.tables] == ["orders", "people"]
    (record.directory / "footprint.json").rename(record.directory / "models.json")
    both = record.footprint("--merge", "models.json", "--", sys.executable, "-m", "shop.work", "psycopg_async")
    assert (both.application, both.version, both.tables) == ("shop", "2.4.0", first.tables)
    assert [each.sql for each in both.statements] == ["SELECT kind, nick FROM people WHERE email = $1"]


def test_without_a_file_it_is_on_stdout(record: Recorder) -> None:
    script = record.script(
        "import psycopg, os; print('noise'); psycopg.connect(os.environ['DATABASE_URL']).execute('TABLE people')"
    )
    done = record("--", sys.executable, script)
    found = Footprint.from_bytes(done.stdout.encode(), name="stdout")
    assert [each.sql for each in found.statements] == ["TABLE people"]
    assert "noise" in done.stderr


def test_what_uses_temporary_tables_is_not_kept(record: Recorder) -> None:
    script = record.script(
        """
        import os, psycopg
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute('CREATE TEMP TABLE IF NOT EXISTS "Chosen" AS SELECT 1 AS id')
            connection.execute("CREATE TABLE kept (id int)")
            connection.execute('INSERT INTO kept SELECT id FROM "Chosen"')
            connection.execute("SELECT id INTO TEMPORARY others FROM kept")
            connection.execute("DELETE FROM others")
            connection.execute("SELECT id AS others FROM kept")
        """
    )
    done = record("--out", "footprint.json", "--", sys.executable, script)
    assert "not kept, because they use temporary tables: statements that name Chosen, others" in done.stderr
    found = Footprint.read(record.directory / "footprint.json").statements
    assert [statement.sql for statement in found] == ["SELECT id AS others FROM kept"]


def test_literals_are_kept_on_demand_only(record: Recorder) -> None:
    body = """
        import os, datetime, psycopg
        with psycopg.connect(os.environ["DATABASE_URL"]) as c:
            for value in ("d", "c", "b", "a"):
                c.execute("SELECT id FROM people WHERE email = %s AND kind = 'fixed' AND id = %s", [value, 70000])
            c.execute("SELECT %s::date", [datetime.date(2026, 1, 2)])
        """
    sql = "SELECT id FROM people WHERE email = $1 AND kind = $2 AND id = $3"
    found = record.recorded(body, "--literals")
    assert [p.samples for p in found[sql].parameters] == [("a", "b", "c"), ("fixed",), ("70000",)]
    assert found["SELECT $1::date"].parameters[0].samples == ("2026-01-02",)
    assert [p.samples for p in record.recorded(body)[sql].parameters] == [(), (), ()]


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_processes_that_are_forked_and_killed(record: Recorder, end: str) -> None:
    found = record.recorded(
        f"""
        import os, subprocess, sys, psycopg
        URL = os.environ["DATABASE_URL"]
        def ask(sql):
            psycopg.connect(URL).execute(sql)
        ask("SELECT 'x' AS parent FROM people")
        child = os.fork()
        if child == 0:
            os.closerange(3, 100)
            os.chdir("/")
            ask("SELECT 'x' AS forked FROM people")
            {end}
        os.waitpid(child, 0)
        subprocess.run([sys.executable, "-c", "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'])"
                        ".execute('SELECT 1 AS started FROM people')"], check=True)
        """
    )
    assert list(found) == [
        "SELECT $1 AS forked FROM people",
        "SELECT $1 AS parent FROM people",
        "SELECT 1 AS started FROM people",
    ]


def test_an_existing_sitecustomize_is_executed_too(record: Recorder) -> None:
    (record.directory / "own").mkdir()
    (record.directory / "own" / "sitecustomize.py").write_text("import builtins; builtins.customized = __name__\n")
    script = record.script(
        """
        import os, sys, psycopg
        assert customized == "sitecustomize"
        assert sys.modules["sitecustomize"].__file__.endswith("own/sitecustomize.py")
        assert not any("recording" in entry for entry in sys.path), sys.path
        assert "sqlalchemy" not in sys.modules and "asyncpg" not in sys.modules and "msgspec" not in sys.modules
        psycopg.connect(os.environ["DATABASE_URL"]).execute("TABLE people")
        """
    )
    path = os.pathsep.join([str(ROOT), str(record.directory / "own")])
    done = record("--out", "x.json", "--", sys.executable, script, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


def test_an_interpreter_without_zdmigrate_is_recorded(record: Recorder) -> None:
    """The one below this environment, with the environment's packages on its path."""
    inner = record.script(
        """
        import importlib.machinery, os, sys, psycopg
        psycopg.connect(os.environ["DATABASE_URL"]).execute("TABLE people")
        assert importlib.machinery.PathFinder.find_spec("zdmigrate", sys.path) is None
        """
    )
    packages = record.directory / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "zdmigrate" not in path.name:
            (packages / path.name).symlink_to(path)
    outer = record.script(
        f"""
        import os, subprocess, sys
        paths = [os.environ["PYTHONPATH"].split(os.pathsep)[0], {str(packages)!r}]
        env = os.environ | {{"PYTHONPATH": os.pathsep.join(paths)}}
        sys.exit(subprocess.run([sys._base_executable, {inner!r}], env=env).returncode)
        """,
        "outer.py",
    )
    found = record.footprint("--", sys.executable, outer)
    assert [each.sql for each in found.statements] == ["TABLE people"]


def test_an_interpreter_with_a_zdmigrate_that_cannot_record(record: Recorder) -> None:
    (record.directory / "other" / "zdmigrate").mkdir(parents=True)
    (record.directory / "other" / "zdmigrate" / "__init__.py").touch()
    command = f'PYTHONPATH="${{PYTHONPATH%%:*}}:{record.directory}/other" exec {sys.executable} -c 1'
    done = record("--", "sh", "-c", command)
    assert done.returncode == 1
    assert "the recorder did not start in" in done.stderr


def test_the_recorder_breaks_nothing_when_it_fails(record: Recorder) -> None:
    script = record.script(
        """
        import os, psycopg
        import zdmigrate.compat.recording.recorder as recorder
        def broken(*args, **options): raise ValueError("a secret value")
        recorder.normalised = broken
        assert psycopg.connect(os.environ["DATABASE_URL"]).execute("SELECT 1 AS x FROM people").fetchall() == []
        """
    )
    done = record("--out", "x.json", "--", sys.executable, script)
    assert done.returncode == 1
    assert "a statement was not recorded: ValueError at script.py:4" in done.stderr
    assert "secret value" not in done.stderr


def test_a_command_that_fails_writes_nothing(record: Recorder) -> None:
    good = record.directory / "x.json"
    good.write_text("before")
    script = record.script(
        "import os, sys, psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('TABLE people'); sys.exit(7)"
    )
    done = record("--out", "x.json", "--", sys.executable, script)
    assert (done.returncode, good.read_text()) == (7, "before")
    assert "ended with 7; nothing was written" in done.stderr
    done = record("--out", "x.json", "--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)")
    assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "nothing to record from"),
        (("--", "no-such-command"), 2, "no-such-command cannot be run"),
        (("--models", "shop.models:Nothing"), 2, "shop.models has no Nothing"),
        (("--merge", "missing.json"), 2, "missing.json cannot be read"),
        (("--app-role", "x", "--models", "shop.models:Base"), 2, "--app-role needs --pg-stat-statements"),
        (("--out", "/proc/x.json", "--models", "shop.models:Base"), 2, "/proc/x.json cannot be written"),
        (("--git", "HEAD", "--merge", "x"), 2, "x cannot be read"),
        (("--", sys.executable, "-c", "1"), 1, "1 Python processes of"),
        (("--", sys.executable, "-I", "-c", "1"), 1, "no Python process of"),
        (("--", sys.executable, "-E", "-m", "this"), 1, "no Python process of"),
        (("--", "true"), 1, "no Python process of true was recorded"),
    ],
)
def test_what_is_wrong_is_said(record: Recorder, args: tuple[str, ...], code: int, message: str) -> None:
    done = record(*args)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert "hint: " in done.stderr or "Usage: " in done.stderr


SUITE = """
    import os, psycopg, pytest
    from shop.work import url
    import sqlalchemy as sa
    ENGINE = sa.create_engine(url("psycopg"))

    def find(connection, sql, *values):
        return connection.exec_driver_sql(sql, values).all()

    @pytest.mark.parametrize("number", range(40))
    def test_statements(number):
        with ENGINE.connect() as connection:
            find(connection, f"SELECT id AS c{number % 7} FROM people WHERE email = %s", "x" * number)
            find(connection, "SELECT id FROM people WHERE id = %s", 10 ** (number % 12) if number % 3 else None)
            connection.execute(sa.text("SELECT kind FROM people WHERE id IN (" + ",".join(map(str, range(number + 1))) + ")"))

    def test_other_place():
        with ENGINE.connect() as connection:
            connection.exec_driver_sql("SELECT id FROM people WHERE id = %s", (1,))
"""


def test_two_recordings_of_a_suite_are_the_same_bytes(record: Recorder) -> None:
    record.script(SUITE, "test_suite.py")
    (record.directory / "pytest.ini").write_text("[pytest]\n")
    found = []
    for number, workers in enumerate(("0", "2", "2", "0")):
        command = (sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", "test_suite.py")
        done = record("--out", f"{number}.json", "--", *command)
        assert done.returncode == 0, done.stderr
        found.append((record.directory / f"{number}.json").read_bytes())
    assert len(set(found)) == 1
    statements = {each.sql: each for each in Footprint.from_bytes(found[0], name="it").statements}
    assert len(statements) == 7 + 1 + 2
    types = statements["SELECT id FROM people WHERE id = $1"].parameters[0]
    assert types == Parameter(types=("int2", "int4", "int8"), null=True)
    assert statements["SELECT id FROM people WHERE id = $1"].places == ("test_suite.py:19", "test_suite.py:8")


def test_another_revision(record: Recorder) -> None:
    def git(*command: str) -> str:
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *command], cwd=record.directory, capture_output=True, text=True, check=True
        )
        return done.stdout

    model = "import sqlalchemy as sa\nmetadata = sa.MetaData()\nsa.Table('t', metadata, sa.Column('{}', sa.Integer))\n"
    models = record.directory / "mine.py"
    git("init", "-q")
    models.write_text(model.format("old"))
    record.script(
        "import os, psycopg, mine; psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 1 AS old FROM people')"
    )
    git("add", ".")
    git("commit", "-q", "-m", "old")
    git("tag", "v1")
    models.write_text(model.format("new"))

    found = record.footprint(
        "--models", "mine:metadata", "--git", "v1", "--version", "1", "--", sys.executable, "script.py"
    )
    assert [column.name for column in found.tables[0].columns] == ["old"]
    assert [(each.sql, each.places) for each in found.statements] == [("SELECT 1 AS old FROM people", ("script.py:1",))]
    assert [column.name for column in record.footprint("--models", "mine:metadata").tables[0].columns] == ["new"]
    for args, message in (
        (("--models", "mine:metadata", "--git", "v9"), "git knows no revision 'v9'"),
        (("--models", "mine:nothing", "--git", "v1"), "mine has no nothing"),
        (("--models", "shop.models:Base", "--git", "v1"), "and not from the revision"),
        (("--git", "v1", "--merge", "footprint.json"), "--git needs --models or a command"),
    ):
        done = record(*args)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    assert git("worktree", "list").count("\n") == 1
    assert git("status", "--porcelain", "mine.py") == " M mine.py\n"


def test_a_server_without_statistics(record: Recorder) -> None:
    done = record("--pg-stat-statements", "--url", record.database.url)
    assert done.returncode == 1
    assert "this database has no pg_stat_statements" in done.stderr


def test_statements_that_the_server_has_counted(pg_binaries: ServerBinaries, tmp_path: Path) -> None:
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    try:
        server = ScratchServer.start(pg_binaries, settings=settings, base=base_for_tests())
    except ZdmigrateError:
        pytest.skip("this server comes without pg_stat_statements")
    with server:
        server.create_database("shop")
        database = Database(server, "shop")
        with connect(database) as connection:
            for statement in (
                "CREATE EXTENSION pg_stat_statements", "CREATE ROLE app", "CREATE TABLE people (id int, email text)",
                "GRANT ALL ON people TO app", "SELECT id AS mine FROM people WHERE email = 'secret' AND id IN (1, 2, 3)",
                "SET ROLE app", "SELECT id AS theirs FROM people WHERE email > concat('a', now() - interval '1 day')",
            ):  # fmt: skip
                connection.execute(statement.encode())
        record = Recorder(database, tmp_path)
        mine = "SELECT id AS mine FROM people WHERE email = $1 AND id IN ($2)"
        theirs = "SELECT id AS theirs FROM people WHERE email > concat(CAST($1 AS text), now() - CAST($2 AS interval))"
        found = record.footprint("--pg-stat-statements", "--url", database.url)
        assert [each.sql for each in found.statements] == [mine, theirs]
        found = record.footprint("--pg-stat-statements", "--app-role", "app", "--url", database.url)
        assert [(each.sql, each.parameters) for each in found.statements] == [(theirs, (UNKNOWN, UNKNOWN))]


def test_ten_thousand_statements_are_small() -> None:
    """As ORMs write them: half a dozen columns, two parameters, the place."""
    columns = ", ".join(f"orders.{name}" for name in ("id", "customer_id", "state", "total", "created_at"))
    statements = [
        Statement(
            sql=f"SELECT {columns} FROM orders WHERE orders.column_{n} = $1::INTEGER AND orders.state = $2::VARCHAR",
            parameters=(Parameter(types=("int2",)), Parameter(types=("unknown",), longest=12)),
            places=(f"shop/orders.py:{n}",),
        )
        for n in range(10_000)
    ]
    assert len(Footprint.of(statements=statements).to_bytes()) < 3_000_000


def test_a_document_for_pipelines(record: Recorder) -> None:
    done = record("--models", "shop.models:Base", "--out", "x.json", "--format", "json")
    found = json.loads(done.stdout)
    assert (found["tables"], found["statements"], found["file"]) == (2, 0, "x.json")
