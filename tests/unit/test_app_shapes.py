"""Which shape a version uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from zdmigrate.app.needs import of_footprint, of_metadata
from zdmigrate.app.shapes import (
    Needed,
    NeededTable,
    Needs,
    Shape,
    Shapes,
    Trait,
    classify,
    needs_from_json,
    needs_to_json,
)
from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable

RENAMED = Shapes(
    old=(Trait(schema="public", table="users", column="user_email"),),
    new=(Trait(schema="public", table="users", column="email_address"),),
)
ADDED = Shapes(new=(Trait(schema="public", table="users", column="locale"),))
DROPPED = Shapes(old=(Trait(schema="public", table="users", column="fax"),))


def typed(column: str, type_: str) -> Trait:
    return Trait(schema="public", table="users", column=column, type=type_)


def users(*columns: Needed | str, schema: str | None = None) -> Needs:
    named = (Needed(name=column) if isinstance(column, str) else column for column in columns)
    return (NeededTable(name="users", schema=schema, columns=tuple(named)),)


@pytest.mark.parametrize(
    ("needs", "shapes", "expected"),
    [
        (users("id", "user_email"), RENAMED, Shape.OLD),
        (users("id", "email_address"), RENAMED, Shape.NEW),
        (users("user_email", "email_address"), RENAMED, Shape.BOTH),
        (users("id"), RENAMED, Shape.EITHER),
        ((), RENAMED, Shape.EITHER),
        (None, RENAMED, Shape.UNKNOWN),
        (users("id"), Shapes(), Shape.UNKNOWN),
        (users("id", "locale"), ADDED, Shape.NEW),
        (users("id"), ADDED, Shape.EITHER),
        (users("fax"), DROPPED, Shape.OLD),
        (users("id"), DROPPED, Shape.EITHER),
        (users("user_email", schema="public"), RENAMED, Shape.OLD),
        (users("user_email", schema="archive"), RENAMED, Shape.EITHER),
    ],
)
def test_names_tell(needs: Needs | None, shapes: Shapes, expected: Shape) -> None:
    assert classify(needs, shapes) is expected


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("INTEGER", Shape.OLD),
        ("int4", Shape.OLD),
        ("BIGINT", Shape.NEW),
        ("SMALLINT", Shape.EITHER),
        ("", Shape.UNKNOWN),
    ],
)
def test_a_type_tells_where_the_name_stays(type_: str, expected: Shape) -> None:
    shapes = Shapes(old=(typed("id", "integer"),), new=(typed("id", "bigint"),))
    assert classify(users(Needed(name="id", type=type_)), shapes) is expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sa.String(50), "character varying(50)"),
        (sa.String(), "character varying"),
        (sa.Text(), "text"),
        (sa.Numeric(10, 2), "numeric(10,2)"),
        (sa.Numeric(10), "numeric(10,0)"),
        (sa.DateTime(timezone=True), "timestamp with time zone"),
        (sa.DateTime(), "timestamp without time zone"),
        (sa.Boolean(), "boolean"),
        (sa.Float(), "double precision"),
        (sa.LargeBinary(), "bytea"),
        (sa.Uuid(), "uuid"),
        (sa.ARRAY(sa.Integer), "integer[]"),
        (sa.BigInteger(), "bigint"),
    ],
)
def test_types_of_models_are_those_of_the_server(ours: sa.types.TypeEngine[object], theirs: str) -> None:
    metadata = sa.MetaData()
    sa.Table("users", metadata, sa.Column("it", ours))
    shapes = Shapes(old=(typed("it", theirs),), new=(typed("it", "xml"),))
    assert classify(of_metadata(metadata), shapes) is Shape.OLD


def test_whether_it_may_be_null_tells_too() -> None:
    one, other = (Trait(schema="public", table="users", column="name", nullable=nullable) for nullable in (True, False))
    shapes = Shapes(old=(one,), new=(other,))
    assert classify(users(Needed(name="name", nullable=True)), shapes) is Shape.OLD
    assert classify(users(Needed(name="name", nullable=False)), shapes) is Shape.NEW


def test_they_survive_being_stored() -> None:
    needs = users(Needed(name="id", type="BIGINT", nullable=False), "name", schema="crm")
    assert needs_from_json(json.loads(json.dumps(needs_to_json(needs)))) == needs
    shapes = Shapes(
        old=(Trait(schema="s", table="t", column="c", type="integer"),), new=(Trait(schema="s", table="u"),)
    )
    assert Shapes.from_json(json.loads(json.dumps(shapes.to_json()))) == shapes
    assert Shapes.from_json(None) == Shapes()


def test_a_footprint_says_the_same_as_the_models(tmp_path: Path) -> None:
    column = MappedColumn(name="id", type="BIGINT", nullable=False)
    columns = (column, MappedColumn(name="n", type=""))
    footprint = Footprint.of(tables=[MappedTable(name="users", schema="crm", columns=columns)])
    (tmp_path / "fp.json").write_bytes(footprint.to_bytes())
    expected = users(Needed(name="id", type="BIGINT", nullable=False), "n", schema="crm")
    assert of_footprint(tmp_path / "fp.json") == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tables": [{"columns": []}]}', '{"tables": [1]}', "\xff"])
def test_a_file_that_is_none_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "fp.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is no footprint"):
        of_footprint(tmp_path / "fp.json")


@pytest.mark.parametrize(
    ("shape", "old", "new"),
    [
        (Shape.OLD, True, False),
        (Shape.NEW, False, True),
        (Shape.BOTH, True, True),
        (Shape.EITHER, False, False),
        (Shape.UNKNOWN, True, True),
    ],
)
def test_who_needs_what(shape: Shape, *, old: bool, new: bool) -> None:
    assert (shape.needs(Shape.OLD), shape.needs(Shape.NEW)) == (old, new)
