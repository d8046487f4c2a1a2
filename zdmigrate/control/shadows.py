"""What applications found when they compared the old read with the new one: reads of the control schema."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from zdmigrate.control.store import Record
from zdmigrate.postgres.session import Connection
from zdmigrate.sqltext import ident

_NAMED = 3
"""Mismatches that are named, the newest first."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Two reads that differed, as text."""

    key: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Compares of one migration since it is in its phase. `failures` have no verdict, `dropped` were not begun; `failure`
    is the newest reason. `since`: of the oldest that counts; None where there is none."""

    compares: int
    mismatches: int
    failures: int
    dropped: int
    since: datetime | None
    samples: tuple[Mismatch, ...]
    failure: str | None


def compared(connection: Connection, schema: str, record: Record, within: timedelta | None = None) -> Compared:
    """What was reported, of the last `within` only.

    What counts is of exactly the present state: who goes back and comes again begins anew. What was not even begun belongs
    to no state, and to this one by its time.
    """
    statement = f"""
WITH counted AS MATERIALIZED (
    SELECT * FROM {ident(schema, "shadow_read")}
    WHERE migration = %(key)s
      AND (phase_since = %(since)s OR phase_since IS NULL AND began_at >= %(since)s)
      AND (%(within)s::interval IS NULL OR began_at >= clock_timestamp() - %(within)s::interval)
)
SELECT coalesce(sum(compares), 0)::bigint, coalesce(sum(mismatches), 0)::bigint, coalesce(sum(failures), 0)::bigint,
       coalesce(sum(dropped), 0)::bigint, min(began_at) FILTER (WHERE compares > 0),
       coalesce((SELECT jsonb_agg(sample) FROM (
           SELECT sample FROM (SELECT * FROM counted WHERE samples <> '[]' ORDER BY reported_at DESC LIMIT %(named)s) AS newest
           CROSS JOIN jsonb_array_elements(newest.samples) AS sample LIMIT %(named)s
       ) AS named), '[]'),
       (SELECT failure FROM counted WHERE failure IS NOT NULL ORDER BY reported_at DESC LIMIT 1)
FROM counted"""
    values = {"key": record.key, "since": record.phase_since, "within": within, "named": _NAMED}
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None
    *numbers, since, samples, failure = row
    named = tuple(Mismatch(key=each["key"], old=each["old"], new=each["new"]) for each in samples)
    return Compared(
        compares=numbers[0], mismatches=numbers[1], failures=numbers[2], dropped=numbers[3], since=since, samples=named,
        failure=failure,
    )  # fmt: skip
