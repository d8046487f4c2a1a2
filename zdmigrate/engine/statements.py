"""Whether the text of a statement names a shape, by its identifiers. Pure.

Names are all that a normalised text has: which table a column without a qualifier belongs to, only the server would know. So a
statement counts if it names the table and, anywhere that is not another table's, the column. ``SELECT *`` names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zdmigrate.app.shapes import Trait
from zdmigrate.sqltext import Token, tokens

_NAME_BYTES = 63
_BEFORE_RELATION = frozenset(("from", "join", "update", "into", "only", "using", "table", "copy"))
_NO_ALIAS = frozenset(("set", "values", "overriding", "default"))
"""What may follow a table's name and is no reserved word."""


def nameable(traits: Iterable[Trait]) -> tuple[Trait, ...]:
    """The traits that a name tells: a table, or a column that only one of the shapes has."""
    return tuple(trait for trait in traits if trait.type is None and trait.nullable is None)


def words(traits: Iterable[Trait]) -> list[str]:
    """A text that names any of the traits contains one of these, in any case: a filter for the server."""
    return sorted({(trait.column or trait.table).replace('"', '""') for trait in traits})


def touches(text: str, traits: Sequence[Trait], reserved: frozenset[str], *, partial: bool = False) -> bool:
    """Whether it names one of the traits.

    `reserved`: the words that the server takes for names only in quotes. `partial`: the end is missing, and with it perhaps
    the table.
    """
    text_of = _Text(text, reserved, partial=partial)
    return any(text_of.names(trait) for trait in traits)


def cut(text: str, length: int = 100) -> str:
    """The statement without its values, or its beginning, in one line."""
    line = " ".join("".join(_shown(text)).split())
    return line if len(line) <= length else f"{line[:length]}…"


def _shown(text: str) -> Iterator[str]:
    """Its pieces: values may tell about people. What comes after one whose end is not sure is left out.

    That is one that was cut, one that goes on in the next line, and one with a backslash before a quote, which means something
    else with standard_conforming_strings = off.
    """
    after_string = False
    for token in tokens(text):
        if token.kind in ("space", "comment"):
            yield " "
            continue
        string = token.kind == "string"
        if token.text in ("'", "$") or (string and (after_string or _is_doubtful(token.text))):
            yield "?…"
            return
        yield "?" if token.kind in ("string", "dollar", "number") else token.text
        after_string = string


def _is_doubtful(string: str) -> bool:
    return "\\'" in string and string[0] not in "eE"


class _Text:
    """The solid tokens of a text, with the name that each may be."""

    def __init__(self, text: str, reserved: frozenset[str], *, partial: bool) -> None:
        self._partial = partial
        self._tokens = [token for token in tokens(text) if token.kind not in ("space", "comment")]
        self._names = [self._name(place, token, reserved) for place, token in enumerate(self._tokens)]
        self._relations = list(self._in_relations())

    def names(self, trait: Trait) -> bool:
        table = any(
            name == trait.table and self._qualifier(place) in (None, trait.schema)
            for place, name in enumerate(self._names)
        )
        if trait.column is None or not (table or self._partial):
            return table
        ours, others = self._qualifiers(trait)
        return any(
            name == trait.column
            and self._is_reference(place)
            and ((q := self._qualifier(place)) is None or q in ours or q not in others)
            for place, name in enumerate(self._names)
        )

    def _name(self, place: int, token: Token, reserved: frozenset[str]) -> str | None:
        name = token.name
        if name is None or (token.kind == "word" and name in reserved and self._text(place - 1) != "."):
            return None
        return name.encode()[:_NAME_BYTES].decode(errors="ignore")

    def _text(self, place: int) -> str:
        return self._tokens[place].text.lower() if 0 <= place < len(self._tokens) else ""

    def _qualifier(self, place: int) -> str | None:
        return self._names[place - 2] if place >= 2 and self._text(place - 1) == "." else None

    def _is_reference(self, place: int) -> bool:
        """Not what a result is called (``AS name``), nor a function, nor what qualifies another name."""
        return self._text(place - 1) != "as" and self._text(place + 1) not in ("(", ".")

    def _qualifiers(self, trait: Trait) -> tuple[set[str], set[str]]:
        """By which names the statement speaks of the trait's table, and by which of other tables."""
        ours: set[str] = {trait.table}
        others: set[str] = set()
        for home, name, alias in self._relations:
            same = name == trait.table and home in (None, trait.schema)
            (ours if same else others).add(alias or name)
        return ours, others

    def _in_relations(self) -> Iterator[tuple[str | None, str, str | None]]:
        """Schema, name and alias of what stands after FROM, JOIN and the like, as far as that is a name."""
        after = -1
        for place in range(len(self._tokens)):
            listed = place - 1 == after and self._text(place - 1) == ","
            named = self._text(place - 1) in _BEFORE_RELATION and self._text(place - 2) not in ("for", "key", "do")
            if not (listed or named) or self._names[place] is None:
                continue
            last = place
            while self._text(last + 1) == "." and last + 2 < len(self._tokens):
                last += 2
            name = self._names[last]
            if name is None or (self._text(last + 1) == "(" and self._text(place - 1) not in ("into", "table", "copy")):
                continue  # a function
            after = last + 1
            if self._text(after) == "as":
                after += 1
            alias = self._names[after] if after < len(self._tokens) and self._text(after) not in _NO_ALIAS else None
            after += alias is not None
            yield self._qualifier(last), name, alias
