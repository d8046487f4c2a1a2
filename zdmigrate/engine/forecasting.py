"""Forecasts of what plans will fill: statistics from a connection or a file, and a probe where one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zdmigrate.backfill import costs, forecast
from zdmigrate.backfill.forecast import Forecast
from zdmigrate.config import Backfill
from zdmigrate.plan import Mode, Plan
from zdmigrate.postgres import catalog
from zdmigrate.postgres.session import Connection
from zdmigrate.schema import Snapshot

Forecasts = Mapping[str, tuple[Forecast, ...]]
"""By the migration's id."""


def pacing(settings: Backfill) -> costs.Pacing:
    """The pace that is configured."""
    return costs.Pacing(
        stripes=settings.stripes, window_pages=settings.window_pages, pause=settings.pause.total_seconds()
    )


def read(connection: Connection, plans: Sequence[Plan], control_schema: str) -> Snapshot:
    """The statistics that the plans' forecasts need. Locks: ACCESS SHARE on the catalogs."""
    tables = {
        (step.rows.schema, step.rows.table)
        for plan in plans
        for step in plan.steps()
        if step.mode is Mode.BACKFILL and step.rows is not None
    }
    return catalog.snapshot(connection, tables, control_schema=control_schema)


def of(plans: Sequence[Plan], snapshot: Snapshot, settings: Backfill) -> Forecasts:
    """What each plan will cost."""
    return {plan.migration: forecast.of_plan(plan, snapshot, pacing(settings)) for plan in plans}
