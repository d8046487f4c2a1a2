"""The check: both versions of every application, in every phase, forwards and backwards, on one scratch server."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from zdmigrate.compat.announced import Announcements
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.probing.client import Client
from zdmigrate.compat.probing.commands import Commands
from zdmigrate.compat.probing.crossing import Crossing
from zdmigrate.compat.probing.needs import Home, Needs, Settled, settle
from zdmigrate.compat.probing.warm import WarmClient
from zdmigrate.compat.report import Application, Counts, Finding, Layer, Run, State, Unproven, Version
from zdmigrate.compat.scratch.schemas import Start
from zdmigrate.compat.states import NONE, Databases, Ground, States, move
from zdmigrate.compat.walking import Stopped, last_reversible
from zdmigrate.config import Config
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.migration import migration_paths
from zdmigrate.plan import Direction, Plan
from zdmigrate.planning.planner import combine
from zdmigrate.postgres.scratch import Scratch

__all__ = ["Checked", "Pair", "check"]


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
    with Databases(server) as databases:
        ground, base = Ground.made(databases, start, config, ids, app_role=app_role)
        ground.fill(base)
        plans = _planned(ground, base)
        if not plans:
            raise UsageError(
                "there is no migration to check: the directory has none, or the starting schema has them all already",
                hint="zdmigrate check MIGRATION, with a schema from before it",
            )
        ground = dataclasses.replace(ground, ids=tuple(plan.migration for plan in plans))
        states = States(ground, plans)
        stopped = states.build(base)
        names = states.changing() | _declared(plans)
        runs = [_check_pair(pair, ground, plans, states, stopped, names, base) for pair in pairs]
        if commands is not None:
            runs[0] = _with_commands(runs[0], commands, ground, states)
    return Checked(plans=plans, runs=tuple(runs))


def _declared(plans: Sequence[Plan]) -> frozenset[str]:
    """The tables that a migration's own statements work on: they may change rows, and no shape."""
    authored = (step for plan in plans for step in plan.steps() if step.authored)
    return frozenset(lock.name for step in authored for lock in (*step.locks, *step.undo_locks))


def _planned(ground: Ground, base: str) -> tuple[Plan, ...]:
    try:
        return ground.walk(base).begin()
    except Unsafe as error:
        if len(ground.ids or migration_paths(ground.config.dir)) > 1:
            alone = "one that builds on another is checked by itself, after it: zdmigrate check MIGRATION"
            error.hint = f"{error.hint}; {alone}" if error.hint else alone
        raise


def _check_pair(
    pair: Pair, ground: Ground, plans: Sequence[Plan], states: States, stopped: Sequence[tuple[State, Stopped]],
    names: frozenset[str], base: str,
) -> Run:  # fmt: skip
    predicted = combine(p.window for p in plans)
    needs = _settled(pair, ground, states, names, State(phase=predicted.old_until))
    touching = {version: needs[version].touching(names) for version in Version}
    findings = [finding for state, each in stopped for finding in _stop(state, each)]
    executions = 0
    for state, database in states.database.items():
        for version in Version:
            with ground.application(database) as client:
                found = list(needs[version].examine(client, state, states.shapes[state], touching[version]))
                executions += client.executions
            findings += found
    run = Run(
        application=pair.application, server=ground.databases.server.label, predicted=predicted,
        reached=tuple(states.database),
    )  # fmt: skip
    announcements = Announcements(plans, states.shapes.values())
    live = _Live(run=run, ground=ground, plans=plans, states=states, needs=needs, touching=touching, names=names)
    findings += live.findings(base)
    return dataclasses.replace(
        run,
        findings=tuple(
            # Where a version is said not to work anyway, there is nothing to excuse.
            announcements.marked(f) if run.predicts(f.version, f.state) else f
            for f in dict.fromkeys(findings)
        ),
        unproven=(*_nothing(pair), *(each for version in Version for each in needs[version].unproven)),
        counts=_counts(needs, touching, executions + live.executions),
    )


def _with_commands(run: Run, commands: Commands, ground: Ground, states: States) -> Run:
    found: list[Finding] = []
    for state, database in states.database.items():
        for version in Version:
            if run.predicts(version, state):
                copy = ground.databases.copy(database)
                found += commands.findings(ground.databases.server, copy, ground.role, version, state)
    return dataclasses.replace(run, findings=(*run.findings, *found))


def _settled(
    pair: Pair, ground: Ground, states: States, names: frozenset[str], last_shared: State
) -> dict[Version, Needs]:
    needs: dict[Version, Needs] = {}
    known: dict[str, Settled] = {}
    for version in Version:
        with contextlib.ExitStack() as stack:

            def home(state: State, stack: contextlib.ExitStack = stack) -> Home:
                return Home(stack.enter_context(ground.application(states.database[state])), states.shapes[state])

            homes = [home(state) for state in dict.fromkeys((states.home(version), NONE))]
            met = version is Version.NEW and last_shared in states.database
            meeting = home(last_shared) if met else None
            needs[version] = settle(version, pair.footprint(version), homes, meeting=meeting, names=names, known=known)
        # Most statements of N+1 are N's: what touches nothing that changes is asked once.
        touching = {each.probe for each in needs[version].touching(names)}
        known = {e.probe.sql: e for e in needs[version].settled if e.probe not in touching}
    return needs


def _stop(state: State, stopped: Stopped) -> Iterator[Finding]:
    for version in Version:
        yield Finding(
            version=version, state=state, layer=Layer.PHASE, subject=stopped.migration, message=stopped.message,
            remedy="the phase must come to its end on a scratch server before it is tried anywhere else",
        )  # fmt: skip


def _nothing(pair: Pair) -> Iterator[Unproven]:
    if not any(footprint.tables or footprint.statements for footprint in (pair.old, pair.new)):
        reason = "the footprints of both versions are empty: there is nothing that could fail"
        yield Unproven(version=None, subject=pair.name, reason=reason)


def _counts(needs: Mapping[Version, Needs], touching: Mapping[Version, Sequence[Settled]], executions: int) -> Counts:
    everywhere = {probe.probe for each in touching.values() for probe in each}
    every = {settled for each in needs.values() for settled in each.settled}
    return Counts(
        everywhere=len(everywhere), once=len({each.probe for each in every} - everywhere),
        prepared_only=sum(not each.executes for each in every), executions=executions,
    )  # fmt: skip


@dataclasses.dataclass(kw_only=True, slots=True)
class _Live:
    """The phases once more, with connections that stay open, and with rows that stay."""

    run: Run
    ground: Ground
    plans: Sequence[Plan]
    states: States
    needs: Mapping[Version, Needs]
    touching: Mapping[Version, Sequence[Settled]]
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
            live: list[Version] = []
            for number, state in enumerate(states):
                if number:
                    if move(walk, state) is not None:
                        return  # it came this far before: a phase that fails now failed there too
                    # A version that was not deployed yet has no connection that knows the state before.
                    yield from self._repeated({version: warm[version] for version in live}, clients, state)
                live = [version for version in Version if self.run.predicts(version, state)]
                yield from crossing.work(state, self.states.shapes[state], live, self.plans, owner)
                for version in live:
                    warm[version].warm()
            self.executions += sum(client.executions for client in clients.values())

    def _repeated(
        self, warm: Mapping[Version, WarmClient], clients: Mapping[Version, Client], state: State
    ) -> Iterator[Finding]:
        for version, each in warm.items():
            for probe, failure in each.repeat(clients[version]):
                yield self.needs[version].finding(probe, failure, Layer.WARM, state, self.states.shapes[state])
