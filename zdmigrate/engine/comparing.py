"""The gate ``shadow_reads``: whether applications that read both shapes found the same. Pure."""

from __future__ import annotations

from zdmigrate.control.shadows import Compared
from zdmigrate.demands import ShadowReads, percent
from zdmigrate.wording import counted, spoken


def judged(demand: ShadowReads, found: Compared) -> tuple[bool, str]:
    """Whether the gate holds, and why."""
    if not found.compares and not found.failures:
        dropped = f"; {_dropped(found)}" if found.dropped else " (zdmigrate.app.ShadowRead)"
        return False, (
            f"no instance has compared both reads within {spoken(demand.within)}, and since this phase is complete; "
            f"{demand.compares:,} are asked for{dropped}"
        )
    enough = found.compares >= demand.compares
    differing = _share(found.mismatches, found.compares)
    failing = _share(found.failures, found.compares + found.failures)
    number = f"{found.compares:,} compares" if enough else f"{found.compares:,} of {demand.compares:,} compares"
    parts = [number + _since(found), _mismatches(found, demand)]
    if found.failures:
        parts.append(f"{_failures(found)}, at most {percent(demand.failures)})")
    if found.dropped:
        parts.append(_dropped(found))
    return enough and differing <= demand.mismatches and failing <= demand.failures, "; ".join(parts)


def summed_up(found: Compared) -> str:
    """For people who ask how it goes."""
    parts = [f"{counted_of(found.compares, 'compare')}{_since(found)}", _mismatches(found)]
    if found.failures:
        parts.append(f"{_failures(found)})")
    if found.dropped:
        parts.append(_dropped(found))
    return "; ".join(parts)


def counted_of(number: int, thing: str) -> str:
    """``1 compare``, ``9,214 compares``."""
    return counted(number, thing) if number < 1000 else f"{number:,} {thing}s"


def _since(found: Compared) -> str:
    return "" if found.since is None else f" since {found.since:%Y-%m-%d %H:%M} UTC"


def _mismatches(found: Compared, demand: ShadowReads | None = None) -> str:
    if not found.mismatches:
        return "no mismatch"
    number = f"{found.mismatches:,} mismatch{'' if found.mismatches == 1 else 'es'}"
    most = "" if demand is None else f", at most {percent(demand.mismatches)}"
    named = ", ".join(f"key {each.key}: old {each.old}, new {each.new}" for each in found.samples)
    share = percent(_share(found.mismatches, found.compares))
    return f"{number} ({share}{most})" + (f": {named}" if named else "")


def _failures(found: Compared) -> str:
    why = "" if found.failure is None else f", {found.failure}"
    return f"{found.failures:,} failed{why} ({percent(_share(found.failures, found.compares + found.failures))}"


def _dropped(found: Compared) -> str:
    why = f" ({found.failure})" if found.failure and not found.failures else ""
    return f"{found.dropped:,} left out{why}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
