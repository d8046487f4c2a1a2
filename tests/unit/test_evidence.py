"""Evidence: what a check proves, as a file, and the phases that it refuses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import reports
from zdmigrate.compat.evidence import Evidence, Phases, beside, expected, judge, refusal
from zdmigrate.compat.report import Report, Version
from zdmigrate.errors import UsageError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction

MADE_AT = dt.datetime(2026, 11, 21, 14, 30, tzinfo=dt.UTC)
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
PLAN = reports.plan()


def evidence(report: Report | None = None, **facts: Any) -> Evidence:
    return dataclasses.replace(Evidence.of(report or reports.compatible(), made_at=MADE_AT), **facts)


def test_what_a_report_proves() -> None:
    found = evidence(reports.rich())
    assert (found.exit_code, found.servers, found.plans) == (
        6,
        (reports.PG15, reports.PG18),
        {PLAN.migration: PLAN.hash},
    )
    shop, billing = found.applications
    assert (shop.name, shop.old, shop.new, shop.old_digest) == ("shop", "2.3", "2.4", "a" * 64)
    assert shop.works == Phases(old=PHASES[:4], new=PHASES[4:]), "backfill was broken after a revert"
    assert billing.works == Phases(old=PHASES[:5]), "one server could not check the new version"
    assert billing.unknown == Phases(new=PHASES[3:])


def test_it_survives_its_file(tmp_path: Path) -> None:
    found = evidence(reports.rich())
    file = tmp_path / "check.json"
    file.write_bytes(found.to_bytes())
    assert Evidence.read(file) == found
    document = json.loads(file.read_bytes())
    assert (document["format"], document["made_at"]) == (1, "2026-11-21T14:30:00Z")
    assert document["applications"][0]["works"]["old"] == ["none", "expand", "dual_write", "backfill"]
    assert "user_email" not in file.read_text(encoding="utf-8"), "no statement is in it"


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"applications": None}, {"plans": []}, {"made_at": "2026-11-21T14:30:00"}], ids=str
)
def test_a_file_that_is_no_evidence(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "check.json"
    file.write_text(json.dumps({**json.loads(evidence().to_bytes()), **change}), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        Evidence.read(file)
    assert raised.value.message.startswith(f"{file} is no evidence that this version can read: ")
    assert raised.value.hint == f"zdmigrate check --evidence {file}"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"check\.json cannot be read: No such file"):
        Evidence.read(tmp_path / "check.json")


@pytest.mark.parametrize(
    ("state", "alive"),
    [
        (Phase.NONE, {Version.OLD}),
        (Phase.DUAL_WRITE, {Version.OLD}),
        (Phase.BACKFILL, {Version.OLD, Version.NEW}),
        (Phase.SWITCH_READS, {Version.OLD, Version.NEW}),
        (Phase.RETIRE, {Version.NEW}),
        (Phase.CONTRACT, {Version.NEW}),
    ],
)
def test_who_may_be_alive(state: Phase, alive: set[Version]) -> None:
    assert expected(PLAN, state) == alive


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize("direction", Direction)
def test_a_compatible_plan_passes_everywhere(phase: Phase, direction: Direction) -> None:
    assert refusal(evidence(), PLAN, phase, direction) is None


def test_what_is_broken_refuses_only_where_it_is() -> None:
    found = evidence(dataclasses.replace(reports.rich(), runs=reports.rich().runs[:2]))
    assert refusal(found, PLAN, Phase.EXPAND, FORWARD) is None
    assert refusal(found, PLAN, Phase.SWITCH_READS, FORWARD) == (
        "the check of 2026-11-21 14:30: shop 2.3 is not proven to work in switch_reads"
    )
    assert refusal(found, PLAN, Phase.SWITCH_READS, FORWARD, live={Version.NEW}) is None, "the old one is gone"
    assert refusal(found, PLAN, Phase.SWITCH_READS, BACKWARD) == (
        "the check of 2026-11-21 14:30: shop 2.4 is not proven to work in backfill"
    )
    assert refusal(found, PLAN, Phase.RETIRE, FORWARD) is None
    assert refusal(found, PLAN, Phase.RETIRE, FORWARD, live=set(Version)) == (
        "the check of 2026-11-21 14:30: shop 2.3 is not proven to work in retire"
    )


def test_unknown_is_not_fine() -> None:
    found = evidence(dataclasses.replace(reports.rich(), runs=reports.rich().runs[2:]))
    assert refusal(found, PLAN, Phase.DUAL_WRITE, FORWARD) is None
    assert refusal(found, PLAN, Phase.CONTRACT, FORWARD) == (
        "the check of 2026-11-21 14:30: billing 8 could not be checked in contract"
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"plans": {PLAN.migration: "f" * 64}},
            "the evidence was made for another plan of 20261121_1432_email_address",
        ),
        (
            {"plans": {"other": PLAN.hash}},
            "the evidence is about other, and says nothing of 20261121_1432_email_address",
        ),
        ({"plans": {}}, "the evidence is about no migration, and says nothing of 20261121_1432_email_address"),
        ({"servers": (reports.PG15,)}, "the evidence was made on PostgreSQL 15.18, and this is PostgreSQL 18"),
        ({"servers": ()}, "the evidence was made on no server, and this is PostgreSQL 18"),
        ({"applications": ()}, "the evidence is about no application"),
    ],
)
def test_evidence_of_something_else(facts: dict[str, Any], reason: str) -> None:
    refused = refusal(evidence(**facts), PLAN, Phase.EXPAND, FORWARD)
    assert refused is not None
    assert refused.startswith(reason)


# Several files


def test_every_file_that_fits_is_asked() -> None:
    good, bad = evidence(), evidence(dataclasses.replace(reports.rich(), runs=reports.rich().runs[:2]))
    assert judge([good])(PLAN, Phase.SWITCH_READS) is None
    assert judge([good, bad])(PLAN, Phase.EXPAND) is None
    refused = judge([good, bad])(PLAN, Phase.SWITCH_READS)
    assert refused == "the check of 2026-11-21 14:30: shop 2.3 is not proven to work in switch_reads"


def test_a_file_of_another_plan_or_server_is_no_proof_and_no_obstacle() -> None:
    stale, elsewhere = evidence(plans={PLAN.migration: "f" * 64}), evidence(servers=(reports.PG15,))
    assert judge([stale, elsewhere, evidence()])(PLAN, Phase.EXPAND) is None
    refused = judge([stale, elsewhere, stale])(PLAN, Phase.EXPAND)
    assert refused is not None
    assert refused.count("another plan") == 1
    assert "this is PostgreSQL 18" in refused


def test_beside_a_plan() -> None:
    shown = beside([evidence(reports.rich()), evidence(plans={"other": "x"})], PLAN)
    when = "proven on PostgreSQL 15.18 and 18.1 at 2026-11-21 14:30"
    assert shown.facts == (
        "the evidence is about other, and says nothing of 20261121_1432_email_address",
        f"{when}: shop 2.4 may be deployed from switch_reads on; shop 2.3 must be gone before switch_reads",
        f"{when}: billing 8 is proven for no phase and must not be deployed; billing 7 must be gone before retire",
    )
    assert shown.phases[Phase.BACKFILL] == "proven: shop 2.3 and billing 7"
    assert shown.phases[Phase.RETIRE] == "proven: shop 2.4"
    assert beside([evidence(plans={})], PLAN).phases == {}
    nothing = Evidence.of(dataclasses.replace(reports.compatible(), runs=()), made_at=MADE_AT)
    assert beside([dataclasses.replace(nothing, servers=(reports.PG18,))], PLAN).phases == {}
