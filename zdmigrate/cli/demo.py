"""``demo``."""

from __future__ import annotations

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, common_options
from zdmigrate.cli.runtime import current

_ROWS, _EXAMPLE_ROWS = 200_000, 500


@click.command(cls=Command, short_help=COMMANDS["demo"][1])
@click.option(
    "--rows", type=click.IntRange(min=1), help=f"Rows of the table (default: {_ROWS}; of an example {_EXAMPLE_ROWS})."
)
@click.option("--example", metavar="NAME", help="An example of ./migrations_examples, or the path of such a folder.")
@common_options(("text",))
def demo(*, rows: int | None, example: str | None) -> int:
    """Rename a column while an old and a new version of an application read and write it.

    Starts a scratch primary with a streaming replica, needs no Docker, and leaves nothing behind. Ends with the
    number of failed requests and of wrong or lost values, each of which must be 0 (else exit 1).

    With --example, the migration, the models and the seed of that folder instead, forwards only and without a
    replica: the two versions' models write and read in the phases in which the plan says that they work. The
    folder's Python files are executed.

    \b
    Example:
      zdmigrate demo
      zdmigrate demo --rows 20000
      zdmigrate demo --example rename_column
    """
    from pathlib import Path

    from zdmigrate import demo as rehearsal

    app = current()
    with app.reporter() as report:
        if example is None:
            return rehearsal.run(rows=rows or _ROWS, report=report)
        found = rehearsal.Example.find(example, Path.cwd())
        return rehearsal.run_example(found, rows=rows or _EXAMPLE_ROWS, report=report)
