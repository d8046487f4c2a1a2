"""Where a check's schema comes from, who owns it, and who the application is in it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support.scratch import check_server, connected, project, rows, written
from zdmigrate.compat.scratch import roles, schemas
from zdmigrate.compat.scratch.project import Environment
from zdmigrate.compat.scratch.schemas import Source
from zdmigrate.engine.project import Project
from zdmigrate.errors import ServerUnavailable, UsageError, ZdmigrateError
from zdmigrate.phases import Phase
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

_numbers = itertools.count(1)

DUMP = r"""
\restrict token
SET transaction_timeout = 0;
SET statement_timeout = 0;
SET default_tablespace = fast;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA public;
CREATE TYPE public.state AS ENUM ('new', 'old');
ALTER TYPE public.state OWNER TO shop_owner;
CREATE TABLE public.users (id bigint NOT NULL, email text NOT NULL, state public.state DEFAULT 'new');
ALTER TABLE public.users OWNER TO shop_owner;
CREATE FUNCTION public.twice(i int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT i; SELECT 2 * i; END;
COPY public.users (id, email, state) FROM stdin;
1	a;b	new
2	\\N	\N
\.
CREATE POLICY own ON public.users TO shop_app USING ((id < 2));
ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON TABLE public.users TO shop_app;
GRANT SELECT (id) ON TABLE public.users TO "Reporting";
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA public GRANT SELECT ON TABLES TO shop_app;
CREATE SUBSCRIPTION s CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false);
\unrestrict token
"""


@pytest.fixture(scope="module")
def server(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    with check_server(pg_binaries) as found:
        yield found


@pytest.fixture
def name(server: ScratchServer) -> Iterator[str]:
    """A database that is to be made."""
    found = f"start_{next(_numbers)}"
    yield found
    server.drop_database(found)


def sql(text: str) -> Source:
    """A source that executes statements as superuser."""

    def fill(server: Scratch, database: str) -> None:
        with connected(server, database) as connection:
            connection.execute(text.encode())

    return fill


def application(server: Scratch, database: str, role: str | None = None) -> str:
    with connected(server, database) as connection:
        return roles.application_role(connection, role)


def owner(server: Scratch, database: str) -> str:
    with connected(server, database) as connection:
        return roles.migrating_role(connection)


# Dumps


def test_a_dump_may_make_its_roles_itself_and_again(server: ScratchServer, name: str, tmp_path: Path) -> None:
    text = "CREATE TABLE t (id int); CREATE ROLE reading NOLOGIN; CREATE USER writing; GRANT SELECT ON t TO reading;"
    start = schemas.start(schemas.from_dump(written(tmp_path / "roles.sql", text)), config=project(tmp_path))
    for _ in range(2):
        start(server, name)
        assert rows(server, name, "SELECT has_table_privilege('reading', 't', 'SELECT')") == [True]
        server.drop_database(name)


def test_a_dump_with_rows_owners_grants_and_policies(server: ScratchServer, name: str, tmp_path: Path) -> None:
    dump = written(tmp_path / "schema.sql", DUMP)
    schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    assert owner(server, name) == "shop_owner"
    app = application(server, name, "shop_app")
    assert rows(server, name, "SELECT id, email, state FROM users ORDER BY id") == [(1, "a;b", "new"), (2, "\\N", None)]
    assert rows(server, name, "SELECT id FROM users", app) == [1]  # row security counts
    with pytest.raises(psycopg.errors.InsufficientPrivilege), connected(server, name, app) as connection:
        connection.execute("DELETE FROM users")
    with connected(server, name, "shop_owner") as connection:
        connection.execute("CREATE TABLE later (id int)")
    assert rows(server, name, "SELECT count(*) FROM later", app) == [0]
    assert rows(server, name, "SELECT count(*) FROM pg_subscription") == [0]
    flags = "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname IN ('shop_app', 'shop_owner', 'Reporting')"
    assert rows(server, name, flags) == [(False, False)] * 3


def test_copies_of_the_start_are_whole(server: ScratchServer, name: str, tmp_path: Path) -> None:
    source = sql("CREATE SCHEMA shop; CREATE TABLE shop.users (id int)")
    schemas.start(source, config=project(tmp_path))(server, name)
    with connected(server, name) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET search_path TO "$user", shop, public'.encode())
    server.create_database(f"{name}_copy", template=name)
    try:
        assert owner(server, f"{name}_copy") == owner(server, name) == f"{name}_owner"
        assert rows(server, f"{name}_copy", "SELECT count(*) FROM users", f"{name}_owner") == [0]
    finally:
        server.drop_database(f"{name}_copy")


def test_an_application_that_is_not_named_is_the_only_one_with_grants(
    server: ScratchServer, name: str, tmp_path: Path
) -> None:
    dump = written(
        tmp_path / "schema.sql", "CREATE TABLE t (id int); GRANT SELECT ON t TO only_one; GRANT ALL ON t TO only_one;"
    )
    schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    assert application(server, name) == "only_one"


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (None, "which role is the application's? These have grants: Reporting, shop_app"),
        (
            "shop_ap",
            "the role shop_ap has no rights on any table of the starting schema; these have some: Reporting, shop_app",
        ),
    ],
)
def test_whose_grants_count_is_asked(
    server: ScratchServer, name: str, tmp_path: Path, role: str | None, message: str
) -> None:
    dump = written(tmp_path / "schema.sql", DUMP)
    schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    with pytest.raises(UsageError) as caught:
        application(server, name, role)
    assert caught.value.message == message
    assert caught.value.hint == "--app-role Reporting"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("SELECT 1;\n\\connect shop\n", r"schema.sql:2: \\connect is a command of psql", "without --create"),
        ("\\i other.sql\n", r"schema.sql:1: \\i is a command of psql", "one file"),
        (
            "CREATE TABLE t (\n  a int,\n  b nothing\n);\n",
            'schema.sql:3: the scratch server refuses it: type "nothing"',
            "",
        ),
        ("-- nothing\n", r"schema.sql left the scratch database without a table", ""),
        ("CREATE TABLE t (a int);\nCOPY t FROM stdin;\nx\n\\.\n", r"schema.sql:2: .* invalid input syntax", ""),
    ],
)
def test_what_cannot_be_loaded_is_named_with_its_line(
    server: ScratchServer, name: str, tmp_path: Path, text: str, message: str, hint: str
) -> None:
    dump = written(tmp_path / "schema.sql", text)
    with pytest.raises(ZdmigrateError, match=message) as caught:
        schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    assert hint in str(caught.value.hint or "")
    assert rows(server, "postgres", f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == [0]


def test_extensions_that_are_missing_are_named_together(server: ScratchServer, name: str, tmp_path: Path) -> None:
    dump = written(
        tmp_path / "s.sql", "CREATE EXTENSION timescaledb; CREATE EXTENSION nowhere; CREATE TABLE t (id int);"
    )
    with pytest.raises(ServerUnavailable, match="lacks the extensions nowhere, timescaledb") as caught:
        schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    assert f"--image timescale/timescaledb:latest-pg{server.major}" in str(caught.value.hint)
    with pytest.raises(ServerUnavailable, match="lacks the extension also_nowhere"):
        schemas.start(schemas.nothing, config=project(tmp_path), extensions=["also_nowhere"])(server, name)


# Roles


def test_without_grants_an_ordinary_role_may_do_everything_but_read_the_control_schema(
    server: ScratchServer, name: str, tmp_path: Path
) -> None:
    source = sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.users (id serial); CREATE VIEW names AS SELECT id FROM shop.users"
    )
    schemas.start(source, config=project(tmp_path))(server, name)
    app = application(server, name, "anybody")
    assert app == "anybody"
    assert rows(server, name, "INSERT INTO shop.users DEFAULT VALUES RETURNING id", app) == [1]
    assert rows(server, name, "SELECT id FROM names", app) == [1]
    with connected(server, name, owner(server, name)) as connection:
        connection.execute("CREATE SCHEMA later; CREATE TABLE later.t (id serial); CREATE TABLE shop.t (id serial)")
    for table in ("later.t", "shop.t"):
        assert rows(server, name, f"INSERT INTO {table} DEFAULT VALUES RETURNING id", app) == [1]
    with pytest.raises(psycopg.errors.InsufficientPrivilege), connected(server, name, app) as connection:
        connection.execute("SELECT * FROM zdmigrate.migration")


def test_what_a_superuser_made_belongs_to_an_ordinary_role_afterwards(
    server: ScratchServer, name: str, tmp_path: Path
) -> None:
    source = sql(
        """
        CREATE EXTENSION citext;
        CREATE SCHEMA shop;
        CREATE TYPE shop.pair AS (a int, b int);
        CREATE TYPE state AS ENUM ('a');
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TYPE span AS RANGE (subtype = int4);
        CREATE TABLE t (id serial, n int GENERATED ALWAYS AS IDENTITY, c citext, s state);
        CREATE TABLE parent (id int) PARTITION BY LIST (id);
        CREATE TABLE child PARTITION OF parent FOR VALUES IN (1);
        CREATE SEQUENCE free;
        CREATE MATERIALIZED VIEW m AS SELECT id FROM t;
        CREATE FUNCTION f(a int, VARIADIC b text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';
        CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
        CREATE STATISTICS both_of ON id, n FROM t;
        CREATE COLLATION german (locale = 'C');
        """
    )
    schemas.start(source, config=project(tmp_path))(server, name)
    with connected(server, name) as connection:
        assert roles._of_superusers(connection) == []
    with connected(server, name, owner(server, name)) as connection:
        connection.execute(
            "ALTER TABLE t ADD COLUMN x positive; ALTER TYPE state ADD VALUE 'b'; DROP STATISTICS both_of"
        )
        connection.execute(
            "DROP TABLE t, parent CASCADE; DROP SEQUENCE free; DROP AGGREGATE total(int); DROP COLLATION german"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP EXTENSION citext")


def test_a_schema_of_several_owners_is_migrated_by_a_member_of_them_all(
    server: ScratchServer, name: str, tmp_path: Path
) -> None:
    text = """
        CREATE TABLE a (id int); ALTER TABLE a OWNER TO team_a;
        CREATE SCHEMA b AUTHORIZATION team_b; CREATE TABLE b.b (id int); ALTER TABLE b.b OWNER TO team_b;
    """
    dump = written(tmp_path / "schema.sql", text)
    schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, name)
    with connected(server, name, f"{name}_owner") as connection:
        connection.execute(
            "ALTER TABLE a ADD COLUMN x int; ALTER TABLE b.b ADD COLUMN x int; CREATE TABLE b.c (id int)"
        )


# A live database


def test_a_live_database_with_its_memberships_and_settings(
    server: ScratchServer, name: str, pg: ScratchServer, tmp_path: Path
) -> None:
    live = "live_shop"
    pg.create_database(live)
    try:
        with pg.connect(live) as connection:
            connection.execute(
                f"""
                CREATE ROLE live_owner; CREATE ROLE live_writers; CREATE ROLE live_app LOGIN IN ROLE live_writers;
                CREATE ROLE live_root SUPERUSER LOGIN IN ROLE live_writers; CREATE ROLE unrelated;
                ALTER ROLE live_app SET search_path = shop, public;
                ALTER DATABASE {live} SET timezone = 'Europe/Vienna';
                CREATE SCHEMA shop AUTHORIZATION live_owner;
                CREATE TABLE shop.users (id int); INSERT INTO shop.users VALUES (1);
                ALTER TABLE shop.users OWNER TO live_owner;
                GRANT USAGE ON SCHEMA shop TO live_writers; GRANT SELECT ON shop.users TO live_writers;
                """.encode()
            )
        config = project(tmp_path)
        schemas.start(schemas.from_database(pg.url(live), config=config), config=config)(server, name)
        assert owner(server, name) == "live_owner"
        app = application(server, name, "live_app")
        assert rows(server, name, "SELECT count(*) FROM users", app) == [0]
        assert rows(server, name, "SHOW timezone", app) == ["Europe/Vienna"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connected(server, name, app) as connection:
            connection.execute("DELETE FROM shop.users")
        assert rows(server, name, "SELECT rolname FROM pg_roles WHERE rolname IN ('unrelated', 'live_root')") == []
    finally:
        pg.drop_database(live)
        with pg.connect() as connection:
            connection.execute("DROP ROLE live_app, live_root, live_writers, live_owner, unrelated")


def test_a_live_database_in_which_something_is_in_flight(
    server: ScratchServer, name: str, pg: ScratchServer, tmp_path: Path
) -> None:
    config = project(tmp_path, a_rename='RenameColumn("users", "email", "address")')
    pg.create_database("flying")
    try:
        with pg.connect("flying") as connection:
            connection.execute("CREATE TABLE users (id int PRIMARY KEY, email text)")
        there = dataclasses.replace(config, url=pg.conninfo("flying"))
        with Project.open(there, report=lambda _: None) as opened:
            opened.init(environment="development", app_role=None, confirmed=True)
            opened.advance(["a_rename"], target=Phase.DUAL_WRITE)
        schemas.start(schemas.from_database(pg.url("flying"), config=config), config=config)(server, name)
    finally:
        pg.drop_database("flying")
    assert rows(server, name, "SELECT id, phase FROM zdmigrate.migration") == [("a_rename", "contract")]
    with connected(server, name, owner(server, name)) as connection:
        connection.execute("INSERT INTO users (id, email) VALUES (1, 'a')")
        assert connection.execute("SELECT address FROM users").fetchall() == [("a",)]


# The project's own code

ENV = """
    import os
    import sqlalchemy as sa
    from alembic import context

    engine = sa.create_engine({url})
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
ASYNC_ENV = """
    import asyncio
    import os
    from alembic import context
    from sqlalchemy.ext.asyncio import create_async_engine

    def go(connection):
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()

    async def main():
        engine = create_async_engine({url}, connect_args={{"server_settings": {{"search_path": "public"}}}})
        async with engine.begin() as connection:
            await connection.run_sync(go)
        await engine.dispose()

    asyncio.run(main())
"""
REVISION = """
    import sqlalchemy as sa
    from alembic import op

    revision = "{revision}"
    down_revision = {down}

    def upgrade():
        {body}
"""


def alembic_project(
    directory: Path, *bodies: str, env: str = ENV, url: str = 'context.config.get_main_option("sqlalchemy.url")'
) -> Path:
    """An alembic.ini; each body is a revision: r1, r2, …"""
    written(directory / "db" / "env.py", env.format(url=url))
    for number, body in enumerate(bodies, 1):
        down = repr(f"r{number - 1}") if number > 1 else "None"
        text = REVISION.format(revision=f"r{number}", down=down, body=body)
        written(directory / "db" / "versions" / f"r{number}.py", text)
    return written(directory / "alembic.ini", "[alembic]\nscript_location = db\nsqlalchemy.url = driver://wrong/one\n")


USERS = 'op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.Text))'
MORE = 'op.add_column("users", sa.Column("fax", sa.Text))'
PLACES = {
    "sqlalchemy.url": 'context.config.get_main_option("sqlalchemy.url")',
    "DATABASE_URL": 'os.environ["DATABASE_URL"]',
    "a variable of its own": 'os.environ["SHOP_DB"]',
    "-x db_url": 'context.get_x_argument(as_dictionary=True)["db_url"]',
    "-x of its own": '{"here": os.environ["SHOP_DB"]}[context.get_x_argument(as_dictionary=True)["tenant"]]',
    "libpq": '"postgresql+psycopg://"',
    "nowhere": '"postgresql+psycopg://prod:geheim@db.invalid/shop?sslmode=require"',
}


@pytest.mark.parametrize("place", PLACES)
def test_alembic_wherever_env_py_takes_its_url_from(
    server: ScratchServer, name: str, tmp_path: Path, place: str
) -> None:
    """Even an env.py that names the production database only reaches the scratch one."""
    ini = alembic_project(tmp_path, USERS, MORE, url=PLACES[place])
    environment = Environment(variables=("DATABASE_URL", "SHOP_DB"), driver="psycopg")
    source = schemas.from_alembic(ini, environment=environment, x=["tenant=here"])
    schemas.start(source, config=project(tmp_path))(server, name)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 ORDER BY attnum"
    assert rows(server, name, columns) == ["id", "email", "fax"]
    assert owner(server, name) == f"{name}_owner"


def test_alembic_up_to_a_revision(server: ScratchServer, name: str, tmp_path: Path) -> None:
    source = schemas.from_alembic(alembic_project(tmp_path, USERS, MORE), "r1", environment=Environment())
    schemas.start(source, config=project(tmp_path))(server, name)
    assert rows(server, name, "SELECT version_num FROM alembic_version") == ["r1"]


def test_alembic_with_an_asynchronous_engine(server: ScratchServer, name: str, tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    url = '"postgresql+asyncpg://prod@db.invalid/shop?ssl=require"'
    source = schemas.from_alembic(alembic_project(tmp_path, USERS, env=ASYNC_ENV, url=url), environment=Environment())
    schemas.start(source, config=project(tmp_path))(server, name)
    assert rows(server, name, "SELECT version_num FROM alembic_version") == ["r1"]


@pytest.mark.parametrize(
    ("bodies", "url", "message", "hint"),
    [
        (["op.execute('CREATE EXTENSION nowhere')", "op.execute('CREATE EXTENSION IF NOT EXISTS timescaledb')"], None,
         "lacks the extensions nowhere, timescaledb", "--image"),
        ([USERS, "op.execute('GRANT SELECT ON users TO ops')"], None, 'role "ops" does not exist', "--role ops"),
        (["op.execute('CREATE TABLE t (a citext)')"], None, 'type "citext" does not exist', "--extension citext"),
        (["pass"], None, r"alembic -c alembic.ini upgrade heads left the scratch database without a table", "--url-variable"),
        ([USERS], '"sqlite://"', "the project connects to sqlite, not to PostgreSQL", "--url-variable"),
        ([USERS], 'os.environ["NOWHERE"]', "KeyError: 'NOWHERE'", ""),
    ],
)  # fmt: skip
def test_what_keeps_alembic_from_the_schema_is_said(
    server: ScratchServer, name: str, tmp_path: Path, bodies: list[str], url: str | None, message: str, hint: str
) -> None:
    ini = alembic_project(tmp_path, *bodies, **({} if url is None else {"url": url}))
    with pytest.raises(ZdmigrateError) as caught:
        schemas.start(schemas.from_alembic(ini, environment=Environment()), config=project(tmp_path))(server, name)
    assert message in caught.value.message
    assert "s3cret" not in caught.value.message
    assert hint in str(caught.value.hint or "")


def test_extensions_and_roles_are_made_first(server: ScratchServer, name: str, tmp_path: Path) -> None:
    body = "op.execute('CREATE TABLE t (a citext); GRANT SELECT ON t TO first_ops')"
    source = schemas.from_alembic(alembic_project(tmp_path, body), environment=Environment())
    config = project(tmp_path)
    schemas.start(source, config=config, extensions=["citext"], roles=["first_ops"])(server, name)
    assert application(server, name, "first_ops") == "first_ops"


MODELS = """
    import sqlalchemy as sa
    from sqlalchemy.orm import DeclarativeBase, mapped_column

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        __table_args__ = {"schema": "shop"}
        id = mapped_column(sa.Integer, primary_key=True)

    def later():
        return Base.metadata

    class Holder:
        metadata = Base.metadata

    empty = sa.MetaData()
"""


@pytest.mark.parametrize(
    "target", ["shop.models:Base", "shop.models:Base.metadata", "shop.models:later", "shop.models:Holder"]
)
def test_metadata_create_all(server: ScratchServer, name: str, tmp_path: Path, target: str) -> None:
    written(tmp_path / "shop" / "models.py", MODELS)
    source = schemas.from_metadata(target, environment=Environment(), directory=tmp_path)
    schemas.start(source, config=project(tmp_path))(server, name)
    assert rows(server, name, "SELECT count(*) FROM shop.users", application(server, name)) == [0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop.models:empty", "shop.models:empty has no tables"),
        ("shop.models:Bas", "shop.models:Bas cannot be imported: module 'shop.models' has no attribute 'Bas'"),
        ("shop.nothing:Base", "shop.nothing:Base cannot be imported: No module named 'shop.nothing'"),
        ("shop.models:sa", "shop.models:sa is neither a MetaData nor a declarative base"),
    ],
)
def test_metadata_that_cannot_be_used(
    server: ScratchServer, name: str, tmp_path: Path, target: str, message: str
) -> None:
    written(tmp_path / "shop" / "models.py", MODELS)
    source = schemas.from_metadata(target, environment=Environment(), directory=tmp_path)
    with pytest.raises(UsageError) as caught:
        schemas.start(source, config=project(tmp_path))(server, name)
    assert message in caught.value.message


# The migrations so far


def test_earlier_migrations_follow_the_source_and_what_it_has_of_them_is_adopted(
    server: ScratchServer, name: str, tmp_path: Path
) -> None:
    config = project(
        tmp_path,
        a_fax='AddColumn("users", sa.Column("fax", sa.Text))',
        b_rename='RenameColumn("users", "email", "address")',
        c_checked='AddColumn("users", sa.Column("locale", sa.Text))',
    )
    source = sql("CREATE TABLE users (id int PRIMARY KEY, email text, fax text)")
    schemas.start(source, config=config, before=["a_fax", "b_rename"])(server, name)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped"
    assert sorted(rows(server, name, columns)) == ["address", "fax", "id"]
    assert rows(server, name, "SELECT id FROM zdmigrate.migration WHERE phase = 'contract' ORDER BY 1") == [
        "a_fax",
        "b_rename",
    ]


def test_an_earlier_migration_that_does_not_fit_is_named(server: ScratchServer, name: str, tmp_path: Path) -> None:
    config = project(tmp_path, a_rename='RenameColumn("people", "email", "address")')
    with pytest.raises(ZdmigrateError, match="people"):
        schemas.start(sql("CREATE TABLE users (id int)"), config=config, before=["a_rename"])(server, name)


def test_libpq_finds_the_database_too(server: ScratchServer) -> None:
    found = Environment(variables=("DB", "OTHER"), driver="asyncpg").of(server, "postgres")
    assert found["DB"] == found["OTHER"] == server.url("postgres", driver="asyncpg")
    parts = {key: found[f"PG{key.upper()}"] for key in ("host", "port", "user", "password")}
    with psycopg.connect(make_conninfo("", **parts, dbname=found["PGDATABASE"])) as connection:
        assert connection.info.port == server.port
