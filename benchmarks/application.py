"""What ``zdmigrate.app`` costs an application: imports, decisions, statements, the gate over 10,000 instances.

``python -m benchmarks.application [--rounds 20] [--instances 10000]`` on a scratch server.

* **Import**: a process that imports SQLAlchemy and ``register``, against one that imports SQLAlchemy, in turns;
  the median of the differences.
* **Decision**: `ReadSwitch.new` with a key that has to be hashed, outside of and within `pinned`.
* **Dual writes**: the flush of 1,000 objects that are new, and of 1,000 that have changed, one side set,
  against both set by hand; beside it what writing the second column costs at all. And a statement on another table. In
  turns; the median of the ratios of the process's own time, as what the server does is the same.
* **Statements**: of one instance in a minute, at the default interval, as the server counts them: each calls one function
  (``pg_stat_user_functions``), and nothing else.
* **Gate**: `zdmigrate status`'s reads for the gate ``drained`` with so many registered instances, in a process that runs.

The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from zdmigrate.app import DualWrite, ReadSwitch, Source, pinned, register
from zdmigrate.app.shapes import Shapes
from zdmigrate.app.snapshot import MigrationState, Snapshot, SwitchState
from zdmigrate.control import install, instances
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

Figure = tuple[str, float, float, str]
"""What, how much, at most, in which unit."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="for which statements are counted")
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    arguments = parser.parse_args()
    found = [*imports(arguments.rounds), *decisions()]
    with ScratchServer.start(find_binaries(arguments.major), settings={"track_functions": "all"}) as server:
        server.create_database("shop")
        url = server.conninfo("shop")
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            install.upgrade(cursor, "zdmigrate", 0)
        found += dual_writes(server.url("shop", driver="psycopg"), arguments.rounds)
        found += [statements(url, arguments.seconds), gate(url, arguments.instances)]
    print("| | measured | target |")
    print("|---|---|---|")
    for what, value, most, unit in found:
        print(f"| {what} | {value:.3g} {unit} | at most {most:g} {unit} |")
    return 0 if all(value <= most for _, value, most, _ in found) else 1


def imports(rounds: int) -> Iterator[Figure]:
    bare, ours = "import sqlalchemy", "import sqlalchemy; from zdmigrate.app import ReadSwitch, pinned, register"
    taken: dict[str, list[float]] = {bare: [], ours: []}
    for _ in range(rounds + 1):
        for program, seconds in taken.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            seconds.append(time.perf_counter() - began)
    more = [with_us - without for without, with_us in zip(taken[bare][1:], taken[ours][1:], strict=True)]
    yield "import, beyond SQLAlchemy's own", statistics.median(more) * 1e3, 50, "ms"


def decisions() -> Iterator[Figure]:
    source = Source()
    switch = ReadSwitch("0001", source=source)
    state = MigrationState(version=1, phase=Phase.BACKFILL, running=None, shapes=Shapes())
    source.current = Snapshot(
        migrations={"0001": state}, switches={"0001": SwitchState(version=1, percent=25)}, until=time.monotonic() + 3600
    )
    yield "`ReadSwitch.new(key)`", _nanoseconds(switch), 1000, "ns"
    with pinned():
        yield "the same within `pinned`", _nanoseconds(switch), 1000, "ns"


def _nanoseconds(switch: ReadSwitch) -> float:
    number = 100_000
    return statistics.median(timeit.repeat(lambda: switch.new(4711), number=number, repeat=9)) / number * 1e9


class _Base(orm.DeclarativeBase):
    pass


class _User(_Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    user_email: Mapped[str | None]
    email_address: Mapped[str | None]


class _Other(_Base):
    __tablename__ = "others"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def dual_writes(url: str, rounds: int) -> Iterator[Figure]:
    engine = sa.create_engine(url)
    _Base.metadata.create_all(engine)
    dual = DualWrite(_User.user_email, _User.email_address)
    ways = {"one": (False, False), "both": (False, True), "dual": (True, False)}
    for what, flush in (("new", _flush_new), ("changed", _flush_changed)):
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 2):
            for way in (*ways,) if number % 2 else (*reversed(ways),):
                (dual.install if ways[way][0] else dual.remove)()
                taken[way].append(flush(engine, f"{number}{way}", both=ways[way][1]))
        one, both, dually = (taken[way][2:] for way in ways)
        yield f"flush of 1,000 {what} objects, beyond setting both by hand", _beyond(dually, both), 10, "%"
        yield f"the same, beyond setting one (by hand {_beyond(both, one):.3g} %)", _beyond(dually, one), 30, "%"
    yield _elsewhere(engine, dual, rounds)
    engine.dispose()


