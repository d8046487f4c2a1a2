"""``withhold``."""

from __future__ import annotations

from datetime import timedelta

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, Duration, audit_options, common_options, complete_ids, override_option
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["withhold"][1])
@click.argument("migration", metavar="ID", shell_complete=complete_ids)
@click.option("--for", "duration", type=Duration(positive=True), metavar="10m", help="For how long.")
@click.option("--stop", "ending", is_flag=True, help="Give everything back that another call withholds.")
@click.option("--owner", "owner_too", is_flag=True, help="Withhold them from the owner of the table, too.")
@override_option
@audit_options
@common_options()
def withhold(
    *,
    migration: str,
    duration: timedelta | None,
    ending: bool,
    owner_too: bool,
    overrides: dict[str, str],
    deployment: str | None,
    artifact: str | None,
) -> int:
    """Take the rights on the old columns from applications for a while: whoever still uses them fails, and is seen.

    Right before the phase that takes the old shape away. SELECT, INSERT and UPDATE on the old columns are revoked; rights on all
    other columns stay. They are given back when the time is over, at the first sign that somebody failed (exit code 4, with what
    was seen), with Ctrl-C, with --stop from elsewhere, and by the server itself when this command is killed. A time without any
    failure speaks for the gate "drained".

    Superusers and, without --owner, the owner of the table keep their rights.

    \b
    Example:
      zdmigrate withhold 20261121 --for 10m
      zdmigrate withhold 20261121 --stop
    """
    app = current()
    if ending == (duration is not None):
        raise click.UsageError("write: withhold ID --for 10m, or: withhold ID --stop")
    if set(overrides) - {"drained"}:
        raise click.UsageError('only the gate drained is asked: --override drained="reason"')
    with app.project(deployment=deployment, artifact=artifact) as project:
        if duration is None:
            app.show_text(project.give_back(migration))
            return 0
        return app.show(project.withhold(migration, duration, owner_too=owner_too, overrides=overrides))
