"""Instances that report to the database that they are alive, from a thread."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from zdmigrate.app.channels import Channel, channel
from zdmigrate.app.heart import INTERVAL, Heart
from zdmigrate.app.listening import Listener
from zdmigrate.app.member import Member, session_name
from zdmigrate.app.naming import name_sessions
from zdmigrate.app.needs import of_footprint, of_metadata
from zdmigrate.app.readiness import Readiness, readiness
from zdmigrate.app.snapshot import DEFAULT, Source
from zdmigrate.app.switch import ReadSwitch

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import MetaData

    from zdmigrate.app.shadow.reading import ShadowRead
    from zdmigrate.app.shapes import Needs

log = logging.getLogger("zdmigrate.app")

_GOODBYE = 2.0
"""Seconds that the end of a process waits for its goodbye."""


class Membership:
    """What both kinds of fleet do: say who the instance is, and answer from what it was told."""

    def __init__(
        self, *, application: str, version: str, schema: str, project: str, needs: Needs | None,
        shapes: Mapping[str, str], requires: Mapping[str, str], source: Source, interval: float,
    ) -> None:  # fmt: skip
        self._source = source
        self._requires = dict(requires)
        self._needs = needs
        source.asked.update(requires)
        self._member = Member(
            application=application, version=version, schema=schema, project=project, needs=needs, shapes=shapes,
            source=source, heart=Heart(interval),
        )  # fmt: skip

    @property
    def instance(self) -> str:
        """The name of this instance: host, process, and something that no other one has."""
        return self._member.instance

    def switch(self, migration: str, **options: Any) -> ReadSwitch:
        """A `ReadSwitch` that follows this fleet."""
        return ReadSwitch(migration, source=self._source, **options)

    def _unreported(self, error: BaseException) -> None:
        self._source.tally.refused()
        log.debug("no report of compares from %s: %s", self.instance, " ".join(str(error).split()))

    def ready(self) -> Readiness:
        """Whether the database is as this version needs it: from memory, without a statement."""
        return readiness(self._source.current.held(), self._requires, self._needs)

    def _succeeded(self) -> float:
        """A heartbeat was answered; seconds until the next one."""
        if self._member.heart.failing:
            log.info("heartbeats of %s succeed again", self._member.name)
        return self._member.rest()

    def _failed(self, error: BaseException) -> float:
        """A heartbeat was not: said once, until one is. Seconds until the next one."""
        level = logging.DEBUG if self._member.heart.failing else logging.WARNING
        log.log(
            level, "no heartbeat from %s (%s): %s; the application goes on without",
            self._member.name, self.instance, " ".join(str(error).split()) or type(error).__name__,
        )  # fmt: skip
        return self._member.heart.failed()


class Fleet(Membership):
    """This process's membership. Made by `register`; `retire` ends it."""

    def __init__(self, channel: Channel, listening: Callable[..., Listener] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._retired = False  # no lock guards it: a signal's handler may interrupt whoever holds one
        self._listener = None if listening is None else listening(self._hear, lambda: self._retired)
        self._channel = channel
        self._wake = threading.Event()
        self._waiting: list[threading.Event] = []
        if any(fleet._source is self._source for fleet in _LIVING):
            log.warning(
                "%s is registered a second time: its switches follow whichever heartbeat came last", self._member.name
            )
        _LIVING.add(self)
        self._start()

    def shadow(self, migration: str, target: Any, **options: Any) -> ShadowRead:
        """A `ShadowRead` that follows this fleet, and reports with it."""
        from zdmigrate.app.shadow.reading import ShadowRead

        return ShadowRead(migration, target, source=self._source, **options)

    def refresh(self, timeout: float = 5.0) -> bool:
        """Send a heartbeat now, and wait for its answer; whether there was one within `timeout` seconds. Never raises.

        One that is under way already does not count: its answer may be older than this call.
        """
        answered = threading.Event()
        self._waiting.append(answered)
        self._wake.set()
        return answered.wait(timeout)

    def retire(self, timeout: float = _GOODBYE) -> None:
        """Say goodbye and stop: this instance needs nothing any more. Again does nothing; never raises.

        Called at the end of a process, and on SIGTERM where the process has no handler of its own. A process that ends
        otherwise (SIGKILL, ``os._exit``) counts as alive until `instance_grace` (15 minutes) after its lease.
        """
        self._end()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(timeout)
        _LIVING.discard(self)

    def _end(self) -> None:
        self._retired = True
        self._wake.set()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._live, name="zdmigrate-heartbeat", daemon=True)
        self._thread.start()
        if self._listener is not None:
            self._listener.start()

    def _hear(self) -> None:
        self._wake.set()  # of this process: a forked one has another

    def _live(self) -> None:
        pid = os.getpid()
        while os.getpid() == pid and not self._retired:
            waiting = self._waiting[:]
            try:
                # Whom the database has forgotten registers again, in the same breath.
                answered = self._member.answered(self._channel.call(self._member.beat()))
                if not answered:
                    answered = self._member.answered(self._channel.call(self._member.beat()))
                wait = self._succeeded()
                for each in waiting:
                    self._waiting.remove(each)
                    each.set()
                self._report()
            except Exception as error:  # noqa: BLE001  # whatever a driver raises: the application must not notice
                wait = self._failed(error)
            self._wake.wait(wait)
            self._wake.clear()
        self._part()

    def _report(self, *, last: bool = False) -> None:
        """What compares have found. A report that is lost is no heartbeat that is lost."""
        report = self._member.report(last=last)
        if report is None:
            return
        try:
            self._channel.call(report)
        except Exception as error:  # noqa: BLE001
            self._unreported(error)
        else:
            self._source.tally.told()

    def _part(self) -> None:
        self._report(last=True)
        try:
            goodbye = self._member.goodbye()
            if goodbye is not None:
                self._channel.call(goodbye)
        except Exception as error:  # noqa: BLE001
            log.debug("no goodbye from %s: %s", self.instance, error)
        self._channel.close()

    def _after_fork(self) -> None:
        """A child is an instance of its own, with its own thread and connection."""
        if self._retired:
            return
        self._wake, self._waiting = threading.Event(), []
        self._channel = self._channel.forget()
        self._source.after_fork()
        self._member.renew()
        self._start()


