"""What proves that nobody needs a shape any more, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zdmigrate.app.shapes import Needed, NeededTable, Needs, Shape, Shapes, Trait
from zdmigrate.control.instances import Group, Sessions, Version
from zdmigrate.control.writes import Write
from zdmigrate.engine import draining, dual_writing

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHAPES = Shapes(
    old=(Trait(schema="public", table="users", column="user_email"),),
    new=(Trait(schema="public", table="users", column="email_address"),),
)


def needs(*columns: str) -> Needs:
    return (NeededTable(name="users", columns=tuple(Needed(name=column) for column in columns)),)


OLD, NEW = needs("user_email"), needs("email_address")


def version(name: str, what: Needs | None = None, **facts: Any) -> Version:
    given = {"project": "default", "application": "shop", "first_seen": NOW, "last_seen": NOW, "deployed_at": None}
    return Version(version=name, needs=what, **{**given, **facts})


def group(name: str, **facts: Any) -> Group:
    given = {
        "project": "default", "application": "shop", "said": None, "count": 3, "silent": 0, "sample": "web1:7:abc",
        "started": NOW, "seen": NOW,
    }  # fmt: skip
    return Group(version=name, **{**given, **facts})


def session(name: str, **facts: Any) -> Sessions:
    given = {"role": "app", "superuser": False, "count": 2, "pid": 77, "since": NOW, "reaches": True}
    return Sessions(name=name, **{**given, **facts})


def judged(**facts: Any) -> draining.Verdict:
    given: dict[str, Any] = {
        "migration": "0001", "project": "default", "shapes": SHAPES, "leaving": Shape.OLD, "since": NOW - timedelta(hours=1),
        "tables": (("public", "users"),), "groups": (), "versions": (), "sessions": (),
    }  # fmt: skip
    return draining.judge(draining.Facts(**{**given, **facts}))


def test_nothing_at_all_proves_nothing() -> None:
    verdict = judged()
    assert not verdict.proven
    assert "no application reports in" in draining.said(verdict, Shape.OLD)


def test_instances_that_need_it_are_named() -> None:
    verdict = judged(groups=[group("1"), group("2")], versions=[version("1", OLD), version("2", NEW)])
    assert not verdict.proven
    said = draining.said(verdict, Shape.OLD)
    assert "shop 1 (web1:7:abc and 2 more, since 2026-11-21 12:00:00 UTC" in said
    assert "shop 2 (" not in said


def test_instances_that_do_without_are_the_proof() -> None:
    verdict = judged(groups=[group("2")], versions=[version("1", OLD), version("2", NEW)])
    assert verdict.proven
    assert "shop 2: 3 instances without it" in draining.said(verdict, Shape.OLD)


@pytest.mark.parametrize(
    ("what", "forwards", "backwards"),
    [(OLD, False, True), (NEW, True, False), (needs("user_email", "email_address"), False, False), (needs("id"), True, True)],
)  # fmt: skip
def test_both_directions(what: Needs, *, forwards: bool, backwards: bool) -> None:
    facts: dict[str, Any] = {"groups": [group("x")], "versions": [version("x", what)]}
    assert judged(**facts).proven is forwards
    assert judged(**facts, leaving=Shape.NEW).proven is backwards


def test_who_does_not_say_what_it_needs_may_need_it() -> None:
    assert not judged(groups=[group("2")], versions=[version("2")]).proven
    assert not judged(groups=[group("2")], versions=[]).proven


def test_one_that_was_deployed_when_the_new_shape_was_there_is_taken_at_its_word() -> None:
    facts: dict[str, Any] = {"groups": [group("2")]}
    assert judged(**facts, versions=[version("2", deployed_at=NOW)]).proven
    assert not judged(**facts, versions=[version("2", deployed_at=NOW - timedelta(hours=2))]).proven


def test_what_an_instance_says_counts_more_than_its_models() -> None:
    versions = [version("2", needs("user_email", "email_address"))]
    assert judged(groups=[group("2", said="either")], versions=versions).proven
    assert not judged(groups=[group("2", said="old")], versions=[version("2", NEW)]).proven
    assert not judged(groups=[group("2", said="sideways")], versions=[version("2", NEW)]).proven


def test_one_that_follows_a_switch_and_is_silent_may_read_either() -> None:
    assert not judged(groups=[group("2", said="either", silent=1)], versions=[version("2")]).proven
    assert judged(groups=[group("2", silent=1)], versions=[version("2", NEW)]).proven


def test_another_project_blocks_only_with_what_is_known() -> None:
    theirs: dict[str, Any] = {"project": "crm", "application": "crm"}
    ours = [group("2")], [version("2", NEW)]
    assert judged(groups=[*ours[0], group("9", **theirs)], versions=[*ours[1], version("9", **theirs)]).proven
    assert not judged(groups=[*ours[0], group("9", **theirs)], versions=[*ours[1], version("9", OLD, **theirs)]).proven


def test_sessions_of_a_version_whose_instances_do_not_report() -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", OLD), version("2", NEW)]}
    assert judged(**facts, sessions=[session("shop/2")]).proven
    verdict = judged(**facts, sessions=[session("shop/2"), session("shop/1")])
    assert not verdict.proven
    assert "2 sessions shop/1 of app (pid 77" in draining.said(verdict, Shape.OLD)


@pytest.mark.parametrize("name", ["", "psql", "shop/0.9"])
def test_sessions_of_nobody_knows_whom(name: str) -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("2", NEW)]}
    verdict = judged(**facts, sessions=[session(name)])
    assert not verdict.proven
    assert "nobody says which version that is" in draining.said(verdict, Shape.OLD)
    assert judged(**facts, sessions=[session(name, reaches=False)]).proven
    superuser = judged(**facts, sessions=[session(name, superuser=True)])
    assert superuser.proven
    assert name == "shop/0.9" or "superusers" in draining.said(superuser, Shape.OLD)


def test_a_rollout_that_is_complete_speaks_for_the_sessions_after_it() -> None:
    done = [version("2", NEW, deployed_at=NOW)]
    assert judged(versions=done).proven
    assert judged(versions=done, sessions=[session("", since=NOW + timedelta(seconds=1))]).proven
    assert not judged(versions=done, sessions=[session("", since=NOW - timedelta(seconds=1))]).proven
    hidden = judged(versions=done, sessions=[session("", since=None)])
    assert not hidden.proven
    assert "GRANT pg_read_all_stats" in draining.said(hidden, Shape.OLD)


def test_a_deployed_version_that_needs_it_is_in_the_way() -> None:
    verdict = judged(versions=[version("1", OLD, deployed_at=NOW)])
    assert not verdict.proven
    assert "shop 1 is declared as deployed, and it needs the old shape" in draining.said(verdict, Shape.OLD)


def test_a_declaration_from_before_the_new_shape_speaks_for_no_session() -> None:
    """`deployed` of N, without a footprint, a week ago; and one instance of N+1."""
    before = NOW - timedelta(days=7)
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", deployed_at=before), version("2", NEW)]}
    assert not judged(**facts, sessions=[session("")]).proven
    verdict = judged(**facts)
    assert not verdict.proven
    assert "shop 1 is declared as deployed, and nobody knows what it needs" in draining.said(verdict, Shape.OLD)


def test_a_bare_declaration_proves_nothing_backwards() -> None:
    declared = [version("2", deployed_at=NOW)]
    assert judged(versions=declared).proven
    assert not judged(versions=declared, leaving=Shape.NEW).proven


def test_applications_that_do_not_use_the_table_prove_nothing() -> None:
    others = (NeededTable(name="mails", columns=(Needed(name="id"),)),)
    mailer: dict[str, Any] = {"application": "mailer"}
    assert not judged(groups=[group("3", **mailer)], versions=[version("3", others, **mailer)]).proven
    declared = [version("3", others, deployed_at=NOW, **mailer)]
    assert not judged(versions=declared).proven
    assert not judged(versions=[*declared, version("2", NEW)], groups=[group("2")], sessions=[session("")]).proven


def test_those_of_another_project_prove_nothing_and_their_sessions_count() -> None:
    theirs: dict[str, Any] = {"project": "crm", "application": "crm"}
    assert not judged(groups=[group("9", **theirs)], versions=[version("9", NEW, **theirs)]).proven
    assert not judged(versions=[version("9", deployed_at=NOW, **theirs)]).proven
    facts: dict[str, Any] = {
        "groups": [group("2"), group("9", **theirs)], "versions": [version("2", NEW), version("9", **theirs)]
    }  # fmt: skip
    assert judged(**facts).proven
    assert not judged(**facts, sessions=[session("crm/9")]).proven, (
        "nobody knows what it needs, and it can reach the table"
    )


def test_of_a_table_that_comes_with_the_migration_others_may_speak() -> None:
    carts = Shapes(new=(Trait(schema="public", table="carts"),))
    facts: dict[str, Any] = {"shapes": carts, "tables": (("public", "carts"),), "leaving": Shape.NEW}
    assert judged(**facts, groups=[group("1")], versions=[version("1", OLD)]).proven


def test_of_a_table_that_goes_with_it_those_who_do_without_may_speak() -> None:
    dropped = Shapes(old=(Trait(schema="public", table="users"),))
    facts: dict[str, Any] = {"shapes": dropped, "groups": [group("2")]}
    carts = (NeededTable(name="carts"),)
    assert judged(**facts, versions=[version("2", carts)]).proven
    assert not judged(**facts, versions=[version("2", NEW)]).proven
    renamed = Shapes(old=dropped.old, new=(Trait(schema="public", table="people"),))
    assert not judged(**facts | {"shapes": renamed}, versions=[version("2", carts)]).proven
    assert judged(**facts | {"shapes": renamed}, versions=[version("2", (NeededTable(name="people"),))]).proven


def test_what_instances_of_another_project_say_proves_nothing() -> None:
    assert not judged(groups=[group("9", project="crm", said="either")], versions=[]).proven


def test_many_are_counted() -> None:
    groups = [group(str(number)) for number in range(25)]
    said = draining.said(judged(groups=groups, versions=[]), Shape.OLD)
    assert "and 15 more" in said


# Writes that were noted ------------------------------------------------------------------------------------------------


def write(application: str = "shop/1", **facts: Any) -> Write:
    given = {
        "role": "app", "side": "old", "at": NOW, "count": 1, "table": "public.users", "backend": 7,
        "statement": "UPDATE users SET user_email = ?", "recent": True, "retired": False,
    }  # fmt: skip
    return Write(application=application, **{**given, **facts})


def test_a_recent_write_through_the_shape_speaks_against_it() -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", OLD), version("2", NEW)]}
    verdict = judged(**facts, writes=[write("nightly")])
    assert not verdict.proven
    assert (
        "a write through the old shape at 2026-11-21 12:00:00 UTC by nightly (role app, pid 7): UPDATE users SET user_email = ?"
    ) in draining.said(verdict, Shape.OLD)
    assert not judged(**facts, writes=[write("")]).proven
    # Also one that says of itself that it does without.
    assert not judged(**facts, writes=[write("shop/2", retired=True)]).proven


def test_a_version_that_has_said_goodbye_since_does_not() -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", OLD), version("2", NEW)]}
    assert not judged(**facts, writes=[write("shop/1")]).proven, "it did so before, or never did"
    assert judged(**facts, writes=[write("shop/1", retired=True)]).proven
    assert not judged(**facts, writes=[write("shop/1", retired=True), write("psql")]).proven


def test_an_old_write_is_mentioned_and_proves_nothing() -> None:
    past = [write("nightly", recent=False, count=3)]
    verdict = judged(groups=[group("2")], versions=[version("2", NEW)], writes=past)
    assert verdict.proven
    assert (
        "the last write through the old shape was at 2026-11-21 12:00:00 UTC by nightly (role app, pid 7, noted 3 times)"
        in (draining.said(verdict, Shape.OLD))
    )
    assert not judged(writes=past).proven


# Who writes both shapes -----------------------------------------------------------------------------------------------

BOTH = needs("user_email", "email_address")
WRONG = frozenset((Shape.OLD, Shape.NEW, Shape.UNKNOWN))


def dual(wrong: frozenset[Shape] = WRONG, **facts: Any) -> draining.Verdict:
    given: dict[str, Any] = {
        "migration": "0001", "project": "default", "shapes": SHAPES, "leaving": Shape.NEW, "since": NOW - timedelta(hours=1),
        "tables": (("public", "users"),), "groups": (), "versions": (), "sessions": (),
    }  # fmt: skip
    return dual_writing.judge(draining.Facts(**{**given, **facts}), wrong)


@pytest.mark.parametrize(
    ("what", "proven", "said"),
    [
        (BOTH, True, "every version that is alive writes both shapes: shop 1: 3 instances"),
        (OLD, False, "shop 1 (web1:7:abc and 2 more, seen 2026-11-21 12:00:00 UTC) writes the old shape alone"),
        (NEW, False, "writes the new shape alone"), (None, False, "nobody knows what it writes"),
        (needs("id"), False, "nothing proves"),
    ],
)  # fmt: skip
def test_who_is_alive_must_write_both(what: Needs | None, *, proven: bool, said: str) -> None:
    verdict = dual(groups=[group("1")], versions=[version("1", what)])
    assert verdict.proven is proven
    assert said in dual_writing.said(verdict)


def test_one_that_follows_a_switch_says_so() -> None:
    assert dual(groups=[group("1", said="either")]).proven
    assert dual(groups=[group("1", said="both")], versions=[version("1", OLD)]).proven


def test_going_back_the_old_shape_harms_nobody() -> None:
    back = frozenset((Shape.NEW, Shape.UNKNOWN))
    groups = [group("1"), group("2")]
    assert dual(back, groups=groups, versions=[version("1", OLD), version("2", BOTH)]).proven
    assert not dual(back, groups=groups, versions=[version("1", NEW), version("2", BOTH)]).proven


def test_sessions_and_rollouts_of_those_that_write_both() -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", OLD), version("2", BOTH)]}
    assert dual(**facts, sessions=[session("shop/2")]).proven
    verdict = dual(**facts, sessions=[session("shop/1"), session("psql")])
    assert "whose instances do not report in, writes the old shape alone" in dual_writing.said(verdict)
    assert "2 sessions psql of app (pid 77): nobody says which version that is" in dual_writing.said(verdict)
    assert dual(**facts, sessions=[session("psql", reaches=False), session("psql", superuser=True)]).proven
    done = [version("2", deployed_at=NOW)]
    assert dual(versions=done, sessions=[session("", since=NOW + timedelta(seconds=1))]).proven
    assert not dual(versions=done, sessions=[session("", since=NOW - timedelta(seconds=1))]).proven
    assert not dual(versions=[version("2", deployed_at=NOW - timedelta(hours=2))]).proven
    assert not dual(versions=[version("2", NEW, deployed_at=NOW)]).proven


def test_others_that_nobody_knows_do_not_matter() -> None:
    theirs: dict[str, Any] = {"project": "crm", "application": "crm"}
    facts: dict[str, Any] = {"versions": [version("2", BOTH), version("9", **theirs)]}
    assert dual(**facts, groups=[group("2"), group("9", **theirs)]).proven


def test_writes_that_left_them_different() -> None:
    facts: dict[str, Any] = {"groups": [group("2")], "versions": [version("1", OLD), version("2", BOTH)]}
    verdict = dual(**facts, writes=[write("nightly", side="old")])
    assert "a write that left the two shapes different at" in dual_writing.said(verdict)
    assert dual(**facts, writes=[write("shop/1", retired=True)]).proven
    said = dual_writing.forgotten([write("nightly", count=4), *[write("x")] * 3], "0001")
    assert (
        "nightly (role app, pid 7) wrote the old shape alone of public.users at 2026-11-21 12:00:00 UTC, the last of 4"
        in said
    )
    assert "; …" in said
    assert "zdmigrate revert 0001 --to dual_write" in said
