"""What applications have reported, and what sessions the server has: reads of the control schema and ``pg_stat_activity``."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from zdmigrate.app.shapes import Needs, needs_from_json, needs_to_json
from zdmigrate.postgres.session import NAME, Connection, Cursor
from zdmigrate.sqltext import ident


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of an application that reported in, or that somebody declared as deployed."""

    project: str
    application: str
    version: str
    needs: Needs | None
    first_seen: datetime
    last_seen: datetime
    deployed_at: datetime | None
    """When its rollout was said to be complete; only of the version that was declared last."""

    @property
    def session_name(self) -> str:
        """What its sessions are called."""
        from zdmigrate.app.member import session_name  # what an instance needs, the tool's commands need not load

        return session_name(self.application, self.version)

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.application} {self.version}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Live instances of one version that say the same of themselves.

    `said` is what they declare of a migration (a `zdmigrate.app.shapes.Shape`), None for nothing. `silent` of them have
    not been heard of since their lease ran out. `sample` names one.
    """

    project: str
    application: str
    version: str
    said: str | None
    count: int
    silent: int
    sample: str
    started: datetime
    seen: datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Sessions of one role and name, other than the tool's. `reaches`: the role may use the tables in question.

    `since` is when the first of them began, None where we may not see that.
    """

    role: str
    superuser: bool
    name: str
    count: int
    pid: int
    since: datetime | None
    reaches: bool


def live(connection: Connection, schema: str, migration: str, grace: timedelta) -> list[Group]:
    """Instances that did not retire, and whose lease ran out less than `grace` ago, in groups."""
    statement = f"""
SELECT project, application, version, shapes ->> %s, count(*), count(*) FILTER (WHERE expires_at <= clock_timestamp()),
       min(instance), min(started_at), max(seen_at)
FROM {ident(schema, "app_instance")}
WHERE retired_at IS NULL AND expires_at > clock_timestamp() - %s::interval
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
    rows = connection.execute(statement.encode(), (migration, grace)).fetchall()
    names = [field.name for field in dataclasses.fields(Group)]
    return [Group(**dict(zip(names, row, strict=True))) for row in rows]


def versions(connection: Connection, schema: str) -> list[Version]:
    """Every version that was ever heard of."""
    statement = f"""
SELECT project, application, version, needs, first_seen, last_seen,
       CASE WHEN deployed_at = max(deployed_at) OVER (PARTITION BY project, application) THEN deployed_at END
FROM {ident(schema, "app_version")} ORDER BY 1, 2, 3"""
    return [_version(row) for row in connection.execute(statement.encode()).fetchall()]


def declare(cursor: Cursor, schema: str, project: str, application: str, version: str, needs: Needs | None) -> None:
    """Note that a version's rollout is complete: it is the application's deployed one from now on."""
    from psycopg.types.json import Jsonb

    given = None if needs is None else Jsonb(needs_to_json(needs))
    statement = f"""
INSERT INTO {ident(schema, "app_version")} AS v (project, application, version, needs, deployed_at, deployed_by)
VALUES (%s, %s, %s, %s, clock_timestamp(), session_user)
ON CONFLICT (project, application, version) DO UPDATE
SET needs = CASE
        WHEN v.needs IS NULL THEN excluded.needs
        WHEN excluded.needs IS NULL OR v.needs @> excluded.needs THEN v.needs
        ELSE v.needs || excluded.needs
    END,
    deployed_at = excluded.deployed_at, deployed_by = excluded.deployed_by,
    last_seen = clock_timestamp()"""
    cursor.execute(statement.encode(), (project, application, version, given))


def sessions(connection: Connection, tables: tuple[tuple[str, str], ...]) -> list[Sessions]:
    """Clients of this database, but for the tool's own; `tables` are (schema, name) pairs."""
    statement = """
SELECT a.usename, coalesce(r.rolsuper, false), a.application_name, count(*), min(a.pid),
       CASE WHEN bool_or(a.backend_start IS NULL) THEN NULL ELSE min(a.backend_start) END,
       coalesce(bool_or(EXISTS (
           SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
           JOIN unnest(%s::text[], %s::text[]) AS wanted (home, name) ON n.nspname = wanted.home AND c.relname = wanted.name
           JOIN pg_roles AS may ON pg_has_role(a.usesysid, may.oid, 'MEMBER')  -- by SET ROLE, too
           WHERE has_any_column_privilege(may.oid, c.oid, 'SELECT, INSERT, UPDATE')
              OR has_table_privilege(may.oid, c.oid, 'DELETE')
       )), false)
FROM pg_stat_activity AS a LEFT JOIN pg_roles AS r ON r.oid = a.usesysid
WHERE a.datname = current_database() AND a.usename IS NOT NULL AND coalesce(a.backend_type, 'client backend') = 'client backend'
  AND a.pid <> pg_backend_pid() AND a.application_name NOT LIKE %s
GROUP BY 1, 2, 3 ORDER BY 1, 3"""
    homes, names = [home for home, _ in tables], [name for _, name in tables]
    rows = connection.execute(statement.encode(), (homes, names, f"{NAME}%")).fetchall()
    fields = ("role", "superuser", "name", "count", "pid", "since", "reaches")
    return [Sessions(**dict(zip(fields, row, strict=True))) for row in rows]


def behind(connection: Connection, schema: str, project: str, names: dict[str, int]) -> list[tuple[str, float]]:
    """Instances of the project within their lease that have not taken note of these versions yet, and how many seconds
    are left of each lease at most. `names` are those of `zdmigrate.app.snapshot.Snapshot.versions`."""
    from psycopg.types.json import Jsonb

    statement = f"""
SELECT i.application || ' ' || i.version || ' (' || i.instance || ')',
       extract(epoch FROM i.expires_at - clock_timestamp())::double precision
FROM {ident(schema, "app_instance")} AS i
WHERE i.project = %s AND i.retired_at IS NULL AND i.expires_at > clock_timestamp()
  AND EXISTS (
      SELECT FROM jsonb_each_text(%s) AS wanted
      WHERE coalesce((i.seen ->> wanted.key)::bigint, 0) < wanted.value::bigint
  )
ORDER BY 2 DESC"""
    return connection.execute(statement.encode(), (project, Jsonb(names))).fetchall()


def _version(row: tuple[Any, ...]) -> Version:
    project, application, version, needs, first, last, deployed = row
    return Version(
        project=project, application=application, version=version,
        needs=None if needs is None else needs_from_json(needs), first_seen=first, last_seen=last, deployed_at=deployed,
    )  # fmt: skip
