"""Words and numbers, as people say them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from zdmigrate.compat.report import Application, Counts, Version

__all__ = ["Code", "Words", "counted", "joined", "name", "on_servers", "plain", "said_of_counts"]


class Code(NamedTuple):
    """A word of a sentence that is set as code."""

    text: str


Words: TypeAlias = tuple[str | Code, ...]


def plain(words: Words) -> str:
    """A sentence as text, code between backticks."""
    return "".join(f"`{word.text}`" if isinstance(word, Code) else word for word in words)


def name(application: Application, version: Version) -> str:
    """What people call a version; never empty, and never the same for both."""
    fallback = "N" if version is Version.OLD else "N+1"
    label = application.label(version) or fallback
    return f"{label} ({version})" if application.old == application.new else label


def said_of_counts(counts: Counts) -> str:
    """How much was done, for people."""
    total = counts.everywhere + counts.once
    prepared = f"; {counts.prepared_only:,} of them could only be prepared" if counts.prepared_only else ""
    return (
        f"{counted(total, 'statement')}: {counts.everywhere:,} touch what changes and ran in every state, "
        f"{counts.once:,} ran once{prepared}; {counted(counts.executions, 'execution')}"
    )


def counted(number: int, thing: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def joined(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = list(words) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def on_servers(servers: Iterable[str]) -> str:
    """``PostgreSQL 15.18 and 18.1``."""
    first, *others = list(dict.fromkeys(servers)) or ["nothing"]
    return joined([first, *(each.removeprefix("PostgreSQL ") for each in others)])
