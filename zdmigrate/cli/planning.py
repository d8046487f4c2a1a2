"""``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import COMMANDS, rendering
from zdmigrate.cli.common import FORMATS, Command, common_options, complete_ids, evidence_option
from zdmigrate.cli.runtime import App, current

if TYPE_CHECKING:
    from zdmigrate.compat.evidence import Beside
    from zdmigrate.engine.forecasting import Forecasts
    from zdmigrate.plan import Plan

_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=Command, short_help=COMMANDS["plan"][1])
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--sql", is_flag=True, help="Only the SQL, for reading.")
@click.option("--stats", type=_EXISTING_FILE, help="Plan from a saved catalog, without connecting.")
@click.option("--write-stats", type=_FILE, help="Save the catalog for a later --stats.")
@evidence_option("Show what a check has proven beside each phase.")
@click.option("--probe", is_flag=True, help="Measure what filling rows costs, in transactions that are rolled back.")
@click.option("--check-locks", is_flag=True, help="Try it on a scratch server with the database's schema.")
@common_options(FORMATS)
def plan(
    *,
    ids: tuple[str, ...],
    sql: bool,
    stats: Path | None,
    write_stats: Path | None,
    evidence: tuple[Path, ...],
    probe: bool,
    check_locks: bool,
) -> int:
    """Show, phase by phase, what would be done: each step's SQL, its locks and what they block, whether it scans or
    rewrites, rows and size, what filling rows will cost, gates, warnings, and what can be undone until when. Changes
    nothing.

    IDs may be shortened to a unique prefix; without one, every migration of the directory is planned.

    --probe fills a few hundred rows at a time in each of a few places of the table, for at most half a second, takes
    that back, and says what it did. What others have locked is passed over.

    --check-locks starts a PostgreSQL server of the same version, copies the schema to it (pg_dump, no rows) and takes
    what has not begun through all phases there, with the functions of RunPython. A lock that RunSQL or RunPython does
    not declare is then found before production (exit code 6).

    \b
    Example:
      zdmigrate plan
      zdmigrate plan 20261121 --format markdown > plan.md
      zdmigrate plan --write-stats production.stats
      zdmigrate plan --stats production.stats --sql
      zdmigrate plan 20261121 --probe
      zdmigrate plan 20261121 --check-locks
      zdmigrate plan 20261121 --evidence check.json
    """
    app = current()
    if stats is not None and write_stats is not None:
        raise click.UsageError("--stats reads a saved catalog, --write-stats saves one: give one of them")
    if stats is not None and check_locks:
        raise click.UsageError("--check-locks copies the database's schema, and --stats is without a database")
    if probe and (sql or stats is not None):
        raise click.UsageError(
            f"--probe measures on the database, and {'--sql' if sql else '--stats'} shows no measurement"
        )
    if sql and app.format != "text":
        raise click.UsageError(f"--sql is a format of its own, and cannot be combined with --format {app.format}")
    if stats is not None:
        from zdmigrate.engine.project import forecasts_offline, plan_offline

        plans = plan_offline(app.config, ids, stats.read_bytes())
        forecasts = forecasts_offline(app.config, plans, stats.read_bytes())
    else:
        with app.project() as project:
            plans = project.plan(ids)
            forecasts = {} if sql else project.forecasts(plans, probe=probe)
            if write_stats is not None:
                write_stats.write_bytes(project.snapshot(ids))
                app.narrate(f"catalog saved in {write_stats}")
    if not plans:
        app.narrate(f"no migration to show; the directory is {app.config.dir}")
    if check_locks:
        from zdmigrate.engine import rehearsal

        if (failed := rehearsal.run(app.config, ids)) is not None:
            message = f"on a scratch server: {failed.message}"
            return app.fail(message, hint=failed.hint, exit_code=failed.exit_code)
        app.narrate("on a scratch server no step took another lock than it declares")
    click.echo(_rendered(app, plans, evidence, forecasts, sql=sql), nl=False)
    return 0


def _rendered(app: App, plans: list[Plan], evidence: tuple[Path, ...], forecasts: Forecasts, *, sql: bool) -> str:
    if sql:
        return rendering.plans_sql(plans)
    costs = [forecasts.get(plan.migration, ()) for plan in plans]
    shown = list(zip(plans, _beside(plans, evidence), costs, strict=True))
    match app.format:
        case "json":
            return rendering.document(plans=[rendering.plan_json(*each) for each in shown]) + "\n"
        case "markdown":
            return "\n".join(rendering.plan_markdown(*each) for each in shown)
        case _:
            return "\n\n".join(rendering.plan_text(*each) for each in shown)


def _beside(plans: list[Plan], files: tuple[Path, ...]) -> list[Beside | None]:
    if not files:
        return [None] * len(plans)
    from zdmigrate.compat.evidence import Evidence, beside

    found = [Evidence.read(file) for file in files]
    return [beside(found, plan) for plan in plans]
