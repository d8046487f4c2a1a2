"""How much WAL was written between two moments: by all, by the load, and how much of it is images of whole pages.

A page that is changed for the first time after a checkpoint goes into the WAL as a whole (`full_page_writes`): no order
of work avoids it, `wal_compression` makes it smaller.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg

from benchmarks.backfill import lag
from benchmarks.backfill.load import NAME
from zdmigrate.postgres.servers import ScratchServer

# What one session has written is known since PostgreSQL 18; `pg_stat_wal` is what all have.
_NOW = """
SELECT pg_current_wal_insert_lsn()::text, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       (SELECT wal_fpi FROM pg_stat_wal),
       coalesce(sum(wal.wal_bytes), 0)::bigint, coalesce(sum(wal.wal_fpi), 0)::bigint
FROM pg_stat_activity AS session, LATERAL pg_stat_get_backend_wal(session.pid) AS wal
WHERE session.application_name = %s
"""
_FILLER = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', %s)) IS NULL"
_SEGMENT = 16_000_000
_IMAGES = "SELECT coalesce(sum(fpi_size), 0)::bigint FROM pg_get_wal_stats(%s, %s)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the WAL is, and what the load's sessions have had of it; images are counted, not bytes."""

    lsn: str
    bytes: int
    images: int
    load_bytes: int
    load_images: int

    def written_until(self, end: Position) -> int:
        """Bytes without the load's."""
        return end.bytes - self.bytes - (end.load_bytes - self.load_bytes)


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Once for a server."""
    connection.execute("CREATE EXTENSION pg_walinspect")


def fill_up(primary: ScratchServer, replica: ScratchServer, size: int) -> None:
    """Give both servers as many files of WAL to use again as one has that has been at work for long.

    A new server makes each of them when it needs it, and all that commit wait: some 60 ms for 16 MB.
    """
    with primary.connect() as connection:
        for _ in range(size // _SEGMENT):
            connection.execute(_FILLER, (_SEGMENT,))
            lag.await_replica(primary, replica)
    recycle(primary, replica)


def recycle(primary: ScratchServer, replica: ScratchServer) -> None:
    """What is not needed any more is used again from now on; on a replica too only after a checkpoint of its own."""
    for server in (primary, replica):
        with server.connect() as connection:
            connection.execute("CHECKPOINT")
        lag.await_replica(primary, replica)


def now(connection: psycopg.Connection[Any]) -> Position:
    """The position now; counts of sessions that work may be a second old."""
    row = connection.execute(_NOW, (NAME,)).fetchone()
    assert row is not None
    lsn, written, images, load_bytes, load_images = row
    return Position(lsn=lsn, bytes=written, images=images, load_bytes=load_bytes, load_images=load_images)


def image_bytes(connection: psycopg.Connection[Any], begin: Position, end: Position) -> int:
    """Bytes of page images without the load's, which are taken to be as large as the others."""
    row = connection.execute(_IMAGES, (begin.lsn, end.lsn)).fetchone()
    assert row is not None
    images = end.images - begin.images
    others = (end.load_images - begin.load_images) / images if images else 0.0
    return int(row[0] * max(0.0, 1 - others))
