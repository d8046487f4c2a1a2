"""Known schema changes and known statements: what breaks, and which layer finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.layers import found, settled
from tests.support.servers import Database, connect
from zdmigrate.compat.footprint import Footprint, Parameter, Statement
from zdmigrate.compat.report import Layer
from zdmigrate.postgres.servers import ScratchServer

CASES = [json.loads(line) for line in (Path(__file__).parent / "compat_probes.jsonl").read_text().splitlines()]


def footprint(case: dict[str, Any]) -> Footprint:
    return Footprint.of(
        statements=[
            Statement(
                sql=each["sql"],
                parameters=tuple(Parameter(samples=(str(value),)) for value in each["params"]),
                places=(each["name"],),
            )
            for each in case["app_statements"]
        ]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case_id"].removeprefix("compat::"))
def test_what_breaks_is_found_by_the_layer_that_can(
    case: dict[str, Any], pg: ScratchServer, database: Database
) -> None:
    with connect(database) as owner:
        owner.execute(case["setup_sql"].encode())
    copy = Database(pg, f"{database.name}_changed")
    pg.create_database(copy.name, database.name)
    try:
        needs = settled(database, footprint(case))
        assert needs.unproven == ()
        assert all(each.executes for each in needs.settled)
        findings = found(needs, database, copy, case["ddl"])
    finally:
        pg.drop_database(copy.name)

    def at(*layers: Layer) -> dict[str, str]:
        return {str(f.place): str(f.sqlstate) for f in findings if f.layer in layers and f.sqlstate is not None}

    def told(kind: str) -> dict[str, str]:
        return {name: said[:5] for name, said in case[f"breaks_{kind}"].items()}

    assert at(Layer.PREPARE) == told("prepare")
    assert at(Layer.PREPARE, Layer.EXECUTE) == told("roundtrip")
    # A statement that fails on new connections too is not told twice.
    assert {*at(*Layer)} == {*told("cached_plan")}
    assert at(Layer.WARM) == {name: code for name, code in told("cached_plan").items() if name not in told("roundtrip")}
    assert {f.hazard for f in findings} <= {*case["expect"], "C01", "C02", "C06", "C11", "C27"}
