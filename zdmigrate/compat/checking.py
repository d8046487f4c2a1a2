"""The check: both versions of every application, in every phase, forwards and backwards, on one scratch server."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import psycopg

from zdmigrate.compat import roles
from zdmigrate.compat.client import Client
from zdmigrate.compat.commands import Commands
from zdmigrate.compat.crossing import Crossing
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.needs import Needs, Settled, settle
from zdmigrate.compat.report import Application, Counts, Finding, Layer, Run, State, Version
from zdmigrate.compat.rows import fill
from zdmigrate.compat.schemas import Start
from zdmigrate.compat.walking import Stopped, Walk, last_reversible
from zdmigrate.compat.warm import WarmClient, only_warm
from zdmigrate.config import Backfill, Config
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Plan
from zdmigrate.planning.planner import combine
from zdmigrate.postgres import shapes as catalog
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.shapes import Shapes

__all__ = ["Checked", "Pair", "check"]

NONE = State(phase=Phase.NONE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Versions N and N+1 of one application."""

    name: str
    old: Footprint
    new: Footprint

    @property
    def application(self) -> Application:
        """As reports speak of it."""
        return Application(
            name=self.name, old=self.old.version or "N", new=self.new.version or "N+1", old_digest=self.old.digest,
            new_digest=self.new.digest,
        )  # fmt: skip

    def footprint(self, version: Version) -> Footprint:
        """The version's."""
        return self.old if version is Version.OLD else self.new


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The runs on one server, one for each application, and the plans that were proven."""

    plans: tuple[Plan, ...]
    runs: tuple[Run, ...]


def check(
    server: Scratch,
    start: Start,
    config: Config,
    ids: Sequence[str],
    pairs: Sequence[Pair],
    *,
    app_role: str | None = None,
    commands: Commands | None = None,
) -> Checked:
    """Prove that both versions work in every phase that the migrations `ids` go through.

    All databases are made here, and dropped again. `config` says where the migrations are and what the control schema
    is called; its URL is not used. The applications log in as `app_role`, else as the role that has grants.
    `commands` are run against every state in which the changes say that their version works, for the first pair.

    Raises:
        ZdmigrateError: the starting schema, or a plan, cannot be made.
    """
    with _Databases(server) as databases:
        base = databases.made(lambda name: start(server, name))
        with psycopg.connect(server.conninfo(base), autocommit=True) as connection:
            role = roles.application_role(connection, app_role, control=config.schema)
            owner = roles.migrating_role(connection)
        ground = _Ground(
            databases=databases, config=dataclasses.replace(config, environment=None, backfill=Backfill(pause=timedelta(0))),
            role=role, owner=owner, ids=tuple(ids),
        )  # fmt: skip
        ground.fill(base)
        plans = ground.walk(base).begin()
        ground = dataclasses.replace(ground, ids=tuple(plan.migration for plan in plans))
        states = _States(ground, plans)
        stopped = states.build(base)
        names = states.changing()
        runs = [_check_pair(pair, ground, plans, states, stopped, names, base) for pair in pairs]
        if commands is not None:
            runs[0] = _with_commands(runs[0], commands, ground, states)
    return Checked(plans=plans, runs=tuple(runs))


class _Databases(contextlib.ExitStack):
    """Databases of one check. None of them outlives it."""

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """Where it happens."""

    databases: _Databases
    config: Config
    role: str
    owner: str
    ids: tuple[str, ...]

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


class _States:
    """A database for every state, forwards and backwards, as the phases left it but for a few rows."""

    def __init__(self, ground: _Ground, plans: Sequence[Plan]) -> None:
        self._ground = ground
        self._plans = plans
        self.database: dict[State, str] = {}
        self.shapes: dict[State, Shapes] = {}

    def build(self, base: str) -> tuple[tuple[State, Stopped], ...]:
        """Go through the phases on a copy of `base`; the states in which they stopped."""
        self._keep(NONE, base)
        stopped = [*self._along(base, [State(phase=phase) for phase in PHASES[1:]])]
        turn = State(phase=last_reversible(self._plans))
        if turn in self.database:
            back = [State(phase=p.previous, direction=Direction.BACKWARD) for p in turn.phase.back_to(Phase.NONE)]
            stopped += self._along(self.database[turn], back)
        for database in self.database.values():
            self._ground.fill(database)
        return tuple(stopped)

    def _along(self, source: str, states: Sequence[State]) -> Iterator[tuple[State, Stopped]]:
        database = self._ground.databases.copy(source)
        walk = self._ground.walk(database)
        for state in states:
            stopped = move(walk, state)
            if stopped is not None:
                yield state, stopped
                return
            self._keep(state, database)

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


def _check_pair(
    pair: Pair, ground: _Ground, plans: Sequence[Plan], states: _States, stopped: Sequence[tuple[State, Stopped]],
    names: frozenset[str], base: str,
) -> Run:  # fmt: skip
    needs = {version: _settled(pair, version, ground, states) for version in Version}
    touching = {version: needs[version].touching(names) for version in Version}
    findings = [finding for state, each in stopped for finding in _stop(state, each)]
    executions = 0
    broken: dict[tuple[Version, State], frozenset[str]] = {}
    for state, database in states.database.items():
        for version in Version:
            with ground.application(database) as client:
                found = list(needs[version].examine(client, state, states.shapes[state], touching[version]))
                executions += client.executions
            broken[version, state] = frozenset(f.statement for f in found if f.statement is not None)
            findings += found
    run = Run(
        application=pair.application, server=ground.databases.server.label, predicted=combine(p.window for p in plans),
        reached=tuple(states.database),
    )  # fmt: skip
    live = _Live(
        run=run, ground=ground, plans=plans, states=states, needs=needs, touching=touching, broken=broken, names=names
    )
    findings += live.findings(base)
    return dataclasses.replace(
        run,
        findings=tuple(_announced(finding, plans) for finding in findings),
        unproven=tuple(each for version in Version for each in needs[version].unproven),
        counts=_counts(needs, touching, executions + live.executions),
    )


def _with_commands(run: Run, commands: Commands, ground: _Ground, states: _States) -> Run:
    found: list[Finding] = []
    for state, database in states.database.items():
        for version in Version:
            if run.predicts(version, state):
                copy = ground.databases.copy(database)
                found += commands.findings(ground.databases.server, copy, ground.role, version, state)
    return dataclasses.replace(run, findings=(*run.findings, *found))


def _settled(pair: Pair, version: Version, ground: _Ground, states: _States) -> Needs:
    home = states.home(version)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(ground.application(states.database[home]))
        before = stack.enter_context(ground.application(states.database[NONE])) if version is Version.NEW else None
        return settle(client, version, pair.footprint(version), states.shapes[home], strictest=before)


def _stop(state: State, stopped: Stopped) -> Iterator[Finding]:
    for version in Version:
        yield Finding(
            version=version, state=state, layer=Layer.PHASE, subject=stopped.migration, message=stopped.message,
            remedy="the phase must come to its end on a scratch server before it is tried anywhere else",
        )  # fmt: skip


_UNASKED: Mapping[str, Version] = {"C12": Version.NEW, "C15": Version.OLD}
"""Hazards that say which version fails, without asking for consent: the migration's author declared them."""


