"""zdmigrate as an installed distribution, so that pytest finds the plugin by its entry point, installed or not."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def distribution(directory: Path) -> Path:
    """A directory for PYTHONPATH with what an installation would say of zdmigrate: its entry points and its files."""
    info = directory / "zdmigrate-0.dist-info"
    info.mkdir(parents=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["pytest11"].items())
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "zdmigrate").rglob("*.py"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zdmigrate\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{points}", encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")
    return directory
