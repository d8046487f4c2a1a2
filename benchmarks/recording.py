"""What recording costs a test suite.

``python -m benchmarks.recording [--rounds 20] [--pairs 40] [--statements 50] [--same]`` on a scratch server. Two processes run
the same suite of ORM statements (inserts, selects, updates, a rollback after each test), one of them recorded. They take turns
in pieces of 50 statements, so that whatever else the machine does meets both. One statement in fifty has a text that was not
seen before: it has to be normalised and written. Two processes that do the very same differ by several per cent, for as long as
they live: each round has two new ones.

A round's ratio is that of the medians of its pieces, by the wall clock and by CPU time (the application's own work); the figure
is the median of the rounds, beside it their quartiles. The exit status is 1 where recording makes the suite slower by more than
5 % by the wall clock.
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
Round = Pair
"""The medians of the pieces of two processes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=40)
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
        suite = Path(name, "suite.py")  # what has no file is nobody's place, and is looked for up to the stack's end
        suite.write_text(SUITE, encoding="utf-8")
        command = [sys.executable, str(suite), url, str(given.statements), str(int(not given.same))]
        recorded = environment(Path(name), os.environ)
        rounds = [_round(command, recorded, given.pairs) for _ in range(given.rounds)]
        found = collect(Path(name))
    return _report(rounds, given.rounds * given.pairs * given.statements, len(found.statements))


def _round(command: list[str], environ: Mapping[str, str], pairs: int) -> Round:
    with _started(command, os.environ) as plain, _started(command, environ) as recorded:
        for process in (plain, recorded):
            _piece(process)  # connections, caches of compiled statements
        found = [_pair(plain, recorded, number) for number in range(pairs)]
    medians = [[statistics.median(times) for times in zip(*each, strict=True)] for each in zip(*found, strict=True)]
    return medians[0], medians[1]


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


def _report(rounds: list[Round], executed: int, statements: int) -> int:
    print(f"{executed} statements of the ORM, {statements} different ones, {len(rounds)} rounds\n")
    print("| a piece | without | recorded | slower | quartiles of the rounds |")
    print("|---|---|---|---|---|")
    slower = []
    for number, name in enumerate(("wall clock", "CPU time")):
        plain, taken = (1e3 * statistics.median(each[side][number] for each in rounds) for side in (0, 1))
        ratios = [100 * (recorded[number] / without[number] - 1) for without, recorded in rounds]
        first, median, third = statistics.quantiles(ratios, n=4)
        slower.append(median)
        print(f"| {name} | {plain:.1f} ms | {taken:.1f} ms | {median:+.1f} % | {first:+.1f} to {third:+.1f} % |")
    print(f"\ntarget: at most {TARGET:g} % by the wall clock")
    return int(slower[0] > TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
