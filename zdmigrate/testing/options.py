"""The plugin's options: each is an option of pytest, and most are a line of its configuration file. Imports nothing heavy.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "CHECK",
    "LITERALS",
    "MIGRATION",
    "PHASES",
    "RECORD",
    "RECORDING",
    "ROWS",
    "VERSION",
    "Option",
    "declare",
    "translated",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """``--zd-dump FILE``, and ``zd_dump = FILE`` in pytest's configuration file.

    `field` is what it sets of the classes that read the options of `zdmigrate check`. `path`: a relative one starts at
    the directory of the call, or of the configuration file. `flag`: it has no value. `only_option`: it is not read from
    the file.
    """

    name: str
    help: str
    metavar: str = "NAME"
    field: str = ""
    repeatable: bool = False
    path: bool = False
    flag: bool = False
    only_option: bool = False

    @property
    def key(self) -> str:
        """In the configuration file, and in `config.option`."""
        return f"zd_{self.name.replace('-', '_')}"

    def declare(self, group: pytest.OptionGroup, parser: pytest.Parser) -> None:
        """Make it known to pytest."""
        action = "append" if self.repeatable else "store_true" if self.flag else "store"
        shown = {} if self.flag else {"metavar": self.metavar}
        group.addoption(f"--zd-{self.name}", dest=self.key, action=action, default=None, help=self.help, **shown)
        if not self.only_option:
            kind = "linelist" if self.repeatable else "bool" if self.flag else "string"
            parser.addini(self.key, f"default of --zd-{self.name}", type=kind)  # type: ignore[arg-type]

    def value(self, config: pytest.Config, *, parsed: argparse.Namespace | None = None) -> Any:
        """What was given: the option's, else the file's; a tuple for a repeatable one, None for nothing.

        `parsed` are the options before pytest has taken them over into `config`.
        """
        found = getattr(config.option if parsed is None else parsed, self.key)
        base = config.invocation_params.dir
        if not found and not self.only_option:
            found = config.getini(self.key)
            base = config.rootpath if config.inipath is None else config.inipath.parent
        if self.repeatable:
            return tuple(found or ())
        if self.path and found:
            return str(base / Path(found).expanduser())
        return found or None


MIGRATION = Option(
    name="migration", metavar="ID", repeatable=True,
    help="Run the tests that use zd_phase once in each phase of this migration; the beginning of its id is enough. Repeatable.",
)  # fmt: skip
PHASES = Option(
    name="phases", metavar="PHASE,…", help="Only these: backfill (forwards and reverted), or backfill-reverted."
)
VERSION = Option(
    name="version", metavar="old|new", help="Skip the phases in which the plan says that this version does not work."
)
ROWS = Option(name="rows", flag=True, help="Put a few made rows into tables that have none, before the first phase.")

CHECK = (
    Option(name="config", field="config", metavar="FILE", path=True, help="zdmigrate's configuration file."),
    Option(name="dir", field="dir", metavar="DIR", path=True, help="The migrations directory."),
    Option(
        name="alembic", field="alembic", metavar="INI[@REV]", path=True,
        help="Start with the schema of alembic upgrade REV (heads).",
    ),
    Option(name="dump", field="dump", metavar="FILE", path=True, help="Start with a file of SQL, as pg_dump writes it."),
    Option(name="from-url", field="from_url", metavar="URL", help="Start with a live database's catalog, without its rows."),
    Option(name="metadata", field="metadata", metavar="MODULE:ATTR", help="Start with metadata.create_all."),
    Option(name="app-role", field="app_role", help="The application's role, with the schema's grants to it."),
    Option(name="extension", field="extensions", repeatable=True, help="Make it first. Repeatable."),
    Option(name="role", field="roles", repeatable=True, help="Make it first. Repeatable."),
    Option(
        name="url-variable", field="url_variables", repeatable=True,
        help="Where the env.py of --zd-alembic looks for its URL (default: DATABASE_URL). Repeatable.",
    ),
    Option(name="driver", field="driver", help="SQLAlchemy's driver in zd_database_url: psycopg, psycopg2, asyncpg."),
    Option(name="server", field="server", metavar="KIND", help="Only url, container, local or embedded."),
    Option(name="image", field="images", metavar="IMAGE", help="A container of this image, as postgres:17."),
    Option(name="server-url", field="server_url", metavar="URL", help="A server where databases may be made and dropped."),
    Option(name="pg", field="pg", metavar="MAJOR", help="The server's version (default: the configured database's)."),
)  # fmt: skip
"""As `zdmigrate check` has them; what they leave out, zdmigrate's own configuration says."""

RECORD = Option(
    name="record", metavar="FILE", path=True, only_option=True,
    help="Write down what the tests send to PostgreSQL, as a footprint, if all of them pass.",
)  # fmt: skip
LITERALS = Option(
    name="record-literals", flag=True, help="Keep up to three values of each parameter. Never of production data."
)
RECORDING = (
    Option(
        name="record-models", field="models", metavar="MODULE:ATTR", repeatable=True,
        help="Add what these models map. Repeatable.",
    ),
    Option(name="record-application", field="application", help="Whose footprint this is."),
    Option(name="record-version", field="version", metavar="VERSION", help="Of which version."),
)  # fmt: skip

_OF_THE_COMMAND = re.compile(rf"--(?=(?:{'|'.join(option.name for option in CHECK)})\b(?!-))")


def declare(parser: pytest.Parser) -> None:
    """All of them."""
    group = parser.getgroup("zdmigrate", "zdmigrate: tests in every phase of a migration, and footprints")
    for option in (MIGRATION, PHASES, VERSION, ROWS, *CHECK, RECORD, *RECORDING, LITERALS):
        option.declare(group, parser)


def translated(text: str) -> str:
    """A message or hint of the command line, with the options as they are called here."""
    return _OF_THE_COMMAND.sub("--zd-", text)
