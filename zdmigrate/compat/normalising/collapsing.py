"""Lists whose length is data: one element stands for all that look alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

from zdmigrate.compat.normalising.pieces import Key, Piece, closing, elements

__all__ = ["collapsed", "shortened"]

Merge = Callable[[Key, Key], None]
"""Told which parameter stands for another one from now on."""


LONG = 4_000
"""From so many characters on, a text is shortened before it is cut into pieces: that takes a hundredth of the time."""
_ELEMENT = r"\$\d+(?:::\w+)?"
_ROW = rf"\({_ELEMENT}(?:, ?(?:{_ELEMENT}|\d+))*\)"
_LONG_LISTS = re.compile(rf"(?i)(?<=\bvalues ){_ROW}(?:, ?{_ROW})+|(?<=\bin \(){_ELEMENT}(?:, ?{_ELEMENT})+")
_ONE = {"(": re.compile(_ROW), "$": re.compile(_ELEMENT)}


def shortened(text: str, merge: Merge) -> str:
    """The same for long lists of nothing but parameters, as ORMs make them."""

    def shorter(match: re.Match[str]) -> str:
        kept: dict[str, tuple[str, list[str]]] = {}
        for element in _ONE[match.group()[0]].findall(match.group()):
            numbers = re.findall(r"\$(\d+)", element)
            _, ours = kept.setdefault(re.sub(r"\d+", "#", element), (element, numbers))
            for our, their in zip(ours, numbers, strict=True):
                if our != their:
                    merge(("given", int(our)), ("given", int(their)))
        return ", ".join(element for element, _ in kept.values())

    return text if len(text) < LONG else _LONG_LISTS.sub(shorter, text)


def collapsed(pieces: list[Piece], merge: Merge) -> list[Piece]:
    """Shorter lists: ``IN (…)``, ``ARRAY[…]`` and the rows of ``VALUES``."""
    found: list[Piece] = []
    place = 0
    while place < len(pieces):
        piece = pieces[place]
        found.append(piece)
        place += 1
        if piece.word == "values":
            place = _rows(pieces, place, found, merge)
        elif piece.word in ("in", "array") and place < len(pieces):
            place = _list(pieces, place, found, merge)
    return found


def _rows(pieces: list[Piece], place: int, found: list[Piece], merge: Merge) -> int:
    """The rows behind VALUES, up to what is no row any more."""
    rows: list[list[Piece]] = []
    while place < len(pieces) and pieces[place].text == "(":
        end = closing(pieces, place) + 1
        rows.append(collapsed(pieces[place:end], merge))
        place = end + 1 if _another_row(pieces, end) else end
        if place == end:
            break
    found.extend(_joined(_different(rows, merge)))
    return place


def _another_row(pieces: Sequence[Piece], comma: int) -> bool:
    return comma + 1 < len(pieces) and pieces[comma].text == "," and pieces[comma + 1].text == "("


def _list(pieces: list[Piece], place: int, found: list[Piece], merge: Merge) -> int:
    if pieces[place].key is not None and found[-1].word == "in":  # psycopg2 gives a tuple for one placeholder
        bracket = Piece(kind="other", text="(", blank=True)
        found += [bracket, dataclasses.replace(pieces[place], blank=False), Piece(kind="other", text=")")]
        return place + 1
    if pieces[place].text not in ("(", "["):
        return place
    end = closing(pieces, place)
    inner = [collapsed(element, merge) for element in elements(pieces[place + 1 : end])]
    found.append(pieces[place])
    found.extend(_joined(_different([_round(inner), *inner[1:]] if _is_number(inner[0]) else inner, merge)))
    return end


def _different(lists: list[list[Piece]], merge: Merge) -> list[list[Piece]]:
    """The first of each shape; the parameters of the others become those of the first."""
    kept: dict[str, list[Piece]] = {}
    for each in lists:
        first = kept.setdefault(_shape(each), each)
        for ours, theirs in zip(_keys(first), _keys(each), strict=True):
            if ours != theirs:
                merge(ours, theirs)
    return list(kept.values())


def _shape(pieces: Iterable[Piece]) -> str:
    """The text, whatever its parameters and numbers are."""
    return " ".join("$" if p.key is not None else "#" if p.kind == "number" else p.text for p in pieces)


def _keys(pieces: Iterable[Piece]) -> list[Key]:
    return [piece.key for piece in pieces if piece.key is not None]


def _is_number(element: Sequence[Piece]) -> bool:
    return len(element) == 1 and re.fullmatch(r"\d+", element[0].text) is not None


def _round(lists: Sequence[Sequence[Piece]]) -> list[Piece]:
    """The number that stands for a list of numbers: one with as many digits as the longest."""
    longest = max((each[0] for each in lists if _is_number(each)), key=lambda piece: (len(piece.text), piece.text))
    text = longest.text if len(longest.text) > 3 else "1" + "0" * (len(longest.text) - 1)
    return [dataclasses.replace(lists[0][0], text=text)]


def _joined(lists: Sequence[list[Piece]]) -> list[Piece]:
    found: list[Piece] = []
    for number, each in enumerate(lists):
        if number and each:
            found.append(Piece(kind="other", text=","))
            each[0] = dataclasses.replace(each[0], blank=True)
        found.extend(each)
    return found
