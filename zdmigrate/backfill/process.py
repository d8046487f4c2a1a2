"""What the workers of one process share, and the thread that keeps in touch with the others and with who steers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg

from zdmigrate.backfill import control
from zdmigrate.backfill.governor import Governor
from zdmigrate.backfill.membership import Membership
from zdmigrate.backfill.progress import Meter, Readings, Snapshot
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.state import Cursor, Filled
from zdmigrate.backfill.strategy import Mode, Oldest, Strategy
from zdmigrate.backfill.throttles.reading import Horizon
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.backfill.values import Progress
from zdmigrate.backfill.working import Stopped

Connect = Callable[[], psycopg.Connection[Any]]

VACUUM_SHARE = 0.1
"""Of a relation, that may be left dead before it is vacuumed."""
LOOK = 0.5
"""Seconds between two looks at what was said; what is said takes effect within a second."""


class Shared:
    """Rows, pages and orders of work. Any thread may call any method."""

    def __init__(self, governor: Governor, rows: int, watch: Watch | None) -> None:
        self.governor, self._watch = governor, watch
        self._lock = threading.Lock()
        self._rows = rows
        self._relation = ""
        self._pages: dict[int, tuple[int, int]] = {}
        self._strategies: dict[int, Strategy] = {}
        self._begun: dict[int, Relation] = {}
        self._vacuumed: dict[int, int] = {}
        self._notices: deque[str] = deque()
        self._standing: tuple[int, float] = (0, 0.0)
        self._meter = Meter()
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    # What workers ask and say --------------------------------------------------------------------------------------

    def begin(self, relation: Relation, indexed: str | None) -> None:
        """A worker comes to a relation; `indexed` is an index that has one of the new columns."""
        with self._lock:
            if relation.oid not in self._strategies:
                self._strategies[relation.oid] = Strategy(indexed=indexed)
                if indexed is not None:
                    self._note(relation)
            self._begun[relation.oid] = relation
            self._vacuumed.setdefault(relation.oid, self._pages[relation.oid][0])

    def mode(self, relation: Relation) -> Mode:
        """How the relation's windows are written."""
        return self._strategies[relation.oid].mode

    def judge(self, relation: Relation, filled: Filled) -> None:
        """A stripe was written."""
        oldest = self.oldest()
        with self._lock:
            self._rows += filled.rows
            self._meter.wrote(filled.wal)
            strategy = self._strategies[relation.oid]
            if strategy.observe(updated=filled.rows, hot=filled.hot, oldest=oldest, now=filled.transaction):
                self._note(relation)

    def oldest(self) -> Oldest | None:
        """What holds the horizon back, and for how long it has not moved."""
        horizon = None if self._watch is None else self._watch.verdict.horizon
        return None if horizon is None else self._standing_since(horizon)

    def report(self, cursor: Cursor, page: int) -> None:
        """A relation's windows are done up to a page."""
        with self._lock:
            self._relation = str(cursor.relation)
            self._pages[cursor.relation.oid] = (page, cursor.bound)

    def check(self) -> None:
        """Between two batches of any worker but the first.

        Raises:
            Stopped: another one has ended the work.
        """
        if self._ended.is_set():
            raise Stopped

    # What the process asks -----------------------------------------------------------------------------------------

    def end(self, failure: BaseException | None = None) -> None:
        """No worker begins another batch; the first failure is the one that is told."""
        with self._lock:
            self._failure = self._failure or failure
        self._ended.set()

    def refuse_failed(self) -> None:
        """Raise that of a worker which has ended the work."""
        if self._failure is not None:
            raise self._failure

    @property
    def progress(self) -> Progress:
        """How far it is."""
        with self._lock:
            return self._progress()

    @property
    def snapshot(self) -> Snapshot:
        """The same, with how it goes."""
        governor = self.governor
        verdict = None if self._watch is None else self._watch.verdict
        readings = Readings(
            p95_ms=governor.pace.p95_ms, target_ms=governor.pace.target_ms,
            lag_bytes=None if verdict is None else verdict.lag.bytes,
            lag_seconds=None if verdict is None else verdict.lag.seconds,
            workers=governor.crew.active, paused=governor.control.reason if governor.control.paused else None,
        )  # fmt: skip
        with self._lock:
            return self._meter.at(self._progress(), readings)

    @property
    def document(self) -> dict[str, Any]:
        """What `status` shows of this process."""
        with self._lock:
            orders = {strategy.mode for strategy in self._strategies.values()}
        found = self.snapshot.to_json() | {
            "strategy": ", ".join(sorted({mode.order for mode in orders})),
            "why": "; ".join(sorted({mode.why for mode in orders})),
        }
        return found if self._watch is None else found | {"throttles": self._watch.verdict.to_json()}

    def notices(self) -> Iterator[str]:
        """What was chosen, and why, since this was asked last."""
        while self._notices:
            yield self._notices.popleft()

    def due_for_vacuum(self) -> Relation | None:
        """A relation of which a tenth was written since it was vacuumed, where dead rows are left for VACUUM."""
        with self._lock:
            for oid, relation in self._begun.items():
                page, bound = self._pages[oid]
                if self._strategies[oid].mode.vacuum and page - self._vacuumed[oid] >= max(1, bound * VACUUM_SHARE):
                    self._vacuumed[oid] = page
                    return relation
        return None

    def _note(self, relation: Relation) -> None:
        mode = self._strategies[relation.oid].mode
        self._notices.append(f"{relation}: {mode.order}, {mode.why}")

    def _progress(self) -> Progress:
        done, total = (sum(each) for each in zip((0, 0), *self._pages.values(), strict=True))
        return Progress(relation=self._relation, rows=self._rows, pages_done=done, pages_total=total)

    def _standing_since(self, horizon: Horizon) -> Oldest:
        now = time.monotonic()
        with self._lock:
            if self._standing[0] != horizon.xmin:
                self._standing = (horizon.xmin, now)
            stands = timedelta(seconds=now - self._standing[1])
        return Oldest(xmin=horizon.xmin, holder=horizon.holder, stands=stands)


class Steering:
    """A thread with a connection of its own: says that the process is alive and how it goes, and hears what was said."""

    def __init__(
        self, shared: Shared, member: Membership, connect: Connect, *, control_schema: str, migration: int
    ) -> None:
        self._shared, self._member, self._connect = shared, member, connect
        self._control_schema, self._migration = control_schema, migration
        self._connection: psycopg.Connection[Any] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zdmigrate steering", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
            except psycopg.Error:  # a lost connection is opened again; whoever hears nothing keeps what was said last
                self._disconnect()
            self._stopping.wait(LOOK)
        self._disconnect()

    def _round(self) -> None:
        if self._connection is None:
            self._connection = self._connect()
        said = control.read(self._connection, control_schema=self._control_schema, migration=self._migration)
        self._shared.governor.steer(said)
        self._member.beat(self._connection, self._shared.document)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


class Others:
    """The other workers of the process: threads with connections of their own. Leaving waits for them."""

    def __init__(
        self, shared: Shared, connect: Connect, count: int, work: Callable[[int, psycopg.Connection[Any]], None]
    ) -> None:
        self._shared, self._connect, self._work = shared, connect, work
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"zdmigrate worker {number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *failed: object) -> None:
        if any(failed):
            self._shared.end()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        try:
            with self._connect() as connection:
                self._work(number, connection)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # told by the first worker, in whose thread the caller waits
            self._shared.end(error)
