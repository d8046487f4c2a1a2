"""Read switches: how many of a hundred keys read the new shape, set by hand or step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import timedelta

from zdmigrate.control.store import Event, Record, Store
from zdmigrate.errors import Unsafe, UsageError, Waiting
from zdmigrate.phases import Phase
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection
from zdmigrate.wording import spoken


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Percentages on the way to 100, each for so long."""

    steps: tuple[int, ...]
    every: timedelta

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1 or self.steps[-1] > 100:
            shown = ",".join(map(str, self.steps))
            raise UsageError(f"--steps {shown}: percentages from 1 to 100 that grow", hint="write it like 5,25,50,100")

    def after(self, percent: int) -> int:
        """The next percentage; 100 in the end."""
        return next((step for step in self.steps if step > percent), 100)


def turn(connection: Connection, store: Store, id_: str, percent: int, allowed: Iterable[str] | None) -> str:
    """Set a switch, and say what was done. Effective with each instance's next heartbeat.

    Locks the migration's row, so that no phase begins meanwhile.

    Args:
        allowed: keys that read the new shape at any percentage; None leaves them as they are.

    Raises:
        Waiting: the new shape is not full yet.
        Unsafe: the old one is gone.
    """
    with session.transaction(connection, lock_timeout=timedelta(seconds=10)) as cursor:
        record = store.locked(cursor, id_)
        before = store.switch(cursor, id_)
        keys = tuple(allowed) if allowed is not None else before.allowed if before is not None else ()
        _refuse(record, percent, keys)
        store.set_switch(cursor, id_, percent, keys)
        was = 0 if before is None else before.percent
        detail = f"{percent} %, before {was} %" + (f"; always: {', '.join(keys)}" if keys else "")
        store.log(cursor, Event(migration=id_, action="switch", outcome="done", phase=record.phase, detail=detail))
    authority = "" if record.phase.position >= Phase.SWITCH_READS.position else "; the old one keeps the authority"
    return f"{id_}: {percent} % of reads go to the new shape{authority}"


def _refuse(record: Record, percent: int, keys: tuple[str, ...]) -> None:
    unfilled = record.phase.position < Phase.BACKFILL.position
    if unfilled and (percent or keys):
        running = f", {record.running} is under way" if record.running else ""
        raise Waiting(
            f"{record.id} is at {record.phase}{running}: the new shape is not full",
            hint=f"zdmigrate advance {record.id} --to backfill",
        )
    gone = record.phase.position >= Phase.RETIRE.position or record.running is Phase.RETIRE
    if gone and percent < 100:
        raise Unsafe(
            f"{record.id} is at {record.phase}: the old shape is out of the way, nobody can read it",
            hint=f"zdmigrate revert {record.id} --to switch_reads",
        )


def climb(connection: Connection, store: Store, record: Record, ramp: Ramp) -> None:
    """The next percentage before ``switch_reads``, when its time has come. Returns where only the phase is left.

    The time is the database's, and the percentage is in the database, so that any call goes on where another one ended.

    Raises:
        Waiting: until the next step, or until the last one has lasted.
    """
    switch = store.switch(connection, record.id)
    percent = 0 if switch is None else switch.percent
    if switch is not None and percent:
        left = ramp.every - switch.age
        if left > timedelta(0):
            raise Waiting(
                f"{percent} % of reads go to the new shape since {switch.since:%Y-%m-%d %H:%M:%S} UTC; {ramp.after(percent)} % "
                f"in {spoken(left)}",
                hint="the same command goes on then; --wait stays here until it does",
            )
    following = ramp.after(percent)
    if following < 100:
        turn(connection, store, record.id, following, None)
        raise Waiting(
            f"{following} % of reads go to the new shape from now on; {ramp.after(following)} % in {spoken(ramp.every)}",
            hint="the same command goes on then; --wait stays here until it does",
        )