def _announced(finding: Finding, plans: Sequence[Plan]) -> Finding:
    """Whether a plan says so itself, and has it accepted. What it says of `SELECT *` in general is no such thing."""
    # A revert passes the phase after the one that it comes to.
    passed = finding.state.phase.position + (finding.state.direction is Direction.BACKWARD)
    before = [hazard for plan in plans for hazard in plan.hazards if hazard.phase.position <= passed]
    if finding.layer is Layer.WARM:
        known = any(hazard.accept == "warm_connections" for hazard in before)
    else:
        # What was accepted for warm connections is not accepted for new ones.
        mine = [each for each in before if each.id == finding.hazard and each.accept != "warm_connections"]
        known = any(hazard.accept is not None or _UNASKED.get(hazard.id) is finding.version for hazard in mine)
    return dataclasses.replace(finding, announced=True) if known else finding


def _counts(needs: Mapping[Version, Needs], touching: Mapping[Version, Sequence[Settled]], executions: int) -> Counts:
    everywhere = sum(len(each) for each in touching.values())
    every = [settled for each in needs.values() for settled in each.settled]
    return Counts(
        everywhere=everywhere, once=len(every) - everywhere, prepared_only=sum(not each.executes for each in every),
        executions=executions,
    )  # fmt: skip


@dataclasses.dataclass(kw_only=True, slots=True)
class _Live:
    """The phases once more, with connections that stay open, and with rows that stay."""

    run: Run
    ground: _Ground
    plans: Sequence[Plan]
    states: _States
    needs: Mapping[Version, Needs]
    touching: Mapping[Version, Sequence[Settled]]
    broken: Mapping[tuple[Version, State], frozenset[str]]
    names: frozenset[str]
    executions: int = 0

    def findings(self, base: str) -> Iterator[Finding]:
        forward = [state for state in self.states.database if state.direction is Direction.FORWARD]
        backward = [state for state in self.states.database if state.direction is Direction.BACKWARD]
        yield from self._along(base, forward)
        turn = State(phase=last_reversible(self.plans))
        if backward:
            yield from self._along(self.states.database[turn], [turn, *backward])

    def _along(self, source: str, states: Sequence[State]) -> Iterator[Finding]:
        """From the first of the states, in which `source` is, to the last."""
        database = self.ground.databases.copy(source)
        walk = self.ground.walk(database)
        with contextlib.ExitStack() as stack:
            owner = stack.enter_context(self.ground.superuser(database))
            clients = {version: stack.enter_context(self.ground.application(database)) for version in Version}
            crossing = Crossing(self.needs, clients, self.names)
            warm = {
                version: WarmClient(stack.enter_context(self.ground.application(database)), self.touching[version])
                for version in Version
            }
            for number, state in enumerate(states):
                if number:
                    if move(walk, state) is not None:
                        return  # it came this far before: a phase that fails now failed there too
                    yield from self._repeated(warm, state)
                live = [version for version in Version if self.run.predicts(version, state)]
                yield from crossing.work(state, self.states.shapes[state], live, self.plans, owner)
                for version in Version:
                    warm[version].warm()
            self.executions += sum(client.executions for client in clients.values())

    def _repeated(self, warm: Mapping[Version, WarmClient], state: State) -> Iterator[Finding]:
        for version in Version:
            found = only_warm(warm[version].repeat(), self.broken[version, state])
            for probe, failure in found:
                yield self.needs[version].finding(probe, failure, Layer.WARM, state, self.states.shapes[state])
