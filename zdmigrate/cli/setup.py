"""``init``, ``new`` and ``bootstrap``."""

from __future__ import annotations

from datetime import datetime

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, audit_options, common_options
from zdmigrate.cli.runtime import current


@click.command(cls=Command, short_help=COMMANDS["init"][1])
@click.option("--environment", metavar="NAME", help="Name and policy of this database (default: production).")
@click.option(
    "--evidence",
    type=click.Choice(["required", "optional"]),
    help="Whether every phase needs the evidence of a check (default: as it is; at first optional).",
)
@click.option("--app-role", metavar="ROLE", help="Grant this role what the application needs.")
@click.option("--print-grants", is_flag=True, help="Print the grants for --app-role instead of executing anything.")
@click.option("--yes", is_flag=True, help="Confirm the development policy where a standby is attached.")
@common_options()
def init(*, environment: str | None, evidence: str | None, app_role: str | None, print_grants: bool, yes: bool) -> int:
    """Create the control schema in the database, or upgrade it. Doing it again changes nothing.

    The environment's policy (soaks, drain, evidence) is stored in the database, where no local file weakens it:
    "production" is what is meant when nothing is said, "development" has no soaks and no drain.

    \b
    Example:
      zdmigrate init --environment production --app-role shop
      zdmigrate init --evidence required
      zdmigrate init --app-role shop --print-grants > grants.sql
    """
    app = current()
    if print_grants and app_role is None:
        raise click.UsageError("--print-grants needs --app-role")
    with app.project() as project:
        if print_grants and app_role is not None:
            grants = project.grants(app_role)
            app.show_text(grants, sql=grants)
            return 0
        needed = None if evidence is None else evidence == "required"
        done = project.init(environment=environment, app_role=app_role, confirmed=yes, evidence=needed)
    app.show_text(done, message=done)
    return 0


@click.command(cls=Command, short_help=COMMANDS["new"][1])
@click.argument("title")
@common_options()
def new(*, title: str) -> int:
    """Write a migration file with commented examples, named after the minute and TITLE, and print its path.

    \b
    Example:
      zdmigrate new "email address"
    """
    from zdmigrate.migration import new_file

    app = current()
    path = new_file(app.config.dir, title, datetime.now().astimezone())
    app.show_text(str(path), file=path, id=path.stem)
    app.narrate("declare its changes, then: zdmigrate plan")
    return 0


@click.command(cls=Command, short_help=COMMANDS["bootstrap"][1])
@audit_options
@common_options()
def bootstrap(*, deployment: str | None, artifact: str | None) -> int:
    """Bring a fresh database (development, test, a new tenant) to the final schema at once, without phases.

    A migration whose new shape is there already is recorded as adopted. A mixture of both shapes (exit 7) and a
    database that serves live applications are refused.

    \b
    Example:
      zdmigrate bootstrap --url postgresql:///shop_test
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.bootstrap())
