"""What a server must offer so that databases may be made on it and thrown away."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict


class Scratch(Protocol):
    """A server on which databases may be made and dropped.

    `conninfo` and `url` are those of the superuser (of a server that somebody else runs: of the role that was given),
    or of `user`, who logs in with the same password.
    """

    @property
    def major(self) -> int:
        """The major version."""

    @property
    def label(self) -> str:
        """``PostgreSQL 17.5``."""

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """A database with the template's contents, owner and settings; without one, an empty database."""

    def drop_database(self, name: str) -> None:
        """Drop it where it exists, and whoever is connected to it."""

    def conninfo(self, database: str, *, user: str | None = None) -> str:
        """A libpq connection string."""

    def url(self, database: str, *, user: str | None = None, driver: str | None = None) -> str:
        """A URL as the project's own commands take it; `driver` names one for SQLAlchemy."""


def create(connection: psycopg.Connection[Any], name: str, template: str | None) -> None:
    """CREATE DATABASE as `Scratch` promises it. `connection` is in autocommit mode and to another database.

    The server copies a template's contents, but neither whose it is nor the settings of the database (ALTER DATABASE
    … SET search_path), without which unqualified names mean something else in the copy.
    """
    command = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template is None:
        connection.execute(command)
        return
    row = connection.execute(
        "SELECT pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = %s", (template,)
    ).fetchone()
    owner = sql.SQL("") if row is None else sql.SQL(" OWNER {}").format(sql.Identifier(row[0]))
    connection.execute(command + sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) + owner)
    for role, setting in _settings(connection, template):
        connection.execute(set_for_database(name, role, setting))


def label(connection: psycopg.Connection[Any]) -> str:
    """``PostgreSQL 17.5``, without what Debian's packages add to it."""
    return f"PostgreSQL {str(connection.info.parameter_status('server_version')).split()[0]}"


def drop(connection: psycopg.Connection[Any], name: str) -> None:
    """DROP DATABASE, whoever is connected to it."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def set_for_database(database: str, role: str | None, setting: str) -> sql.Composed:
    """ALTER DATABASE … SET, of one ``name=value`` as pg_db_role_setting has it; with `role`, for that role in it."""
    name, _, value = setting.partition("=")
    # Of lists (search_path) the catalog holds the text, quotes included: in literal quotes it would be one name.
    given = sql.SQL(value) if name in _LISTS else sql.Literal(value)
    where = sql.SQL("DATABASE {}").format(sql.Identifier(database))
    who = where if role is None else sql.SQL("ROLE {} IN ").format(sql.Identifier(role)) + where
    return sql.SQL("ALTER {} SET {} TO {}").format(who, sql.Identifier(name), given)


_LISTS = frozenset(
    {"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries", "DateStyle"}
)


def _settings(connection: psycopg.Connection[Any], database: str) -> list[tuple[str | None, str]]:
    return connection.execute(
        """
        SELECT r.rolname, setting FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting WHERE d.datname = %s
        """,
        (database,),
    ).fetchall()


def url_of(conninfo: str, *, driver: str | None = None) -> str:
    """A connection string as a URL in the shape that most programs read: ``postgresql://user:secret@host:5432/db``.

    A directory of sockets cannot be a host there, and becomes a parameter.
    """
    given = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    user, password = given.pop("user", ""), given.pop("password", "")
    host, port, database = given.pop("host", ""), given.pop("port", ""), given.pop("dbname", "")
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if not host or "/" in host or "," in host:
        given = {key: value for key, value in (("host", host), ("port", port)) if value} | given
        where = ""
    else:
        where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    query = f"?{urlencode(given, safe='/')}" if given else ""
    return f"{scheme}://{who}@{where}/{quote(database, safe='')}{query}"
