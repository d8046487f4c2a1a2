"""`zdmigrate check` has nothing to say against any folder of migrations_examples/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import checks
from tests.support.examples import FOLDER, NAMES
from zdmigrate.demo.example import Example
from zdmigrate.postgres.servers import ScratchServer

FEW = ("rename_column", "add_foreign_key")
"""The others take their time: all together five minutes."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else pytest.mark.nightly) for n in NAMES])
def test_both_versions_work_where_the_changes_say_so(name: str, check_pg: ScratchServer, tmp_path: Path) -> None:
    example = Example.load(FOLDER / name)
    if check_pg.major not in example.majors:
        pytest.skip(f"{name} is not for PostgreSQL {check_pg.major}")
    run = checks.Bench(check_pg, tmp_path).example(example)
    assert checks.clean(run) == []
    assert run.exit_code == 0
    assert run.counts.everywhere + run.counts.once > 0
