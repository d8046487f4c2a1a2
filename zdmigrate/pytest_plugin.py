"""The pytest plugin: ``--zd-migration`` runs tests once in each phase, ``--zd-record`` records a footprint.

A test asks for `zd_database_url`, `zd_engine` or `zd_phase`. The modules that do the work are imported when one of the
options is given: a test run without them pays for this file alone.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from zdmigrate.testing import options

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from zdmigrate.compat.report import State
    from zdmigrate.testing.phases import Phases, Wanted

__all__ = ["zd_database_url", "zd_engine", "zd_phase"]

_WANTED: pytest.StashKey[Wanted] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    options.declare(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin to record, before a conftest.py imports the application."""
    if early_config.known_args_namespace.zd_record:
        from zdmigrate.testing import recording

        recording.begin(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Find the migrations, so that mistakes are told before anything is collected."""
    if options.MIGRATION.value(config):
        from zdmigrate.testing import phases

        config.stash[_WANTED] = phases.wanted(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each phase."""
    if "zd_phase" in metafunc.fixturenames and _WANTED in metafunc.config.stash:
        wanted = metafunc.config.stash[_WANTED]
        metafunc.parametrize("zd_phase", wanted.states, ids=wanted.ids, indirect=True)


@pytest.fixture(scope="session")
def _zd_phases(request: pytest.FixtureRequest) -> Iterator[Phases]:
    """The server, and the states of the schema as far as tests have asked for them."""
    _skip_without_migration(request.config)
    from zdmigrate.testing import phases

    with phases.opened(request.config.stash[_WANTED]) as found:
        yield found


@pytest.fixture
def zd_phase(request: pytest.FixtureRequest) -> State:
    """The state of the schema in which the test runs: `phase`, the last one that was completed, and `direction`.

    Asking for `zd_database_url` or `zd_engine` is enough to run once in each phase.
    """
    _skip_without_migration(request.config)
    state: State | None = getattr(request, "param", None)
    if state is None:
        pytest.fail(
            "zd_phase must be asked for by the test's arguments: neither getfixturevalue nor a unittest.TestCase "
            "can run once in each phase",
            pytrace=False,
        )
    if request.config.stash[_WANTED].version is not None:
        request.getfixturevalue("_zd_phases").skip_outside(state)
    return state


@pytest.fixture
def zd_database_url(zd_phase: State, _zd_phases: Phases) -> Iterator[str]:
    """The URL of a database of the test's own in the state `zd_phase`, for the application's role.

    It is dropped after the test, also while connections to it are open.
    """
    with _zd_phases.database_url(zd_phase) as url:
        yield url


@pytest.fixture
def zd_engine(zd_database_url: str) -> Iterator[Engine]:
    """A SQLAlchemy engine on `zd_database_url`."""
    from sqlalchemy import create_engine

    engine = create_engine(zd_database_url)
    if engine.dialect.is_async:
        pytest.fail(
            f"zd_engine is synchronous, and {engine.dialect.driver} is not: use create_async_engine(zd_database_url)",
            pytrace=False,
        )
    try:
        yield engine
    finally:
        engine.dispose()


def _skip_without_migration(config: pytest.Config) -> None:
    if _WANTED not in config.stash:
        pytest.skip("give --zd-migration ID: the test then runs once in each phase of that migration")
