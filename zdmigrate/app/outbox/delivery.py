"""How what is due is delivered, as steps that a thread or an event loop takes. Pure.

Each key has a transaction of its own (READ COMMITTED), and an advisory lock in it: who holds it is the only one to write that
key to the other store. *After* it has the lock it notes the key's rows, and after that it reads the truth, which is thereby at
least as new as whatever those rows announce. Rows that come later stay, and deliver the key again. So the last one to write a
key has read what was last committed.

Between reading and the end of the call the transaction holds that lock and nothing else: no row, no table, no snapshot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Generator
from enum import Enum
from typing import Any, NamedTuple

from zdmigrate.app.outbox.statements import ROLLBACK_TO, SAVEPOINT, Outbox, Sql


class Transaction(Enum):
    """Where one begins and ends."""

    BEGIN = "begin"
    COMMIT = "commit"


class Read(NamedTuple):
    """Read the truth: the step's answer."""

    key: str


class Write(NamedTuple):
    """Make the other store so."""

    key: str
    value: Any
    version: int | None


Step = Sql | Transaction | Read | Write


class Delivered(NamedTuple):
    """How many keys the other store has got, how many it has refused, and why it has refused the last one of these."""

    delivered: int = 0
    failed: int = 0
    error: str | None = None


Steps = Generator[Step, Any, Delivered]


def _no(_: float) -> None: ...


def deliveries(
    outbox: Outbox, doubtful: set[str], ended: Callable[[], bool] = lambda: False, later: Callable[[float], None] = _no
) -> Steps:
    """Everything that is due when it begins, unless it `ended`. `later` hears in how many seconds a key that failed is due.

    `doubtful` are keys that this process has written without being able to say so in the database: somebody else may have
    written something newer before. They are put into the outbox again.
    """
    yield Transaction.BEGIN
    again = list(doubtful)
    if again:
        yield outbox.changed(again)
    until = yield outbox.now()
    yield Transaction.COMMIT
    doubtful.difference_update(again)
    done = Delivered()
    while not ended():
        outcome = yield from _delivery(outbox, until, doubtful, later)
        if outcome is None:
            break
        done = Delivered(
            done.delivered + outcome.delivered, done.failed + outcome.failed, outcome.error or done.error
        )  # fmt: skip
    return done


def announcement(outbox: Outbox, doubtful: set[str]) -> Steps:
    """Those keys are put into the outbox again, and nothing is delivered: for somebody who may be about to end."""
    again = list(doubtful)
    yield Transaction.BEGIN
    yield outbox.changed(again)
    yield Transaction.COMMIT
    doubtful.difference_update(again)
    return Delivered()


def _delivery(
    outbox: Outbox, until: str, doubtful: set[str], later: Callable[[float], None]
) -> Generator[Step, Any, Delivered | None]:
    """One key; None where no other one is due."""
    yield Transaction.BEGIN
    picked = yield outbox.pick(until)
    if picked is None:
        yield Transaction.COMMIT
        return None
    key, version, _ = json.loads(picked)
    yield SAVEPOINT
    seen = yield outbox.seen(key)
    if seen is None:  # somebody else was done with it between our look and our lock
        yield Transaction.COMMIT
        return Delivered()
    error = None
    try:
        try:
            value = yield Read(key)
        finally:
            yield ROLLBACK_TO
        try:
            yield Write(key, value, None if version is None else int(version))
        except Exception:
            raise
        except BaseException:  # cancelled, and nobody knows how far it went
            doubtful.add(key)
            raise
    except Exception as reason:  # noqa: BLE001  # whatever the application's functions raise
        error = _told(reason)
    try:
        wait = yield outbox.done(seen) if error is None else outbox.failed(seen, error)
        yield Transaction.COMMIT
    except BaseException:
        doubtful.add(key)
        raise
    if wait is not None:
        later(float(wait))
    return Delivered(1) if error is None else Delivered(0, 1, f"{key}: {error}")


def drive(steps: Steps, take: Callable[[Step], Any]) -> Delivered:
    """Let `take` take the steps, and hear what goes wrong."""
    try:
        step = next(steps)
        while True:
            try:
                answer = take(step)
            except BaseException as error:  # noqa: BLE001  # the generator decides what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        found: Delivered = end.value
        return found


async def drive_async(steps: Steps, take: Callable[[Step], Coroutine[Any, Any, Any]]) -> Delivered:
    """The same for event loops."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await take(step)
            except BaseException as error:  # noqa: BLE001
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        found: Delivered = end.value
        return found


def _told(error: Exception) -> str:
    """In one line that the database takes as text."""
    line = " ".join(f"{type(error).__name__}: {error}".replace("\0", " ").split())
    return line[:2000].encode(errors="replace").decode()
