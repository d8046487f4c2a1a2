"""``deployed``, ``can-run``, ``switch`` and ``wait``: what releases and the database tell each other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import PHASES, Command, Duration, audit_options, common_options, complete_ids, pending_option
from zdmigrate.cli.runtime import current

if TYPE_CHECKING:
    from zdmigrate.app.shapes import Needs
    from zdmigrate.engine.applications import Assessment

FOOTPRINT = click.option(
    "--footprint",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What the version needs: a file of zdmigrate record.",
)


@click.command(cls=Command, short_help=COMMANDS["deployed"][1])
@click.argument("application")
@click.argument("version")
@FOOTPRINT
@audit_options
@common_options()
def deployed(
    *, application: str, version: str, footprint: Path | None, deployment: str | None, artifact: str | None
) -> int:
    """State that the rollout of VERSION is complete, for applications that do not report in themselves.

    From now on the application's other versions have to drain, and sessions that began before and do not say which
    version they are of count as one of those. What the version needs tells whether it works without the old shape; a
    version that is declared without a footprint, after the new shape could be used, is taken for one that does.

    \b
    Example:
      zdmigrate deployed shop 3f2c1ab --footprint footprint.json
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        text = project.applications().declare(application, _named(application, version), needs_of(footprint))
    app.show_text(text, application=application, version=version)
    return 0


@click.command("can-run", cls=Command, short_help=COMMANDS["can-run"][1])
@click.argument("application")
@click.argument("version")
@FOOTPRINT
@common_options()
def can_run(*, application: str, version: str, footprint: Path | None) -> int:
    """Answer whether VERSION works on the database as it is: before a rollback, or a release.

    Exit code 0: it does. 6: it does not, or nobody knows what it needs; which phase forbids it is said. What a version
    needs is what it reported (zdmigrate.app.register), was declared with (zdmigrate deployed), or --footprint.

    \b
    Example:
      zdmigrate can-run shop 3f2c1ab
    """
    app = current()
    with app.project() as project:
        found = project.applications(writing=False).assess(application, version, needs_of(footprint))
    code = 0 if found.works else 6
    app.show_text("\n".join(assessed(found)), exit_code=code, **assessment_json(found))
    return code


@click.command(cls=Command, short_help=COMMANDS["switch"][1])
@click.argument("migration", metavar="ID", shell_complete=complete_ids)
@click.argument("percent", type=click.IntRange(0, 100))
@click.option(
    "--allow", multiple=True, metavar="KEY", help="A key that reads the new shape at any percentage. Repeatable."
)
@click.option("--allow-none", is_flag=True, help="Forget the keys that were allowed before.")
@audit_options
@common_options()
def switch(
    *,
    migration: str,
    percent: int,
    allow: tuple[str, ...],
    allow_none: bool,
    deployment: str | None,
    artifact: str | None,
) -> int:
    """Send PERCENT of a hundred keys to the new shape, in applications that follow a ReadSwitch.

    Possible between backfill and retire. The old shape keeps the authority until switch_reads is complete. Instances
    follow with their next heartbeat.

    \b
    Example:
      zdmigrate switch 20261121 5
      zdmigrate switch 20261121 0 --allow 4711
    """
    app = current()
    if allow and allow_none:
        raise click.UsageError("give --allow or --allow-none, not both")
    allowed = allow if allow or allow_none else None
    with app.project(deployment=deployment, artifact=artifact) as project:
        text = project.applications().turn(migration, percent, allowed)
    app.show_text(text, percent=percent)
    return 0


@click.command(cls=Command, short_help=COMMANDS["wait"][1])
@click.option(
    "--for", "wanted", multiple=True, required=True, metavar="ID:PHASE",
    help="A migration, and the phase that it must have completed. Repeatable.",
)  # fmt: skip
@click.option(
    "--timeout", type=Duration(), default="5m", show_default=True, metavar="5m", help="Give up after this time."
)
@pending_option
@common_options()
def wait(*, wanted: tuple[str, ...], timeout: timedelta) -> int:
    """Wait until migrations have completed a phase: for init containers.

    Needs no more rights than the application's role has (zdmigrate init --app-role), sends one cheap query every two
    seconds, and sits out a database that does not answer. Exit code 4 when the time is over.

    \b
    Example:
      zdmigrate wait --for 20261121_1432_email:backfill --timeout 5m
    """
    from zdmigrate.engine import waiting

    app = current()
    conditions = [_condition(text) for text in wanted]
    missing = waiting.wait(app.config, conditions, timeout, app.narrate)
    code = app.exit_code(4 if missing else 0)
    text = "; ".join(missing) if missing else "all are there: " + ", ".join(wanted)
    app.show_text(text, exit_code=code, missing=missing)
    return code


def _condition(text: str) -> tuple[str, str]:
    id_, colon, phase = text.rpartition(":")
    if not colon or not id_ or phase not in PHASES:
        raise click.UsageError(f"--for {text!r}: write ID:PHASE, with a phase of {', '.join(PHASES)}")
    return id_, phase


def needs_of(footprint: Path | None) -> Needs | None:
    """What a footprint's file says."""
    from zdmigrate.app.needs import of_footprint
    from zdmigrate.errors import UsageError

    if footprint is None:
        return None
    try:
        return of_footprint(footprint)
    except OSError as error:
        raise UsageError(f"{footprint} cannot be read: {error.strerror}", hint="zdmigrate record makes one") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def assessed(found: Assessment) -> list[str]:
    """An assessment for people."""
    name = f"{found.application} {found.version}"
    if found.works:
        return [f"{name} can run" + ("" if found.known else " (what it needs is not known, and no migration asks)")]
    lines = [f"{name} cannot run:"]
    lines += [f"  {standing.why}" for standing in found.forbidden]
    if found.absent:
        lines.append(f"  it maps what is not there: {', '.join(found.absent)}")
    return lines


def assessment_json(found: Assessment) -> dict[str, object]:
    """An assessment for programs."""
    return {
        "application": found.application,
        "version": found.version,
        "works": found.works,
        "absent": list(found.absent),
        "migrations": [
            {
                "id": each.migration,
                "phase": each.phase,
                "shape": each.shape,
                "works": each.works,
                "why": each.why or None,
            }
            for each in found.standings
        ],
    }


def _named(application: str, version: str) -> str:
    from zdmigrate.app.member import session_name
    from zdmigrate.errors import UsageError

    try:
        session_name(application, version)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return version
