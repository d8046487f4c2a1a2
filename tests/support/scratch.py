"""A server as a check has it: reached by TCP with a password, its superuser called as nobody else is."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers import base_for_tests
from zdmigrate.compat.scratch.roles import SUPERUSER
from zdmigrate.config import Config
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.servers import Access, ScratchServer, ServerBinaries


@contextlib.contextmanager
def check_server(binaries: ServerBinaries) -> Iterator[ScratchServer]:
    access = Access(superuser=SUPERUSER, password="s3cret /@%")
    with ScratchServer.start(binaries, listen="tcp", access=access, base=base_for_tests()) as server:
        yield server


def connected(server: Scratch, database: str, user: str | None = None) -> psycopg.Connection[Any]:
    """In autocommit mode, over the URL, as a project's own commands connect."""
    return psycopg.connect(server.url(database, user=user), autocommit=True)


def rows(server: Scratch, database: str, query: str, user: str | None = None) -> list[Any]:
    """The rows of a query; of one column its values."""
    with connected(server, database, user) as connection:
        found = connection.execute(query.encode()).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


def project(directory: Path, **files: str) -> Config:
    """A directory of migrations; `files` are source text by id."""
    for id_, changes in files.items():
        (directory / "migrations").mkdir(exist_ok=True)
        (directory / "migrations" / f"{id_}.py").write_text(
            f"import sqlalchemy as sa\nfrom zdmigrate import *\nmigration = Migration({changes})\n"
        )
    return Config(dir=directory / "migrations")


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path
