"""A database for every state of the schema, forwards and backwards, as the real engine left it."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import psycopg

from zdmigrate.compat.probing.client import Client
from zdmigrate.compat.probing.rows import fill
from zdmigrate.compat.report import State, Version
from zdmigrate.compat.scratch import roles
from zdmigrate.compat.scratch.schemas import Start
from zdmigrate.compat.walking import Stopped, Walk, last_reversible
from zdmigrate.config import Backfill, Config
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Plan
from zdmigrate.postgres import shapes as catalog
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.shapes import Shapes

__all__ = ["NONE", "Databases", "Ground", "States", "move"]

NONE = State(phase=Phase.NONE)


class Databases(contextlib.ExitStack):
    """Databases of one check or test session. None of them outlives it."""

    def __init__(self, server: Scratch) -> None:
        super().__init__()
        self.server = server
        self._prefix = f"zd_check_{secrets.token_hex(4)}"
        self._number = 0

    def made(self, make: Callable[[str], object]) -> str:
        """A new one, of whatever kind."""
        self._number += 1
        name = f"{self._prefix}_{self._number}"
        self.callback(self.server.drop_database, name)
        make(name)
        return name

    def copy(self, template: str) -> str:
        """A copy of one that nobody is connected to."""
        return self.made(lambda name: self.server.create_database(name, template=template))

    @contextlib.contextmanager
    def lent(self, template: str) -> Iterator[str]:
        """A copy that goes when the context ends."""
        self._number += 1
        name = f"{self._prefix}_{self._number}"
        try:
            self.server.create_database(name, template=template)
            yield name
        finally:
            self.server.drop_database(name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where it happens."""

    databases: Databases
    config: Config
    role: str
    owner: str
    ids: tuple[str, ...]

    @classmethod
    def made(
        cls, databases: Databases, start: Start, config: Config, ids: Sequence[str], *, app_role: str | None = None
    ) -> tuple[Ground, str]:
        """The ground, and the database with the starting schema, whose applications log in as `app_role`, else as the
        role that has grants. The URL and the environment of `config` are not used.

        Raises:
            ZdmigrateError: the starting schema cannot be made, or nobody says who the application is.
        """
        base = databases.made(lambda name: start(databases.server, name))
        with psycopg.connect(databases.server.conninfo(base), autocommit=True) as connection:
            role = roles.application_role(connection, app_role, control=config.schema)
            owner = roles.migrating_role(connection)
        calm = dataclasses.replace(config, environment=None, backfill=Backfill(pause=timedelta(0)))
        return cls(databases=databases, config=calm, role=role, owner=owner, ids=tuple(ids)), base

    def walk(self, database: str) -> Walk:
        """The migrations on a database."""
        url = self.databases.server.conninfo(database, user=self.owner)
        return Walk(dataclasses.replace(self.config, url=url), self.ids)

    def application(self, database: str) -> Client:
        """A connection as the applications have it."""
        return Client(self.databases.server.conninfo(database, user=self.role))

    def superuser(self, database: str) -> Client:
        """A connection that sees everything."""
        return Client(self.databases.server.conninfo(database))

    def fill(self, database: str) -> dict[str, str]:
        """Rows for the tables that have none."""
        with self.superuser(database) as owner, self.application(database) as application:
            shapes = catalog.read(application.connection, control_schema=self.config.schema)
            return fill(owner, shapes)

    def shapes(self, database: str) -> Shapes:
        """As the applications see it."""
        with self.application(database) as application:
            return catalog.read(application.connection, control_schema=self.config.schema)


class States:
    """A database for every state, forwards and backwards, as the phases left it but for a few rows."""

    def __init__(self, ground: Ground, plans: Sequence[Plan]) -> None:
        self._ground = ground
        self._plans = plans
        self.database: dict[State, str] = {}
        self.shapes: dict[State, Shapes] = {}

    def build(self, base: str) -> tuple[tuple[State, Stopped], ...]:
        """Go through the phases on a copy of `base`; the states in which they stopped."""
        stopped = tuple((state, each) for state, each in self.walk(base) if each is not None)
        for state, database in self.database.items():
            if {*self.shapes[state].relations} - {*self.shapes[NONE].relations}:
                self._ground.fill(database)
        return stopped

    def walk(self, base: str) -> Iterator[tuple[State, Stopped | None]]:
        """The same, one state further with each `next`: for those that may not need them all."""
        self._keep(NONE, base)
        yield NONE, None
        yield from self._along(base, [State(phase=phase) for phase in PHASES[1:]])
        turn = State(phase=last_reversible(self._plans))
        if turn in self.database:
            back = [State(phase=p.previous, direction=Direction.BACKWARD) for p in turn.phase.back_to(Phase.NONE)]
            yield from self._along(self.database[turn], back)

    def possible(self, state: State) -> bool:
        """Whether the phases lead to it: not all of them can be reverted."""
        return state.direction is Direction.FORWARD or state.phase.position < last_reversible(self._plans).position

    def _along(self, source: str, states: Sequence[State]) -> Iterator[tuple[State, Stopped | None]]:
        database = self._ground.databases.copy(source)
        walk = self._ground.walk(database)
        for state in states:
            stopped = move(walk, state)
            if stopped is None:
                self._keep(state, database)
            yield state, stopped
            if stopped is not None:
                return

    def _keep(self, state: State, database: str) -> None:
        self.database[state] = self._ground.databases.copy(database)
        self.shapes[state] = self._ground.shapes(database)

    def changing(self) -> frozenset[str]:
        """The names of everything that is not the same in all states, and of all that leads there."""
        found = {name for shapes in self.shapes.values() for name in shapes.differing(self.shapes[NONE])}
        return frozenset(n for shapes in self.shapes.values() for n in shapes.reaching(frozenset(found)))

    def home(self, version: Version) -> State:
        """The state that a version was written for."""
        forward = [state for state in self.database if state.direction is Direction.FORWARD]
        return NONE if version is Version.OLD else max(forward, key=lambda state: state.phase.position)


def move(walk: Walk, state: State) -> Stopped | None:
    """To the state, from the one before it."""
    return walk.advance(state.phase) if state.direction is Direction.FORWARD else walk.revert(state.phase)
