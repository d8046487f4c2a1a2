"""Plans of indexes and replica identities: phases, windows, locks, names, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from zdmigrate import (
    AddColumn,
    AddUnique,
    ChangeType,
    CreateIndex,
    DropColumn,
    DropIndex,
    Key,
    Reindex,
    RenameColumn,
    RenameIndex,
    ReplaceIndex,
    SetReplicaIdentity,
    schema,
)
from zdmigrate.changes.base import Change
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan, Step
from zdmigrate.planning import planner
from zdmigrate.planning.parts import Target
from zdmigrate.sqltext import index_tail


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


def index(name: str, *keys: str, **facts: Any) -> schema.Index:
    values: dict[str, Any] = {
        "name": name, "unique": False, "primary": False, "valid": True, "columns": keys, "keys": keys,
        "tail": f"btree ({', '.join(keys)})", "oids": (7,),
    }  # fmt: skip
    return schema.Index(**{**values, **facts})


PKEY = index("t_pkey", "id", unique=True, primary=True, constraint="t_pkey")
A, B_UNIQUE = index("t_a", "a", comment="c"), index("t_b", "b", unique=True)


def table(*indexes: schema.Index, **facts: Any) -> schema.Table:
    values: dict[str, Any] = {
        "schema": "public", "name": "t", "oid": 1, "kind": "r", "owner": "app", "owned": True, "rows": 10, "bytes": 8192,
        "columns": (column("id", not_null=True), column("a"), column("b", not_null=True)),
        "indexes": indexes or (PKEY, A, B_UNIQUE),
    }  # fmt: skip
    return schema.Table(**{**values, **facts})


PARTED = table(
    dataclasses.replace(A, partition_names=(("public.p1", "p1_a_idx"), ("other.p2", "p2_a_idx"), ("other.p2x", "x"))),
    kind="p", partition_columns=("id",),
    partitions=(
        schema.Leaf(schema="public", name="p1", parent_schema="public", parent_name="t"),
        schema.Leaf(schema="other", name="p2", parent_schema="public", parent_name="t", partitioned=True),
        schema.Leaf(schema="other", name="p2x", parent_schema="other", parent_name="p2"),
    ),
)  # fmt: skip


def planned(*changes: Change, at: schema.Table | None = None, taken: tuple[str, ...] = ()) -> Plan:
    """The plan, with a server that accepts every expression and prints every index as it was given."""
    others = tuple(table(name=name, kind="S", columns=(), indexes=(PKEY,)) for name in taken)
    snapshot = schema.Snapshot(
        server_version=180000, role="app", may_suppress_triggers=True, tables=(at or table(), *others),
        asked=(("public", "t"),),
    )  # fmt: skip
    named = Named("0001", changes)
    while asked := planner.questions(named, snapshot):
        snapshot = dataclasses.replace(
            snapshot,
            types=(*snapshot.types, *(schema.TypeFacts(text=q.type, canonical="text") for q in asked if q.type)),
            trials=(*snapshot.trials, *(tried(q) for q in asked if q.trial)),
            asked=(*snapshot.asked, *((q.schema, q.table) for q in asked)),
        )
    return planner.plan(named, snapshot)


def tried(question: schema.Question) -> schema.Trial:
    text = question.trial or ""
    known = schema.Trial(schema=question.schema, table=question.table, statement=text)
    if " INDEX " not in text:
        return known
    return dataclasses.replace(known, definition=text, columns=tuple(index_tail(text).replace('"', "").split("(")[1:2]))


def statements(plan: Plan, phase: Phase) -> list[str]:
    return [text for step in plan.phase(phase).steps for text in step.do]


def step(plan: Plan, phase: Phase) -> Step:
    (found,) = plan.phase(phase).steps
    return found


def gates(plan: Plan, phase: Phase) -> list[str]:
    return [gate.name for gate in plan.phase(phase).gates]


def test_an_index_is_built_with_the_data_and_passes_all_phases_in_one_call() -> None:
    plan = planned(CreateIndex("t", "i", "a", Key.sql("lower(b)", order="desc", nulls="last"), where="a <> ''"))
    assert statements(plan, Phase.BACKFILL) == [
        'CREATE INDEX CONCURRENTLY "i" ON "public"."t" USING "btree" ("a", (lower(b)) DESC NULLS LAST) WHERE a <> \'\''
    ]
    found = step(plan, Phase.BACKFILL)
    assert (found.mode, found.scans, found.undo_mode) == (Mode.AUTOCOMMIT, True, Mode.AUTOCOMMIT)
    assert found.undo == found.repair == ('DROP INDEX CONCURRENTLY IF EXISTS "public"."i"',)
    assert [lock.mode.blocks for lock in found.locks] == ["nothing"]
    assert (plan.window.old_until, plan.window.new_from) == (Phase.CONTRACT, Phase.NONE)
    assert plan.automatic_target is Phase.CONTRACT
    assert not any(part.gates for part in plan.phases)
    assert plan.hazards == ()


def test_a_unique_index_waits_until_version_n_is_gone() -> None:
    plan = planned(CreateIndex("t", "i", "a", unique=True))
    assert "GROUP BY" in (step(plan, Phase.CONTRACT).refused_by or "")
    assert gates(plan, Phase.CONTRACT) == ["drained"]
    assert [hazard.id for hazard in plan.hazards] == ["C13"]
    assert plan.window.old_until is Phase.RETIRE
    assert plan.undoable_until is Phase.CONTRACT


def test_a_unique_index_on_columns_that_n_does_not_know_need_not_wait() -> None:
    plan = planned(AddColumn("t", sa.Column("z", sa.Text)), CreateIndex("t", "i", "z", unique=True))
    assert any("UNIQUE INDEX" in text for text in statements(plan, Phase.BACKFILL))
    assert plan.phase(Phase.CONTRACT).steps == ()


def test_a_replaced_column_is_indexed_beside_the_old_one_and_a_renamed_one_itself() -> None:
    plan = planned(RenameColumn("t", "a", "z"), CreateIndex("t", "i", "z"), CreateIndex("t", "u", "z", unique=True))
    assert 'CREATE INDEX CONCURRENTLY "i" ON "public"."t" USING "btree" ("a")' in statements(plan, Phase.BACKFILL)
    assert 'CREATE UNIQUE INDEX CONCURRENTLY "u" ON "public"."t" USING "btree" ("z")' in statements(
        plan, Phase.CONTRACT
    )


def test_a_partitioned_index_is_declared_built_attached_and_looked_after() -> None:
    plan = planned(CreateIndex("t", "i", "a", comment="c"), at=PARTED)
    kinds = [found.id.split(".")[2] for found in plan.phase(Phase.BACKFILL).steps]
    assert kinds == ["declare", "declare", "index", "index", "attach", "attach", "attach", "complete", "index_comment"]
    made = statements(plan, Phase.BACKFILL)
    assert made[1] == 'CREATE INDEX "p2_a)_idx" ON ONLY "other"."p2" USING "btree" ("a")'
    assert made[4] == 'ALTER INDEX "other"."p2_a)_idx" ATTACH PARTITION "other"."p2x_a)_idx"'


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        (CreateIndex("t", "i", "a"), "public.t: i"),
        (CreateIndex("t", None, "a", where="b > ''"), "public.t: index (a) where b > ''"),
        (DropIndex("t_a", table="t"), "public.t: t_a"),
        (RenameIndex("t_a", "z", table="t"), "public.t: z"),
        (SetReplicaIdentity("t", "full"), "public.t: replica identity"),
    ],
)
def test_what_is_claimed_is_no_more_than_the_index(change: Change, touched: str) -> None:
    plan = planned(change)
    assert touched in plan.touches
    assert "public.t" not in plan.touches


def test_targets_overlap_only_where_it_is_the_same_thing() -> None:
    whole, item = Target("public", "t"), Target("public", "t", item="i")
    assert whole.overlaps(item)
    assert item.overlaps(item)
    assert not item.overlaps(Target("public", "t", item="j"))
    assert not item.overlaps(Target("public", "t", "i"))


def test_an_index_reads_its_columns() -> None:
    plan = planned(CreateIndex("t", "i", Key.sql("lower(a)"), include=["b"], where="id > 0"))
    assert sorted(plan.reads) == ["public.t.a", "public.t.b", "public.t.id"]


def test_a_dropped_index_can_be_built_again() -> None:
    plan = planned(DropIndex("t_a", table="t"))
    found = step(plan, Phase.CONTRACT)
    assert found.do == ('DROP INDEX CONCURRENTLY IF EXISTS "public"."t_a"',)
    assert found.undo == (
        'DROP INDEX CONCURRENTLY IF EXISTS "public"."t_a"',
        'CREATE INDEX CONCURRENTLY "t_a" ON "public"."t" USING btree (a)',
        'COMMENT ON INDEX "public"."t_a" IS \'c\'',
    )
    assert gates(plan, Phase.CONTRACT) == ["retire_soak", "drained"]
    assert plan.hazards == ()
    unique = planned(DropIndex("t_b", table="t"))
    assert [hazard.id for hazard in unique.hazards] == ["C17"]
    assert step(unique, Phase.CONTRACT).undo_blocked


def test_an_index_that_was_never_finished_is_not_built_again() -> None:
    plan = planned(DropIndex("t_a", table="t"), at=table(dataclasses.replace(A, valid=False)))
    assert step(plan, Phase.CONTRACT).undo == ()


def test_a_renamed_index_changes_no_names_of_columns() -> None:
    found = step(planned(RenameIndex("t_a", 'New "x"', table="t")), Phase.EXPAND)
    assert found.do == ('ALTER INDEX "public"."t_a" RENAME TO "New ""x"""',)
    assert not found.renames


