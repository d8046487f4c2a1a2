"""An example: a folder with a migration, the models of versions N and N+1, a seed, and facts about its values.

The facts are optional names of the folder's ``example.py``; an attribute is named ``"Class.attribute"``:

``OVERRIDES``
    gate name -> reason, for `advance` and `revert`.
``MAJORS``
    the versions of PostgreSQL that support it (default: all).
``SAME``
    attribute of N's model -> attribute of N+1's that holds the same value, where the names differ; None where the
    same name means something else. A primary key mapped to another class pairs the classes; any other attribute that
    is mapped to another class says that this class belongs to the same row, and is found by its foreign key.
``VALUES``
    attribute -> function of (random, number) that makes values which both versions accept, where one made from the
    column's type would not do. Distinct numbers must make distinct values where the column is unique. Such an
    attribute gets no other values, NULL only if it is in ``NULLS``. Of an enum it is the label, here and in ``UP`` and ``DOWN``.
    ``"old.Class.attribute"`` or ``"new.Class.attribute"`` is one version's only.
``NULLS``
    attribute that only one version may set to NULL -> what the migration makes of the NULL.
``UP``, ``DOWN``
    attribute of N+1 (``UP``) or of N (``DOWN``) -> what it holds, as a function of the attributes of the row that the
    other version wrote. An attribute that is named there is compared by it, and not with its namesake.
``OPERATIONS``
    class -> the operations that an application does with it (default: all of `OPERATIONS` that are possible).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy.orm import DeclarativeBase

from zdmigrate.errors import UsageError

__all__ = ["EXAMPLES", "MAJORS", "OPERATIONS", "ROWS", "Derived", "Example", "Values"]

Values = Callable[[random.Random, int], object]
Derived = Callable[[Mapping[str, Any]], object]

MAJORS = (15, 16, 17, 18)
OPERATIONS = ("insert", "insert_minimal", "insert_nulls", "read", "read_other", "update", "delete", "upsert")
"""What a version's application does with a class."""
ROWS = 500
EXAMPLES = Path("migrations_examples")
"""Where a name is looked for, below the current directory."""
_SERIES = "generate_series(1, {})"
_FILES = ("seed.sql", "migrations", "models_old.py", "models_new.py")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A folder, loaded. `old` and `new` are the mapped classes of versions N and N+1 by name."""

    folder: Path
    old: Mapping[str, type[DeclarativeBase]]
    new: Mapping[str, type[DeclarativeBase]]
    overrides: Mapping[str, str]
    majors: tuple[int, ...]
    same: Mapping[str, str | None]
    values: Mapping[str, Values]
    nulls: Mapping[str, object]
    up: Mapping[str, Derived]
    down: Mapping[str, Derived]
    operations: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, folder: Path) -> Example:
        """Execute the folder's models and facts.

        Raises:
            UsageError: it is no example, or a fact is none.
        """
        missing = [name for name in _FILES if not (folder / name).exists()]
        if missing:
            raise UsageError(
                f"{folder} is no example: {', '.join(missing)} missing",
                hint=f"an example is a folder with {', '.join(_FILES)}",
            )
        facts = _facts(folder / "example.py")
        return cls(
            folder=folder,
            old=_classes(folder / "models_old.py"),
            new=_classes(folder / "models_new.py"),
            overrides=facts.get("OVERRIDES", {}),
            majors=tuple(facts.get("MAJORS", MAJORS)),
            same=facts.get("SAME", {}),
            values=facts.get("VALUES", {}),
            nulls=facts.get("NULLS", {}),
            up=facts.get("UP", {}),
            down=facts.get("DOWN", {}),
            operations=facts.get("OPERATIONS", {}),
        )

    @classmethod
    def find(cls, name: str, start: Path) -> Example:
        """The example that is called `name` in ``migrations_examples`` below `start`, or whose folder `name` is.

        Raises:
            UsageError: with the names that exist.
        """
        for folder in (start / EXAMPLES / name, start / name):
            if folder.is_dir():
                return cls.load(folder)
        known = sorted(path.parent.name for path in (start / EXAMPLES).glob("*/seed.sql"))
        there = f"examples: {', '.join(known)}" if known else f"there is no {EXAMPLES} in {start}; give a path"
        raise UsageError(f"there is no example {name!r}", hint=there)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def migrations(self) -> Path:
        """The migrations directory."""
        return self.folder / "migrations"

    def seed(self, rows: int = ROWS) -> str:
        """The SQL that makes schema and data, with `rows` instead of 500 rows."""
        text = (self.folder / "seed.sql").read_text(encoding="utf-8")
        return text.replace(_SERIES.format(ROWS), _SERIES.format(rows))


_TYPES = {
    "OVERRIDES": dict, "MAJORS": tuple, "SAME": dict, "VALUES": dict, "NULLS": dict, "UP": dict, "DOWN": dict,
    "OPERATIONS": dict,
}  # fmt: skip


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = {name: value for name, value in vars(_executed(path)).items() if name.isupper() and name[0] != "_"}
    for name, value in found.items():
        if name not in _TYPES:
            raise UsageError(f"{path}: {name} is no fact", hint=f"facts: {', '.join(_TYPES)}; others begin with _")
        if not isinstance(value, _TYPES[name]):
            raise UsageError(f"{path}: {name} must be a {_TYPES[name].__name__}, it is {value!r}")
    for class_, names in found.get("OPERATIONS", {}).items():
        unknown = sorted({*names} - {*OPERATIONS})
        if unknown:
            raise UsageError(
                f"{path}: {class_} has no operation {unknown[0]!r}", hint=f"there are {', '.join(OPERATIONS)}"
            )
    return found


def _classes(path: Path) -> dict[str, type[DeclarativeBase]]:
    base = vars(_executed(path)).get("Base")
    if not (isinstance(base, type) and issubclass(base, DeclarativeBase)):
        raise UsageError(f"{path}: there is no class Base(DeclarativeBase)")
    base.registry.configure()
    found = {mapper.class_.__name__: mapper.class_ for mapper in base.registry.mappers}
    return dict(sorted(found.items()))


def _executed(path: Path) -> ModuleType:
    """A module that SQLAlchemy can find again: annotations are looked up in `sys.modules`."""
    name = f"zdmigrate_example_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    return module
