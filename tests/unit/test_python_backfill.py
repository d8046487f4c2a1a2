"""A column whose values a function of the migration file computes: declared, planned, stored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from tests.unit.test_planner import gates, planned, table
from zdmigrate import AddColumn, Migration, RenameColumn
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import ALWAYS_TODO, Mode, PhasePlan, Plan, RowWork, Step, Transform, Window
from zdmigrate.sqltext import ident

FACTOR = 2


def sizes(rows: Any) -> list[int]:
    return [FACTOR * len(row["user_email"]) for row in rows]


def others(rows: Any) -> list[int]:
    return [len(row["user_email"]) for row in rows]


def add(
    function: Callable[[Any], Any] = sizes, *, reads: Any = ("user_email",), where: str | None = None, **facts: Any
) -> AddColumn:
    return AddColumn("users", sa.Column("size", sa.Text, **facts), backfill=function, reads=reads, where=where)


def steps(plan: Plan) -> list[str]:
    return [step.id.removeprefix("0.") for step in plan.steps()]


def test_with_a_default_version_n_stays_to_the_end() -> None:
    plan = planned(add(server_default="0", nullable=False))
    assert (plan.window.old_until, plan.window.new_from) == (Phase.CONTRACT, Phase.BACKFILL)
    assert gates(plan, Phase.BACKFILL) == []
    # Nothing refuses a NULL before it is proven that there is none.
    assert steps(plan) == [
        "expand.add.size", "backfill.fill.size", "backfill.verify.size", "backfill.not_null.size",
        "backfill.not_null_valid.size", "backfill.not_null_set.size", "backfill.analyze.size",
    ]  # fmt: skip
    (first, *_) = plan.steps()
    assert [text.partition(" COLUMN ")[2] for text in first.do] == ['"size" TEXT', "\"size\" SET DEFAULT '0'"]


def test_without_a_default_version_n_must_be_gone_before_the_backfill() -> None:
    plan = planned(add())
    assert (plan.window.old_until, plan.window.new_from) == (Phase.DUAL_WRITE, Phase.EXPAND)
    assert gates(plan, Phase.BACKFILL) == ["explicit_null", "drained"]
    assert gates(plan, Phase.SWITCH_READS) == ["verified"]
    assert steps(plan) == ["expand.add.size", "backfill.fill.size", "backfill.verify.size", "backfill.analyze.size"]
    assert [h.phase for h in plan.hazards if h.id == "C29"] == [Phase.EXPAND, Phase.BACKFILL]
    assert plan.reads == ("public.users.user_email",)


def test_columns_are_read_as_they_are_before_the_migration() -> None:
    plan = planned(
        RenameColumn("users", "user_email", "email_address"),
        add(reads=("email_address", "id"), where="email_address <> ''"),
    )
    work = next(step.rows for step in plan.steps() if step.mode is Mode.BACKFILL and step.rows and step.rows.transform)
    assert work is not None
    assert work.transform is not None
    assert work.transform.reads == (("email_address", '"user_email"'), ("id", '"id"'))
    assert work.unfilled == '"size" IS NULL AND ("user_email" <> \'\')'


def test_two_of_them_are_two_passes_beside_the_one_of_the_others() -> None:
    plan = planned(
        add(), AddColumn("users", sa.Column("more", sa.Text), backfill=others, reads=["id"]),
        RenameColumn("users", "user_email", "email_address"),
    )  # fmt: skip
    assert [s.rows.transform is None for s in plan.steps() if s.mode is Mode.BACKFILL and s.rows] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: add(nullable=False), "is NOT NULL, and no trigger can call sizes()"),
        (lambda: add(reads=()), "reads must name the columns"),
        (lambda: add(reads=("user_email", 3)), "a column in reads must be a name, got 3"),
        (lambda: add(where="x; DROP TABLE y"), "where must be an expression"),
        (lambda: add(lambda rows: rows), "must be a function at the top level of the file"),
        (lambda: add(max), "must be a function of the migration file"),
        (lambda: AddColumn("t", sa.Column("c", sa.Text), backfill="1", reads=("a",)), "reads and where are for a backfill"),
        (lambda: AddColumn("t", sa.Column("c", sa.Text), where="true"), "reads and where are for a backfill"),
        (lambda: AddColumn("t", sa.Column("c", sa.Integer, sa.Identity()), backfill=sizes, reads=("a",)), "nothing to backfill"),
        (lambda: AddColumn("t", sa.Column("c", sa.Text), backfill=1), "a SQL expression, or a function of the"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file(change: Callable[[], AddColumn], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        change()


def test_what_does_not_fit_the_table() -> None:
    with pytest.raises(Unsafe, match="no column 'nickname'"):
        planned(add(reads=("nickname",)))
    with pytest.raises(Unsafe, match='sync="app"'):
        planned(add(), sync="app")
    with pytest.raises(Unsafe, match="rewrite rules"):
        planned(add(), at=table(rules=("r",)))


# Stored --------------------------------------------------------------------------------------------------------------


def test_the_checksum_covers_the_function_and_what_it_uses() -> None:
    first = Migration(add()).checksum
    assert Migration(add()).checksum == first
    assert Migration(add(others)).checksum != first
    assert Migration(add(reads=("user_email", "id"))).checksum != first
    assert Migration(add(where="true")).checksum != first


def test_what_needs_no_function_keeps_its_checksum() -> None:
    described = AddColumn("users", sa.Column("size", sa.Text), backfill="1").describe()
    assert not {"function", "_function", "reads", "where"} & described.keys()
    json.dumps(add().describe())


def test_a_plan_with_a_function_is_stored_and_read_again() -> None:
    plan = planned(add(where="id > '3'"))
    again = msgspec.json.decode(json.dumps(plan.to_json()), type=Plan)
    assert again == plan
    assert again.hash == plan.hash
    old = plan.to_json()
    for step in (step for phase in old["phases"] for step in phase["steps"] if step["rows"]):
        step["rows"]["transform"] = None
    assert msgspec.json.decode(json.dumps(old), type=Plan).hash != plan.hash


def test_plans_from_before_keep_their_hash() -> None:
    rows = RowWork(schema="s", table="t", assignments=(("a", "b + 1"),), unfilled="a IS NULL")
    fill = Step(id="fill", title="", phase=Phase.BACKFILL, mode=Mode.BACKFILL, probe=ALWAYS_TODO, rows=rows)
    plan = Plan(
        migration="m", checksum="", server_version=180000, window=Window(old_until=Phase.NONE, new_from=Phase.NONE),
        phases=(PhasePlan(phase=Phase.BACKFILL, steps=(fill,)),), touches=(),
    )  # fmt: skip
    # As it was made before there were functions.
    assert plan.hash == "81ae7f1fa250acb33beb6dd36edd0d014769e0eb9787e9e130212633182d4723"
    stored = plan.to_json()
    del stored["phases"][0]["steps"][0]["rows"]["transform"]
    assert msgspec.json.decode(json.dumps(stored), type=Plan) == plan


def test_the_sources_of_a_value() -> None:
    rows = RowWork(schema="s", table="t", assignments=(("a", "b + 1"),), unfilled="true")
    assert rows.sources == (("a", "b + 1"),)
    transform = Transform(column="a", function="f@1", reads=(("b", ident("b")), ("c", "d || e")))
    computed = dataclasses.replace(rows, assignments=(), transform=transform)
    assert computed.sources == (("a", 'ROW("b", d || e)'),)
    assert transform.call == "f(b, c)"
