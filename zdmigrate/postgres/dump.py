"""A copy of a database's schema, without its rows, on a scratch server."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres import extensions, roles, scratch, script
from zdmigrate.postgres.binaries import find_client
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.session import Connection

_OPTIONS = (
    "--schema-only", "--no-publications", "--no-subscriptions", "--no-tablespaces", "--no-security-labels",
    "--quote-all-identifiers",
)  # fmt: skip
_WITHOUT_OWNERS = ("--no-owner", "--no-privileges")
_SECONDS = 300


def copy_schema(source: Connection, conninfo: str, target: Scratch, database: str) -> None:
    """Make `database` on the scratch server, with everything of the source but rows, owners and privileges.

    Locks and errors: as `copy_into`.
    """
    target.create_database(database)
    copy_into(source, conninfo, target, database)


def copy_into(source: Connection, conninfo: str, target: Scratch, database: str, *, privileges: bool = False) -> None:
    """Fill an empty database on the scratch server with everything of the source but rows.

    With `privileges` also with owners, grants, memberships of the roles that occur, and their settings and those of the
    database (``ALTER ROLE … SET search_path``). Roles are made without the rights that roles have by themselves.

    Locks: ACCESS SHARE on the source's tables, as pg_dump takes them.

    Raises:
        ServerUnavailable: pg_dump failed, or the scratch server lacks something (an extension, a locale).
    """
    options = _OPTIONS if privileges else _OPTIONS + _WITHOUT_OWNERS
    text = _dumped(source.info.server_version // 10000, conninfo, options)
    pieces = list(script.pieces(text.decode("utf-8", errors="surrogateescape")))
    with psycopg.connect(target.conninfo(database), autocommit=True) as connection:
        extensions.require(connection, script.extensions_of(pieces))
        script.load(connection, pieces, name="pg_dump", make_role=roles.make)
        if privileges:
            _copy_memberships(source, connection)
            _copy_settings(source, connection)


def _copy_memberships(source: Connection, target: psycopg.Connection[Any]) -> None:
    """What the roles that were made have through others: many applications log in as a member of the role with grants."""
    rows = source.execute(
        """
        SELECT g.rolname, m.rolname FROM pg_auth_members a
        JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member WHERE NOT m.rolsuper
        """
    ).fetchall()
    made = {name for name in {name for pair in rows for name in pair} if roles.is_ours(target, name)}
    while True:  # a member of a role that is there is wanted too
        wanted = {member for group, member in rows if group in made and member not in made}
        if not wanted:
            break
        for name in sorted(wanted):
            if not roles.exists(target, name):
                roles.make(target, name)
        made |= wanted
    for group, member in rows:
        there = group.startswith("pg_") and roles.exists(target, group)
        if member in made and roles.is_ours(target, member) and (group in made or there):
            target.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(member)))


def _copy_settings(source: Connection, target: psycopg.Connection[Any]) -> None:
    """Of the database, of the roles that were made, and of both together."""
    rows = source.execute(
        """
        SELECT r.rolname, setting FROM pg_db_role_setting s
        LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting
        WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        ORDER BY s.setdatabase  -- what is said of the database wins
        """
    ).fetchall()
    for role, setting in rows:
        if role is None or roles.is_ours(target, role):
            with contextlib.suppress(psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege):
                target.execute(scratch.set_for_database(target.info.dbname, role, setting))


def _dumped(major: int, conninfo: str, options: tuple[str, ...]) -> bytes:
    """What pg_dump writes."""
    given = conninfo_to_dict(conninfo)
    # Arguments are everybody's to see.
    password = given.pop("password", None)
    secret = {"PGPASSWORD": str(password)} if password else {}
    program = find_client("pg_dump", at_least=major).bin / "pg_dump"
    try:
        done = subprocess.run(
            [str(program), *options, "--dbname", make_conninfo("", **given)], stdin=subprocess.DEVNULL,
            capture_output=True, env=os.environ | secret | {"LC_ALL": "C"}, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailable(f"pg_dump cannot be run: {error}") from error
    if done.returncode != 0:
        raise ServerUnavailable(f"pg_dump failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
