"""Every change has an example and a page, and every folder takes part."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import zdmigrate
from tests.support.examples import FOLDER, NAMES
from zdmigrate.changes.base import Change
from zdmigrate.migration import load_directory

ROOT = Path(__file__).parents[2]


def public_changes() -> set[type[Change]]:
    """What a migration file can import."""
    exported = (getattr(zdmigrate, name) for name in zdmigrate.__all__)
    return {each for each in exported if isinstance(each, type) and issubclass(each, Change)}


def test_every_change_is_exported_and_has_an_example_and_a_page() -> None:
    used = {
        type(change)
        for name in NAMES
        for file in load_directory(FOLDER / name / "migrations")
        for change in file.changes
    }
    missing = []
    for change in sorted(_defined() | public_changes(), key=lambda change: change.__name__):
        name = change.__name__
        page = ROOT / "docs" / "changes" / f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).lower()}.md"
        if change not in public_changes():
            missing.append(f"{name} is not exported by zdmigrate")
        if change not in used:
            missing.append(f"{name} has no folder in migrations_examples/ with a migration that uses it")
        if not page.is_file():
            missing.append(f"{name} has no page {page.relative_to(ROOT)}")
    assert missing == []


def _defined() -> set[type[Change]]:
    """The classes in the modules of `zdmigrate.changes` that are whole changes: nothing of them is left abstract."""
    found: set[type[Change]] = set()
    for path in (ROOT / "zdmigrate" / "changes").glob("*.py"):
        module = importlib.import_module(f"zdmigrate.changes.{path.stem}")
        found |= {
            each
            for name, each in vars(module).items()
            if isinstance(each, type)
            and issubclass(each, Change)
            and each.__module__ == module.__name__
            and not each.__abstractmethods__
            and not name.startswith("_")
        }
    return found


def test_every_folder_takes_part() -> None:
    wanted = ("README.md", "seed.sql", "migrations", "models_old.py", "models_new.py")
    folders = [path for path in sorted(FOLDER.iterdir()) if path.is_dir() and path.name != "__pycache__"]
    missing = [f"{path.name}/{name}" for path in folders for name in wanted if not (path / name).exists()]
    missing += [f"{path.name} is not tested" for path in folders if path.name not in NAMES]
    missing += [
        f"{path.name}/seed.sql: generate_series(1, 500), which tools replace to make more rows"
        for path in folders
        if (path / "seed.sql").exists()
        and "generate_series(1, 500)" not in (path / "seed.sql").read_text(encoding="utf-8")
    ]
    assert missing == []
    assert NAMES


def test_the_index_is_current() -> None:
    spec = importlib.util.spec_from_file_location("examples_index", FOLDER / "index.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == module.index(), (
        "run: python migrations_examples/index.py"
    )
