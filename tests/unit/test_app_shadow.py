"""Which reads are compared, and what comes of it: without a database."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from zdmigrate.app import AsyncShadowRead, ShadowRead, Source, fleet
from zdmigrate.app.shadow import reading as module
from zdmigrate.app.shadow.comparing import AsyncComparer, Comparer, Job, Ledger
from zdmigrate.app.shadow.staging import Standing
from zdmigrate.app.shapes import Shapes
from zdmigrate.app.snapshot import Home, MigrationState, Snapshot, SwitchState
from zdmigrate.phases import PHASES, Phase

NAME = "0001_email"
STATE = "2026-11-21T06:44:31.682437+00:00"


def told(phase: Phase = Phase.BACKFILL, running: Phase | None = None, percent: int = 0) -> Source:
    source = Source()
    state = MigrationState(version=1, phase=phase, running=running, shapes=Shapes())
    switches = {NAME: SwitchState(version=1, percent=percent)}
    source.current = Snapshot(migrations={NAME: state}, switches=switches, until=time.monotonic() + 60)
    source.home = Home("shop/1", "zdmigrate", "default")
    return source


class Stage:
    """A connection that is none."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.states: list[str | Exception | None] = []
        self.fails: Exception | None = None
        self.connected = True

    def begin(self, name: str, timeout: float) -> None:
        self.calls.append(f"begin {name} {timeout}")
        if self.fails is not None:
            raise self.fails

    def ask(self, query: Standing) -> str | None:
        assert query == ("zdmigrate", "default", NAME)
        found = self.states.pop(0) if self.states else STATE
        if isinstance(found, Exception):
            raise found
        return found

    def given(self, *, session: bool) -> Any:
        return "session" if session else "connection"

    def end(self) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")

    def forget(self) -> Stage:
        return Stage()


@dataclasses.dataclass
class Bench:
    """A comparer, and what it has found."""

    stage: Stage
    source: Source
    comparer: Comparer

    def compare(self, old: Callable[[Any], Any], new: Callable[[Any], Any], key: object = 1) -> None:
        self.comparer.run(Job(key, old, new, session=False))

    def found(self) -> dict[str, Any]:
        report = self.source.tally.report(last=True) or []
        sums: dict[str, Any] = {
            what: sum(each[what] for each in report) for what in ("compares", "mismatches", "failures", "dropped")
        }
        sums["samples"] = [sample for each in report for sample in each["samples"]]
        sums["failure"] = next((each["failure"] for each in report if each["failure"]), None)
        return sums


def bench(**options: Any) -> Bench:
    source = told()
    ledger = Ledger(NAME, source, **{"normalise": module.as_it_is, "samples": True, **options})
    stage = Stage()
    return Bench(stage, source, Comparer(stage, ledger, 1.0))


def raising(error: Exception) -> Callable[[Any], Any]:
    def read(_: Any) -> Any:
        raise error

    return read


