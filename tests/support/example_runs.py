"""The folders of migrations_examples, at any size, on any server: a new folder is found without being named."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from zdmigrate.config import Config

EXAMPLES = Path(__file__).parents[2] / "migrations_examples"
SEEDED = "generate_series(1, 500)"


@dataclasses.dataclass(frozen=True)
class Example:
    """One folder."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    def seed(self, rows: int) -> str:
        """The SQL of the tables, filled with so many rows."""
        text = (self.directory / "seed.sql").read_text(encoding="utf-8")
        assert SEEDED in text, f"{self.name}/seed.sql must fill its table from {SEEDED}"
        return text.replace(SEEDED, f"generate_series(1, {rows})")

    def config(self, url: str) -> Config:
        return Config(url=url, dir=self.directory / "migrations")

    def models(self, version: str) -> ModuleType | None:
        """The application's models, ``old`` or ``new``."""
        path = self.directory / f"models_{version}.py"
        return loaded(path) if path.exists() else None

    @property
    def overrides(self) -> Mapping[str, str]:
        """The gates that a person must open, each with a reason."""
        found: Mapping[str, str] = getattr(self._settings, "OVERRIDES", {})
        return found

    def runs_on(self, major: int) -> bool:
        """Whether it can work on that PostgreSQL."""
        return major in getattr(self._settings, "MAJORS", (major,))

    @functools.cached_property
    def _settings(self) -> ModuleType | None:
        path = self.directory / "example.py"
        return loaded(path) if path.exists() else None


def examples() -> list[Example]:
    """All of them, by name."""
    return [Example(path.parent) for path in sorted(EXAMPLES.glob("*/seed.sql"))]


def loaded(path: Path) -> ModuleType:
    """A Python file that belongs to no package, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
