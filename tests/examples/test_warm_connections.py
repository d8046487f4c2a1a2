"""Prepared statements on warm connections fail with 0A000 exactly where the plan announces it.

A statement that names its columns fails where a column changes its type under its name (C11); one with ``*`` also
where columns come, go or are renamed (C23).
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.examples import Bench, project
from tests.support.servers import Database, connect
from tests.support.warm import STAR, SWAP, WarmClients
from zdmigrate.demo.example import Example
from zdmigrate.demo.journey import Journey
from zdmigrate.demo.workload import Version
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan


def announced(plans: Iterable[Plan], *ids: str) -> set[str]:
    """The stages in which warm connections may fail: a phase's steps, and taking them back."""
    phases = {hazard.phase for plan in plans for hazard in plan.hazards if hazard.id in ids}
    return {str(phase) for phase in phases} | {f"back to {phase.previous}" for phase in phases}


def travel(bench: Bench, example: Example, database: Database) -> tuple[Journey, WarmClients]:
    """Forward to the last reversible phase, back, and forward to the end."""
    with WarmClients(example, database.conninfo) as clients, project(example, database) as opened:
        journey = Journey(opened, example, clients)
        journey.begin()
        journey.forward(journey.last_reversible)
        journey.back(Phase.NONE)
        journey.forward(Phase.CONTRACT)
    return journey, clients


def test_only_what_is_announced_fails(bench: Bench, example: Example) -> None:
    with bench.database(example) as database:
        journey, clients = travel(bench, example, database)
    named = {stage for stage, statement in clients.failed if not statement.star}
    stars = {stage for stage, statement in clients.failed if statement.star}
    assert named == announced(journey.plans, SWAP) & {*clients.repeated}, clients.failed
    assert stars <= announced(journey.plans, SWAP, STAR), clients.failed
    assert all(clients.repeated[str(phase)] for phase in Phase if _somebody_lives_through(journey, phase))


def _somebody_lives_through(journey: Journey, phase: Phase) -> bool:
    return phase is not Phase.NONE and any(
        journey.works(version, phase) and journey.works(version, phase.previous) for version in Version
    )


def test_stars_fail_where_a_column_comes_and_goes(bench: Bench) -> None:
    """What the test above rests on: a failure is seen."""
    example = bench.example("rename_column")
    with bench.database(example) as database:
        _, clients = travel(bench, example, database)
    assert {stage for stage, _ in clients.failed} == {
        "expand",
        "back to none",
        "retire",
        "back to switch_reads",
        "contract",
    }


def test_a_type_that_changes_under_its_name_fails_everywhere(bench: Bench) -> None:
    """And a statement that names its columns is no exception to it."""
    example = bench.example("rename_column")
    with bench.database(example) as database, WarmClients(example, database.conninfo) as clients:
        clients.assign([Version.N])
        with connect(database) as connection:
            connection.execute("ALTER TABLE users ALTER name TYPE varchar(100)")
        clients.stage = "changed"
        clients.assign([Version.N])
    assert {statement.star for _, statement in clients.failed} == {True, False}
