"""Suppressions: what a configuration may say, what they cover, and which did nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from tests.support import reports
from zdmigrate import config
from zdmigrate.compat import suppressions
from zdmigrate.compat.report import Cell, Layer, Run, State, Suppression, Version
from zdmigrate.errors import ConfigError
from zdmigrate.phases import Phase

TODAY = dt.date(2026, 11, 21)
RUN = reports.run(reports.SHOP, reports.PG18, reports.WARM, reports.UPSERT, reports.LOST)
UPSERTED = State(phase=Phase.SWITCH_READS)


def suppression(**facts: Any) -> Suppression:
    return Suppression(**{"reason": "never called", "expires": dt.date(2027, 1, 1), "sqlstate": "42P10", **facts})


def apply(*given: Suppression, runs: tuple[Run, ...] = (RUN,)) -> tuple[tuple[Run, ...], tuple[suppressions.Void, ...]]:
    return suppressions.apply(given, runs, today=TODAY)


def read(path: Path, text: str) -> tuple[Suppression, ...]:
    path.write_text(text, encoding="utf-8")
    return suppressions.read(config.load(start=path.parent, environ={}))


def test_they_are_read_from_either_file(tmp_path: Path) -> None:
    entry = """
        [[{}compat.suppress]]
        reason = "the nightly report is switched off"
        expires = 2027-01-31
        application = "shop"
        version = "old"
        phase = "switch_reads"
        layer = "execute"
        hazard = "C17"
        sqlstate = "42P10"
        contains = "nightly_report"
        [[{}compat.suppress]]
        reason = "b"
        expires = "2027-02-01"
        contains = "b"
    """
    expected = Suppression(
        reason="the nightly report is switched off", expires=dt.date(2027, 1, 31), application="shop", version=Version.OLD,
        phase=Phase.SWITCH_READS, layer=Layer.EXECUTE, hazard="C17", sqlstate="42P10", contains="nightly_report",
    )  # fmt: skip
    second = Suppression(reason="b", expires=dt.date(2027, 2, 1), contains="b")
    assert read(tmp_path / "pyproject.toml", entry.format("tool.zdmigrate.", "tool.zdmigrate.")) == (expected, second)
    assert read(tmp_path / "zdmigrate.toml", entry.format("", "")) == (expected, second)
    assert read(tmp_path / "zdmigrate.toml", "") == ()


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("expires = 2027-01-01\ncontains = 'x'", "it gives no reason", 'reason = "why this failure does not matter"'),
        ("reason = ' '\nexpires = 2027-01-01\ncontains = 'x'", "it gives no reason", None),
        ("reason = 'x'\ncontains = 'x'", "it never expires", "expires = 2027-01-31"),
        ("reason = 'x'\nexpires = 'soon'\ncontains = 'x'", "expires: Invalid RFC3339 encoded date", None),
        ("reason = 'x'\nexpires = 2027-01-01\nlayer = 'x'", "layer: Invalid enum value 'x'", None),
        ("reason = 'x'\nexpires = 2027-01-01\nsqlstate = 1", "sqlstate: Expected str | null, got int", None),
        ("reason = 'x'\nexpires = 2027-01-01\nsql_state = '1'", "unknown key sql_state", "did you mean sqlstate?"),
        ("reason = 'x'\nexpires = 2027-01-01\nversion = 'old'", "it does not say which failure it is about", None),
    ],
)
def test_a_mistake_is_one_clear_message(tmp_path: Path, entry: str, message: str, hint: str | None) -> None:
    good = "[[compat.suppress]]\nreason = 'x'\nexpires = 2027-01-01\ncontains = 'x'\n"
    with pytest.raises(ConfigError) as raised:
        read(tmp_path / "zdmigrate.toml", f"{good}[[compat.suppress]]\n{entry}")
    assert raised.value.message == f"{tmp_path / 'zdmigrate.toml'}: compat.suppress, entry 2: {message}"
    assert hint is None or raised.value.hint == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compat]\nsupress = []", "compat.supress: unknown key"),
        ("[compat]\nsuppress = 'x'", "compat.suppress: expected `array`, got `str`".replace("`", "")),
        ("compat = 1", "compat: expected object, got int"),
    ],
)
def test_a_mistake_around_them_too(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path / "zdmigrate.toml", text)
    assert raised.value.message == f"{tmp_path / 'zdmigrate.toml'}: {message}"


def test_what_is_covered_no_longer_counts() -> None:
    (run,), void = apply(suppression())
    assert void == ()
    assert RUN.cell(Version.OLD, UPSERTED) is Cell.BROKEN
    assert run.cell(Version.OLD, UPSERTED) is Cell.SUPPRESSED
    assert [each.suppressed for each in run.findings if each.suppressed] == ["never called"]
    assert run.exit_code == 6, "the other failure counts"
    (run,), void = apply(suppression(), suppression(sqlstate=None, hazard="C29"))
    assert (run.exit_code, void) == (0, ())


@pytest.mark.parametrize(
    "other",
    [
        {"application": "billing"}, {"version": Version.NEW}, {"phase": Phase.RETIRE}, {"layer": Layer.WARM},
        {"hazard": "C01"}, {"sqlstate": "42703"}, {"contains": "orders"},
    ],
    ids=str,
)  # fmt: skip
def test_everything_that_it_names_must_be_so(other: dict[str, Any]) -> None:
    given = suppression(**other) if "sqlstate" in other else suppression(**{"phase": Phase.SWITCH_READS, **other})
    (run,), void = apply(given)
    assert run.cell(Version.OLD, UPSERTED) is Cell.BROKEN
    assert len(void) == 1


def test_what_was_announced_does_not_count_and_needs_a_new_connection_only_where_a_warm_one_fails() -> None:
    announced = [dataclasses.replace(finding, announced=True) for finding in RUN.findings]
    of_rows = [dataclasses.replace(finding, layer=Layer.CROSS) for finding in announced]
    warm = [dataclasses.replace(finding, layer=Layer.WARM) for finding in announced]
    assert dataclasses.replace(RUN, findings=tuple(of_rows)).cell(Version.OLD, UPSERTED) is Cell.WORKS
    assert dataclasses.replace(RUN, findings=tuple(warm)).cell(Version.OLD, UPSERTED) is Cell.RECONNECT


def test_an_expired_one_is_void_and_the_failure_counts_again() -> None:
    expired = suppression(expires=TODAY - dt.timedelta(days=1))
    (run,), void = apply(expired)
    assert run == RUN
    assert void == ((expired, "it expired on 2026-11-20, and 1 of the failures that it covers count again"),)
    (run,), void = apply(suppression(expires=TODAY))
    assert run.cell(Version.OLD, UPSERTED) is Cell.SUPPRESSED, "its last day is the one that it names"


def test_an_unused_one_is_reported() -> None:
    unused, expired = suppression(sqlstate="42P01"), suppression(sqlstate="42P01", expires=dt.date(2020, 1, 1))
    runs, void = apply(unused, expired)
    assert runs == (RUN,)
    assert void == ((unused, "nothing that it covers was found"), (expired, "it expired on 2020-01-01"))


def test_two_that_cover_the_same_are_both_used() -> None:
    assert apply(suppression(), suppression(sqlstate=None, contains="ON CONFLICT", reason="b"))[1] == ()


def test_one_application_is_enough_to_be_used() -> None:
    billing = dataclasses.replace(RUN, application=reports.BILLING)
    runs, void = apply(suppression(application="billing"), runs=(RUN, billing))
    assert [run.cell(Version.OLD, UPSERTED) for run in runs] == [Cell.BROKEN, Cell.SUPPRESSED]
    assert void == ()


def test_it_never_makes_a_window_wider() -> None:
    """What fails outside of the predicted window stays a failure: else a version that fails would seem to work there."""
    given = suppression(sqlstate="42703")
    (run,), void = apply(given)
    assert run == RUN
    assert void == ((given, "all that it covers does not count anyway"),)
    assert apply(suppression(sqlstate="0A000"))[1][0][1] == "all that it covers does not count anyway"
