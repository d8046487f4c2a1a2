"""Migrations tried on a scratch server that has the live database's schema, and no rows.

The engine that runs there is the real one, so what it refuses there (a lock that is not declared, a table that would be
rewritten) is what it would refuse in production.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from zdmigrate.config import Config
from zdmigrate.control import install
from zdmigrate.control.store import Author, Store
from zdmigrate.engine import gates
from zdmigrate.engine.outcome import MigrationStatus, Outcome
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase
from zdmigrate.postgres import dump, session, url
from zdmigrate.postgres.binaries import find_binaries
from zdmigrate.postgres.servers import ScratchServer
from zdmigrate.postgres.session import Connection

_DATABASE = "rehearsal"
_ACCEPTED = dict.fromkeys(gates.OVERRIDABLE, "a rehearsal")


def run(config: Config, ids: Sequence[str]) -> MigrationStatus | None:
    """Take the migrations that have not begun through all phases on a scratch server, there and back where they can be.

    Returns the first failure, if there was one. Functions of RunPython are called too.

    Raises:
        ServerUnavailable: there is no scratch server of the database's version, or the schema cannot be copied.
    """
    conninfo = url.conninfo(config.url)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(session.connect(conninfo, purpose="rehearsal")))
        server = stack.enter_context(ScratchServer.start(find_binaries(source.info.server_version // 10000)))
        dump.copy_schema(source, conninfo, server, _DATABASE)
        scratch = dataclasses.replace(config, url=server.conninfo(_DATABASE), environment=None)
        store = Store(config.schema, config.project, Author(host="rehearsal"))
        with contextlib.closing(session.connect(scratch.url, purpose="rehearsal")) as target:
            copy_state(source, target, store)
        project = stack.enter_context(Project.open(scratch, report=lambda _: None))
        project.init(environment="development", app_role=None, confirmed=True)
        waiting = [status.id for status in project.status(ids).migrations if status.phase is Phase.NONE]
        outcomes = (outcome for id_ in waiting for outcome in _there_and_back(project, id_))
        return next((s for outcome in outcomes for s in outcome.migrations if s.exit_code != 0), None)


def copy_state(source: Connection, target: Connection, store: Store) -> None:
    """What is in flight is in the schema already: there it counts as finished."""
    version = install.installed_version(source, store.schema)
    if version == 0:
        return
    begun = [record for record in store.records(source) if record.phase is not Phase.NONE or record.in_flight]
    with target.transaction(), target.cursor() as cursor:
        store.set_meta(cursor, {"schema_version": str(version)})
        for record in begun:
            store.register(cursor, record.id, record.title, record.checksum)
            made = store.record(cursor, record.id)
            assert made is not None
            store.adopt(cursor, made.key)


def _there_and_back(project: Project, id_: str) -> Iterator[Outcome]:
    """The commands' outcomes, one after the other."""
    (plan,) = project.plan([id_])
    yield project.advance([id_], target=Phase.EXPAND, overrides=_ACCEPTED)
    if plan.undoable_until.position >= Phase.EXPAND.position:
        yield project.revert(id_, target=Phase.NONE, overrides=_ACCEPTED)
        project.unhold(id_)
    yield project.advance([id_], target=Phase.CONTRACT, overrides=_ACCEPTED)
