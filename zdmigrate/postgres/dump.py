"""A copy of a database's schema, without its rows, on a scratch server."""

from __future__ import annotations

import os
import subprocess

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres.binaries import ServerBinaries
from zdmigrate.postgres.servers import ScratchServer
from zdmigrate.postgres.session import Connection

_OPTIONS = (
    "--schema-only", "--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions", "--no-tablespaces",
    "--no-security-labels", "--quote-all-identifiers",
)  # fmt: skip
_SECONDS = 300


def copy_schema(source: Connection, conninfo: str, target: ScratchServer, database: str) -> None:
    """Make `database` on the scratch server, with everything of the source but rows, owners and privileges.

    Locks: ACCESS SHARE on the source's tables, as pg_dump takes them.

    Raises:
        ServerUnavailable: pg_dump failed, or the scratch server lacks something (an extension, a locale).
    """
    target.create_database(database)
    roles = [row[0] for row in source.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'").fetchall()]
    text = _dumped(target.binaries, conninfo)
    with target.connect(database) as connection:
        # Policies and default privileges name roles.
        known = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for role in sorted(set(roles) - known):
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            connection.execute(text)
        except psycopg.Error as error:
            raise ServerUnavailable(
                f"the schema cannot be copied to a scratch server: {error.diag.message_primary or error}",
                hint="an extension must be installed there too: ZDMIGRATE_PG_BIN names an installation that has it",
            ) from error


def _dumped(binaries: ServerBinaries, conninfo: str) -> bytes:
    """What pg_dump writes, but for psql's own commands, which begin with a backslash."""
    given = conninfo_to_dict(conninfo)
    # Arguments are everybody's to see.
    password = given.pop("password", None)
    secret = {"PGPASSWORD": str(password)} if password else {}
    command = [str(binaries.bin / "pg_dump"), *_OPTIONS, "--dbname", make_conninfo("", **given)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=os.environ | secret | {"LC_ALL": "C"},
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailable(f"pg_dump cannot be run: {error}") from error
    if done.returncode != 0:
        raise ServerUnavailable(f"pg_dump failed: {done.stderr.decode(errors='replace').strip()}")
    lines = done.stdout.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b"\\restrict", b"\\unrestrict")))
