"""The documentation is current, complete, and its tutorial works."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import click
import pytest

from tests.support.servers import Database, connect
from zdmigrate.cli import main

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


def test_the_tutorial_works(database: Database, tmp_path: Path) -> None:
    """Its SQL, its migration file and its commands, in the order of the page; only the advance after a revert waits."""
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    environment = {**os.environ, "ZDMIGRATE_URL": database.url, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    codes: list[int] = []
    for language, body in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL):
        if language == "sql":
            with connect(database) as connection:
                for statement in filter(str.strip, body.split(";\n")):
                    row = connection.execute(statement.encode())
                    if "RETURNING" in statement:
                        assert row.fetchone() is not None
        elif language == "python":
            (tmp_path / "migrations").mkdir()
            (tmp_path / "migrations" / "20261121_1432_email_address.py").write_text(body, encoding="utf-8")
        elif language == "console":
            for line in re.findall(r"^\$ zdmigrate (.*)$", body, flags=re.MULTILINE):
                call = [sys.executable, "-m", "zdmigrate", *line.split()]
                done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
                codes.append(done.returncode)
                assert "Traceback" not in done.stderr
                for shown in body.splitlines():
                    if not shown.startswith("$"):
                        assert shown in done.stdout
    assert codes == [0, 0, 0, 0, 0, 4, 0, 0, 0]
    with connect(database) as connection:
        names = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
    assert {name for (name,) in names} == {"id", "email_address"}
