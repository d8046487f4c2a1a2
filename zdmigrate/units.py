"""Durations and sizes as people write them in options and configuration files."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["parse_duration", "parse_size"]

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|kB|MB|GB|TB)", re.ASCII)
_LARGEST = (1 << 63) - 1


def parse_duration(text: str) -> timedelta:
    """``250ms``, ``10s``, ``5m``, ``72h`` or ``7d`` as a timedelta.

    Raises:
        ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it like 250ms, 10s, 5m, 72h or 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        raise ValueError(f"{text!r} is too long a duration") from None


def parse_size(text: str) -> int:
    """``512kB``, ``20MB`` or ``1.5GB`` in bytes; the units are PostgreSQL's, so 1 kB is 1,024 bytes.

    Raises:
        ValueError: it is none of these, or nothing at all.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it like 512kB, 20MB or 1.5GB")
    size = int(float(match[1]) * _SIZES[match[2]])
    if not 0 < size <= _LARGEST:
        raise ValueError(f"{text!r} is {'less than a byte' if size == 0 else 'too large a size'}")
    return size
