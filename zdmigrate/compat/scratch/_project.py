"""Runs a project's own code against a scratch database.

``_project.py alembic INI REVISION [NAME=VALUE…]``, or ``_project.py metadata MODULE:ATTR``.

A script of its own, in a process of its own, because the code does what it wants. Whatever that is, SQLAlchemy connects
it to the scratch database and to nothing else: an ``env.py`` that takes its URL from somewhere else must not migrate what
it finds there. The database's URL is in ZDMIGRATE_SCRATCH_URL. Imports nothing of zdmigrate: it runs with the project's path.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

_WHERE = frozenset(
    {
        "host", "hostaddr", "port", "user", "password", "dbname", "database", "dsn", "service", "passfile", "ssl",
        "direct_tls", "target_session_attrs", "channel_binding", "gssencmode", "krbsrvname", "sslmode", "sslcert",
        "sslkey", "sslpassword", "sslrootcert", "sslcrl", "requiressl", "ssl_context",
    }
)  # fmt: skip
"""What says where a connection goes, in any driver's words. The rest (options, server_settings, timeouts) stays."""

_URLS = ("url", "db_url", "database_url")
"""What projects call it in ``-x``."""


class Refused(Exception):
    """The project's code wants something that cannot be done here."""


def main(arguments: list[str]) -> int:
    """Do it; 3 for what the project's configuration must say otherwise."""
    sys.path.insert(0, str(os.getcwd()))  # noqa: PTH109 (as Python does for -m and alembic for prepend_sys_path)
    url = os.environ["ZDMIGRATE_SCRATCH_URL"]
    try:
        only_connect_to(url)
        if arguments[0] == "alembic":
            upgrade(url, *arguments[1:])
        else:
            create_all(url, *arguments[1:])
    except Refused as error:
        print(error, file=sys.stderr)
        return 3
    return 0


def only_connect_to(url: str) -> None:
    """All engines of this process connect to `url`, whatever they were made for."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine, make_url

    told: set[tuple[str, str]] = set()

    def connect(dialect: Any, _record: Any, _args: list[Any], params: dict[str, Any]) -> Any:
        if dialect.name != "postgresql":
            raise Refused(f"the project connects to {dialect.name}, not to PostgreSQL: which variable has its URL?")
        _, ours = dialect.create_connect_args(make_url(url))
        place = (str(params.get("host", "")), str(params.get("database", params.get("dbname", ""))))
        if not _is_ours(params, ours) and place not in told:
            told.add(place)
            print(f"a connection to host={place[0]} dbname={place[1]} goes to the scratch database", file=sys.stderr)
        return dialect.connect(**({key: value for key, value in params.items() if key not in _WHERE} | ours))

    event.listen(Engine, "do_connect", connect)


def _is_ours(params: dict[str, Any], ours: dict[str, Any]) -> bool:
    return all(
        str(params.get(key)) == str(value) for key, value in ours.items() if key in ("host", "dbname", "database")
    )


def upgrade(url: str, ini: str, revision: str, *given: str) -> None:
    """``alembic upgrade``, with the URL in all the places in which an env.py may look for it; `given` are for its ``-x``."""
    import argparse

    try:
        from alembic import command
        from alembic.config import Config
    except ImportError as error:
        raise Refused(f"{error}: pip install alembic, where zdmigrate is") from error
    config = Config(ini)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.cmd_opts = argparse.Namespace(x=[*(f"{name}={url}" for name in _URLS), *given])
    command.upgrade(config, revision)


def create_all(url: str, target: str) -> None:
    """``create_all`` of a MetaData, of a declarative base, or of what a function returns; with their schemas."""
    from sqlalchemy import create_engine
    from sqlalchemy.schema import CreateSchema

    metadata = _metadata(target)
    engine = create_engine(_sync(url))
    with engine.begin() as connection:
        for schema in sorted({table.schema for table in metadata.tables.values() if table.schema}):
            connection.execute(CreateSchema(schema, if_not_exists=True))
        metadata.create_all(connection)
    engine.dispose()


def _metadata(target: str) -> Any:
    name, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(name)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise Refused(f"{target} cannot be imported: {error}") from error
    found = getattr(found, "metadata", found)
    if callable(found) and not hasattr(found, "create_all"):
        found = found()
    if not hasattr(found, "create_all"):
        raise Refused(f"{target} is neither a MetaData nor a declarative base")
    if not found.tables:
        raise Refused(f"{target} has no tables: name a module that imports the models")
    return found


def _sync(url: str) -> str:
    """The URL with a driver that is installed and not asynchronous."""
    rest = url.partition("://")[2]
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), "psycopg")
    return f"postgresql+{driver}://{rest}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
