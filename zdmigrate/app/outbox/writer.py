"""`DualWriter`: what the application declares and calls, and the thread that delivers."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, NamedTuple

from zdmigrate.app.chance import CHANCE
from zdmigrate.app.outbox.carrying import after_transaction, call, connection_of, is_session
from zdmigrate.app.outbox.delivery import (
    Delivered,
    Read,
    Step,
    Steps,
    Transaction,
    Write,
    announcement,
    deliveries,
    drive,
)
from zdmigrate.app.outbox.links import Link, link
from zdmigrate.app.outbox.statements import Outbox, Sql
from zdmigrate.app.outbox.table import NAME

log = logging.getLogger("zdmigrate.app")

GRACE = 5.0
"""Seconds by which the server waits longer for us than we for the other store."""


class Pending(NamedTuple):
    """How many keys the other store has yet to get, how many of them it has refused so far, and for how many seconds the
    oldest has been waiting. For alerts."""

    keys: int
    failing: int
    oldest: float


class Writer:
    """What both kinds of writer share."""

    def __init__(
        self, name: str, *, primary: Callable[..., Any], secondary: Callable[..., Any], versions: bool = False,
        timeout: float = 30.0, longest_pause: float = 300.0, interval: float = 10.0, table: str = NAME,
        schema: str | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            name: of the other store, in the outbox: ``search``.
            primary: ``primary(connection, key)`` reads the truth for a key; None: there is nothing (any more).
            secondary: ``secondary(key, value)`` makes the other store so, and raises where it cannot. Is called again
                for what it has done already, and must not mind.
            versions: call ``secondary(key, value, version)``: a number that is larger for each further delivery of a key.
                A store that refuses older ones is safe from a call that was thought dead and takes effect late.
            timeout: seconds that a call of `secondary` may take. An event loop cancels it then; a thread cannot, so give
                its client a shorter one: somebody else may deliver the key five seconds later.
            longest_pause: seconds between two attempts at a key that fails, at most. They begin with one second.
            interval: seconds between two looks at the outbox, for what other processes have put in.
            table, schema: of the outbox.

        Raises:
            ValueError: a name that is empty, or a time that is not positive.
        """
        if not name or "\0" in name:
            raise ValueError("a writer needs a name")
        if min(timeout, longest_pause, interval) <= 0:
            raise ValueError("timeout, longest_pause and interval are seconds, and more than none")
        self.name = name
        self._primary, self._secondary = primary, secondary
        self._timeout, self._interval = timeout, interval
        self._outbox = Outbox(name, table, schema, hold=timeout + GRACE, longest=longest_pause, versions=versions)
        self._doubtful: set[str] = set()
        self._troubled = False
        self._due = float("inf")

    def _announced(self, keys: tuple[str, ...]) -> Sql:
        if not keys:
            raise ValueError("changed() needs a key")
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"keys are text, not {key!r}")
            if "\0" in key:
                raise ValueError("the database takes no text with a NUL in it")
        return self._outbox.changed(keys)

    def _due_now(self, ended: Callable[[], bool]) -> Steps:
        if monotonic() >= self._due:
            self._due = float("inf")
        return deliveries(self._outbox, self._doubtful, ended, self._later)

    def _later(self, seconds: float) -> None:
        self._due = min(self._due, monotonic() + seconds)

    def _pause(self) -> float:
        """Until what failed here is due. Processes that were started together do not look together otherwise."""
        return min(self._interval * CHANCE.uniform(0.9, 1.1), max(0.0, self._due - monotonic()))

    def _left_behind(self, error: BaseException) -> None:
        """Not even that could be said. This process tries again, if it goes on."""
        log.warning(
            "%s: the other store may have an older value of %s, and the outbox does not know it: %s", self.name,
            ", ".join(map(repr, sorted(self._doubtful)[:10])), " ".join(str(error).split()) or type(error).__name__,
        )  # fmt: skip

    def _tell(self, done: Delivered | BaseException) -> None:
        """Trouble is said once, and that it is over."""
        if isinstance(done, BaseException):
            wrong = " ".join(str(done).split()) or type(done).__name__
        elif done.failed:
            wrong = f"{done.failed} keys are tried again later, the last of them {done.error}"
        else:
            if self._troubled and done.delivered:
                self._troubled = False
                log.info("%s is delivered to again", self.name)
            return
        log.log(logging.DEBUG if self._troubled else logging.WARNING, "%s is behind: %s", self.name, wrong)
        self._troubled = True


