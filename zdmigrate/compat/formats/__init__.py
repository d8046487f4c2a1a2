"""A report's formats, one module for each. Nothing is imported before it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.compat.report import Report
    from zdmigrate.plan import Plan

__all__ = ["FORMATS", "render"]

_MODULES = {
    "text": "text", "json": "document", "junit": "junit", "sarif": "sarif", "github": "github", "gitlab": "gitlab",
    "markdown": "markdown", "html": "html",
}  # fmt: skip
FORMATS = tuple(_MODULES)


def render(report: Report, plans: Sequence[Plan], name: str) -> str:
    """`report` in one of `FORMATS`, with a line feed at the end. `plans` are those that it is about.

    Raises:
        KeyError: there is no such format.
    """
    module: Any = importlib.import_module(f"zdmigrate.compat.formats.{_MODULES[name]}")
    text: str = module.render(report, plans)
    return text
