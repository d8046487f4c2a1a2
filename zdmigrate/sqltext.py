"""Reading and writing small pieces of SQL text: identifiers, literals and the column names in an expression.

Pure text work. Expressions come from the server's deparser (constraints, indexes) or from people (`backfill=`);
the server always has the last word, because every result is type-checked there before it is used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


def ident(*parts: str) -> str:
    """A quoted, dotted identifier: ``ident("public", "users")`` is ``"public"."users"``."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(value: str) -> str:
    """A string constant that means the same whatever `standard_conforming_strings` says."""
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"


def dollar(body: str) -> str:
    """A dollar-quoted string constant."""
    tag = next(tag for n in range(1000) if (tag := f"$zd{n or ''}$") not in body)
    return f"{tag}{body}{tag}"


def folded(word: str) -> str:
    """A name that is not quoted, as the server takes it: in UTF-8 it folds ASCII letters alone."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in word)


class Token(NamedTuple):
    """A piece of SQL. `kind` is one of word, quoted, string, number, param, space, comment, dollar, other."""

    kind: str
    text: str

    @property
    def name(self) -> str | None:
        """The identifier that this token may stand for, folded as the server does; None for anything else."""
        if self.kind == "word":
            return folded(self.text)
        if self.kind == "quoted":
            return self.text[self.text.index('"') + 1 : -1].replace('""', '"')
        return None


_PIECES = r"""
    (?P<comment>--[^\n]*|/\*)
  | (?P<space>\s+)
  | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
  | (?P<dollar>\$(?P<tag>(?:[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff]*)?)\$.*?\$(?P=tag)\$)
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
  | (?P<param>\$\d+)
  | (?P<number>(?!0[xX])\d[\d_.]*[eE][+-]\d+|\d[\w.]*)
  | (?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
  | (?P<other>::|.)
    """


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Compiled on first use: that takes 14 ms, and an application that imports `ident` has no use for it."""
    return re.compile(_PIECES, re.VERBOSE | re.DOTALL)


def tokens(text: str, place: int = 0) -> Iterator[Token]:
    """`text` in pieces, from `place` on; joined they give it again."""
    pattern = _pattern()
    while place < len(text):
        match = pattern.match(text, place)
        assert match is not None  # the last alternative takes any character
        kind, end = match.lastgroup or "other", match.end()
        if match.group() == "/*":
            end = _comment_end(text, end)
        yield Token("dollar" if kind == "tag" else kind, text[place:end])
        place = end


_BRACKETS = {"(": ")", "[": "]"}


def unfinished(text: str) -> str | None:
    """Why a text would not stay between the brackets that are put around it: ``1) + (2``, ``1 -- one``, ``'a``."""
    closing: list[str] = []
    comment = False
    for token in tokens(text):
        ends = token.kind == "space" and "\n" in token.text
        comment = (comment and not ends) or token.text.startswith("--")
        if token.kind == "comment" and token.text.startswith("/*") and _depth(token.text) > 0:
            return "a comment is not closed"
        if token.kind != "other":
            continue
        if token.text in ("'", '"'):
            return f"a {token.text} is not closed"
        if token.text in _BRACKETS:
            closing.append(_BRACKETS[token.text])
        elif token.text in _BRACKETS.values() and (not closing or closing.pop() != token.text):
            return f"a {token.text} closes nothing"
    if closing:
        return f"a {closing[-1]} is missing"
    return "it ends in a comment" if comment else None


def _depth(comment: str) -> int:
    return sum(1 if mark == "/*" else -1 for mark in re.findall(r"/\*|\*/", comment))


def _comment_end(text: str, place: int) -> int:
    """Where a comment ends that began before `place`: comments nest (manual, section 4.1.5)."""
    depth = 1
    for match in re.compile(r"/\*|\*/").finditer(text, place):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def statements(text: str) -> Iterator[str]:
    """The statements of a script, without the semicolons between them (a rule's or an SQL function's own ones stay)."""
    pieces: list[Token] = []
    closing: list[str] = []
    before = ""
    for token in tokens(text):
        word = token.text.lower() if token.kind in ("word", "other") else ""
        if word == ";" and not closing:
            yield from _solid(pieces)
            pieces = []
            continue
        if word == "(":
            closing.append(")")
        elif (before, word) == ("begin", "atomic") or (word == "case" and "end" in closing):
            closing.append("end")
        elif closing and word == closing[-1]:
            closing.pop()
        pieces.append(token)
        before = before if token.kind in ("space", "comment") else word
    yield from _solid(pieces)


def _solid(pieces: list[Token]) -> Iterator[str]:
    if any(piece.kind not in ("space", "comment") for piece in pieces):
        yield "".join(piece.text for piece in pieces).strip()


TABLE = "{table}"
"""Stands for a table in DDL that is tried on a copy of it."""


def for_table(statement: str, table: str) -> str:
    """`statement` about `table`, the text of a name. What a string or a quoted name says stays as it is."""
    pieces = [piece.text for piece in tokens(statement)]
    places = [i for i in range(len(pieces) - 2) if "".join(pieces[i : i + 3]) == TABLE]
    for place in places:
        pieces[place : place + 3] = (table, "", "")
    return "".join(pieces)


def index_tail(definition: str) -> str:
    """What follows USING in the server's text of an index: the access method, the keys, and so on."""
    pieces = list(tokens(definition))
    for index, piece in enumerate(pieces):
        if piece.kind == "word" and piece.text == "USING":
            return "".join(p.text for p in pieces[index + 1 :]).strip()
    raise ValueError(f"not an index definition: {definition}")


class AmbiguousName(ValueError):
    """A column's name is also a word of SQL, and stands where it could be either."""


# Words that the deparser prints bare inside expressions although they are no column: a column of such a name
# cannot be told from them by looking at tokens, so rewriting is refused.
_GRAMMAR = """
    all and any array as asc at between both by bit boolean case cast char character collate cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user day decade desc dec
    decimal default distinct double else end epoch escape except exists false filter first float following for
    from group having hour in include int integer intersect interval into is isnull isodow isoyear join json last
    leading left like limit localtime localtimestamp millennium microseconds milliseconds minute month nothing not
    notnull null nulls numeric of offset on only operator or order over overlaps partition position precision
    preceding quarter range real row rows second select session_user similar smallint some symmetric table then
    time timestamp timezone timezone_hour timezone_minute to trailing true union unique user using values varchar
    varying week when where window with within without year zone
"""
_GRAMMAR_WORDS = frozenset(_GRAMMAR.split())
_BETWEEN_OPERANDS = frozenset(
    ("and", "asc", "case", "collate", "desc", "else", "end", "in", "is", "like", "not", "nulls", "or", "then", "when")
)


def replace_columns(expression: str, columns: Callable[[str], str | None]) -> str:
    """`expression` with each column reference that `columns` knows replaced by what it returns.

    A word counts as a column unless it is called (``name(``), qualified (``x.name``, ``name.x``), a type after
    ``::``, or a collation. A composite or table-qualified reference is therefore left alone, and the server will
    say so.

    Raises:
        AmbiguousName: a bare word is both a column and a word of the grammar (``year``, ``zone``).
    """
    pieces = list(tokens(expression))
    solid = [index for index, piece in enumerate(pieces) if piece.kind not in ("space", "comment")]
    replaced = [piece.text for piece in pieces]
    for position, index in enumerate(solid):
        piece = pieces[index]
        if piece.kind == "quoted" and piece.text[0] != '"' and "\\" in piece.text:
            raise AmbiguousName(
                f"{piece.text} in {expression!r} is a name with escapes; write the characters themselves"
            )
        before = pieces[solid[position - 1]].text.lower() if position else ""
        after = pieces[solid[position + 1]].text if position + 1 < len(solid) else ""
        if before in (".", "::", "collate") or after in ("(", "."):
            continue
        target = None if piece.name is None else columns(piece.name)
        if target is None:
            continue
        if piece.kind == "word" and piece.name in _GRAMMAR_WORDS and not (_ends(before) and _ends(after)):
            raise AmbiguousName(f"{piece.text!r} in {expression!r} may be the column or a word of SQL; quote it")
        replaced[index] = target
    return "".join(replaced)


def _ends(neighbour: str) -> bool:
    """Whether a neighbour cannot belong to the same construct: punctuation, an operator, or AND, IS, DESC, …"""
    return not neighbour[:1].isalpha() or neighbour.lower() in _BETWEEN_OPERANDS


def columns_in(expression: str, known: frozenset[str]) -> frozenset[str]:
    """Which of the `known` columns an expression mentions."""
    found: set[str] = set()

    def note(name: str) -> str | None:
        if name in known:
            found.add(name)
        return None

    replace_columns(expression, note)
    return frozenset(found)
