"""Which shape to read, decided in memory."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Literal, TypeVar

from zdmigrate.app.snapshot import DEFAULT, PINS, Snapshot, Source, SwitchState
from zdmigrate.phases import Phase

log = logging.getLogger("zdmigrate.app")

T = TypeVar("T")
Side = Literal["old", "new"]

_ALL = 10_000
_PRIME = 2**30 - 35
"""Below 2^30, Python divides by it in one step."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    snapshot: Snapshot
    threshold: int
    allowed: frozenset[str]
    may_fall_back: bool
    guessed: bool


class ReadSwitch:
    """Which shape of a migration to read. Decided in under a microsecond from what the last heartbeat brought.

    * Up to ``backfill`` the answer is old, from ``retire`` on new, whatever was switched. In between so many of a hundred
      keys read the new shape as ``zdmigrate switch`` or ``advance --to switch_reads`` said; who reads it at 5 % reads it at
      25 %, too.
    * A key is anything whose ``str()`` stays the same: a user's id, a tenant's. Without a key the answer is new at 100 %.
    * Where nobody can say (no heartbeat yet, no control schema, a lease that ran out) it is `otherwise`, logged once.

    Answers change between two calls when a heartbeat comes in between: use `pinned` around a request.
    """

    __slots__ = ("_allow", "_otherwise", "_rule", "_salt", "_source", "_stale", "_told", "fell_back", "migration")

    def __init__(
        self,
        migration: str,
        *,
        otherwise: Side = "old",
        allow: frozenset[str] = frozenset(),
        source: Source | None = None,
    ) -> None:
        """
        Args:
            migration: its id.
            otherwise: the side that is safe where nobody can say.
            allow: keys that read the new shape as soon as anybody may.
            source: of another fleet than the process's first.
        """
        if otherwise not in ("old", "new"):
            raise ValueError(f'otherwise must be "old" or "new", not {otherwise!r}')
        self.migration = migration
        self.fell_back = 0
        """Reads of the new shape that found nothing and were answered from the old one."""
        self._otherwise = otherwise
        self._allow = frozenset(str(key) for key in allow)
        self._salt = zlib.crc32(migration.encode()) | 1
        self._source = source or DEFAULT
        self._source.asked.add(migration)
        self._told = False
        self._rule = self._stale = self._made(Snapshot().over())

    def new(self, key: object = None) -> bool:
        """Whether to read the new shape."""
        pins = PINS.get()
        snapshot = self._source.current if pins is None else pins.of(self._source)
        rule = self._rule
        if rule.snapshot is not snapshot:
            rule = self._rule = self._made(snapshot)
        if monotonic() > snapshot.until:
            rule = self._over(snapshot)
        if rule.guessed is not self._told:
            self._tell(guessed=rule.guessed)
        threshold = rule.threshold
        if threshold >= _ALL:
            return True
        if key is None:
            return False
        text = str(key)
        if rule.allowed and text in rule.allowed:
            return True
        return threshold > 0 and bucket(text, self._salt) < threshold

    def pick(self, key: object = None, *, old: T, new: T) -> T:
        """`new` or `old`: columns, models, queries."""
        return new if self.new(key) else old

    def read(
        self, key: object = None, *, old: Callable[[], T], new: Callable[[], T],
        missing: Callable[[Any], bool] = lambda value: value is None,
    ) -> T:  # fmt: skip
        """Read by the shape that the switch says; where the new one has nothing, and the old one still exists, by the old
        one, which is counted in `fell_back`."""
        if not self.new(key):
            return old()
        value = new()
        if missing(value) and self._rule.may_fall_back:
            self.fell_back += 1
            return old()
        return value

    async def aread(
        self, key: object = None, *, old: Callable[[], Awaitable[T]], new: Callable[[], Awaitable[T]],
        missing: Callable[[Any], bool] = lambda value: value is None,
    ) -> T:  # fmt: skip
        """The same for coroutines."""
        if not self.new(key):
            return await old()
        value = await new()
        if missing(value) and self._rule.may_fall_back:
            self.fell_back += 1
            return await old()
        return value

    def _over(self, snapshot: Snapshot) -> _Rule:
        """The rule when the lease has run out."""
        if self._stale.snapshot is not snapshot:
            self._stale = dataclasses.replace(self._made(snapshot.over()), snapshot=snapshot)
        return self._stale

    def _made(self, snapshot: Snapshot) -> _Rule:
        migration = snapshot.migrations.get(self.migration)
        phase = Phase.NONE if migration is None else migration.phase
        retiring = migration is not None and migration.running is Phase.RETIRE
        if retiring or phase.position >= Phase.RETIRE.position:  # the old shape may be gone, the new one is not
            return _Rule(snapshot, _ALL, frozenset(), may_fall_back=False, guessed=False)
        if phase.position < Phase.BACKFILL.position and (migration is not None or not snapshot.stale):
            return _Rule(snapshot, 0, frozenset(), may_fall_back=True, guessed=False)
        if snapshot.stale:
            threshold = _ALL if self._otherwise == "new" else 0
            return _Rule(snapshot, threshold, frozenset(), may_fall_back=True, guessed=True)
        switch = snapshot.switches.get(self.migration) or SwitchState(version=0, percent=0)
        threshold = switch.percent * _ALL // 100
        return _Rule(snapshot, threshold, self._allow | switch.allowed, may_fall_back=True, guessed=False)

    def _tell(self, *, guessed: bool) -> None:
        """Say once that nobody can say, and again after somebody could."""
        if not guessed:
            self._told = False
            return
        if self._source.expects():
            return  # the first heartbeat is under way
        self._told = True
        log.warning(
            "%s: no heartbeat has succeeded for as long as a lease lasts, or nobody has called zdmigrate.app.register: "
            "reading the %s shape until one does",
            self.migration, self._otherwise,
        )  # fmt: skip


def bucket(key: str, salt: int) -> int:
    """0 to 9,999, evenly, and the same in every process: CRC-32, with which alone switches would share their keys, times the
    switch's own odd number modulo a prime (universal hashing, Carter and Wegman)."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"), salt) * salt % _PRIME % _ALL
