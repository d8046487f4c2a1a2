"""Versions N and N+1 of an application: processes that write, read back and compare through SQLAlchemy.

A version knows one name of the column. Every worker owns the rows whose id, modulo the number of workers, is its
own, and so knows what must be in them; all of them share some hot rows and hot keys, whose `revision` orders the
writes, so that afterwards each read can be compared with what was written. A worker counts in shared memory, where
it is the only one to write, and hands its log over when it is stopped.
"""

from __future__ import annotations

import dataclasses
import enum
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert_into

CONTEXT = multiprocessing.get_context("spawn")
HOT_ROWS = 12
"""Rows 1 to this are written by everybody."""
KEPT = 500
"""Rows of its own that a worker remembers to come back to."""


class Version(enum.StrEnum):
    """A version of the application; its column's name is all that differs."""

    N = "N"
    NEXT = "N+1"

    @property
    def column(self) -> str:
        return "user_email" if self is Version.N else "email_address"


class Duty(enum.IntEnum):
    """What a version's workers do at the moment."""

    REST = 0
    INSERT = 1
    """Insert, and read what they wrote themselves: what N+1 may do from `dual_write` on."""
    EVERYTHING = 2
    STOP = 3


def users(column: str) -> sa.Table:
    """The table as one version maps it."""
    return sa.Table(
        "users",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column(column, sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text),
        sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    )


