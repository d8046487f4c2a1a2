"""Forecasts of what plans will fill: statistics from a connection or a file, and a probe where one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from zdmigrate.backfill.forecasts import costs, forecast, probe
from zdmigrate.backfill.forecasts.forecast import Forecast, Probed
from zdmigrate.config import Backfill
from zdmigrate.plan import Mode, Plan
from zdmigrate.postgres import catalog, statistics
from zdmigrate.postgres.session import Connection
from zdmigrate.schema import Snapshot

Forecasts = Mapping[str, tuple[Forecast, ...]]
"""By the migration's id."""

_NONE: Mapping[str, Sequence[Probed]] = MappingProxyType({})


def pacing(settings: Backfill) -> costs.Pacing:
    """The pace that is configured."""
    return costs.Pacing(
        stripes=settings.stripes,
        window_pages=settings.window_pages,
        batch_rows=settings.batch_rows,
        pause=settings.pause.total_seconds(),
    )


def read(connection: Connection, plans: Sequence[Plan], control_schema: str) -> Snapshot:
    """The statistics that the plans' forecasts need; no tables. Locks: ACCESS SHARE on the catalogs."""
    tables = {
        (step.rows.schema, step.rows.table)
        for plan in plans
        for step in plan.steps()
        if step.mode is Mode.BACKFILL and step.rows is not None
    }
    bare = catalog.snapshot(connection, (), control_schema=control_schema)
    return statistics.sized(connection, bare, sorted(tables))


def of(
    plans: Sequence[Plan], snapshot: Snapshot, settings: Backfill, probes: Mapping[str, Sequence[Probed]] = _NONE
) -> Forecasts:
    """What each plan will cost. `probes` are by migration."""
    return {
        plan.migration: forecast.of_plan(plan, snapshot, pacing(settings), probes.get(plan.migration, ()))
        for plan in plans
    }


def probed(
    connection: Connection, plans: Sequence[Plan], snapshot: Snapshot, settings: Backfill, say: Callable[[str], None]
) -> dict[str, list[Probed]]:
    """What a probe of each plan's tables measures; `say` is told what it did. See `zdmigrate.backfill.forecasts.probe.measure`.

    The snapshot is older than the probes: what they leave behind is no part of it.
    """
    found: dict[str, list[Probed]] = {}
    for plan in plans:
        for step in plan.steps():
            if step.mode is Mode.BACKFILL and step.rows is not None:
                report = probe.measure(
                    connection,
                    step.rows,
                    stripes=settings.stripes,
                    control_schema=snapshot.control_schema,
                    block_size=snapshot.server.block_size if snapshot.server else 8192,
                    suppress=snapshot.may_suppress_triggers,
                )
                found.setdefault(plan.migration, []).extend(report.probed)
                for sentence in report.said:
                    say(sentence)
    return found
