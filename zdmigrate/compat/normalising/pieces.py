"""A statement in pieces that can be moved about: without comments, with one blank where there was white space."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from zdmigrate.sqltext import tokens

__all__ = ["Piece", "closing", "cut", "elements", "text_of"]

Key = tuple[str, int]
"""Which parameter: ``("given", 2)`` for ``$2`` of the statement, ``("literal", 0)`` for the first literal."""

_OPENING = {"(": ")", "[": "]"}
_NO_BLANK_BEFORE = frozenset((",", ")", "]"))


@dataclasses.dataclass(slots=True, kw_only=True)
class Piece:
    """A token, whether a blank comes before it, and for a parameter which one.

    `word` is a word or a bracket as it is compared; empty for what is quoted.
    """

    kind: str
    text: str
    blank: bool = False
    key: Key | None = None
    word: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.word = self.text.lower() if self.kind in ("word", "other") else ""


def cut(statement: str) -> list[Piece]:
    """The pieces of one statement. Constants that continue on another line are joined (manual, section 4.1.2.1)."""
    found: list[Piece] = []
    gap = ""
    for token in tokens(statement):
        if token.kind in ("space", "comment"):
            gap += token.text if token.kind == "space" else "\n" if token.text.startswith("--") else " "
            continue
        if _continues(found, token.kind, token.text, gap):
            found[-1].text = found[-1].text[:-1] + token.text[1:]
        else:
            key = ("given", int(token.text[1:])) if token.kind == "param" else None
            blank = bool(gap and found) and token.text not in _NO_BLANK_BEFORE and found[-1].text not in _OPENING
            found.append(Piece(kind=token.kind, text=token.text, blank=blank, key=key))
        gap = ""
    while found and found[-1].text == ";":
        found.pop()
    return found


def _continues(found: Sequence[Piece], kind: str, text: str, gap: str) -> bool:
    return kind == "string" and text[0] == "'" and "\n" in gap and bool(found) and found[-1].kind == "string"


def closing(pieces: Sequence[Piece], opening: int) -> int:
    """Where the bracket at `opening` is closed; behind the last piece if it is not."""
    depth = 0
    for place in range(opening, len(pieces)):
        depth += (pieces[place].text in _OPENING) - (pieces[place].text in _OPENING.values())
        if depth == 0:
            return place
    return len(pieces)


def elements(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """What stands between the commas that are in no bracket."""
    found: list[Piece] = []
    depth = 0
    for piece in pieces:
        depth += (piece.text in _OPENING) - (piece.text in _OPENING.values())
        if piece.text == "," and depth == 0:
            yield found
            found = []
        else:
            found.append(piece)
    yield found


def text_of(pieces: Sequence[Piece]) -> str:
    """The pieces as text again."""
    return "".join(f" {piece.text}" if piece.blank and place else piece.text for place, piece in enumerate(pieces))
