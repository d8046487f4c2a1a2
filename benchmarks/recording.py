"""What recording costs a test suite.

``python -m benchmarks.recording [--rounds 15] [--statements 3000]`` on a scratch server. A process of its own runs a suite of
ORM statements (inserts, selects, updates, a rollback after each test) and measures itself, without the recorder and with it,
in turn. The figure is the ratio of the medians of the CPU time of the process (its own work; the server's is the same), and of
the wall clock beside it, with the quartiles of the pairs. The exit status is 1 where recording makes the suite slower by more
than 5 % by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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

def test(session, number):
    user = User(name=f"name {number}", email=None if number % 3 else "x@example.org", score=number)
    session.add(user)
    session.flush()
    session.scalars(sa.select(User).where(User.name == user.name)).one()
    user.score += 1
    session.flush()
    session.execute(sa.select(User.id, User.score).where(User.id.in_(range(number % 9 + 1)))).all()
    session.execute(sa.text("SELECT count(*) FROM users WHERE score > :low"), {"low": number}).scalar_one()
    session.rollback()

engine = sa.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
rounds = int(sys.argv[2]) // 5
with Session(engine) as session:
    test(session, 0)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(rounds):
        test(session, number)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--statements", type=int, default=3_000)
    given = parser.parse_args()
    with (
        ScratchServer.start(find_binaries(max(available_majors()))) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        server.create_database("suite")
        command = [sys.executable, "-c", SUITE, server.url("suite", driver="psycopg"), str(given.statements)]
        pairs = []
        for number in range(given.rounds):
            recorded = _directory(Path(name) / str(number))
            once = {without: _measured(command, env) for without, env in _turns(recorded, number)}
            pairs.append((once[False], once[True]))
        statements = len(collect(Path(name) / "0").statements)
    return _report(pairs, given.statements, statements)


def _directory(path: Path) -> Path:
    path.mkdir()
    prepare(path, root=Path.cwd())
    return path


def _turns(recorded: Path, number: int) -> list[tuple[bool, Mapping[str, str]]]:
    """Whether it is recorded, and the environment for that; who goes first changes from round to round."""
    turns: list[tuple[bool, Mapping[str, str]]] = [(False, os.environ), (True, environment(recorded, os.environ))]
    return turns if number % 2 else turns[::-1]


def _measured(command: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def _report(pairs: list[tuple[tuple[float, float], tuple[float, float]]], executed: int, statements: int) -> int:
    print(f"{executed} statements of the ORM, {statements} different ones, {len(pairs)} rounds\n")
    print("| | without | recorded | slower | quartiles of the pairs |")
    print("|---|---|---|---|---|")
    slower = []
    for number, name in enumerate(("wall clock", "CPU time")):
        plain = [without[number] for without, _ in pairs]
        taken = [recorded[number] for _, recorded in pairs]
        first, _, third = statistics.quantiles((b / a for a, b in zip(plain, taken, strict=True)), n=4)
        ratio = statistics.median(taken) / statistics.median(plain)
        slower.append(100 * (ratio - 1))
        print(
            f"| {name} | {statistics.median(plain):.2f} s | {statistics.median(taken):.2f} s | {slower[-1]:+.1f} % "
            f"| {100 * (first - 1):+.1f} to {100 * (third - 1):+.1f} % |"
        )
    print(f"\ntarget: at most {TARGET:g} % by the wall clock")
    return int(slower[0] > TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