def initial_value(id_: int) -> str:
    """What was in a row before anybody wrote it."""
    return f"user{id_}@example.com"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is told at its start. `pause` is between two requests, in seconds."""

    url: str
    version: Version
    number: int
    workers: int
    rows: int
    pause: float

    @property
    def name(self) -> str:
        return f"{self.version} #{self.number}"


@dataclasses.dataclass(slots=True)
class Log:
    """What a worker did and saw. Stages are numbers given by the scenario, values are those of the renamed column.

    `rows` has the last value that it wrote to each of its own rows, None where it deleted the row. Hot rows and
    keys are logged by (id, revision) and (key, revision).
    """

    version: Version
    latencies: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    rows: dict[int, str | None] = dataclasses.field(default_factory=dict)
    hot_writes: dict[tuple[int | str, int], str] = dataclasses.field(default_factory=dict)
    hot_reads: dict[tuple[int | str, int], str | None] = dataclasses.field(default_factory=dict)
    failed: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)


class WrongValue(Exception):
    """A request got an answer that is not what was written."""


class Board:
    """What the scenario tells the workers, and what they count, in shared memory."""

    def __init__(self, jobs: Sequence[Version], stages: int) -> None:
        self._versions = tuple(jobs)
        self._stages = stages
        self._duties = {version: CONTEXT.RawValue("i", Duty.REST) for version in Version}
        self._stage = CONTEXT.RawValue("i", 0)
        self._seen = CONTEXT.RawArray("i", [-1] * len(jobs))
        self._done = CONTEXT.RawArray("q", len(jobs) * stages)
        self._bad = CONTEXT.RawArray("q", len(jobs))

    @property
    def stage(self) -> int:
        return int(self._stage.value)

    @stage.setter
    def stage(self, stage: int) -> None:
        self._stage.value = stage

    @property
    def bad(self) -> int:
        """Requests that failed or saw a wrong value."""
        return sum(self._bad)

    def duty(self, version: Version) -> Duty:
        return Duty(self._duties[version].value)

    def assign(self, version: Version, duty: Duty) -> None:
        self._duties[version].value = duty

    def took_over(self, version: Version) -> bool:
        """Whether every worker of the version is past its last request under an earlier duty."""
        duty = self.duty(version)
        return all(self._seen[i] == duty for i, v in enumerate(self._versions) if v is version)

    def requests(self, version: Version, stage: int) -> int:
        """Requests of a version that were begun in a stage and are done."""
        mine = (i for i, v in enumerate(self._versions) if v is version)
        return sum(self._done[i * self._stages + stage] for i in mine)

    # -- the workers' side -----------------------------------------------------------------------------------------

    def saw(self, number: int, duty: Duty) -> None:
        self._seen[number] = duty

    def count(self, number: int, stage: int, *, bad: bool) -> None:
        self._done[number * self._stages + stage] += 1
        self._bad[number] += bad


class Application:
    """One worker: the requests of its version, and what it knows of the data."""

    def __init__(self, job: Job, engine: sa.Engine) -> None:
        self.log = Log(job.version)
        self._job = job
        self._engine = engine
        self._table = users(job.version.column)
        self._value = self._table.c[job.version.column]
        self._random = random.Random(job.number)
        self._written = 0
        self._mine: list[int] = []

    def requests(self, duty: Duty) -> Sequence[Callable[[], None]]:
        """What may be asked under a duty; each does its work and compares."""
        if duty is Duty.INSERT:
            return (self.insert, self.insert, self.read_mine)
        return (
            self.insert, self.read, self.read, self.read_mine, self.update, self.update, self.rewrite, self.delete,
            self.upsert_hot_key, self.update_hot_row, self.read_hot_row, self.update_many,
        )  # fmt: skip

    def insert(self) -> None:
        """A new row; its id is the database's."""
        value = self._new_value()
        statement = sa.insert(self._table).values({self._value.name: value, "name": self._job.name})
        with self._engine.begin() as connection:
            id_ = int(connection.execute(statement.returning(self._table.c.id)).scalar_one())
        self.log.rows[id_] = value
        self._mine.append(id_)
        del self._mine[:-KEPT]
        self._compare(id_)

    def read(self) -> None:
        """Any row of its own, most of which nobody ever wrote."""
        self._compare(self._any_own())

    def read_mine(self) -> None:
        """A row that it inserted."""
        if self._mine:
            self._compare(self._random.choice(self._mine))
        else:
            self.insert()

    def update(self) -> None:
        """Write a row, then read it back."""
        self._write([self._any_own()])

    def update_many(self) -> None:
        """Several rows with one ``executemany``."""
        self._write(list(dict.fromkeys(self._any_own() for _ in range(5))))

    def rewrite(self) -> None:
        """Read, change, save, in one transaction: what an ORM does."""
        id_, value = self._any_own(), self._new_value()
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(self._value).where(self._table.c.id == id_).with_for_update()).scalar()
            self._expect(id_, found)
            connection.execute(self._update(id_, value))
        self.log.rows[id_] = value

    def delete(self) -> None:
        """A row that it inserted, if it can spare one."""
        if len(self._mine) < 20:
            return self.insert()
        id_ = self._mine.pop(0)
        with self._engine.begin() as connection:
            found = connection.execute(
                sa.delete(self._table).where(self._table.c.id == id_).returning(self._value)
            ).scalar()
            self._expect(id_, found)
        self.log.rows[id_] = None
        return None

    def upsert_hot_key(self) -> None:
        """``INSERT … ON CONFLICT`` on a key that is new four times a second, for everybody at once."""
        key, name = f"hot{int(time.time() * 4)}@example.com", self._new_value()
        insert = upsert_into(self._table).values({self._value.name: key, "name": name})
        statement = insert.on_conflict_do_update(
            index_elements=[self._value], set_={"name": name, "revision": self._table.c.revision + 1}
        ).returning(self._table.c.revision)
        with self._engine.begin() as connection:
            revision = int(connection.execute(statement).scalar_one())
        self.log.hot_writes[key, revision] = name
        self._read_hot(self._value == key, key, self._table.c.name)

    def update_hot_row(self) -> None:
        """A row that everybody writes; `revision` is the order of the writes."""
        id_, value = self._random.randint(1, HOT_ROWS), self._new_value()
        statement = self._update(id_, value).values(revision=self._table.c.revision + 1)
        with self._engine.begin() as connection:
            revision = int(connection.execute(statement.returning(self._table.c.revision)).scalar_one())
        self.log.hot_writes[id_, revision] = value
        self._read_hot(self._table.c.id == id_, id_, self._value)

    def read_hot_row(self) -> None:
        """Whoever wrote it last."""
        id_ = self._random.randint(1, HOT_ROWS)
        self._read_hot(self._table.c.id == id_, id_, self._value)

    def _read_hot(self, where: sa.ColumnElement[bool], key: int | str, value: sa.Column[Any]) -> None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(self._table.c.revision, value).where(where)).first()
        if row is None:
            raise WrongValue(f"row {key!r} is lost")
        known = self.log.hot_reads.setdefault((key, row[0]), row[1])
        if known != row[1]:
            raise WrongValue(f"row {key!r} is {row[1]!r} and was {known!r}, both in revision {row[0]}")

    def _write(self, ids: list[int]) -> None:
        values = {id_: self._new_value() for id_ in ids}
        with self._engine.begin() as connection:
            if len(ids) == 1:
                connection.execute(self._update(ids[0], values[ids[0]]))
            else:
                statement = sa.update(self._table).where(self._table.c.id == sa.bindparam("b_id"))
                statement = statement.values({self._value.name: sa.bindparam("b_value")})
                connection.execute(statement, [{"b_id": id_, "b_value": value} for id_, value in values.items()])
        self.log.rows.update(values)
        self._compare(ids[-1])

    def _update(self, id_: int, value: str) -> sa.Update:
        return sa.update(self._table).where(self._table.c.id == id_).values({self._value.name: value})

    def _compare(self, id_: int) -> None:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(self._value).where(self._table.c.id == id_)).scalar()
        self._expect(id_, found)

    def _expect(self, id_: int, found: str | None) -> None:
        expected = self.log.rows.get(id_, initial_value(id_))
        if found != expected:
            raise WrongValue(f"{self._value.name} of row {id_} is {found!r}, written was {expected!r}")

    def _any_own(self) -> int:
        """Half of them rows that the backfill has to fill, half of them its own."""
        if self._mine and self._random.random() < 0.5:
            return self._random.choice(self._mine)
        job = self._job
        turn = self._random.randrange((job.rows - HOT_ROWS) // job.workers)
        return HOT_ROWS + 1 + turn * job.workers + job.number

    def _new_value(self) -> str:
        self._written += 1
        return f"{self._job.name.replace(' ', '')}-{self._written}@example.com"


def serve(job: Job, board: Board, back: Connection) -> None:
    """A worker process: ask and compare until the board says stop, then send the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us, in order
    parent = multiprocessing.parent_process()
    engine = sa.create_engine(job.url, pool_size=1, connect_args={"application_name": f"demo {job.name}"})
    engine.connect().close()  # not a request: connections are there before they are needed
    application = Application(job, engine)
    chance = random.Random(-job.number)
    while (duty := board.duty(job.version)) is not Duty.STOP and parent is not None and parent.is_alive():
        board.saw(job.number, duty)
        if duty is Duty.REST:
            time.sleep(0.01)
            continue
        _serve_one(application, chance.choice(application.requests(duty)), board, job.number)
        time.sleep(job.pause * chance.uniform(0.5, 1.5))
    engine.dispose()
    board.saw(job.number, Duty.STOP)
    back.send(application.log)
    back.close()


def _serve_one(application: Application, request: Callable[[], None], board: Board, number: int) -> None:
    stage, log, bad = board.stage, application.log, True
    started = time.perf_counter()
    try:
        request()
        bad = False
    except WrongValue as error:
        log.wrong.append(f"{log.version} {request.__name__}: {error}")
    except sa.exc.SQLAlchemyError as error:
        log.failed.append(f"{log.version} {request.__name__}: {getattr(error, 'orig', None) or error}")
    log.latencies.setdefault(stage, []).append(time.perf_counter() - started)
    board.count(number, stage, bad=bad)


class Crew:
    """All workers of both versions. A context manager: none of them outlives it."""

    def __init__(self, url: str, *, each: int, rows: int, stages: int, pause: float) -> None:
        versions = [version for version in Version for _ in range(each)]
        self.board = Board(versions, stages)
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._jobs = [
            Job(url=url, version=version, number=number, workers=len(versions), rows=rows, pause=pause)
            for number, version in enumerate(versions)
        ]

    def __enter__(self) -> Crew:
        for job in self._jobs:
            ours, theirs = CONTEXT.Pipe(duplex=False)
            process = CONTEXT.Process(target=serve, args=(job, self.board, theirs), daemon=True, name=job.name)
            self._workers.append((process, ours))
            process.start()
            theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._workers:
            if process.pid is not None:
                process.kill()
                process.join()
            pipe.close()

    def assign(self, version: Version, duty: Duty, *, within: float = 60) -> None:
        """Give a version's workers something else to do, and wait until they all do it."""
        self.board.assign(version, duty)
        deadline = time.monotonic() + within
        while not self.board.took_over(version):
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"version {version} did not turn to {duty.name.lower()} within {within:g} s")
            time.sleep(0.01)

    def check(self) -> None:
        """Raise if a worker ended that nobody stopped."""
        for process, _ in self._workers:
            if process.exitcode not in (None, 0):
                raise ChildProcessError(f"the worker {process.name} ended with status {process.exitcode}")

    def logs(self, *, within: float = 60) -> Iterator[Log]:
        """The logs of workers that were stopped."""
        for process, pipe in self._workers:
            if not pipe.poll(within):
                raise TimeoutError(f"the worker {process.name} sent no log within {within:g} s")
            yield pipe.recv()
