"""How many rows may be set aside."""

from __future__ import annotations

import pytest

from zdmigrate.backfill.bad_rows.quarantine import Limit


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(None, 1000), (-1, 1000), (0, 10), (50, 10), (500, 50), (9_999, 999), (10_000, 1000), (45_000_000, 1000)],
)
def test_whichever_is_less_but_a_few_in_the_smallest_table(rows: int | None, expected: int) -> None:
    assert Limit().of(rows) == expected


@pytest.mark.parametrize(("limit", "expected"), [(Limit(rows=0), 0), (Limit(rows=5), 5), (Limit(share=0), 10)])
def test_what_was_said_wins(limit: Limit, expected: int) -> None:
    assert limit.of(1_000_000) == expected


def test_ten_thousand_among_a_million() -> None:
    assert Limit(rows=20_000).of(1_000_000) == 20_000
