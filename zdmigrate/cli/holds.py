"""``hold`` and ``unhold``."""

from __future__ import annotations

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, audit_options, common_options, complete_ids
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["hold"][1])
@click.argument("words", nargs=-1, metavar="ID REASON", shell_complete=complete_ids)
@click.option("--all", "every", is_flag=True, help="Hold every migration of the project; give only the REASON.")
@audit_options
@common_options()
def hold(*, words: tuple[str, ...], every: bool, deployment: str | None, artifact: str | None) -> int:
    """Stop a migration where it is: advance ends with exit code 4 until unhold. Who, why and when are recorded.

    \b
    Example:
      zdmigrate hold 20261121 "replica lag, see incident 512"
      zdmigrate hold --all "release freeze until Monday"
    """
    app = current()
    match words:
        case [reason] if every:
            name = None
        case [name, reason] if not every:
            pass
        case _:
            raise click.UsageError('write: hold ID "reason", or: hold --all "reason"')
    if not reason.strip():
        raise click.UsageError("the reason is empty")
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.hold(name, reason))


@click.command(cls=Command, short_help=COMMANDS["unhold"][1])
@click.argument("migration", metavar="[ID]", required=False, shell_complete=complete_ids)
@click.option("--all", "every", is_flag=True, help="Lift every hold of the project.")
@audit_options
@common_options()
def unhold(*, migration: str | None, every: bool, deployment: str | None, artifact: str | None) -> int:
    """Lift a hold. Nothing moves until the next advance.

    \b
    Example:
      zdmigrate unhold 20261121
      zdmigrate unhold --all
    """
    app = current()
    if every == (migration is not None):
        raise click.UsageError("write: unhold ID, or: unhold --all")
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.unhold(migration))
