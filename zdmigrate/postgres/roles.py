"""Roles that are made for a check: marked as ours, so that nobody else's is ever changed or dropped."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.errors import ServerUnavailable

_MARK = "zdmigrate made this role for "
Connection = psycopg.Connection[Any]


def make(connection: Connection, name: str) -> None:
    """An ordinary role, that logs in with the password of this connection.

    Raises:
        ServerUnavailable: the connection's role may not make roles.
    """
    try:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
            mark = sql.Literal(f"{_MARK}{connection.info.dbname}")
            connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(name), mark))
            make_ordinary(connection, name)
            if not _is_superuser(connection):
                # Else it could not end the role's sessions when it drops the database.
                connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        pass  # another check on this server has just made it
    except psycopg.errors.InsufficientPrivilege as error:
        raise ServerUnavailable(
            f"the role {name} cannot be made on the scratch server: {error.diag.message_primary}",
            hint=f'ALTER ROLE "{connection.info.user}" CREATEROLE, or use another server: --server container',
        ) from error


def make_ordinary(connection: Connection, name: str) -> None:
    """LOGIN NOSUPERUSER NOBYPASSRLS, and the password of this connection (which is not sent in clear)."""
    command = sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(name))
    if _is_superuser(connection):
        command += sql.SQL(" NOSUPERUSER NOBYPASSRLS NOREPLICATION")
    if password := connection.info.password:
        verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
        command += sql.SQL(" PASSWORD {}").format(sql.Literal(verifier.decode()))
    connection.execute(command)


def exists(connection: Connection, name: str) -> bool:
    """Whether there is such a role on the server."""
    return connection.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", (name,)).fetchone() is not None


def is_ours(connection: Connection, name: str) -> bool:
    """Whether `make` made it."""
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles WHERE rolname = %s", (name,)
    ).fetchone()
    return row is not None and str(row[0]).startswith(_MARK)


def made_for(connection: Connection, prefix: str) -> list[str]:
    """The roles that were made for databases whose names begin so."""
    rows = connection.execute(
        """
        SELECT rolname FROM pg_catalog.pg_roles
        WHERE starts_with(pg_catalog.shobj_description(oid, 'pg_authid'), %s) ORDER BY 1
        """,
        (f"{_MARK}{prefix}",),
    )
    return [row[0] for row in rows.fetchall()]


def marks(connection: Connection, prefix: str) -> set[str]:
    """The names of the databases that roles were made for, of those that begin so."""
    rows = connection.execute(
        "SELECT substr(pg_catalog.shobj_description(oid, 'pg_authid'), %s) FROM pg_catalog.pg_roles "
        "WHERE starts_with(pg_catalog.shobj_description(oid, 'pg_authid'), %s)",
        (len(_MARK) + 1, f"{_MARK}{prefix}"),
    )
    return {row[0] for row in rows.fetchall()}


def drop(connection: Connection, name: str) -> bool:
    """Drop a role; False where something still depends on it."""
    try:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
    except (
        psycopg.errors.DependentObjectsStillExist,
        psycopg.errors.ObjectInUse,
        psycopg.errors.InsufficientPrivilege,
    ):
        return False
    return True


def _is_superuser(connection: Connection) -> bool:
    row = connection.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone()
    return row == (True,)
