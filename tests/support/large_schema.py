"""A database with many tables, and a migration with many changes."""

from __future__ import annotations

import os
from pathlib import Path

_KINDS = (
    'RenameColumn("{table}", "email", "address")',
    'AddColumn("{table}", sa.Column("locale", sa.String(8), nullable=False), backfill="lower(name)")',
    """DropColumn("{table}", "fax", down="''")""",
)


def tables(count: int) -> list[str]:
    """Their DDL: each has a key, an index, a check and a foreign key. A statement makes a hundred: they are locked."""
    return [_tables(first, min(first + 100, count)) for first in range(0, count, 100)]


def _tables(first: int, end: int) -> str:
    return "\n".join(
        f"CREATE TABLE t{n} (id bigint PRIMARY KEY, parent bigint REFERENCES t{max(n - 1, 0)} (id), "
        "email text NOT NULL CHECK (email <> ''), name text NOT NULL DEFAULT '', fax text NOT NULL); "
        f"CREATE INDEX ON t{n} (email);"
        for n in range(first, end)
    )


def write_migration(directory: Path, changes: int) -> None:
    """One migration file; every change is on a table of its own, so there must be as many tables."""
    lines = [f"    {_KINDS[n % len(_KINDS)].format(table=f't{n}')},\n" for n in range(changes)]
    text = (
        "import sqlalchemy as sa\n"
        "from zdmigrate import AddColumn, DropColumn, Migration, RenameColumn\n\n"
        f"migration = Migration(\n{''.join(lines)})\n"
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "0001_many.py").write_text(text, encoding="utf-8")


def environment(url: str, root: Path, cache: Path) -> dict[str, str]:
    """For a process of the command line on that database, without what somebody may have set outside.

    Bytecode is cached, as it is where the package is installed.
    """
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key != "PYTHONDONTWRITEBYTECODE" and not key.startswith(("ZDMIGRATE_", "PG"))
    }
    return inherited | {"ZDMIGRATE_URL": url, "PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(cache)}