def _elsewhere(engine: sa.Engine, dual: DualWrite, rounds: int) -> Figure:
    taken: dict[bool, list[float]] = {True: [], False: []}
    statement = sa.update(_Other).where(_Other.id == 1).values(name="x")
    for number in range(rounds * 5):
        for dually in (True, False) if number % 2 else (False, True):
            (dual.install if dually else dual.remove)()
            with orm.Session(engine) as session:
                session.execute(statement)
                began = time.thread_time()
                for _ in range(50):
                    session.execute(statement)
                taken[dually].append((time.thread_time() - began) / 50)
    dual.remove()
    return "ORM UPDATE of another table, beyond the same without", _beyond(taken[True], taken[False]), 5, "%"


def _beyond(these: list[float], those: list[float]) -> float:
    return (statistics.median(a / b for a, b in zip(these, those, strict=True)) - 1) * 100


def _flush_new(engine: sa.Engine, value: str, *, both: bool) -> float:
    with orm.Session(engine) as session:
        for number in range(1000):
            given = {"user_email": f"{value}{number}"}
            session.add(_User(name="x", **given, **({"email_address": given["user_email"]} if both else {})))
        return _flushed(session)


def _flush_changed(engine: sa.Engine, value: str, *, both: bool) -> float:
    with orm.Session(engine) as session:
        session.execute(sa.insert(_User), [{"name": "x", "user_email": "a", "email_address": "a"} for _ in range(1000)])
        for number, user in enumerate(session.scalars(sa.select(_User)).all()):
            user.user_email = f"{value}{number}"
            if both:
                user.email_address = user.user_email
        return _flushed(session)


def _flushed(session: orm.Session) -> float:
    """Rolled back: each flush finds the same tables."""
    gc.collect()
    began = time.thread_time()
    session.flush()
    taken = time.thread_time() - began
    session.rollback()
    return taken


def statements(url: str, seconds: int) -> Figure:
    fleet = register(url, application="shop", version="1", source=Source())
    assert fleet.refresh(10)
    time.sleep(15)  # the first news are acknowledged, and the server has counted them
    began, before = time.monotonic(), _calls(url)
    time.sleep(seconds)
    rate = (_calls(url) - before) / (time.monotonic() - began)
    fleet.retire()
    return "statements of one instance", rate, 0.12, "a second"


def _calls(url: str) -> int:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT sum(calls) FROM pg_stat_user_functions WHERE funcname IN ('app_beat', 'app_register', 'app_retire')"
        ).fetchone()
    assert row is not None
    return int(row[0] or 0)


def gate(url: str, number: int) -> Figure:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO zdmigrate.app_version (project, application, version, needs) SELECT 'default', 'shop', v::text, "
            '\'[[null, "users", [["id", "BIGINT", false]]]]\' FROM generate_series(1, 3) AS v ON CONFLICT DO NOTHING'
        )
        connection.execute(
            "INSERT INTO zdmigrate.app_instance (instance, application, version, expires_at, seen) SELECT 'web' || n, 'shop', "
            "(n %% 3 + 1)::text, clock_timestamp() + interval '1 hour', '{\"0001\": 1}' FROM generate_series(1, %s) AS n",
            (number,),
        )
        connection.execute("VACUUM ANALYZE zdmigrate.app_instance")
        taken: list[float] = []
        groups: list[instances.Group] = []
        for _ in range(21):
            began = time.perf_counter()
            groups = instances.live(connection, "zdmigrate", "0001", timedelta(minutes=15))
            instances.versions(connection, "zdmigrate")
            instances.sessions(connection, (("public", "users"),))
            instances.behind(connection, "zdmigrate", "default", {"0001": 1})
            taken.append(time.perf_counter() - began)
    assert sum(group.count for group in groups) >= number
    return f"the gate's answer with {number:,} instances", statistics.median(taken) * 1e3, 100, "ms"


if __name__ == "__main__":
    sys.exit(main())