def test_a_replaced_index_is_never_missed() -> None:
    plan = planned(ReplaceIndex("t_a", "a", "b", table="t"))
    build, comment = statements(plan, Phase.BACKFILL)
    assert build.startswith('CREATE INDEX CONCURRENTLY "zd_ix_')
    assert comment.endswith("IS 'c'")
    away, takes, drop = statements(plan, Phase.CONTRACT)
    assert away.startswith('ALTER INDEX "public"."t_a" RENAME TO "zd_old_')
    assert takes.endswith('RENAME TO "t_a"')
    assert drop.startswith('DROP INDEX CONCURRENTLY IF EXISTS "public"."zd_old_')


def test_all_indexes_are_built_anew_but_those_that_cannot() -> None:
    excluding = index("t_excl", "a", constraint="t_excl", tail="gist (a)")
    k = schema.Constraint(name="t_excl", kind="x", columns=("a",), definition="EXCLUDE …")
    broken = index("broken", "a", valid=False)
    plan = planned(Reindex(table="t"), at=table(PKEY, A, excluding, broken, constraints=(k,)))
    made = [text for text in statements(plan, Phase.BACKFILL) if text.startswith("REINDEX")]
    assert made == [f'REINDEX INDEX CONCURRENTLY "public"."{name}"' for name in ("t_pkey", "t_a")]
    assert plan.automatic_target is Phase.CONTRACT


