"""Both names of a renamed table, used by real sessions before, while and after they swap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.catalogue import EVERYTHING, ID, Case, Stage
from tests.support.processes import until
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer

SCHEMA = (
    """CREATE TABLE users (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        email text NOT NULL CONSTRAINT users_email_key UNIQUE,
        amount integer DEFAULT 7,
        number serial,
        twice integer GENERATED ALWAYS AS (amount * 2) STORED
    )""",
    "CREATE UNIQUE INDEX users_lower ON users (lower(email))",
    """CREATE FUNCTION checked() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN IF NEW.email = ''nobody'' THEN RETURN NULL; END IF; RETURN NEW; END'""",
    "CREATE TRIGGER checked BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION checked()",
    "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON users TO app",
    "GRANT USAGE ON SEQUENCE users_number_seq TO app",
    "INSERT INTO users (email) VALUES ('one'), ('two'), ('secret')",
)
SECRET = (
    "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY open ON users TO app USING (email <> 'secret') WITH CHECK (true)",
)
_numbers = itertools.count(1)


def case(writes: str = "upsert", *more: str) -> Case:
    return Case(schema=(*SCHEMA, *more), changes=(f'RenameTable("users", "people", writes="{writes}")',), by_hand=())


Make = Callable[[Case], tuple[Stage, str]]


@pytest.fixture
def make(pg: ScratchServer, tmp_path: Path) -> Iterator[Make]:
    stages: list[Stage] = []

    def made(one: Case) -> tuple[Stage, str]:
        stages.append(Stage(pg, tmp_path, one))
        return stages[-1], stages[-1].make()

    with pg.connect("postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE app LOGIN")
        yield made
        for stage in stages:
            stage.close()
        connection.execute("DROP ROLE app")


class App:
    """An application's session that uses one of the names, for which ``@`` stands."""

    def __init__(self, server: ScratchServer, database: str, name: str) -> None:
        self.name = name
        conninfo = server.conninfo(database, user="app")
        self.connection: psycopg.Connection[Any] = psycopg.connect(conninfo, autocommit=True, prepare_threshold=0)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.replace("@", self.name).encode())
        return cursor.fetchall() if cursor.description else []

    def copy(self, data: str) -> None:
        with self.connection.cursor().copy(f"COPY {self.name} (email) FROM STDIN".encode()) as copy:
            copy.write(data)

    def fails(self, statement: str) -> bool:
        try:
            self.run(statement)
        except psycopg.Error:
            return True
        return False


def everyday(app: App) -> None:
    """What every application does, through either name in every phase."""
    email = f"e{next(_numbers)}"
    ((id_, amount, twice),) = app.run(f"INSERT INTO @ (email) VALUES ('{email}') RETURNING id, amount, twice")
    assert (amount, twice) == (7, 14)
    assert app.run(f"SELECT email FROM @ WHERE id = {id_} FOR UPDATE") == [(email,)]
    assert app.run(f"UPDATE @ SET amount = amount + 1 WHERE id = {id_} RETURNING twice") == [(16,)]
    defaults = f"INSERT INTO @ (id, email, amount) VALUES (DEFAULT, '{email}-d', DEFAULT) RETURNING amount"
    assert app.run(defaults) == [(7,)]
    nothing = f"INSERT INTO @ (email, amount) VALUES ('{email}-n', NULL) RETURNING amount, twice"
    assert app.run(nothing) == [(None, None)]
    given = f"INSERT INTO @ (id, email) OVERRIDING SYSTEM VALUE VALUES (-{id_}, '{email}-i') RETURNING id"
    assert app.run(given) == [(-id_,)]
    assert app.run("INSERT INTO @ (email) VALUES ('nobody') RETURNING id") == []
    assert app.run(f"SELECT u.id FROM @ u JOIN @ v USING (id) WHERE v.email = '{email}'") == [(id_,)]
    with app.connection.cursor().copy(f"COPY (SELECT id FROM {app.name}) TO STDOUT".encode()) as copy:
        assert len(list(copy.rows())) > 3
    with pytest.raises(psycopg.errors.UniqueViolation):
        app.run(f"INSERT INTO @ (email) VALUES ('{email}')")
    with app.connection.transaction():
        app.run("LOCK TABLE @ IN ROW EXCLUSIVE MODE")
        assert app.run(f"DELETE FROM @ WHERE id = {id_} RETURNING email") == [(email,)]


