"""The pace of heartbeats, and what they say."""

from __future__ import annotations

import json

import pytest

from zdmigrate.app.heart import Heart
from zdmigrate.app.member import Member, session_name
from zdmigrate.app.snapshot import Source

TOLD = {"migrations": {"0001": [3, "backfill", None, None, None]}, "switches": {"0001": [2, 5, ["7"]]}}


def member(**options: object) -> Member:
    given: dict[str, object] = {
        "application": "shop", "version": "1", "schema": "zdmigrate", "project": "default", "needs": None, "shapes": {},
        "source": Source(), "heart": Heart(),
    }  # fmt: skip
    return Member(**{**given, **options})  # type: ignore[arg-type]


def test_ten_seconds_more_or_less() -> None:
    heart = Heart()
    waits = [heart.succeeded() for _ in range(1000)]
    assert 9.4 < min(waits) < 10 < max(waits) < 10.6
    assert 1 / min(waits) <= 0.12, "statements a second"


def test_soon_again_after_a_failure_then_less_often() -> None:
    heart = Heart()
    waits = [heart.failed() for _ in range(8)]
    assert waits[0] < 1.1
    assert all(wait < 10.6 for wait in waits)
    assert waits[-1] > 9.4
    assert heart.failing
    heart.succeeded()
    assert heart.failed() < 1.1


@pytest.mark.parametrize("interval", [0, -1, 0.01, 3601, float("nan")])
def test_an_interval_that_is_none(interval: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        Heart(interval)


def test_the_first_one_registers_and_the_others_do_not() -> None:
    one = member()
    assert one.beat().function == "app_register"
    assert one.goodbye() is None
    assert one.answered(json.dumps(TOLD))
    assert one.beat().function == "app_beat"
    assert not one.answered(None), "the database has forgotten us"
    assert one.beat().function == "app_register"


def test_what_was_told_is_acknowledged_soon_and_then_it_rests() -> None:
    source = Source()
    one = member(source=source)
    one.beat()
    one.answered(json.dumps(TOLD))
    assert one.rest() < 1
    assert source.acknowledged() == {"0001": 3, "switch 0001": 2}
    seen = next(argument.value for argument in one.beat().arguments if argument.kind == "jsonb")
    assert seen == {"0001": 3, "switch 0001": 2}
    one.answered(json.dumps(TOLD))
    assert one.rest() > 9


def test_a_forked_process_is_another_instance() -> None:
    one = member()
    one.beat()
    one.answered(json.dumps(TOLD))
    before = one.instance
    one.renew()
    assert one.instance != before
    assert one.beat().function == "app_register"


def test_placeholders_of_drivers() -> None:
    call = member(schema="50%").beat()
    assert call.formatted.startswith('SELECT CAST("50%%"."app_register"(CAST(%s AS text), ')
    assert call.numbered.startswith('SELECT CAST("50%"."app_register"(CAST($1 AS text), CAST($2 AS text)')
    assert call.formatted.count("%s") == len(call.values) == 12
    assert all(value is None or isinstance(value, str | float | int) for value in call.values)


def test_names_of_sessions() -> None:
    assert session_name("shop", "2.4.0") == "shop/2.4.0"
    assert len(session_name("shop", "x" * 100)) == 63
    for application, version in (
        ("", "1"),
        ("shop", ""),
        ("a/b", "1"),
        ("shop", "ü"),
        ("shop", "a\nb"),
        ("shop", None),
    ):
        with pytest.raises(ValueError, match=r"application|version"):
            session_name(application, version)  # type: ignore[arg-type]
