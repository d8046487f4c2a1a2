"""Where the schema comes from that a check starts with.

A `Start` makes a database on a scratch server: from one source, with the extensions and roles that it presumes, owned by
an ordinary role, with the control schema, and with the earlier migrations of the directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from zdmigrate.compat.scratch import project
from zdmigrate.compat.scratch import roles as ordinary
from zdmigrate.config import Config
from zdmigrate.control import install
from zdmigrate.control.store import Author, Store
from zdmigrate.engine import bootstrapping, rehearsal
from zdmigrate.engine.project import Project
from zdmigrate.errors import UsageError, ZdmigrateError
from zdmigrate.migration import load_directory
from zdmigrate.postgres import dump, extensions, roles, script, session, url
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.sqltext import ident

Start: TypeAlias = Callable[[Scratch, str], None]
"""Makes the database of that name, ready to be migrated by its owner (`roles.migrating_role`)."""
Source: TypeAlias = Callable[[Scratch, str], None]
"""Fills an empty database."""

_CREATED = re.compile(r"""CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?\\?["']?([\w-]+)""", re.IGNORECASE)


def start(
    source: Source,
    *,
    config: Config,
    before: Sequence[str] = (),
    extensions: Sequence[str] = (),
    roles: Sequence[str] = (),
) -> Start:
    """A start from `source`. `before` are the ids of the migrations that come before the checked ones; what the source
    has of them already is adopted. `extensions` and `roles` are made before the source.

    Raises:
        ServerUnavailable: the server lacks something (an extension, a right).
        UsageError: the source is wrong, or leaves the database empty.
    """

    def make(server: Scratch, database: str) -> None:
        server.create_database(database)
        try:
            _prepare(server, database, extensions, roles)
            source(server, database)
            _finish(server, database, config, before)
        except BaseException:
            server.drop_database(database)
            raise

    return make


def nothing(server: Scratch, database: str) -> None:
    """The source of projects whose migrations make everything."""


def from_alembic(
    ini: Path, revision: str = "heads", *, environment: project.Environment, x: Sequence[str] = ()
) -> Source:
    """``alembic upgrade REVISION`` with the project's own ini file and env.py, in its directory.

    The URL is in `sqlalchemy.url`, in the environment's variables, in libpq's, and in ``-x url=``; an env.py that takes it
    from elsewhere is connected to the scratch database all the same. `x` are further arguments for ``-x``.
    """
    ini = ini.absolute()
    what = f"alembic -c {ini.name} upgrade {revision}"

    def fill(server: Scratch, database: str) -> None:
        if not ini.is_file():
            raise UsageError(f"{ini} is no file", hint="--alembic alembic.ini, or alembic.ini@REVISION")
        with _named_at_once(server, database, ini.parent):
            project.run(
                ("alembic", str(ini), revision, *x), server=server, database=database, environment=environment,
                directory=ini.parent, what=what,
            )  # fmt: skip
        _refuse_empty(server, database, what)

    return fill


def from_metadata(target: str, *, environment: project.Environment, directory: Path | None = None) -> Source:
    """``create_all`` of ``MODULE:ATTR``, in a process of its own; the module is imported as in `directory`."""
    what = f"create_all of {target}"

    def fill(server: Scratch, database: str) -> None:
        project.run(
            ("metadata", target), server=server, database=database, environment=environment,
            directory=directory or Path.cwd(), what=what,
        )  # fmt: skip
        _refuse_empty(server, database, what)

    return fill


def from_dump(path: Path) -> Source:
    """A file of SQL, as pg_dump writes it, with rows or without. The roles that it names are made."""

    def fill(server: Scratch, database: str) -> None:
        pieces = list(script.pieces(script.read(path)))
        with _connected(server, database) as connection:
            extensions.require(connection, script.extensions_of(pieces))
            script.load(connection, pieces, name=str(path), make_role=roles.make)
        _refuse_empty(server, database, str(path))

    return fill


def from_database(source: str, *, config: Config) -> Source:
    """A live database's catalog, with owners and grants, and without rows; `source` is its URL.

    What is in flight there is in the schema already, and counts as finished. Locks: as `dump.copy_schema`.
    """

    def fill(server: Scratch, database: str) -> None:
        conninfo = url.conninfo(source)
        with contextlib.closing(session.connect(conninfo, purpose="check")) as live:
            dump.copy_into(live, conninfo, server, database, privileges=True)
            with contextlib.closing(session.connect(server.conninfo(database), purpose="check")) as target:
                rehearsal.copy_state(live, target, Store(config.schema, config.project, Author(host="check")))

    return fill


def _connected(server: Scratch, database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(server.conninfo(database), autocommit=True)


def _prepare(server: Scratch, database: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    with _connected(server, database) as connection:
        extensions.require(connection, wanted)
        for name in wanted:
            connection.execute(sql.SQL("CREATE EXTENSION {} CASCADE").format(sql.Identifier(name)))
        for name in names:
            if not roles.exists(connection, name):
                roles.make(connection, name)


def _finish(server: Scratch, database: str, config: Config, before: Sequence[str]) -> None:
    with _connected(server, database) as connection:
        _tidy_control(connection, config.schema)
        owner = ordinary.hand_over(connection)
    there = dataclasses.replace(config, url=server.conninfo(database, user=owner), environment=None)
    with Project.open(there, report=lambda _: None) as opened:
        opened.init(environment="development", app_role=None, confirmed=True)
    _bootstrap(there, before)


def _tidy_control(connection: psycopg.Connection[Any], schema: str) -> None:
    """A copied control schema may lack its rows, and names instances that are not here."""
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (ident(schema, "meta"),)).fetchone()
    if there == (True,):
        for table in ("app_instance", "app_version"):
            connection.execute(f"DELETE FROM {ident(schema, table)}".encode())
        connection.execute(
            f"INSERT INTO {ident(schema, 'meta')} VALUES ('schema_version', %s) ON CONFLICT DO NOTHING".encode(),
            (str(install.VERSION),),
        )


def _bootstrap(config: Config, before: Sequence[str]) -> None:
    """The earlier migrations, by one-shot DDL, each in its turn."""
    if not before:
        return
    store = Store(config.schema, config.project, Author(host="check"))
    files = [file for file in load_directory(config.dir) if file.id in before]
    with contextlib.closing(session.connect(config.url, purpose="check")) as connection:
        for file in files:
            try:
                bootstrapping.one(connection, store, file)
            except psycopg.Error as error:
                raise UsageError(
                    f"{file.id}, which comes before the checked migrations, does not fit the starting schema: "
                    f"{error.diag.message_primary or error}",
                    hint="start with the schema that the migration was written for",
                ) from error


def _refuse_empty(server: Scratch, database: str, what: str) -> None:
    query = """
        SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> 'information_schema'
        AND c.relname <> 'alembic_version'
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e'))
    """
    with _connected(server, database) as connection:
        if connection.execute(query).fetchone() != (True,):
            raise UsageError(
                f"{what} left the scratch database without a table",
                hint="does it connect without SQLAlchemy's engine, or take its URL from another variable (--url-variable)?",
            )


@contextlib.contextmanager
def _named_at_once(server: Scratch, database: str, directory: Path) -> Any:
    """Where one extension is missing, all that the revisions create are looked for, and named together."""
    try:
        yield
    except ZdmigrateError as error:
        if "extension" in error.message and "is not available" in error.message:
            texts = (path.read_text(encoding="utf-8", errors="replace") for path in directory.rglob("versions/**/*.py"))
            with _connected(server, database) as connection:
                extensions.require(connection, {name for text in texts for name in _CREATED.findall(text)})
        raise
