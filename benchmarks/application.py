"""What ``zdmigrate.app`` costs an application: imports, decisions, statements, the gate over 10,000 instances.

``python -m benchmarks.application [--rounds 20] [--instances 10000]`` on a scratch server.

* **Import**: of ``register``, `ReadSwitch` and `pinned` in processes that have imported SQLAlchemy, with bytecode as an
  installed package has it; the median.
* **Decision**: `ReadSwitch.new` with a key that has to be hashed, outside of and within `pinned`.
* **Router**: a statement in sessions of `replica_aware` and in SQLAlchemy's own, in turns, the first of a transaction and later
  ones; the median of the differences. On SQLite in memory: the router knows no dialect, and a server's answers differ by
  more than is measured.
* **Deployable**: ``zdmigrate advance --to deployable`` where there is nothing to do, against a process that imports SQLAlchemy
  and psycopg, in turns; medians.
* **Shadow**: what `ShadowRead.read` takes beyond the read itself, where the call is not compared, and where it is (by the
  thread, on the server: the caller's part is timed, and the thread waited for).
* **Dual writes**: the flush of 1,000 objects that are new, and of 1,000 that have changed, one side set,
  against both set by hand; beside it what writing the second column costs at all. And a statement on another table. In
  turns; the median of the ratios of the process's own time, as what the server does is the same.
* **Statements**: of one instance in five minutes, at the default interval, while it compares: as the server counts them, each
  calls one function (``pg_stat_user_functions``). Compares themselves are not among them.
* **Gate**: `zdmigrate status`'s reads for the gate ``drained`` with so many registered instances, in a process that runs.

The exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import sqlalchemy as sa
from sqlalchemy import create_engine, literal, orm, select
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from zdmigrate.app import DualWrite, ReadSwitch, Source, pinned, register
from zdmigrate.app.routing import Router
from zdmigrate.app.shapes import Shapes
from zdmigrate.app.snapshot import MigrationState, Snapshot, SwitchState
from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable
from zdmigrate.control import install, instances
from zdmigrate.phases import Phase
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

ROOT = Path(__file__).parents[1]

Figure = tuple[str, float, float, str]
"""What, how much, at most, in which unit."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=300, help="for which statements are counted")
    parser.add_argument("--major", type=int, default=max(available_majors(), default=None), help="of PostgreSQL")
    arguments = parser.parse_args()
    found = [*imports(arguments.rounds), *decisions(), *routing()]
    with ScratchServer.start(find_binaries(arguments.major), settings={"track_functions": "all"}) as server:
        server.create_database("shop")
        url = server.conninfo("shop")
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            install.upgrade(cursor, "zdmigrate", 0)
        server.create_database("release")
        found += [
            deployable(server.url("release"), arguments.rounds),
            *dual_writes(server.url("shop", driver="psycopg"), arguments.rounds),
            *shadow_reads(url),
            statements(url, arguments.seconds),
            gate(url, arguments.instances),
        ]
    print("| | measured | target |")
    print("|---|---|---|")
    for what, value, most, unit in found:
        print(f"| {what} | {value:.3g} {unit} | at most {most:g} {unit} |")
    return 0 if all(value <= most for _, value, most, _ in found) else 1


def imports(rounds: int) -> Iterator[Figure]:
    program = (
        "import sqlalchemy, time; began = time.perf_counter()\n"
        "from zdmigrate.app import ReadSwitch, pinned, register\n"
        "print(time.perf_counter() - began)"
    )
    with bytecode() as environment:
        taken = [
            float(
                subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True).stdout
            )
            for _ in range(rounds + 1)
        ]
    yield "import, beyond SQLAlchemy's own", statistics.median(taken[1:]) * 1e3, 50, "ms"


