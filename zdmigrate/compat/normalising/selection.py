"""Which statements a footprint keeps: those that use the application's data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from zdmigrate.compat.normalising.pieces import Piece, closing, text_of
from zdmigrate.sqltext import folded

__all__ = ["query_of", "temporary_tables", "uses_data"]

_KEPT = frozenset(
    ("select", "insert", "update", "delete", "merge", "with", "values", "table", "copy", "call", "lock", "declare")
)
_AFTER_FROM = frozenset(
    ("where", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "union", "intersect", "except",
     "returning", "on", "using", "set", "values", ")")
)  # fmt: skip
_NO_RELATION = frozenset(("lateral", "only", "rows"))
_QUERIES = frozenset(("select", "with", "values", "table", "("))
_OWN_SELECTS = frozenset(("select current_schema()", "select current_database()", "select version()"))
"""What SQLAlchemy's dialects ask every new connection."""
_OWN_MARKS = ("pg_catalog.", '"pg_catalog".', "set_config(", "current_setting(")
"""In a SELECT from nothing: questions of drivers, and the session's state."""


_TEMPORARY = re.compile(
    r'\b(?:CREATE\s+(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?|INTO\s+TEMP(?:ORARY)?\s+(?:TABLE\s+)?)'
    r'(?:pg_temp\s*\.\s*)?("(?:[^"]|"")+"|[^\W\d][\w$]*)', re.IGNORECASE
)  # fmt: skip


def temporary_tables(text: str) -> list[str]:
    """The names of tables that a statement makes for its session."""
    if "temp" not in text.lower():
        return []
    names = _TEMPORARY.findall(text)
    return [name[1:-1].replace('""', '"') if name.startswith('"') else folded(name) for name in names]


def uses_data(pieces: Sequence[Piece]) -> bool:
    """Whether the statement is kept: not DDL, not session state, not a question about the catalog alone."""
    first = next((piece.word for piece in pieces if piece.text != "("), "")
    return first in _KEPT and not _asks_the_catalog(pieces, first)


def query_of(pieces: list[Piece]) -> list[Piece] | None:
    """The query of ``DECLARE name CURSOR FOR query``, whose name drivers invent; None for any other statement."""
    if not pieces or pieces[0].word != "declare":
        return None
    for place, piece in enumerate(pieces):
        if piece.word == "for":
            return pieces[place + 1 :]
    return []


def _asks_the_catalog(pieces: Sequence[Piece], first: str) -> bool:
    if first not in ("select", "with", "table"):
        return False
    known = _common_tables(pieces)
    relations = [name for name in _relations(pieces) if name not in known]
    if not relations:
        text = text_of(pieces).lower()
        return text in _OWN_SELECTS or any(mark in text for mark in _OWN_MARKS)
    return all(name.startswith(("pg_", "information_schema.")) for name in relations)


def _common_tables(pieces: Sequence[Piece]) -> frozenset[str]:
    """The names of WITH queries."""
    return frozenset(
        _bare(piece) for place, piece in enumerate(pieces)
        if piece.kind in ("word", "quoted") and _is_defined(pieces, place + 1)
    )  # fmt: skip


def _is_defined(pieces: Sequence[Piece], place: int) -> bool:
    """Whether a name is followed by ``AS (``, perhaps with its columns before and MATERIALIZED between."""
    if place < len(pieces) and pieces[place].text == "(":
        place = closing(pieces, place) + 1
    after = [piece.word for piece in pieces[place : place + 2]]
    return len(after) == 2 and after[0] == "as" and after[1] in ("(", "not", "materialized")


def _relations(pieces: Sequence[Piece]) -> Iterator[str]:
    """What is read from, as it is written; functions are no relations."""
    for place, piece in enumerate(pieces):
        if piece.word in ("from", "join", "table"):
            yield from _items(pieces, place + 1)


def _items(pieces: Sequence[Piece], place: int) -> Iterator[str]:
    expected = True
    while place < len(pieces) and pieces[place].word not in _AFTER_FROM:
        piece = pieces[place]
        if expected and (piece.word in _NO_RELATION or _joined(pieces, place)):
            place += 1
            continue
        if expected and piece.kind in ("word", "quoted"):
            name, place = _name(pieces, place)
            if place >= len(pieces) or pieces[place].text != "(":
                yield name
            expected = False
            continue
        if piece.text == "(":
            place = closing(pieces, place)
        expected = piece.text == ","
        place += 1


def _joined(pieces: Sequence[Piece], place: int) -> bool:
    """Whether a bracket holds joined tables, and not a query, whose own FROM is seen by itself."""
    return pieces[place].text == "(" and place + 1 < len(pieces) and pieces[place + 1].word not in _QUERIES


def _name(pieces: Sequence[Piece], place: int) -> tuple[str, int]:
    parts = [_bare(pieces[place])]
    while place + 2 < len(pieces) and pieces[place + 1].text == ".":
        place += 2
        parts.append(_bare(pieces[place]))
    name = ".".join(parts)
    return name.removeprefix("pg_catalog."), place + 1


def _bare(piece: Piece) -> str:
    return piece.text.lower() if piece.kind == "word" else piece.text.strip('"')
