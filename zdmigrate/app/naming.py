"""The names of an application's sessions, by which the tool recognises them in ``pg_stat_activity``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

_PARAMETERS = {"psycopg": "application_name", "psycopg2": "application_name", "pg8000": "application_name"}


def name_sessions(engine: Engine, name: str) -> None:
    """Give connections that the engine makes from now on an ``application_name``, unless they have one.

    It goes with the connection's start, so it costs no statement. An engine with a `creator` of its own is not asked: it
    names its sessions itself.
    """
    from sqlalchemy import event

    def connecting(dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> None:
        if dialect.driver == "asyncpg":
            settings = {"application_name": name, **(parameters.get("server_settings") or {})}
            parameters["server_settings"] = settings
        elif dialect.driver.removesuffix("_async") in _PARAMETERS and not (
            arguments and "application_name" in arguments[0]
        ):
            parameters.setdefault("application_name", name)

    event.listen(engine, "do_connect", connecting)
