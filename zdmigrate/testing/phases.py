"""Databases in every phase of a migration, for the tests of a session.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

from zdmigrate import config as configuration
from zdmigrate.cli.checking_options import SERVERS, Serving, Starting, selected
from zdmigrate.compat.report import State, Version, predicts
from zdmigrate.compat.states import Databases, Ground, States
from zdmigrate.compat.walking import Stopped
from zdmigrate.config import Config
from zdmigrate.errors import UsageError, ZdmigrateError
from zdmigrate.phases import LAST_REVERSIBLE, PHASES, Phase
from zdmigrate.plan import Direction, Window
from zdmigrate.planning.planner import combine
from zdmigrate.postgres import url as urls
from zdmigrate.testing import options

__all__ = ["STATES", "Phases", "Wanted", "opened", "wanted"]

STATES = (
    *(State(phase=phase) for phase in PHASES),
    *(State(phase=p.previous, direction=Direction.BACKWARD) for p in LAST_REVERSIBLE.back_to(Phase.NONE)),
)
"""All that a migration can have, in the order in which they come."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What pytest's options and configuration file ask for.

    `directory` is where pytest was called, `import_path` what its configuration puts in front of the import path.
    """

    migrations: tuple[str, ...]
    before: tuple[str, ...]
    states: tuple[State, ...]
    version: Version | None
    rows: bool
    config: Config
    starting: Starting
    serving: Serving
    directory: Path
    import_path: tuple[str, ...]

    @property
    def ids(self) -> list[str]:
        """The tests' ids."""
        return [_id(state) for state in self.states]

    def text(self, message: str, hint: str | None = None) -> str:
        """A message for people: without passwords, with the options as the plugin has them."""
        ours, theirs = (self.starting.from_url, self.serving.server_url), self.config.check
        for secret in filter(None, (*ours, self.config.url, theirs.from_url, theirs.server_url)):
            message, hint = urls.redact(message, secret), hint and urls.redact(hint, secret)
        return _text(message, hint)


def wanted(config: pytest.Config) -> Wanted:
    """What is asked for, as far as it can be known without a server.

    Raises:
        pytest.UsageError: an option is wrong, a migration is not there, or zdmigrate's configuration is wrong.
    """
    given = {option.field: option.value(config) for option in options.CHECK}
    try:
        return _wanted(config, given)
    except ZdmigrateError as error:
        raise pytest.UsageError(_text(error.message, error.hint)) from None
    except click.UsageError as error:
        raise pytest.UsageError(_text(error.message, None)) from None


def _wanted(config: pytest.Config, given: dict[str, Any]) -> Wanted:
    directory = config.invocation_params.dir
    file = given.pop("config")
    loaded = configuration.load(
        start=directory, environ=os.environ, file=None if file is None else Path(file),
        options={"dir": given.pop("dir")},
    )  # fmt: skip
    migrations, before = selected(loaded, options.MIGRATION.value(config))
    # Several images are a matrix of versions to a check; tests run on one.
    loaded = dataclasses.replace(loaded, check=dataclasses.replace(loaded.check, images=loaded.check.images[:1]))
    serving = Serving(
        server=_kind(given.pop("server")), images=tuple(filter(None, [given.pop("images")])),
        server_url=given.pop("server_url"), pg=_major(given.pop("pg")),
    )  # fmt: skip
    starting = Starting(**given)
    starting.origin(loaded)  # refuses two sources
    return Wanted(
        migrations=tuple(migrations), before=tuple(before), states=_states(options.PHASES.value(config)),
        version=_version(options.VERSION.value(config)), rows=bool(options.ROWS.value(config)), config=loaded,
        starting=starting, serving=serving, directory=directory,
        import_path=tuple(str(path) for path in config.getini("pythonpath")),
    )  # fmt: skip


def _id(state: State) -> str:
    return state.phase.value if state.direction is Direction.FORWARD else f"{state.phase}-reverted"


def _states(text: str | None) -> tuple[State, ...]:
    if text is None:
        return STATES
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - {_id(state) for state in STATES})
    if unknown or not names:
        known = ", ".join(PHASES)
        raise UsageError(f"--zd-phases: there is no phase {', '.join(unknown) or text!r}", hint=f"phases are {known}")
    return tuple(state for state in STATES if names & {_id(state), state.phase.value})


def _version(text: str | None) -> Version | None:
    if text not in (None, *Version):
        raise UsageError(f"--zd-version: {text!r} is neither old nor new")
    return None if text is None else Version(text)


