"""kill -9 after any statement, then the same command again: the same end, and nothing to repair by hand.

A first run counts the round trips of each command. The default run then takes a seeded sample of them and the first
and last of every step; ``-m nightly`` takes every one of them. Each point is tried twice: with the process killed
when the answer had come, and when the statement was sent and the server went on alone.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import catalog_compare
from tests.support.processes import Forker, Site, until
from tests.support.servers import Database, connect
from zdmigrate.postgres.servers import ScratchServer

SCHEMA = """
CREATE TABLE org (id integer PRIMARY KEY);
CREATE TABLE users (
    id bigserial PRIMARY KEY,
    user_email text NOT NULL DEFAULT 'x',
    nickname varchar(40) NOT NULL,
    org integer REFERENCES org,
    country text REFERENCES country,
    balance numeric(12, 2) DEFAULT 1.5,
    CHECK (length(user_email) > 0),
    CHECK (user_email <> 'a' OR balance > 1),
    UNIQUE (user_email)
);
CREATE INDEX users_lower ON users (lower(user_email)) WHERE balance > 0;
CREATE INDEX ON users (org, user_email) INCLUDE (balance) WHERE user_email IS NOT NULL;
COMMENT ON COLUMN users.user_email IS 'where we write to';
GRANT SELECT (user_email) ON users TO PUBLIC;
INSERT INTO org VALUES (1);
INSERT INTO users (user_email, nickname, org) SELECT 'u' || g, 'n' || g, 1 FROM generate_series(1, 40) g;
"""
CHANGES = (
    'RenameColumn("users", "user_email", "email_address")',
    'RenameColumn("users", "country", "land")',
    'AddColumn("users", sa.Column("shown", sa.Text, nullable=False, server_default="?"), backfill="balance::text || id")',
    'DropColumn("users", "nickname")',
)
ID = "0001_everything"
OVERRIDES = ("--override", "old_reads_null=accepted")
DATA = "SELECT to_jsonb(u) - 'id' FROM users u ORDER BY id"
SEED, SAMPLE = 20261121, 12


@dataclass(frozen=True, slots=True)
class Command:
    """A command, what is done before it, and how many rows the backfills then have filled."""

    name: str
    args: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


COMMANDS = {
    "advance": Command("advance", ("advance", "--to", "contract", *OVERRIDES)),
    "revert": Command(
        "revert", ("revert", ID, "--to", "none", "--allow-lossy"), (("advance", "--to", "retire", *OVERRIDES),)
    ),
    "bootstrap": Command("bootstrap", ("bootstrap",)),
}


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A command that ran undisturbed: its statements with their steps, and what it left."""

    statements: list[tuple[str, str]]
    end: tuple[Any, ...]

    def boundaries(self) -> list[int]:
        """The first and the last statement of each step, counted from 1."""
        found: list[int] = []
        numbered = enumerate(self.statements, start=1)
        for step, group in itertools.groupby(numbered, key=lambda item: item[1][0]):
            numbers = [number for number, _ in group]
            found += [numbers[0], numbers[-1]] if step else []
        return sorted(set(found))

    def sample(self) -> list[int]:
        """A seeded sample, and every step's boundaries."""
        everything = range(1, len(self.statements) + 1)
        chosen = random.Random(SEED).sample(everything, min(SAMPLE, len(everything)))
        return sorted({*chosen, *self.boundaries()})


