"""``record``."""

from __future__ import annotations

from pathlib import Path

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, common_options
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["record"][1])
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option(
    "--models", multiple=True, metavar="MODULE:ATTR", help="A declarative base, registry or MetaData. Repeatable."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it (default: stdout).")
@click.option("--application", default="", metavar="NAME", help="Whose footprint this is.")
@click.option("--version", default="", metavar="VERSION", help="Of which version.")
@click.option("--literals", is_flag=True, help="Keep up to three values of each parameter. Never of production data.")
@click.option(
    "--merge",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add what a footprint has. Repeatable.",
)
@click.option("--pg-stat-statements", is_flag=True, help="Add what the database of --url has counted.")
@click.option("--app-role", metavar="ROLE", help="Of --pg-stat-statements, only this role's.")
@click.option("--git", "revision", metavar="REF", help="Record this revision, in a worktree of its own.")
@click.option("--within", type=click.Path(path_type=Path), hidden=True, help="Where modules of models must be.")
@common_options()
def record(
    *,
    command: tuple[str, ...],
    models: tuple[str, ...],
    out: Path | None,
    application: str,
    version: str,
    literals: bool,
    merge: tuple[Path, ...],
    pg_stat_statements: bool,
    app_role: str | None,
    revision: str | None,
    within: Path | None,
) -> int:
    """Write down what this version of the application needs of the database: its footprint.

    From models: tables, columns, types, keys. From a command, for example the tests: every statement that its Python
    processes send, with the types of the parameters, and no values. Several sources make one footprint. Where the
    command fails, its exit code is passed on and no file is written.

    \b
    Example:
      zdmigrate record --models myapp.models:Base --version 2.4.0 --out footprints/2.4.0.json -- pytest tests
      zdmigrate record --models myapp.models:Base --git v2.3.0 --out footprints/2.3.0.json
    """
    from zdmigrate.compat.footprints import recorded

    app = current()
    if app_role is not None and not pg_stat_statements:
        raise click.UsageError("--app-role needs --pg-stat-statements")
    wanted = recorded.Wanted(
        models=models,
        command=command,
        merge=merge,
        literals=literals,
        application=application,
        version=version,
        url=app.config.url if pg_stat_statements else None,
        role=app_role,
        within=within,
    )
    found = recorded.footprint(wanted, revision=revision, report=app.narrate)
    data = found.to_bytes()
    if out is not None:
        recorded.write(out, data)
        app.show_text(str(out), file=out, tables=len(found.tables), statements=len(found.statements), bytes=len(data))
    else:
        click.echo(data, nl=False)
    app.narrate(recorded.summary(found, data))
    return 0