def _kind(text: str | None) -> str | None:
    if text not in (None, *SERVERS):
        raise UsageError(f"--zd-server: there is no kind of server {text!r}", hint=f"one of {', '.join(SERVERS)}")
    return text


def _major(text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise UsageError(f"--zd-pg: {text!r} is no major version, such as 17")
    return None if text is None else int(text)


def _text(message: str, hint: str | None) -> str:
    return options.translated(f"zdmigrate: {message}" + (f"\nhint: {hint}" if hint else ""))


@contextlib.contextmanager
def opened(wanted: Wanted) -> Iterator[Phases]:
    """A server with the starting schema. What was made on it is dropped at the end, and the server stopped.

    Where it cannot be had, the test that asked for it fails, with the reason and without a traceback.
    """
    with contextlib.ExitStack() as stack:
        with _told(wanted):
            phases = _opened(wanted, stack)
        yield phases


def _opened(wanted: Wanted, stack: contextlib.ExitStack) -> Phases:
    config, starting = wanted.config, wanted.starting
    server, *_ = stack.enter_context(wanted.serving.open(config, like=starting.origin(config)))
    databases = stack.enter_context(Databases(server))
    start = starting.start(config, before=wanted.before)
    with _as_called(wanted):
        ground, base = Ground.made(databases, start, config, wanted.migrations, app_role=starting.application(config))
    if wanted.rows:
        ground.fill(base)
    plans = ground.walk(base).begin()
    return Phases(wanted, ground, States(ground, plans), base, combine(plan.window for plan in plans))


@contextlib.contextmanager
def _as_called(wanted: Wanted) -> Iterator[None]:
    """The directory and import path that pytest has, for the project's code that makes the starting schema: the test
    that happens to be the first may have changed them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(wanted.directory)
        for path in reversed(wanted.import_path):
            patch.setenv("PYTHONPATH", path, prepend=os.pathsep)
        yield


class Phases:
    """The states of the schema. Each is made when a test first asks for it, or for a later one."""

    def __init__(self, wanted: Wanted, ground: Ground, states: States, base: str, window: Window) -> None:
        self._wanted = wanted
        self._ground = ground
        self._states = states
        self._window = window
        self._walk = states.walk(base)
        self._stopped: list[tuple[State, Stopped]] = []
        self._filled: set[State] = set()

    def skip_outside(self, state: State) -> None:
        """Skip the test where the plan says that the wanted version does not work."""
        version = self._wanted.version
        if version is not None and not predicts(self._window, version, state):
            edge = (
                f"works until {self._window.old_until}"
                if version is Version.OLD
                else f"works from {self._window.new_from} on"
            )
            pytest.skip(f"the {version} version {edge}, says the plan")

    @contextlib.contextmanager
    def database_url(self, state: State) -> Iterator[str]:
        """A copy of the state's database, as the application finds it. Where there is no such state, the test is
        skipped; where its phase failed, the test fails."""
        with contextlib.ExitStack() as stack:
            with _told(self._wanted):
                name = stack.enter_context(self._ground.databases.lent(self._template(state)))
                environment = self._wanted.starting.environment(self._wanted.config)
                found = environment.of(self._ground.databases.server, name, user=self._ground.role)
            yield found[environment.variables[0]]

    def _template(self, state: State) -> str:
        if not self._states.possible(state):
            pytest.skip(f"{', '.join(self._ground.ids)} cannot come back so far: there is no state {state}")
        if state not in self._states.database:
            self._walk_to(state)
        database = self._states.database[state]
        if self._wanted.rows and state not in self._filled:
            self._ground.fill(database)
            self._filled.add(state)
        return database

    def _walk_to(self, state: State) -> None:
        for reached, stopped in self._walk:  # goes on where it was left
            if stopped is not None:
                self._stopped.append((reached, stopped))
            if reached == state:
                break
        if state not in self._states.database:
            on_the_way = [each for each in self._stopped if STATES.index(each[0]) <= STATES.index(state)]
            raise ZdmigrateError("; ".join(_said(*each) for each in on_the_way) or f"{state} was not reached")


def _said(state: State, stopped: Stopped) -> str:
    return f"{stopped.migration} does not come to {state}: {stopped.message}"


@contextlib.contextmanager
def _told(wanted: Wanted) -> Iterator[None]:
    """Errors for people, as failures without a traceback."""
    try:
        yield
    except ZdmigrateError as error:
        text = wanted.text(error.message, error.hint)
    except click.ClickException as error:
        text = wanted.text(error.message)
    except psycopg.Error as error:
        text = wanted.text(f"the database refused: {' '.join(str(error).split())}")
    else:
        return
    raise pytest.fail.Exception(text, pytrace=False) from None
