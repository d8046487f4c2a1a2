"""What applications and the tool agree on: deployed versions, which of them can run, and read switches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import timedelta

from zdmigrate.app.shapes import Needs
from zdmigrate.control import instances
from zdmigrate.control.store import Event, Store
from zdmigrate.engine import deploying, switching
from zdmigrate.engine.deploying import Standing
from zdmigrate.errors import UsageError
from zdmigrate.migration import find_id
from zdmigrate.phases import Phase
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection

_COLUMNS = """
SELECT n.nspname, c.relname, a.attname
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """Whether a version can run now. `absent` is what it maps and the database does not have; `known`: what it needs is."""

    application: str
    version: str
    known: bool
    standings: tuple[Standing, ...]
    absent: tuple[str, ...]

    @property
    def forbidden(self) -> tuple[Standing, ...]:
        """The migrations that keep it from working."""
        return tuple(each for each in self.standings if not each.works)

    @property
    def works(self) -> bool:
        """Whether it can run."""
        return not self.forbidden and not self.absent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Applications:
    """Of one project on one database."""

    connection: Connection
    store: Store

    def declare(self, application: str, version: str, needs: Needs | None) -> str:
        """State that a rollout is complete: the application's other versions have to drain from now on. Audited."""
        with session.transaction(self.connection, lock_timeout=timedelta(seconds=10)) as cursor:
            instances.declare(cursor, self.store.schema, self.store.project, application, version, needs)
            detail = f"{application} {version}" + ("" if needs is None else f", {len(needs)} tables")
            self.store.log(cursor, Event(migration="", action="deployed", outcome="done", detail=detail))
        return f"{application} {version} is the deployed version; the others have to drain"

    def assess(self, application: str, version: str, needs: Needs | None = None) -> Assessment:
        """Whether a version can run. Without `needs`, by what it reported itself, or was declared with.

        Raises:
            UsageError: nobody has heard of it, and nothing was given.
        """
        known = [
            each for each in instances.versions(self.connection, self.store.schema)
            if (each.project, each.application, each.version) == (self.store.project, application, version)
        ]  # fmt: skip
        if not known and needs is None:
            raise UsageError(
                f"nobody has heard of {application} {version}: it neither reported in nor was declared",
                hint="say what it needs: --footprint FILE (zdmigrate record makes one)",
            )
        found = known[0] if known else None
        if needs is None and found is not None:
            needs = found.needs
        standings = [
            deploying.standing(record, plan.window, needs, found)
            for record in self.store.records(self.connection)
            if (plan := record.plan) is not None and (record.phase is not Phase.NONE or record.running is not None)
        ]
        return Assessment(
            application=application, version=version, known=needs is not None, standings=tuple(standings),
            absent=tuple(self._absent(needs or ())),
        )  # fmt: skip

    def turn(self, id_: str, percent: int, allowed: Iterable[str] | None) -> str:
        """Set a read switch; see `zdmigrate.engine.switching.turn`."""
        known = [record.id for record in self.store.records(self.connection)]
        return switching.turn(self.connection, self.store, find_id(known, id_), percent, allowed)

    def _absent(self, needs: Needs) -> list[str]:
        names = [table.name for table in needs]
        return deploying.absent(needs, self.connection.execute(_COLUMNS.encode(), (names,)).fetchall())


def parted(text: str) -> tuple[str, str]:
    """``shop@3f2c1ab`` in two.

    Raises:
        UsageError: it is not of that form.
    """
    application, at, version = text.partition("@")
    if not (application and at and version):
        raise UsageError(f"{text!r} is no version of an application", hint="write it like shop@3f2c1ab")
    return application, version
