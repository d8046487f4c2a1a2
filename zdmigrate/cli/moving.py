"""``advance`` and ``revert``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import COMMANDS
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
from zdmigrate.cli.runtime import current
from zdmigrate.phases import Phase

if TYPE_CHECKING:
    from zdmigrate.engine.gates import Judge


@click.command(cls=Command, short_help=COMMANDS["advance"][1])
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--to", type=click.Choice([*PHASES, "auto"]), help="The phase to complete (default: auto).")
@click.option("--next", "one", is_flag=True, help="One phase, from the one that --from names.")
@click.option("--from", "start", type=click.Choice(["none", *PHASES[:-1]]), help="Do it only from this phase.")
@click.option(
    "--wait",
    type=Duration(forever=True),
    metavar="10m|forever",
    help="Wait for gates and locks for so long (default: not).",
)
@click.option("--max-runtime", type=Duration(), metavar="50m", help="Stop after this time, with exit code 3.")
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
    one: bool,
    start: str | None,
    wait: timedelta | None,
    max_runtime: timedelta | None,
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
      zdmigrate advance --to retire --override drained="N was scaled to zero at 14:00"
    """
    app = current()
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
            )
        )


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
@click.argument("migration", metavar="ID", shell_complete=complete_ids)
@click.option("--to", required=True, type=click.Choice(["none", *PHASES[:-1]]), help="The phase to return to.")
@click.option("--allow-lossy", is_flag=True, help="Accept the loss of values that the old shape cannot hold.")
@override_option
@audit_options
@common_options()
def revert(
    *,
    migration: str,
    to: str,
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
      zdmigrate revert 20261121 --to none --override drained="rolled back at 14:00"
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.revert(migration, target=Phase(to), overrides=overrides, allow_lossy=allow_lossy))
