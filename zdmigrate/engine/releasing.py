"""What a release needs of the migrations: everything that its version needs, or the least way back for an older one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from datetime import timedelta

from zdmigrate.app.shapes import Needs, Shape, classify
from zdmigrate.engine import gates
from zdmigrate.engine.outcome import MigrationStatus, Outcome
from zdmigrate.engine.project import Project
from zdmigrate.errors import Irreversible, Unsafe, ZdmigrateError
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan
from zdmigrate.wording import spoken


def make_deployable(
    project: Project, needs: Needs, *, overrides: Mapping[str, str], wait: timedelta | None = None,
    max_runtime: timedelta | None = None, evidence: gates.Judge | None = None,
) -> Outcome:  # fmt: skip
    """Bring every migration of the directory to where a version with these needs works; gates see to the ones that live.

    A migration whose new shape the version does not need is left where it is, and what is there already is only looked at.

    Raises:
        Unsafe: afterwards the version still maps what is not there, or a migration has taken away what it needs.
    """
    statuses: list[MigrationStatus] = []
    began = time.monotonic()

    def left(given: timedelta | None) -> timedelta | None:
        """Of a time that all migrations share."""
        if given is None or given == timedelta.max:
            return given
        return max(timedelta(0), given - timedelta(seconds=time.monotonic() - began))

    records = project.records()
    for id_ in project.here():
        record = records.get(id_)
        plan = project.current_plan(id_, record)
        if plan is None:
            continue  # it is finished
        target = _target(classify(needs, plan.shapes), plan)
        if target is Phase.NONE or (record is not None and record.phase.position >= target.position):
            statuses.append(project.brief(id_, record))
            continue
        done = project.advance(
            [id_], target=target, overrides=overrides, wait=left(wait), max_runtime=left(max_runtime), evidence=evidence
        )
        statuses += [_estimated(project, plan, status) for status in done.migrations]
    outcome = Outcome(migrations=tuple(statuses))
    if outcome.exit_code == 0:
        _refuse_missing(project, needs)
    return outcome


def _target(shape: Shape, plan: Plan) -> Phase:
    match shape:
        case Shape.OLD | Shape.EITHER:
            return Phase.NONE
        case Shape.BOTH:
            return Phase.EXPAND
        case _:  # what is not known may need the new shape
            return plan.window.new_from


def _estimated(project: Project, plan: Plan, status: MigrationStatus) -> MigrationStatus:
    """With what is left to fill."""
    if status.exit_code in (0, Unsafe.exit_code) or status.phase.position >= Phase.BACKFILL.position:
        return status
    try:
        found = project.forecasts([plan]).get(plan.migration, ())
    except ZdmigrateError:
        return status
    seconds = sum(forecast.expected.seconds for forecast in found)
    rows = sum(forecast.rows for forecast in found)
    if not rows:
        return status
    estimate = f"filling about {rows:,} rows takes some {spoken(timedelta(seconds=seconds))}"
    return dataclasses.replace(status, message=f"{status.message}; {estimate}" if status.message else estimate)


def _refuse_missing(project: Project, needs: Needs) -> None:
    found = project.applications(writing=False).assess("", "", needs)
    forbidden = [each.why for each in found.forbidden if each.shape is not Shape.UNKNOWN]
    if found.absent or forbidden:
        absent = f"it maps what is not there: {', '.join(found.absent)}" if found.absent else ""
        raise Unsafe(
            f"the version cannot run: {'; '.join(filter(None, (*forbidden, absent)))}",
            hint="is its migration in the directory? does the footprint belong to this version?",
        )


def revert_for(
    project: Project,
    application: str,
    version: str,
    needs: Needs | None,
    *,
    overrides: Mapping[str, str],
    allow_lossy: bool,
) -> Outcome:
    """Take back as little as it needs for a version to run: usually nothing, or ``retire``.

    Raises:
        UsageError: nobody has heard of the version.
        Unsafe: it is not known what it needs, or no revert gives it that.
        Irreversible: what it needs was dropped.
    """
    found = project.applications().assess(application, version, needs)
    for each in found.forbidden:
        if each.phase is Phase.CONTRACT and each.shape is not Shape.NEW:
            raise Irreversible(
                f"{application} {version} cannot run: {each.why}", hint="deploy a version that does without"
            )
        if each.shape is Shape.UNKNOWN or each.least is None or each.least.position >= each.reached.position:
            hint = "say what it needs: --footprint FILE" if each.shape is Shape.UNKNOWN else "zdmigrate advance"
            raise Unsafe(f"no revert lets {application} {version} run: {each.why}", hint=hint)
    statuses: list[MigrationStatus] = []
    for each in sorted(found.forbidden, key=lambda standing: standing.migration, reverse=True):
        assert each.least is not None
        done = project.revert(each.migration, target=each.least, overrides=overrides, allow_lossy=allow_lossy)
        statuses += done.migrations
        if done.exit_code:
            break
    outcome = Outcome(migrations=tuple(statuses))
    if outcome.exit_code == 0:
        left = project.applications(writing=False).assess(application, version, needs)
        if left.absent:
            raise Unsafe(f"{application} {version} maps what is not there: {', '.join(left.absent)}")
    return outcome