_LIVING: set[Fleet] = set()
"""Strong references: in a child, the thread that holds its fleet is gone."""


def register(
    target: Any, *, application: str, version: str, metadata: MetaData | None = None, footprint: Path | None = None,
    requires: Mapping[str, str] | None = None, shapes: Mapping[str, str] | None = None, schema: str = "zdmigrate",
    project: str = "default", interval: float = INTERVAL, listen: bool = False, source: Source = DEFAULT,
) -> Fleet:  # fmt: skip
    """Report this process to the database until it ends, and learn where migrations and read switches stand.

    Returns at once: a daemon thread with a connection of its own does everything, and no error of the database reaches the
    application. It sends one statement every `interval` seconds. A forked process registers itself. On SIGTERM, where no
    other handler is set, and at exit the instance retires. Locks: its own row of ``app_instance``.

    Args:
        target: an Engine (whose new connections are called ``application/version`` from now on), a libpq connection string
            or URL, or a function that makes psycopg connections.
        application, version: whose instance this is. The version may be anything: a number, a commit.
        metadata: ``Base.metadata``; what the models map tells which shape of a migration this version uses.
        footprint: the same from a file of ``zdmigrate record``.
        requires: phases that migrations must have completed for this version: ``{"20261121_email": "backfill"}``.
        shapes: the same said by hand, where models cannot tell: ``{"20261121_email": "old"}`` (or new; both for a
            version that needs both at once; either for one that follows a read switch).
        schema, project: of the control schema, as configured for the tool.
        interval: seconds between two heartbeats; three of them are a lease.
        listen: hear of a change at once, over one more connection (psycopg's, to the engine's URL), which no pooler may share.
        source: what switches follow; one of its own for each further database.

    Raises:
        TypeError, ValueError: a wrong argument. Nothing else.
    """
    name = session_name(application, version)
    options = checked(metadata, footprint, requires, shapes)
    made = channel(target, name)
    if hasattr(target, "dialect"):
        name_sessions(target, name)
    listening = functools.partial(Listener, target, name, schema) if listen else None
    fleet = Fleet(
        made, listening, application=application, version=version, schema=schema, project=project, source=source,
        interval=interval, **options,
    )  # fmt: skip
    _hook()
    return fleet


def checked(
    metadata: MetaData | None,
    footprint: Path | None,
    requires: Mapping[str, str] | None,
    shapes: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The arguments that both ways to register share.

    Raises:
        ValueError: a phase or shape that does not exist, both of `metadata` and `footprint`, or a file that is no footprint.
    """
    from zdmigrate.phases import PHASES

    if metadata is not None and footprint is not None:
        raise ValueError("give metadata or footprint, not both")
    for id_, phase in (requires or {}).items():
        if phase not in PHASES[1:]:
            raise ValueError(f"requires: {id_}: {phase!r} is no phase: {', '.join(PHASES[1:])}")
    for id_, shape in (shapes or {}).items():
        if shape not in ("old", "new", "both", "either"):
            raise ValueError(f"shapes: {id_}: {shape!r} is none of old, new, both and either")
    needs = (
        of_metadata(metadata) if metadata is not None else of_footprint(footprint) if footprint is not None else None
    )
    return {"needs": needs, "requires": requires or {}, "shapes": shapes or {}}


@functools.cache
def _hook() -> None:
    """Once a process."""
    os.register_at_fork(after_in_child=_after_fork)
    atexit.register(_retire_all)
    main = threading.current_thread() is threading.main_thread()
    # A container's first process is not ended by a signal that it does not handle: one that said goodbye would go on.
    if main and os.getpid() != 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _after_fork() -> None:
    for fleet in list(_LIVING):
        fleet._after_fork()


def _retire_all() -> None:
    living, deadline = list(_LIVING), monotonic() + _GOODBYE  # of all of them together
    for fleet in living:
        fleet._end()
    for fleet in living:
        fleet.retire(max(0.0, deadline - monotonic()))


def _on_sigterm(number: int, _frame: FrameType | None) -> None:
    """The process ends as it would have: of the signal."""
    _retire_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
