"""Plans of changes that add, drop and rename constraints: phases, locks, names, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from zdmigrate import (
    AddCheck,
    AddColumn,
    AddExclusion,
    AddForeignKey,
    AddPrimaryKey,
    AddUnique,
    ChangeType,
    DropColumn,
    DropConstraint,
    RenameColumn,
    RenameConstraint,
    schema,
)
from zdmigrate.changes.base import Change
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import Unsafe, UsageError, ZdmigrateError
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan
from zdmigrate.planning import constraints, foreignkeys, keys, planner
from zdmigrate.planning.draft import Draft, TableDraft
from zdmigrate.planning.parts import Scope


@dataclasses.dataclass(frozen=True)
class Named:
    """A migration as the planner wants it."""

    id: str
    changes: tuple[Change, ...]
    requires: tuple[str, ...] = ()
    sync: str = "trigger"
    shadow_reads: ShadowReads | None = None
    checksum: str = "sum"


def column(name: str, type_: str = "integer", **facts: Any) -> schema.Column:
    return schema.Column(**{"name": name, "number": 1, "type": type_, **facts})


def table(name: str, *columns: schema.Column, **facts: Any) -> schema.Table:
    values: dict[str, Any] = {
        "schema": "public", "name": name, "oid": 1, "kind": "r", "owner": "app", "owned": True, "rows": 10,
        "bytes": 8192, "columns": columns,
    }  # fmt: skip
    return schema.Table(**{**values, **facts})


def key(name: str, *columns: str, **facts: Any) -> schema.Index:
    values = {"unique": True, "primary": False, "valid": True, "keys": columns, "tail": "", "constraint": name}
    return schema.Index(**{"name": name, "columns": columns, **values, **facts})


PKEY = schema.Constraint(name="users_pkey", kind="p", columns=("id",), definition="PRIMARY KEY (id)")
USERS = table(
    "users", column("id", not_null=True), column("age"), column("email", "text"), column("org_id"), column("during", "int4range"),
    indexes=(key("users_pkey", "id", primary=True),), constraints=(PKEY,),
)  # fmt: skip
ORG = table(
    "org", column("id"), column("Odd Key", "text"), indexes=(key("org_pkey", "id"), key("org_odd", '"Odd Key"'))
)
PARTED = table(
    "logs", column("id"), column("at", "date"), kind="p", partition_columns=("at",),
    partitions=(
        schema.Leaf(schema="public", name="logs_1", parent_schema="public", parent_name="logs"),
        schema.Leaf(schema="public", name="logs_2", parent_schema="public", parent_name="logs", partitioned=True),
        schema.Leaf(schema="public", name="logs_2a", parent_schema="public", parent_name="logs_2"),
    ),
)  # fmt: skip


def planned(*changes: Change, tables: tuple[schema.Table, ...] = (USERS, ORG, PARTED), major: int = 18) -> Plan:
    """The plan, with a server that finds everything fine and prints what it was told."""
    asked = {(t.schema, t.name) for t in tables}
    snapshot = schema.Snapshot(
        server_version=major * 10000, role="app", may_suppress_triggers=False, tables=tables, asked=tuple(asked)
    )
    named = Named("0001", changes)
    while questions := planner.questions(named, snapshot):
        trials = [
            schema.Trial(
                schema=q.schema, table=q.table, statement=q.trial, definition=q.trial.partition(" zd_trial_check ")[2]
            )
            for q in questions
            if q.trial is not None
        ]
        expressions = [
            schema.ExpressionFacts(schema=q.schema, table=q.table, expression=q.expression)
            for q in questions
            if q.expression is not None
        ]
        types = [schema.TypeFacts(text=q.type, canonical=q.type.lower()) for q in questions if q.type]
        snapshot = dataclasses.replace(
            snapshot,
            trials=(*snapshot.trials, *trials),
            expressions=(*snapshot.expressions, *expressions),
            types=(*snapshot.types, *types),
            asked=(*snapshot.asked, *((q.schema, q.table) for q in questions)),
        )
    return planner.plan(named, snapshot)


def phases(plan: Plan) -> set[Phase]:
    return {step.phase for step in plan.steps()}


def ddl(plan: Plan) -> list[str]:
    return [statement for step in plan.steps() for statement in step.do]


def test_a_check_waits_for_contract_and_is_validated_on_its_own() -> None:
    plan = planned(AddCheck("users", expression="age > 0"))
    add, valid = plan.steps()
    assert add.do == ('ALTER TABLE "public"."users" ADD CONSTRAINT "users_age_check" CHECK (age > 0) NOT VALID',)
    assert valid.do == ('ALTER TABLE "public"."users" VALIDATE CONSTRAINT "users_age_check"',)
    assert (add.mode, valid.mode) == (Mode.TRANSACTION, Mode.AUTOCOMMIT)
    assert phases(plan) == {Phase.CONTRACT}
    assert (plan.window.old_until, plan.window.new_from) == (Phase.RETIRE, Phase.NONE)
    assert [gate.name for gate in plan.phase(Phase.CONTRACT).gates] == ["retire_soak", "drained"]
    assert plan.undoable_until is Phase.CONTRACT
    assert plan.touches == ("public.users: CHECK (age > 0)", "public.users: users_age_check")
    assert plan.reads == ("public.users.age",)


def test_constraints_of_columns_that_n_does_not_know_come_with_the_data() -> None:
    size = AddColumn("users", sa.Column("size", sa.Integer, server_default="1"))
    assert phases(planned(size, AddCheck("users", expression="size > 0"))) == {Phase.EXPAND, Phase.BACKFILL}
    assert Phase.CONTRACT in phases(planned(size, AddCheck("users", expression="size > age")))
    cascade = AddForeignKey("users", "size", "org", "id", on_delete="cascade")
    assert Phase.CONTRACT not in phases(planned(size, cascade))
    # N's DELETE in org must not be refused for rows of N+1's
    assert Phase.CONTRACT in phases(planned(size, AddForeignKey("users", "size", "org", "id")))


def test_names_of_the_new_shape() -> None:
    plan = planned(RenameColumn("users", "age", "years"), AddCheck("users", "grown", "years > 17"))
    (added,) = [text for text in ddl(plan) if "grown" in text and "NOT VALID" in text]
    assert "CHECK (years > 17)" in added
    assert "public.users.age" in plan.reads
    retyped = planned(ChangeType("users", "age", "bigint"), AddCheck("users", expression="age > 0"))
    assert 'ADD CONSTRAINT "users_age_check"' in "".join(ddl(retyped))


def test_names_are_numbered_as_the_server_does() -> None:
    plan = planned(*(AddCheck("users", expression=f"age > {number}") for number in range(3)))
    assert plan.touches[3:] == tuple(f"public.users: users_age_check{number}" for number in ("", 1, 2))
    assert "users_check" in "".join(ddl(planned(AddCheck("users", expression="age > org_id"))))
    assert "users_age_email_id_key" in "".join(ddl(planned(AddUnique("users", ["age", "email"], include="id"))))


def test_what_is_called_like_a_column_is_none() -> None:
    more = dataclasses.replace(USERS, columns=(*USERS.columns, column("length"), column("date", "date")))
    plan = planned(AddCheck("users", expression="length(email) > 3 AND email::date < '2030-01-01'"), tables=(more,))
    assert plan.reads == ("public.users.email",)
    assert "users_email_check" in ddl(plan)[0]


def test_a_foreign_key_locks_two_tables_and_names_orphans() -> None:
    plan = planned(AddForeignKey("users", "email", "org", "Odd Key", on_update="cascade"))
    add, valid = plan.steps()
    assert [(lock.table, lock.mode) for lock in add.locks] == [
        ("public.users", "SHARE ROW EXCLUSIVE"), ("public.org", "SHARE ROW EXCLUSIVE"),
    ]  # fmt: skip
    assert {lock.mode for lock in add.undo_locks} == {"ACCESS EXCLUSIVE"}
    assert [lock.table for lock in valid.locks] == ["public.users"]
    assert add.refused_by is not None
    assert "NOT EXISTS" in add.refused_by
    assert add.do[0].endswith(
        'ADD CONSTRAINT "users_email_fkey" FOREIGN KEY ("email") REFERENCES "public"."org"("Odd Key") ON UPDATE CASCADE NOT VALID'
    )
    assert [hazard.id for hazard in plan.hazards] == ["L34"]
    assert "public.org: org_odd" in plan.reads
    indexed = dataclasses.replace(USERS, indexes=(*USERS.indexes, key("i", "email", "age", unique=False)))
    assert planned(AddForeignKey("users", "email", "org", "Odd Key"), tables=(indexed, ORG)).hazards == ()
    itself = planned(AddForeignKey("users", "org_id", "users", "id"))
    assert len(next(itself.steps()).locks) == 1


def test_a_foreign_key_of_a_partitioned_table_before_18() -> None:
    change = AddForeignKey("logs", "id", "org", "id")
    assert len(ddl(planned(change))) == 2
    texts = ddl(planned(change, major=17))
    assert [text.rpartition(" ")[2] for text in texts] == [
        "VALID",
        '"logs_id_fkey"',
        "VALID",
        '"logs_id_fkey"',
        '"public"."org"("id")',
    ]
    assert [text.split()[2] for text in texts[::2]] == ['"public"."logs_1"', '"public"."logs_2a"', '"public"."logs"']


def test_an_index_first_and_then_the_constraint() -> None:
    build, constraint = planned(AddUnique("users", "email", nulls_not_distinct=True, name="one")).steps()
    assert build.do == (
        'CREATE UNIQUE INDEX CONCURRENTLY "one" ON "public"."users" USING btree ("email") NULLS NOT DISTINCT',
    )
    assert constraint.do == ('ALTER TABLE "public"."users" ADD CONSTRAINT "one" UNIQUE USING INDEX "one"',)
    assert build.refused_by is not None
    assert "IS NOT NULL" not in build.refused_by
    assert "users_age_key" in "".join(ddl(planned(AddUnique("users", "age"))))


def test_a_deferrable_one_must_be_accepted() -> None:
    plan = planned(AddUnique("users", "age", initially="deferred"))
    assert "immediate_unique" in [gate.name for gate in plan.phase(Phase.CONTRACT).gates]
    assert [(hazard.id, hazard.accept) for hazard in plan.hazards] == [("C13", "immediate_unique")]
    assert ddl(plan)[-1].endswith('UNIQUE USING INDEX "users_age_key" DEFERRABLE INITIALLY DEFERRED')


def test_a_key_of_a_partitioned_table_is_attached_bottom_up() -> None:
    texts = ddl(planned(AddUnique("logs", ["at", "id"])))
    assert [text for text in texts if "ONLY" in text] == [
        f'ALTER TABLE ONLY "public"."{name}" ADD CONSTRAINT "{name}_at_id_key" UNIQUE ("at", "id")'
        for name in ("logs", "logs_2")
    ]
    assert [text.split()[2] for text in texts if "ATTACH" in text] == [
        '"public"."logs_2_at_id_key"', '"public"."logs_at_id_key"', '"public"."logs_at_id_key"',
    ]  # fmt: skip
    with pytest.raises(Unsafe, match="all columns of the partition keys"):
        planned(AddUnique("logs", "id"))


def test_a_primary_key_is_proven_not_null_first() -> None:
    bare = dataclasses.replace(USERS, indexes=(), constraints=())
    texts = ddl(planned(AddPrimaryKey("users", ["id", "age"]), tables=(bare,)))
    assert texts[0].endswith('ADD CONSTRAINT "users_age_not_null" NOT NULL "age" NOT VALID')
    assert "id_not_null" not in "".join(texts)
    assert texts[-1].endswith('ADD CONSTRAINT "users_pkey" PRIMARY KEY USING INDEX "users_pkey"')
    swapped = planned(DropConstraint("users", "users_pkey"), AddPrimaryKey("users", "id", name="key"))
    assert phases(swapped) == {Phase.CONTRACT}


def test_an_exclusion_is_open_for_tiny_tables_only() -> None:
    plan = planned(AddExclusion("users", [("org_id", "="), ("during", "&&")], where="age > 1"))
    (step,) = plan.steps()
    assert step.do[0].endswith(
        'ADD CONSTRAINT "users_org_id_during_excl" EXCLUDE USING "gist" ("org_id" WITH =, "during" WITH &&) WHERE (age > 1)'
    )
    (gate,) = [gate for gate in plan.phase(Phase.CONTRACT).gates if gate.name == "exclusion_scan"]
    assert gate.query is not None
    assert plan.hazards == ()
    large = dataclasses.replace(USERS, rows=1_000_000, bytes=1 << 30)
    plan = planned(AddExclusion("users", [("during", "&&")]), tables=(large,))
    assert [hazard.id for hazard in plan.hazards] == ["L11"]
    assert next(plan.steps()).refused_by is None, "comparing each with each would never end"


def test_a_foreign_key_to_what_the_migration_makes() -> None:
    plan = planned(AddUnique("users", "age"), AddForeignKey("org", "id", "users", "age"))
    assert phases(plan) == {Phase.CONTRACT}
    size = AddColumn("org", sa.Column("size", sa.Integer))
    plan = planned(size, AddUnique("users", "age"), AddForeignKey("org", "size", "users", "age", on_delete="set null"))
    assert all(step.phase is Phase.CONTRACT for step in plan.steps() if "FOREIGN KEY" in "".join(step.do))


def test_on_a_table_that_the_migration_makes_nothing_is_read() -> None:
    snapshot = schema.Snapshot(
        server_version=180000, role="app", may_suppress_triggers=False, tables=(ORG,),
        asked=tuple(("public", name) for name in ("org", "users_pkey", "users_age_key")),
    )  # fmt: skip
    scope = Scope(snapshot=snapshot, migration="0001", position=0, draft=Draft(snapshot))
    made = scope.draft.put(
        TableDraft(dataclasses.replace(USERS, constraints=(), indexes=()), 0, made_by=("CREATE TABLE users ()",))
    )
    reference = foreignkeys.ForeignKey(
        own=("org_id",), ref_schema="public", ref_table="org", ref_columns=("id",), on_delete="CASCADE"
    )
    parts = (
        constraints.Check(expression="age > 0").plan(scope, made),
        keys.PrimaryKey(key=("id",)).plan(scope, made),
        keys.Unique(key=("age",), deferrable=True).plan(scope, made),
        reference.plan(scope, made),
    )
    steps = [step for part in parts for step in part.steps]
    assert [(step.phase, step.mode, step.refused_by) for step in steps] == [(Phase.EXPAND, Mode.TRANSACTION, None)] * 4
    late = dataclasses.replace(reference, ref_table="users", ref_columns=("age",))
    with pytest.raises(Unsafe, match="no unique constraint"):
        late.plan(scope, made)


def test_a_constraint_is_dropped_when_n_is_gone() -> None:
    plan = planned(DropConstraint("users", "users_pkey"))
    (step,) = plan.steps()
    assert (step.phase, step.irreversible, step.takes_away) == (Phase.CONTRACT, True, True)
    assert plan.undoable_until is Phase.RETIRE
    assert plan.automatic_target is Phase.RETIRE
    assert [hazard.id for hazard in plan.hazards] == ["C17"]
    assert plan.touches == ("public.users: users_pkey",)


def test_a_constraint_is_renamed_when_n_is_gone() -> None:
    plan = planned(RenameConstraint("users", "users_pkey", "key"))
    (step,) = plan.steps()
    assert (step.phase, step.takes_away, step.renames) == (Phase.RETIRE, True, False)
    assert step.undo == ('ALTER TABLE "public"."users" RENAME CONSTRAINT "key" TO "users_pkey"',)
    assert plan.window.old_until is Phase.SWITCH_READS
    assert plan.touches == ("public.users: users_pkey", "public.users: key")


NOT_NULL = schema.Constraint(name="nn", kind="n", columns=("age",), definition="NOT NULL age")
INHERITED = schema.Constraint(name="i", kind="c", columns=("age",), definition="CHECK (true)", inherited=True)
LATE = schema.Constraint(name="late", kind="u", columns=("age",), definition="UNIQUE (age) DEFERRABLE", deferrable=True)
MORE = dataclasses.replace(
    USERS, constraints=(*USERS.constraints, NOT_NULL, INHERITED, LATE), indexes=(*USERS.indexes, key("late", "age")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((DropConstraint("users", "nope"),), "has no constraint 'nope'"),
        ((DropConstraint("users", "nn"),), "is the NOT NULL of age"),
        ((DropConstraint("users", "i"),), "is inherited"),
        ((RenameConstraint("users", "i", "j"),), "is inherited"),
        ((RenameConstraint("users", "late", "nn"),), "already has a constraint or index 'nn'"),
        ((DropConstraint("users", "late"), DropConstraint("users", "late")), "is dropped by the same migration"),
        ((RenameConstraint("users", "late", "x"), DropConstraint("users", "late")), "is renamed by the same migration"),
        ((AddCheck("users", "c", "age > 0"), DropConstraint("users", "c")), "is added by the same migration"),
        ((DropColumn("users", "age"), DropConstraint("users", "late")), "goes with the column age"),
        (
            (AddCheck("users", "c", "age > 0"), RenameColumn("users", "age", "years")),
            "put the change of the column first",
        ),
        ((AddCheck("users", "c", "age > 0"), DropColumn("users", "age")), "put the change of the column first"),
        (
            (AddCheck("users", "c", "age > 0"), ChangeType("users", "age", "bigint")),
            "put the change of the column first",
        ),
        (
            (AddCheck("users", "c", "age > 0"), AddCheck("users", "c", "age > 1")),
            "already has a constraint or index 'c'",
        ),
        ((AddPrimaryKey("users", "age"),), "has a primary key already"),
        ((DropConstraint("users", "users_pkey"), AddPrimaryKey("users", "id")), "give the new one a name of its own"),
        ((AddUnique("users", "nope"),), "there is no column 'nope'"),
        ((AddForeignKey("users", "org_id", "nope", "id"),), "there is no table public.nope"),
        ((AddForeignKey("users", "org_id", "org", "nope"),), "there is no column 'nope' in public.org"),
        ((AddForeignKey("org", "id", "users", "age"),), "no unique constraint on (age)"),
        ((AddForeignKey("org", "id", "users", ["email"]),), "no unique constraint on (email)"),
        (
            (DropConstraint("users", "users_pkey"), AddForeignKey("org", "id", "users", "id")),
            "no unique constraint on (id)",
        ),
        ((AddExclusion("logs", [("at", "&&")]),), "is partitioned"),
    ],
)
def test_what_does_not_fit_is_refused(changes: tuple[Change, ...], message: str) -> None:
    with pytest.raises(ZdmigrateError) as refused:
        planned(*changes, tables=(MORE, ORG, PARTED))
    assert message in f"{refused.value.message} {refused.value.hint}"


def test_tables_of_others() -> None:
    with pytest.raises(Unsafe, match="may not make foreign keys"):
        planned(
            AddForeignKey("users", "org_id", "org", "id"), tables=(USERS, dataclasses.replace(ORG, may_reference=False))
        )
    others = dataclasses.replace(ORG, owned=False)
    assert len(ddl(planned(AddForeignKey("users", "org_id", "org", "id"), tables=(USERS, others)))) == 2
    with pytest.raises(Unsafe, match="is not a table"):
        planned(AddForeignKey("users", "org_id", "org", "id"), tables=(USERS, dataclasses.replace(ORG, kind="v")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddCheck("t"), "expression is missing"),
        (lambda: AddCheck("t", expression="a > 0; DROP TABLE t"), "without SELECT or ';'"),
        (lambda: AddCheck("t", "x" * 64, "a > 0"), "longer than 63 bytes"),
        (lambda: AddUnique("t", []), "must be a name or a list of names"),
        (lambda: AddUnique("t", ["a", "a"]), "has 'a' twice"),
        (lambda: AddUnique("t", "a", deferrable=False, initially="deferred"), "needs deferrable=True"),
        (lambda: AddUnique("t", "a", initially="later"), "initially must be"),
        (lambda: AddForeignKey("t", ["a", "b"], "r", "c"), "2 columns cannot point to 1"),
        (lambda: AddForeignKey("t", "a", "r", "c", on_delete="explode"), "on_delete must be one of no action"),
        (lambda: AddForeignKey("t", "a", "r", "c", match="partial"), "match must be one of"),
        (lambda: AddExclusion("t", []), "must be a list of (column, operator)"),
        (lambda: AddExclusion("t", [("a", "= ) --")]), "is not an operator"),
        (lambda: AddExclusion("t", [("(a + 1)", "=")]), "it needs a name"),
        (lambda: DropConstraint("t", ""), "name must be a name"),
        (lambda: RenameConstraint("t", "a", "a"), "has that name already"),
    ],
)
def test_what_is_wrong_in_itself(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        make()
    assert message in refused.value.message


def test_a_change_is_described_by_its_arguments() -> None:
    assert AddForeignKey("t", "a", "r", "c", on_delete="set  null").describe() == {
        "change": "AddForeignKey", "table": "t", "name": None, "schema": "public", "columns": ("a",), "ref_table": "r",
        "ref_columns": ("c",), "ref_schema": "public", "on_delete": "SET NULL", "on_update": "NO ACTION", "match": "SIMPLE",
        "deferrable": False, "deferred": False,
    }  # fmt: skip
    assert AddUnique("t", "a").describe() == AddUnique("t", ["a"], deferrable=False).describe()
