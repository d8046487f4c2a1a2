"""Models as tables of a footprint, and what is wrong in naming them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import registry

from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable, Reference
from zdmigrate.compat.footprints.models import mapped_tables, tables_of
from zdmigrate.errors import UsageError

APP = Path(__file__).parents[1] / "support" / "footprint_app"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(APP)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def columns(*given: sa.Column[object]) -> dict[str, MappedColumn]:
    (table,) = tables_of(sa.Table("t", sa.MetaData(), *given).metadata)
    return {column.name: column for column in table.columns}


def test_tables_of_models(app: None) -> None:
    orders, people = sorted(mapped_tables("shop.models:Base"), key=lambda table: table.name)
    assert people == MappedTable(
        name="people",
        columns=(
            MappedColumn(name="id", type="INTEGER", nullable=False, filled="server"),
            MappedColumn(name="kind", type="VARCHAR(20)", nullable=False),
            MappedColumn(name="email", type="VARCHAR", nullable=False),
            MappedColumn(name="nick", type="VARCHAR(40)"),
        ),
        key=("id",),
        unique=(("email",),),
        discriminator="kind",
        identities=("employee", "person"),
    )
    assert orders.unique == (("code",), ("person_id", "number"))
    assert orders.references == (Reference(columns=("person_id",), table="people", remote=("id",)),)
    found = {column.name: (column.type, column.filled, column.labels) for column in orders.columns}
    assert found["state"] == ("order_state", "server", ("new", "paid"))
    assert found["level"] == ("VARCHAR(4)", "", ("low", "high"))
    assert found["tags"] == ("TEXT[]", "", ())
    assert [found[name][1] for name in ("id", "number", "double", "made")] == [
        "generated",
        "client",
        "generated",
        "server",
    ]
    assert Footprint.from_bytes(Footprint.of(tables=(orders, people)).to_bytes(), name="it").tables == (orders, people)


@pytest.mark.parametrize("name", ["Base", "Base.metadata", "Base.registry", "metadata"])
def test_models_are_named_in_several_ways(app: None, name: str) -> None:
    assert [table.name for table in mapped_tables(f"shop.models:{name}")] == ["people", "orders"]


def test_types_below_others_have_labels() -> None:
    class Wrapped(sa.TypeDecorator[str]):
        impl = sa.Enum("a", "b", name="e", schema="s")
        cache_ok = True

    found = columns(
        sa.Column("wrapped", Wrapped()),
        sa.Column("many", postgresql.ARRAY(sa.Enum("c", name="f"))),
        sa.Column("checked", postgresql.DOMAIN("d", sa.Integer)),
    )
    assert (found["wrapped"].type, found["wrapped"].labels) == ("s.e", ("a", "b"))
    assert (found["many"].type, found["many"].labels) == ("f[]", ("c",))
    assert found["checked"].type == "d"


def test_who_fills_a_column() -> None:
    found = columns(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("by_default", sa.Integer, sa.Identity()),
        sa.Column("both", sa.Integer, default=1, server_default="2"),
        sa.Column("sequence", sa.Integer, sa.Sequence("q")),
        sa.Column("trigger", sa.Integer, server_default=sa.FetchedValue()),
        sa.Column("nobody", sa.Integer),
    )
    assert [column.filled for column in found.values()] == ["server", "server", "client", "client", "server", ""]


def test_a_key_to_a_table_that_is_not_mapped() -> None:
    (table,) = tables_of(sa.Table("t", sa.MetaData(), sa.Column("x", sa.ForeignKey("s.u.id"))).metadata)
    assert table.references == (Reference(columns=("x",), table="u", remote=("id",), schema="s"),)


def test_a_discriminator_that_is_an_enum_is_stored_by_its_value() -> None:
    mapping = registry()
    kind = sa.Enum("cat", "dog", name="kind")
    table = sa.Table("pets", mapping.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", kind))
    mapping.map_imperatively(type("Pet", (), {}), table, polymorphic_on=table.c.kind, polymorphic_identity="cat")
    (found,) = tables_of(mapping)
    assert (found.discriminator, found.identities) == ("kind", ("cat",))


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "nothing", "'nothing' names no models"),
        ("", "missing_module:Base", "there is no module missing_module"),
        ("x = 1", "given.deeper:Base", "there is no module given.deeper"),
        ("x = 1", "given:Base", "given has no Base"),
        ("x = 1", "given:x", "neither a declarative base"),
        ("import sqlalchemy as sa\nx = sa.MetaData()", "given:x", "given:x maps no table"),
        ("\nraise ValueError('no')", "given:x", "given.py:2: ValueError: no"),
        ("\nimport not_installed", "given:x", "given.py:2: ModuleNotFoundError: No module named 'not_installed'"),
        ("x = 1\ny = (", "given:x", "given.py:2: SyntaxError"),
        ("raise SystemExit(3)", "given:x", "SystemExit: 3"),
    ],
)
def test_what_is_wrong_is_said(
    app: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str, message: str
) -> None:
    (tmp_path / "given.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        mapped_tables(name)
    assert message in refused.value.message
    assert refused.value.hint


def test_a_module_of_elsewhere_is_not_the_revisions(app: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="and not from the revision"):
        mapped_tables("shop.models:Base", within=tmp_path)
