"""What the primary knows of those who receive its WAL."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from zdmigrate.postgres.session import Connection

# One row in any case. Without pg_read_all_stats the names are shown, but neither state nor positions.
_QUERY = """
SELECT pg_has_role('pg_read_all_stats', 'USAGE'), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer,
       r.pid, r.application_name, host(r.client_addr), r.state, pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint, r.replay_lag,
       coalesce(s.slot_type = 'logical', false)
FROM (VALUES (1)) AS always
LEFT JOIN pg_stat_replication r ON true
LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
ORDER BY r.application_name, r.pid
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A receiver. `replayed` is its position in bytes; None until it has said so, and for tools that replay nothing."""

    pid: int
    name: str
    address: str | None
    state: str | None
    replayed: int | None
    replay_lag: timedelta | None
    logical: bool

    @property
    def is_standby(self) -> bool:
        """A server that replays: neither a subscription nor pg_basebackup or pg_receivewal."""
        return self.replayed is not None and not self.logical


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The primary's position in bytes, its receivers, and whether we may see more of them than their names.

    `timeline` is another one after each promotion (manual, section 25.3.6).
    """

    position: int
    timeline: int
    receivers: tuple[Standby, ...]
    permitted: bool

    def named(self, name: str) -> list[Standby]:
        """All of that name: ``walreceiver`` is what standbys are called that were given none."""
        return [receiver for receiver in self.receivers if receiver.name == name]

    @property
    def standbys(self) -> tuple[str, ...]:
        """The names of those that replay, one for each."""
        return tuple(receiver.name for receiver in self.receivers if receiver.is_standby)


def look(connection: Connection) -> View:
    """Ask the primary.

    Raises:
        psycopg.Error: among others where it is no primary any more.
    """
    rows = connection.execute(_QUERY).fetchall()
    return View(
        position=rows[0][1],
        timeline=rows[0][2],
        permitted=rows[0][0],
        receivers=tuple(
            Standby(
                pid=pid, name=name or "", address=address, state=state, replayed=replayed, replay_lag=lag, logical=logical
            )
            for _, _, _, pid, name, address, state, replayed, lag, logical in rows
            if pid is not None
        ),
    )  # fmt: skip
