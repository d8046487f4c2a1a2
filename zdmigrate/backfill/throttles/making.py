"""The throttles that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

from zdmigrate import throttle_settings
from zdmigrate.backfill.throttles import sessions
from zdmigrate.backfill.throttles.archive import Archive
from zdmigrate.backfill.throttles.asked import AskedReplica
from zdmigrate.backfill.throttles.custom import CustomQuery
from zdmigrate.backfill.throttles.endpoint import Endpoint
from zdmigrate.backfill.throttles.flag_file import FlagFile
from zdmigrate.backfill.throttles.heartbeat import Heartbeat
from zdmigrate.backfill.throttles.horizon import OldestXmin
from zdmigrate.backfill.throttles.lag import LagLimits
from zdmigrate.backfill.throttles.open_hours import OpenHours
from zdmigrate.backfill.throttles.reading import Throttle
from zdmigrate.backfill.throttles.replicas import ReplicaLag
from zdmigrate.backfill.throttles.seldom import Seldom
from zdmigrate.backfill.throttles.slots import Slots
from zdmigrate.backfill.throttles.steering import Steering
from zdmigrate.backfill.throttles.timeline import Timeline
from zdmigrate.backfill.throttles.wal_rate import WalRate
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.backfill.throttles.wraparound import Wraparound
from zdmigrate.postgres import url
from zdmigrate.postgres.session import Connection

_SECOND = timedelta(seconds=1)
_LONG = timedelta(seconds=5)


def make(
    settings: throttle_settings.Throttle, *, control_schema: str, migration: int, tables: Sequence[str]
) -> tuple[Throttle, ...]:
    """All of them; each set belongs to one `Watch`.

    Args:
        migration: its key in the control schema.
        tables: quoted, qualified names of what is filled.

    Raises:
        ConfigError: a URL of a replica cannot be read.
    """
    lag = _lag(settings, control_schema, migration)
    return (*lag, OldestXmin(settings.max_horizon_age), *_server(settings, tables), *_outside(settings))


def watch(
    settings: throttle_settings.Throttle,
    connect: Callable[[], Connection],
    *,
    control_schema: str,
    migration: int,
    tables: Sequence[str],
) -> Watch:
    """A watch over them, to be started.

    Raises:
        ConfigError: a URL of a replica cannot be read.
    """
    throttles = make(settings, control_schema=control_schema, migration=migration, tables=tables)
    return Watch(throttles, connect, interval=settings.interval, silence=settings.silence)


def _lag(settings: throttle_settings.Throttle, control_schema: str, migration: int) -> Iterator[Throttle]:
    limits = LagLimits(bytes=settings.max_lag, time=settings.max_lag_time)
    steering, heartbeat, timeline = Steering(control_schema, migration), Heartbeat(control_schema), Timeline()
    yield ReplicaLag(
        limits=limits, expected=settings.standbys, steering=steering, heartbeat=heartbeat, timeline=timeline,
        ignore_missing=settings.missing_standby == "ignore",
    )  # fmt: skip
    for each in settings.replica_urls:
        yield AskedReplica(
            url.conninfo(each), limits=limits, steering=steering, heartbeat=heartbeat, timeline=timeline
        )  # fmt: skip


def _server(settings: throttle_settings.Throttle, tables: Sequence[str]) -> Iterator[Throttle]:
    """What is asked of the primary; less often where it changes slowly or is a longer look."""
    if settings.max_slot_wal is not None:
        yield Seldom(Slots(settings.max_slot_wal), every=_SECOND)
    if settings.max_archive_backlog is not None:
        yield Seldom(Archive(settings.max_archive_backlog), every=_LONG)
    if settings.wraparound:
        yield Seldom(Wraparound(tables), every=_SECOND)
    if settings.max_active_sessions is not None:
        yield sessions.active(settings.max_active_sessions)
    if settings.max_lock_waiters is not None:
        yield sessions.lock_waiters(settings.max_lock_waiters)
    if settings.max_io_waiters is not None:
        yield sessions.io_waiters(settings.max_io_waiters)
    if settings.max_wal_rate is not None:
        yield WalRate(settings.max_wal_rate)
    for query in settings.queries:
        yield Seldom(CustomQuery(name=query.name, sql=query.sql, most=query.max), every=_SECOND)


def _outside(settings: throttle_settings.Throttle) -> Iterator[Throttle]:
    if settings.endpoint is not None:
        yield Seldom(Endpoint(settings.endpoint, timeout=settings.endpoint_timeout), every=_SECOND)
    if settings.flag_file is not None:
        yield FlagFile(settings.flag_file)
    if settings.hours:
        yield OpenHours(settings.hours, ZoneInfo(settings.time_zone))
