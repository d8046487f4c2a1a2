"""The project's own code, run in a process of its own against a scratch database."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from zdmigrate.compat.scratch import _project
from zdmigrate.errors import UsageError, ZdmigrateError
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.url import redact

_MINUTES = 30
_TAIL = 25
_REFUSED = 3
_LIBPQ = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
_DRIVERS = ("psycopg", "psycopg2", "asyncpg")
_REMEDIES = (
    (r'type "(\w+)" does not exist', "where it is the type of an extension: --extension {}"),
    (r"operator class \"(\w+)\" does not exist", "make the extension that has it first: --extension NAME"),
    (r'role "([^"]+)" does not exist', "make it first: --role {}"),
    (
        r"ModuleNotFoundError: No module named '(\w+)'",
        "install {} where zdmigrate is, and call it in the project's directory",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """How a project learns where its database is.

    `variables` are those that hold the whole URL, `driver` is the one of SQLAlchemy that it must name; without one, that
    of the first variable's present value, else whichever is installed.
    """

    variables: tuple[str, ...] = ("DATABASE_URL",)
    driver: str | None = None

    def of(self, server: Scratch, database: str, *, user: str | None = None) -> dict[str, str]:
        """The environment of a process that is to find this database, in every way in which it may look for it."""
        url = server.url(database, user=user, driver=self._scheme_driver(os.environ))
        given = conninfo_to_dict(server.conninfo(database, user=user))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "ZDMIGRATE_"))}
        libpq = {name: str(given[key]) for key, name in _LIBPQ.items() if given.get(key)}
        return (
            kept | libpq | dict.fromkeys(self.variables, url) | {"ZDMIGRATE_URL": server.conninfo(database, user=user)}
        )

    def _scheme_driver(self, environ: Mapping[str, str]) -> str | None:
        if self.driver is not None:
            return self.driver
        schemes = (re.match(r"postgres(?:ql)?\+(\w+)://", environ.get(name, "")) for name in self.variables)
        found = next((match[1] for match in schemes if match), None)
        return found or next((name for name in _DRIVERS if importlib.util.find_spec(name)), None)


def run(
    arguments: Sequence[str], *, server: Scratch, database: str, environment: Environment, directory: Path, what: str
) -> str:
    """Run `_project` with the arguments; returns what it has written to stderr. `what` names it in errors.

    Raises:
        UsageError: the project's configuration keeps it from the scratch database.
        ZdmigrateError: it failed; the message has the end of its output.
    """
    variables = environment.of(server, database)
    variables["ZDMIGRATE_SCRATCH_URL"] = variables[environment.variables[0]]
    try:
        done = subprocess.run(
            [sys.executable, "-P", _project.__file__, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", env=variables, cwd=directory, timeout=_MINUTES * 60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ZdmigrateError(f"{what}: not done after {_MINUTES} minutes") from error
    if done.returncode != 0:
        raise _failure(done, what, server.conninfo(database))
    return done.stderr


def _failure(done: subprocess.CompletedProcess[str], what: str, conninfo: str) -> ZdmigrateError:
    said = redact(done.stderr, conninfo).strip()
    if done.returncode == _REFUSED:
        hint = "--url-variable NAME names the variable that has its URL; [check] url_variables in zdmigrate.toml"
        return UsageError(f"{what}: {said.splitlines()[-1]}", hint=hint)
    remedies = (hint.format(*match.groups()) for pattern, hint in _REMEDIES if (match := re.search(pattern, said)))
    tail = "\n".join(said.splitlines()[-_TAIL:])
    return ZdmigrateError(f"{what} failed; the end of its output:\n{tail}", hint=next(remedies, None))