class DualWriter(Writer):
    """Keeps another store as PostgreSQL is: PostgreSQL is the truth, and nothing is ever only in memory, or only logged.

    `changed` writes into an outbox, in the transaction of the change. After it, a thread of any process (`start`), or a
    cron job (`run_once`), reads the truth and writes it to the other store; what fails is tried again until it succeeds.
    Of two deliveries of a key the later one has read the later truth. The other store is behind by as long as that takes.

    Locks: an advisory one for a key while it is delivered. In between, the transaction holds no snapshot and no table. With
    `versions` it has an id, and so it holds back VACUUM for the time of the call.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._link: Link | None = None

    __init__.__doc__ = Writer.__init__.__doc__

    def changed(self, target: Any, *keys: str) -> None:
        """What these keys mean has changed, or will, in the transaction that is open: one INSERT into the outbox.

        After the commit of a SQLAlchemy `Session` the thread of this process is woken; of a connection, say `wake`.

        Args:
            target: the transaction: a `Session`, a `Connection`, or one of psycopg, psycopg2 or Django.

        Raises:
            ValueError: the connection commits every statement by itself.
            TypeError: a key that is no text.
        """
        call(connection_of(target), self._announced(keys))
        if is_session(target):
            after_transaction(target, self.name, self.wake)

    def start(self, target: Any) -> None:
        """Deliver, in a daemon thread with a connection of its own, until `stop`. A forked process has its own.

        Args:
            target: an Engine, a libpq connection string or URL, or a function that makes psycopg connections. `primary` gets
                a `Connection`, or psycopg's.

        Raises:
            TypeError: anything else. RuntimeError: it was started already.
        """
        if self._link is not None:
            raise RuntimeError(f"{self.name} was started already")
        self._link = link(target)
        _STARTED.add(self)
        _hook()
        self._begin()

    def stop(self, timeout: float | None = None) -> None:
        """End the thread after the key that it is at, and wait for that so many seconds (None: as many as it may take)."""
        if self._link is None:
            return
        self._ended.set()
        self._woken.set()
        self._thread.join(self._timeout if timeout is None else timeout)
        self._link = None
        _STARTED.discard(self)

    def wake(self) -> None:
        """Look now: something was committed."""
        if self._link is not None:
            self._woken.set()

    def run_once(self, target: Any) -> Delivered:
        """Deliver what is due now, and return: for a cron job, the end of a script, and tests. `target` as for `start`.

        Raises: what the driver raises. What `secondary` raises is in the outbox, and counted.
        """
        with _closing(link(target)) as own:
            try:
                return self._drive(own, deliveries(self._outbox, self._doubtful))
            finally:
                self._announce(own)

    def pending(self, target: Any) -> Pending:
        """What is in the outbox: one query, which reads all of the writer's rows. `target` as for `start`."""
        with _closing(link(target)) as own:
            found = call(own.begin(), self._outbox.pending())
        return Pending(*json.loads(found or "[0, 0, 0]"))

    def _begin(self) -> None:
        # Its own: one that `stop` did not wait for must not go on when another one is started.
        self._ended, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._live, args=(self._link, self._woken, self._ended), name=f"zdmigrate-{self.name}", daemon=True
        )
        self._thread.start()

    def _live(self, own: Link, woken: threading.Event, ended: threading.Event) -> None:
        while not ended.is_set():
            woken.clear()  # first: who wakes us from now on has something that this look may miss
            done = Delivered()
            try:
                done = self._drive(own, self._due_now(ended.is_set))
                self._tell(done)
            except BaseException as error:  # noqa: BLE001  # on our own thread: the application must not notice
                self._tell(error)
                self._announce(own)
            if not done.delivered and not ended.is_set():  # else look again: it may have taken a while
                woken.wait(self._pause())
        self._announce(own)
        own.close()

    def _announce(self, own: Link) -> None:
        """What was written, and could not be said, is put into the outbox again, on a new connection: the process may end
        now, and nobody else knows. Never raises."""
        if self._doubtful:
            own.close()
            try:
                self._drive(own, announcement(self._outbox, self._doubtful))
            except Exception as error:  # noqa: BLE001
                self._left_behind(error)

    def _drive(self, own: Link, steps: Steps) -> Delivered:
        connection: Any = None

        def take(step: Step) -> Any:
            nonlocal connection
            match step:
                case Transaction.BEGIN:
                    connection = own.begin()
                    return None
                case Transaction.COMMIT:
                    return own.commit()
                case Read(key):
                    return self._primary(connection, key)
                case Write(key, value, version):
                    return self._secondary(key, value, *(() if version is None else (version,)))
                case _:
                    return call(connection, step)

        try:
            return drive(steps, take)
        except BaseException:
            own.close()
            raise

    def _after_fork(self) -> None:
        assert self._link is not None
        self._link = self._link.forget()
        self._doubtful = set()  # the parent's
        self._begin()


@contextlib.contextmanager
def _closing(own: Link) -> Iterator[Link]:
    try:
        yield own
    finally:
        own.close()


_STARTED: set[DualWriter] = set()


@functools.cache
def _hook() -> None:
    """Once a process."""
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for writer in list(_STARTED):
        writer._after_fork()
