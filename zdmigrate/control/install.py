"""Creating and upgrading the control schema, and what an application's role needs of it."""

from __future__ import annotations

from importlib import resources

from zdmigrate.errors import Drift, UsageError
from zdmigrate.postgres.session import Connection, Cursor
from zdmigrate.sqltext import ident, literal

VERSION = 3
"""The newest version of the control schema that this zdmigrate knows."""

APPLICATION_FUNCTIONS = ("app_register", "app_beat", "app_retire", "app_shadow")
"""What applications report with. They run as the schema's owner."""


def installed_version(connection: Connection, schema: str) -> int:
    """The schema's version; 0 where there is none."""
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (ident(schema, "meta"),)).fetchone()
    if there is None or not there[0]:
        return 0
    row = connection.execute(
        f"SELECT value::integer FROM {ident(schema, 'meta')} WHERE key = 'schema_version'".encode()
    ).fetchone()
    return 0 if row is None else int(row[0])


def check_version(connection: Connection, schema: str, *, writing: bool) -> None:
    """Refuse to work without the schema, or to write one of a newer zdmigrate.

    Raises:
        UsageError: not initialised, or of an older version.
        Drift: of a newer version.
    """
    version = installed_version(connection, schema)
    if version == 0:
        raise UsageError(f"this database has no control schema {schema!r}", hint="run: zdmigrate init")
    if version < VERSION:
        raise UsageError(
            f"the control schema {schema!r} has version {version}, not {VERSION}", hint="run: zdmigrate init"
        )
    if version > VERSION and writing:
        raise Drift(
            f"the control schema {schema!r} has version {version}; this zdmigrate knows {VERSION} and must not write it",
            hint="use the newer zdmigrate",
        )


def upgrade(cursor: Cursor, schema: str, installed: int) -> list[str]:
    """Apply what is missing, in the caller's transaction; returns the names of the applied files."""
    applied = []
    # IF NOT EXISTS asks for the right to create before it looks.
    there = cursor.execute("SELECT to_regnamespace(%s) IS NOT NULL", (ident(schema),)).fetchone()
    if there is None or not there[0]:
        cursor.execute(f"CREATE SCHEMA {ident(schema)}".encode())
    for version in range(installed + 1, VERSION + 1):
        name = f"{version:03}.sql"
        text = resources.files("zdmigrate.control").joinpath("sql", name).read_text(encoding="utf-8")
        cursor.execute(text.replace("{schema}", ident(schema)).replace("{channel}", literal(schema)).encode())
        applied.append(name)
    cursor.execute(
        f"INSERT INTO {ident(schema, 'meta')} VALUES ('schema_version', %s) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value".encode(),
        (str(VERSION),),
    )
    return applied


def grants(schema: str, role: str) -> tuple[str, ...]:
    """What an application's role needs: read the switches and phases, report its instances. Nothing else."""
    who = ident(role)
    return (
        f"GRANT USAGE ON SCHEMA {ident(schema)} TO {who}",
        f"GRANT SELECT ON {ident(schema, 'read_switch')} TO {who}",
        f"GRANT SELECT (project, id, phase, running, phase_since) ON {ident(schema, 'migration')} TO {who}",
        *(f"GRANT EXECUTE ON FUNCTION {ident(schema, name)} TO {who}" for name in APPLICATION_FUNCTIONS),
    )
