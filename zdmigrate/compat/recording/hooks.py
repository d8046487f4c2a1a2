"""Waits until the application imports a driver, and then begins to listen to it."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zdmigrate.compat.recording.lines import Lines

if TYPE_CHECKING:
    from zdmigrate.compat.recording.recorder import Recorder

__all__ = ["DRIVERS", "install"]

DRIVERS = {
    "psycopg._cursor_base": "psycopg3",
    "psycopg.client_cursor": "psycopg3",
    "psycopg2": "psycopg2",
    "psycopg2.extras": "psycopg2",
    "asyncpg.protocol": "asyncpg",
    "sqlalchemy.engine.default": "sqlalchemy",
}
"""What is imported, and the module of `zdmigrate.compat.recording.drivers` that then listens."""


def install(directory: str) -> None:
    """Record in this process from now on, into files below `directory`.

    Drivers that are imported already are listened to as well. A second call changes nothing.
    """
    if any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        return
    waiting = _Waiting(Lines(directory))
    sys.meta_path.insert(0, waiting)
    for name in DRIVERS:
        module = sys.modules.get(name)
        if module is not None:
            waiting.listen(module)


class _Waiting(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it adds a step to the loading of the drivers."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        lines.started()

    @functools.cached_property
    def _recorder(self) -> Recorder:
        from zdmigrate.compat.recording.recorder import Recorder

        return Recorder(self._lines)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in DRIVERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Listened(spec.loader, self.listen)
                return spec
        return None

    def listen(self, module: types.ModuleType) -> None:
        """Listen to a driver that was just imported."""
        name = module.__name__
        try:
            driver = importlib.import_module(f"zdmigrate.compat.recording.drivers.{DRIVERS[name]}")
            driver.listen(module, self._recorder)
        except Exception as error:  # noqa: BLE001  # the application goes on without being recorded
            self._lines.failed(f"{name} cannot be recorded", error)


class _Listened(importlib.abc.Loader):
    """The driver's own loader, and one step after it."""

    def __init__(self, loader: importlib.abc.Loader, listen: Callable[[types.ModuleType], None]) -> None:
        self._loader = loader
        self._listen = listen

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._listen(module)
