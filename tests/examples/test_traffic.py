"""Every example under traffic of both versions, forwards, back from every phase, and forwards again.

N works as long as the plans say that it does, N+1 from where they say it, also while the steps of a phase run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.support import catalog_compare
from tests.support.examples import Bench, Final, project, read_rows, settled_catalog
from tests.support.servers import connect
from tests.support.warm import SWAP
from zdmigrate.demo.entities import table_of
from zdmigrate.demo.example import Example
from zdmigrate.demo.journey import Journey
from zdmigrate.demo.traffic import Traffic
from zdmigrate.demo.workload import Version
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES, Phase

FULLY, BRIEFLY = 15, 3
"""Requests of each kind that each version at work must have made in a phase."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """An example on its way, with everybody at work."""

    example: Example
    journey: Journey
    traffic: Traffic
    connection: psycopg.Connection[tuple[object, ...]]
    start: catalog_compare.Catalog

    def stay(self, minimum: int) -> None:
        """Until everybody has done enough, and every row holds what it must."""
        self.traffic.hold(minimum)
        self.traffic.compare()
        assert self.traffic.findings.violations == []

    def check_start(self) -> None:
        """After a full revert nothing is left."""
        assert catalog_compare.difference(self.start, settled_catalog(self.connection)) == []
        assert self.connection.execute("SELECT name FROM zdmigrate.read_switch WHERE percent <> 0").fetchall() == []

    def check_end(self, final: Final) -> None:
        """Schema, and rows that nobody wrote, are those that `bootstrap` makes."""
        assert catalog_compare.difference(final.catalog, settled_catalog(self.connection)) == []
        self.traffic.assign(())
        found = read_rows(self.connection)
        compared = 0
        for row in self.traffic.registry.untouched():
            cls = row.entity.classes.get(Version.NEXT)
            if cls is not None:
                table = f"{table_of(cls).schema or 'public'}.{table_of(cls).name}"
                names = [row.entity.fields[name].attributes[Version.NEXT].column.name for name in row.entity.identity]
                key = [str(value) for value in row.key]
                mine, theirs = (
                    [final.stable(table, each) for each in rows[table] if [str(each[name]) for name in names] == key]
                    for rows in (final.rows, found)
                )
                assert mine == theirs
                compared += len(mine)
        assert compared or not any(len(entity.classes) == 2 for entity in self.traffic.entities)


@contextlib.contextmanager
def rehearsal(bench: Bench, example: Example, *, warm: bool = False) -> Iterator[Rehearsal]:
    with (
        bench.database(example) as database,
        connect(database) as connection,
        project(example, database) as opened,
        Traffic(example, database.sqlalchemy_url, prepare_threshold=_threshold(opened) if warm else None) as traffic,
    ):
        start = settled_catalog(connection)
        journey = Journey(opened, example, traffic)
        journey.begin()
        yield Rehearsal(example, journey, traffic, connection, start)


def _threshold(project: Project) -> int | None:
    """Prepare everything at once, unless the plan says what will then fail (`test_warm_connections` counts it)."""
    return None if any(hazard.id == SWAP for plan in project.plan([]) for hazard in plan.hazards) else 1


def test_forward_with_both_versions_at_work(bench: Bench, example: Example) -> None:
    with rehearsal(bench, example) as run:
        run.stay(FULLY)
        run.journey.forward(Phase.CONTRACT, lambda _: run.stay(FULLY))
        run.check_end(bench.final(example))
        for phase in PHASES:
            for version in Version:
                requests = run.traffic.findings.total(version, str(phase))
                expected = run.journey.works(version, phase) and bool(run.traffic.operations(version))
                assert (requests >= FULLY) is expected, (version, phase, requests)


def test_back_from_every_phase_and_forward_again(bench: Bench, example: Example) -> None:
    with rehearsal(bench, example, warm=True) as run:
        journey = run.journey
        furthest = journey.last_reversible
        journey.forward(furthest)
        run.stay(BRIEFLY)
        journey.back(Phase.NONE, lambda _: run.stay(BRIEFLY))
        run.check_start()
        for phase in Phase.NONE.until(furthest.previous):
            if journey.has_steps(phase):
                journey.forward(phase)
                run.stay(BRIEFLY)
                journey.back(Phase.NONE)
                run.stay(BRIEFLY)
                run.check_start()
        journey.forward(Phase.CONTRACT, lambda _: run.stay(BRIEFLY))
        run.check_end(bench.final(example))


# -- what must be found: the tests above rest on it --------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.NONE, Phase.CONTRACT])
def test_a_value_that_somebody_else_wrote(bench: Bench, phase: Phase) -> None:
    with rehearsal(bench, bench.example("rename_column")) as run:
        run.journey.forward(phase)
        run.traffic.hold(BRIEFLY)
        live = run.traffic.live
        run.traffic.assign(())
        run.connection.execute("UPDATE users SET name = 'somebody else' WHERE id = 2")
        run.traffic.assign(live)
        run.traffic.compare()
        assert "'somebody else'" in run.traffic.findings.wrong[0]


def test_a_trigger_that_does_not_fire(bench: Bench) -> None:
    with rehearsal(bench, bench.example("rename_column")) as run:
        run.journey.forward(Phase.BACKFILL)
        run.traffic.hold(BRIEFLY)
        assert run.traffic.findings.violations == []
        run.connection.execute("ALTER TABLE users DISABLE TRIGGER USER")
        run.traffic.hold(FULLY)
        assert run.traffic.findings.failed  # new rows of N lack what N+1 requires
        run.traffic.compare()
        assert any("User.user_email" in text or "User.email_address" in text for text in run.traffic.findings.wrong)


def test_a_version_that_works_too_long(bench: Bench) -> None:
    with rehearsal(bench, bench.example("rename_column")) as run:
        run.journey.windows = [(Phase.CONTRACT, new_from) for _, new_from in run.journey.windows]
        run.journey.forward(Phase.RETIRE)
        run.traffic.hold(BRIEFLY)
        assert any("user_email" in text for text in run.traffic.findings.failed)
