"""Which order a backfill chooses."""

from __future__ import annotations

from datetime import timedelta

import pytest

from zdmigrate.backfill.strategy import ENOUGH, NOBODY, PINNED, Oldest, Order, Strategy, stripes


def oldest(xmin: int, stands: timedelta = timedelta(0)) -> Oldest:
    return Oldest(xmin=xmin, holder="pid 7", stands=stands)


def test_many_hot_updates_need_no_other_order() -> None:
    strategy = Strategy()
    assert not strategy.observe(updated=ENOUGH, hot=ENOUGH * 3 // 4, oldest=oldest(1, PINNED), now=100)
    assert (strategy.mode.order, strategy.mode.windows) == (Order.STRIPED, 1)


def test_what_was_long_ago_does_not_hide_what_is_now() -> None:
    strategy = Strategy()
    for _ in range(1000):
        assert not strategy.observe(updated=ENOUGH, hot=ENOUGH, oldest=oldest(1), now=100)
    changes = [strategy.observe(updated=ENOUGH, hot=0, oldest=oldest(1, PINNED), now=100) for _ in range(5)]
    assert any(changes)


@pytest.mark.parametrize(
    ("free", "expected"), [(None, 24), (0.0, 24), (-0.1, 24), (0.05, 24), (0.1, 20), (0.25, 8), (0.5, 4), (1.0, 2)]
)
def test_pages_with_room_need_fewer_stripes(free: float | None, expected: int) -> None:
    assert stripes(24, free) == expected


def test_few_rows_prove_nothing() -> None:
    assert not Strategy().observe(updated=ENOUGH - 1, hot=0, oldest=oldest(1, PINNED), now=100)


def test_a_horizon_that_moves_late_makes_windows_take_turns() -> None:
    strategy = Strategy()
    assert strategy.observe(updated=ENOUGH, hot=0, oldest=oldest(90, timedelta(seconds=3)), now=100)
    assert strategy.mode.order is Order.ROTATING
    assert strategy.mode.windows > 1
    assert "pid 7" in strategy.mode.why
    assert not strategy.observe(updated=ENOUGH, hot=0, oldest=oldest(190, timedelta(seconds=3)), now=200)


def test_a_transaction_that_stays_open_makes_it_plain_until_it_ends() -> None:
    strategy = Strategy()
    assert strategy.observe(updated=ENOUGH, hot=0, oldest=oldest(50, PINNED), now=100)
    assert (strategy.mode.order, strategy.mode.vacuum) == (Order.PLAIN, False)
    assert not strategy.observe(updated=1, hot=0, oldest=oldest(50, 2 * PINNED), now=101)
    assert strategy.observe(updated=1, hot=0, oldest=oldest(102), now=102)
    assert strategy.mode.order is Order.STRIPED


def test_where_nobody_says_what_holds_it_every_order_is_tried() -> None:
    strategy = Strategy()
    assert strategy.observe(updated=ENOUGH, hot=0, oldest=None, now=100)
    assert strategy.mode.order is Order.ROTATING
    assert strategy.observe(updated=ENOUGH, hot=0, oldest=None, now=200)
    assert (strategy.mode.order, strategy.mode.vacuum) == (Order.PLAIN, True)


def test_where_nobody_holds_it_back_windows_need_not_take_turns() -> None:
    strategy = Strategy()
    assert strategy.observe(updated=ENOUGH, hot=0, oldest=Oldest(xmin=90, holder=NOBODY, stands=timedelta(0)), now=100)
    assert (strategy.mode.order, strategy.mode.vacuum) == (Order.PLAIN, True)


def test_a_new_column_in_an_index_leaves_no_choice() -> None:
    strategy = Strategy(indexed="users_email")
    assert (strategy.mode.order, strategy.mode.vacuum) == (Order.PLAIN, True)
    assert not strategy.observe(updated=10 * ENOUGH, hot=0, oldest=oldest(50, PINNED), now=100)
