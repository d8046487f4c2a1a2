"""Every folder of migrations_examples/, one after the other."""

from __future__ import annotations

import pytest

from tests.support.examples import NAMES, Bench
from zdmigrate.demo.example import Example
from zdmigrate.postgres.servers import ScratchServer


@pytest.fixture(scope="session")
def bench(pg: ScratchServer) -> Bench:
    return Bench(pg)


@pytest.fixture(params=NAMES)
def example(request: pytest.FixtureRequest, bench: Bench) -> Example:
    return bench.example(request.param)
