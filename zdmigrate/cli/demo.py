"""``demo``."""

from __future__ import annotations

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, common_options
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["demo"][1])
@click.option("--rows", type=click.IntRange(min=1), default=200_000, show_default=True, help="Rows of the table.")
@common_options(("text",))
def demo(*, rows: int) -> int:
    """Rename a column while an old and a new version of an application read and write it.

    Starts a scratch primary with a streaming replica, needs no Docker, and leaves nothing behind. Ends with the
    number of failed requests and of wrong or lost values, each of which must be 0 (else exit 1).

    \b
    Example:
      zdmigrate demo
      zdmigrate demo --rows 20000
    """
    from zdmigrate import demo as rehearsal

    app = current()
    with app.reporter() as report:
        code: int = rehearsal.run(rows=rows, report=report)
    return code
