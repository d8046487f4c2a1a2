"""What the gate ``shadow_reads`` asks for, and says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from zdmigrate import Migration, RenameColumn, ShadowReads
from zdmigrate.control.shadows import Compared, Mismatch
from zdmigrate.engine.comparing import judged, summed_up
from zdmigrate.errors import UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, PhasePlan, Plan, Window

SINCE = datetime(2026, 11, 21, 6, 44, tzinfo=UTC)
RENAME = RenameColumn("users", "user_email", "email_address")


def found(compares: int, mismatches: int = 0, failures: int = 0, dropped: int = 0, **more: object) -> Compared:
    samples = (Mismatch(key="4711", old="'A'", new="'a'"),) if mismatches else ()
    facts = {"since": SINCE if compares else None, "samples": samples, "failure": None, **more}
    return Compared(compares=compares, mismatches=mismatches, failures=failures, dropped=dropped, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "holds", "text"),
    [
        (
            found(0), False,
            ("no instance has compared both reads within 24 h, and since this phase is complete; 10,000 are asked for "
            "(zdmigrate.app.ShadowRead)"),
        ),
        (
            found(0, dropped=7, failure="OperationalError: no"), False,
            ("no instance has compared both reads within 24 h, and since this phase is complete; 10,000 are asked for; "
            "7 left out (OperationalError: no)"),
        ),
        (
            found(9_214, 31), False,
            ("9,214 of 10,000 compares since 2026-11-21 06:44 UTC; 31 mismatches (0.3364 %, at most 0.1 %): "
            "key 4711: old 'A', new 'a'"),
        ),
        (found(9_999), False, "9,999 of 10,000 compares since 2026-11-21 06:44 UTC; no mismatch"),
        (found(10_000), True, "10,000 compares since 2026-11-21 06:44 UTC; no mismatch"),
        (
            found(10_000, 10), True,
            "10,000 compares since 2026-11-21 06:44 UTC; 10 mismatches (0.1 %, at most 0.1 %): key 4711: old 'A', new 'a'",
        ),
        (
            found(10_000, 11), False,
            "10,000 compares since 2026-11-21 06:44 UTC; 11 mismatches (0.11 %, at most 0.1 %): key 4711: old 'A', new 'a'",
        ),
        (
            found(10_000, 1, 250, 3, failure="QueryCanceled: too slow"), False,
            ("10,000 compares since 2026-11-21 06:44 UTC; 1 mismatch (0.01 %, at most 0.1 %): key 4711: old 'A', new 'a'; "
            "250 failed, QueryCanceled: too slow (2.439 %, at most 1 %); 3 left out"),
        ),
        (found(0, 0, 5, failure="KeyError"), False, "0 of 10,000 compares; no mismatch; 5 failed, KeyError (100 %, at most 1 %)"),
    ],
)  # fmt: skip
def test_it_says_how_many_how_different_and_which(counts: Compared, holds: bool, text: str) -> None:  # noqa: FBT001
    assert judged(ShadowReads(), counts) == (holds, text.replace("24 h", "1 day"))


def test_for_those_who_ask_how_it_goes() -> None:
    assert summed_up(found(1)) == "1 compare since 2026-11-21 06:44 UTC; no mismatch"
    assert (
        summed_up(found(0, dropped=2, failure="OperationalError"))
        == "0 compares; no mismatch; 2 left out (OperationalError)"
    )
    assert summed_up(found(9_214, 31, 2)).endswith(
        "31 mismatches (0.3364 %): key 4711: old 'A', new 'a'; 2 failed (0.0217 %)"
    )


def test_shares_are_written_either_way() -> None:
    assert ShadowReads(mismatches="0.1 %", failures="5%") == ShadowReads(mismatches=0.001, failures=0.05)
    assert ShadowReads().within == timedelta(days=1)
    wrong: list[dict[str, object]] = [
        {"compares": 0}, {"compares": 1.5}, {"compares": True}, {"mismatches": "a few"}, {"mismatches": 2},
        {"mismatches": -0.1}, {"failures": "101 %"}, {"within": 24}, {"within": timedelta(minutes=1)},
        {"within": timedelta(days=8)}, {"mismatches": True}, {"mismatches": None}, {"mismatches": "nan"},
    ]  # fmt: skip
    for given in wrong:
        with pytest.raises(UsageError):
            ShadowReads(**given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="shadow_reads must be"):
        Migration(RENAME, shadow_reads=10_000)  # type: ignore[arg-type]


def test_it_is_part_of_what_is_declared_and_files_without_it_keep_their_checksum() -> None:
    plain = Migration(RENAME)
    asked = Migration(RENAME, shadow_reads=ShadowReads())
    assert plain.checksum != asked.checksum
    assert asked.checksum == Migration(RENAME, shadow_reads=ShadowReads(mismatches="0.1 %")).checksum
    assert asked.checksum != Migration(RENAME, shadow_reads=ShadowReads(compares=5)).checksum


def test_a_stored_plan_knows_what_was_asked_for() -> None:
    def planned(demand: ShadowReads | None) -> Plan:
        gate = Gate(name="shadow_reads", phase=Phase.SWITCH_READS, detail="", demand=demand)
        return Plan(
            migration="0001", checksum="", server_version=180000, touches=(),
            window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL),
            phases=(PhasePlan(phase=Phase.SWITCH_READS, gates=(gate,)),),
        )  # fmt: skip

    plan = planned(ShadowReads(compares=5, mismatches="2 %", within=timedelta(hours=3)))
    again = msgspec.json.decode(json.dumps(plan.to_json()), type=Plan)
    assert again == plan
    demand = again.phase(Phase.SWITCH_READS).gates[0].demand
    assert demand is not None
    assert (demand.compares, demand.mismatches, demand.within) == (5, 0.02, timedelta(hours=3))
    assert plan.hash == again.hash
    assert len({plan.hash, planned(ShadowReads()).hash, planned(None).hash}) == 3
