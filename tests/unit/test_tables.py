"""CreateTable, DropTable and RenameTable: what they are made of, and their plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from zdmigrate import AddColumn, CreateTable, DropTable, RenameTable, schema
from zdmigrate.changes.base import Change
from zdmigrate.changes.table_ddl import TableDDL
from zdmigrate.demands import ShadowReads
from zdmigrate.engine import planned as planning
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Plan
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


def table(name: str = "users", *more: str, **facts: Any) -> schema.Table:
    values: dict[str, Any] = {
        "schema": "public", "name": name, "oid": 1, "kind": "r", "owner": "app", "owned": True, "rows": 10, "bytes": 8192,
        "columns": tuple(schema.Column(name=n, number=i, type="text") for i, n in enumerate(("id", "email", *more), 1)),
    }  # fmt: skip
    return schema.Table(**{**values, **facts})


def planned(*changes: Change, at: tuple[schema.Table, ...] = (table(),), major: int = 17, **answers: Any) -> Plan:
    """The plan on a server that has the tables, no types, and makes of each CREATE TABLE what it says."""
    snapshot = schema.Snapshot(
        server_version=major * 10000, role="app", may_suppress_triggers=False, tables=at,
        asked=tuple((t.schema, t.name) for t in at), **answers,
    )  # fmt: skip
    named = Named(changes)
    while asked := planner.questions(named, snapshot):
        types = [
            schema.TypeFacts(text=q.type, canonical=None if q.type[0] == '"' else "text", error="unknown")
            for q in asked
            if q.type
        ]
        creations = [
            schema.Creation(schema=q.schema, table=q.table, statements=q.given, made=table(q.table, schema=q.schema))
            for q in asked
            if q.given and q.expression is None and q.trial is None
        ]
        expressions = [
            schema.ExpressionFacts(schema=q.schema, table=q.table, expression=q.expression)
            for q in asked
            if q.expression
        ]
        snapshot = dataclasses.replace(
            snapshot,
            types=(*snapshot.types, *types),
            creations=(*snapshot.creations, *creations),
            expressions=(*snapshot.expressions, *expressions),
            asked=(*snapshot.asked, *((q.schema, q.table) for q in asked if q.table and not q.given)),
        )
    return planner.plan(named, snapshot)


def gates(plan: Plan, phase: Phase, direction: Direction = Direction.FORWARD) -> list[str]:
    return sorted(gate.name for gate in plan.phase(phase).gates if gate.direction is direction)


def ddl(*items: Any, **options: Any) -> TableDDL:
    return CreateTable("t", *items, **options).table


# -- CreateTable -------------------------------------------------------------------------------------------------------


def test_the_statements_are_one_line_whatever_the_whitespace() -> None:
    made = ddl(
        sa.Column("id", sa.Integer, primary_key=True), sa.CheckConstraint("id > 0 -- of course\n AND\n  id < 10 % 9")
    )
    assert made.statements == (
        "CREATE TABLE public.t ( id SERIAL NOT NULL, PRIMARY KEY (id), CHECK (id > 0 AND id < 10 % 9) )",
    )
    assert made == ddl(sa.Column("id", sa.Integer, primary_key=True), sa.CheckConstraint("id > 0 AND id < 10 % 9"))


def test_strings_keep_their_backslashes_percent_signs_and_spaces() -> None:
    made = ddl(sa.Column("a", sa.Text, server_default="50 %  of \\ it's\nmine"), comment="c:\\new")
    assert "DEFAULT '50 %  of \\ it''s\nmine'" in made.statements[0]
    assert made.statements[1] == """COMMENT ON TABLE "public"."t" IS E'c:\\\\new'"""


def test_what_names_no_schema_is_in_the_given_one() -> None:
    metadata = sa.MetaData(schema="shop")
    own = sa.Table(
        "t", metadata, sa.Column("id", sa.Integer, sa.ForeignKey("shop.u.id")), sa.Column("n", sa.Text, index=True)
    )
    made = CreateTable(own).table
    assert (made.schema, made.foreign_keys[0].target) == ("shop", ("shop", "u"))
    assert made.statements[1] == "CREATE INDEX ix_shop_t_n ON shop.t (n)", "as create_all would call it"
    plain = ddl(
        sa.Column("id", sa.Integer, sa.ForeignKey("u.id")), sa.Column("k", sa.Enum("x", name="kind")), schema="S"
    )
    assert (plain.schema, plain.foreign_keys[0].target, plain.enums[0].schema) == ("S", ("S", "u"), "S")
    assert plain.statements == ('CREATE TABLE "S".t ( id INTEGER, k "S".kind )',)
    with pytest.raises(UsageError, match="schema="):
        CreateTable(own, schema="other")
    assert CreateTable(own, schema="shop").table == made


def test_a_table_of_somebody_else_is_not_changed() -> None:
    metadata = sa.MetaData()
    own = sa.Table("t", metadata, sa.Column("id", sa.Integer, sa.ForeignKey("nobody.id")))
    assert CreateTable(own).table.foreign_keys[0].name == "t_id_fkey"
    assert list(metadata.tables) == ["t"]
    assert [key.name for key in own.foreign_key_constraints] == [None]
    assert CreateTable(own).describe() == CreateTable(own).describe()


def test_foreign_keys_are_named_as_the_server_would_name_them() -> None:
    made = ddl(
        sa.Column("a", sa.Integer), sa.Column("b", sa.Integer),
        sa.ForeignKeyConstraint(["a"], ["u.id"]), sa.ForeignKeyConstraint(["a"], ["v.id"]),
        sa.ForeignKeyConstraint(["a", "b"], ["w.x", "w.y"], ondelete='SET NULL (a, "b")', deferrable=True, initially="DEFERRED"),
        sa.ForeignKeyConstraint(["b"], ["t.a"], name="My Own", match="FULL", onupdate="CASCADE"),
    )  # fmt: skip
    assert sorted(key.name for key in made.foreign_keys) == ["My Own", "t_a_b_fkey", "t_a_fkey", "t_a_fkey1"]
    (composite,) = (key for key in made.foreign_keys if key.name == "t_a_b_fkey")
    assert composite.add.endswith(
        'REFERENCES "public"."w" ("x", "y") ON DELETE SET NULL (a, "b") DEFERRABLE INITIALLY DEFERRED'
    )
    assert {key.name for key in made.foreign_keys if not key.keeps} == {"t_a_b_fkey"}
    convention = sa.MetaData(naming_convention={"fk": "fk_%(table_name)s_%(column_0_name)s"})
    named = sa.Table("t", convention, sa.Column("a", sa.Integer, sa.ForeignKey("u.id")))
    assert CreateTable(named).table.foreign_keys[0].name == "fk_t_a"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CreateTable("t"), "no columns"),
        (lambda: CreateTable("", sa.Column("a", sa.Text)), "must be a name"),
        (lambda: CreateTable(3, sa.Column("a", sa.Text)), "must be a name"),  # type: ignore[arg-type]
        (lambda: CreateTable("t", "a"), "not of str"),  # type: ignore[arg-type]
        (lambda: CreateTable("t", sa.Column("a")), "column a without a type"),
        (lambda: CreateTable("t", sa.Column("a", sa.ForeignKey("u.id"))), "column a without a type"),
        (lambda: CreateTable("t", sa.Column("a", sa.Integer, sa.Sequence("s"))), "the sequence s"),
        (lambda: CreateTable("t", sa.Column("a", sa.Enum("x"))), "has no name"),
        (lambda: CreateTable("t", sa.Column("a", postgresql.DOMAIN("d", sa.Text))), "the domain d"),
        (lambda: CreateTable("t" * 64, sa.Column("a", sa.Text)), "longer than 63 bytes"),
        (
            lambda: CreateTable("t", sa.Column("a", sa.Text), sa.Index("i", "a", postgresql_concurrently=True)),
            "the index i with postgresql_concurrently",
        ),
        (
            lambda: CreateTable(sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text), prefixes=["TEMPORARY"])),
            "the prefix TEMPORARY",
        ),
        (
            lambda: CreateTable(sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text), postgresql_inherits="u")),
            "inheritance is not supported",
        ),
        (
            lambda: CreateTable(sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text)), sa.Column("b", sa.Text)),
            "has its own columns",
        ),
        (
            lambda: CreateTable("t", sa.Column("a", sa.Text, sa.ForeignKey("u.id", ondelete="CASCADE; DROP TABLE u"))),
            "cannot follow ON DELETE",
        ),
        (lambda: CreateTable("t", sa.Column("a", sa.Text), sa.Column("a", sa.Text)), "already"),
        (lambda: DropTable(""), "must be a name"),
        (lambda: RenameTable("a", "a"), "has that name already"),
        (lambda: RenameTable("a", "b", writes="both"), 'must be "upsert" or "copy"'),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_in_itself(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        make()
    assert message in raised.value.message


def test_a_new_table_passes_all_phases_at_once() -> None:
    plan = planned(CreateTable("invoices", sa.Column("id", sa.Integer)))
    assert [part.phase for part in plan.phases] == [Phase.EXPAND]
    assert plan.automatic_target is Phase.CONTRACT
    assert gates(plan, Phase.EXPAND) == []
    assert gates(plan, Phase.EXPAND, Direction.BACKWARD) == ["drained"]
    assert plan.hazards == ()
    assert plan.touches == ("public.invoices",)


def test_a_type_is_made_once_and_goes_last() -> None:
    kind = sa.Enum("a", "b", name="kind")
    plan = planned(CreateTable("x", sa.Column("k", kind)), CreateTable("y", sa.Column("k", kind)))
    first, second = plan.phase(Phase.EXPAND).steps
    assert first.do[0] == """CREATE TYPE "public"."kind" AS ENUM ('a', 'b')"""
    assert first.undo == ('DROP TABLE "public"."x"', 'DROP TYPE "public"."kind"')
    assert "CREATE TYPE" not in "".join(second.do)
    there = schema.TypeFacts(text='"public"."kind"', canonical="kind", labels=("a", "b"))
    kept = planned(CreateTable("x", sa.Column("k", kind)), types=(there,))
    assert "TYPE" not in "".join([*kept.phase(Phase.EXPAND).steps[0].do, *kept.phase(Phase.EXPAND).steps[0].undo])


def test_a_foreign_key_that_would_refuse_the_deletes_of_version_n_is_announced() -> None:
    key = schema.Index(
        name="i", unique=True, primary=True, valid=True, columns=("id",), keys=("id",), tail="btree (id)"
    )
    users = table(indexes=(key,))
    column = sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"))
    plan = planned(CreateTable("x", column), at=(users,))
    assert [(h.id, h.accept) for h in plan.hazards] == [("C15", None)]
    assert plan.reads == ("public.users",)
    cascading = sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="cascade"))
    assert planned(CreateTable("x", cascading), at=(users,)).hazards == ()


def test_changes_that_follow_see_the_new_table() -> None:
    plan = planned(CreateTable("x", sa.Column("id", sa.Text)), AddColumn("x", sa.Column("note", sa.Text)))
    first, second = plan.phase(Phase.EXPAND).steps
    assert first.makes_table
    assert second.do == ('ALTER TABLE "public"."x" ADD COLUMN "note" TEXT',)


# -- DropTable ---------------------------------------------------------------------------------------------------------


def test_a_drop_is_predicted() -> None:
    keys = (
        schema.Constraint(name="up", kind="f", columns=("id",), definition="", references=("public", "users")),
        schema.Constraint(name="out", kind="f", columns=("id",), definition="", references=("other", "orgs")),
    )
    plan = planned(DropTable("users"), at=(table(constraints=keys),))
    assert (plan.window.old_until, plan.window.new_from) == (Phase.SWITCH_READS, Phase.NONE)
    assert gates(plan, Phase.RETIRE) == ["drained", "soak"]
    assert gates(plan, Phase.CONTRACT) == ["retire_soak"]
    assert plan.automatic_target is Phase.RETIRE
    first, second = plan.phase(Phase.CONTRACT).steps
    assert [lock.table for lock in first.locks][1:] == ["other.orgs"]
    assert first.refused_by
    assert second.do[0].startswith('DROP TABLE "public"."zd_old_')
    assert "CASCADE" not in plan.to_sql()


def test_foreign_keys_of_a_table_that_is_dropped_before_do_not_count() -> None:
    child = table("orders")
    users = table(reliant=(schema.Reliant(identity="key of orders", constraint=("public", "orders", "key")),))
    planned(DropTable("orders"), DropTable("users"), at=(child, users))
    with pytest.raises(Unsafe, match="key of orders"):
        planned(DropTable("users"), DropTable("orders"), at=(child, users))


# -- RenameTable -------------------------------------------------------------------------------------------------------


def test_a_rename_is_predicted() -> None:
    plan = planned(RenameTable("users", "people"))
    assert (plan.window.old_until, plan.window.new_from) == (Phase.RETIRE, Phase.EXPAND)
    assert gates(plan, Phase.EXPAND) == ["view_limits"]
    assert gates(plan, Phase.SWITCH_READS) == ["view_limits"]
    assert gates(plan, Phase.CONTRACT) == ["drained", "retire_soak"]
    assert gates(plan, Phase.EXPAND, Direction.BACKWARD) == ["drained"]
    assert plan.undoable_until is plan.automatic_target is Phase.CONTRACT
    assert plan.touches == ("public.users", "public.people")
    assert [estimate.table for estimate in plan.estimates] == ["public.users"]
    assert not any(step.renames for step in plan.steps()), "no column gets another name"


@pytest.mark.parametrize(("major", "said"), [(16, True), (17, False)])
def test_merge_is_among_the_limits_where_it_is_one(major: int, *, said: bool) -> None:
    assert ("MERGE" in planned(RenameTable("users", "people"), major=major).hazards[0].message) is said


def test_the_view_of_a_table_with_rights_and_another_owner() -> None:
    column = schema.Column(
        name="a b",
        number=1,
        type="text",
        default="'x'::text",
        grants=(schema.Grant(grantee="c d", privilege="UPDATE"),),
    )
    grants = (schema.Grant(grantee=None, privilege="SELECT", grantable=True),)
    users = table(columns=(column,), grants=grants, owner="O x")
    for writes, more in (("upsert", 0), ("copy", 3)):
        plan = planned(RenameTable("users", 'pe"ople', writes=writes), at=(users,))  # type: ignore[arg-type]
        (step,) = plan.phase(Phase.EXPAND).steps
        assert step.do[:4] == (
            'CREATE VIEW "public"."pe""ople" WITH (security_invoker = true) AS SELECT "a b" FROM "public"."users"',
            'ALTER VIEW "public"."pe""ople" OWNER TO "O x"',
            'GRANT SELECT ON "public"."pe""ople" TO PUBLIC WITH GRANT OPTION',
            'GRANT UPDATE ("a b") ON "public"."pe""ople" TO "c d"',
        )
        assert len(step.do) == 4 + more
        assert "c d that rely on privileges on single columns" in plan.hazards[0].message


# -- Two migrations ----------------------------------------------------------------------------------------------------


class Other:
    """Another migration's record, as far as conflicts go."""

    def __init__(self, *touches: str, reads: tuple[str, ...] = ()) -> None:
        self.key, self.id, self.phase, self.touches = 2, "0002", Phase.EXPAND, touches
        self.plan = dataclasses.replace(planned(RenameTable("users", "people")), reads=reads)


@pytest.mark.parametrize(
    ("touches", "reads", "other", "conflict"),
    [
        (["public.users"], [], Other("public.users.email"), True),
        (["public.users.email"], [], Other("public.users"), True),
        (["public.users"], [], Other("public.users: users_pkey"), True),
        (["public.users"], [], Other(reads=("public.users.email",)), True),
        (["public.users"], [], Other(reads=("public.users",)), True),
        ([], ["public.users"], Other("public.users"), True),
        ([], ["public.users"], Other("public.users.email"), False),
        (["public.users"], [], Other("public.users_old.email"), False),
        (["public.users.a"], [], Other("public.users.b", "public.users: i"), False),
        (["public.invoices"], ["public.users"], Other("public.orders", reads=("public.users",)), False),
    ],
)
def test_a_whole_table_is_all_that_it_has(touches: list[str], reads: list[str], other: Any, *, conflict: bool) -> None:
    def refuse() -> None:
        planning.refuse_conflicts("0001", touches, reads, 1, [other])

    if not conflict:
        refuse()
        return
    with pytest.raises(Unsafe, match="0002, which is in flight"):
        refuse()
