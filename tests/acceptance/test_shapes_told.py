"""By which names the shapes of each kind of change are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.processes import Site


def trait(column: str | None = None, *, table: str = "users", **facts: Any) -> dict[str, Any]:
    given = {"schema": "public", "table": table, "column": column, **facts}
    return {name: value for name, value in given.items() if value is not None}


CHANGES: list[tuple[str, list[Any], list[Any]]] = [
    ('RenameColumn("users", "name", "full_name")', [trait("name")], [trait("full_name")]),
    ('AddColumn("users", sa.Column("fax", sa.Text))', [], [trait("fax")]),
    ('DropColumn("users", "name")', [trait("name")], []),
    ('ChangeType("users", "number", "bigint")', [trait("number", type="integer")], [trait("number", type="bigint")]),
    ('SetNotNull("users", "name", backfill="\'\'")', [trait("name", nullable=True)], [trait("name", nullable=False)]),
    ('DropNotNull("users", "number")', [trait("number", nullable=False)], [trait("number", nullable=True)]),
    ('RenameTable("users", "people")', [trait()], [trait(table="people")]),
    ('DropTable("users")', [trait()], []),
    ('CreateTable("carts", sa.Column("id", sa.BigInteger, primary_key=True))', [], [trait(table="carts")]),
    ('AddCheck("users", "positive", "number > 0")', [], []),
    ('CreateIndex("users", "users_name", "name")', [], []),
    ('SetDefault("users", "name", "\'x\'")', [], []),
]


@pytest.mark.parametrize(("change", "old", "new"), CHANGES, ids=[change.partition("(")[0] for change, _, _ in CHANGES])
def test_what_tells(site: Site, change: str, old: list[Any], new: list[Any]) -> None:
    site.sql("CREATE TABLE users (id bigint PRIMARY KEY, name text, number integer NOT NULL)")
    site.init()
    site.write("0001", change)
    (plan,) = site.run("plan", "--format", "json").expect(0).document["plans"]
    told = {
        side: [{name: value for name, value in each.items() if value is not None} for each in plan["shapes"][side]]
        for side in ("old", "new")
    }
    assert told == {"old": old, "new": new}


def test_several_changes_together(site: Site) -> None:
    site.sql("CREATE TABLE users (id bigint PRIMARY KEY, name text, number integer NOT NULL)")
    site.init()
    site.write(
        "0001",
        'RenameColumn("users", "number", "amount")',
        'ChangeType("users", "amount", "bigint")',
        'DropColumn("users", "name")',
    )
    site.run("advance", "--to", "expand").expect(0)
    stored = site.value("SELECT shapes FROM zdmigrate.migration")
    assert sorted(stored["old"], key=lambda each: each["column"]) == [trait("name"), trait("number")]
    assert stored["new"] == [trait("amount")]