def test_partitions_are_built_anew_one_by_one() -> None:
    made = [t for t in statements(planned(Reindex("t_a", table="t"), at=PARTED), Phase.BACKFILL) if "REINDEX" in t]
    assert made == ['REINDEX INDEX CONCURRENTLY "public"."p1_a_idx"', 'REINDEX INDEX CONCURRENTLY "other"."x"']


def test_a_replica_identity_goes_back_to_what_it_was() -> None:
    was = dataclasses.replace(B_UNIQUE, replica_identity=True)
    plan = planned(SetReplicaIdentity("t", "full"), at=table(PKEY, was, replica_identity="i"))
    found = step(plan, Phase.EXPAND)
    assert found.do == ('ALTER TABLE "public"."t" REPLICA IDENTITY FULL',)
    assert found.undo == ('ALTER TABLE "public"."t" REPLICA IDENTITY USING INDEX "t_b"',)
    assert gates(plan, Phase.EXPAND) == ["publication"]
    assert [hazard.id for hazard in plan.hazards] == ["C28"]


KEYED = dataclasses.replace(A, constraint="t_a", unique=True)
RESTED = dataclasses.replace(B_UNIQUE, references=("public.other: other_fkey",))
SPLIT = dataclasses.replace(PARTED.partitions[0], foreign=True)


