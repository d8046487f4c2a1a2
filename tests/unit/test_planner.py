"""Plans: windows, gates, refusals, hashes, JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from zdmigrate import AddColumn, DropColumn, Migration, RenameColumn, schema
from zdmigrate.changes.base import Change
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Mode, Plan
from zdmigrate.planning import names, planner


@dataclasses.dataclass(frozen=True)
class Named:
    """A migration as the planner wants it."""

    id: str
    changes: tuple[Change, ...]
    requires: tuple[str, ...] = ()
    sync: str = "trigger"
    shadow_reads: ShadowReads | None = None
    checksum: str = "sum"


def column(name: str, **facts: Any) -> schema.Column:
    return schema.Column(**{"name": name, "number": 1, "type": "text", **facts})


def table(*columns: schema.Column, **facts: Any) -> schema.Table:
    values: dict[str, Any] = {
        "schema": "public", "name": "users", "oid": 1, "kind": "r", "owner": "app", "owned": True, "rows": 10,
        "bytes": 8192, "columns": columns or (column("id"), column("user_email", not_null=True)),
    }  # fmt: skip
    return schema.Table(**{**values, **facts})


def planned(*changes: Change, at: schema.Table | None = None, major: int = 17, **migration: Any) -> Plan:
    """The plan, with a server that finds every expression fine, and of type text."""
    snapshot = schema.Snapshot(
        server_version=major * 10000, role="app", may_suppress_triggers=False, tables=(at or table(),),
        asked=(("public", "users"),),
    )  # fmt: skip
    named = Named("0001", changes, **migration)
    while asked := planner.questions(named, snapshot):
        snapshot = dataclasses.replace(
            snapshot,
            expressions=(
                *snapshot.expressions,
                *(
                    schema.ExpressionFacts(
                        schema=q.schema, table=q.table, expression=q.expression, volatile="random()" in q.expression
                    )
                    for q in asked
                    if q.expression is not None
                ),
            ),
            types=(*snapshot.types, *(schema.TypeFacts(text=q.type, canonical="text") for q in asked if q.type)),
            asked=(*snapshot.asked, *((q.schema, q.table) for q in asked)),
        )
    return planner.plan(named, snapshot)


RENAME = RenameColumn("users", "user_email", "email_address")


def gates(plan: Plan, phase: Phase, direction: Direction = Direction.FORWARD) -> list[str]:
    return [gate.name for gate in plan.phase(phase).gates if gate.direction is direction]


def test_a_rename_is_predicted() -> None:
    plan = planned(RENAME)
    assert (plan.window.old_until, plan.window.new_from) == (Phase.SWITCH_READS, Phase.BACKFILL)
    assert gates(plan, Phase.SWITCH_READS) == ["verified"]
    assert gates(plan, Phase.RETIRE) == ["soak", "drained"]
    assert gates(plan, Phase.CONTRACT) == ["retire_soak"]
    assert gates(plan, Phase.BACKFILL, Direction.BACKWARD) == ["drained"]
    assert plan.automatic_target is Phase.RETIRE
    assert plan.undoable_until is Phase.RETIRE


def test_a_default_makes_adding_a_matter_of_one_step() -> None:
    plan = planned(AddColumn("users", sa.Column("flag", sa.Text, nullable=False, server_default="x")))
    (step,) = plan.steps()
    assert step.do == ('ALTER TABLE "public"."users" ADD COLUMN "flag" TEXT DEFAULT \'x\' NOT NULL',)
    assert (plan.window.old_until, plan.window.new_from) == (Phase.CONTRACT, Phase.EXPAND)
    assert plan.automatic_target is Phase.CONTRACT


def test_a_volatile_default_is_filled_row_by_row() -> None:
    plan = planned(AddColumn("users", sa.Column("v", sa.Text, nullable=False, server_default=sa.text("random()"))))
    assert any(step.mode is Mode.BACKFILL for step in plan.steps())
    assert "DEFAULT" not in next(plan.steps()).do[0]
    # The default serves version N for ever, so nothing is taken away and nothing waits.
    assert gates(plan, Phase.CONTRACT) == []
    assert plan.window.old_until is Phase.CONTRACT


def test_a_backfill_of_a_nullable_column_must_be_accepted() -> None:
    plan = planned(AddColumn("users", sa.Column("v", sa.Text), backfill="user_email"))
    assert gates(plan, Phase.DUAL_WRITE) == ["explicit_null"]
    assert [hazard.accept for hazard in plan.hazards if hazard.accept] == ["explicit_null"]


def test_dropping_a_required_column_needs_a_value_or_consent() -> None:
    assert gates(planned(DropColumn("users", "user_email")), Phase.EXPAND) == ["old_reads_null"]
    plan = planned(DropColumn("users", "user_email", down="'?'"))
    assert gates(plan, Phase.EXPAND) == []
    assert plan.window.new_from is Phase.DUAL_WRITE


def test_the_tables_own_triggers_are_a_gate_where_they_would_fire() -> None:
    trigger = schema.Trigger(name="touch", enabled="O", before=True, row=True, events=("UPDATE",))
    plan = planned(RENAME, at=table(triggers=(trigger,)))
    assert gates(plan, Phase.BACKFILL) == ["table_triggers"]
    elsewhere = dataclasses.replace(trigger, update_of=("id",))
    assert gates(planned(RENAME, at=table(triggers=(elsewhere,))), Phase.BACKFILL) == []


def test_requirements_and_application_mode_are_gates() -> None:
    plan = planned(RENAME, requires=("0000",), sync="app")
    assert "requires" in gates(plan, Phase.EXPAND)
    assert "dual_writers" in gates(plan, Phase.BACKFILL)
    assert not any("zd_sync_v1" in text for step in plan.steps() for text in step.do)


UNIQUE = schema.Index(
    name="u", unique=True, primary=False, valid=True, columns=("user_email",), keys=("user_email",),
    tail="btree (user_email)", constraint="u",
)  # fmt: skip
KEY = schema.Constraint(name="u", kind="u", columns=("user_email",), definition="UNIQUE (user_email)")
EMAIL = column("user_email", not_null=True)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (table(name="other"), "there is no table public.users"),
        (table(column("id")), "there is no column 'user_email'"),
        (table(EMAIL, column("email_address")), "already has a column 'email_address'"),
        (table(kind="v"), "is a view, and not a table"),
        (table(is_partition=True), "is a partition"),
        (table(inherits=True), "inheritance"),
        (table(owned=False), "is owned by app"),
        (table(rules=("r",)), "rewrite rules"),
        (table(column("user_email", generated="s")), "a generated column"),
        (table(kind="p", partition_columns=("user_email",)), "partition key"),
        (table(column("user_email", hashable=False), indexes=(UNIQUE,)), "no hash function"),
        (table(indexes=(UNIQUE,), may_create=False), "may not create indexes"),
    ],
)
def test_what_a_rename_refuses(at: schema.Table, message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(RENAME, at=at)
    assert refused.value.hint


def test_changes_of_one_table_share_triggers_and_backfill() -> None:
    both = dataclasses.replace(UNIQUE, columns=("id", "user_email"), keys=("id", "user_email"), constraint=None)
    reader = AddColumn("users", sa.Column("v", sa.Text, nullable=False), backfill="lower(email_address)")
    plan = planned(RENAME, RenameColumn("users", "id", "number"), reader, at=table(*table().columns, indexes=(both,)))
    modes = [step.mode for step in plan.steps()]
    assert (modes.count(Mode.BACKFILL), modes.count(Mode.VERIFY)) == (1, 1)
    assert len(plan.phase(Phase.DUAL_WRITE).steps) == 1
    assert len(plan.phase(Phase.RETIRE).steps) == 1
    (fill,) = [step.rows for step in plan.steps() if step.rows and step.mode is Mode.BACKFILL]
    assert [name for name, _ in fill.assignments] == ["email_address", "number", "v"]
    # Over the columns as they were, because a backfill sets all of them in one UPDATE.
    assert 'lower("user_email")' in fill.assignments[2][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((RENAME, DropColumn("users", "user_email")), "user_email was renamed by the same migration"),
        ((RENAME, DropColumn("users", "email_address")), "changed and dropped"),
        ((DropColumn("users", "id"), RenameColumn("users", "id", "number")), "id was dropped by the same migration"),
        ((RENAME, RenameColumn("users", "email_address", "mail")), "renamed twice"),
        ((RENAME, AddColumn("users", sa.Column("email_address", sa.Text))), "already has a column 'email_address'"),
        ((DropColumn("users", "id"), AddColumn("users", sa.Column("id", sa.Text))), "which is dropped only at the end"),
        ((AddColumn("users", sa.Column("v", sa.Text)), DropColumn("users", "v")), "added by the same migration"),
    ],
)
def test_contradictions_are_refused_and_say_where(changes: tuple[Change, ...], message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(*changes)
    assert refused.value.change == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddColumn("users", sa.Column("v", sa.Text, nullable=False)), "NOT NULL"),
        (lambda: AddColumn("users", sa.Column("v", sa.Text, primary_key=True)), "primary_key=True"),
        (lambda: AddColumn("users", sa.Column("v")), "has no type"),
        (lambda: AddColumn("users", "v"), r"must be a sqlalchemy\.Column"),  # type: ignore[arg-type]
        (lambda: AddColumn("users", sa.Column("v", sa.Text), backfill="(SELECT 1)"), "without SELECT"),
        (lambda: AddColumn("users", sa.Column("v", sa.Text), backfill="1; DROP TABLE users"), "';'"),
        (lambda: RenameColumn("users", "a", "a"), "has that name already"),
        (lambda: RenameColumn("users", "a", "é" * 32), "longer than 63 bytes"),
        (lambda: DropColumn("users", ""), "must be a name"),
    ],
)
def test_what_is_wrong_in_itself(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_the_hash_is_of_what_is_done_not_of_estimates() -> None:
    assert planned(RENAME).hash == planned(RENAME, at=table(rows=10**9, bytes=10**12)).hash
    assert planned(RENAME).hash != planned(RENAME, at=table(column("user_email", default="'x'"))).hash


def test_a_stored_plan_is_read_back_as_it_was() -> None:
    plan = planned(RENAME, AddColumn("users", sa.Column("v", sa.Text, nullable=False), backfill="'%s {x}'"))
    assert msgspec.json.decode(json.dumps(plan.to_json()), type=Plan) == plan


def test_a_stored_plan_of_a_newer_tool_may_say_more() -> None:
    values = {**planned(RENAME).to_json(), "invented_later": 1}
    assert msgspec.json.decode(json.dumps(values), type=Plan) == planned(RENAME)


def test_not_null_by_major() -> None:
    for major, text in (
        (15, 'CHECK ("email_address" IS NOT NULL) NOT VALID'),
        (18, 'NOT NULL "email_address" NOT VALID'),
    ):
        added = AddColumn("users", sa.Column("email_address", sa.Text, nullable=False), backfill="user_email")
        statements = [statement for step in planned(added, major=major).steps() for statement in step.do]
        assert any(text in statement for statement in statements)


def test_generated_names_fit_and_do_not_collide() -> None:
    long = "ä" * 31
    made = {names.generated("ix", long, "migration", str(n)) for n in range(100)}
    assert len(made) == 100
    assert all(len(name.encode()) <= 63 for name in made)


def test_trigger_names_sort_outside_the_tables_own() -> None:
    others = frozenset({"!!", "a", "~~~", "ü", " x"})
    assert all(names.first_trigger("zd", others).encode() < other.encode() for other in others)
    assert all(names.last_trigger("zd", others).encode() > other.encode() for other in others)


def test_loading_a_migration_gives_what_the_planner_wants() -> None:
    assert Migration(RENAME).changes == (RENAME,)
