"""kill -9 at a statement of `advance --to contract`, then the same command again: the same end, for every example.

A first run counts the round trips. The default run takes every boundary of a step and a seeded sample of what is between,
``-m nightly`` all of them.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import catalog_compare
from tests.support.examples import Bench, Final, Rows, project, read_rows, settled_catalog
from tests.support.processes import Forker, Site
from tests.support.servers import connect
from zdmigrate.demo.example import Example
from zdmigrate.phases import Phase

SEED, SAMPLE = 20261121, 3
WHEN = ("after", "sent")
_STATE = "SELECT id, phase, running, hold_reason, verified_at IS NOT NULL FROM zdmigrate.migration ORDER BY id"


@dataclass(frozen=True, slots=True)
class End:
    """What a run leaves."""

    catalog: catalog_compare.Catalog
    rows: Rows
    state: list[tuple[Any, ...]]


class Killing:
    """One example and a command: a run that nothing happened to, and runs that were killed on the way."""

    def __init__(self, bench: Bench, example: Example, forker: Forker, directory: Path, *, back: bool) -> None:
        self._bench = bench
        self._example = example
        self._forker = forker
        with bench.database(example) as database, project(example, database) as opened:
            (plan,) = opened.plan([])
        overrides = [f"{gate}={reason}" for gate, reason in example.overrides.items()]
        overridden = (word for each in overrides for word in ("--override", each))
        self._from = plan.undoable_until if back else Phase.NONE
        self._command = (
            ("revert", plan.migration, "--to", "none", "--allow-lossy", *overridden)
            if back
            else ("advance", "--to", "contract", *overridden)
        )
        trace = directory / "trace.json"
        with bench.database(example, self._from) as database:
            site = Site(forker, database, example.folder)
            site.run(*self._command, kill={"trace": str(trace)}).expect(0)
            self.end = _end(site)
        self.statements = [(step, text) for step, text in json.loads(trace.read_text())]

    def sample(self) -> list[int]:
        """The boundaries of steps, and some of what is between."""
        chance = random.Random(f"{SEED} {self._example.name}")
        boundaries = self.boundaries()
        between = [n for n in range(1, len(self.statements) + 1) if n not in boundaries]
        return sorted([*boundaries, *chance.sample(between, min(SAMPLE, len(between)))])

    def boundaries(self) -> list[int]:
        """The first and the last statement of each step, counted from 1."""
        steps = [step for step, _ in self.statements]
        edges = [
            n
            for n, step in enumerate(steps, start=1)
            if step and (steps[n - 2] != step or n == len(steps) or steps[n] != step)
        ]
        assert edges or self._from is not Phase.NONE  # there may be nothing to take back
        return edges

    def check(self, number: int, when: str) -> None:
        """Kill it at a statement, run it again, and compare."""
        step, text = self.statements[number - 1]
        with self._bench.database(self._example, self._from) as database:
            site = Site(self._forker, database, self._example.folder)
            killed = site.run(*self._command, kill={"at": number, "when": when})
            assert killed.code in (-9, 0), killed
            done = site.run(*self._command)
            shown = f"{self._example.name}, {when} statement {number} ({step}: {text[:200]})"
            assert done.code == 0, f"{shown}: {done.code}\n{done.out}\n{done.err}"
            end = _end(site)
        volatile = self._bench.final(self._example).volatile
        assert catalog_compare.difference(self.end.catalog, end.catalog) == [], shown
        assert Final(self.end.catalog, self.end.rows, volatile).difference(end.rows) == [], shown
        assert end.state == self.end.state, shown


def _end(site: Site) -> End:
    with connect(site.database) as connection:
        return End(catalog_compare.read(connection), read_rows(connection), site.rows(_STATE))


UNSEEN = frozenset({"reindex"})
"""Examples that leave everything as it was: what they do is not to be seen in rows or catalog."""


@pytest.fixture
def forward(bench: Bench, example: Example, forker: Forker, tmp_path: Path) -> Killing:
    return Killing(bench, example, forker, tmp_path, back=False)


@pytest.fixture
def back(bench: Bench, example: Example, forker: Forker, tmp_path: Path) -> Killing:
    return Killing(bench, example, forker, tmp_path, back=True)


def test_killed_at_every_boundary_of_steps(bench: Bench, example: Example, forward: Killing) -> None:
    final = bench.final(example)
    assert final.difference(forward.end.rows) == []
    with bench.database(example) as database, connect(database) as connection:
        changed = final.difference(read_rows(connection)) != [] or settled_catalog(connection) != final.catalog
        assert changed is (example.name not in UNSEEN)
    chance = random.Random(SEED)
    for number in forward.sample():
        forward.check(number, chance.choice(WHEN))


def test_killed_on_the_way_back(bench: Bench, example: Example, back: Killing) -> None:
    with bench.database(example) as database, connect(database) as connection:
        ended = {name: what for name, what in back.end.catalog.items() if not name.startswith("read switch")}
        assert catalog_compare.difference(settled_catalog(connection), ended) == []
    chance = random.Random(SEED)
    for number in back.sample():
        back.check(number, chance.choice(WHEN))


@pytest.mark.nightly
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("direction", ["forward", "back"])
def test_killed_at_every_statement(
    request: pytest.FixtureRequest, example: Example, capsys: pytest.CaptureFixture[str], direction: str, when: str
) -> None:
    killing: Killing = request.getfixturevalue(direction)
    for number in range(1, len(killing.statements) + 1):
        killing.check(number, when)
    with capsys.disabled():
        print(f"\n{example.name}, {direction}, killed {when} a statement: {len(killing.statements)} kill points")
