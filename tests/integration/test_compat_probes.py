"""Known schema changes and known statements: what breaks, and which layer finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Database, connect
from zdmigrate.compat.client import Client
from zdmigrate.compat.footprint import Footprint, Parameter, Statement
from zdmigrate.compat.needs import Home, Needs, settle
from zdmigrate.compat.report import Finding, Layer, State, Version
from zdmigrate.compat.warm import WarmClient
from zdmigrate.phases import Phase
from zdmigrate.postgres import shapes
from zdmigrate.postgres.servers import ScratchServer

CASES = [json.loads(line) for line in (Path(__file__).parent / "compat_probes.jsonl").read_text().splitlines()]
CHANGED = State(phase=Phase.EXPAND)


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


def found(needs: Needs, server: ScratchServer, before: str, after: str, ddl: str) -> list[Finding]:
    """By every layer: `after` is a copy of `before`, and both get the change."""
    with connect(Database(server, after)) as owner:
        owner.execute(ddl.encode())
    with Client(server.conninfo(after)) as client:
        changed = shapes.read(client.connection, control_schema="zdmigrate")
        findings = list(needs.examine(client, CHANGED, changed, needs.settled))
    with (
        Client(server.conninfo(before)) as client,
        Client(server.conninfo(before)) as fresh,
        connect(Database(server, before)) as owner,
    ):
        warm = WarmClient(client, needs.settled)
        warm.warm()
        owner.execute(ddl.encode())
        for probe, failure in warm.repeat(fresh):
            findings.append(needs.finding(probe, failure, Layer.WARM, CHANGED, changed))
    return findings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case_id"].removeprefix("compat::"))
def test_what_breaks_is_found_by_the_layer_that_can(
    case: dict[str, Any], pg: ScratchServer, database: Database
) -> None:
    with connect(database) as owner:
        owner.execute(case["setup_sql"].encode())
    copy = f"{database.name}_changed"
    pg.create_database(copy, database.name)
    try:
        with Client(database.conninfo) as client:
            home = shapes.read(client.connection, control_schema="zdmigrate")
            needs = settle(Version.OLD, footprint(case), [Home(client, home)])
        assert needs.unproven == ()
        assert all(settled.executes for settled in needs.settled)
        findings = found(needs, pg, database.name, copy, case["ddl"])
    finally:
        pg.drop_database(copy)

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