@pytest.mark.parametrize(
    ("change", "at", "message"),
    [
        (CreateIndex("t", "i", "z"), table(), "there is no column 'z'"),
        (CreateIndex("t", "t_a", "b"), table(), "already has an index t_a"),
        (CreateIndex("t", "t_a", "b"), table(dataclasses.replace(A, valid=False)), "never finished"),
        (CreateIndex("t", "taken", "b"), table(), "the name public.taken is taken"),
        (CreateIndex("t", None, "a"), table(dataclasses.replace(A, tail='"btree" (a)')), "already has this index: t_a"),
        (CreateIndex("t", "i", "a", unique=True), PARTED, "partition key's columns among its keys: id"),
        (CreateIndex("t", "i", "a"), table(may_create=False), "may not create indexes"),
        (CreateIndex("t", "i", "a"), dataclasses.replace(PARTED, partitions=(SPLIT,)), "public.p1 cannot have indexes"),
        (DropIndex("nope", table="t"), table(), "has no index 'nope'"),
        (DropIndex("t_pkey", table="t"), table(), "belongs to the primary key"),
        (DropIndex("t_a", table="t"), table(KEYED), "belongs to the constraint t_a"),
        (DropIndex("t_b", table="t"), table(RESTED), "foreign keys rest on it: public.other: other_fkey"),
        (DropIndex("t_b", table="t"), table(dataclasses.replace(B_UNIQUE, replica_identity=True)), "replica identity"),
        (RenameIndex("t_a", "z", table="t"), table(KEYED), "belongs to the constraint t_a"),
        (RenameIndex("t_a", "taken", table="t"), table(), "the name public.taken is taken"),
        (ReplaceIndex("t_a", "a", table="t"), table(dataclasses.replace(A, tail='"btree" (a)')), "this definition already"),
        (ReplaceIndex("t_b", "a", table="t"), table(RESTED), "cannot be replaced: foreign keys"),
        (ReplaceIndex("t_a", "a", table="t", unique=True), PARTED, "partition key's columns"),
        (Reindex("nope", table="t"), table(), "has no index 'nope'"),
        (SetReplicaIdentity("t", "default"), table(), "has this replica identity already"),
        (SetReplicaIdentity("t", index="t_a"), table(), "is not unique and has keys that may be NULL: a"),
        (SetReplicaIdentity("t", index="x"), table(index("x", "b", unique=True, predicate="b > ''")), "is partial"),
        (SetReplicaIdentity("t", index="x"), table(index("x", "lower(b)", unique=True)), "has expressions"),
        (SetReplicaIdentity("t", index="nope"), table(), "has no index 'nope'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_catalog_is_refused_with_a_remedy(change: Change, at: schema.Table, message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(change, at=at, taken=("taken",))
    assert refused.value.hint


def test_an_exclusion_constraints_index_and_a_deferrable_one() -> None:
    gist = index("x", "b", constraint="x", unique=True)
    excluding = schema.Constraint(name="x", kind="x", columns=("b",), definition="EXCLUDE …")
    with pytest.raises(Unsafe, match="belongs to an exclusion constraint"):
        planned(Reindex("x", table="t"), at=table(gist, constraints=(excluding,)))
    late = schema.Constraint(name="x", kind="u", columns=("b",), definition="UNIQUE (b) DEFERRABLE", deferrable=True)
    with pytest.raises(Unsafe, match="belongs to a deferrable constraint"):
        planned(SetReplicaIdentity("t", index="x"), at=table(gist, constraints=(late,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((CreateIndex("t", "i", "a"), CreateIndex("t", "i", "b")), "index i is made by change 1"),
        ((DropIndex("t_a", table="t"), CreateIndex("t", "t_a", "b")), "its name is free only when"),
        ((DropIndex("t_a", table="t"), RenameIndex("t_a", "z", table="t")), "already dropped by change 1"),
        ((RenameIndex("t_a", "z", table="t"), ReplaceIndex("t_a", "b", table="t")), "is already renamed by change 1"),
        ((CreateIndex("t", "i", "a"), RenameColumn("t", "a", "z")), "a is renamed after the index i was declared"),
        ((CreateIndex("t", "i", "a"), DropColumn("t", "a")), "a is dropped after the index i was declared"),
        ((DropColumn("t", "a"), DropIndex("t_a", table="t")), "index public.t_a is already dropped"),
        ((DropColumn("t", "a"), CreateIndex("t", "i", "a")), "was dropped by the same migration"),
        ((CreateIndex("t", "i", "a"), AddUnique("t", ["a"], name="i")), "already has a constraint or index 'i'"),
        ((AddUnique("t", ["a"], name="i"), CreateIndex("t", "i", "a")), "gets a constraint 'i'"),
        ((SetReplicaIdentity("t", "full"), SetReplicaIdentity("t", "nothing")), "replica identity of public.t is already"),
        ((SetReplicaIdentity("t", index="t_b"), DropIndex("t_b", table="t")), "is already the replica identity"),
    ],
)  # fmt: skip
def test_contradictions_within_a_migration_are_refused(changes: tuple[Change, ...], message: str) -> None:
    with pytest.raises(Unsafe, match=message) as refused:
        planned(*changes)
    assert refused.value.hint


def test_a_column_that_is_replaced_takes_its_indexes_along() -> None:
    changed = ChangeType("t", "a", "integer", up="a::integer", down="a::text")
    with pytest.raises(Unsafe, match=r"index public\.t_a is already"):
        planned(DropIndex("t_a", table="t"), changed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CreateIndex("t", "i"), "at least one key"),
        (lambda: CreateIndex("t", "é" * 32, "a"), "longer than 63 bytes"),
        (lambda: CreateIndex("t", "i", 3), "a column's name or a Key"),  # type: ignore[arg-type]
        (lambda: CreateIndex("t", "i", "a", include="b"), "must be a list of columns"),
        (lambda: CreateIndex("t", "i", "a", where="a = (SELECT 1)"), "without SELECT"),
        (lambda: CreateIndex("t", "i", "a", nulls_not_distinct=True), "is for unique indexes"),
        (lambda: CreateIndex("t", "i", "a", with_={"fillfactor": None}), "must be a number"),
        (lambda: CreateIndex("t", "i", "a", unique="yes"), "must be True or False"),  # type: ignore[arg-type]
        (lambda: Key.sql("a; DROP TABLE t"), "';'"),
        (lambda: Key.sql(""), "must be a SQL expression"),
        (lambda: Key("a", order="down"), '"asc" or "desc"'),  # type: ignore[arg-type]
        (lambda: Key("a", options={"siglen": 8}), "parameters of an opclass"),
        (lambda: DropIndex("", table="t"), "must be a name"),
        (lambda: RenameIndex("a", "a", table="t"), "has that name already"),
        (lambda: SetReplicaIdentity("t"), "give either"),
        (lambda: SetReplicaIdentity("t", "full", index="i"), "give either"),
        (lambda: SetReplicaIdentity("t", "some"), "got 'some'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_in_itself(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_every_name_is_quoted() -> None:
    odd = Key('o"dd', opclass=("s x", "ops"), collation="C-x", options={"si len": "8'"}, order="asc")
    at = table(columns=(column('o"dd'), column("a"), column("b")))
    (made,) = statements(planned(CreateIndex("t", 'i"', odd, method="m x", include=["a"]), at=at), Phase.BACKFILL)
    assert made == (
        'CREATE INDEX CONCURRENTLY "i""" ON "public"."t" USING '
        '"m x" ("o""dd" COLLATE "C-x" "s x"."ops" ("si len" = \'8\'\'\') ASC) INCLUDE ("a")'
    )


def test_a_change_is_described_for_its_checksum() -> None:
    one = CreateIndex("t", "i", Key.sql("lower(a)"), with_={"fillfactor": 70})
    assert one.describe() == CreateIndex("t", "i", Key.sql("lower(a)"), with_={"fillfactor": 70}).describe()
    assert one.describe() != CreateIndex("t", "i", Key("lower(a)"), with_={"fillfactor": 70}).describe()
