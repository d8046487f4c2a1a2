"""Numbers and times as people say them."""

from __future__ import annotations

from datetime import timedelta


def counted(number: int, thing: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def spoken(value: timedelta) -> str:
    """``3 days``, ``1 day 4 h``, ``12 min``, ``40 s``: the two largest units, rounded up to the smaller one."""
    seconds = -(-value // timedelta(seconds=1))
    if seconds < 60:
        return f"{seconds} s"
    minutes = -(-seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours + (minutes > 0), 24)
    said = counted(days, "day")
    return f"{said} {hours} h" if hours else said


def size(count: float) -> str:
    """``512 bytes``, ``1.5 MB``, ``200 GB``: in steps of 1024."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while abs(value) >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" or abs(value) >= 100 else f"{value:.1f} {units[0]}"


def brief(value: timedelta) -> str:
    """``50 ms``, ``1.5 s``, and longer ones as `spoken` says them."""
    milliseconds = value / timedelta(milliseconds=1)
    if milliseconds < 1000:
        return f"{milliseconds:.4g} ms"
    return f"{milliseconds / 1000:.4g} s" if milliseconds < 60_000 else spoken(value)


def sized(number: float) -> str:
    """Bytes as PostgreSQL says them: ``512 B``, ``20 MB``, ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TB"