def upsert(app: App) -> None:
    email = f"u{next(_numbers)}"
    for amount in (7, 8):
        statement = (
            f"INSERT INTO @ (email) VALUES ('{email}') "
            "ON CONFLICT (email) DO UPDATE SET amount = @.amount + 1 WHERE @.amount < 9 RETURNING amount"
        )
        assert app.run(statement) == [(amount,)]
    again = f"INSERT INTO @ (email) VALUES ('{email.upper()}') ON CONFLICT (lower(email)) DO NOTHING RETURNING 1"
    assert app.run(again) == []
    assert app.run(f"INSERT INTO @ (email) VALUES ('{email}') ON CONFLICT DO NOTHING RETURNING 1") == []


def copied(app: App) -> None:
    email = f"c{next(_numbers)}"
    app.copy(f"{email}\n{email}-2\nnobody\n")
    assert app.run(f"SELECT amount, number IS NULL FROM @ WHERE email LIKE '{email}%'") == [(7, False)] * 2


TABLES_ONLY = (
    "TRUNCATE @",
    "SELECT ctid FROM @",
    "SELECT FROM @ TABLESAMPLE SYSTEM (10)",
    "INSERT INTO @ (email) VALUES ('x') ON CONFLICT ON CONSTRAINT users_email_key DO NOTHING",
)
MERGE = "MERGE INTO @ t USING (VALUES ('two')) v(e) ON t.email = e WHEN MATCHED THEN UPDATE SET amount = 1"


def as_table(app: App) -> None:
    everyday(app)
    upsert(app)
    copied(app)
    app.run(MERGE)


def as_view(app: App, writes: str, major: int) -> None:
    everyday(app)
    for statement in TABLES_ONLY:
        assert app.fails(statement), statement
    assert app.fails("COPY @ TO STDOUT")
    assert app.run("SELECT pg_get_serial_sequence('@', 'id')") == [(None,)]
    assert app.fails(MERGE) == (major < 17)
    if writes == "copy":
        copied(app)
        assert app.fails("INSERT INTO @ (email) VALUES ('two') ON CONFLICT (email) DO NOTHING")
        assert app.fails("INSERT INTO @ (email) VALUES ('two') ON CONFLICT DO NOTHING")
    else:
        upsert(app)
        with pytest.raises(psycopg.errors.WrongObjectType):
            app.copy("x\n")


@pytest.mark.parametrize("writes", ["upsert", "copy"])
def test_what_works_through_each_name(make: Make, pg: ScratchServer, writes: str) -> None:
    stage, database = make(case(writes))
    old, new = (App(pg, database, name) for name in ("users", "people"))
    with stage.project(database) as project:
        (plan,) = project.plan([])
        assert plan.window.new_from is Phase.EXPAND
        assert plan.window.old_until is Phase.RETIRE
        as_table(old)
        for phase in (Phase.EXPAND, Phase.BACKFILL):
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            as_table(old)
            as_view(new, writes, pg.major)
        for phase in (Phase.SWITCH_READS, Phase.RETIRE):
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            as_view(old, writes, pg.major)
            as_table(new)
        assert project.revert(ID, target=Phase.BACKFILL, overrides=EVERYTHING).exit_code == 0
        as_table(old)
        as_view(new, writes, pg.major)
        project.unhold(ID)
        assert project.advance([], target=Phase.CONTRACT, overrides=EVERYTHING).exit_code == 0
        as_table(new)
        assert old.fails("SELECT FROM @")
        assert project.revert(ID, target=Phase.RETIRE, overrides=EVERYTHING).exit_code == 0
        as_view(old, writes, pg.major)
        assert project.verify([]).exit_code == 0
    for app in (old, new):
        app.connection.close()


@pytest.mark.parametrize(("writes", "said"), [("upsert", "COPY … FROM"), ("copy", "cannot use ON CONFLICT")])
def test_the_limits_are_announced_and_have_to_be_accepted(make: Make, writes: str, said: str) -> None:
    stage, database = make(case(writes))
    with stage.project(database) as project:
        (plan,) = project.plan([])
        assert [(h.id, h.phase, h.accept) for h in plan.hazards] == [
            ("C04", Phase.EXPAND, "view_limits"), ("C04", Phase.SWITCH_READS, "view_limits"),
        ]  # fmt: skip
        assert all(said in hazard.message for hazard in plan.hazards)
        for phase in (Phase.EXPAND, Phase.SWITCH_READS):
            (refused,) = project.advance([], target=phase).migrations
            assert refused.exit_code == 6
            assert said in str(refused.message)
            assert project.advance([], target=phase, overrides={"view_limits": "nobody does"}).exit_code == 0


