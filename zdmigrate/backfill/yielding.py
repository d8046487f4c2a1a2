"""Giving way: a batch that somebody is seen to wait for is cancelled. It is split then, and the next ones are smaller."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import psycopg

LONG = timedelta(milliseconds=100)
"""Whoever waits shorter than this is soon served anyway."""

# `pg_blocking_pids` stops all who lock for a moment, so it is asked only for those who wait. A batch is the one message
# that begins a transaction which writes, and has lasted for as long as they wait: a cancel must not meet what a worker says
# between two batches.
_GIVE_WAY = """
SELECT pg_catalog.pg_cancel_backend(batch.pid)
FROM pg_catalog.pg_stat_activity AS batch
WHERE batch.pid = ANY(%(ours)s) AND batch.state = 'active' AND batch.query LIKE 'BEGIN ISOLATION LEVEL%%READ WRITE%%;%%'
  AND batch.query_start < clock_timestamp() - %(long)s
  AND batch.pid IN (
    SELECT unnest(pg_catalog.pg_blocking_pids(waiting.pid))
    FROM pg_catalog.pg_locks AS waiting
    WHERE NOT waiting.granted AND waiting.waitstart < clock_timestamp() - %(long)s AND waiting.pid <> ALL(%(ours)s))
"""


def give_way(connection: psycopg.Connection[Any], ours: Collection[int]) -> int:
    """Cancel those of our batches that somebody else waits for; how many those were.

    Args:
        ours: the process ids of our sessions, of the same role as the connection's.
    """
    return connection.execute(_GIVE_WAY, {"ours": list(ours), "long": LONG}).rowcount
