"""What becomes of the constants of a statement: parameters, where one may stand."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from zdmigrate.compat.normalising.pieces import Key, Piece, closing, text_of

__all__ = ["surroundings", "without_literals"]

# Words after which an expression may begin. Before a constant, any other word or name is a type: date '2026-01-01'.
_BEFORE_EXPRESSION = frozenset(
    (
        "all", "and", "any", "array", "as", "between", "both", "by", "call", "case", "collate", "distinct", "else",
        "escape", "except", "fetch", "filter", "first", "for", "from", "having", "ilike", "in", "intersect", "into",
        "is", "isnull", "leading", "like", "limit", "next", "not", "notnull", "of", "offset", "on", "op",
        "operator", "or", "order", "over", "passing", "path", "placing", "returning", "row", "select", "set",
        "similar", "some", "symmetric", "then", "to", "trailing", "union", "until", "using", "values", "version",
        "when", "where", "with", "within", "yes", "zone", "default", "uescape", "asymmetric", "overlaps", "rows",
        "range", "groups", "variadic", "key", "value", "content", "document",
    )
)  # fmt: skip
_ANY_ARGUMENTS = frozenset(
    ("concat", "concat_ws", "format", "json_build_object", "jsonb_build_object", "json_build_array",
     "jsonb_build_array", "num_nulls", "num_nonnulls", "pg_typeof", "count", "json_array", "xmlattributes", "xmlelement",
     "xmlforest")
)  # fmt: skip
"""Functions whose arguments may be of any type: a constant is text for them, a parameter has no type."""
_NAME_ARGUMENTS = frozenset(("nextval", "currval", "setval", "pg_get_serial_sequence"))
"""Functions whose first argument is the name of an object."""
_UNIT_ARGUMENTS = frozenset(("date_trunc", "date_part", "extract"))
_UNITS = frozenset(
    (
        "century", "day", "days", "decade", "dow", "doy", "epoch", "hour", "hours", "isodow", "isoyear", "julian",
        "microseconds", "millennium", "milliseconds", "minute", "minutes", "month", "months", "quarter", "second",
        "seconds", "timezone", "timezone_hour", "timezone_minute", "week", "year", "years",
    )
)  # fmt: skip
_NAME_TYPES = frozenset(("regclass", "regproc", "regprocedure", "regtype", "regconfig", "regdictionary", "regrole"))
_CONSTANTS = ("string", "dollar")

Named = Callable[[int], Key]
"""The parameter for the constant at a place."""


def without_literals(pieces: list[Piece], named: Named, *, bound: bool = False) -> list[Piece]:
    """The statement with parameters instead of constants, and numbers of which only the shape is left.

    A constant stays where the server takes nothing else, or where it is a name and no value: the sequence of
    ``nextval('users_id_seq')``, the unit of ``date_trunc('day', …)``, the conditions of ``ON CONFLICT``.

    Args:
        pieces: the statement.
        named: gives the parameters.
        bound: the driver puts values into the text itself, so placeholders are like constants.
    """
    copies = bool(pieces) and pieces[0].word == "copy"
    kept = _kept(pieces)
    found: list[Piece] = []
    for place, piece in enumerate(pieces):
        constant = piece.kind in _CONSTANTS
        if piece.kind == "number":
            found.append(dataclasses.replace(piece, text=_rounded(piece.text)))
        elif place in kept or not (constant or piece.key is not None) or (copies and not _copies_value(pieces, place)):
            found.append(piece)
        elif copies and constant:
            value = _null(pieces, place)
            found.extend(_typed(value, _type_taken(pieces, place, found, value)))
        else:
            value = Piece(kind="param", text="$", blank=piece.blank, key=piece.key or named(place))
            found.extend(_typed(value, _type_of(pieces, place, found, value, untyped=constant or bound)))
    return [piece for piece in found if piece.kind != "gone"]


def _type_of(pieces: list[Piece], place: int, found: list[Piece], value: Piece, *, untyped: bool) -> str | None:
    """The type of a constant that the server would not infer for a parameter."""
    if pieces[place].kind == "string" and (bits := _bits(pieces[place].text)):
        return bits
    if type_ := _type_taken(pieces, place, found, value):
        return type_
    return "text" if untyped and _enclosing(pieces, place)[0] in _ANY_ARGUMENTS else None


def _type_taken(pieces: list[Piece], place: int, found: list[Piece], value: Piece) -> str | None:
    """The type that is written before a constant; it is taken away there."""
    taken = _type_before(found)
    if not taken:
        return None
    type_ = text_of(found[-taken:])
    value.blank = found[-taken].blank
    del found[-taken:]
    if not type_.lower().startswith("interval"):
        return type_
    while place + 1 < len(pieces) and pieces[place + 1].word in _FIELDS:  # interval '1' day
        place += 1
        type_ += f" {pieces[place].text}"
        pieces[place] = dataclasses.replace(pieces[place], kind="gone")
    return type_


def _typed(value: Piece, type_: str | None) -> list[Piece]:
    return [value] if type_ is None else _cast(value, type_)


def _cast(value: Piece, type_: str) -> list[Piece]:
    start = Piece(kind="word", text="CAST", blank=value.blank)
    value.blank = False
    return [
        start, Piece(kind="other", text="("), value, Piece(kind="word", text="AS", blank=True),
        Piece(kind="word", text=type_, blank=True), Piece(kind="other", text=")"),
    ]  # fmt: skip


def _copies_value(pieces: list[Piece], place: int) -> bool:
    """Whether a constant of COPY is a value or a file; the others describe the format."""
    behind_where, depth = False, 0
    for piece in pieces[:place]:
        depth += (piece.text == "(") - (piece.text == ")")
        behind_where = behind_where or (depth == 0 and piece.word == "where")
    in_query = len(pieces) > 1 and pieces[1].text == "(" and place < closing(pieces, 1)
    return behind_where or in_query or pieces[place - 1].word in _FILES


def _null(pieces: list[Piece], place: int) -> Piece:
    """In COPY no parameter may stand: a value becomes NULL, the name of a file an empty one."""
    in_query = pieces[1].text == "(" and place < closing(pieces, 1)
    if not in_query and pieces[place - 1].word in _FILES:
        return Piece(kind="string", text="''", blank=True)
    return Piece(kind="word", text="NULL", blank=pieces[place].blank)


def _type_before(found: Sequence[Piece]) -> int:
    """How many pieces before a constant are its type: ``date``, ``timestamp(3) with time zone``, ``s."T"``."""
    end = len(found)
    words = [piece.word for piece in found[-3:]]
    if words[1:] == ["time", "zone"] and words[0] in ("with", "without"):
        end -= 3
    if end and found[end - 1].text == ")":
        end = _opening(found, end - 1)
    if not end or found[end - 1].kind not in ("word", "quoted") or found[end - 1].word in _BEFORE_EXPRESSION:
        return 0
    if end != len(found) and found[-1].text == ")" and found[end - 1].word not in _WITH_MODIFIER:
        return 0
    end -= 1
    if found[end].word in ("precision", "varying") and end:
        end -= 1
    while end > 1 and found[end - 1].text == "." and found[end - 2].kind in ("word", "quoted"):
        end -= 2
    return len(found) - end


_WITH_MODIFIER = frozenset(
    ("bit", "bpchar", "char", "character", "decimal", "interval", "numeric", "time", "timestamp", "timestamptz",
     "timetz", "varbit", "varchar", "varying")
)  # fmt: skip
_FIELDS = ("year", "month", "day", "hour", "minute", "second", "to")
_FILES = ("from", "to", "program")


def _opening(found: Sequence[Piece], end: int) -> int:
    depth = 0
    for place in range(end, -1, -1):
        depth += (found[place].text == ")") - (found[place].text == "(")
        if depth == 0:
            return place
    return 0


def _bits(text: str) -> str | None:
    """The type of a constant whose prefix gives it one."""
    match text[:2].lower():
        case "b'":
            return f"bit({max(1, len(text) - 3)})"
        case "x'":
            return f"bit({max(1, 4 * (len(text) - 3))})"
        case "n'":
            return "bpchar"
    return None


def _enclosing(pieces: Sequence[Piece], place: int) -> tuple[str, int]:
    """The function in whose brackets a place is, and which argument it is in. Empty for none."""
    depth = argument = 0
    for before in range(place - 1, 0, -1):
        text = pieces[before].text
        depth += (text in (")", "]")) - (text in ("(", "["))
        argument += text == "," and depth == 0
        if depth < 0:
            called = text == "(" and pieces[before - 1].kind == "word"
            return (pieces[before - 1].word if called else ""), argument
    return "", 0


_BOUNDARIES = frozenset(("(", ",", ")", "[", "]", "select", "by", "on", "distinct", "all", "from", "order", "as"))
_LISTS = frozenset(("in", "any", "some", "array", "values"))


def surroundings(pieces: Sequence[Piece], place: int) -> tuple[str, ...] | None:
    """What tells a constant from the same one elsewhere: the expression that it is in, as a few tokens show it.

    None where it stands alone, or in a list: what it is compared with cannot be seen there.
    """
    function, argument = _enclosing(pieces, place)
    if function in _LISTS:
        return None
    function = "" if function in _BEFORE_EXPRESSION else function
    before = _up_to_boundary(pieces[max(0, place - 4) : place][::-1])
    after = _up_to_boundary(pieces[place + 1 : place + 2])
    if not (function or before or after):
        return None
    return (function, str(argument if function else 0), *before, "|", *after, "|", pieces[place].text)


def _up_to_boundary(pieces: Sequence[Piece]) -> list[str]:
    texts = [piece.text for piece in pieces]
    ends = (n for n, text in enumerate(texts) if text.lower() in _BOUNDARIES)
    return texts[: next(ends, len(texts))]


def _kept(pieces: Sequence[Piece]) -> frozenset[int]:
    """The places of constants that stay as they are."""
    targets = _conflict_targets(pieces)
    return frozenset(
        place for place, piece in enumerate(pieces)
        if piece.kind in _CONSTANTS and (place in targets or _is_name(pieces, place) or _is_grammar(pieces, place))
    )  # fmt: skip


def _conflict_targets(pieces: Sequence[Piece]) -> frozenset[int]:
    """What names an index by its expressions and its condition: from ON CONFLICT to DO."""
    found: set[int] = set()
    for place in range(len(pieces) - 1):
        if (pieces[place].word, pieces[place + 1].word) == ("on", "conflict"):
            end = next((n for n in range(place, len(pieces)) if pieces[n].word == "do"), len(pieces))
            found.update(range(place, end))
    return frozenset(found)


def _is_name(pieces: Sequence[Piece], place: int) -> bool:
    """Whether a constant is the name of an object, or a unit of time."""
    after = [piece.word for piece in pieces[place + 1 : place + 3]]
    if len(after) == 2 and pieces[place + 1].text == "::" and after[1] in _NAME_TYPES:
        return True
    function, argument = _enclosing(pieces, place)
    is_unit = function in _UNIT_ARGUMENTS and pieces[place].text.strip("'").lower() in _UNITS
    return argument == 0 and (function in _NAME_ARGUMENTS or is_unit)


def _is_grammar(pieces: Sequence[Piece], place: int) -> bool:
    """Whether the grammar takes a constant only."""
    before = pieces[place - 1].word if place else ""
    function, _ = _enclosing(pieces, place)
    return before in ("path", "uescape") or function == "json_table"


def _rounded(text: str) -> str:
    """A number with the same digits before and behind the point, and of the same type; short ones stay."""
    if len(re.sub(r"[^\da-fA-F]", "", text)) <= 3 and "_" not in text:
        return text
    if match := re.fullmatch(r"0([xXoObB])(\w+)", text):
        return f"0{match[1]}1" + "0" * (len(match[2].replace("_", "")) - 1)
    match = re.fullmatch(r"([\d_]*)(\.?)([\d_]*)((?:[eE][+-]?\d+)?)(\w*)", text)
    if match is None:
        return text
    whole, point, fraction, exponent, rest = match.groups()
    whole, fraction = whole.replace("_", ""), fraction.replace("_", "")
    if not (point or exponent):
        return _whole(whole) + rest
    return "1" * bool(whole) + "0" * (len(whole) - 1) + point + "0" * len(fraction) + exponent + rest


def _whole(digits: str) -> str:
    """int4, int8 or numeric, as before."""
    value, length = int(digits), len(digits)
    if length <= 3:
        return digits
    if length == 10 and value > 2**31 - 1:
        return "3" + "0" * 9
    if length == 19 and value > 2**63 - 1:
        return "95" + "0" * 17
    return "1" + "0" * (length - 1)
