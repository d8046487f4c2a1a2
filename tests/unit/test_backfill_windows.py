"""Which rows a batch takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.backfill.values import Settings
from zdmigrate.backfill.windows import Batch, Pages, Stripe

pages = st.builds(lambda first, length: Pages(first, first + length), st.integers(0, 10**9), st.integers(0, 3000))


@given(pages, st.integers(1, 500))
def test_pieces_cover_every_page_once_and_in_order(whole: Pages, size: int) -> None:
    pieces = list(whole.cut(size))
    assert all(0 < len(piece) <= size for piece in pieces)
    assert [piece.first for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert sum(map(len, pieces)) == len(whole)
    if pieces:
        assert (pieces[0].first, pieces[-1].end) == (whole.first, whole.end)


def test_the_page_of_a_row() -> None:
    assert Pages.of("(4294967294,291)") == Pages(4294967294, 4294967295)


@given(st.integers(0, 2**32 - 3), st.integers(2, 1000))
def test_halves_are_smaller_and_together_the_whole(first: int, length: int) -> None:
    left, right = Batch(Pages(first, first + length), Stripe(3, 16)).halves()
    assert left.pages.end == right.pages.first
    assert (left.pages.first, right.pages.end) == (first, first + length)
    assert min(len(left.pages), len(right.pages)) >= 1
    assert left.stripe == right.stripe == Stripe(3, 16)


def test_a_batch_is_a_tid_range_and_a_stripe() -> None:
    assert Batch(Pages(250, 500)).condition.as_string() == "ctid >= '(250,0)'::tid AND ctid < '(500,0)'::tid"
    assert Batch(Pages(0, 250), Stripe(5, 16)).condition.as_string() == (
        "ctid >= '(0,0)'::tid AND ctid < '(250,0)'::tid AND get_byte(tidsend(ctid), 5) % 16 = 5"
    )


@given(st.integers(1, 500), st.integers(0, 50_000), st.integers(1, 10_000))
def test_pieces_of_a_batch_are_its_pages_and_not_too_large(length: int, rows: int, most: int) -> None:
    pieces = Batch(Pages(7, 7 + length), Stripe(3, 16), rows).pieces(most)
    assert [piece.pages.first for piece in pieces] == [7, *(piece.pages.end for piece in pieces[:-1])]
    assert pieces[-1].pages.end == 7 + length
    assert all(piece.rows <= most or len(piece.pages) == 1 for piece in pieces)


@pytest.mark.parametrize("wrong", [{"window_pages": 0}, {"stripes": 0}])
def test_settings_refuse_empty_windows(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Settings(**wrong)  # type: ignore[arg-type]
