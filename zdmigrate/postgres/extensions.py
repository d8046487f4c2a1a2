"""Extensions that a database wants and a server does not have: named all at once, with where to get them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from zdmigrate.errors import ServerUnavailable

_IMAGES = {
    "postgis": "postgis/postgis:{major}-3.5",
    "timescaledb": "timescale/timescaledb:latest-pg{major}",
    "vector": "pgvector/pgvector:pg{major}",
}


def require(connection: psycopg.Connection[Any], names: Iterable[str]) -> None:
    """Refuse a server that lacks any of them.

    Raises:
        ServerUnavailable: naming all of those that it lacks.
    """
    wanted = sorted(set(names))
    rows = connection.execute("SELECT name FROM pg_catalog.pg_available_extensions WHERE name = ANY (%s)", (wanted,))
    missing = sorted({*wanted} - {row[0] for row in rows.fetchall()})
    if missing:
        raise unavailable(missing, major=connection.info.server_version // 10000)


def unavailable(missing: list[str], *, major: int) -> ServerUnavailable:
    """The error for extensions that a server of that version lacks."""
    s, that = ("s", "them") if len(missing) > 1 else ("", "it")
    images = [_IMAGES[name].format(major=major) for name in missing if name in _IMAGES]
    image = images[0] if images else f"IMAGE (postgres:{major} has the contrib modules)"
    return ServerUnavailable(
        f"the scratch server (PostgreSQL {major}) lacks the extension{s} {', '.join(missing)}",
        hint=f"use a server that has {that}: --image {image}, --server-url URL, or install {that} for a local server and name "
        "its programs with ZDMIGRATE_PG_BIN",
    )
