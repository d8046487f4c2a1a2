"""A worker of a backfill that goes on only when it is told to: one transaction, or one look around, after the other."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg

from zdmigrate.backfill import worker
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork

Connection = psycopg.Connection[Any]
PATIENCE = 30.0


class SteppedWorker:
    """`worker.run` in a thread. It stops by itself before every fenced transaction, between batches and where it would sleep.

    Nothing of it is locked then. `ended` is what it has returned or raised, None while it goes on; `at_transaction`: it has
    decided what to write, and stands before it.
    """

    def __init__(
        self, connection: Connection, *, control_schema: str, step: str, rows: RowWork, settings: worker.Settings,
        held: Any,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.pid = connection.info.backend_pid
        self.ended: worker.Outcome | BaseException | None = None
        self.at_transaction = False
        self._changed = threading.Condition()
        self._parked, self._free, self._stop, self._permits = False, False, False, 0
        self._given: dict[str, Any] = {
            "control_schema": control_schema, "migration": 1, "step": step, "rows": rows, "settings": settings,
            "fence": Fence(held=held, is_lost=self._is_lost), "progress": lambda _: None,
            "should_stop": self._should_stop, "sleep": self._sleep,
        }  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="stepped worker", daemon=True)
        self._thread.start()
        self.wait()

    def step(self) -> None:
        """On to the next stop, or to its end."""
        self.begin_step()
        self.wait()

    def begin_step(self) -> None:
        """The same, without waiting for it: somebody may be in its way."""
        with self._changed:
            self._permits += 1
            self._parked = False
            self._changed.notify_all()

    @property
    def is_at_rest(self) -> bool:
        """Whether it stands, or has ended."""
        return self._parked or self.ended is not None

    def wait(self) -> None:
        """Until it stands, or has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.is_at_rest, PATIENCE), "it does not come to its next stop"

    def ask_to_stop(self) -> None:
        """It ends in good order, when it looks next."""
        self._stop = True

    def let_go(self) -> None:
        """It goes on without stops from here."""
        with self._changed:
            self._free = True
            self._changed.notify_all()

    def run_out(self) -> worker.Outcome | BaseException:
        """Let it go on to its end; what that was."""
        self.let_go()
        self._thread.join(PATIENCE)
        assert self.ended is not None, "it does not end"
        self.connection.close()
        return self.ended

    def _run(self) -> None:
        ended: worker.Outcome | BaseException
        try:
            ended = worker.run(self.connection, **self._given)
        except BaseException as error:  # noqa: BLE001  # judged by who drives it
            ended = error
        with self._changed:
            self.ended = ended
            self._changed.notify_all()

    def _park(self) -> None:
        with self._changed:
            self._parked = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._free or self._permits > 0, 10 * PATIENCE)
            self._permits -= 1
            self._parked = False

    def _sleep(self, seconds: float) -> None:
        if self._free:
            time.sleep(min(seconds, 0.005))
        else:
            self._park()

    def _is_lost(self) -> bool:
        self.at_transaction = True
        self._park()
        self.at_transaction = False
        return False

    def _should_stop(self) -> bool:
        self._park()
        return self._stop
