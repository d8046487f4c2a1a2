"""Numbers and times as people say them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from zdmigrate.wording import brief, counted, size, sized, spoken


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (timedelta(milliseconds=1), "1 s"), (timedelta(seconds=59), "59 s"), (timedelta(seconds=61), "2 min"),
        (timedelta(hours=1), "1 h"), (timedelta(hours=2, minutes=5), "2 h 5 min"), (timedelta(days=3), "3 days"),
        (timedelta(hours=23, minutes=59, seconds=59), "1 day"), (timedelta(days=1, hours=3, minutes=1), "1 day 4 h"),
    ],
)  # fmt: skip
def test_times(value: timedelta, said: str) -> None:
    assert spoken(value) == said


def test_counts() -> None:
    assert [counted(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]


def test_sizes() -> None:
    said = [size(n) for n in (0, 1023, 1024, 1536, 200 * 1024**3, 5 * 1024**5, -2048)]
    assert said == ["0 bytes", "1023 bytes", "1.0 kB", "1.5 kB", "200 GB", "5120 TB", "-2.0 kB"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (timedelta(milliseconds=50), "50 ms"),
        (timedelta(microseconds=250), "0.25 ms"),
        (timedelta(seconds=1.5), "1.5 s"),
        (timedelta(seconds=59.999), "60 s"),
        (timedelta(minutes=90), "1 h 30 min"),
    ],
)
def test_short_times(value: timedelta, said: str) -> None:
    assert brief(value) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (20 << 20, "20 MB"),
        (3 << 29, "1.5 GB"),
        (5 << 50, "5120 TB"),
        (1500.5, "1.465 kB"),
    ],
)
def test_sizes_as_the_server_says_them(number: float, said: str) -> None:
    assert sized(number) == said
