"""Which column a parameter is for."""

from __future__ import annotations

import pytest

from zdmigrate.compat.binding import Place, columns_of

COLUMNS = frozenset({"id", "name", "state", "trial_id"})


def written(column: str) -> Place:
    return Place(column=column, written=True)


def compared(column: str) -> Place:
    return Place(column=column, written=False)


@pytest.mark.parametrize(
    ("sql", "places"),
    [
        ("INSERT INTO t (id, name) VALUES ($1, $2) RETURNING t.id", {1: written("id"), 2: written("name")}),
        ("INSERT INTO t (id, name) VALUES ($2, upper($1))", {1: written("name"), 2: written("id")}),
        (
            "INSERT INTO t (id, name) SELECT p0, p1 FROM (VALUES ($1, $2)) AS x(p1, p0)",
            {1: written("name"), 2: written("id")},
        ),
        ("UPDATE t SET state=$1 WHERE t.trial_id = $2", {1: written("state"), 2: compared("trial_id")}),
        ("SELECT * FROM t WHERE $1 = name AND id = ANY($2)", {1: compared("name"), 2: compared("id")}),
        ("SELECT $1", {}),
    ],
)
def test_the_column_that_a_parameter_is_for(sql: str, places: dict[int, Place]) -> None:
    assert columns_of(sql, COLUMNS) == places
