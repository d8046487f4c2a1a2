"""Which replicas may be read from."""

from __future__ import annotations

import pytest

from zdmigrate.app.replicas import Watch


def watched(*positions: tuple[float, int], max_lag: float = 1.0) -> Watch:
    watch = Watch(1, max_lag=max_lag, interval=1.0)
    for now, position in positions:
        watch.primary(position, now=now, news=0)
    return watch


def test_nothing_is_fit_before_the_primary_was_asked() -> None:
    watch = watched()
    assert watch.replicas([100], now=1).replayed == (None,)
    assert watch.lags == (None,)


@pytest.mark.parametrize(
    ("replayed", "lag", "fit"),
    [
        (300, 0.0, True),
        (999, 0.0, True),
        (299, 1.0, True),
        (200, 1.0, True),
        (199, 2.0, False),
        (50, float("inf"), False),
    ],
)
def test_lag_is_the_age_of_the_last_position_that_was_reached(replayed: int, lag: float, *, fit: bool) -> None:
    watch = watched((10, 100), (11, 200), (12, 300))
    view = watch.replicas([replayed], now=12)
    assert watch.lags == (lag,)
    assert view.replayed == ((replayed,) if fit else (None,))


def test_an_idle_primary_is_no_lag() -> None:
    watch = watched((10, 100), (500, 100))
    assert watch.replicas([100], now=500).replayed == (100,)


def test_news_have_to_be_replayed_whatever_the_lag() -> None:
    watch = watched((10, 100))
    assert watch.replicas([100], now=10).replayed == (100,)
    watch.primary(150, now=10.1, news=1)
    assert watch.replicas([149], now=10.2).replayed == (None,)
    view = watch.replicas([150], now=10.3)
    assert (view.replayed, view.news) == ((150,), 1)
    watch.primary(160, now=10.4, news=1)
    assert watch.replicas([150], now=10.5).replayed == (150,), "only what is new asks for more"


def test_one_that_does_not_answer_is_not_fit() -> None:
    assert watched((10, 100)).replicas([None], now=10).replayed == (None,)


def test_what_nobody_has_looked_at_for_a_while_is_over() -> None:
    view = watched((10, 100)).replicas([100], now=10)
    assert 10 < view.until <= 14


def test_a_primary_that_has_been_silent_says_nothing_of_lag() -> None:
    watch = watched((10, 100))
    assert watch.replicas([100], now=13).replayed == (100,)
    assert watch.replicas([100], now=15).replayed == (None,)
