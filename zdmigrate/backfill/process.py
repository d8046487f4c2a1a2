"""What the workers of one process share, and the thread that keeps in touch with the others and with who steers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from zdmigrate.backfill import control
from zdmigrate.backfill.membership import Company, Membership
from zdmigrate.backfill.pacing.governor import Governor
from zdmigrate.backfill.progress import Meter, Readings, Snapshot, Throttled
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.state import Cursor, Filled
from zdmigrate.backfill.strategy import NOBODY, PINNED, Mode, Oldest, Strategy
from zdmigrate.backfill.throttles.reading import Horizon
from zdmigrate.backfill.throttles.verdict import Verdict
from zdmigrate.backfill.throttles.watching import Watch
from zdmigrate.backfill.values import Progress
from zdmigrate.backfill.working import Stopped
from zdmigrate.backfill.yielding import give_way
from zdmigrate.errors import Unsafe

Connect = Callable[[], psycopg.Connection[Any]]

VACUUM_SHARE = 0.1
"""Of a relation, that may be left dead before it is vacuumed."""
NO_ANSWER = (psycopg.Error, Unsafe)
"""`Unsafe`: during a failover the way may lead to a standby for a while."""
LOOK = 0.5
"""Seconds between two looks at what was said; what is said takes effect within a second."""
TELL = 1.0
"""Longest that progress is not told, also while nothing moves."""


class Shared:
    """Rows, pages and orders of work. Any thread may call any method."""

    def __init__(self, governor: Governor, rows: int, watch: Watch | None) -> None:
        self.governor, self._watch = governor, watch
        self._lock = threading.Lock()
        self._mine, self._others = 0, rows
        self._seen: tuple[int, int] | None = None
        self._relation = ""
        self._pages: dict[int, tuple[int, int]] = {}
        self._strategies: dict[int, Strategy] = {}
        self._begun: dict[int, Relation] = {}
        self._vacuumed: dict[int, int] = {}
        self._notices: deque[str] = deque()
        self._standing: tuple[int, float] = (0, 0.0)
        self._meter = Meter()
        self.sessions: set[int] = set()
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
            page, _ = self._pages.setdefault(relation.oid, (0, 0))  # dropped before anybody could ask how large it is
            self._vacuumed.setdefault(relation.oid, page)

    def mode(self, relation: Relation) -> Mode:
        """How the relation's windows are written."""
        return self._strategies[relation.oid].mode

    def judge(self, relation: Relation, filled: Filled, *, first: bool) -> None:
        """A batch was written. `first`: of a window's first stripe, which finds no room in full pages whatever the order."""
        oldest = self.oldest()
        with self._lock:
            self._mine += filled.rows
            self._meter.wrote(filled.wal)
            strategy = self._strategies[relation.oid]
            updated, hot = (0, 0) if first else (filled.rows, filled.hot)
            if strategy.observe(updated=updated, hot=hot, oldest=oldest, now=filled.transaction):
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

    def see(self, rows: int, pages: tuple[int, int] | None) -> None:
        """All processes together have filled that many rows, and done that many pages of how many."""
        with self._lock:
            self._others = rows - self._mine
            self._seen = pages

    def meet(self, company: Company) -> None:
        """How far all processes are; before a table is begun that says nothing."""
        if company.pages_total:
            self.see(company.rows, (company.pages_done, company.pages_total))

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
    def snapshot(self) -> Snapshot:
        """How far it is, and how it goes: the same for the progress line and for `status`."""
        return self._snapshot(None if self._watch is None else self._watch.verdict)

    def document(self, snapshot: Snapshot) -> dict[str, Any]:
        """What `status` shows of this process."""
        with self._lock:
            orders = {strategy.mode for strategy in self._strategies.values()}
        return snapshot.to_json() | {
            "strategy": ", ".join(sorted({mode.order for mode in orders})),
            "why": "; ".join(sorted({mode.why for mode in orders})),
            "throttles": [] if self._watch is None else _throttles(self._watch.verdict),
        }

    def _snapshot(self, verdict: Verdict | None) -> Snapshot:
        governor = self.governor
        control = governor.control
        readings = Readings(
            p95_ms=governor.pace.p95_ms, target_ms=governor.pace.target_ms,
            lag_bytes=None if verdict is None else verdict.lag.bytes,
            lag_seconds=None if verdict is None else verdict.lag.seconds,
            workers=0 if control.paused else governor.active, crew=governor.workers, processes=governor.processes,
            throttled=() if verdict is None else _throttled(verdict),
            paused=(control.reason or "") if control.paused else None,
        )  # fmt: skip
        with self._lock:
            return self._meter.at(self._progress(), readings)

    def say_notes(self, say: Callable[[str], None]) -> None:
        """What was chosen, and why, since this was called last."""
        while self._notices:
            say(self._notices.popleft())

    def tell(self, notice: str) -> None:
        """Say something to people."""
        self._notices.append(notice)

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
        done, total = self._seen or (sum(each) for each in zip((0, 0), *self._pages.values(), strict=True))
        return Progress(relation=self._relation, rows=self._mine + self._others, pages_done=done, pages_total=total)

    def _standing_since(self, horizon: Horizon) -> Oldest:
        now = time.monotonic()
        with self._lock:
            if self._standing[0] != horizon.xmin:
                self._standing = (horizon.xmin, now)
            stands = timedelta(seconds=now - self._standing[1])
        # A batch of ours is soon over: that is not what keeps old versions.
        passing = horizon.ours and stands < PINNED
        return Oldest(xmin=horizon.xmin, holder=NOBODY if passing else horizon.holder, stands=stands)


