"""Values for columns, as text that the server reads: typical ones, and those at the edge of what a type holds."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator, Mapping

from zdmigrate.postgres.shapes import Column, Relation
from zdmigrate.sqltext import tokens

__all__ = ["MANNERS", "Manner", "boundaries", "from_checks", "quoted", "typical"]

FIRST = 20_000
"""The first number of rows that are made: above what seeds count, below what a smallint holds."""
_TEXT_LENGTH = 300
"""More than the lengths that people give to a varchar without thinking."""
_DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

_Maker = Callable[[Column, int], str]
Manner = Callable[[Column, int, str | None], str | None]
"""A new value for a column, of a number, and of the value that a row has there."""


def typical(column: Column, number: int) -> str | None:
    """A value, distinct for distinct numbers where the type has room for it; None for a type that is not known."""
    if column.labels and not column.base.startswith("_"):
        return column.labels[number % len(column.labels)]
    if column.base.startswith("_"):
        element = column.labels[0] if column.labels else _made(column.base[1:], column, number)
        return None if element is None else "{" + quoted(element) + "}"
    return _made(column.base, column, number)


def _like(pattern: str) -> Manner:
    """A text made of the number, and of the value that is there: what it must look like is known to nobody but it."""

    def made(column: Column, number: int, there: str | None) -> str | None:
        if column.base not in _TEXTS or (there is None and "{there}" in pattern):
            return typical(column, number)
        text = pattern.format(number=number, there=there)
        length = _length(column)
        return text if length is None or len(text) <= length else typical(column, number)

    return made


def _digits(column: Column, number: int, there: str | None) -> str | None:
    """The value that is there, with other digits."""
    if column.base not in _TEXTS or there is None or sum(c.isdigit() for c in there) < len(str(number)):
        return typical(column, number)
    digits = iter(f"{number:0{len(there)}d}"[::-1])
    return "".join(next(digits) if c.isdigit() else c for c in reversed(there))[::-1]


MANNERS: tuple[Manner, ...] = (
    lambda column, number, _: typical(column, number), _digits, _like("{number}{there}"), _like("{there}{number}"),
    _like("value{number}@example.org"), _like("https://example.org/{number}"), _like("value-{number}"), _like("+49{number}"),
    _like("{number}"),
)  # fmt: skip
"""Ways to make a text that a constraint may ask for, the plainest first."""


def boundaries(column: Column) -> tuple[str, ...]:
    """Values at the edges: the longest, the largest, the negative, the empty, every label of an enum."""
    if column.labels:
        return tuple(f"{{{quoted(label)}}}" if column.base.startswith("_") else label for label in column.labels)
    return tuple(dict.fromkeys(_edges(column)))


def from_checks(relation: Relation) -> tuple[str, ...]:
    """The constants that the relation's CHECK constraints name: what they allow is often among them."""
    found: dict[str, None] = {}
    for check in relation.checks:
        for token in tokens(check):
            if token.kind == "string":
                found[token.text[token.text.index("'") + 1 : -1].replace("''", "'")] = None
            elif token.kind == "number" and token.text.isdigit():
                found |= dict.fromkeys(str(int(token.text) + step) for step in (0, 1, -1))
    return tuple(found)


def _made(base: str, column: Column, number: int) -> str | None:
    maker = _MAKERS.get(base)
    return None if maker is None else maker(column, number)


def _edges(column: Column) -> Iterator[str]:
    base = column.base
    if base in _WHOLE:
        top = 2 ** (_WHOLE[base] * 8 - 1)
        yield from (str(top - 1), str(-top), "0", "-5")
    elif base == "numeric":
        digits, scale = _precision(column)
        yield from (f"{'9' * (digits - scale)}.{'9' * scale}".rstrip("."), "-5" if digits > scale else "0")
    elif base in _TEXTS:
        length = _length(column)
        yield from ("x" * (length or _TEXT_LENGTH), "", "é😀"[: length or 2])
    elif base == "bool":
        yield from ("true", "false")
    elif base in ("float4", "float8"):
        yield from ("-5.5", "0")
    elif base in ("timestamp", "timestamptz"):
        yield "2038-01-19 03:14:07.123456"
    elif base in ("json", "jsonb"):
        yield from ("null", "[]", '"text"')


