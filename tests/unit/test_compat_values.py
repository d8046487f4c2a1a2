"""What probes are made of: values, and the columns that parameters are for."""

from __future__ import annotations

import pytest

from zdmigrate.compat.probing.binding import Place, columns_of, names_in, relations_of
from zdmigrate.compat.probing.values import MANNERS, boundaries, from_checks, typical
from zdmigrate.postgres.shapes import Column, ForeignKey, Relation, Shapes

COLUMNS = frozenset(("id", "a", "b", "c", "A b"))


def column(base: str, *, modifier: int = -1, labels: tuple[str, ...] = ()) -> Column:
    return Column(name="c", type=base, base=base, modifier=modifier, labels=labels)


def relation(name: str, *references: ForeignKey, checks: tuple[str, ...] = (), **more: tuple[str, ...]) -> Relation:
    return Relation(
        schema="public", name=name, kind="r", columns=(), references=references, checks=checks,
        functions=more.get("functions", ()), uses=tuple(("public", used) for used in more.get("uses", ())),
    )  # fmt: skip


def shapes(*relations: Relation, functions: dict[str, str] | None = None) -> Shapes:
    found = {(each.schema, each.name): each for each in relations}
    return Shapes(relations=found, path=("public",), functions=functions or {})


def refers(target: str, *, acts: bool = False) -> ForeignKey:
    return ForeignKey(columns=("p",), target=("public", target), remote=("id",), acts=acts)


@pytest.mark.parametrize(
    ("sql", "places"),
    [
        ("INSERT INTO t (a, b) VALUES ($1, $2::text) RETURNING id", {1: ("a", True), 2: ("b", True)}),
        ('INSERT INTO s."T" ("A b", c) VALUES ($2, $1)', {2: ("A b", True), 1: ("c", True)}),
        (
            "INSERT INTO t (a, b) SELECT p0::text, p1::int FROM (VALUES ($1, $2, 0)) AS imp_sen(p0, p1, n) ORDER BY n",
            {1: ("a", True), 2: ("b", True)},
        ),
        ("UPDATE t SET a = $1, b = lower($2) WHERE t.id = $3", {1: ("a", True), 2: ("b", True), 3: ("id", False)}),
        (
            "SELECT 1 FROM t WHERE a IN ($1) AND b BETWEEN $2 AND $3",
            {1: ("a", False), 2: ("b", False), 3: ("b", False)},
        ),
        ("SELECT 1 FROM t WHERE $1 = c", {1: ("c", False)}),
        ("SELECT $1", {}),
    ],
)
def test_parameters_find_their_columns(sql: str, places: dict[int, tuple[str, bool]]) -> None:
    expected = {number: Place(column=name, written=written) for number, (name, written) in places.items()}
    assert columns_of(sql, COLUMNS) == expected


def test_relations_and_names_are_found() -> None:
    assert relations_of('UPDATE only a SET x = 1 FROM s."B b" JOIN c ON true') == (
        (None, "a"),
        ("s", "B b"),
        (None, "c"),
    )
    assert {"users", "Odd name", "id"} <= names_in('SELECT id FROM USERS u, "Odd name"')


@pytest.mark.parametrize(
    "base", ["int2", "int4", "int8", "numeric", "text", "uuid", "date", "timestamptz", "bytea", "inet"]
)
def test_typical_values_differ(base: str) -> None:
    assert len({typical(column(base), number) for number in range(20_000, 20_050)}) == 50


def test_values_fit() -> None:
    assert len(typical(column("varchar", modifier=4 + 3), 25_000) or "") <= 3
    assert boundaries(column("varchar", modifier=4 + 40))[0] == "x" * 40
    assert boundaries(column("numeric", modifier=(12 << 16 | 2) + 4))[0] == "9999999999.99"
    assert boundaries(column("int2"))[:2] == ("32767", "-32768")
    assert boundaries(column("st", labels=("new", "done"))) == ("new", "done")
    assert typical(column("_st", labels=('odd "label"',)), 1) == '{"odd \\"label\\""}'
    assert typical(column("unheard_of"), 1) is None


def test_a_manner_keeps_the_look_of_a_value() -> None:
    made = {manner(column("text"), 25_000, "INV-2026-00017") for manner in MANNERS}
    assert "INV-0000-25000" in made


def test_constants_of_checks_are_tried() -> None:
    found = from_checks(
        relation("t", checks=("CHECK ((state = ANY (ARRAY['it''s'::text, 'b'::text])))", "CHECK ((n > 7))"))
    )
    assert {"it's", "b", "7", "8", "6"} <= set(found)


def test_what_leads_to_a_change_is_found() -> None:
    known = shapes(
        relation("changed"), relation("seen", uses=("changed",)), relation("audited", functions=("note",)),
        relation("child", refers("changed")), relation("grandchild", refers("child")), relation("apart"),
        functions={"note": "BEGIN INSERT INTO changed VALUES (1); END", "other": "SELECT 1 FROM apart"},
    )  # fmt: skip
    found = known.reaching(frozenset({"changed"}))
    assert found == {"changed", "seen", "audited", "note", "child"}


def test_what_a_foreign_key_deletes_is_reached() -> None:
    known = shapes(
        relation("root"), relation("middle", refers("root", acts=True)), relation("leaf", refers("middle", acts=True))
    )
    assert known.reaching(frozenset({"leaf"})) == {"leaf", "middle", "root"}
    apart = shapes(relation("root"), relation("middle", refers("root")), relation("leaf", refers("middle")))
    assert apart.reaching(frozenset({"leaf"})) == {"leaf", "middle"}
