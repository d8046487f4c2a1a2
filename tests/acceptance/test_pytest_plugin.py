"""The pytest plugin, found by its entry point, in test runs of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.entry_point import distribution
from tests.support.servers import Database, connect
from zdmigrate.compat.footprint import Footprint
from zdmigrate.postgres.servers import ScratchServer

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]
RENAME = 'RenameColumn("users", "user_email", "email_address")'
SEED = """
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_email text NOT NULL UNIQUE);
    INSERT INTO users (user_email) VALUES ('first@example.org'), ('second@example.org');
"""
FORWARDS = ["none", "expand", "dual_write", "backfill", "switch_reads", "retire", "contract"]
BACKWARDS = ["switch_reads-reverted", "backfill-reverted", "dual_write-reverted", "expand-reverted", "none-reverted"]
COLUMNS = """
    import sqlalchemy as sa

    def test_columns(zd_engine):
        print("has", *sorted(column["name"] for column in sa.inspect(zd_engine).get_columns("users")))
    """
INI = """
    [pytest]
    addopts = --strict-markers --strict-config -p no:cacheprovider
    filterwarnings = error
"""


def _made(server: ScratchServer) -> frozenset[str]:
    """What checks have made on the server; other tests leave their roles there."""
    with server.connect() as connection:
        query = """
            SELECT datname::text FROM pg_database WHERE starts_with(datname, 'zd_check_')
            UNION SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, 'zd_check_')
        """
        return frozenset(row[0] for row in connection.execute(query).fetchall())


@dataclass(frozen=True, slots=True)
class Suite:
    """Somebody's project: a migration, a starting schema, tests, and a server to run them on."""

    pytester: pytest.Pytester
    server: ScratchServer
    before: frozenset[str]

    def leftovers(self) -> frozenset[str]:
        """Databases and roles that were made since."""
        return _made(self.server) - self.before

    def write(self, name: str, text: str) -> None:
        path = self.pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")

    def migration(self, id_: str, *changes: str) -> None:
        self.write(f"migrations/{id_}.py", f"from zdmigrate import *\nmigration = Migration({', '.join(changes)})\n")

    def plain(self, *args: str) -> pytest.RunResult:
        """pytest with these arguments only."""
        return self.pytester.runpytest_subprocess(*args)

    def run(self, *args: str) -> pytest.RunResult:
        """The phases of the first migration."""
        return self.plain("--zd-migration=0001", "--zd-dump=seed.sql", f"--zd-server-url={self.server.url()}", *args)


