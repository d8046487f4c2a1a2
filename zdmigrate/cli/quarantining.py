"""``quarantine``: the rows that could not be filled."""

from __future__ import annotations

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import Command, audit_options, common_options, complete_ids
from zdmigrate.cli.runtime import current

_id = click.argument("migration", metavar="[ID]", required=False, shell_complete=complete_ids)


@click.group(short_help=COMMANDS["quarantine"][1])
@common_options()
def quarantine() -> None:
    """Rows whose value could not be computed, or was refused. The others are filled; switch_reads waits for these.

    Correct a row with an ordinary UPDATE (or DELETE), then retry. ID may be left out where one migration alone has any.

    \b
    Example:
      zdmigrate quarantine list
      zdmigrate quarantine retry
    """


@quarantine.command("list", cls=Command, short_help="Show the rows, with the server's message.")
@_id
@click.option("--all", "settled", is_flag=True, help="Also those that are settled, and how.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many rows.")
@common_options()
def list_(*, migration: str | None, settled: bool, limit: int) -> int:
    """Show the rows by their key (by ctid where the table has none), SQLSTATE and message, the oldest first.

    \b
    Example:
      zdmigrate quarantine list 20261121 --limit 500 --format json
    """
    from zdmigrate.cli import backfill_rendering as rendering

    app = current()
    with app.project() as project:
        found = project.quarantining(writing=False).list(migration, settled=settled, limit=limit)
    if not any(listing.entries for listing in found):
        app.narrate("no row is in quarantine")
        if app.format != "json":
            return 0
    text = app.redacted("".join(rendering.listing_text(listing) for listing in found))
    app.show_text(text, quarantine=[rendering.listing_json(listing, app.redacted) for listing in found])
    return 0


@quarantine.command(cls=Command, short_help="Fill the rows that were corrected.")
@_id
@click.option("--entry", "numbers", type=click.IntRange(min=1), multiple=True, metavar="N", help="Only these entries.")
@audit_options
@common_options()
def retry(*, migration: str | None, numbers: tuple[int, ...], deployment: str | None, artifact: str | None) -> int:
    """Fill the rows once more, each by itself; those that are filled or gone meanwhile are settled so.

    It works while the backfill is under way, and under a hold too. Exit code 4: some fail again, with the message of now;
    5: some are locked by somebody.

    \b
    Example:
      zdmigrate quarantine retry
      zdmigrate quarantine retry 20261121 --entry 17 --entry 18
    """
    from zdmigrate.cli import backfill_rendering as rendering

    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        retried = project.quarantining().retry(migration, numbers)
    if retried is None or not retried.tried:
        app.narrate("no row is in quarantine")
    text = "" if retried is None else app.redacted(rendering.retried_text(retried))
    code = rendering.retried_code(retried)
    shown = None if retried is None else rendering.retried_json(retried, app.redacted)
    if text or app.format == "json":
        app.show_text(text, exit_code=code, retried=shown)
    return code


@quarantine.command(cls=Command, short_help="Settle rows by hand, with a reason.")
@_id
@click.option("--entry", "numbers", type=click.IntRange(min=1), multiple=True, metavar="N", help="These entries.")
@click.option("--all", "every", is_flag=True, help="Every open entry.")
@click.option("--reason", required=True, metavar="TEXT", help="What became of the rows, for the audit.")
@audit_options
@common_options()
def resolve(
    *,
    migration: str | None,
    numbers: tuple[int, ...],
    every: bool,
    reason: str,
    deployment: str | None,
    artifact: str | None,
) -> int:
    """Settle entries without looking at their rows. Where the backfill is complete, zdmigrate verify has to prove them filled.

    For rows that retry cannot find any more. A row that is corrected or deleted needs no more than retry.

    \b
    Example:
      zdmigrate quarantine resolve --entry 17 --reason "moved to the archive, ticket 8812"
    """
    from zdmigrate.cli import backfill_rendering as rendering

    app = current()
    if every == bool(numbers):
        raise click.UsageError("write: --entry N, or: --all")
    if not reason.strip():
        raise click.UsageError("the reason is empty")
    with app.project(deployment=deployment, artifact=artifact) as project:
        found = project.quarantining().resolve(migration, numbers, reason)
    if found is None or not found.entries:
        app.narrate("no row is in quarantine")
        if app.format != "json":
            return 0
    text = "" if found is None else app.redacted(rendering.resolved_text(found))
    settled = None if found is None else rendering.listing_json(found, app.redacted)
    app.show_text(text, resolved=settled)
    return 0
