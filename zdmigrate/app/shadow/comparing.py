"""Both reads in one transaction, and what comes of it. What fails here is counted, and reaches nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from zdmigrate.app.shadow.staging import AsyncStage, Stage, Standing
from zdmigrate.app.snapshot import Source
from zdmigrate.app.tally import sampled

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("zdmigrate.app")

_LONGEST_REST = 60.0
"""Seconds."""
_GRACE = 10.0
"""Seconds that a step in an event loop may take beyond a statement's time: nobody else notices that the network is gone."""

Normalise = Callable[[Any], Any]


class Job(NamedTuple):
    """Reads to compare. `session`: the functions read with a SQLAlchemy session, and not with a connection."""

    key: object
    old: Callable[[Any], Any]
    new: Callable[[Any], Any]
    session: bool


class Raised:
    """A read that ended with an exception of its own, and not of the server's: as good as a value, where the other has one."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"raised {_said(self.error)}"


class TransactionEnded(Exception):
    """A function has ended the transaction that it was given, so nobody knows what the other one saw."""


class Ledger:
    """What the compares of one migration come to, and when the next one may begin."""

    def __init__(self, migration: str, source: Source, *, normalise: Normalise, samples: bool) -> None:
        self.migration, self._source = migration, source
        self.normalise, self._samples = normalise, samples
        self._failures = 0
        self._resting = float("-inf")

    def standing(self) -> Standing | None:
        """What to ask at the beginning and at the end; None where nobody has registered."""
        home = self._source.home
        return None if home is None else Standing(home.schema, home.project, self.migration)

    @property
    def name(self) -> str:
        """What our sessions are called: as those of the application, or the tool would wonder whose they are."""
        return "" if self._source.home is None else self._source.home.name

    def may_begin(self) -> bool:
        """Whether nothing failed lately: a database in trouble is left alone for a second, then for longer."""
        if monotonic() >= self._resting:
            return True
        self.dropped()
        return False

    def dropped(self) -> None:
        """One more that nobody has compared."""
        self._source.tally.dropped(self.migration)

    def compared(self, state: str, again: str | None, key: object, old: object, new: object) -> None:
        """Both reads, normalised, and what was asked `again` after them.

        Raises:
            TransactionEnded: they were not in one transaction; and what comparing raises.
        """
        if again != state:
            raise TransactionEnded("a function has ended the transaction that it was given")
        self._failures = 0
        if isinstance(old, Raised) and isinstance(new, Raised):
            # They may both lack something here that they have in the application: that proves nothing.
            self._source.tally.failed(self.migration, state, f"both reads raised {self._told(new.error)}")
        elif _equal(old, new):
            self._source.tally.matched(self.migration, state)
        else:
            sample = sampled(key, old, new) if self._samples else None
            self._source.tally.differed(self.migration, state, sample)

    def failed(self, state: str | None, error: BaseException) -> None:
        """No verdict. Without a `state` nothing was read."""
        rest = min(_LONGEST_REST, 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._resting = monotonic() + rest
        why = self._told(error)
        log.debug("%s: no compare for %g s: %s", self.migration, rest, why)
        if state is None:
            self._source.tally.dropped(self.migration, why)
        else:
            self._source.tally.failed(self.migration, state, why)

    def _told(self, error: BaseException) -> str:
        return _said(error) if self._samples else type(error).__name__


class Comparer:
    """Compares, one job after the other, on a connection of its own."""

    def __init__(self, stage: Stage, ledger: Ledger, timeout: float) -> None:
        self._stage, self._ledger, self._timeout = stage, ledger, timeout

    def run(self, job: Job) -> None:
        """Never raises."""
        standing, state = self._ledger.standing(), None
        if standing is None or not self._ledger.may_begin():
            return
        try:
            self._stage.begin(self._ledger.name, self._timeout)
            state = self._stage.ask(standing)
            if state is not None:
                old = self._outcome(job.old, job, standing, state)
                new = self._outcome(job.new, job, standing, state)
                self._ledger.compared(state, self._stage.ask(standing), job.key, old, new)
            self._end()
        except BaseException as error:  # noqa: BLE001  # whatever a function or a driver raises: the thread is our own
            self._ledger.failed(state, error)
            self._stage.close()

    def close(self) -> None:
        """Disconnect. Never raises."""
        self._stage.close()

    def forget(self) -> Comparer:
        """The same for a forked process."""
        return Comparer(self._stage.forget(), self._ledger, self._timeout)

    def _end(self) -> None:
        try:
            self._stage.end()
        except Exception:  # noqa: BLE001  # the verdict stands
            self._stage.close()

    def _outcome(self, read: Callable[[Any], Any], job: Job, standing: Standing, state: str) -> Any:
        try:
            value = _materialised(read(self._stage.given(session=job.session)))
        except Exception as error:
            if not self._goes_on(standing, state):
                raise
            return Raised(error)
        return self._ledger.normalise(value)

    def _goes_on(self, standing: Standing, state: str) -> bool:
        """Whether the exception was the function's own: after one of the server's, the transaction answers nothing."""
        try:
            return self._stage.ask(standing) == state
        except Exception:  # noqa: BLE001
            return False


class AsyncComparer:
    """`Comparer` for an event loop."""

    def __init__(self, stage: AsyncStage, ledger: Ledger, timeout: float) -> None:
        self._stage, self._ledger, self._timeout = stage, ledger, timeout

    async def run(self, job: Job) -> None:
        """Never raises, unless it is cancelled."""
        standing, state = self._ledger.standing(), None
        if standing is None or not self._ledger.may_begin():
            return
        try:
            async with self._bound():
                await self._stage.begin(self._ledger.name, self._timeout)
                state = await self._stage.ask(standing)
            if state is not None:
                old = await self._outcome(job.old, job, standing, state)
                new = await self._outcome(job.new, job, standing, state)
                async with self._bound():
                    again = await self._stage.ask(standing)
                self._ledger.compared(state, again, job.key, old, new)
            await self._end()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the latter would end the loop
            self._ledger.failed(state, error)
            await self._stage.close()

    async def close(self) -> None:
        """Disconnect. Never raises."""
        await self._stage.close()

    def forget(self) -> AsyncComparer:
        """The same for another event loop."""
        return AsyncComparer(self._stage.forget(), self._ledger, self._timeout)

    def _bound(self) -> asyncio.Timeout:
        import asyncio  # here: threads need none of it

        return asyncio.timeout(self._timeout + _GRACE)

    async def _end(self) -> None:
        try:
            async with self._bound():
                await self._stage.end()
        except Exception:  # noqa: BLE001
            await self._stage.close()

    async def _outcome(self, read: Callable[[Any], Any], job: Job, standing: Standing, state: str) -> Any:
        bound = self._bound()
        try:
            async with bound:
                value = await _materialised_async(await read(self._stage.given(session=job.session)))
        except Exception as error:
            if bound.expired() or not await self._goes_on(standing, state):
                raise
            return Raised(error)
        return self._ledger.normalise(value)

    async def _goes_on(self, standing: Standing, state: str) -> bool:
        try:
            async with self._bound():
                return await self._stage.ask(standing) == state
        except Exception:  # noqa: BLE001
            return False


_VALUES = (str, bytes, int, float, tuple, list, dict, set, frozenset, type(None))


def _reader(value: object) -> Callable[[], Any] | None:
    """What reads the rest of a driver's cursor, or of SQLAlchemy's result or query; None for anything else."""
    if isinstance(value, _VALUES):  # a row is a tuple, and may have a column of that name
        return None
    for name in ("fetchall", "all"):
        found = getattr(type(value), name, None)
        if callable(found) and (hasattr(value, "__iter__") or hasattr(value, "__aiter__")):
            return getattr(value, name)  # type: ignore[no-any-return]
    return None


def _materialised(value: Any) -> Any:
    """What is read when somebody looks at it has to be read before the transaction ends."""
    reader = _reader(value)
    if reader is not None:
        return reader()
    return list(value) if hasattr(type(value), "__next__") else value


async def _materialised_async(value: Any) -> Any:
    reader = _reader(value)
    if reader is not None:
        found = reader()
        return await found if hasattr(found, "__await__") else found
    if hasattr(type(value), "__anext__"):
        return [each async for each in value]
    return list(value) if hasattr(type(value), "__next__") else value


def _equal(old: Any, new: Any) -> bool:
    """By ``==``, but NaN is NaN, also within rows."""
    if bool(old == new):
        return True
    if type(old) is not type(new) or isinstance(old, str | bytes):
        return False
    if isinstance(old, float | Decimal):
        return old != old and new != new
    if isinstance(old, Mapping):
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)
    return isinstance(old, Sequence) and len(old) == len(new) and all(map(_equal, old, new))


def _said(error: BaseException) -> str:
    """The type and the first line: what follows may be the statement and its values."""
    origin = getattr(error, "orig", None) or error
    first = next(iter(str(origin).splitlines()), "")
    return f"{type(origin).__name__}: {first}" if first else type(origin).__name__