@pytest.fixture
def suite(pytester: pytest.Pytester, pg: ScratchServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Suite:
    for name in [name for name in os.environ if name.startswith(("ZDMIGRATE_", "PG", "PYTEST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(distribution(tmp_path / "installed")), str(ROOT)]))
    made = Suite(pytester, pg, _made(pg))
    made.migration("0001_email_address", RENAME)
    made.write("seed.sql", SEED)
    made.write("pytest.ini", INI)
    made.write("test_app.py", COLUMNS)
    return made


def said(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


def without_traceback(result: pytest.RunResult) -> str:
    text = said(result)
    assert not re.search(r"Traceback|\.py:\d+: \w+$|During handling|direct cause|^>  ", text, re.MULTILINE), text
    return text


def test_a_test_runs_once_in_each_phase_forwards_and_reverted(suite: Suite) -> None:
    result = suite.run("-v", "-rP")
    result.assert_outcomes(passed=12)
    names = re.findall(r"^test_app\.py::test_columns\[([\w-]+)\] PASSED", said(result), re.MULTILINE)
    assert names == [*FORWARDS, *BACKWARDS]
    seen = dict(zip(names, re.findall(r"^has (.+)$", said(result), re.MULTILINE), strict=True))
    assert seen["none"] == seen["none-reverted"] == "id user_email"
    assert seen["backfill"] == seen["backfill-reverted"] == "email_address id user_email"
    assert seen["contract"] == "email_address id"
    assert suite.leftovers() == frozenset()


def test_every_test_has_a_database_of_its_own_and_is_an_ordinary_role(suite: Suite) -> None:
    suite.write(
        "test_app.py",
        """
        import psycopg, pytest, sqlalchemy as sa
        from zdmigrate import Phase
        from zdmigrate.plan import Direction

        @pytest.mark.parametrize("number", range(2))
        def test_writes(zd_phase, zd_database_url, zd_engine, number):
            assert zd_phase.phase is Phase.BACKFILL
            assert zd_phase.direction in Direction
            with zd_engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO users (user_email) VALUES ('me@example.org')"))
                columns = "id, user_email, email_address"
                rows = connection.execute(sa.text(f"SELECT {columns} FROM users ORDER BY id")).all()
            assert [(row[1], row[2]) for row in rows[:2]] == [(f"{n}@example.org",) * 2 for n in ("first", "second")]
            assert rows[2:] == [(3, "me@example.org", "me@example.org")]
            assert sa.make_url(zd_database_url) == zd_engine.url

        def test_rights(zd_engine):
            with zd_engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")) is False
                with pytest.raises(sa.exc.ProgrammingError):
                    connection.execute(sa.text("DROP TABLE users"))

        LEFT_OPEN = []

        def test_that_leaves_a_connection_open(zd_database_url):
            LEFT_OPEN.append(psycopg.connect(zd_database_url.replace("+psycopg", "")))
            LEFT_OPEN[-1].execute("SELECT 1")

        def test_other(): pass
        """,
    )
    result = suite.run("--zd-phases", "backfill, dual_write-reverted", "-k", "not dual_write")
    result.assert_outcomes(passed=9, deselected=4)
    assert suite.leftovers() == frozenset()


def test_a_version_is_tested_where_the_plan_says_that_it_works(suite: Suite) -> None:
    suite.write("test_app.py", "def test_it(zd_phase): print(f'ran in {zd_phase}')")
    result = suite.run("--zd-version", "new", "--zd-phases", "dual_write,backfill,retire", "-rPs")
    result.assert_outcomes(passed=3, skipped=2)
    assert re.findall(r"ran in (.+)", said(result)) == ["backfill", "retire", "backfill (reverted)"]
    assert "the new version works from backfill on, says the plan" in said(result)
    result = suite.run("--zd-version", "old", "--zd-phases", "switch_reads,retire", "-rPs")
    assert re.findall(r"ran in (.+)", said(result)) == ["switch_reads", "switch_reads (reverted)"]
    assert "the old version works until switch_reads, says the plan" in said(result)


def test_without_a_migration_such_tests_are_skipped_and_say_why(suite: Suite) -> None:
    suite.write(
        "test_more.py", "def test_phase(zd_phase): pass\ndef test_url(zd_database_url): pass\ndef test_other(): pass"
    )
    result = suite.plain("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    assert said(result).count("give --zd-migration ID") == 3


def test_a_phase_that_fails_fails_the_tests_from_there_on(suite: Suite) -> None:
    suite.migration("0001_email_address", 'SetNotNull("users", "nick")')
    suite.write("seed.sql", f"{SEED} ALTER TABLE users ADD nick text;")
    result = suite.run("-v", "--zd-phases", "retire,contract,none-reverted")
    result.assert_outcomes(passed=2, errors=1)
    why = (
        "0001_email_address does not come to contract: contract cannot begin: row (0,1) of public.users is NULL in nick"
    )
    assert f"zdmigrate: {why}" in without_traceback(result)
    assert "test_columns[contract] ERROR" in said(result)


def test_states_that_there_cannot_be_are_skipped(suite: Suite) -> None:
    suite.migration("0001_email_address", 'RunSQL("UPDATE users SET user_email = lower(user_email)")')
    result = suite.run("-rs", "--zd-phases", "none,expand-reverted")
    print(said(result))
    assert "cannot come back so far: there is no state expand (reverted)" in said(result)
    assert result.parseoutcomes()["passed"] == 1


def test_rows_are_made_on_demand_and_before_the_first_phase(suite: Suite) -> None:
    suite.write("seed.sql", "CREATE TABLE users (id bigint PRIMARY KEY, user_email text NOT NULL)")
    suite.write(
        "test_app.py",
        """
        import sqlalchemy as sa

        def test_rows(zd_engine):
            with zd_engine.connect() as connection:
                rows = connection.execute(sa.text("SELECT user_email, email_address FROM users")).all()
            print("rows", len(rows), all(old == new for old, new in rows))
        """,
    )
    assert "rows 3 True" in said(suite.run("-rP", "--zd-phases=backfill", "-k", "not reverted", "--zd-rows"))
    assert "rows 0 True" in said(suite.run("-rP", "--zd-phases=backfill", "-k", "not reverted"))


@pytest.mark.parametrize(
    ("driver", "outcome"),
    [("psycopg2", "postgresql+psycopg2://"), ("asyncpg", "use create_async_engine(zd_database_url)")],
)
def test_the_driver_is_an_option(suite: Suite, driver: str, outcome: str) -> None:
    suite.write("test_app.py", "def test_it(zd_database_url, zd_engine): print(zd_database_url)")
    result = suite.run("-rP", "--zd-phases=none", "-k", "not reverted", f"--zd-driver={driver}")
    assert outcome in without_traceback(result)


def test_configuration_comes_from_the_files_of_pytest_and_of_zdmigrate(suite: Suite) -> None:
    """pytest's directory may be another, and its import path holds for the models."""
    suite.write("pytest.ini", INI + "    pythonpath = src\n    zd_migration =\n      0001\n    zd_phases = none\n")
    suite.write(
        "zdmigrate.toml", f"[check]\nmetadata = 'shop:Base'\nserver_url = {suite.server.url()!r}\ndriver = 'psycopg'\n"
    )
    suite.write(
        "src/shop.py",
        """
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

        class Base(DeclarativeBase): pass

        class User(Base):
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)
            user_email: Mapped[str]
        """,
    )
    suite.write(
        "tests/conftest.py",
        """
        import pytest

        @pytest.fixture(autouse=True, scope="session")
        def elsewhere(tmp_path_factory):
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("elsewhere"))
                yield
        """,
    )
    (suite.pytester.path / "test_app.py").rename(suite.pytester.path / "tests" / "test_app.py")
    suite.plain("tests").assert_outcomes(passed=2)
    suite.write("pytest.ini", INI + "    zd_migration = 0001\n    zd_phases = none\n    zd_dump = seed.sql\n")
    (suite.pytester.path / "src").rename(suite.pytester.path / "other")
    suite.plain("--rootdir", ".", "tests").assert_outcomes(passed=2)


def test_workers_have_servers_of_their_own_and_leave_nothing(suite: Suite) -> None:
    result = suite.run("-n2", "--zd-phases", "none,expand,backfill")
    result.assert_outcomes(passed=6)
    assert suite.leftovers() == frozenset()


def test_ctrl_c_leaves_nothing(suite: Suite) -> None:
    suite.write("test_app.py", "import os, signal\ndef test_it(zd_engine): os.kill(os.getpid(), signal.SIGINT)")
    result = suite.run("--zd-phases", "none")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert suite.leftovers() == frozenset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--zd-migration=0002"], "zdmigrate: there is no migration '0002'\nhint: "),
        (["--zd-migration=0001", "--zd-phases=both"], "--zd-phases: there is no phase 'both'\nhint: phases are none, "),
        (["--zd-migration=0001", "--zd-version=2"], "--zd-version: '2' is neither old nor new"),
        (["--zd-migration=0001", "--zd-pg=latest"], "--zd-pg: 'latest' is no major version"),
        (["--zd-migration=0001", "--zd-server=cloud"], "--zd-server: there is no kind of server 'cloud'\nhint: one of"),
        (["--zd-migration=0001", "--zd-config=nix.toml"], "nix.toml: cannot be read"),
        (["--zd-migration=0001", "--zd-dump=a", "--zd-metadata=b:B"], "--zd-dump and --zd-metadata both say where the"),
        (["--zd-migration=0001", "--zd-record=f.json"], "--zd-record wants the version's own database"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_before_anything_runs(suite: Suite, options: list[str], message: str) -> None:
    """In this process, where `-p` takes the entry point's place."""
    with pytest.raises(pytest.UsageError) as told:
        suite.pytester.parseconfigure("-p", "no:zdmigrate", "-p", "zdmigrate.pytest_plugin", *options)
    assert message in str(told.value)


def test_a_wrong_option_is_a_usage_error(suite: Suite) -> None:
    result = suite.plain("--zd-migration=0002")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert without_traceback(result).startswith("ERROR: zdmigrate: there is no migration '0002'\nhint: ")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--zd-dump=nix.sql"], ["nix.sql cannot be read"]),
        (["--zd-dump=new.sql"], ["0001_email_address.py:2: there is no column 'user_email' in public.users\nhint: "]),
        (["--zd-server-url=postgresql://me:c0nfidential@localhost:1/x"], ["no scratch server", "port=1 dbname=x user=me"]),
        (["--zd-app-role=nobody", "--zd-dump=granted.sql"], ["the role nobody has no rights", "hint: --zd-app-role shop"]),
    ],
)  # fmt: skip
def test_a_schema_or_server_that_cannot_be_had_fails_the_test_for_people(
    suite: Suite, options: list[str], messages: list[str]
) -> None:
    suite.write("new.sql", SEED.replace("user_email", "email_address"))
    suite.write("granted.sql", SEED + "GRANT SELECT ON users TO shop;")
    text = without_traceback(suite.run("--zd-phases=none", "-k", "not reverted", *options))
    assert [message for message in messages if message not in text] == []
    assert "c0nfidential" not in text
    assert suite.leftovers() == frozenset()


def test_a_test_that_cannot_run_once_in_each_phase_says_so(suite: Suite) -> None:
    suite.write("test_app.py", "def test_it(request): request.getfixturevalue('zd_phase')")
    assert "must be asked for by the test's arguments" in without_traceback(suite.run())


# Recording


SHOP = """
    import os, subprocess, sys
    import psycopg

    URL = os.environ["DATABASE_URL"]

    def test_here():
        with psycopg.connect(URL) as connection:
            connection.execute("SELECT user_email FROM users WHERE id = %s", [1])

    def test_in_a_child():
        code = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT count(*) FROM users')"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_that_may_fail():
        assert "FAIL" not in os.environ
    """
MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase): pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        user_email: Mapped[str]
    """
SENT = ["SELECT count(*) FROM users", "SELECT user_email FROM users WHERE id = $1"]


@pytest.fixture
def shop(suite: Suite, database: Database, monkeypatch: pytest.MonkeyPatch) -> Suite:
    with connect(database) as connection:
        connection.execute(SEED.encode())
    monkeypatch.setenv("DATABASE_URL", database.conninfo)
    suite.write("test_app.py", SHOP)
    suite.write("models.py", MODELS)
    return suite


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_a_test_run_records_its_own_footprint(shop: Suite, workers: list[str]) -> None:
    names = ["--zd-record-models=models:Base", "--zd-record-application=shop", "--zd-record-version=2.4"]
    result = shop.plain("--zd-record=fp/2.4.json", *names, *workers)
    result.assert_outcomes(passed=3)
    assert "fp/2.4.json: shop 2.4: 1 table, 2 statements" in said(result)
    found = Footprint.read(shop.pytester.path / "fp" / "2.4.json")
    assert (found.application, found.version) == ("shop", "2.4")
    assert [table.name for table in found.tables] == ["users"]
    assert [statement.sql for statement in found.statements] == SENT
    assert found.statements[1].places == ("test_app.py:9",)
    assert not any(parameter.samples for statement in found.statements for parameter in statement.parameters)


def test_literals_are_kept_on_demand(shop: Suite) -> None:
    shop.plain("--zd-record=fp.json", "--zd-record-literals").assert_outcomes(passed=3)
    found = Footprint.read(shop.pytester.path / "fp.json")
    assert found.statements[1].parameters[0].samples == ("1",)


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ([], {"FAIL": "1"}, "fp.json is not written: the tests did not pass"),
        (["-k", "may_fail"], {}, "none sent a statement to PostgreSQL\nhint: do the tests need a variable"),
        (["--zd-record-models=nix:Base"], {}, "there is no module nix\nhint: "),
        (["--zd-record=test_app.py/fp.json"], {}, "cannot be written: File exists\nhint: --zd-record names the file"),
    ],
)  # fmt: skip
def test_what_could_not_be_recorded_leaves_the_file_and_fails(
    shop: Suite, monkeypatch: pytest.MonkeyPatch, options: list[str], variables: dict[str, str], message: str
) -> None:
    good = shop.pytester.path / "fp.json"
    good.write_bytes(Footprint.of(version="good").to_bytes())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = shop.plain("--zd-record=fp.json", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert message in said(result)
    assert "Traceback" not in said(result)
    assert Footprint.read(good).version == "good"


def test_a_run_that_is_recorded_from_outside_is_not_recorded_twice(shop: Suite) -> None:
    """And zdmigrate, imported before pytest, is nothing that pytest warns of."""
    command = [sys.executable, "-m", "zdmigrate", "record", "--out", "fp.json", "--", sys.executable, "-m", "pytest"]
    assert shop.pytester.run(*command).ret == 0
    assert [each.sql for each in Footprint.read(shop.pytester.path / "fp.json").statements] == SENT
    refused = shop.pytester.run(*command, "--zd-record=x.json")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "recorded already: zdmigrate record or --zd-record, not both" in without_traceback(refused)


# Not used, it costs nothing


IMPORTED = """
    import sys, time
    import pytest
    before, start = set(sys.modules), time.process_time()
    import zdmigrate.pytest_plugin
    print(*sorted(set(sys.modules) - before), round(time.process_time() - start, 3))
    """


def test_the_plugin_imports_nothing_but_itself(suite: Suite) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(IMPORTED)], capture_output=True, text=True, check=True)
    *modules, seconds = done.stdout.split()
    assert modules == ["zdmigrate", "zdmigrate.pytest_plugin", "zdmigrate.testing", "zdmigrate.testing.options"]
    assert float(seconds) < 0.1


def test_a_run_without_its_options_imports_nothing_heavy(suite: Suite) -> None:
    suite.write(
        "test_app.py",
        """
        import sys

        def test_modules(pytestconfig):
            assert pytestconfig.pluginmanager.get_plugin("zdmigrate").__name__ == "zdmigrate.pytest_plugin"
            heavy = {"sqlalchemy", "psycopg", "msgspec", "click", "zdmigrate.config", "zdmigrate.compat"}
            assert not heavy & set(sys.modules)
        """,
    )
    suite.plain("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_it_can_be_switched_off(suite: Suite) -> None:
    suite.write("test_app.py", "def test_it(): pass")
    suite.plain("-p", "no:zdmigrate").assert_outcomes(passed=1)
    refused = suite.plain("-p", "no:zdmigrate", "--zd-migration=0001")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments" in said(refused)


def test_every_option_is_in_pytests_help(suite: Suite) -> None:
    text = said(suite.plain("--help"))
    for name in (
        "migration ID",
        "phases PHASE",
        "version old",
        "dump FILE",
        "record FILE",
        "record-models MODULE:ATTR",
    ):
        assert f"--zd-{name}" in re.sub(r"[= ]", " ", text)
