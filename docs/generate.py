"""Writes what is generated of the documentation: `python docs/generate.py`.

`reference/cli.md` comes from the commands' own help, the tables and the SQL in `changes/` from the plans of
`migrations_examples/`, whose catalogs `python docs/generate.py catalogs` reads again from a scratch server, and the
samples of a check's formats from the report in `reference/check-sample.json`; `howto/frameworks.md` shows the files of
`examples/`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from zdmigrate.cli import main
from zdmigrate.compat import formats
from zdmigrate.compat.evidence import Evidence
from zdmigrate.compat.formats import document
from zdmigrate.compat.report import Report
from zdmigrate.config import Config
from zdmigrate.engine.project import Project, plan_offline
from zdmigrate.plan import Plan
from zdmigrate.postgres.servers import ScratchServer, find_binaries

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "migrations_examples"
MAJOR = 18
LONGEST = 60
"""Lines of a sample."""
BEGIN, END = "<!-- generated: python docs/generate.py -->", "<!-- end -->"


def cli_reference() -> str:
    """Every command's help, as one page."""
    settings = {**main.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(main, info_name="zdmigrate", **settings)
    lines = ["# Commands", "", "Made from the commands' own `--help`.", ""]
    for own in _commands(main, context):
        title = f"{'#' * (len(own.command_path.split()))} {own.command_path}"
        lines += [title, "", "```text", own.command.get_help(own), "```", ""]
    return "\n".join(lines)


def _commands(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    """Every command below a group, each group before its own."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        yield own
        if isinstance(command, click.Group):
            yield from _commands(command, own)


def plans() -> dict[str, Plan]:
    """The plan of every example, from the catalog that its folder keeps."""
    found = {}
    for folder in sorted(path.parent for path in EXAMPLES.glob("*/catalog.json")):
        config = Config(dir=folder / "migrations")
        (found[folder.name],) = plan_offline(config, [], (folder / "catalog.json").read_bytes())
    return found


def write_catalogs() -> None:
    """Make the examples' seeds on a scratch server, and keep what `zdmigrate plan` reads of it."""
    with ScratchServer.start(find_binaries(MAJOR)) as server:
        for folder in sorted(path.parent for path in EXAMPLES.glob("*/seed.sql")):
            server.create_database(folder.name)
            with server.connect(folder.name, autocommit=True) as connection:
                connection.execute((folder / "seed.sql").read_bytes())
                connection.execute("ANALYZE")
            config = Config(url=server.conninfo(folder.name), dir=folder / "migrations")
            with Project.open(config, report=lambda _: None) as project:
                (folder / "catalog.json").write_bytes(project.snapshot([]) + b"\n")


def page_block(plan: Plan) -> str:
    """The window, a table of the steps and their locks, and the SQL."""
    lines = [
        f"Version N works through `{plan.window.old_until}`, version N+1 from `{plan.window.new_from}` on.",
        "",
        "| phase | step | lock | while it is held, blocks | reads all rows | undo |",
        "|---|---|---|---|---|---|",
    ]
    for step in plan.steps():
        locks = "<br>".join(f"{lock.mode} on `{lock.table}`" for lock in step.locks) or "none"
        blocks = "<br>".join(lock.mode.blocks for lock in step.locks) or "nothing"
        undo = "**no**" if step.irreversible else "yes" if step.undo else "nothing to undo"
        lines.append(
            f"| `{step.phase}` | {step.title} | {locks} | {blocks} | {'yes' if step.scans else 'no'} | {undo} |"
        )
    return "\n".join([*lines, "", "```sql", plan.to_sql().rstrip("\n"), "```"])


def with_plan(page: str, text: str) -> str:
    """`page` with the generated block replaced."""
    block = f"{BEGIN}\n\n{text}\n\n{END}"
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: block, page, flags=re.DOTALL)


def sample_report(plan: Plan) -> Report:
    """The check that `reference/check-formats.md` shows, of this plan."""
    report = document.from_json((HERE / "reference" / "check-sample.json").read_bytes())
    return dataclasses.replace(report, plans=((plan.migration, plan.hash),))


def check_samples(plan: Plan) -> dict[str, str]:
    """The report in every format, as blocks of code, the longer ones shortened."""
    report = sample_report(plan)
    shown = {name: formats.render(report, [plan], name) for name in formats.FORMATS if name != "html"}
    made_at = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
    shown["evidence"] = Evidence.of(report, made_at=made_at).to_bytes().decode()
    languages = {"junit": "xml", "markdown": "markdown", "text": "text", "github": "text"}
    return {name: _block(languages.get(name, "json"), text) for name, text in shown.items()}


def _block(language: str, text: str) -> str:
    lines = text.splitlines()
    shown = lines if len(lines) <= LONGEST else [*lines[:LONGEST], "…"]
    return "\n".join([f"````{language}", *shown, "````"])


def with_samples(page: str, samples: dict[str, str]) -> str:
    """`page` with each generated sample replaced."""
    return re.sub(
        r"<!-- sample: (\w+) -->.*?" + re.escape(END),
        lambda found: f"<!-- sample: {found[1]} -->\n\n{samples[found[1]]}\n\n{END}",
        page,
        flags=re.DOTALL,
    )


def with_examples(page: str) -> str:
    """`page` with the files of `examples/` that it shows."""

    def shown(found: re.Match[str]) -> str:
        source = (HERE / "examples" / found[1]).read_text(encoding="utf-8").rstrip("\n")
        return f"<!-- example: {found[1]} -->\n\n```python\n{source}\n```\n\n{END}"

    return re.sub(r"<!-- example: (\S+) -->.*?" + re.escape(END), shown, page, flags=re.DOTALL)


def check_pages(plan: Plan) -> dict[Path, str]:
    """The page about formats, and the sample of the page of a check."""
    path = HERE / "reference" / "check-formats.md"
    return {
        path: with_samples(path.read_text(encoding="utf-8"), check_samples(plan)),
        path.with_name("check-sample.html"): formats.render(sample_report(plan), [plan], "html"),
    }


def generated() -> dict[Path, str]:
    """Every generated page, whole."""
    pages = {HERE / "reference" / "cli.md": cli_reference()}
    pages |= check_pages(plans()["rename_column"])
    frameworks = HERE / "howto" / "frameworks.md"
    pages[frameworks] = with_examples(frameworks.read_text(encoding="utf-8"))
    for name, plan in plans().items():
        path = HERE / "changes" / f"{name}.md"
        if path.is_file():  # an example of several changes has no page of its own
            pages[path] = with_plan(path.read_text(encoding="utf-8"), page_block(plan))
    return pages


if __name__ == "__main__":
    if sys.argv[1:] == ["catalogs"]:
        write_catalogs()
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
