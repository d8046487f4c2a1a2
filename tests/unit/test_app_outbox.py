"""What a delivery asks for, step by step; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from zdmigrate.app import AsyncDualWriter, DualWriter
from zdmigrate.app.outbox.delivery import Delivered, Read, Step, Transaction, Write, deliveries, drive
from zdmigrate.app.outbox.statements import ROLLBACK_TO, SAVEPOINT, Outbox, Sql

OUTBOX = Outbox("search", "out%box", "a?b", hold=35, longest=300, versions=False)
NAMED = {
    "savepoint": SAVEPOINT, "rollback to": ROLLBACK_TO, "now": OUTBOX.now(), "pick": OUTBOX.pick("1"),
    "seen": OUTBOX.seen("k"), "done": OUTBOX.done("[7]"), "changed": OUTBOX.changed(["k"]),
}  # fmt: skip


class Played:
    """A database in which one key is due, and what was asked of it. Steps that are in `wrong` raise."""

    def __init__(self, *wrong: str, seen: str | None = "[7]", version: str | None = None) -> None:
        self.steps: list[str] = []
        self.last_error = ""
        self._wrong = wrong
        self._answers = {"now": "1", "pick": json.dumps(["k", version, "35000"]), "seen": seen, "read": "truth"}

    def __call__(self, step: Step) -> Any:
        match step:
            case Transaction():
                name = step.value
            case Read():
                name = "read"
            case Write(_, value, version):
                name = f"write {value} {version}"
            case _:
                name = next((name for name, known in NAMED.items() if known == step), "failed")
        if name == "failed" and isinstance(step, Sql):
            self.last_error = step.values[2]
        self.steps.append(name)
        if name in self._wrong:
            raise RuntimeError(f"no {name}\0\ud800")
        return self._answers.pop(name, None)


BEGUN = ["begin", "now", "commit", "begin", "pick"]
READ = ["savepoint", "seen", "read", "rollback to"]
NONE_LEFT = ["begin", "pick", "commit"]


def test_nothing_is_held_during_the_call() -> None:
    played = Played()
    assert drive(deliveries(OUTBOX, set()), played) == Delivered(1)
    assert played.steps == [*BEGUN, *READ, "write truth None", "done", "commit", *NONE_LEFT]


def test_the_version_is_told() -> None:
    played = Played(version="12345678901234567890")
    drive(deliveries(OUTBOX, set()), played)
    assert "write truth 12345678901234567890" in played.steps


def test_what_somebody_else_was_done_with_is_left_alone() -> None:
    played = Played(seen=None)
    assert drive(deliveries(OUTBOX, set()), played) == Delivered()
    assert played.steps == [*BEGUN, "savepoint", "seen", "commit", *NONE_LEFT]


@pytest.mark.parametrize("wrong", ["read", "write truth None"])
def test_what_fails_is_kept_under_the_same_lock(wrong: str) -> None:
    played, doubtful = Played(wrong), set[str]()
    done = drive(deliveries(OUTBOX, doubtful), played)
    assert (done.delivered, done.failed) == (0, 1)
    assert done.error is not None
    assert done.error.startswith("k: RuntimeError: no ")
    call = [] if wrong == "read" else ["write truth None"]
    assert played.steps == [*BEGUN, *READ, *call, "failed", "commit", *NONE_LEFT]
    assert played.last_error == f"RuntimeError: no {wrong} ?", "text that the database takes"
    assert not doubtful


def test_a_call_of_which_nobody_could_be_told_is_made_again() -> None:
    doubtful = set[str]()
    with pytest.raises(RuntimeError, match="no done"):
        drive(deliveries(OUTBOX, doubtful), Played("done"))
    assert doubtful == {"k"}
    again = Played("changed")
    with pytest.raises(RuntimeError, match="no changed"):
        drive(deliveries(OUTBOX, doubtful), again)
    assert doubtful == {"k"}, "until it is in the outbox"
    again = Played()
    drive(deliveries(OUTBOX, doubtful), again)
    assert again.steps[:4] == ["begin", "changed", "now", "commit"]
    assert not doubtful


def test_it_ends_between_two_keys() -> None:
    played = Played()
    assert drive(deliveries(OUTBOX, set(), lambda: True), played) == Delivered()
    assert played.steps == BEGUN[:3]


def test_statements_for_every_kind_of_driver() -> None:
    statement = OUTBOX.changed(["a", "b", "a"])
    assert statement.formatted.startswith('INSERT INTO "a?b"."out%%box" (writer, key) SELECT CAST(%s AS text), ')
    assert statement.numbered.startswith('INSERT INTO "a?b"."out%box" (writer, key) SELECT CAST($1 AS text), ')
    assert statement.values == ["search", '["a", "b"]']


def nothing(*_: Any) -> None: ...


@pytest.mark.parametrize("kind", [DualWriter, AsyncDualWriter])
@pytest.mark.parametrize("wrong", [{"name": ""}, {"timeout": 0}, {"interval": -1}, {"longest_pause": 0}], ids=str)
def test_arguments_that_are_wrong_are_said_at_once(kind: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"writer needs a name|are seconds"):
        kind(**{"name": "search", "primary": nothing, "secondary": nothing} | wrong)


def test_targets_that_are_wrong_are_said_at_once() -> None:
    writer = DualWriter("search", primary=nothing, secondary=nothing)
    with pytest.raises(TypeError, match="AsyncDualWriter"):
        writer.start(create_async_engine("postgresql+asyncpg://"))
    with pytest.raises(TypeError, match="not 7"):
        writer.start(7)
    with pytest.raises(TypeError, match="keys are text"):
        writer.changed(Committing(), 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NUL"):
        writer.changed(Committing(), "a\0b")
    with pytest.raises(ValueError, match="needs a key"):
        writer.changed(Committing())


class Committing:
    autocommit = False


def test_importing_it_is_light() -> None:
    code = "import sys; from zdmigrate.app import DualWriter; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("sqlalchemy", "psycopg", "asyncio", "alembic"):
        assert f"'{heavy}'" not in done.stdout
