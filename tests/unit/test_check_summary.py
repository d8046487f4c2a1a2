"""What all formats of a check's report say: matrices, deploy windows, failures put together."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support import reports
from zdmigrate.compat.report import Finding, Layer, Report, State, Unproven, Version
from zdmigrate.compat.summary.failures import Kind, found, headline, place_of, unchecked, verdict
from zdmigrate.compat.summary.matrix import Mark, matrices
from zdmigrate.compat.summary.phrases import name, on_servers, plain
from zdmigrate.compat.summary.windows import Compared, window, window_words
from zdmigrate.phases import PHASES, Phase


def test_servers_that_agree_share_a_matrix() -> None:
    shop, billing15, billing18 = matrices(reports.rich())
    assert shop.servers == (reports.PG15, reports.PG18)
    assert (billing15.servers, billing18.servers) == ((reports.PG15,), (reports.PG18,))
    assert len(matrices(reports.compatible())) == 1


def test_every_kind_of_mark_is_told_apart() -> None:
    marks = {mark for matrix in matrices(reports.rich()) for mark in matrix.marks}
    assert marks == set(Mark)
    assert len({mark.symbol for mark in Mark}) == len(Mark)


def test_a_row_tells_forwards_from_a_revert_where_they_differ() -> None:
    rows = {row.phase: row for row in matrices(reports.rich())[0].rows}
    backfill = rows[Phase.BACKFILL].new
    assert (backfill.forward, backfill.reverted, backfill.agrees) == (Mark.WORKS, Mark.BROKEN, False)
    contract = rows[Phase.CONTRACT].old
    assert (contract.mark, contract.reverted, contract.agrees) == (Mark.OUTSIDE, None, True)


@pytest.mark.parametrize(
    ("until", "since", "text"),
    [
        (
            Phase.SWITCH_READS,
            Phase.BACKFILL,
            "2.4 may be deployed from `backfill` on; 2.3 must be gone before `retire`",
        ),
        (Phase.CONTRACT, Phase.NONE, "2.4 may be deployed at any time; 2.3 may stay"),
        (
            None,
            None,
            "2.4 is proven for no phase and must not be deployed; 2.3 is not proven to work even before the first phase",
        ),
        (Phase.NONE, Phase.CONTRACT, "2.4 may be deployed from `contract` on; 2.3 must be gone before `expand`"),
    ],
)
def test_a_window_as_a_release_manager_says_it(until: Phase | None, since: Phase | None, text: str) -> None:
    assert plain(window_words("2.3", "2.4", until, since)) == text


def test_proven_windows_beside_the_predicted_ones() -> None:
    shop, billing15, billing18 = (matrix.window for matrix in matrices(reports.rich()))
    assert shop.compared is Compared.NARROWER
    apart = "2.4 may be deployed from `switch_reads` on; 2.3 must be gone before `switch_reads`"
    assert plain(shop.proven) == f"{apart}; no phase suits both: 2.3 must be gone before 2.4 comes"
    assert plain(shop.predicted) == "2.4 may be deployed from `backfill` on; 2.3 must be gone before `retire`"
    assert billing15.compared is Compared.SAME
    assert billing18.compared is Compared.UNPROVEN
    assert plain(billing18.proven) == "nothing is proven about 8; 7 must be gone before `retire`"


def test_more_than_predicted_is_a_difference_but_no_error() -> None:
    run = dataclasses.replace(reports.run(reports.SHOP, reports.PG18), findings=())
    assert (window(run).compared, run.exit_code) == (Compared.WIDER, 0)


def test_a_check_that_stops_early_says_through_where() -> None:
    reached = tuple(State(phase=phase) for phase in PHASES[:5])
    run = dataclasses.replace(reports.run(reports.SHOP, reports.PG18), reached=reached)
    assert plain(window(run).proven).endswith("must be gone before `retire` (checked through `switch_reads`)")
    assert window(run).compared is Compared.SAME


def test_the_same_failure_is_told_once_and_what_counts_comes_first() -> None:
    failures = found(reports.rich())
    assert [each.kind for each in failures] == sorted((each.kind for each in failures), key=list(Kind).index)
    upsert = next(each for each in failures if each.finding.layer is Layer.EXECUTE)
    assert upsert.where == "shop 2.3 in switch_reads, on PostgreSQL 15.18 and 18.1"
    early = next(each for each in failures if each.kind is Kind.OUTSIDE)
    assert early.where == "shop 2.4 in none, expand and dual_write, also after a revert, on PostgreSQL 15.18 and 18.1"
    mixed = [reports.finding(Version.NEW, Phase.BACKFILL, reverted=True), reports.finding(Version.NEW, Phase.RETIRE)]
    run = dataclasses.replace(reports.run(reports.SHOP, reports.PG18), findings=tuple(mixed))
    [each] = found(Report(plans=(), runs=(run,)))
    assert each.where == "shop 2.4 in retire; backfill after a revert, on PostgreSQL 18.1"


def fingerprint(finding: Finding) -> str:
    [each] = found(Report(plans=(), runs=(dataclasses.replace(reports.run(reports.SHOP, "x"), findings=(finding,)),)))
    return each.fingerprint


def test_fingerprints_outlive_moved_lines_and_other_words() -> None:
    moved = dataclasses.replace(reports.UPSERT, place="shop/signup.py:240", message="other words", remedy="other")
    assert fingerprint(moved) == fingerprint(reports.UPSERT)
    for other in ({"statement": "x"}, {"sqlstate": "42P01"}, {"subject": "x"}, {"layer": Layer.WARM}):
        assert fingerprint(dataclasses.replace(reports.UPSERT, **other)) != fingerprint(reports.UPSERT)


def test_what_could_not_be_checked_is_told_once() -> None:
    both = Unproven(version=None, subject="the extension postgis", reason="not there")
    runs = [reports.run(reports.SHOP, server, unproven=(both,)) for server in (reports.PG15, reports.PG18)]
    [each] = unchecked(Report(plans=(), runs=tuple(runs)))
    assert each.where == "shop 2.3 and 2.4 on PostgreSQL 15.18 and 18.1"


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("shop/orders.py:42", ("shop/orders.py", 42)),
        ("C:/shop/orders.py:42", ("C:/shop/orders.py", 42)),
        ("somewhere", ("somewhere", 1)),
        ("a:b", ("a:b", 1)),
        ("a:0", ("a", 1)),
        (f"a:{'9' * 5000}", (f"a:{'9' * 5000}", 1)),
        (":3", (":3", 1)),
        ("", None),
        (None, None),
    ],
)
def test_places(place: str | None, at: tuple[str, int] | None) -> None:
    assert place_of(place) == at


def test_versions_always_have_a_name() -> None:
    nameless = dataclasses.replace(reports.SHOP, old="", new="")
    assert [name(nameless, version) for version in Version] == ["N (old)", "N+1 (new)"]
    same = dataclasses.replace(reports.SHOP, new="2.3")
    assert [name(same, version) for version in Version] == ["2.3 (old)", "2.3 (new)"]
    assert on_servers(["PostgreSQL 15.18", "PostgreSQL 17.5", "PostgreSQL 15.18"]) == "PostgreSQL 15.18 and 17.5"


def test_verdicts() -> None:
    unknown = reports.run(reports.BILLING, reports.PG18, unproven=(Unproven(version=None, subject="x", reason="y"),))
    assert verdict(reports.compatible()) == "compatible"
    assert verdict(reports.rich()) == "incompatible"
    assert verdict(Report(plans=(), runs=(unknown,))) == "could not check"
    assert (
        headline(reports.compatible())
        == "every version works in its whole window (2 versions on PostgreSQL 15.18 and 18.1)"
    )
    assert headline(Report(plans=(), runs=())) == "nothing was checked"
