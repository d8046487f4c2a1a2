"""Which environment a database is, and making the control schema for it."""

from __future__ import annotations

from datetime import timedelta

import psycopg

from zdmigrate.control import install, policy
from zdmigrate.control.store import Event, Store
from zdmigrate.errors import Drift, Unsafe, UsageError
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection


def refuse_other(current: policy.Policy, configured: str | None) -> None:
    """A configuration for another environment must not touch this database.

    Raises:
        Drift: the names differ.
    """
    if configured is not None and configured != current.environment:
        raise Drift(
            f"this database is {current.environment}, the configuration says {configured}",
            hint="is this a restored copy, or the wrong URL? To change what the database is: zdmigrate init --environment",
        )


def init(
    connection: Connection, store: Store, environment: str | None, app_role: str | None, *, confirmed: bool
) -> str:
    """Create or upgrade the control schema; safe to repeat.

    Raises:
        Unsafe: no right to create it, or `development` on a database that is in use.
    """
    try:
        with session.transaction(connection, lock_timeout=timedelta(seconds=10)) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('zdmigrate init', 0))")
            installed = install.installed_version(connection, store.schema)
            if installed > install.VERSION:
                install.check_version(connection, store.schema, writing=True)
            applied = install.upgrade(cursor, store.schema, installed)
            wanted = _wanted(connection, store, environment, installed, confirmed=confirmed)
            if wanted is not None:
                store.set_meta(cursor, policy.to_meta(wanted))
                store.log(cursor, Event(migration="", action="init", outcome="done", detail=wanted.environment))
            for statement in () if app_role is None else install.grants(store.schema, app_role):
                cursor.execute(statement.encode())
            current = store.policy(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        database = connection.info.dbname
        raise Unsafe(
            f"init is not allowed: {error.diag.message_primary}",
            hint=f'somebody who may: GRANT CREATE ON DATABASE "{database}" TO "{connection.info.user}"; '
            "for the grants of an application role: zdmigrate init --print-grants --app-role ROLE",
        ) from error
    except psycopg.errors.UndefinedObject as error:
        raise UsageError(f"init: {error.diag.message_primary}", hint="create the role first") from error
    done = f"applied {', '.join(applied)}" if applied else "was up to date"
    granted = "" if app_role is None else f"; granted to {app_role}"
    return f"control schema {store.schema}: {done}; environment {current.environment}{granted}"


def _wanted(
    connection: Connection, store: Store, environment: str | None, installed: int, *, confirmed: bool
) -> policy.Policy | None:
    """The policy to write; None to leave what is there."""
    if environment is None:
        return policy.POLICIES[policy.Environment.PRODUCTION] if installed == 0 else None
    try:
        wanted = policy.POLICIES[policy.Environment(environment)]
    except ValueError:
        raise UsageError(f"there is no environment {environment!r}", hint="production or development") from None
    if wanted.environment is policy.Environment.DEVELOPMENT:
        _refuse_development(connection, store, confirmed=confirmed)
    return wanted


def _refuse_development(connection: Connection, store: Store, *, confirmed: bool) -> None:
    if store.any_live_instance(connection):
        raise Unsafe("live application instances are registered here: this is no development database")
    row = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchone()
    if row and row[0] and not confirmed:
        raise Unsafe(
            f"{row[0]} standby servers are attached; development means no soaks and no proof that version N is gone",
            hint="if this really is a development database: --yes",
        )
