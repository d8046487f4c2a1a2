"""What an instance was told of migrations and read switches, and for how long it may rely on it.

A snapshot holds until its lease has run out, measured by the monotonic clock from *before* the heartbeat was sent: the
server, which counts from when the heartbeat came, never takes an instance for dead that still relies on what it knows.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from zdmigrate.app.shapes import Shapes
from zdmigrate.app.tally import Tally
from zdmigrate.phases import Phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState:
    """Where a migration stands. `version` counts its changes; `running` is under way, forwards or backwards; `holder` is who
    works on it."""

    version: int
    phase: Phase
    running: Phase | None
    shapes: Shapes
    holder: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SwitchState:
    """Whom a read switch sends to the new shape: so many of a hundred keys, and those of `allowed`."""

    version: int
    percent: int
    allowed: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """One answer to a heartbeat. `until` is of the monotonic clock, in seconds; `stale`: it was over when it was pinned;
    `told`: there was an answer at all."""

    migrations: Mapping[str, MigrationState] = dataclasses.field(default_factory=dict)
    switches: Mapping[str, SwitchState] = dataclasses.field(default_factory=dict)
    until: float = float("-inf")
    stale: bool = False
    told: bool = True

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, until: float) -> Snapshot:
        """The document of the control schema's ``app_snapshot``."""
        return cls(
            migrations={
                id_: MigrationState(
                    version=version, phase=Phase(phase), running=None if running is None else Phase(running),
                    shapes=Shapes.from_json(shapes), holder=holder,
                )
                for id_, (version, phase, running, shapes, holder) in document["migrations"].items()
            },
            switches={
                name: SwitchState(version=version, percent=percent, allowed=frozenset(allowed))
                for name, (version, percent, allowed) in document["switches"].items()
            },
            until=until,
        )  # fmt: skip

    def over(self) -> Snapshot:
        """The same, when nobody may rely on it any more."""
        return dataclasses.replace(self, until=float("inf"), stale=True)

    def held(self) -> Snapshot:
        """What to rely on from now to the end of a request, however long that takes."""
        return self.over() if time.monotonic() > self.until else dataclasses.replace(self, until=float("inf"))

    @property
    def versions(self) -> dict[str, int]:
        """What the instance acknowledges by saying that it knows this snapshot. Switches have a name of their own kind."""
        return {
            **{id_: state.version for id_, state in self.migrations.items()},
            **{f"switch {name}": state.version for name, state in self.switches.items()},
        }


class Home(NamedTuple):
    """Of the instance whose heartbeats feed a source: what its sessions are called, and where it reports to."""

    name: str
    schema: str
    project: str


class Source:
    """The newest snapshot, and the older ones that requests still rely on. Threads and event loops may share it."""

    def __init__(self) -> None:
        self.current = Snapshot(told=False)
        self.home: Home | None = None
        """Whose heartbeats these are; None before anybody has registered."""
        self.tally = Tally()
        """What heartbeats take along."""
        self.news = 0
        """Counts the snapshots that told something new."""
        self.asked: set[str] = set()
        """Migrations that somebody wants to be told of even when they are finished."""
        self._lock = threading.Lock()
        self._pinned: list[Snapshot] = []
        self._held = (self.current, self.current.over())
        self._expected = float("-inf")

    def expect(self, seconds: float) -> None:
        """The first heartbeat is under way, and may take so long."""
        self._expected = time.monotonic() + seconds

    def expects(self) -> bool:
        """Whether the first heartbeat may still come."""
        return time.monotonic() < self._expected

    def acknowledged(self) -> dict[str, int]:
        """The versions that nothing in this process is behind: those of the oldest snapshot that is pinned, or the newest."""
        with self._lock:
            known = [snapshot.versions for snapshot in (*self._pinned, self.current)]
        newest = known[-1]
        return {name: min(each.get(name, 0) for each in known) for name in newest}

    def pin(self) -> Snapshot:
        """The newest snapshot, which counts as in use until `unpin`."""
        with self._lock:
            origin, held = self._held
            if origin is not self.current or held.stale is not (time.monotonic() > origin.until):
                held = self.current.held()
                self._held = (self.current, held)  # requests that begin alike share it, and what was worked out of it
            self._pinned.append(held)
        return held

    def unpin(self, snapshot: Snapshot) -> None:
        """The end of what `pin` began."""
        with self._lock:
            for place, each in enumerate(self._pinned):
                if each is snapshot:
                    del self._pinned[place]
                    return

    def after_fork(self) -> None:
        """In a child: no request of the parent's goes on here, and its lock may have been held."""
        self._lock = threading.Lock()
        self._pinned = []
        self.tally.after_fork()
        if (pins := PINS.get()) is not None:
            pins.closed = True


DEFAULT = Source()
"""What `register` feeds, and switches read, unless they are told otherwise."""


class _Pins:
    """Of one request, whose threads and tasks share them."""

    __slots__ = ("_held", "_lock", "closed")

    def __init__(self) -> None:
        self._held: dict[Source, Snapshot] = {}
        self._lock = threading.Lock()
        self.closed = False

    def of(self, source: Source) -> Snapshot:
        if self.closed:  # a task that goes on after the request that began it
            return source.current
        found = self._held.get(source)
        return self._pin(source) if found is None else found

    def _pin(self, source: Source) -> Snapshot:
        with self._lock:
            if self.closed:
                return source.current
            if source not in self._held:
                self._held[source] = source.pin()
            return self._held[source]

    def release(self) -> None:
        with self._lock:
            self.closed = True
            held = list(self._held.items())
        for source, snapshot in held:
            source.unpin(snapshot)


PINS: ContextVar[_Pins | None] = ContextVar("zdmigrate_pins", default=None)


@contextmanager
def pinned() -> Iterator[None]:
    """Within it, every read switch keeps the answer that it gave first: for a request, a transaction, a job.

    The tool waits for what is pinned before it takes a shape away, so a job of an hour delays that by an hour. Within
    another one, the outer one counts. Takes no lock in the database.
    """
    if (outer := PINS.get()) is not None and not outer.closed:
        yield
        return
    pins = _Pins()
    token = PINS.set(pins)
    try:
        yield
    finally:
        pins.release()
        with suppress(ValueError):  # a framework may end in another context what it began in one
            PINS.reset(token)
