"""The check on real applications: two releases each, from PyPI, on PostgreSQL.

``python -m benchmarks.real_applications [NAME]... [--folder FOLDER] [--major 18]`` needs a network the first time. For each
application both releases are installed in virtual environments of their own; the older one makes its schema, the newer
one migrates a copy of it, and both are recorded, models and statements, while ``exercise.py`` uses them. Then the way
between the two schemas is checked twice: as one phase that sends what the newer release's own revisions send
(``plain``), and as the migration in the application's folder (``phases``). The findings are written into the folder, in
full; the exit status is 1 where the second way is not compatible, or does not lead to the newer release's schema.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.real_applications.applications import APPLICATIONS, Application
from benchmarks.real_applications.trial import Result, Trial
from zdmigrate.compat import formats
from zdmigrate.compat.report import Report, proven_window
from zdmigrate.compat.scratch.servers import open_servers

COLUMNS = (
    "application", "N", "N+1", "way", "tables", "statements", "states", "N works until", "N+1 works from", "findings",
    "could not check", "seconds",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(each.name for each in APPLICATIONS))
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "zdmigrate-real-applications"), help="kept"
    )
    parser.add_argument("--major", type=int, help="of PostgreSQL")
    arguments = parser.parse_args()
    chosen = [each for each in APPLICATIONS if not arguments.names or each.name in arguments.names]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = [result for each in chosen for result in tried(each, arguments.folder, arguments.major)]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for result in results:
        print("| " + " | ".join(row(result)) + " |")
    phased = [result for result in results if result.way == "phases"]
    for result in phased:
        for line in result.drift:
            print(f"{result.application.name}: {line}")
    return 1 if any(result.run.exit_code == 6 or result.drift for result in phased) else 0


def tried(application: Application, folder: Path, major: int | None) -> Iterator[Result]:
    """Both checks of one, on a server of its own."""
    with open_servers(("local", "embedded"), major=major, report=say) as (server,):
        for result in Trial(application=application, server=server, folder=folder, report=say).results():
            write(result, folder)
            yield result


def write(result: Result, folder: Path) -> None:
    """The whole report, as text and as a page."""
    plans = result.checked.plans
    report = Report(plans=tuple((plan.migration, plan.hash) for plan in plans), runs=(result.run,))
    for name, suffix in (("text", "txt"), ("json", "json"), ("html", "html")):
        path = folder / f"{result.application.name}.{result.way}.{suffix}"
        path.write_text(formats.render(report, plans, name), encoding="utf-8")
        say(f"{name} report in {path}")


def row(result: Result) -> tuple[str, ...]:
    """What the table shows."""
    run = result.run
    until, since = proven_window(run)
    subjects = {(finding.version, finding.subject) for finding in run.broken}
    return (
        result.application.name, result.application.old, result.application.new, result.way,
        f"{len(result.old.tables)}, {len(result.new.tables)}",
        f"{len(result.old.statements)}, {len(result.new.statements)}", str(len(run.reached)),
        str(until or "never"), str(since or "never"), f"{len(run.broken)} ({len(subjects)} probes)",
        str(len(run.unproven)), f"{result.seconds:.0f}",
    )  # fmt: skip


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
