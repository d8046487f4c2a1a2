"""The command line: parse, call the engine, print, exit.

`zdmigrate --help` imports click and nothing else, so commands are loaded when they are called, and their one-line
helps stand here too (a test compares them).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import click

from zdmigrate import __version__
from zdmigrate.cli.common import FORMATS, common_options

# name: (module, short help), in the order in which one meets them
COMMANDS = {
    "init": ("setup", "Create or upgrade the control schema."),
    "new": ("setup", "Write an empty migration file."),
    "plan": ("planning", "Show what every phase does: SQL, locks, gates, undo."),
    "check": ("checking", "Prove that both versions work, in every phase."),
    "advance": ("moving", "Bring migrations forward, as far as the gates allow."),
    "revert": ("moving", "Bring a migration back, and hold it there."),
    "hold": ("holds", "Stop a migration, with a reason."),
    "unhold": ("holds", "Let a held migration go on."),
    "switch": ("applications", "Send a share of reads to the new shape."),
    "deployed": ("applications", "State that a rollout is complete."),
    "can-run": ("applications", "Answer whether a version works on the database as it is."),
    "withhold": ("withholding", "Rehearse the end of the old shape."),
    "wait": ("applications", "Wait until migrations have completed a phase."),
    "status": ("inspecting", "Show where each migration stands, and what comes next."),
    "backfill": ("backfilling", "Steer a backfill that is under way."),
    "quarantine": ("quarantining", "Rows that could not be filled: list, retry, resolve."),
    "verify": ("inspecting", "Compare old and new shape, row by row."),
    "history": ("inspecting", "Show what was done, when and by whom."),
    "bootstrap": ("setup", "Bring a fresh database to the final schema at once."),
    "record": ("recording", "Write down what a version needs: models, statements."),
    "demo": ("demo", "Run a rename under live traffic on a scratch server."),
    "completion": ("completion", "Print the shell's completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        module = importlib.import_module(f"zdmigrate.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short_help) for name, (_, short_help) in COMMANDS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            _document_usage_error(given, error)
            raise
        context.meta["zdmigrate.args"] = given
        return context

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _document_usage_error(ctx.meta["zdmigrate.args"], error)
            raise


def _document_usage_error(args: Sequence[str], error: click.UsageError) -> None:
    """A pipeline that asked for JSON gets a document for a wrong call too."""
    given = [value for option, value in itertools.pairwise(args) if option == "--format"]
    given += [arg.partition("=")[2] for arg in args if arg.startswith("--format=")]
    if (given or [os.environ.get("ZDMIGRATE_FORMAT", "")])[-1] == "json":
        from zdmigrate.cli import rendering

        click.echo(rendering.error_json(error.format_message(), None, error.exit_code))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 reached, 1 failed, 2 usage, 3 not there yet, 4 waiting, 5 contended, 6 unsafe, 7 drift, "
    "8 irreversible.",
)
@common_options(FORMATS, from_environment=True)
@click.version_option(__version__, prog_name="zdmigrate")
def main() -> None:
    """Expand/contract migrations of live PostgreSQL databases.

    The options below may stand before or after the command. The configuration is zdmigrate.toml or
    [tool.zdmigrate] in pyproject.toml; ZDMIGRATE_* variables override it, and options override both.

    \b
    Example:
      zdmigrate init
      zdmigrate new "email address"
      zdmigrate plan
      zdmigrate advance --to backfill
    """
