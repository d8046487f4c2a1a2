"""How far a replica is behind, ten times a second: in bytes, and in seconds.

Seconds are those since the primary's WAL was as long as what the replica has replayed now. They need no heartbeat, and
an idle primary is no lag.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence

import psycopg

from zdmigrate.postgres.servers import ScratchServer

_INTERVAL = 0.1
_INSERTED = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
_REPLAYED = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """At a moment (seconds since 1970): how much WAL there is, and how much of it the replica has replayed."""

    at: float
    written: int
    replayed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Lag:
    """At a moment."""

    at: float
    seconds: float
    bytes: int


def lags(samples: Sequence[Sample]) -> list[Lag]:
    """From samples in order of time."""
    written = [sample.written for sample in samples]
    return [Lag(s.at, _behind(samples, written, s), max(0, s.written - s.replayed)) for s in samples]


def _behind(samples: Sequence[Sample], written: Sequence[int], now: Sample) -> float:
    if now.replayed >= now.written:
        return 0.0
    after = bisect.bisect_right(written, now.replayed)
    if after == 0:  # since before the first sample
        return now.at - samples[0].at
    before, following = samples[after - 1], samples[after]
    share = (now.replayed - before.written) / (following.written - before.written)
    return max(0.0, now.at - before.at - share * (following.at - before.at))


@contextlib.contextmanager
def sampled(primary: ScratchServer, replica: ScratchServer) -> Iterator[list[Sample]]:
    """Samples for as long as the context is open, and then until the replica has what was written."""
    samples: list[Sample] = []
    end = threading.Event()
    thread = threading.Thread(target=_sample, args=(primary, replica, samples, end), daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        end.set()
        thread.join()


def await_replica(primary: ScratchServer, replica: ScratchServer) -> None:
    """Return when it has replayed what is written now."""
    with primary.connect() as one, replica.connect() as other:
        written = _ask(one, _INSERTED)
        while _ask(other, _REPLAYED) < written:
            time.sleep(0.02)


def _sample(primary: ScratchServer, replica: ScratchServer, samples: list[Sample], end: threading.Event) -> None:
    with primary.connect() as one, replica.connect() as other:
        due, last = time.monotonic(), None
        while last is None or samples[-1].replayed < last:
            if end.is_set() and last is None:
                last = _ask(one, _INSERTED)
            samples.append(Sample(time.time(), _ask(one, _INSERTED), _ask(other, _REPLAYED)))
            due += _INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))


def _ask(connection: psycopg.Connection[tuple[int]], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
