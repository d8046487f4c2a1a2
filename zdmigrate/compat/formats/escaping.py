"""Text that comes from databases and footprints, made harmless before a format's own escaping."""

from __future__ import annotations

import re

__all__ = ["one_line", "printable", "shortened", "without_commands"]


def printable(text: str) -> str:
    """Without characters that a terminal obeys, XML forbids or a reader cannot see (but for line feeds).

    Nor does a line begin with ``::``: GitHub obeys ``::command::`` in any log, whatever printed it.
    """
    shown = "".join(_shown(character) for character in text.replace("\r\n", "\n").replace("\t", "    "))
    return without_commands(shown)


def without_commands(text: str) -> str:
    """`text`, in which no line begins with ``::``."""
    return _COMMAND.sub(r"\1: :", text)


_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Printable, each run of white space as one space."""
    return printable(" ".join(text.split()))


def shortened(text: str, limit: int) -> str:
    """At most about `limit` characters, and how many are missing."""
    missing = len(text) - limit
    return text if missing <= 0 else f"{text[:limit]} … ({missing:,} more characters)"
