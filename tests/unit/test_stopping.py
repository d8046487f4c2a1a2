"""Who is asked to stop, and whether they end by themselves."""

from __future__ import annotations

from zdmigrate.engine.stopping import Stop


def test_nobody_listens() -> None:
    stop = Stop()
    assert not stop.ask(), "whoever asks has to end it"
    assert stop.asked


def test_whoever_listens_ends_by_itself_when_asked_once() -> None:
    stop = Stop()
    with stop.listening():
        assert stop.ask()
        assert stop.asked
        assert not stop.ask(), "twice: now"


def test_one_who_listens_within_another() -> None:
    stop = Stop()
    with stop.listening():
        with stop.listening():
            pass
        assert stop.ask()
    assert not Stop().asked
