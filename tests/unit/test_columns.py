"""Plans and refusals of the changes of columns that are there, and of AddColumn in full."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from zdmigrate import (
    AddColumn,
    AddIdentity,
    ChangeType,
    DropColumn,
    DropDefault,
    DropNotNull,
    RenameColumn,
    SetComment,
    SetDefault,
    SetNotNull,
    schema,
)
from zdmigrate.changes.base import Change
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Mode, Plan
from zdmigrate.planning import planner


@dataclasses.dataclass(frozen=True)
class Named:
    """A migration as the planner wants it."""

    changes: tuple[Change, ...]
    id: str = "0001"
    requires: tuple[str, ...] = ()
    sync: str = "trigger"
    shadow_reads: ShadowReads | None = None
    checksum: str = "sum"


def column(name: str, number: int, **facts: Any) -> schema.Column:
    return schema.Column(**{"name": name, "number": number, "type": "text", **facts})


SEQUENCE = schema.Sequence(
    column="serial", schema="public", name="t_serial_seq", identity="public.t_serial_seq", internal=False, start=1,
    increment=1, minimum=1, maximum=2**31 - 1, cache=1, cycle=False,
)  # fmt: skip
TABLE = schema.Table(
    schema="public", name="t", oid=1, kind="r", owner="app", owned=True, rows=10, bytes=8192, sequences=(SEQUENCE,),
    columns=(
        column("id", 1, type="bigint", not_null=True),
        column("free", 2),
        column("full", 3, not_null=True),
        column("given", 4, default="'x'::text", default_volatile=False),
        column("serial", 5, type="integer", not_null=True, default="nextval('public.t_serial_seq'::regclass)",
               default_volatile=True, owned_sequences=("public.t_serial_seq",)),
        column("own", 6, type="bigint", not_null=True, identity="d"),
        column("made", 7, generated="s"),
        column("number", 8, type="integer", not_null=True),
    ),
    indexes=(
        schema.Index(name="t_pkey", unique=True, primary=True, valid=True, columns=("id",), keys=("id",), tail="btree (id)"),
    ),
)  # fmt: skip
LARGE = dataclasses.replace(TABLE, rows=2_000_000, bytes=300 << 20)


def planned(*changes: Change, at: schema.Table = TABLE, major: int = 18, sync: str = "trigger") -> Plan:
    """The plan, with a server that finds everything fine, and whose text of a default is the one that is given."""
    snapshot = schema.Snapshot(
        server_version=major * 10000, role="app", may_suppress_triggers=False, tables=(at,), asked=(("public", "t"),)
    )
    named = Named(changes, sync=sync)
    while asked := planner.questions(named, snapshot):
        facts = dict.fromkeys(asked)
        snapshot = dataclasses.replace(
            snapshot,
            expressions=(
                *snapshot.expressions,
                *(
                    schema.ExpressionFacts(schema=q.schema, table=q.table, expression=q.expression)
                    for q in facts
                    if q.expression
                ),
            ),
            trials=(
                *snapshot.trials,
                *(
                    schema.Trial(schema=q.schema, table=q.table, statement=q.trial, defaults=_defaults(q.trial))
                    for q in facts
                    if q.trial
                ),
            ),
            types=(
                *snapshot.types,
                *(schema.TypeFacts(text=q.type, canonical=q.type.lower()) for q in facts if q.type),
            ),
            asked=(*snapshot.asked, *((q.schema, q.table) for q in facts)),
        )
    return planner.plan(named, snapshot)


def _defaults(statement: str) -> tuple[tuple[str, str], ...]:
    _, found, default = statement.partition(" DEFAULT ")
    return (("zd_default", default),) if found and "zd_default" in statement else ()


def gates(plan: Plan, phase: Phase) -> list[str]:
    return [gate.name for gate in plan.phase(phase).gates if gate.direction is Direction.FORWARD]


def phases(plan: Plan) -> list[Phase]:
    return [step.phase for step in plan.steps()]


def test_a_column_that_may_be_null_must_be_accepted() -> None:
    plan = planned(DropNotNull("t", "full"))
    assert phases(plan) == [Phase.EXPAND]
    assert gates(plan, Phase.EXPAND) == ["old_reads_null"]
    assert (plan.window.old_until, plan.window.new_from) == (Phase.CONTRACT, Phase.EXPAND)


def test_a_default_where_there_was_none_bothers_nobody() -> None:
    plan = planned(SetDefault("t", "free", "'y'"))
    assert phases(plan) == [Phase.EXPAND]
    assert not any(gates(plan, phase) for phase in Phase)
    assert plan.automatic_target is Phase.CONTRACT


@pytest.mark.parametrize("change", [SetDefault("t", "given", "'y'"), DropDefault("t", "given")])
def test_a_default_that_version_n_relies_on_waits_for_it(change: Change) -> None:
    plan = planned(change)
    assert phases(plan) == [Phase.CONTRACT]
    assert gates(plan, Phase.CONTRACT) == ["retire_soak", "drained"]
    (step,) = plan.steps()
    assert step.undo == ("""ALTER TABLE "public"."t" ALTER COLUMN "given" SET DEFAULT 'x'::text""",)


def test_the_same_default_is_nothing_to_do() -> None:
    assert list(planned(SetDefault("t", "given", "'x'::text")).steps()) == []


def test_statements_that_no_warm_connection_notices_are_not_announced() -> None:
    changes = (SetDefault("t", "free", "'y'"), DropNotNull("t", "full"), SetComment("t", "x", column="free"))
    assert "C23" not in {hazard.id for hazard in planned(*changes).hazards}


def test_a_serial_column_needs_nobodys_consent() -> None:
    plan = planned(AddIdentity("t", "serial"))
    assert phases(plan) == [Phase.EXPAND, Phase.CONTRACT]
    assert not any(gates(plan, phase) for phase in Phase)
    assert plan.undoable_until is Phase.RETIRE
    always = planned(AddIdentity("t", "serial", always=True))
    assert gates(always, Phase.CONTRACT) == ["retire_soak", "drained"]


def test_numbers_that_may_meet_must_be_accepted() -> None:
    plan = planned(AddIdentity("t", "number"))
    assert gates(plan, Phase.EXPAND) == ["identity_numbers"]
    assert [step.mode for step in plan.steps()] == [Mode.TRANSACTION, Mode.AUTOCOMMIT, Mode.AUTOCOMMIT]
    beyond = planned(AddIdentity("t", "number", start=10**6))
    assert not gates(beyond, Phase.EXPAND)
    (step,) = beyond.steps()
    assert '"number" >= 1000000' in (step.refused_by or "")
    (down,) = planned(AddIdentity("t", "number", start=-5, increment=-1)).steps()
    assert '"number" <= -5' in (down.refused_by or "")


def test_a_large_table_is_not_rewritten_unasked() -> None:
    stored = AddColumn("t", sa.Column("c", sa.Text, sa.Computed("upper(free)", persisted=True)))
    assert not gates(planned(stored), Phase.EXPAND)
    plan = planned(stored, at=LARGE)
    gate = plan.phase(Phase.EXPAND).gates[0]
    assert gates(plan, Phase.EXPAND) == ["rewrite"]
    assert (gate.name, gate.exit_code) == ("rewrite", 6)
    assert "2000000 rows, 300.0 MB" in gate.detail
    (step,) = plan.steps()
    assert step.rewrites
    assert step.mode is Mode.AUTOCOMMIT, "a transaction has a time limit"
    virtual = AddColumn("t", sa.Column("c", sa.Text, sa.Computed("upper(free)", persisted=False)))
    assert not gates(planned(virtual, at=LARGE), Phase.EXPAND)


def test_not_null_of_a_computed_value_waits_for_version_n_to_go() -> None:
    made = sa.Column("c", sa.Text, sa.Computed("upper(free)", persisted=True), nullable=False)
    plan = planned(AddColumn("t", made))
    assert set(phases(plan)) == {Phase.EXPAND, Phase.CONTRACT}
    assert plan.window.old_until is Phase.RETIRE
    assert "NOT NULL" not in plan.phase(Phase.EXPAND).steps[0].do[0]


def test_what_a_column_brings_along_comes_when_it_can_refuse_nobody() -> None:
    column = sa.Column("c", sa.Text, sa.CheckConstraint("c <> ''"), unique=True)
    assert set(phases(planned(AddColumn("t", column)))) == {Phase.EXPAND, Phase.BACKFILL}
    filled = planned(AddColumn("t", column, backfill="'c' || id"))
    assert {step.phase for step in filled.steps() if "t_c_key" in step.id} == {Phase.CONTRACT}


def test_a_checksum_of_before_is_that_of_today() -> None:
    assert AddColumn("t", sa.Column("c", sa.Text)).describe().keys() == {
        "change", "table", "name", "type", "nullable", "default", "comment", "backfill", "schema",
    }  # fmt: skip


COMPUTED = AddColumn("t", sa.Column("c", sa.Text, sa.Computed("upper(free)", persisted=True)))
NUMBERED = AddColumn("t", sa.Column("c", sa.BigInteger, sa.Identity()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((DropNotNull("t", "free"),), "may be NULL already"),
        ((DropNotNull("t", "id"),), "part of the primary key"),
        ((DropNotNull("t", "own"),), "an identity column"),
        ((SetNotNull("t", "free"), DropNotNull("t", "free")), "made NOT NULL by the same migration"),
        ((SetDefault("t", "own", "1"),), "an identity column"),
        ((SetDefault("t", "made", "'x'"),), "a generated column"),
        ((SetDefault("t", "free", "'x'"), SetDefault("t", "free", "'y'")), "already set by change 1"),
        ((SetDefault("t", "given", "'y'"), DropDefault("t", "given")), "already set by change 1"),
        ((SetDefault("t", "given", "'y'"), RenameColumn("t", "given", "g")), "renamed after a change that waits for contract"),
        ((SetDefault("t", "given", "'y'"), ChangeType("t", "given", sa.String(9))), "default 'y' that the same migration sets"),
        ((SetDefault("t", "free", "'y'"), DropColumn("t", "free")), "changed and dropped"),
        ((ChangeType("t", "number", "numeric", up="number", down="number::integer"), SetDefault("t", "number", "1")),
         "type of public.t.number is changed"),
        ((DropDefault("t", "free"),), "has no default"),
        ((DropDefault("t", "own"),), "an identity column"),
        ((SetComment("t", "x", index="none"),), "has no index 'none'"),
        ((SetComment("t", "x", constraint="none"),), "has no constraint 'none'"),
        ((SetComment("t", "x", column="none"),), "there is no column 'none'"),
        ((SetComment("t", "x"), SetComment("t", "y")), "comment of public.t is already"),
        ((AddIdentity("t", "own"),), "an identity column already"),
        ((AddIdentity("t", "made"),), "a generated column"),
        ((AddIdentity("t", "free"),), "of type text"),
        ((AddIdentity("t", "given"),), "of type text"),
        ((AddIdentity("t", "serial"), AddIdentity("t", "serial")), "an identity column already"),
        ((AddIdentity("t", "serial"), DropColumn("t", "serial")), "changed and dropped"),
        ((COMPUTED, DropColumn("t", "free")), "the generated column c depend on it"),
        ((COMPUTED, ChangeType("t", "free", "integer", up="1", down="'1'")), "the generated column c depend on it"),
        ((DropColumn("t", "free"), COMPUTED), "free was dropped by the same migration"),
        ((AddColumn("t", sa.Column("free2", sa.Text)),
          AddColumn("t", sa.Column("c", sa.Text, sa.Computed("upper(free2)", persisted=True)))), "added by the same migration"),
        ((AddColumn("t", sa.Column("n", sa.Text, sa.Identity())),), "an identity is smallint, integer, bigint"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes: tuple[Change, ...], message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(*changes)
    assert refused.value.change == len(changes) - 1


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        (AddIdentity("t", "number"), {"kind": "p"}, "before PostgreSQL 17"),
        (AddIdentity("t", "number"), {"may_create": False}, "may not create sequences"),
        (NUMBERED, {"kind": "p"}, "before PostgreSQL 17"),
        (NUMBERED, {"may_create": False}, "may not create sequences"),
        (
            AddIdentity("t", "serial"),
            {"sequences": (dataclasses.replace(SEQUENCE, dependents=("default value for column n of table u",)),)},
            "default value for column n of table u depend on it",
        ),
        (AddIdentity("t", "serial"), {"sequences": ()}, "not a sequence of its own"),
        (
            AddColumn("t", sa.Column("c", sa.Text, sa.Computed("free", persisted=False))),
            {},
            "no virtual generated columns",
        ),
    ],
)
def test_what_does_not_fit_some_tables_and_servers(change: Change, at: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(change, at=dataclasses.replace(TABLE, **at), major=16)
    assert refused.value.hint


def test_nobody_numbers_rows_where_the_application_syncs() -> None:
    with pytest.raises(Unsafe, match='with sync="app" nobody numbers the rows'):
        planned(NUMBERED, sync="app")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DropNotNull("t", ""), "DropNotNull: column must be a name"),
        (lambda: SetDefault("t", "a", 5), "must be a SQL expression, got 5"),  # type: ignore[arg-type]
        (lambda: SetDefault("t", "a", " null "), "a default of NULL is none"),
        (lambda: SetDefault("t", "a", "(SELECT 1)"), "without SELECT"),
        (lambda: DropDefault("t", "\0"), "must be a name"),
        (lambda: SetComment("t", ""), "must be text, or None"),
        (lambda: SetComment("t", "x", column="a", index="b"), "give one of column="),
        (lambda: AddIdentity("t", "a", start=True), "start must be a whole number"),
        (lambda: AddIdentity("t", "a", increment=0), "must not be 0"),
        (
            lambda: AddColumn("t", sa.Column("c", sa.Text, sa.Computed("a"))),
            "say whether the generated value is stored",
        ),
        (
            lambda: AddColumn("t", sa.Column("c", sa.Integer, sa.Identity(), nullable=True)),
            "an identity, which is never NULL",
        ),
        (lambda: AddColumn("t", sa.Column("c", sa.Integer, sa.Identity()), backfill="1"), "nothing to backfill"),
        (
            lambda: AddColumn("t", sa.Column("c", sa.Text, sa.Computed("a", persisted=False), unique=True)),
            "neither indexes nor keys",
        ),
        (lambda: AddColumn("t", sa.Column("c" * 60, sa.Text, index=True)), "longer than 63 bytes"),
    ],
)
def test_what_is_wrong_in_itself(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
