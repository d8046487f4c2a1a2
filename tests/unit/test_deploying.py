"""Which versions can run where."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zdmigrate.app.shapes import Needed, NeededTable, Needs, Shape, Shapes, Trait
from zdmigrate.control.instances import Version
from zdmigrate.control.store import Record
from zdmigrate.engine import deploying
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Window

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WINDOW = Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL)
SHAPES = Shapes(
    old=(Trait(schema="public", table="users", column="user_email"),),
    new=(Trait(schema="public", table="users", column="email_address"),),
)


def needs(*columns: str, schema: str | None = None) -> Needs:
    return (NeededTable(name="users", schema=schema, columns=tuple(Needed(name=column) for column in columns)),)


OLD, NEW, BOTH, EITHER = needs("user_email"), needs("email_address"), needs("user_email", "email_address"), needs("id")


def record(phase: Phase, running: Phase | None = None, **facts: Any) -> Record:
    given = {field.name: None for field in dataclasses.fields(Record)}
    return Record(
        **{**given, "id": "0001", "phase": phase, "running": running, "shapes": SHAPES, "phase_since": NOW, **facts}
    )


def works(what: Needs | None, phase: Phase, running: Phase | None = None, **facts: Any) -> bool:
    return deploying.standing(record(phase, running, **facts), WINDOW, what, None).works


@pytest.mark.parametrize(
    ("what", "fitting"),
    [
        (OLD, "none expand dual_write backfill switch_reads"),
        (NEW, "backfill switch_reads retire contract"),
        (BOTH, "expand dual_write backfill switch_reads"),
        (EITHER, "none expand dual_write backfill switch_reads retire contract"),
        (None, "backfill switch_reads"),
    ],
)
def test_states_that_fit(what: Needs | None, fitting: str) -> None:
    assert [phase for phase in PHASES if works(what, phase)] == fitting.split()


def test_a_phase_under_way_counts_as_done_and_as_not() -> None:
    assert not works(OLD, Phase.SWITCH_READS, Phase.RETIRE)
    assert not works(NEW, Phase.DUAL_WRITE, Phase.BACKFILL)
    assert works(NEW, Phase.SWITCH_READS, Phase.RETIRE)


@pytest.mark.parametrize(
    ("what", "phase", "least"),
    [
        (OLD, Phase.RETIRE, Phase.SWITCH_READS),
        (OLD, Phase.CONTRACT, Phase.SWITCH_READS),
        (NEW, Phase.EXPAND, Phase.BACKFILL),
        (BOTH, Phase.RETIRE, Phase.SWITCH_READS),
        (BOTH, Phase.NONE, Phase.EXPAND),
        (None, Phase.RETIRE, Phase.SWITCH_READS),
    ],
)
def test_the_least_that_helps(what: Needs | None, phase: Phase, least: Phase) -> None:
    standing = deploying.standing(record(phase), WINDOW, what, None)
    assert not standing.works
    assert standing.least is least
    assert f"0001 is at {phase}" in standing.why


def test_a_version_that_came_after_the_end_fits() -> None:
    def later(seconds: int) -> Version:
        seen = NOW + timedelta(seconds=seconds)
        return Version(
            project="default", application="shop", version="9", needs=None, first_seen=seen, last_seen=seen, deployed_at=None
        )  # fmt: skip

    blind = record(Phase.CONTRACT, shapes=Shapes())
    assert deploying.standing(blind, WINDOW, EITHER, later(1)).works
    standing = deploying.standing(blind, WINDOW, EITHER, later(-1))
    assert not standing.works
    assert standing.shape is Shape.UNKNOWN
    assert "nobody knows which shape it needs" in standing.why


def test_what_the_catalog_does_not_have() -> None:
    columns = [("public", "users", "id"), ("crm", "users", "fax"), ("public", "orders", "id")]
    assert deploying.absent(needs("id", "fax"), columns) == [], "the search path finds one of them"
    assert deploying.absent(needs("id", "fax", schema="public"), columns) == ["public.users.fax"]
    assert deploying.absent((NeededTable(name="carts"),), columns) == ["carts"]
