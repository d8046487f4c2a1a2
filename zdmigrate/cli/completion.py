"""``completion``."""

from __future__ import annotations

import click

from zdmigrate.cli import COMMANDS, main
from zdmigrate.cli.common import Command, common_options


@click.command(cls=Command, short_help=COMMANDS["completion"][1])
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options(("text",))
def completion(*, shell: str) -> int:
    """Print the script that completes commands, options, phases and migration ids in SHELL.

    \b
    Example:
      eval "$(zdmigrate completion bash)"                                       # in ~/.bashrc
      eval "$(zdmigrate completion zsh)"                                        # in ~/.zshrc
      zdmigrate completion fish > ~/.config/fish/completions/zdmigrate.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    click.echo(found(main, {}, "zdmigrate", "_ZDMIGRATE_COMPLETE").source())
    return 0
