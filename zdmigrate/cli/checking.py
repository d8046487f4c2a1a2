"""``check``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import COMMANDS
from zdmigrate.cli.checking_options import Serving, Starting, selected, server_options, start_options
from zdmigrate.cli.common import Command, common_options, complete_ids
from zdmigrate.cli.runtime import App, current

if TYPE_CHECKING:
    from zdmigrate.compat.checking import Checked, Pair
    from zdmigrate.compat.probing.commands import Commands
    from zdmigrate.compat.report import Report

FORMATS = ("text", "json", "junit", "sarif", "github", "gitlab", "markdown", "html")
"""The keys of `zdmigrate.compat.formats.FORMATS`; a test compares them."""
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command, short_help=COMMANDS["check"][1])
@click.argument("ids", nargs=-1, metavar="[MIGRATION]...", shell_complete=complete_ids)
@click.option("--old", multiple=True, type=_FILE, metavar="FILE", help="Version N's footprint. Repeatable, with --new.")
@click.option(
    "--new", multiple=True, type=_FILE, metavar="FILE", help="Version N+1's footprint. Repeatable, with --old."
)
@click.option("--run-old", metavar="COMMAND", help="Version N's own tests, once for each phase in which it works.")
@click.option("--run-new", metavar="COMMAND", help="Version N+1's own tests, likewise.")
@click.option(
    "--report", "reports", multiple=True, metavar="FORMAT=FILE", help="Write it in another format too. Repeatable."
)
@click.option("--evidence", type=_FILE, metavar="FILE", help="Write the verdict, for advance --evidence.")
@start_options
@server_options
@common_options(FORMATS)
def check(
    *,
    ids: tuple[str, ...],
    old: tuple[Path, ...],
    new: tuple[Path, ...],
    run_old: str | None,
    run_new: str | None,
    reports: tuple[str, ...],
    evidence: Path | None,
    starting: Starting,
    serving: Serving,
) -> int:
    """Prove on a scratch server that versions N and N+1 both work in every phase, forwards and backwards.

    Each of the phases is gone through there, by the engine that will do it in production. In each of them both
    footprints are held against the catalog, every statement is prepared and executed, rows are written by one version
    and read by the other, and all of it is repeated on connections that were open before. The result is a matrix of
    phases and versions, and the deploy windows that follow from it.

    Without MIGRATION, all that are in the directory. Exit code 0: compatible; 6: not; 1: it could not be checked.

    \b
    Example:
      zdmigrate check --old footprints/2.3.json --new footprints/2.4.json --dump schema.sql
      zdmigrate check --old fp/2.3.json --new fp/2.4.json --image postgres:16 --image postgres:17 20261121
      zdmigrate check --old fp/2.3.json --new fp/2.4.json --report html=check.html --evidence check.json
    """
    app = current()
    files = _files(reports)
    pairs = _pairs(old, new)
    report, checked = _checked(app, ids, pairs, _commands(app, starting, run_old, run_new), starting, serving)
    from zdmigrate.compat import formats

    click.echo(formats.render(report, checked[0].plans, app.format), nl=False)  # first: a file may not be writable
    _write(app, report, checked, files, evidence)
    return report.exit_code


def _files(reports: Sequence[str]) -> list[tuple[str, Path]]:
    found = []
    for each in reports:
        name, equals, path = each.partition("=")
        if name not in FORMATS or not equals or not path:
            raise click.BadParameter(f"{each!r} is not FORMAT=FILE; formats are {', '.join(FORMATS)}")
        found.append((name, Path(path)))
    return found


def _pairs(old: Sequence[Path], new: Sequence[Path]) -> list[Pair]:
    from zdmigrate.compat.checking import Pair
    from zdmigrate.compat.footprint import Footprint

    if not old or len(old) != len(new):
        raise click.UsageError(
            "give the footprints of both versions: --old FILE --new FILE, a pair for each application "
            f"({len(old)} old and {len(new)} new ones were given); zdmigrate record makes them"
        )
    found = []
    for number, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        was, will = Footprint.read(before), Footprint.read(after)
        name = will.application or was.application or ("application" if len(old) == 1 else f"application {number}")
        found.append(Pair(name=name, old=was, new=will))
    return found


def _commands(app: App, starting: Starting, old: str | None, new: str | None) -> Commands | None:
    from zdmigrate.compat.probing.commands import Commands
    from zdmigrate.compat.report import Version

    lines = {version: line for version, line in ((Version.OLD, old), (Version.NEW, new)) if line}
    if not lines:
        return None
    environment = starting.environment(app.config)
    return Commands(lines=lines, environment=environment, directory=Path.cwd(), report=app.narrate)


def _checked(
    app: App, ids: Sequence[str], pairs: list[Pair], commands: Commands | None, starting: Starting, serving: Serving
) -> tuple[Report, list[Checked]]:
    from zdmigrate.compat import checking, suppressions
    from zdmigrate.compat.report import Report

    config = app.config
    known = suppressions.read(config)
    chosen, before = selected(config, ids)
    start = starting.start(config, before=before)
    with serving.open(config, like=starting.origin(config), report=app.narrate) as servers:
        checked = [
            checking.check(
                server, start, config, chosen, pairs, app_role=starting.application(config), commands=commands
            )
            for server in servers
        ]
    runs = [run for each in checked for run in each.runs]
    applied, void = suppressions.apply(known, runs, today=dt.datetime.now(dt.UTC).date())
    plans = tuple((plan.migration, plan.hash) for plan in checked[0].plans)
    return Report(plans=plans, runs=applied, void=void), checked


def _write(
    app: App, report: Report, checked: Sequence[Checked], files: Sequence[tuple[str, Path]], evidence: Path | None
) -> None:
    from zdmigrate.compat import formats
    from zdmigrate.compat.evidence import Evidence

    for path in (*(path for _, path in files), *([evidence] if evidence is not None else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    for name, path in files:
        path.write_text(formats.render(report, checked[0].plans, name), encoding="utf-8")
        app.narrate(f"{name} report in {path}")
    if evidence is not None:
        evidence.write_bytes(Evidence.of(report, made_at=dt.datetime.now(dt.UTC)).to_bytes())
        app.narrate(f"evidence in {evidence}")
