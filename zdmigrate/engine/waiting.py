"""Waiting for phases with an application's rights: one cheap query a poll, over poolers and on standbys, too."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import psycopg

from zdmigrate.config import Config
from zdmigrate.phases import Phase
from zdmigrate.postgres import url
from zdmigrate.postgres.session import NAME, Connection
from zdmigrate.sqltext import ident

_POLL = 2.0
"""Seconds."""


def wait(
    config: Config, conditions: Sequence[tuple[str, str]], timeout: timedelta, say: Callable[[str], None]
) -> list[str]:
    """Wait until each migration has completed its phase; what is missing when the time is over, as sentences.

    Errors of the database are waited out, too: pods start while it restarts.
    """
    until = time.monotonic() + timeout.total_seconds()
    told: list[str] = []
    connection: Connection | None = None
    try:
        while True:
            try:
                if connection is None or connection.closed:
                    connection = _connect(config)
                missing = _missing(connection, config, conditions)
            except psycopg.Error as error:
                missing = [f"the database does not answer: {' '.join(str(error).split())}"]
                if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
                    missing = [f"there is no control schema {config.schema}: zdmigrate init"]
                if isinstance(error, psycopg.errors.InsufficientPrivilege):
                    missing = [f"{error.diag.message_primary}: zdmigrate init --app-role ROLE grants what it takes"]
            left = until - time.monotonic()
            if not missing or left <= 0:
                return missing
            if missing != told:
                say("waiting: " + "; ".join(missing))
                told = missing
            time.sleep(min(left, random.uniform(0.75, 1.25) * _POLL))  # a thousand pods do not come together
    finally:
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _connect(config: Config) -> Connection:
    return psycopg.connect(
        url.conninfo(config.url),
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=5,
        tcp_user_timeout=15_000,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=2,
        application_name=f"{NAME}wait",
    )


def _missing(connection: Connection, config: Config, conditions: Sequence[tuple[str, str]]) -> list[str]:
    statement = (
        f"SELECT id, phase, running FROM {ident(config.schema, 'migration')} WHERE project = %s AND id = ANY (%s)"
    )
    rows = connection.execute(statement.encode(), (config.project, [id_ for id_, _ in conditions])).fetchall()
    found = {id_: (Phase(phase), running) for id_, phase, running in rows}
    missing = []
    for id_, wanted in conditions:
        if id_ not in found:
            missing.append(f"{id_} has not begun")
        elif found[id_][0].position < Phase(wanted).position:
            phase, running = found[id_]
            under_way = f"{running} is under way" if running else "nothing is under way"
            missing.append(f"{id_} is at {phase}, not yet at {wanted}; {under_way}")
    return missing
