"""Reads that are compared: for a sample of them both shapes are read, later and elsewhere."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from zdmigrate.app.chance import CHANCE
from zdmigrate.app.shadow.comparing import Comparer, Job, Ledger, Normalise
from zdmigrate.app.shadow.staging import stage
from zdmigrate.app.snapshot import DEFAULT, Source
from zdmigrate.app.switch import ReadSwitch, Side
from zdmigrate.phases import Phase

C = TypeVar("C")
T = TypeVar("T")

WAITING = 32
"""Jobs that may wait. What they refer to stays in memory."""
IDLE = 60.0
"""Seconds after which a connection that nobody needs is closed."""
_GOODBYE = 1.0
"""Seconds that the end of a process waits for compares that are under way: all of them together."""


def as_it_is(value: T) -> T:
    """The normaliser that changes nothing."""
    return value


class Shadow:
    """What both kinds do alike."""

    def __init__(
        self, migration: str, *, sample: float = 0.01, timeout: float = 1.0, normalise: Normalise = as_it_is,
        samples: bool = True, otherwise: Side = "old", allow: frozenset[str] = frozenset(), source: Source | None = None,
    ) -> None:  # fmt: skip
        if not 0 <= sample <= 1:
            raise ValueError(f"sample must be between 0 and 1, not {sample}")
        if not 0.001 <= timeout <= 3600:
            raise ValueError(f"timeout must be between 0.001 and 3600 seconds, not {timeout}")
        self.migration = migration
        self.switch = ReadSwitch(migration, otherwise=otherwise, allow=allow, source=source)
        """What decides whose result is returned."""
        self._sample, self._timeout = sample, timeout
        self._source = source or DEFAULT
        self._ledger = Ledger(migration, self._source, normalise=normalise, samples=samples)
        self._closed = False

    def _wanted(self) -> bool:
        """Whether there is anything to compare, as far as this process knows. The compare asks once more."""
        state = self._source.current.migrations.get(self.migration)
        return (
            not self._closed
            and state is not None
            and state.phase in (Phase.BACKFILL, Phase.SWITCH_READS)
            and state.running in (None, Phase.SWITCH_READS)
        )


class ShadowRead(Shadow):
    """Reads that are answered as a `ReadSwitch` says, and of which a sample is compared: old shape and new, elsewhere.

    `read` returns what the authority's function returns, and raises what it raises, in the caller's transaction. For one call
    in a hundred (`sample`) a thread then runs **both** functions once more, on a connection of its own, in one REPEATABLE READ,
    READ ONLY transaction: they see one snapshot, so that a write in between is no mismatch. It is rolled back, and nothing
    of it reaches the caller: no error, no lock, no wait.

    Counts go to the control schema after a heartbeat (`register`), every minute and a half; the gate ``shadow_reads`` may ask
    for them. Compares begin when ``backfill`` is complete and end with ``retire``. Where too many wait, some are dropped, and
    counted. After a failure the thread rests, for a second at first.
    """

    def __init__(self, migration: str, target: Any, **options: Any) -> None:
        """
        Args:
            migration: its id.
            target: where to compare: an Engine, a libpq connection string or URL, or a function that makes psycopg
                connections. A physical replica will do, and spares the primary. One connection, not of the engine's pool.
            sample: the share of calls that are compared, 0 to 1.
            timeout: seconds that each statement of a compare may take.
            normalise: made of each result before the two are compared with ``==``, within the transaction. Objects of an ORM
                need one: they are equal to themselves alone.
            samples: False keeps keys, values and messages out of the reports: a few of them go there in plain text.
            otherwise, allow: as of `ReadSwitch`.
            source: of another fleet than the process's first.

        Raises:
            TypeError, ValueError: a wrong argument.
        """
        super().__init__(migration, **options)
        self._comparer = Comparer(stage(target), self._ledger, self._timeout)
        self._renew()
        _LIVING.add(self)
        _hook()

    def read(self, key: object = None, *, old: Callable[[C], T], new: Callable[[C], T], on: C) -> T:
        """Read with the function that the switch says. Both take the connection, or the session, that they read with.

        They may run a second time, in another thread, and there get a connection or a session like `on`, but not `on`. So
        they must only read, and hold nothing but plain values: an object of an ORM would load itself with the caller's session.
        """
        authority = new if self.switch.new(key) else old
        if CHANCE.random() >= self._sample:
            return authority(on)
        try:
            return authority(on)
        finally:
            self._offer(key, old, new, on)

    def close(self, timeout: float = _GOODBYE) -> None:
        """Compare nothing any more, and disconnect. Never raises."""
        self._end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _end(self) -> None:
        self._closed = True
        self._queue.put(None)

    def _renew(self) -> None:
        # A SimpleQueue may be put to by a signal's handler that interrupts a put.
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def _offer(self, key: object, old: Callable[[Any], Any], new: Callable[[Any], Any], on: object) -> None:
        with contextlib.suppress(Exception):  # no thread can be started any more, when the interpreter ends
            if not self._wanted():
                return
            if self._queue.qsize() >= WAITING:
                self._ledger.dropped()
                return
            self._queue.put(Job(key, old, new, session=not hasattr(on, "exec_driver_sql")))
            if self._thread is None and self._starting.acquire(blocking=False):
                try:
                    if self._thread is None:
                        thread = threading.Thread(target=self._live, name="zdmigrate-shadow", daemon=True)
                        thread.start()
                        self._thread = thread
                        _hook_end()  # only now: it has to come before the end of the fleet that tells what was found
                finally:
                    self._starting.release()

    def _live(self) -> None:
        jobs, comparer, wait = self._queue, self._comparer, None
        while True:
            try:
                job = jobs.get(timeout=wait)
            except queue.Empty:
                comparer.close()
                wait = None
                continue
            if job is None or self._closed:
                break
            comparer.run(job)
            job, wait = None, IDLE  # what a request has left behind is not kept until the next one
        comparer.close()

    def _after_fork(self) -> None:
        self._comparer = self._comparer.forget()
        self._renew()


_LIVING: weakref.WeakSet[ShadowRead] = weakref.WeakSet()


@functools.cache
def _hook() -> None:
    """Once a process: a forked one compares with a thread and a connection of its own."""
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _hook_end() -> None:
    atexit.register(_close_all)


def _after_fork() -> None:
    for shadow in list(_LIVING):
        shadow._after_fork()


def _close_all() -> None:
    living, deadline = list(_LIVING), monotonic() + _GOODBYE
    for shadow in living:
        shadow._end()
    for shadow in living:
        shadow.close(max(0.0, deadline - monotonic()))