# Who is asked --------------------------------------------------------------------------------------------------------


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is offered for a compare."""
    jobs: list[Any] = []
    monkeypatch.setattr(ShadowRead, "_offer", lambda _self, *given: jobs.append(given))
    return jobs


def test_the_switch_says_whose_result_is_returned(caught: list[Any]) -> None:
    for percent, expected in ((0, "old"), (100, "new")):
        shadow = ShadowRead(NAME, psycopg.connect, source=told(percent=percent), sample=1)
        assert shadow.read(1, old=lambda c: f"old{c}", new=lambda c: f"new{c}", on="!") == f"{expected}!"
    assert len(caught) == 2


def test_so_many_of_a_hundred_are_compared(caught: list[Any]) -> None:
    shadow = ShadowRead(NAME, psycopg.connect, source=told(), sample=0.25)
    for key in range(20_000):
        shadow.read(key, old=str, new=str, on=1)
    assert abs(len(caught) / 20_000 - 0.25) < 0.02
    caught.clear()
    for sample, expected in ((0.0, 0), (1.0, 1000)):
        shadow = ShadowRead(NAME, psycopg.connect, source=told(), sample=sample)
        for key in range(1000):
            shadow.read(key, old=str, new=str, on=1)
        assert len(caught) == expected


def test_what_the_authority_raises_is_raised_and_compared_all_the_same(caught: list[Any]) -> None:
    shadow = ShadowRead(NAME, psycopg.connect, source=told(), sample=1)
    with pytest.raises(KeyError):
        shadow.read(1, old=raising(KeyError("x")), new=str, on=1)
    assert len(caught) == 1


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("running", [None, *PHASES[1:]])
def test_only_while_both_shapes_are_full_there_is_something_to_compare(phase: Phase, running: Phase | None) -> None:
    shadow = ShadowRead(NAME, psycopg.connect, source=told(phase, running), sample=1)
    full = phase in (Phase.BACKFILL, Phase.SWITCH_READS) and running in (None, Phase.SWITCH_READS)
    assert shadow._wanted() is full


def test_before_anybody_has_registered_nothing_is_compared() -> None:
    shadow = ShadowRead(NAME, psycopg.connect, source=Source(), sample=1)
    assert shadow.read(1, old=str, new=str, on=1) == "1"
    assert shadow._thread is None
    assert "0001_email" in shadow._source.asked


def test_where_too_many_wait_the_next_one_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    source, hold, began = told(), threading.Event(), threading.Event()

    def run(_self: Comparer, _job: Job) -> None:
        began.set()
        hold.wait(20)

    monkeypatch.setattr(Comparer, "run", run)
    shadow = ShadowRead(NAME, psycopg.connect, source=source, sample=1)
    shadow.read(1, old=str, new=str, on=1)
    assert began.wait(20)
    for key in range(module.WAITING + 3):
        assert shadow.read(key, old=str, new=str, on=1) == "1"
    [found] = source.tally.report() or []
    assert (found["dropped"], found["compares"], found["phase_since"]) == (3, 0, None)
    hold.set()
    shadow.close()
    assert not shadow._thread or not shadow._thread.is_alive()
    shadow.close()
    shadow.read(1, old=str, new=str, on=1)


def test_arguments_that_are_wrong_are_said_at_once() -> None:
    wrong: list[dict[str, Any]] = [{"sample": 2}, {"sample": -1}, {"timeout": 0}, {"otherwise": "x"}]
    for options in wrong:
        with pytest.raises(ValueError, match="must be"):
            ShadowRead(NAME, psycopg.connect, **options)
    with pytest.raises(TypeError):
        ShadowRead(NAME, 7)
    with pytest.raises(TypeError):
        AsyncShadowRead(NAME, 7)


def test_one_loop_after_the_other_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []

    async def run(_self: Any, job: Job) -> None:
        ran.append(job.key)

    monkeypatch.setattr("zdmigrate.app.shadow.comparing.AsyncComparer.run", run)
    shadow = AsyncShadowRead(NAME, psycopg.AsyncConnection.connect, source=told(), sample=1)

    async def old(value: int) -> int:
        return value

    async def main(key: int) -> None:
        assert await shadow.read(key, old=old, new=old, on=7) == 7
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(main(1))
    asyncio.run(main(2))
    assert ran == [1, 2]


# What comes of it ----------------------------------------------------------------------------------------------------


def test_equal_reads_match_and_others_are_named() -> None:
    it = bench()
    it.compare(lambda _: "a", lambda _: "a")
    it.compare(lambda _: "A", lambda _: "a", key=4711)
    found = it.found()
    assert (found["compares"], found["mismatches"], found["failures"]) == (2, 1, 0)
    assert found["samples"] == [{"key": "4711", "old": "'A'", "new": "'a'"}]
    assert it.stage.calls == ["begin shop/1 1.0", "end"] * 2


def test_a_normaliser_makes_equal_what_is_meant_to_be() -> None:
    it = bench(normalise=lambda value: value.lower())
    it.compare(lambda _: "A", lambda _: "a")
    it.compare(lambda _: None, lambda _: "a")
    found = it.found()
    assert (found["compares"], found["mismatches"], found["failures"]) == (1, 0, 1)
    assert found["failure"] == "AttributeError: 'NoneType' object has no attribute 'lower'"


def test_names_of_nobody_where_samples_are_not_wanted() -> None:
    it = bench(samples=False)
    it.compare(lambda _: "A", lambda _: "a", key="jane@example.org")
    it.compare(raising(ValueError("jane@example.org")), raising(ValueError("jane@example.org")))
    assert "jane" not in str(it.source.tally.report())


def test_one_that_raises_where_the_other_does_not_is_a_mismatch() -> None:
    it = bench()
    it.compare(lambda _: "a", raising(LookupError("no row")))
    found = it.found()
    assert (found["compares"], found["mismatches"]) == (1, 1)
    assert found["samples"] == [{"key": "1", "old": "'a'", "new": "raised LookupError: no row"}]


def test_two_that_raise_prove_nothing() -> None:
    it = bench()
    it.compare(raising(RuntimeError("no request")), raising(RuntimeError("no request")))
    it.compare(lambda _: 1, lambda _: 1)
    found = it.found()
    assert (found["compares"], found["failures"]) == (1, 1), "and it goes on at once"
    assert found["failure"] == "both reads raised RuntimeError: no request"


def test_an_error_of_the_server_is_a_failure_and_the_connection_goes() -> None:
    it = bench()
    it.stage.states = [STATE, psycopg.errors.InFailedSqlTransaction("aborted")]
    it.compare(lambda _: 1, raising(psycopg.errors.QueryCanceled("canceling statement due to statement timeout\nmore")))
    found = it.found()
    assert (found["compares"], found["failures"]) == (0, 1)
    assert found["failure"] == "QueryCanceled: canceling statement due to statement timeout"
    assert it.stage.calls[-1] == "close"


def test_a_transaction_that_a_function_has_ended_proves_nothing() -> None:
    it = bench()
    it.stage.states = [STATE, None]
    it.compare(lambda _: 1, lambda _: 1)
    found = it.found()
    assert (found["compares"], found["failures"]) == (0, 1)
    assert "ended the transaction" in found["failure"]


def test_what_the_snapshot_does_not_have_is_not_compared() -> None:
    it = bench()
    it.stage.states = [None]
    it.compare(raising(AssertionError()), raising(AssertionError()))
    assert it.source.tally.report() is None
    assert it.stage.calls == ["begin shop/1 1.0", "end"]


@pytest.mark.parametrize("nan", [float, Decimal], ids=["float", "Decimal"])
def test_what_is_no_number_on_both_sides_is_equal(nan: type[Any]) -> None:
    def rows(*values: Any) -> Callable[[Any], Any]:
        return lambda _: [("a", *map(nan, values)), {"n": nan("nan")}]

    made = bench()
    made.compare(lambda _: nan("nan"), lambda _: nan("nan"))
    made.compare(rows("nan", 1), rows("nan", 1))
    assert made.found()["mismatches"] == 0
    made.compare(rows("nan", 1), rows("nan", 2))
    made.compare(rows("nan"), rows(1))
    made.compare(rows("nan"), rows("nan", 1))
    made.compare(lambda _: ["ab"], lambda _: ["ac"])
    made.compare(lambda _: [1], lambda _: (1,))
    assert made.found()["mismatches"] == 5


def test_a_function_that_wants_to_end_the_process_ends_nothing() -> None:
    """Not the thread, which is started once."""
    source, stage = told(), Stage()
    shadow = ShadowRead(NAME, lambda: None, sample=1.0, source=source)
    shadow._comparer = Comparer(stage, shadow._ledger, 1.0)
    ended = threading.Event()

    def read(_: Any) -> int:
        if threading.current_thread() is threading.main_thread():
            return 1
        ended.set()
        raise SystemExit(1)

    shadow.read(1, old=read, new=read, on=object())
    assert ended.wait(20)
    deadline = time.monotonic() + 20
    while "close" not in stage.calls and time.monotonic() < deadline:
        time.sleep(0.001)
    assert shadow._thread is not None
    assert shadow._thread.is_alive()
    shadow.close(20)
    assert not shadow._thread.is_alive()


class AsyncStage(Stage):
    """One whose server may fall silent."""

    silent = ""

    async def _wait(self, name: str) -> None:
        if self.silent == name:
            await asyncio.Event().wait()

    async def begin(self, name: str, timeout: float) -> None:  # type: ignore[override]  # noqa: ASYNC109
        await self._wait("begin")

    async def ask(self, query: Standing) -> str | None:  # type: ignore[override]
        await self._wait("ask")
        return STATE

    async def end(self) -> None:  # type: ignore[override]
        await self._wait("end")

    async def close(self) -> None:  # type: ignore[override]
        self.calls.append("close")


@pytest.mark.parametrize("silent", ["begin", "ask", "read", "end", "exit"])
def test_a_task_does_not_wait_for_ever_and_ends_nothing(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdmigrate.app.shadow.comparing._GRACE", 0.01)
    source, stage = told(), AsyncStage()
    stage.silent = silent
    ledger = Ledger(NAME, source, normalise=module.as_it_is, samples=True)
    comparer = AsyncComparer(stage, ledger, 0.01)  # type: ignore[arg-type]

    async def read(_: Any) -> int:
        if silent == "read":
            await asyncio.Event().wait()
        if silent == "exit":
            raise SystemExit(1)
        return 1

    async def main() -> None:
        await asyncio.wait_for(comparer.run(Job(1, read, read, session=False)), 20)

    asyncio.run(main())
    assert stage.calls == ["close"]
    report = source.tally.report(last=True) or []
    assert sum(each["mismatches"] for each in report) == 0, "who is late is a failure"
    assert sum(each["compares"] for each in report) == (silent == "end")


def test_the_end_of_a_process_waits_once_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Busy(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            assert all(shadow._closed for shadow in shadows), "all hear of it before any is waited for"
            assert timeout is not None
            waited.append(timeout)
            time.sleep(min(timeout, 0.05))

    shadows = [ShadowRead(NAME, lambda: None, source=told()) for _ in range(4)]
    for shadow in shadows:
        shadow._thread = Busy()
    monkeypatch.setattr(module, "_LIVING", shadows)
    monkeypatch.setattr(module, "_GOODBYE", 0.1)
    module._close_all()
    assert len(waited) == 4
    assert sum(min(each, 0.05) for each in waited) <= 0.11
    for shadow in shadows:
        shadow._thread = None


def test_a_database_in_trouble_is_left_alone_for_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("zdmigrate.app.shadow.comparing.monotonic", lambda: now[0])
    it = bench()
    it.stage.fails = psycopg.OperationalError("too many connections")
    attempts = []
    for tenths in range(100):
        now[0] = tenths / 10
        before = len(it.stage.calls)
        it.compare(lambda _: 1, lambda _: 1)
        if len(it.stage.calls) > before:
            attempts.append(tenths / 10)
    assert attempts == [0.0, 1.0, 3.0, 7.0]
    found = it.found()
    assert (found["dropped"], found["failures"]) == (100, 0)
    assert found["failure"] == "OperationalError: too many connections"
    it.stage.fails, now[0] = None, 100.0
    it.compare(lambda _: 1, lambda _: 1)
    it.stage.fails = psycopg.OperationalError("again")
    it.compare(lambda _: 1, lambda _: 1)
    now[0] = 101.0
    it.stage.fails = None
    it.compare(lambda _: 1, lambda _: 1)
    assert it.found()["compares"] == 2, "a success was the end of it"


def test_what_is_read_lazily_is_read_within_the_transaction() -> None:
    it = bench()

    def lazy(_: Any) -> Iterator[int]:
        assert "end" not in it.stage.calls
        yield from (1, 2)

    it.compare(lazy, lambda _: iter([1, 2]))
    it.compare(lambda _: {"all": 1}, lambda _: {"all": 1})
    assert (it.found()["compares"], it.found()["mismatches"]) == (2, 0)


def test_what_applications_import_stays_light() -> None:
    import subprocess

    code = (
        "import sys; from zdmigrate.app import ShadowRead; print('asyncio' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False False\n"


def test_the_end_of_a_process_waits_once_for_all_fleets(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, waited = list[int](), list[float]()

    class Busy:
        def _end(self) -> None:
            ended.append(len(waited))

        def retire(self, timeout: float) -> None:
            waited.append(timeout)
            time.sleep(min(timeout, 0.05))

    monkeypatch.setattr(fleet, "_LIVING", [Busy() for _ in range(4)])
    monkeypatch.setattr(fleet, "_GOODBYE", 0.1)
    fleet._retire_all()
    assert ended == [0, 0, 0, 0], "all hear of it before any is waited for"
    assert sum(min(each, 0.05) for each in waited) <= 0.11
