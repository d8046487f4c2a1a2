"""Python values that a driver is given: how long they are, which type their literal has, how the server reads them."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from zdmigrate.compat.recording.recorder import Slot

__all__ = ["array_length", "as_text", "literal_slot", "literal_type", "measured", "untyped"]

_SMALL, _LARGE = 2**31, 2**63
_CASTS = {
    "integer": "int4", "bigint": "int8", "smallint": "int2", "double precision": "float8", "real": "float4",
    "boolean": "bool", "timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp",
    "time with time zone": "timetz", "time without time zone": "time", "character varying": "varchar",
    "character": "bpchar", "bit varying": "varbit", "decimal": "numeric", "int": "int4",
}  # fmt: skip
_CAST = re.compile(rb"::\s*([\w. \"]+?)((?:\[\])*)\s*$")


def measured(value: Any) -> int:
    """Characters, bytes or elements; 0 for what has no length."""
    if isinstance(value, (str, bytes, bytearray, memoryview, list, tuple)):
        return len(value)
    return 0


def as_text(value: Any) -> str:
    """As the server reads it, for the usual types."""
    match value:
        case bool():
            return "t" if value else "f"
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex()
        case list() | tuple():
            return "{" + ",".join("NULL" if each is None else json.dumps(as_text(each)) for each in value) + "}"
        case dict():
            return json.dumps(value, default=str, sort_keys=True)
    return str(value)


UNTYPED = Slot(measure=measured)
"""A parameter whose type is left to the server."""


def untyped(count: int) -> list[Slot]:
    """So many parameters whose types are left to the server."""
    return [UNTYPED] * count


def python_type(value: Any) -> str:
    """The type that a literal of the value has: psycopg2 writes values into the text."""
    if isinstance(value, (list, tuple)):
        inner = next((python_type(each) for each in value if each is not None), "unknown")
        return "_text" if inner == "unknown" else f"_{inner}"
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer(value)
    for type_, name in _LITERALS:
        if isinstance(value, type_):
            return name
    return "unknown"


_LITERALS: Sequence[tuple[type, str]] = (
    (bool, "bool"), (float, "numeric"), (decimal.Decimal, "numeric"), (dt.date, "date"), (dt.time, "time"),
    (dt.timedelta, "interval"), (uuid.UUID, "uuid"), (bytes, "bytea"), (bytearray, "bytea"), (memoryview, "bytea"),
)  # fmt: skip


def literal_type(literal: bytes) -> str:
    """The type of a literal that a driver has written: ``'a'``, ``12``, ``true``, ``'{1}'::int[]``."""
    if match := _CAST.search(literal):
        name = match[1].decode("utf-8", "replace").strip()
        return ("_" if match[2] else "") + _CASTS.get(name.lower(), name.rpartition(".")[2].strip('"'))
    text = literal.strip()
    if re.fullmatch(rb"-?\d+", text):
        return _integer(int(text))
    if re.fullmatch(rb"-?[\d.]+(?:[eE][+-]?\d+)?", text):
        return "numeric"
    return "bool" if text.lower() in (b"true", b"false") else "unknown"


def literal_length(literal: bytes) -> int:
    """Characters or elements of what stands between the quotes."""
    body = literal.strip()
    start, end = body.find(b"'"), body.rfind(b"'")
    inner = body[start + 1 : end].replace(b"''", b"'") if 0 <= start < end else b""
    if inner.startswith(b"{") and b"::" in body[end:] and b"[]" in body[end:]:
        return array_length(inner)
    if inner.startswith(b"\\x") and body.endswith(b"bytea"):
        return (len(inner) - 2) // 2
    return len(inner.decode("utf-8", "replace"))


def literal_slot(literal: bytes) -> Slot:
    """What is known of a parameter from its first literal."""
    return Slot(type=literal_type(literal), measure=literal_length)


def literal_text(literal: bytes) -> str:
    """What the literal means."""
    text = literal.decode("utf-8", "replace").strip()
    start, end = text.find("'"), text.rfind("'")
    return text[start + 1 : end].replace("''", "'") if 0 <= start < end else text


def array_length(text: bytes) -> int:
    """The elements of an array as the server reads it: ``{1,2}``, ``{"a,b",NULL}``."""
    inner = text.strip(b"{}")
    if not inner:
        return 0
    return inner.count(b",") + 1 if b'"' not in inner else re.sub(rb'"(?:[^"\\]|\\.)*"', b"", inner).count(b",") + 1


def _integer(value: int) -> str:
    if -_SMALL <= value < _SMALL:
        return "int4"
    return "int8" if -_LARGE <= value < _LARGE else "numeric"
