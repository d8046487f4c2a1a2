"""Values for people, and the grants that are missing. Pure."""

from __future__ import annotations

from datetime import timedelta

from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident
from zdmigrate.wording import size

__all__ = ["at_most", "duration", "grant", "rate", "size"]


def duration(value: timedelta | float) -> str:
    """``250 ms``, ``3.2 s``, ``12 min``, ``3.1 h``; a number is seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rate(bytes_per_second: float) -> str:
    """``3.4 MB/s``."""
    return f"{size(max(0.0, bytes_per_second))}/s"


def at_most(text: str | None) -> str:
    """A threshold."""
    return "no limit" if text is None else f"below {text}"


def grant(role: str, connection: Connection) -> str:
    """The statement with which the role that we are gets to see it."""
    return f"GRANT {role} TO {ident(connection.info.user)}"