STATEMENTS = (
    "SELECT id, email FROM @ WHERE email = 'one'",
    "SELECT * FROM @ WHERE email = 'one' FOR UPDATE",
    "INSERT INTO @ (email) VALUES ('w' || nextval('waits')) RETURNING id",
    "INSERT INTO @ (email) VALUES ('two') ON CONFLICT (email) DO UPDATE SET amount = 1 RETURNING *",
    "UPDATE @ SET amount = 3 WHERE email = 'one' RETURNING *",
    "DELETE FROM @ WHERE email = 'gone'",
    "SELECT counted_@()",
)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_statements_that_wait_for_the_swap_find_what_they_need(
    make: Make, pg: ScratchServer, *, backwards: bool
) -> None:
    """Planned anew or prepared long before, each waits behind the swap's locks and then does what it was to do."""
    functions = (
        f"CREATE FUNCTION counted_{name}() RETURNS bigint LANGUAGE plpgsql AS "
        f"'BEGIN UPDATE {name} SET amount = 2 WHERE email = ''one''; RETURN (SELECT count(*) FROM {name}); END'"
        for name in ("users", "people")
    )
    stage, database = make(case("upsert", "CREATE SEQUENCE waits", "GRANT USAGE ON SEQUENCE waits TO app", *functions))
    with stage.project(database) as project:
        (plan,) = project.plan([])
        before = Phase.SWITCH_READS if backwards else Phase.EXPAND
        assert project.advance([], target=before, overrides=EVERYTHING).exit_code == 0
    (swap,) = plan.phase(Phase.SWITCH_READS).steps
    apps = []
    for name, statement, warm in itertools.product(("users", "people"), STATEMENTS, (False, True)):
        app = App(pg, database, name)
        if warm:  # after five executions the server may keep a plan that nothing looks at again
            for _ in range(7):
                app.run(statement)
        apps.append((app, statement))
    with ThreadPoolExecutor(len(apps)) as pool, pg.connect(database, autocommit=False) as connection:
        for text in swap.undo if backwards else swap.do:
            connection.execute(text.encode())
        running: list[Future[Any]] = [pool.submit(app.run, statement) for app, statement in apps]
        until(lambda: waiting(pg, database) + sum(d.done() for d in running) == len(apps), "all of them wait")
        assert [d.result() for d in running if d.done()] == []
        connection.commit()
        for done, (app, statement) in zip(running, apps, strict=True):
            rows = done.result(timeout=60)
            assert rows or statement.startswith("DELETE"), (app.name, statement)
    for app, statement in apps:
        app.run(statement)
        app.connection.close()


