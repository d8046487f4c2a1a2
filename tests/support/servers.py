"""Servers and databases for tests."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries, available_majors, find_binaries


@dataclass(frozen=True, slots=True)
class Database:
    """An empty database on a scratch server."""

    server: ScratchServer
    name: str

    @property
    def conninfo(self) -> str:
        return self.server.conninfo(self.name)

    @property
    def url(self) -> str:
        """For libpq and for zdmigrate."""
        return self.server.url(self.name)

    @property
    def sqlalchemy_url(self) -> str:
        """For SQLAlchemy, whose default driver is another one before 2.1."""
        return self.server.url(self.name, driver="psycopg")

    def conninfo_as(self, user: str) -> str:
        """The same database as another role; nobody needs a password."""
        return self.server.conninfo(self.name, user=user)


@dataclass(frozen=True, slots=True)
class ReplicaPair:
    """A server of its own, so that lag and crashes disturb nobody else, and its hot standby called ``replica1``."""

    primary: ScratchServer
    replica: ScratchServer


def connect(database: Database, *, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
    """A connection as superuser; use it in a ``with`` statement."""
    return psycopg.connect(database.conninfo, autocommit=autocommit, **options)


def binaries_for_tests() -> ServerBinaries:
    """``ZDMIGRATE_TEST_PG`` says which major version, else the highest there is.

    Where none is found the test is skipped, except in CI: there it fails.
    """
    wanted = os.environ.get("ZDMIGRATE_TEST_PG")
    try:
        return find_binaries(int(wanted) if wanted else max(available_majors(), default=None))
    except ServerUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error.message} ({error.hint})")
        pytest.skip(f"{error.message} ({error.hint})")


def base_for_tests() -> Path | None:
    """In memory where there is room for it: most of what tests wait for is the creation of small files."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30:
        return memory
    return None
