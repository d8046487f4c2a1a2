"""Text that comes from databases and footprints, made harmless before a format's own escaping."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["blocks", "one_line", "printable", "shortened"]


def printable(text: str) -> str:
    """Without characters that a terminal obeys, XML forbids or a reader cannot see (but for line feeds)."""
    return "".join(_shown(character) for character in text.replace("\t", "    "))


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


def blocks(parts: Iterable[Iterable[str]]) -> str:
    """Parts with an empty line between them, without those that are empty."""
    texts = ["\n".join(part) for part in parts]
    return "\n\n".join(text for text in texts if text) + "\n"