def waiting(server: ScratchServer, database: str) -> int:
    with server.connect(database, autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'"
        ((found,),) = connection.execute(query).fetchall()
        assert isinstance(found, int)
        return found


def test_transactions_of_both_versions_hold_it_up_and_none_fails(make: Make, pg: ScratchServer) -> None:
    stage, database = make(case())
    with stage.project(database) as project:
        assert project.advance([], target=Phase.EXPAND, overrides=EVERYTHING).exit_code == 0
        old, new = (App(pg, database, name) for name in ("users", "people"))
        for app in (old, new):
            app.connection.execute("BEGIN")
            app.run("SELECT FROM @ LIMIT 1")
        with ThreadPoolExecutor(1) as pool:
            moved = pool.submit(project.advance, [], target=Phase.SWITCH_READS, overrides=EVERYTHING)
            for _ in range(20):  # it gives up and comes back meanwhile; they go on, and want stronger locks
                for app in (old, new):
                    app.run("INSERT INTO @ (email) VALUES ('t' || random()) RETURNING id, pg_sleep(0.02)")
            assert not moved.done()
            for app in (old, new):
                app.connection.commit()
            assert moved.result(timeout=60).exit_code == 0
        for app in (old, new):
            everyday(app)
            app.connection.close()


def test_rights_of_the_table_count_for_whoever_uses_the_view(make: Make, pg: ScratchServer) -> None:
    grants = (
        "REVOKE ALL ON users FROM app",
        "GRANT SELECT ON users TO app WITH GRANT OPTION",
        "GRANT UPDATE (amount) ON users TO app",
        "GRANT INSERT (email) ON users TO PUBLIC",
    )
    stage, database = make(case("upsert", *grants, *SECRET))
    with stage.project(database) as project:
        (plan,) = project.plan([])
        assert "statements of PUBLIC, app that rely on privileges on single columns" in plan.hazards[0].message
        assert project.advance([], target=Phase.RETIRE, overrides=EVERYTHING).exit_code == 0
    old = App(pg, database, "users")
    assert old.run("SELECT email FROM @ WHERE email <> 'two'") == [("one",)]
    assert old.run("UPDATE @ SET amount = 1 WHERE email <> 'two' RETURNING id") == [(1,)]
    assert old.run("SELECT FROM @ WHERE email = 'secret'") == [], "policies count for the caller"
    assert old.fails("UPDATE @ SET email = 'x'")
    assert old.fails("DELETE FROM @")
    old.run("INSERT INTO @ (email) VALUES ('three')")
    query = (
        "SELECT grantee::regrole::text, privilege_type, is_grantable FROM pg_class, aclexplode(relacl) "
        "WHERE relname = '{}' AND grantee <> relowner ORDER BY 1, 2"
    )
    assert stage.rows(database, query.format("users")) == stage.rows(database, query.format("people"))
    stage.sql(database, "REVOKE SELECT ON people FROM app CASCADE")
    assert old.fails("SELECT email FROM @"), "the table's rights are asked for each time"
    old.connection.close()


def test_a_table_of_another_role(make: Make, pg: ScratchServer) -> None:
    """A superuser migrates a table that the application's own role owns: that role goes on as if nothing was."""
    stage, database = make(
        case("upsert", "ALTER TABLE users OWNER TO app", "GRANT CREATE ON SCHEMA public TO app", *SECRET)
    )
    old, new = (App(pg, database, name) for name in ("users", "people"))
    with stage.project(database) as project:
        for phase in (Phase.EXPAND, Phase.RETIRE):
            assert project.advance([], target=phase, overrides=EVERYTHING).exit_code == 0
            for app in (old, new):
                assert app.run("SELECT count(*) FROM @ WHERE email = 'secret'") == [(1,)], "an owner sees all rows"
                upsert(app)
    for app in (old, new):
        app.connection.close()


def test_an_owner_who_is_no_superuser(make: Make, pg: ScratchServer) -> None:
    stage, database = make(case("copy", "ALTER TABLE users OWNER TO app", "ALTER FUNCTION checked() OWNER TO app"))
    before = stage.catalog(database)
    stage.sql(database, f"GRANT CREATE ON DATABASE {database} TO app", "DROP SCHEMA zdmigrate CASCADE")
    with stage.project(database, user="app") as project:
        project.init(environment="development", app_role=None, confirmed=True)
        (refused,) = project.advance([], target=Phase.EXPAND, overrides=EVERYTHING).migrations
        assert refused.exit_code == 6
        assert refused.hint == 'GRANT CREATE ON SCHEMA "public" TO "app"'
        stage.sql(database, "GRANT CREATE ON SCHEMA public TO app")
        assert project.advance([], target=Phase.RETIRE, overrides=EVERYTHING).exit_code == 0
        app = App(pg, database, "users")
        copied(app)
        app.connection.close()
        assert project.revert(ID, target=Phase.NONE, overrides=EVERYTHING).exit_code == 0
        assert stage.catalog(database) == before
        project.unhold(ID)
        assert project.advance([], target=Phase.CONTRACT, overrides=EVERYTHING).exit_code == 0


def test_a_view_that_somebody_changed_is_drift(make: Make) -> None:
    stage, database = make(case())
    with stage.project(database) as project:
        assert project.advance([], target=Phase.SWITCH_READS, overrides=EVERYTHING).exit_code == 0
        stage.sql(database, "DROP VIEW users", "CREATE VIEW users AS SELECT id, email FROM people")
        (drifted,) = project.advance([], target=Phase.CONTRACT, overrides=EVERYTHING).migrations
        assert drifted.exit_code == 7
        assert "not the table and its view any more" in str(drifted.message)


def test_what_depends_on_the_view_is_named_before_it_goes(make: Make) -> None:
    stage, database = make(case())
    with stage.project(database) as project:
        assert project.advance([], target=Phase.RETIRE, overrides=EVERYTHING).exit_code == 0
        stage.sql(database, "CREATE VIEW late AS SELECT email FROM users")
        (refused,) = project.advance([], target=Phase.CONTRACT, overrides=EVERYTHING).migrations
        assert refused.exit_code == 6
        assert "view late depends on public.users" in str(refused.message)
        stage.sql(database, "DROP VIEW late")
        assert project.advance([], target=None, overrides=EVERYTHING).exit_code == 0
        assert stage.rows(database, "SELECT phase FROM zdmigrate.migration") == [("contract",)]
