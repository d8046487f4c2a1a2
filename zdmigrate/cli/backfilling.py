"""``backfill``: a backfill that is under way, from another terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.common import (
    Command,
    Configured,
    Duration,
    Names,
    Size,
    audit_options,
    common_options,
    complete_ids,
    workers_option,
)
from zdmigrate.cli.runtime import current

if TYPE_CHECKING:
    from datetime import timedelta

    from zdmigrate.engine.steering import BackfillStatus

_id = click.argument("migration", metavar="[ID]", required=False, shell_complete=complete_ids)


@click.group(short_help=COMMANDS["backfill"][1])
@common_options()
def backfill() -> None:
    """Look at a backfill that is under way, and steer it: from any terminal, by anybody with the rights.

    What is said works within a second, is kept until something else is said, also when the process is started anew, and is
    written into the audit. ID may be left out where one migration alone is in its backfill.

    \b
    Example:
      zdmigrate backfill status
      zdmigrate backfill set --rate 20MB/s
    """


@backfill.command(cls=Command, short_help="Show how far it is, at what pace, and what stops it.")
@_id
@common_options()
def status(*, migration: str | None) -> int:
    """Show the tables, what was said, and each process: its rate, its end, what stops it, when it was last heard of.

    \b
    Example:
      zdmigrate backfill status
      zdmigrate backfill status 20261121 --format json
    """
    app = current()
    with app.project() as project:
        found = project.steering(writing=False).status(migration)
    if not found:
        app.narrate("no migration is in its backfill")
        if app.format != "json":
            return 0
    _show(*found)
    return 0


@backfill.command(cls=Command, short_help="Let no batch begin until resume.")
@_id
@click.option("--reason", metavar="TEXT", help="Why, for whoever asks.")
@audit_options
@common_options()
def pause(*, migration: str | None, reason: str | None, deployment: str | None, artifact: str | None) -> int:
    """Let no batch begin until resume. Processes stay, and wait; it never waits for a batch that is under way.

    \b
    Example:
      zdmigrate backfill pause --reason "replica lag, see incident 512"
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        _show(project.steering().pause(migration, _given(reason)))
    return 0


@backfill.command(cls=Command, short_help="Let a paused backfill go on.")
@_id
@audit_options
@common_options()
def resume(*, migration: str | None, deployment: str | None, artifact: str | None) -> int:
    """Let a paused backfill go on. A hold, as abort leaves it, is lifted by: zdmigrate unhold.

    \b
    Example:
      zdmigrate backfill resume
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        _show(project.steering().resume(migration))
    return 0


@backfill.command(cls=Command, short_help="End it, and hold the migration there.")
@_id
@click.option("--reason", metavar="TEXT", help="Why, for whoever asks (default: backfill aborted).")
@audit_options
@common_options()
def abort(*, migration: str | None, reason: str | None, deployment: str | None, artifact: str | None) -> int:
    """End it: the migration is held, and its processes end at their next look, with exit code 4.

    What is filled stays filled. zdmigrate unhold, then advance goes on from there; zdmigrate revert takes it back.

    \b
    Example:
      zdmigrate backfill abort 20261121 --reason "the disk fills up"
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        _show(project.steering().abort(migration, _given(reason) or "backfill aborted"))
    return 0


@backfill.command(cls=Command, short_help="Change its limits while it runs.")
@_id
@click.option(
    "--rate", type=Configured(Size(per_second=True)), metavar="20MB/s", help="WAL a second, of all processes."
)
@click.option("--workers", type=Configured(click.IntRange(1, 64)), metavar="N", help="Workers of each process.")
@click.option(
    "--target-latency", type=Configured(Duration(positive=True, most_ms=400)), metavar="50ms", help="p95 of a batch."
)
@click.option("--max-lag", type=Configured(Size()), metavar="64MB", help="What a standby may be behind, in WAL.")
@click.option("--max-lag-time", type=Configured(Duration(positive=True)), metavar="10s", help="The same, in time.")
@click.option("--standbys", type=Configured(Names()), metavar="A,B", help="Those that must be there; none: nobody.")
@audit_options
@common_options()
def set(  # noqa: A001 (what it is called)
    *, migration: str | None, deployment: str | None, artifact: str | None, **limits: Any
) -> int:
    """Change limits while it runs. The word default goes back to the configuration. Sizes are PostgreSQL's: 1 kB is 1,024 B.

    \b
    Example:
      zdmigrate backfill set --rate 20MB/s --workers 4
      zdmigrate backfill set --max-lag 64MB --max-lag-time 10s
      zdmigrate backfill set --rate default
    """
    app = current()
    values = {name: _value(given) for name, given in limits.items() if given is not None}
    if not values:
        raise click.UsageError("nothing to set; for example: zdmigrate backfill set --rate 20MB/s")
    with app.project(deployment=deployment, artifact=artifact) as project:
        _show(project.steering().set(migration, values))
    return 0


@backfill.command(cls=Command, short_help="Work on one that an advance elsewhere has begun.")
@_id
@workers_option
@click.option("--max-runtime", type=Duration(), metavar="50m", help="Stop after this time, with exit code 3.")
@audit_options
@common_options()
def work(*, migration: str | None, max_runtime: timedelta | None, deployment: str | None, artifact: str | None) -> int:
    """Work on a backfill that an advance elsewhere has begun: another process, on this machine or another one.

    All that it writes is on behalf of that advance. Where that has ended, or died and its lease has run out, this
    one stops too, with exit code 3, unless another advance has taken over: then it helps that one. With a hold it ends with
    exit code 4, and with 0 when no row is left to fill.

    \b
    Example:
      zdmigrate backfill work
      zdmigrate backfill work 20261121 --workers 4 --max-runtime 8h
    """
    app = current()
    with app.project(deployment=deployment, artifact=artifact) as project:
        return app.show(project.join(migration, max_runtime=max_runtime))


def _value(given: Any) -> Any:
    return None if given == Configured.WORD else given


def _given(reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise click.UsageError("the reason is empty")
    return reason


def _show(*found: BackfillStatus) -> None:
    from zdmigrate.cli import backfill_rendering as rendering

    app = current()
    text = app.redacted("".join(rendering.status_text(each) for each in found))
    app.show_text(text, backfills=[rendering.status_json(each, app.redacted) for each in found])
