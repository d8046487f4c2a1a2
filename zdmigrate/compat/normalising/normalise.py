"""A driver's text of a statement as the text of a footprint.

Placeholders are ``$1``, ``$2`` in the order in which they appear; comments and runs of white space are gone, and so are
constants (`literals`) and the lengths of lists (`collapsing`). Normalising twice is the same as once, and what could be
prepared can be prepared afterwards.
"""

from __future__ import annotations

import dataclasses

from zdmigrate import sqltext
from zdmigrate.compat.normalising.collapsing import collapsed, shortened
from zdmigrate.compat.normalising.literals import surroundings, without_literals
from zdmigrate.compat.normalising.pieces import Key, Piece, cut, text_of
from zdmigrate.compat.normalising.selection import query_of, uses_data

__all__ = ["Constant", "Normalised", "Source", "normalised"]


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """What stood in the text."""

    value: str


Source = int | Constant
"""Where a parameter comes from: ``2`` for the statement's own ``$2``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """A statement that is kept. `sources` has an entry for each of its parameters. `once`: no driver ever keeps it
    prepared, because it is COPY or was DECLAREd."""

    sql: str
    sources: tuple[tuple[Source, ...], ...] = ()
    once: bool = False


def normalised(text: str, *, bound: bool = False) -> list[Normalised]:
    """The statements in `text` that use data, mostly one or none.

    Args:
        text: with ``$1`` for parameters (`zdmigrate.compat.normalising.placeholders` makes them).
        bound: the driver puts the values into the text itself: where a constant may stand, but no parameter, its
            placeholders get a cast.
    """
    merges: list[tuple[Key, Key]] = []
    text = shortened(text, lambda ours, theirs: merges.append((ours, theirs)))
    several = sqltext.statements(text) if ";" in text.rstrip("; \n") else (text,)
    found = (_one(statement, merges, bound=bound) for statement in several)
    return [each for each in found if each is not None]


def _one(statement: str, merges: list[tuple[Key, Key]], *, bound: bool) -> Normalised | None:
    pieces = cut(statement)
    query = query_of(pieces)
    kept = pieces if query is None else query
    if not kept or not uses_data(kept):
        return None
    once = query is not None or kept[0].word == "copy"
    parameters = _Parameters(kept)
    for ours, theirs in merges:
        parameters.merge(ours, theirs)
    kept = collapsed(without_literals(kept, parameters.literal, bound=bound), parameters.merge)
    sources = parameters.number(kept)
    kept[0].blank = False
    return Normalised(sql=text_of(kept), sources=sources, once=once)


class _Parameters:
    """Which parameters there are, which stand for others, and their final numbers."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = list(pieces)
        self._compared = any(piece.word in ("group", "distinct") for piece in pieces)
        self._constants: list[Constant] = []
        self._merged: dict[Key, list[Key]] = {}
        self._alike: dict[tuple[str, ...], Key] = {}

    def literal(self, place: int) -> Key:
        """A parameter for the constant at a place.

        GROUP BY and DISTINCT compare expressions: the same constant in the same surroundings is one parameter, or
        ``SELECT to_char(t, 'YYYY') … GROUP BY to_char(t, 'YYYY')`` would not be valid any more.
        """
        around = surroundings(self._pieces, place) if self._compared else None
        if around is not None and around in self._alike:
            return self._alike[around]
        made: Key = ("literal", len(self._constants))
        self._constants.append(Constant(_value(self._pieces[place].text)))
        if around is not None:
            self._alike[around] = made
        return made

    def merge(self, ours: Key, theirs: Key) -> None:
        """`ours` stands for `theirs` too."""
        self._merged.setdefault(ours, []).append(theirs)

    def number(self, pieces: list[Piece]) -> tuple[tuple[Source, ...], ...]:
        """Give the parameters their numbers; returns where each comes from."""
        numbers: dict[Key, int] = {}
        for piece in pieces:
            if piece.key is not None:
                piece.text = f"${numbers.setdefault(piece.key, len(numbers) + 1)}"
        return tuple(tuple(self._source(key) for key in self._all(key)) for key in numbers)

    def _all(self, key: Key) -> list[Key]:
        """The parameter and all that it stands for."""
        found = {key: None}
        waiting = [key]
        while waiting:
            more = [other for other in self._merged.get(waiting.pop(), ()) if other not in found]
            found.update(dict.fromkeys(more))
            waiting += more
        return list(found)

    def _source(self, key: Key) -> Source:
        kind, number = key
        return number if kind == "given" else self._constants[number]


def _value(text: str) -> str:
    """What a constant means, where that is easy to say."""
    if text.startswith("$"):
        tag = text[: text.index("$", 1) + 1]
        return text[len(tag) : -len(tag)]
    return text[text.index("'") + 1 : -1].replace("''", "'")
