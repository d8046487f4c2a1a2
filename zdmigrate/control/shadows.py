"""What applications found when they compared the old read with the new one: reads of the control schema."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

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
    values = {"key": record.key, "since": record.phase_since, "within": within or timedelta(days=365), "named": _NAMED}

    def ask(what: str, more: str = "") -> list[tuple[Any, ...]]:
        statement = f"""
SELECT {what} FROM {ident(schema, "shadow_read")}
WHERE migration = %(key)s AND (phase_since = %(since)s OR phase_since IS NULL AND began_at >= %(since)s)
  AND began_at >= clock_timestamp() - %(within)s::interval {more}"""
        return connection.execute(statement.encode(), values).fetchall()

    [(*sums, since)] = ask(
        "sum(compares), sum(mismatches), sum(failures), sum(dropped), min(began_at) FILTER (WHERE compares > 0)"
    )
    compares, mismatches, failures, dropped = (int(number or 0) for number in sums)
    newest = "ORDER BY began_at DESC LIMIT %(named)s"  # by the index: who began last has reported last, more or less
    named = ask("samples", f"AND samples <> '[]' {newest}") if mismatches else []
    said = ask("failure", f"AND failure IS NOT NULL {newest}") if failures or dropped else []
    samples = [Mismatch(**sample) for (those,) in named for sample in those][:_NAMED]
    failure = said[0][0] if said else None
    return Compared(
        compares=compares, mismatches=mismatches, failures=failures, dropped=dropped, since=since, samples=tuple(samples),
        failure=failure,
    )  # fmt: skip
