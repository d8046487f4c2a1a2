"""What one migration announces is said of its own tables only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checks import Bench, of_statements
from tests.support.scratch import project, written
from zdmigrate.compat.report import Layer
from zdmigrate.postgres.servers import ScratchServer

SCHEMA = "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, t varchar(50));"
ACCEPTED = 'ChangeType("a", "n", sa.BigInteger())'
SILENT = (
    'RunSQL("ALTER TABLE b ALTER t TYPE text", revert="ALTER TABLE b ALTER t TYPE varchar(50)", rewrites=True, '
    'tables=["b"], locks={"b": "ACCESS EXCLUSIVE"})'
)


@pytest.mark.parametrize(("statement", "announced"), [("SELECT n FROM a", True), ("SELECT * FROM b", False)])
def test_it_is_said_of_its_own_tables(
    check_pg: ScratchServer, tmp_path: Path, statement: str, *, announced: bool
) -> None:
    config = project(tmp_path, m0001=ACCEPTED, m0002=SILENT)
    footprint = of_statements(statement)
    run = Bench(check_pg, tmp_path).run(config, written(tmp_path / "schema.sql", SCHEMA), footprint, footprint)
    warm = [f for f in run.findings if f.layer is Layer.WARM and run.predicts(f.version, f.state)]
    assert {finding.announced for finding in warm} == {announced}
    assert run.exit_code == (0 if announced else 6)
