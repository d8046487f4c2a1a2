"""Connection settings with which open connections survive that columns come, go and change their type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


def install(engine: Engine | AsyncEngine) -> None:
    """Keep the engine's connections, from now on, from preparing statements on the server.

    A prepared statement whose result gets other columns or types fails with 0A000 (*cached plan must not change result type*)
    on each connection that has it, until that is closed: ``SELECT *`` and ``RETURNING *`` when a column comes or goes, every
    SELECT of a column whose type changes. psycopg prepares what it executes for the sixth time, asyncpg everything. Planning
    each statement anew costs tens of microseconds.

    psycopg2 and pg8000 keep nothing prepared. To undo it, make another engine. PostgreSQL: section 43.12.2, and PREPARE.
    """
    from sqlalchemy import event

    sync: Any = getattr(engine, "sync_engine", None) or engine

    def connecting(dialect: Any, _record: Any, _arguments: list[Any], parameters: dict[str, Any]) -> None:
        if dialect.driver in ("psycopg", "psycopg_async"):
            parameters["prepare_threshold"] = None
        elif dialect.driver == "asyncpg":
            parameters["prepared_statement_cache_size"] = 0  # SQLAlchemy's own cache
            parameters["statement_cache_size"] = 0

    event.listen(sync, "do_connect", connecting)
