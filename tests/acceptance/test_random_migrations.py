"""Random migrations of random tables: what holds for every example must hold for these.

Through all phases and back from each, with both versions writing in their windows; in the end the catalog and the rows
of `bootstrap`, after a full revert the catalog of before. `ZDMIGRATE_TEST_RANDOM` is how many are tried, and
`ZDMIGRATE_TEST_SEED` says which; without it they are the same each time.
"""

from __future__ import annotations

import collections
import inspect
import itertools
import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stages

import zdmigrate
from tests.support import catalog_compare
from tests.support.catalogue import EVERYTHING, ID, Case, NotNullAnywhere, Stage
from tests.support.random_migrations import CHANGES, Drawn, migrations
from tests.support.random_tables import OWNER
from tests.support.random_versions import Version, version
from zdmigrate.changes.base import Change
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Plan
from zdmigrate.postgres.servers import ScratchServer

_numbers = itertools.count(1)
EXAMPLES = int(os.environ.get("ZDMIGRATE_TEST_RANDOM", "12"))
SEED = os.environ.get("ZDMIGRATE_TEST_SEED")


def drawn_examples(count: int) -> settings:
    # An example takes seconds: what fails is reported as it was found.
    return settings(
        max_examples=count, deadline=None, derandomize=SEED is None, database=None, report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=(Stages.explicit, Stages.generate),
    )  # fmt: skip


def run(test: Any) -> None:
    """A test of drawn examples, with the seed that is asked for."""
    (test if SEED is None else hypothesis.seed(int(SEED))(test))()


def test_random_migrations(pg: ScratchServer, pg_major: int, tmp_path: Path) -> None:
    tally: collections.Counter[str] = collections.Counter()

    @drawn_examples(EXAMPLES)
    @given(drawn=migrations(pg_major))
    def holds(drawn: Drawn) -> None:
        tally[check(pg, tmp_path / str(next(_numbers)), drawn)] += 1

    run(holds)
    assert tally["planned"] > tally["refused"], f"too few of the drawn migrations were planned: {dict(tally)}"


def test_every_change_has_a_generator() -> None:
    exported = {name for name in zdmigrate.__all__ if _is_change(getattr(zdmigrate, name))}
    assert exported == set(CHANGES)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_change_is_drawn(name: str, pg_major: int) -> None:
    found: collections.Counter[str] = collections.Counter()

    @drawn_examples(30)
    @given(drawn=migrations(pg_major, only=name))
    def count(drawn: Drawn) -> None:
        found.update(change.split("(")[0] for change in drawn.changes)

    run(count)
    assert found[name]


def _is_change(what: object) -> bool:
    return inspect.isclass(what) and issubclass(what, Change)


def check(pg: ScratchServer, directory: Path, drawn: Drawn) -> str:
    """Whether it was "planned" (and then holds what must hold), or "refused" (and then nothing was done)."""
    directory.mkdir()
    owner = OWNER if drawn.owned else None
    case = Case(schema=drawn.schema, changes=drawn.changes, by_hand=(), prelude=drawn.prelude, owner=owner)
    keyed = any(change.startswith("AddPrimaryKey") for change in drawn.changes)
    stage = (NotNullAnywhere if keyed else Stage)(pg, directory, case)
    try:
        return _walk(stage, drawn)
    finally:
        stage.close()


def _walk(stage: Stage, drawn: Drawn) -> str:
    name = stage.make()
    before = stage.catalog(name)
    with stage.project(name) as project, stage.connect(name) as connection:
        try:
            (plan,) = project.plan([])
        except (Unsafe, UsageError):
            assert stage.catalog(name) == before
            return "refused"
        old = version(connection)
        once = _at_once(stage, old, plan)
        with stage.connect(once) as there:
            new = version(there)
        kept = set[Phase]()
        # Not through a view that takes COPY.
        upserts = not any("writes='copy'" in change for change in drawn.changes)

        def work(phase: Phase) -> None:
            if phase.position <= plan.window.old_until.position:
                old.work(connection, upserts=upserts)
                if phase not in kept:
                    old.keep(connection, phase.position)
                    kept.add(phase)
            if phase.position >= plan.window.new_from.position:
                new.work(connection, upserts=upserts and phase is Phase.CONTRACT)

        for phase in PHASES[1:]:
            _expect(project.advance([], target=phase, overrides=EVERYTHING))
            work(phase)
            if phase.position <= plan.undoable_until.position:
                _expect(project.revert(ID, target=Phase.NONE, overrides=EVERYTHING, allow_lossy=True))
                found = catalog_compare.difference(before, stage.catalog(name))
                assert not found, "\n".join([f"before (-), back from {phase} (+)", *found])
                old.work(connection, upserts=upserts)
                project.unhold(ID)
                _expect(project.advance([], target=phase, overrides=EVERYTHING))
                work(phase)
    found = catalog_compare.difference(stage.catalog(once), stage.catalog(name))
    assert not found, "\n".join(["bootstrap (-), phases (+)", *found])
    for relation in new.relations:
        names = [column.sql for column in relation.columns if column.name not in drawn.random]
        rows = f"SELECT {', '.join(['id', *names])} FROM {relation.sql} ORDER BY id"
        assert stage.rows(once, rows) == stage.rows(name, rows)
    return "planned"


def _at_once(stage: Stage, old: Version, plan: Plan) -> str:
    """A database with all that version N is going to keep, and then the one-shot DDL."""
    once = stage.make()
    with stage.connect(once) as connection:
        for phase in PHASES[1:]:
            if phase.position <= plan.window.old_until.position:
                old.keep(connection, phase.position)
    with stage.project(once) as project:
        outcome = project.bootstrap()
        assert outcome.exit_code == 0, f"bootstrap: {outcome}"
    return once


def _expect(outcome: Any) -> None:
    assert outcome.exit_code == 0, [(m.message, m.hint) for m in outcome.migrations]
