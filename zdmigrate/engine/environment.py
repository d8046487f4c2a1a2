"""Which environment a database is, and making the control schema for it."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody says of the environment; None leaves it as it is."""

    environment: str | None = None
    evidence: bool | None = None


def init(connection: Connection, store: Store, wanted: Wanted, app_role: str | None, *, confirmed: bool) -> str:
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
            chosen = _chosen(connection, store, wanted, installed, confirmed=confirmed)
            if chosen is not None:
                store.set_meta(cursor, policy.to_meta(chosen))
                store.log(cursor, Event(migration="", action="init", outcome="done", detail=_said(chosen)))
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
    return f"control schema {store.schema}: {done}; environment {_said(current)}{granted}"


def _said(current: policy.Policy) -> str:
    return f"{current.environment}, evidence required" if current.evidence else current.environment


def _chosen(
    connection: Connection, store: Store, wanted: Wanted, installed: int, *, confirmed: bool
) -> policy.Policy | None:
    """The policy to write; None to leave what is there."""
    before = _before(connection, store, installed)
    if before is not None and wanted == Wanted():
        return None
    if wanted.environment is None:
        after = before or policy.POLICIES[policy.Environment.PRODUCTION]
    else:
        after = _named(wanted.environment)
        if after.environment is policy.Environment.DEVELOPMENT:
            _refuse_development(connection, store, confirmed=confirmed)
        elif before is not None:  # what was required stays so until somebody says otherwise
            after = dataclasses.replace(after, evidence=before.evidence)
    return after if wanted.evidence is None else dataclasses.replace(after, evidence=wanted.evidence)


def _before(connection: Connection, store: Store, installed: int) -> policy.Policy | None:
    meta = store.meta(connection) if installed else {}
    return policy.from_meta(meta) if "environment" in meta else None  # a copy of a schema may have no rows


def _named(environment: str) -> policy.Policy:
    try:
        return policy.POLICIES[policy.Environment(environment)]
    except ValueError:
        raise UsageError(f"there is no environment {environment!r}", hint="production or development") from None


def _refuse_development(connection: Connection, store: Store, *, confirmed: bool) -> None:
    if store.any_live_instance(connection):
        raise Unsafe("live application instances are registered here: this is no development database")
    row = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchone()
    if row and row[0] and not confirmed:
        raise Unsafe(
            f"{row[0]} standby servers are attached; development means no soaks and no proof that version N is gone",
            hint="if this really is a development database: --yes",
        )
