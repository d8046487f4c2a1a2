"""The side thread: asks every throttle a few times a second, so that those who work only look at a variable."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import psycopg

from zdmigrate.backfill.throttles import words
from zdmigrate.backfill.throttles.reading import Closable, Reading, Throttle, unknown
from zdmigrate.backfill.throttles.verdict import Judge, Verdict, silent
from zdmigrate.postgres.session import Connection

# A question must not wait for long, and a heartbeat not for a standby.
_PREPARE = """
SELECT set_config('statement_timeout', '2000', false), set_config('lock_timeout', '500', false),
       set_config('synchronous_commit', 'off', false)
"""


class Watch:
    """Keeps a verdict. Start it, look at `verdict` as often as you like, stop it; or use it in a ``with`` statement.

    Without an answer for `silence`, whatever the reason, the verdict is unhealthy; so it is before the first.

    Args:
        connect: opens the connection that belongs to the thread: direct, in autocommit mode.
        interval: rest between two rounds.
    """

    def __init__(
        self,
        throttles: Sequence[Throttle],
        connect: Callable[[], Connection],
        *,
        interval: timedelta = timedelta(milliseconds=250),
        silence: timedelta = timedelta(seconds=3),
    ) -> None:
        self._throttles, self._connect = tuple(throttles), connect
        self._interval, self._silence = interval.total_seconds(), silence
        self._judge = Judge()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._last = (Verdict(at=None), float("-inf"))  # one variable: its reader takes no lock
        self._began = datetime.now(UTC)
        self._doing = "not started"
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="zdmigrate throttles", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to ask."""
        self._began = datetime.now(UTC)
        self._thread.start()

    def stop(self, *, timeout: timedelta = timedelta(seconds=5)) -> None:
        """End the thread and its connections. A question that nobody answers is left behind after `timeout`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout.total_seconds())

    @property
    def verdict(self) -> Verdict:
        """What is known now. Does no input or output, and waits for nobody."""
        last, answered = self._last
        if last.at is not None and time.monotonic() - answered <= self._silence.total_seconds():
            return last
        tolerance = timedelta(0) if last.at is None else self._silence
        why = self._failure or self._doing
        return silent(last, answered=last.at or self._began, tolerance=tolerance, now=datetime.now(UTC), why=why)

    def wait(self, timeout: timedelta, *, until: Callable[[Verdict], bool] = lambda v: v.is_healthy) -> Verdict:
        """Wait until a verdict is as wanted (healthy, if nothing else is said), or `timeout` is over; the last one."""
        deadline = time.monotonic() + timeout.total_seconds()
        with self._changed:
            while not until(verdict := self.verdict) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, self._interval))  # silence changes the verdict, and tells nobody
            return verdict

    # The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._round()
                self._stopping.wait(self._interval)
        finally:
            self._disconnect()
            for throttle in self._throttles:
                if isinstance(throttle, Closable):
                    throttle.close()

    def _round(self) -> None:
        try:
            connection = self._connected()
            readings = [reading for throttle in self._throttles for reading in self._ask(throttle, connection)]
        except Exception as error:  # noqa: BLE001  # a thread that has ended would never find out that all is well again
            self._failure = _text(error)
            self._disconnect()
        else:
            self._publish(readings)

    def _connected(self) -> Connection:
        self._doing = "waiting for a connection to the primary"
        if self._connection is None:
            self._connection = self._connect()
            self._connection.execute(_PREPARE)
            # To plan a query on the statistics views takes four times as long as to run it, and there are many rounds.
            self._connection.prepare_threshold = 1
        return self._connection

    def _ask(self, throttle: Throttle, connection: Connection) -> Sequence[Reading]:
        """The throttle's readings; what it raises is one that is unhealthy, unless the connection is lost."""
        self._doing = f"waiting for: {throttle.name}"
        try:
            return throttle.read(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            return [unknown(throttle.name, "unknown", _text(error), words.grant("pg_monitor", connection))]
        except Exception as error:
            if connection.closed:
                raise
            return [unknown(throttle.name, "unknown", f"{throttle.name}: {_text(error)}")]

    def _publish(self, readings: Sequence[Reading]) -> None:
        now = time.monotonic()
        verdict = self._judge.judge(readings, at=datetime.now(UTC), clock=now)
        self._failure = ""
        with self._changed:
            self._last = (verdict, now)
            self._changed.notify_all()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _text(error: Exception) -> str:
    """The error in one line; for one of the server, its own words."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