@contextlib.contextmanager
def bytecode() -> Iterator[dict[str, str]]:
    """The environment of processes that compile what they import once, as for an installed package."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as directory:
        yield given | {"PYTHONPYCACHEPREFIX": directory}


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
    return (
        statistics.median(timeit.repeat("new(4711)", globals={"new": switch.new}, number=number, repeat=9))
        / number
        * 1e9
    )


def routing() -> Iterator[Figure]:
    engine = create_engine("sqlite://")
    router = Router(engine, [create_engine("sqlite://")], max_lag=60, interval=60, source=Source())
    router._watch.primary(1, now=time.monotonic(), news=0)
    router._watch.replicas([1], now=time.monotonic())
    (replica,) = router.fit()
    plain, routed = sessionmaker(bind=replica), sessionmaker(class_=router.session_class)
    for what, one in (("the first statement of a transaction", first), ("a later one", later)):
        one(routed), one(plain)
        more = [one(routed) - one(plain) for _ in range(50)]
        yield f"`replica_aware`: {what}", statistics.median(more) * 1e6, 20, "µs more"


_SELECT = select(literal(1))


def first(maker: sessionmaker[Session], number: int = 200) -> float:
    """Seconds for a transaction of one statement."""
    began = time.perf_counter()
    for _ in range(number):
        with maker() as session:
            session.execute(_SELECT).scalar_one()
    return (time.perf_counter() - began) / number


def later(maker: sessionmaker[Session], number: int = 200) -> float:
    """Seconds for one more statement in a transaction."""
    with maker() as session:
        session.execute(_SELECT).scalar_one()
        began = time.perf_counter()
        for _ in range(number):
            session.execute(_SELECT).scalar_one()
        return (time.perf_counter() - began) / number


MIGRATION = """
from zdmigrate import Migration, RenameColumn

migration = Migration(RenameColumn("users", "user_email", "email_address"))
"""


def deployable(url: str, rounds: int) -> Figure:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE users (id bigserial PRIMARY KEY, user_email text NOT NULL)")
    columns = (MappedColumn(name="id", type="BIGINT"), MappedColumn(name="email_address", type="TEXT"))
    with bytecode() as environment, tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "migrations").mkdir()
        (place / "migrations" / "0001_email.py").write_text(MIGRATION)
        (place / "fp.json").write_bytes(Footprint.of(tables=[MappedTable(name="users", columns=columns)]).to_bytes())

        def seconds(*arguments: str) -> float:
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], check=True, cwd=place, capture_output=True,
                env=environment | {"ZDMIGRATE_URL": url, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            return time.perf_counter() - began

        seconds("-m", "zdmigrate", "init", "--environment", "development")
        release = ("-m", "zdmigrate", "advance", "--to", "deployable", "--footprint", "fp.json")
        imports = ("-c", "import sqlalchemy, psycopg")
        seconds(*release), seconds(*imports)
        taken = [(seconds(*release), seconds(*imports)) for _ in range(rounds)]
    ours, theirs = (statistics.median(each) for each in zip(*taken, strict=True))
    most = 1.2 * theirs + 0.1
    return "`advance --to deployable` with nothing to do", ours * 1e3, round(most * 1e3), "ms"


def shadow_reads(url: str) -> Iterator[Figure]:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO zdmigrate.migration (project, id, checksum, phase) VALUES ('default', '0001', '', 'backfill')"
        )
    source = Source()
    fleet = register(url, application="shop", version="1", source=source)
    assert fleet.refresh(10)
    shadow = fleet.shadow("0001", url, sample=0)
    number, read = 100_000, "shadow.read(4711, old=read, new=read, on=None)"
    alone, through = (
        statistics.median(timeit.repeat(text, number=number, repeat=9, globals={"shadow": shadow, "read": _nothing}))
        for text in ("read(None)", read)
    )
    yield "`ShadowRead.read`, not compared, beyond the read", (through - alone) / number * 1e6, 2, "µs"
    shadow = fleet.shadow("0001", url, sample=1)
    taken = []
    for compares in range(1, 501):
        began = time.perf_counter()
        shadow.read(4711, old=_nothing, new=_nothing, on=None)
        taken.append(time.perf_counter() - began)
        while sum(count.compares for count in source.tally._counts.values()) < compares:
            time.sleep(0.001)
    yield "the same, compared", statistics.median(taken) * 1e6, 50, "µs"
    shadow.close()
    fleet.retire()


def _nothing(_: object) -> None:
    """A read that takes no time."""


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
    source = Source()
    fleet = register(url, application="shop", version="1", source=source)
    assert fleet.refresh(10)
    time.sleep(15)  # the first news are acknowledged, and the server has counted them
    began, before = time.monotonic(), _calls(url)
    while time.monotonic() < began + seconds:
        source.tally.matched("0001", "2026-11-21T06:44:31+00:00")
        time.sleep(0.1)
    rate = (_calls(url) - before) / (time.monotonic() - began)
    fleet.retire()
    return "statements of one instance", rate, 0.12, "a second"


def _calls(url: str) -> int:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT sum(calls) FROM pg_stat_user_functions "
            "WHERE funcname IN ('app_beat', 'app_register', 'app_retire', 'app_shadow')"
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
