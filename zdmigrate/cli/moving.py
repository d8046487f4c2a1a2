"""``advance`` and ``revert``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.applications import FOOTPRINT, needs_of
from zdmigrate.cli.common import (
    PHASES,
    Command,
    Duration,
    audit_options,
    common_options,
    complete_ids,
    evidence_option,
    override_option,
    pending_option,
    workers_option,
)
from zdmigrate.cli.runtime import App, current
from zdmigrate.phases import Phase

if TYPE_CHECKING:
    from zdmigrate.engine.gates import Judge
    from zdmigrate.engine.switching import Ramp


@click.command(cls=Command, short_help=COMMANDS["advance"][1])
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option(
    "--to",
    type=click.Choice([*PHASES, "auto", "deployable"]),
    help="The phase to complete (default: auto), or deployable, for the version of --footprint.",
)
@FOOTPRINT
@click.option("--next", "one", is_flag=True, help="One phase, from the one that --from names.")
@click.option("--from", "start", type=click.Choice(["none", *PHASES[:-1]]), help="Do it only from this phase.")
@click.option(
    "--wait",
    type=Duration(forever=True),
    metavar="10m|forever",
    help="Wait for gates and locks for so long (default: not).",
)
@click.option("--max-runtime", type=Duration(), metavar="50m", help="Stop after this time, with exit code 3.")
@click.option("--steps", metavar="5,25,50,100", help="Switch reads step by step before switch_reads; with --every.")
@click.option("--every", type=Duration(positive=True), metavar="10m", help="How long each of the --steps lasts.")
@workers_option
@evidence_option("What a check has proven: a phase that it does not prove is refused.")
@pending_option
@override_option
@audit_options
@common_options()
def advance(
    *,
    ids: tuple[str, ...],
    to: str | None,
    footprint: Path | None,
    one: bool,
    start: str | None,
    wait: timedelta | None,
    max_runtime: timedelta | None,
    steps: str | None,
    every: timedelta | None,
    evidence: tuple[Path, ...],
    overrides: dict[str, str],
    deployment: str | None,
    artifact: str | None,
) -> int:
    """Complete the phases up to --to, for the migrations named, or for all of the directory in order.

    "auto" goes as far as the gates allow, up to the last phase that can be undone: a drop is always asked for by
    name, with --to contract. Running it again changes nothing. IDs may be shortened to a unique prefix.

    With --evidence, a phase in which a version that may be alive is not proven to work is refused (exit code 6), and
    so is a plan for which the evidence was not made.

    \b
    Example:
      zdmigrate advance --to backfill --wait 10m
      zdmigrate advance 20261121 --to contract
      zdmigrate advance 20261121 --next --from backfill
      zdmigrate advance --to backfill --workers 4
      zdmigrate advance --to backfill --evidence check.json
      zdmigrate advance --to switch_reads --steps 5,25,50,100 --every 10m --wait 1h
      zdmigrate advance --to retire --override drained="N was scaled to zero at 14:00"
    """
    app = current()
    if (to == "deployable") != (footprint is not None):
        raise click.UsageError("--to deployable and --footprint belong together: the footprint says what is deployed")
    if footprint is not None:
        if ids or one or start or steps:
            raise click.UsageError("--to deployable is about all migrations, and goes as far as the version needs")
        with app.project(deployment=deployment, artifact=artifact) as project:
            from zdmigrate.engine import releasing

            needs = needs_of(footprint)
            assert needs is not None
            return app.show(
                releasing.make_deployable(
                    project, needs, overrides=overrides, wait=wait, max_runtime=max_runtime, evidence=_judge(evidence)
                )
            )
    target = None if to in (None, "auto") else Phase(to)
    compare_from = None if start is None else Phase(start)
    if one != (compare_from is not None):
        raise click.UsageError("--next and --from belong together: --next --from PHASE")
    if compare_from is not None:
        target = _next(compare_from, to)
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(
            project.advance(
                ids,
                target=target,
                compare_from=compare_from,
                overrides=overrides,
                wait=wait,
                max_runtime=max_runtime,
                evidence=_judge(evidence),
                ramp=_ramp(steps, every),
            )
        )


def _ramp(steps: str | None, every: timedelta | None) -> Ramp | None:
    if (steps is None) != (every is None):
        raise click.UsageError("--steps and --every belong together: --steps 5,25,50,100 --every 10m")
    if steps is None or every is None:
        return None
    from zdmigrate.engine.switching import Ramp

    try:
        percentages = tuple(int(part) for part in steps.split(","))
    except ValueError:
        raise click.UsageError(f"--steps {steps!r}: write percentages like 5,25,50,100") from None
    return Ramp(steps=percentages, every=every)


def _judge(files: tuple[Path, ...]) -> Judge | None:
    from zdmigrate.compat import evidence

    return evidence.judge([evidence.Evidence.read(file) for file in files]) if files else None


def _next(start: Phase, to: str | None) -> Phase:
    following = start.until(Phase.CONTRACT)[0]
    if to not in (None, following):
        raise click.UsageError(f"the phase after {start} is {following}, not {to}")
    if following is Phase.CONTRACT and to is None:
        raise click.UsageError("contract is asked for by name: --next --from retire --to contract")
    return following


@click.command(cls=Command, short_help=COMMANDS["revert"][1])
@click.argument("migration", metavar="[ID]", required=False, shell_complete=complete_ids)
@click.option("--to", type=click.Choice(["none", *PHASES[:-1]]), help="The phase to return to.")
@click.option("--for", "application", metavar="APP@VERSION", help="As far as it needs for this version to run.")
@FOOTPRINT
@click.option("--allow-lossy", is_flag=True, help="Accept the loss of values that the old shape cannot hold.")
@override_option
@audit_options
@common_options()
def revert(
    *,
    migration: str | None,
    to: str | None,
    application: str | None,
    footprint: Path | None,
    allow_lossy: bool,
    overrides: dict[str, str],
    deployment: str | None,
    artifact: str | None,
) -> int:
    """Undo phases until --to is again the last completed one, and hold the migration there.

    What the new version wrote is kept for the old one. After contract there is no way back (exit 8). The hold
    keeps the next pipeline run from doing it all again: zdmigrate unhold ID.

    \b
    Example:
      zdmigrate revert 20261121 --to backfill
      zdmigrate revert --for shop@3f2c1ab
      zdmigrate revert 20261121 --to none --override drained="rolled back at 14:00"
    """
    app = current()
    if application is not None:
        return _revert_for(
            app, application, footprint, overrides, deployment, artifact, migration or to, allow_lossy=allow_lossy
        )
    if migration is None or to is None or footprint is not None:
        raise click.UsageError("write: revert ID --to PHASE, or: revert --for APP@VERSION [--footprint FILE]")
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.revert(migration, target=Phase(to), overrides=overrides, allow_lossy=allow_lossy))


def _revert_for(
    app: App, named: str, footprint: Path | None, overrides: dict[str, str], deployment: str | None, artifact: str | None,
    other: str | None, *, allow_lossy: bool,
) -> int:  # fmt: skip
    from zdmigrate.engine import releasing
    from zdmigrate.engine.applications import parted

    if other is not None:
        raise click.UsageError("--for says by itself which migrations go back, and how far")
    application, version = parted(named)
    with app.project(deployment=deployment, artifact=artifact) as project:
        outcome = releasing.revert_for(
            project, application, version, needs_of(footprint), overrides=overrides, allow_lossy=allow_lossy
        )
    if not outcome.migrations:
        app.narrate(f"{application} {version} can run: nothing to revert")
    return app.show(outcome)
