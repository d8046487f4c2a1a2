"""Values for columns, made from their types: distinct for distinct numbers, and valid for both versions' types."""

from __future__ import annotations

import enum
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from zdmigrate.demo.example import Values

__all__ = ["FIRST", "as_model", "as_neutral", "generic"]

FIRST = 20_000
"""The first number: above what seeds count, below what a smallint holds."""

_Types = Sequence[TypeEngine[Any]]
_Maker = Callable[[_Types], Values | None]
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SPICE = ("", "é", "'", '"', "\\", "%s", "  ", "\n", "😀")
"""What SQL, drivers and triggers may trip over."""


def generic(types: _Types) -> Values | None:
    """Values that columns of all these types hold alike; None where the types have nothing in common."""
    makers = {_maker(type_) for type_ in types}
    maker = makers.pop()
    return None if makers or maker is None else maker(types)


def as_model(type_: TypeEngine[Any], value: object) -> object:
    """A value as the model wants it: each version has an enum class of its own, so the registry knows labels."""
    if isinstance(type_, sa.Enum) and type_.enum_class is not None and value is not None:
        members: dict[str, object] = dict(zip(type_.enums, type_.enum_class.__members__.values(), strict=True))
        return members[str(value)]
    if isinstance(type_, sa.ARRAY) and isinstance(value, list):
        return [as_model(type_.item_type, item) for item in value]
    return value


def as_neutral(type_: TypeEngine[Any], value: object) -> object:
    """A value of a model as both versions know it."""
    if isinstance(type_, sa.Enum) and isinstance(value, enum.Enum):
        return type_.enums[[*type(value).__members__.values()].index(value)]
    if isinstance(type_, sa.ARRAY) and isinstance(value, list):
        return [as_neutral(type_.item_type, item) for item in value]
    return value


def _maker(type_: TypeEngine[Any]) -> _Maker | None:
    return next((maker for class_, maker in _MAKERS if isinstance(type_, class_)), None)


def _integer(types: _Types) -> Values:
    bits = 15 if any(isinstance(t, sa.SmallInteger) for t in types) else 31
    return lambda _, n: n % (2**bits - 1)


def _numeric(types: Any) -> Values:
    scale = min(2 if t.scale is None else t.scale for t in types)
    whole = min(9 if t.precision is None else t.precision - (t.scale or 0) for t in types)
    decimal = all(t.asdecimal for t in types)

    def value(_: random.Random, n: int) -> object:
        found = Decimal(n % 10 ** (whole + scale)).scaleb(-scale)
        return found if decimal else float(found)

    return value


def _string(types: Any) -> Values:
    length = min((t.length for t in types if t.length), default=None)
    fixed = any(isinstance(t, sa.CHAR) for t in types)

    def value(chance: random.Random, n: int) -> str:
        if fixed and length:
            return _in_base_36(n)[-length:].rjust(length, "0")
        text = f"value {n}{chance.choice(_SPICE)}"
        if length is None or len(text) <= length:
            return text
        return _in_base_36(n)[-length:]

    return value


def _in_base_36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = _DIGITS[rest] + digits
    return digits or "0"


def _enum(types: Any) -> Values | None:
    labels = [label for label in types[0].enums if all(label in t.enums for t in types)]
    return (lambda chance, _: chance.choice(labels)) if labels else None


def _datetime(types: Any) -> Values | None:
    zones = {bool(t.timezone) for t in types}
    start = datetime(2026, 1, 1, tzinfo=UTC if True in zones else None)
    return None if len(zones) > 1 else lambda _, n: start + timedelta(minutes=n)


def _time(types: Any) -> Values | None:
    zones = {bool(t.timezone) for t in types}
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def value(_: random.Random, n: int) -> time:
        moment = start + timedelta(seconds=n)
        return moment.timetz() if True in zones else moment.time()

    return None if len(zones) > 1 else value


def _array(types: Any) -> Values | None:
    item = generic([t.item_type for t in types])
    if item is None or any(t.dimensions not in (None, 1) for t in types):
        return None
    return lambda chance, n: [item(chance, n), item(chance, n + 1)]


def _uuid(types: Any) -> Values | None:
    as_uuid = {t.as_uuid for t in types}

    def value(_: random.Random, n: int) -> object:
        found = uuid.UUID(int=0x4000_8000_0000_0000_0000 + n)
        return found if True in as_uuid else str(found)

    return None if len(as_uuid) > 1 else value


def _always(value: Values) -> _Maker:
    return lambda _: value


_MAKERS: tuple[tuple[type[TypeEngine[Any]], _Maker], ...] = (
    (sa.Boolean, _always(lambda chance, _: chance.random() < 0.5)),
    (sa.Enum, _enum),
    (sa.Integer, _integer),
    (sa.Float, _always(lambda _, n: n / 4)),  # real and double precision hold it exactly
    (sa.Numeric, _numeric),
    (sa.String, _string),
    (sa.DateTime, _datetime),
    (sa.Date, _always(lambda _, n: date(1970, 1, 1) + timedelta(days=n))),
    (sa.Time, _time),
    (sa.Interval, _always(lambda _, n: timedelta(seconds=n))),
    (postgresql.INTERVAL, _always(lambda _, n: timedelta(seconds=n))),
    (sa.Uuid, _uuid),
    (sa.LargeBinary, _always(lambda _, n: b"\0\xff" + n.to_bytes(8))),
    (sa.JSON, _always(lambda _, n: {"number": n, "list": [None, "é"]})),
    (sa.ARRAY, _array),
    (postgresql.INET, _always(lambda _, n: f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}")),
)
