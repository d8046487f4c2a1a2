"""The command line in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import Forker, Site
from tests.support.servers import Database


@pytest.fixture
def site(forker: Forker, database: Database, tmp_path: Path) -> Site:
    return Site(forker, database, tmp_path)
