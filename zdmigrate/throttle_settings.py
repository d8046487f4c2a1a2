"""The configuration's table `[throttle]`: what stops a backfill, and the values that its keys may have."""

from __future__ import annotations

import dataclasses
import re
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from zdmigrate.units import parse_size

WORDS = {"throttle.standbys": ("auto", "none")}
"""Lists that may be a word instead."""

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_BYTES = frozenset({"max_lag", "max_slot_wal", "max_archive_backlog", "max_wal_rate"})
_COUNTS = frozenset({"max_active_sessions", "max_lock_waiters", "max_io_waiters"})
_CAN_BE_OFF = _BYTES | _COUNTS | {"max_lag_time", "max_horizon_age"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Hours of the day; an end before the beginning is on the next day, and one that equals it is a whole day later."""

    begin: time
    end: time

    def contains(self, moment: time) -> bool:
        """Whether it is in between; the end is not."""
        if self.begin < self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleQuery:
    """A query that returns one number, and the value from which on a backfill stops."""

    name: str
    sql: str
    max: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """What stops a backfill. None, or an empty tuple, is "off".

    On by default is what every role may see and what is harmful on every server; levels that are normal here and
    alarming there (sessions, waiters, WAL) are off.

    Attributes:
        interval: between two looks.
        silence: without an answer for so long, the work stops.
        max_lag: bytes that a standby may be behind. Four segments: what one catches up within a second or two.
        max_lag_time: the same in time. About what readers of replicas are used to, and far below their timeouts.
        standbys: names of `pg_stat_replication` that must be there; None: those that were when the backfill began.
        missing_standby: whether one that is not connected stops the work.
        replica_urls: standbys that are asked themselves. They may hold passwords, and are therefore not in the repr.
        max_slot_wal: bytes of WAL that a slot may retain. Few disks have less to spare; `wal_status` counts anyway.
        max_archive_backlog: bytes of WAL that wait for archiving. 64 segments: more than any archiver has in flight.
        max_horizon_age: how long one transaction may hold back the xmin horizon. Off: the backfill changes its
            strategy instead.
        wraparound: stop while autovacuum prevents wraparound on the table.
        max_active_sessions, max_lock_waiters, max_io_waiters: sessions of others.
        max_wal_rate: bytes a second of the whole server.
        queries: only in a file.
        endpoint: a URL that must answer with a status of 200 to 299.
        flag_file: stops while it is there.
        hours: when the work may go on, in `time_zone`.
    """

    interval: timedelta = timedelta(milliseconds=250)
    silence: timedelta = timedelta(seconds=3)
    max_lag: int | None = 64 * 2**20
    max_lag_time: timedelta | None = timedelta(seconds=1)
    standbys: tuple[str, ...] | None = None
    missing_standby: Literal["stop", "ignore"] = "stop"
    replica_urls: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    max_slot_wal: int | None = 8 * 2**30
    max_archive_backlog: int | None = 2**30
    max_horizon_age: timedelta | None = None
    wraparound: bool = True
    max_active_sessions: int | None = None
    max_lock_waiters: int | None = None
    max_io_waiters: int | None = None
    max_wal_rate: int | None = None
    queries: tuple[ThrottleQuery, ...] = ()
    endpoint: str | None = None
    endpoint_timeout: timedelta = timedelta(milliseconds=500)
    flag_file: Path | None = None
    hours: tuple[Hours, ...] = ()
    time_zone: str = "UTC"


def parse_hours(text: str) -> Hours:
    """``22:00-06:00``.

    Raises:
        ValueError: it is not like that.
    """
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} are no hours of the day; write them like 22:00-06:00")
    return Hours(begin=time(int(match[1]), int(match[2])), end=time(int(match[3]), int(match[4])))


_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=1)]


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    name: _Text
    sql: _Text
    max: int | float


class ThrottleTable(msgspec.Struct, forbid_unknown_fields=True):
    """The table as a file may hold it. Durations and sizes are text, so that messages can name the key."""

    interval: str | UnsetType = UNSET
    silence: str | UnsetType = UNSET
    max_lag: str | UnsetType = UNSET
    max_lag_time: str | UnsetType = UNSET
    standbys: list[_Text] | Literal["auto", "none"] | UnsetType = UNSET
    missing_standby: Literal["stop", "ignore"] | UnsetType = UNSET
    replica_urls: list[_Text] | UnsetType = UNSET
    max_slot_wal: str | UnsetType = UNSET
    max_archive_backlog: str | UnsetType = UNSET
    max_horizon_age: str | UnsetType = UNSET
    wraparound: bool | UnsetType = UNSET
    max_active_sessions: _Count | str | UnsetType = UNSET
    max_lock_waiters: _Count | str | UnsetType = UNSET
    max_io_waiters: _Count | str | UnsetType = UNSET
    max_wal_rate: str | UnsetType = UNSET
    queries: list[_Query] | UnsetType = UNSET
    endpoint: _Text | UnsetType = UNSET
    endpoint_timeout: str | UnsetType = UNSET
    flag_file: _Text | UnsetType = UNSET
    hours: list[_Text] | UnsetType = UNSET
    time_zone: _Text | UnsetType = UNSET


def converted(key: str, value: Any, base: Path) -> Any:
    """The value of a key of the table; None where it is off. Durations are left as text.

    Raises:
        ValueError: it is not such a value.
    """
    match key:
        case _ if key in _CAN_BE_OFF and value == "off":
            return None
        case "standbys" if isinstance(value, str):
            return None if value == "auto" else ()
        case "hours":
            return tuple(parse_hours(text) for text in value)
        case "queries":
            return tuple(ThrottleQuery(**query) for query in value)
        case "flag_file":
            return base / value
        case "endpoint" if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
            raise ValueError("must be a URL that begins with http:// or https://")
        case "time_zone":
            _refuse_unknown_zone(value)
        case _ if key in _BYTES:
            return parse_size(value)
        case _ if key in _COUNTS:
            return _count(value)
    return value


def _count(value: int | str) -> int:
    if isinstance(value, int):
        return value
    if not value.isascii() or not value.isdecimal() or int(value) < 1:
        raise ValueError(f"must be a number of at least 1, or off, got {value!r}")
    return int(value)


def _refuse_unknown_zone(name: str) -> None:
    from zoneinfo import ZoneInfo  # it reads files: only who names a zone needs it

    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a folder of zones, a path, or no such zone
        raise ValueError(f"{name!r} is not a time zone that this machine knows; write it like Europe/Berlin") from None