def _precision(column: Column) -> tuple[int, int]:
    """Digits and scale of a numeric (manual, section 8.1.2); a negative scale counts as none."""
    if column.modifier == -1:
        return 20, 5
    packed = column.modifier - 4
    scale = packed & 0x7FF
    digits = packed >> 16 & 0xFFFF
    return digits, 0 if scale >= 1024 else min(scale, digits)


def _length(column: Column) -> int | None:
    return column.modifier - 4 if column.modifier != -1 and column.base in ("varchar", "bpchar") else None


def _text(column: Column, number: int) -> str:
    text = f"value {number}"
    length = _length(column)
    return text if length is None or len(text) <= length else _base_36(number)[-length:].rjust(min(length, 2), "0")


def _base_36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


def _numeric(column: Column, number: int) -> str:
    digits, scale = _precision(column)
    return str(number % 10 ** max(digits - scale, 0)) if digits > scale else "0"


def _moment(pattern: str) -> _Maker:
    return lambda _, number: (_DAY + dt.timedelta(minutes=number)).strftime(pattern)


def _bits(column: Column, number: int) -> str:
    length = column.modifier if column.modifier > 0 else 1
    return f"{number:b}"[-length:].rjust(length, "0")


def quoted(element: str) -> str:
    """An element of an array's text."""
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WHOLE: Mapping[str, int] = {"int2": 2, "int4": 4, "int8": 8}
_TEXTS = ("text", "varchar", "bpchar", "citext")

_MAKERS: Mapping[str, _Maker] = {
    **{name: (lambda c, n: str(n % (2 ** (_WHOLE[c.base.lstrip("_")] * 8 - 1)))) for name in _WHOLE},
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(("float4", "float8"), lambda _, n: str(n / 4)),
    "name": lambda _, n: f"name{n}",
    "oid": lambda _, n: str(n),
    "char": lambda _, n: "abcdefgh"[n % 8],
    "numeric": _numeric,
    "money": lambda _, n: str(n),
    "bool": lambda _, n: "true" if n % 2 else "false",
    "date": lambda _, n: (_DAY + dt.timedelta(days=n)).strftime("%Y-%m-%d"),
    "timestamp": _moment("%Y-%m-%d %H:%M:%S"),
    "timestamptz": _moment("%Y-%m-%d %H:%M:%S+00"),
    "time": _moment("%H:%M:%S"),
    "timetz": _moment("%H:%M:%S+00"),
    "interval": lambda _, n: f"{n} seconds",
    "uuid": lambda _, n: str(uuid.UUID(int=0x4000_8000_0000_0000_0000 + n)),
    "json": lambda _, n: json.dumps({"number": n}),
    "jsonb": lambda _, n: json.dumps({"number": n}),
    "bytea": lambda _, n: f"\\x{n:08x}",
    "inet": lambda _, n: f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}",
    "cidr": lambda _, n: f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32",
    "macaddr": lambda _, n: f"08:00:2b:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
    "xml": lambda _, n: f"<n>{n}</n>",
    "tsvector": lambda _, n: f"word{n}",
    "tsquery": lambda _, n: f"word{n}",
    "bit": _bits,
    "varbit": _bits,
    "point": lambda _, n: f"({n},{n})",
    "box": lambda _, n: f"(({n},{n}),({n + 1},{n + 1}))",
    "ltree": lambda _, n: f"a.b{n}",
    "hstore": lambda _, n: f'"n"=>"{n}"',
    **dict.fromkeys(("int4range", "int8range", "numrange"), lambda _, n: f"[{n},{n + 1})"),
    "daterange": lambda c, n: "[{},{})".format(*(_moment("%Y-%m-%d")(c, n + more) for more in (0, 1440))),
    **dict.fromkeys(
        ("tsrange", "tstzrange"),
        lambda c, n: "[{},{})".format(*(_moment("%Y-%m-%d %H:%M:%S")(c, n + more) for more in (0, 1))),
    ),
}
