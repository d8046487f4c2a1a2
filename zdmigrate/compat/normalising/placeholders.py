"""From the placeholders of drivers to those of the server."""

from __future__ import annotations

import re

from zdmigrate.errors import UsageError

__all__ = ["numbered"]

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>[^)]+)\)(?P<named>.)|(?P<bare>.))", re.DOTALL)


def numbered(text: str) -> tuple[str, list[str] | None]:
    """``%s``, ``%b``, ``%t`` and ``%(name)s`` as ``$1``, ``$2``, and ``%%`` as ``%``.

    Returns:
        The text, and the names in the order of the numbers (a name that is used twice is one parameter), or None
        where the placeholders have no names.

    Raises:
        UsageError: a ``%`` begins something else.
    """
    names: dict[str, int] = {}
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        if match["bare"] == "%":
            return "%"
        if (match["named"] or match["bare"]) not in ("s", "b", "t"):
            raise UsageError(f"{match.group()!r} is no placeholder")
        if match["name"] is not None:
            return f"${names.setdefault(match['name'], len(names) + 1)}"
        count += 1
        return f"${count}"

    return _PLACEHOLDER.sub(replace, text), list(names) or None
