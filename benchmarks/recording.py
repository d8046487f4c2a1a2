"""What recording costs a test suite.

``python -m benchmarks.recording [--pairs 300] [--statements 50] [--same]`` on a scratch server. Two processes run the same
suite of ORM statements (inserts, selects, updates, a rollback after each test), one of them recorded. They take turns in
pieces of 50 statements, so that whatever else the machine does meets both. One statement in fifty has a text that was not
seen before: it has to be normalised and written.

The figure is the ratio of the medians of the pieces' wall clock times; beside it that of their CPU times (the application's own
work), and the quartiles of the pairs. The exit status is 1 where recording makes the suite slower by more than 5 % by the wall
clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zdmigrate.compat.recording.collecting import collect
from zdmigrate.compat.recording.command import environment, prepare
from zdmigrate.postgres.servers import ScratchServer, available_majors, find_binaries

TARGET = 5.0
SUITE = """
import json, sys, time
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]
    score: Mapped[int]

def test(session, number, different):
    user = User(name=f"name {number}", email=None if number % 3 else "x@example.org", score=number)
    session.add(user)
    session.flush()
    session.scalars(sa.select(User).where(User.name == user.name)).one()
    user.score += 1
    session.flush()
    session.execute(sa.select(User.id, User.score).where(User.id.in_(range(number % 9 + 1)))).all()
    session.execute(sa.text("SELECT count(*) FROM users WHERE score > :low"), {"low": number}).scalar_one()
    if number % 10 == 0 and different:
        session.execute(sa.text(f"SELECT name AS name_{number} FROM users WHERE score = 1")).all()
    session.rollback()

engine = sa.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
tests, different = int(sys.argv[2]) // 5, int(sys.argv[3])
number = 0
with Session(engine) as session:
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(number, number + tests):
            test(session, number, different)
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""
Pair = tuple[list[float], list[float]]
"""Wall clock and CPU seconds of a piece of the suite, without the recorder and with it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--statements", type=int, default=50)
    parser.add_argument("--same", action="store_true", help="only statements that were seen before")
    given = parser.parse_args()
    with (
        ScratchServer.start(find_binaries(max(available_majors()))) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        server.create_database("suite")
        prepare(Path(name), root=Path.cwd())
        url = server.url("suite", driver="psycopg")
        command = [sys.executable, "-c", SUITE, url, str(given.statements), str(int(not given.same))]
        with _started(command, os.environ) as plain, _started(command, environment(Path(name), os.environ)) as recorded:
            for process in (plain, recorded):
                _piece(process)  # connections, caches of compiled statements
            pairs = [_pair(plain, recorded, number) for number in range(given.pairs)]
        found = collect(Path(name))
    return _report(pairs, given.pairs * given.statements, len(found.statements))


@contextmanager
def _started(command: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _pair(plain: subprocess.Popen[str], recorded: subprocess.Popen[str], number: int) -> Pair:
    """Who goes first changes each time."""
    if number % 2:
        second, first = _piece(recorded), _piece(plain)
        return first, second
    return _piece(plain), _piece(recorded)


def _piece(process: subprocess.Popen[str]) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: list[float] = json.loads(process.stdout.readline())
    return found


def _report(pairs: list[Pair], executed: int, statements: int) -> int:
    print(f"{executed} statements of the ORM, {statements} different ones, {len(pairs)} pairs\n")
    print("| a piece | without | recorded | slower | quartiles of the pairs |")
    print("|---|---|---|---|---|")
    slower = []
    for number, name in enumerate(("wall clock", "CPU time")):
        plain = [without[number] for without, _ in pairs]
        taken = [recorded[number] for _, recorded in pairs]
        first, _, third = statistics.quantiles((b / a for a, b in zip(plain, taken, strict=True)), n=4)
        ratio = statistics.median(taken) / statistics.median(plain)
        slower.append(100 * (ratio - 1))
        print(
            f"| {name} | {1e3 * statistics.median(plain):.1f} ms | {1e3 * statistics.median(taken):.1f} ms | {slower[-1]:+.1f} % "
            f"| {100 * (first - 1):+.1f} to {100 * (third - 1):+.1f} % |"
        )
    print(f"\ntarget: at most {TARGET:g} % by the wall clock")
    return int(slower[0] > TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