class Stage:
    """Databases that stand right before each command, and what each command leaves when nothing happens to it."""

    def __init__(self, server: ScratchServer, forker: Forker, directory: Path) -> None:
        self._server, self._forker, self._directory = server, forker, directory
        self._templates: dict[str, str] = {}
        self._rehearsals: dict[str, Rehearsal] = {}
        self._numbers = itertools.count(1)

    def site(self, command: Command) -> Site:
        """A fresh database in the state before the command."""
        if command.name not in self._templates:
            name = f"kill_{command.name}_template_{next(self._numbers)}"
            self._server.create_database(name)
            site = self._on(name)
            site.sql("CREATE TABLE country (code text PRIMARY KEY)", SCHEMA)
            site.write(ID, *CHANGES)
            site.init()
            for args in command.before:
                site.run(*args).expect(0)
            self._templates[command.name] = name
        name = f"kill_{command.name}_{next(self._numbers)}"
        self._server.create_database(name, self._templates[command.name])
        return self._on(name)

    def rehearsal(self, command: Command) -> Rehearsal:
        """The command without a kill."""
        if command.name not in self._rehearsals:
            site = self.site(command)
            trace = self._directory / f"{command.name}.json"
            site.run(*command.args, kill={"trace": str(trace)}).expect(0)
            statements = [(step, text) for step, text in json.loads(trace.read_text())]
            self._rehearsals[command.name] = Rehearsal(statements, end_of(site))
            self._server.drop_database(site.database.name)
        return self._rehearsals[command.name]

    def check(self, command: Command, number: int, when: str) -> None:
        """Kill the command at a statement, run it again, and compare."""
        rehearsal = self.rehearsal(command)
        step, text = rehearsal.statements[number - 1]
        site = self.site(command)
        killed = site.run(*command.args, kill={"at": number, "when": when})
        assert killed.code in (-9, 0), killed
        done = site.run(*command.args)
        shown = f"{command.name}, {when} statement {number} ({step}: {text[:200]})"
        assert done.code == 0, f"{shown}: {done.code}\n{done.out}\n{done.err}"
        assert end_of(site) == rehearsal.end, f"{shown}: {compare(end_of(site), rehearsal.end)}"
        self._server.drop_database(site.database.name)

    def _on(self, name: str) -> Site:
        return Site(self._forker, Database(self._server, name), self._directory)


def end_of(site: Site) -> tuple[Any, ...]:
    """Catalog, data and state."""
    with connect(site.database) as connection:
        catalog = catalog_compare.read(connection)
    state = site.rows(
        "SELECT id, phase, running, hold_reason, adopted, verified_at IS NOT NULL FROM zdmigrate.migration"
    )
    backfill = site.rows("SELECT step, rows, done FROM zdmigrate.backfill ORDER BY step")
    return catalog, site.rows(DATA), state, backfill


def compare(left: tuple[Any, ...], right: tuple[Any, ...]) -> str:
    lines = catalog_compare.difference(right[0], left[0])
    lines += [f"{b} -> {a}" for a, b in zip(left[1:], right[1:], strict=True) if a != b]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def stage(pg: ScratchServer, forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(pg, forker, tmp_path_factory.mktemp("kill"))


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_step_boundaries_and_a_sample(stage: Stage, name: str, part: int) -> None:
    command = COMMANDS[name]
    for position, number in enumerate(stage.rehearsal(command).sample()):
        if position % PARTS == part:
            # Which of the two variants is tried where is fixed by the seed too.
            stage.check(command, number, random.Random(SEED + number).choice(["after", "sent"]))


def test_the_sample_covers_every_step(stage: Stage) -> None:
    rehearsal = stage.rehearsal(COMMANDS["advance"])
    steps = {step for step, _ in rehearsal.statements if step}
    assert steps == {rehearsal.statements[number - 1][0] for number in rehearsal.boundaries()}
    assert len(steps) > 12


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(16))
@pytest.mark.parametrize("when", ["after", "sent"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_every_statement(
    stage: Stage, capsys: pytest.CaptureFixture[str], name: str, when: str, part: int
) -> None:
    command = COMMANDS[name]
    numbers = range(1 + part, len(stage.rehearsal(command).statements) + 1, 16)
    for number in numbers:
        stage.check(command, number, when)
    with capsys.disabled():
        print(f"\n{name}, killed {when} a statement: {len(numbers)} kill points, part {part + 1} of 16")


def test_a_killed_process_leaves_no_session_behind(stage: Stage) -> None:
    """What the checks above rest on: SIGKILL really ends a process in the middle."""
    command = COMMANDS["advance"]
    site = stage.site(command)
    number = len(stage.rehearsal(command).statements) // 2
    assert site.run(*command.args, kill={"at": number}).code == -9
    query = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'zdmigrate%%' AND datname = %s"
    until(lambda: site.value(query, site.database.name), "the server has noticed that the client is gone")
    assert site.value("SELECT phase <> 'contract' FROM zdmigrate.migration")
