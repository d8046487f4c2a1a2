"""What a migration asks of the application before reads are switched."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from zdmigrate.errors import UsageError
from zdmigrate.wording import spoken


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class ShadowReads:
    """The gate ``shadow_reads`` of ``switch_reads``: instances compare both reads (`zdmigrate.app.ShadowRead`), and they agree.

    Args:
        compares: so many at least, since ``backfill`` is complete.
        mismatches: the share of them that may differ: ``0.001``, or ``"0.1 %"``.
        failures: the share of all attempts of which nobody knows, because a read failed or took too long.
        within: only compares of the last so long count.

    Raises:
        UsageError: an argument is wrong.
    """

    compares: int
    mismatches: float
    failures: float
    seconds: float

    def __init__(
        self,
        *,
        compares: int = 10_000,
        mismatches: float | str = 0.001,
        failures: float | str = 0.01,
        within: timedelta = timedelta(hours=24),
    ) -> None:
        if isinstance(compares, bool) or not isinstance(compares, int) or compares < 1:
            raise UsageError(f"compares must be a number from 1 on, not {compares!r}")
        if not isinstance(within, timedelta) or not timedelta(hours=1) <= within <= timedelta(days=7):
            raise UsageError(f"within must be a timedelta of an hour to 7 days, not {within!r}")
        object.__setattr__(self, "compares", compares)
        object.__setattr__(self, "mismatches", _share("mismatches", mismatches))
        object.__setattr__(self, "failures", _share("failures", failures))
        object.__setattr__(self, "seconds", within.total_seconds())

    @property
    def within(self) -> timedelta:
        """How old what counts may be."""
        return timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return (
            f"instances compared both reads at least {self.compares:,} times within {spoken(self.within)}, and at most "
            f"{percent(self.mismatches)} differed"
        )


def percent(share: float) -> str:
    """``0.1 %``."""
    return f"{100 * share:.4g} %"


def _share(name: str, given: float | str) -> float:
    try:
        share = float(given.removesuffix("%")) / 100 if isinstance(given, str) and given.endswith("%") else float(given)
    except (TypeError, ValueError):
        share = -1.0
    if isinstance(given, bool) or not 0 <= share <= 1:
        raise UsageError(f'{name} must be a share: 0.001, or "0.1 %", not {given!r}')
    return share
