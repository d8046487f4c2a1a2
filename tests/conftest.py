"""Fixtures: a server for the session (one in each xdist worker), a fresh database for a test."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import pytest

from tests.support.processes import Forker
from tests.support.replicas import Replicas
from tests.support.scratch import check_server
from tests.support.servers import Database, ReplicaPair, base_for_tests, binaries_for_tests
from zdmigrate.postgres.servers import ScratchServer, ServerBinaries

# A shell starts background jobs with SIGINT ignored, and children inherit that: the tests that send one need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def pg_binaries() -> ServerBinaries:
    return binaries_for_tests()


@pytest.fixture(scope="session")
def pg_major(pg_binaries: ServerBinaries) -> int:
    return pg_binaries.major


@pytest.fixture(scope="session")
def pg(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as server:
        yield server


@pytest.fixture(scope="session")
def check_pg(pg_binaries: ServerBinaries) -> Iterator[ScratchServer]:
    """A server as a check has it, apart from the other one: checks leave roles behind."""
    with check_server(pg_binaries) as server:
        yield server


@pytest.fixture
def database(pg: ScratchServer) -> Iterator[Database]:
    name = f"test_{next(_numbers)}"
    pg.create_database(name)
    try:
        yield Database(pg, name)
    finally:
        pg.drop_database(name)


@pytest.fixture(scope="session")
def replica_pair(pg_binaries: ServerBinaries) -> Iterator[ReplicaPair]:
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as primary:
        yield ReplicaPair(primary, primary.start_replica("replica1"))


@pytest.fixture(scope="session")
def replicas(pg_binaries: ServerBinaries) -> Iterator[Replicas]:
    with ScratchServer.start(pg_binaries, base=base_for_tests()) as primary:
        replica2 = primary.start_replica("replica2", {"hot_standby_feedback": "on"})
        yield Replicas(primary, primary.start_replica("replica1"), replica2)


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    driver = Forker(tmp_path_factory.mktemp("processes"))
    try:
        yield driver
    finally:
        driver.close()