def _throttled(verdict: Verdict) -> tuple[Throttled, ...]:
    """What stops the work; empty where nothing does, or where it has only just begun to ask."""
    seconds = verdict.stopped_for(datetime.now(UTC)).total_seconds()
    if verdict.is_healthy or (verdict.at is None and seconds < TELL):
        return ()
    return tuple(
        Throttled(name=each.name, value=each.value, threshold=each.threshold, seconds=seconds, reason=each.reason)
        for each in verdict.stopping
    )


def _throttles(verdict: Verdict) -> list[dict[str, Any]]:
    """Every reading, and for how long the work has been stopped where it is one for which it is."""
    stopped = verdict.stopped_for(datetime.now(UTC)).total_seconds()
    found = verdict.readings if verdict.silence is None else (verdict.silence, *verdict.readings)
    return [each.to_json() | {"stopped_seconds": 0.0 if each.healthy else stopped} for each in found]


class Narrator:
    """Tells how it goes: when asked to, and at least every `TELL` seconds if `when_due` is called often."""

    def __init__(self, shared: Shared, tell: Callable[[Snapshot], None]) -> None:
        self._shared, self._tell = shared, tell
        self._told = time.monotonic()

    def now(self) -> None:
        """Tell."""
        self._told = time.monotonic()
        self._tell(self._shared.snapshot)

    def when_due(self) -> None:
        """Tell, if it was long ago: nothing is done while somebody has stopped it, which is what has to be told."""
        if time.monotonic() - self._told >= TELL:
            self.now()


class Steering:
    """A thread with a connection of its own: says that the process is alive and how it goes, and hears what was said.

    It also makes batches give way to whoever waits for them.
    """

    def __init__(
        self,
        shared: Shared,
        member: Membership,
        others: Others,
        connect: Connect,
        *,
        control_schema: str,
        migration: int,
    ) -> None:
        self._shared, self._member, self._others, self._connect = shared, member, others, connect
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
            self._try_round()
            self._stopping.wait(LOOK)
        self._try_round()  # what was spent since the last one
        self._disconnect()

    def _try_round(self) -> None:
        try:
            self._round()
        except NO_ANSWER:  # a lost connection is opened again; whoever hears nothing keeps what was said last
            self._disconnect()

    def _round(self) -> None:
        if self._connection is None:
            self._connection = self._connect()
        give_way(self._connection, self._shared.sessions)
        governor = self._shared.governor
        said = control.read(self._connection, control_schema=self._control_schema, migration=self._migration)
        snapshot = self._shared.snapshot
        company = self._member.beat(self._connection, snapshot, self._shared.document(snapshot))
        self._shared.meet(company)
        governor.steer(said, processes=1 + company.others)
        self._others.hire(governor.workers - 1)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


class Others:
    """The other workers of the process: threads with connections of their own. Leaving waits for them.

    One for which the server has no connection is tried again whenever somebody is hired: the others go on without it.
    """

    def __init__(self, shared: Shared, connect: Connect, work: Callable[[int, psycopg.Connection[Any]], None]) -> None:
        self._shared, self._connect, self._work = shared, connect, work
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._refused: set[int] = set()
        self._open = False

    def __enter__(self) -> None:
        self._open = True

    def __exit__(self, *failed: object) -> None:
        if any(failed):
            self._shared.end()
        self.wait(lambda: None)

    def wait(self, check: Callable[[], None]) -> None:
        """Until each of them has ended; none comes any more. `check` is asked meanwhile, and raises to stop."""
        with self._lock:
            self._open = False
        for thread in list(self._threads.values()):
            while thread.is_alive():
                check()
                thread.join(timeout=LOOK)

    def hire(self, count: int) -> None:
        """There are at least so many. Any thread may say so; those that are too many work no longer, and stay."""
        with self._lock:
            for number in range(1, count + 1):
                if self._open and number not in self._threads:
                    name = f"zdmigrate worker {number}"
                    thread = threading.Thread(target=self._run, args=(number,), name=name, daemon=True)
                    self._threads[number] = thread
                    thread.start()

    def _run(self, number: int) -> None:
        try:
            connection = self._connected(number)
            if connection is not None:
                with connection:
                    self._work(number, connection)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # told by the first worker, in whose thread the caller waits
            self._shared.end(error)

    def _connected(self, number: int) -> psycopg.Connection[Any] | None:
        try:
            return self._connect()
        except NO_ANSWER as error:
            with self._lock:
                del self._threads[number]
                if number not in self._refused:  # said once
                    self._refused.add(number)
                    self._shared.tell(f"worker {number} has no connection: {error}")
            return None
