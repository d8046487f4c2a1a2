"""The documentation is current and complete, and what its pages show is what one sees."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import click
import pytest

from tests.docs import consoles
from tests.support.servers import Database, connect
from zdmigrate.cli import main
from zdmigrate.config import Config
from zdmigrate.engine.project import Project

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(version("click") < "8.2", reason="older clicks lay out their help differently")
def test_generated_pages_are_current() -> None:
    stale = [path.name for path, text in generator().generated().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/generate.py"


def test_the_plans_shown_are_those_of_a_real_server(database: Database, tmp_path: Path) -> None:
    """The catalogs that the examples keep, read again."""
    if database.server.major != consoles.MAJOR:
        pytest.skip(f"the pages show PostgreSQL {consoles.MAJOR}")
    for name, shown in generator().plans().items():
        folder = ROOT / "migrations_examples" / name
        with connect(database) as connection:
            connection.execute((folder / "seed.sql").read_bytes())
            config = Config(url=database.conninfo, dir=folder / "migrations")
            with Project.open(config, report=lambda _: None) as project:
                (plan,) = project.plan([])
            assert plan.to_sql() == shown.to_sql(), "run: python docs/generate.py catalogs"
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_every_command_and_every_exit_code_is_documented() -> None:
    reference = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in main.list_commands(click.Context(main)):
        assert f"## zdmigrate {name}\n" in reference
    codes = (DOCS / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    assert all(f"| {code} |" in codes for code in range(9))


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if f": {p.relative_to(DOCS)}" not in navigation]
    assert missing == []


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("page", consoles.pages(), ids=lambda page: page.stem)
def test_what_the_pages_show_is_what_one_sees(page: Path, database: Database, tmp_path: Path) -> None:
    """Every command of every page; on other majors than the pages', only that each ends as it should."""
    found: list[str] = []
    terminal = consoles.Terminal(database, tmp_path)
    try:
        for _, shown, seen in consoles.replayed(page.read_text(encoding="utf-8"), terminal):
            if database.server.major == consoles.MAJOR or shown.command == "echo $?":
                found += consoles.differences(shown, seen)
    finally:
        terminal.close()
    assert not found, "\n".join([*found, f"run: python -m tests.docs.consoles {page.name}"])


def test_the_tutorial_uses_every_command_of_the_usual_path() -> None:
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for command in ("init", "new", "plan", "advance", "status", "revert", "unhold", "history"):
        assert f"$ zdmigrate {command}" in page


def test_a_page_that_shows_something_else_is_found(database: Database, tmp_path: Path) -> None:
    page = "```console\n$ zdmigrate init\ncontrol schema zdmigrate: applied 001.sql; environment staging\n```\n"
    terminal = consoles.Terminal(database, tmp_path)
    ((_, shown, seen),) = consoles.replayed(page, terminal)
    assert any("+control schema" in line for line in consoles.differences(shown, seen))
    assert not consoles.differences(shown, shown.output)


def test_the_messages_of_the_runbook_are_those_of_the_program() -> None:
    """What stands in italics at the beginning of a line or table row is looked for in the source, word by word."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "zdmigrate").rglob("*.py")))
    source = re.sub(r"\{[^{}]*\}", "…", re.sub(r'"\s*\n\s*f?"', "", source))
    said = re.findall(
        r"^(?:\| )?\*([^*]+)\*", (DOCS / "howto" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(said) > 20
    assert [part for message in said for part in _fixed_parts(message) if not re.search(part, source)] == []


def _fixed_parts(message: str) -> list[str]:
    """The pieces between what varies, as patterns in which each word may be a placeholder of the source."""
    pieces = [piece.split() for piece in re.split(r"…|[\d.]+|\bN\b|public\.users|[:();,]|\"", message)]
    return [r"\s".join(f"(?:{re.escape(word)}|…)" for word in words) for words in pieces if len(words) >= 2]
