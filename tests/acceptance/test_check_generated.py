"""Applications that use nothing of what a migration changes are clean in every phase, also outside of the windows."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import random_apps
from tests.support.checks import Bench, cells, clean
from tests.support.scratch import connected
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.report import Cell
from zdmigrate.postgres.servers import ScratchServer

FEW, MANY = 3, 50
QUIETLY = settings(
    deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
_numbers = itertools.count(1)


def footprint(server: ScratchServer, drawn: random_apps.Drawn) -> Footprint:
    name = f"generated_{next(_numbers)}"
    server.create_database(name)
    try:
        with connected(server, name) as connection:
            connection.execute(drawn.dump.encode())
            return random_apps.footprint(connection)
    finally:
        server.drop_database(name)


def check_one(server: ScratchServer, drawn: random_apps.Drawn) -> None:
    app = footprint(server, drawn)
    with tempfile.TemporaryDirectory() as directory:
        run = Bench(server, Path(directory)).check(drawn.dump, ", ".join(drawn.changes), app, app)
    assert clean(run) == []
    assert run.findings == ()
    assert cells(run) == {Cell.WORKS}
    assert run.counts.everywhere > 0 or not any("subject" in change for change in drawn.changes)


@settings(QUIETLY, max_examples=FEW)
@given(data=st.data())
def test_a_few_are_clean_everywhere(check_pg: ScratchServer, data: st.DataObject) -> None:
    check_one(check_pg, data.draw(random_apps.applications(check_pg.major)))


@pytest.mark.nightly
@settings(QUIETLY, max_examples=MANY)
@given(data=st.data())
def test_fifty_are_clean_everywhere(check_pg: ScratchServer, data: st.DataObject) -> None:
    check_one(check_pg, data.draw(random_apps.applications(check_pg.major)))
