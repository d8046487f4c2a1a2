"""Imports point downwards only, and what applications import is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import zdmigrate

PACKAGE = Path(zdmigrate.__file__).parent

# From the bottom up. A module may import from its own layer and from those below.
LAYERS = (
    ("zdmigrate",),  # the facade: lazy, imports nothing at run time
    (
        "zdmigrate.errors",
        "zdmigrate.phases",
        "zdmigrate.sqltext",
        "zdmigrate.schema",
        "zdmigrate.wording",
        "zdmigrate.units",
        "zdmigrate.app",
    ),
    ("zdmigrate.demands", "zdmigrate.hazards"),
    ("zdmigrate.plan",),
    ("zdmigrate.plan_words",),
    ("zdmigrate.planning",),
    ("zdmigrate.changes",),
    ("zdmigrate.migration", "zdmigrate.config", "zdmigrate.throttle_settings"),
    ("zdmigrate.app.dual.declared", "zdmigrate.app.dual.writing"),  # they read what a migration declares
    ("zdmigrate.postgres",),
    ("zdmigrate.backfill", "zdmigrate.control"),
    ("zdmigrate.engine",),
    ("zdmigrate.compat",),
    ("zdmigrate.demo",),
    ("zdmigrate.cli",),
    ("zdmigrate.testing",),
    ("zdmigrate.pytest_plugin",),
    ("zdmigrate.__main__",),
)


def layer_of(module: str) -> int:
    name = module if module in ("zdmigrate", "zdmigrate.__main__") else ".".join(module.split(".")[:2])
    found = [level for wanted in (module, name) for level, names in enumerate(LAYERS) if wanted in names]
    assert found, f"{module} has no layer: add it to LAYERS"
    return found[0]


def run_time_imports(path: Path) -> set[str]:
    """The modules of zdmigrate that a file imports, but for those under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                for alias in child.names:
                    submodule = PACKAGE.parent.joinpath(*(child.module or "").split("."), alias.name)
                    is_module = submodule.is_dir() or submodule.with_suffix(".py").exists()
                    found.add(f"{child.module}.{alias.name}" if is_module else str(child.module))
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name.split(".")[0] == "zdmigrate"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_point_downwards() -> None:
    upwards = [
        f"{module_name(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in run_time_imports(path)
        if layer_of(imported) > layer_of(module_name(path))
    ]
    assert upwards == []


def test_deciding_does_no_input_or_output() -> None:
    forbidden = {"psycopg", "socket", "subprocess", "threading", "os"}
    for layer in ("planning", "changes"):
        for path in (PACKAGE / layer).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not names & forbidden, path


def test_what_applications_import_is_light() -> None:
    code = "import sys, zdmigrate, zdmigrate.app; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("sqlalchemy", "psycopg", "click", "rich", "tenacity", "msgspec", "alembic"):
        assert f"'{heavy}'" not in done.stdout


def test_the_public_surface_is_sorted_and_there() -> None:
    assert zdmigrate.__all__ == sorted(zdmigrate.__all__)
    assert all(getattr(zdmigrate, name) is not None for name in zdmigrate.__all__)


def test_what_applications_import_trusts_no_clock_but_the_monotonic_one() -> None:
    """An instance whose clock is an hour off is one like the others."""
    wrong = re.compile(r"time\.time\(|datetime|from time import (?!monotonic\b)")
    found = {path.name for path in (PACKAGE / "app").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))}
    assert found == set()
