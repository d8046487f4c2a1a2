"""The command line in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Forker, Site
from tests.support.servers import Database


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    driver = Forker(tmp_path_factory.mktemp("processes"))
    try:
        yield driver
    finally:
        driver.close()


@pytest.fixture
def site(forker: Forker, database: Database, tmp_path: Path) -> Site:
    return Site(forker, database, tmp_path)
