"""The backfill of zdmigrate, as a migration in flight calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
from datetime import timedelta

from benchmarks.backfill.table import MIGRATION
from zdmigrate.backfill import throttles, worker
from zdmigrate.backfill.pacing import governor
from zdmigrate.control import lease
from zdmigrate.control.store import Author, Store
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Step
from zdmigrate.postgres import session
from zdmigrate.throttle_settings import Throttle

UNTHROTTLED = dataclasses.replace(worker.Settings(), pause=timedelta(0), window_pages=1000)
AT_ONCE = governor.Limits(batch_rows=10_000)
_TABLE = '"public"."users"'


def at_default_pace(conninfo: str) -> None:
    """With the settings of a configuration that says nothing, and with all throttles that it has."""
    fill(conninfo, worker.Settings(), governor.Limits(), Throttle())


def unthrottled(conninfo: str) -> None:
    """As fast as one worker can."""
    fill(conninfo, UNTHROTTLED, AT_ONCE, None)


def fill(conninfo: str, settings: worker.Settings, limits: governor.Limits, throttle: Throttle | None) -> None:
    """Do the migration's step that fills rows, under its lease and with its bookkeeping."""

    def connect() -> session.Connection:
        return session.connect(conninfo, purpose="heartbeat")

    store = Store("zdmigrate", "default", Author(host=socket.gethostname()))
    with contextlib.closing(session.connect(conninfo, purpose="work")) as connection:
        step, key = _step(store, connection)
        ttl = timedelta(seconds=10)
        with lease.hold(store, connection, connect, key, holder="benchmark", ttl=ttl) as held:
            assert step.rows is not None
            watch = None
            if throttle is not None:
                watch = throttles.watch(throttle, connect, control_schema=store.schema, migration=key, tables=[_TABLE])
            outcome = worker.run(
                connection, control_schema=store.schema, migration=key, step=step.id, rows=step.rows,
                settings=settings, limits=limits, fence=held.fence, progress=lambda _: None, should_stop=lambda: False, say=_say,
                connect=connect, watch=watch,
            )  # fmt: skip
            assert outcome.complete


def _step(store: Store, connection: session.Connection) -> tuple[Step, int]:
    record = store.record(connection, MIGRATION)
    assert record is not None
    assert record.plan is not None
    (step,) = (step for step in record.plan.phase(Phase.BACKFILL).steps if step.mode is Mode.BACKFILL)
    return step, record.key


def _say(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
