"""A footprint of the test run itself: of this process, its children, and pytest-xdist's workers.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

from zdmigrate.compat.footprint import Footprint, Statement
from zdmigrate.compat.footprints import recorded
from zdmigrate.compat.recording import hooks
from zdmigrate.compat.recording.collecting import Recording, collect
from zdmigrate.compat.recording.command import VARIABLE, environment, prepare
from zdmigrate.errors import ZdmigrateError
from zdmigrate.testing import options

__all__ = ["begin"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options ask for."""

    models: tuple[str, ...]
    application: str | None
    version: str | None


def begin(config: pytest.Config) -> None:
    """Record this process and its children from now on.

    Raises:
        pytest.UsageError: somebody else records them, or the options contradict each other.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") and os.environ.get(VARIABLE):
        hooks.install(os.environ[VARIABLE])  # the controller collects it; a no-op where the interpreter's start did it
        return
    if os.environ.get(VARIABLE):
        raise pytest.UsageError(
            "zdmigrate: these tests are recorded already: zdmigrate record or --zd-record, not both"
        )
    if config.known_args_namespace.zd_migration:
        raise pytest.UsageError(
            "zdmigrate: --zd-record wants the version's own database, not the phases of --zd-migration\n"
            "hint: record in one run, test the phases in another"
        )
    config.pluginmanager.register(_Recorder(config), "zdmigrate-record")


class _Recorder:
    """Writes the footprint when the session has passed."""

    def __init__(self, config: pytest.Config) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zdmigrate-record-")
        self._lines: list[str] = []
        path = Path(self._directory.name)
        literals = options.LITERALS.value(config, parsed=config.known_args_namespace)
        prepare(path, root=config.rootpath, literals=bool(literals))
        os.environ.update(environment(path, os.environ))
        hooks.install(str(path))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that failed leaves the file as it was: what it did not reach would be missing."""
        if session.exitstatus != pytest.ExitCode.OK:
            self._lines.append(f"{session.config.option.zd_record} is not written: the tests did not pass")
            return
        try:
            self._write(session.config)
        except ZdmigrateError as error:
            hint = error.hint and error.hint.replace("--out", "--zd-record")
            self._lines += [error.message, *([f"hint: {hint}"] if hint else [])]
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What became of it."""
        terminalreporter.section("zdmigrate")
        for line in self._lines:
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Remove what the processes have written."""
        self._directory.cleanup()

    def _write(self, config: pytest.Config) -> None:
        from zdmigrate.compat.footprints.models import mapped_tables

        wanted = Wanted(**{option.field: option.value(config) for option in options.RECORDING})
        found = collect(Path(self._directory.name))
        self._lines += found.remarks
        footprint = Footprint.of(
            application=wanted.application or "", version=wanted.version or "", statements=_sent(found),
            tables=[table for name in wanted.models for table in mapped_tables(name)],
        )  # fmt: skip
        data = footprint.to_bytes()
        recorded.write(Path(options.RECORD.value(config)), data)
        self._lines.append(f"{config.option.zd_record}: {recorded.summary(footprint, data)}")


def _sent(found: Recording) -> tuple[Statement, ...]:
    """Nothing is not a footprint: whoever checks with it would be told that all is well."""
    if not found.statements:
        raise ZdmigrateError(
            f"{found.processes} Python processes of the tests were recorded, and none sent a statement to PostgreSQL",
            hint="do the tests need a variable to use the database? psycopg, psycopg2, asyncpg, and any driver below "
            "SQLAlchemy are seen",
        )
    return found.statements
