"""What compares of both reads have found, until the database knows it. Pure, and shared by threads.

Totals are sent, never differences: what was lost is in the next report, and what came twice counts once. A count begins anew
after an hour, so that somebody who asks for the last day gets the last day.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

EVERY = 90.0
"""Seconds between two reports of a process, which come on top of its heartbeats."""
_HOUR = 3600.0
_SAMPLES = 5
"""Mismatches that a count names."""
_LENGTH = 200
"""Characters of a value."""
_CONTEXT = 60
"""Characters before the first difference of two long values."""
_COUNTS = 64
"""At most so many are remembered while nobody takes them: migrations in flight times their states."""
_ALONE = 3
"""Reports that failed in a row, after which one goes without texts: the database may not be able to hold them."""


class Sample(NamedTuple):
    """One mismatch, for people."""

    key: str
    old: str
    new: str


@dataclasses.dataclass(slots=True)
class _Count:
    """Of one state of a migration, in one hour. `changes` tells whether the database knows all of it."""

    number: int
    migration: str
    state: str | None
    began: float
    compares: int = 0
    mismatches: int = 0
    failures: int = 0
    dropped: int = 0
    samples: list[Sample] = dataclasses.field(default_factory=list)
    failure: str | None = None
    changes: int = 0
    sent: int = 0
    known: int = 0


class Tally:
    """The counts of one process, whose totals heartbeats take along at most once in `every` seconds.

    A *state* is the moment since when the migration is in its phase, as the compare's own snapshot had it; None where nothing
    was read.
    """

    def __init__(self, *, every: float = EVERY, clock: Callable[[], float] = monotonic) -> None:
        self.every = every
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        # Whoever counts may be interrupted by a signal's handler that counts.
        self._lock = threading.RLock()
        self.reporter = uuid.uuid4().hex
        """Whose counts these are: no other process's, and no other instance's of this one."""
        self._counts: dict[tuple[str, str | None], _Count] = {}
        self._number = 0
        self._due = float("-inf")
        self._refused = 0

    def after_fork(self) -> None:
        """In a child: what the parent has counted is the parent's to tell, and its lock may have been held."""
        self._begin()

    def matched(self, migration: str, state: str) -> None:
        """Both reads came to the same."""
        with self._lock:
            self._of(migration, state).compares += 1

    def differed(self, migration: str, state: str, sample: Sample | None) -> None:
        """They did not."""
        with self._lock:
            count = self._of(migration, state)
            count.compares += 1
            count.mismatches += 1
            if sample is not None and len(count.samples) < _SAMPLES:
                count.samples.append(sample)

    def failed(self, migration: str, state: str, why: str) -> None:
        """Nobody knows, because a read failed."""
        with self._lock:
            count = self._of(migration, state)
            count.failures += 1
            count.failure = printable(why)[:_LENGTH]

    def dropped(self, migration: str, why: str | None = None) -> None:
        """Nothing was read: too many were waiting, or there was no connection."""
        with self._lock:
            count = self._of(migration, None)
            count.dropped += 1
            if why is not None:
                count.failure = printable(why)[:_LENGTH]

    def report(self, *, last: bool = False) -> list[dict[str, Any]] | None:
        """What the database does not know yet, where it is time to tell it, or for the `last` time."""
        with self._lock:
            now = self._clock()
            news = [count for count in self._counts.values() if count.changes > count.known]
            if not news or (now < self._due and not last):
                return None
            self._due = now + self.every
            for count in news:
                count.sent = count.changes
            return [self._document(count, now) for count in news]

    def told(self) -> None:
        """The database knows what the last report said."""
        with self._lock:
            self._refused = 0
            for count in self._counts.values():
                count.known = count.sent

    def refused(self) -> None:
        """It does not, or nobody knows whether it does: the next report says it again."""
        with self._lock:
            self._refused += 1

    def _of(self, migration: str, state: str | None) -> _Count:
        now = self._clock()
        count = self._counts.get((migration, state))
        if count is None or (count.changes == count.known and now - count.began > _HOUR):
            if len(self._counts) >= _COUNTS:
                del self._counts[next(iter(self._counts))]
            self._number += 1
            count = self._counts[migration, state] = _Count(self._number, migration, state, now)
        count.changes += 1
        return count

    def _document(self, count: _Count, now: float) -> dict[str, Any]:
        with_texts = self._refused < _ALONE
        return {
            "number": count.number,
            "migration": count.migration,
            "phase_since": count.state,
            "age": now - count.began,
            "compares": count.compares,
            "mismatches": count.mismatches,
            "failures": count.failures,
            "dropped": count.dropped,
            "samples": [sample._asdict() for sample in count.samples] if with_texts else [],
            "failure": count.failure if with_texts else None,
        }


def sampled(key: object, old: object, new: object) -> Sample:
    """A mismatch as text: long values from shortly before where they part."""
    texts = _text(old), _text(new)
    parted = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, parted - _CONTEXT) if max(map(len, texts)) > _LENGTH else 0
    return Sample(_cut(_text(key), 0), _cut(texts[0], start), _cut(texts[1], start))


def printable(text: str) -> str:
    """On one line, and without what JSON in the database refuses."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _text(value: object) -> str:
    try:
        return printable(repr(value))
    except Exception as error:  # noqa: BLE001  # somebody's own __repr__
        return f"a {type(value).__name__} without a repr ({type(error).__name__})"


def _cut(text: str, start: int) -> str:
    text = f"…{text[start:]}" if start else text
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"
