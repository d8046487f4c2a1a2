"""One migration through all its phases, back from each of them and forward again, compared with DDL by hand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from tests.support import catalog_compare
from zdmigrate.config import Config
from zdmigrate.engine import gates
from zdmigrate.engine.outcome import Outcome
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Plan
from zdmigrate.postgres.servers import ScratchServer
from zdmigrate.sqltext import ident, literal

ID = "0001_it"
EVERYTHING = dict.fromkeys(gates.OVERRIDABLE, "tested")
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A schema with data, the changes as source text, and the DDL that somebody would write by hand.

    `lossy`: going back loses values, and may. `backwards` is False where a revert is not what is tested (an irreversible
    change). `owner`: a role without superuser's rights that owns all of it and runs the migration.
    """

    schema: tuple[str, ...]
    changes: tuple[str, ...]
    by_hand: tuple[str, ...]
    before_retire: tuple[str, ...] = ()
    data: str | None = None
    backwards: bool = True
    lossy: bool = False
    prelude: str = ""
    owner: str | None = None
    overrides: Mapping[str, str] = dataclasses.field(default_factory=lambda: EVERYTHING)


class Stage:
    """Databases with the case's schema, on one server."""

    def __init__(self, server: ScratchServer, directory: Path, case: Case) -> None:
        self._server, self._case, self._names = server, case, list[str]()
        self._directory = directory
        self.changes = case.changes
        self.write(ID, *case.changes)

    def write(self, id_: str, *changes: str) -> None:
        """A migration file."""
        head = f"import sqlalchemy as sa\nfrom zdmigrate import *\n{self._case.prelude}"
        text = f"{head}migration = Migration({', '.join(changes)})\n"
        (self._directory / f"{id_}.py").write_text(text, encoding="utf-8")

    def make(self) -> str:
        """A database of its own."""
        name = f"catalogue_{next(_numbers)}"
        self._names.append(name)
        self._server.create_database(name)
        if self._case.owner is not None:
            role = ident(self._case.owner)
            there = self.rows(name, f"SELECT 1 FROM pg_roles WHERE rolname = {literal(self._case.owner)}")
            self.sql(
                name, *([] if there else [f"CREATE ROLE {role} LOGIN"]),
                f"GRANT CREATE ON DATABASE {ident(name)} TO {role}", f"GRANT CREATE ON SCHEMA public TO {role}",
            )  # fmt: skip
        with self.connect(name) as connection:
            for statement in self._case.schema:
                connection.execute(statement.encode())
        with self.project(name) as project:
            project.init(environment="development", app_role=None, confirmed=True)
        return name

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """As the owner, if there is one; an application that prepares nothing."""
        conninfo = self._server.conninfo(name, user=self._case.owner or "postgres")
        return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)

    def sql(self, name: str, *statements: str) -> None:
        with self._server.connect(name, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, name: str, query: str) -> list[tuple[object, ...]]:
        with self._server.connect(name, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    @contextmanager
    def project(self, name: str, *, user: str | None = None) -> Iterator[Project]:
        config = Config(
            url=self._server.conninfo(name, user=user or self._case.owner or "postgres"),
            dir=self._directory,
            lock_budget=timedelta(seconds=20),
        )
        with Project.open(config, report=lambda _: None) as project:
            yield project

    def catalog(self, name: str) -> catalog_compare.Catalog:
        with self._server.connect(name, autocommit=True) as connection:
            return catalog_compare.read(connection, ignore=("read switch",))

    def close(self) -> None:
        for name in self._names:
            self._server.drop_database(name)


class NotNullAnywhere(Stage):
    """Does not ask whether the NOT NULL of a partition is its own, too: a primary key made on it says so for good."""

    def catalog(self, name: str) -> catalog_compare.Catalog:
        found = super().catalog(name)
        return {key: (*facts[:5], *facts[6:]) if facts[0] == "n" else facts for key, facts in found.items()}


def walk(stage: Stage, case: Case) -> Plan:
    """Phases, bootstrap and DDL by hand leave the same; a revert from every phase leaves what was there."""
    by_hand, at_once, by_phases = stage.make(), stage.make(), stage.make()
    stage.sql(by_hand, *case.by_hand)
    with stage.project(at_once) as project:
        _expect(project.bootstrap())
    _same(stage.catalog(by_hand), stage.catalog(at_once), "by hand (-), bootstrap (+)")
    before = stage.catalog(by_phases)
    with stage.project(by_phases) as project:
        (plan,) = project.plan([])
        for phase in PHASES[1:]:
            if phase is Phase.RETIRE:
                stage.sql(by_phases, *case.before_retire)
            for _ in range(2):  # the second changes nothing
                _expect(project.advance([], target=phase, overrides=case.overrides))
            if case.backwards and phase.position <= plan.undoable_until.position and not case.before_retire:
                back = project.revert(ID, target=Phase.NONE, overrides=case.overrides, allow_lossy=case.lossy)
                _expect(back)
                _same(before, stage.catalog(by_phases), f"before (-), after {phase} (+)")
                project.unhold(ID)
                _expect(project.advance([], target=phase, overrides=case.overrides))
    ended = stage.catalog(by_phases)
    _same(stage.catalog(by_hand), ended, "by hand (-), phases (+)")
    if case.data is not None:
        assert stage.rows(by_hand, case.data) == stage.rows(by_phases, case.data)
    return plan


def _same(left: catalog_compare.Catalog, right: catalog_compare.Catalog, what: str) -> None:
    found = catalog_compare.difference(left, right)
    assert not found, "\n".join([what, *found])


def _expect(outcome: Outcome) -> None:
    assert outcome.exit_code == 0, [(m.message, m.hint) for m in outcome.migrations]
