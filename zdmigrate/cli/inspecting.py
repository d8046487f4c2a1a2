"""``status``, ``verify`` and ``history``."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import click

from zdmigrate.cli import COMMANDS, rendering
from zdmigrate.cli.common import Command, Duration, common_options, complete_ids
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["status"][1])
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--stale", type=Duration(), metavar="7d", help="Only those unfinished that have not moved for so long.")
@common_options()
def status(*, ids: tuple[str, ...], stale: timedelta | None) -> int:
    """Show each migration's phase, hold, gates, who works on it, and the commands that come next.

    \b
    Example:
      zdmigrate status
      zdmigrate status --stale 7d --format json
    """
    app = current()
    with app.project() as project:
        return app.show(project.status(ids, stale=stale))


@click.command(cls=Command, short_help=COMMANDS["verify"][1])
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@common_options()
def verify(*, ids: tuple[str, ...]) -> int:
    """Read every row of the tables in flight and count those where old and new shape disagree.

    Changes no table. It takes the lease and is audited; rows that disagree close the gate `verified`, and a run that finds
    none opens it again. It works under a hold too.

    \b
    Example:
      zdmigrate verify 20261121
    """
    app = current()
    with app.project() as project:
        return app.show(project.verify(ids))


@click.command(cls=Command, short_help=COMMANDS["history"][1])
@click.argument("migration", metavar="[ID]", required=False, shell_complete=complete_ids)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many entries.")
@common_options()
def history(*, migration: str | None, limit: int) -> int:
    """Show the audit, of one migration or of all: what was done, when, by whom, from where, how long it took.

    \b
    Example:
      zdmigrate history 20261121 --limit 20
    """
    app = current()
    with app.project() as project:
        found = project.history(migration, limit)
    entries = [dataclasses.replace(each, detail=each.detail and app.redacted(each.detail)) for each in found]
    if not entries:
        app.narrate("nothing was done yet")
        if app.format != "json":
            return 0
    app.show_text(rendering.history_text(entries), history=[dataclasses.asdict(entry) for entry in entries])
    return 0
