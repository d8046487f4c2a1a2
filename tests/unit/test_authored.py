"""RunSQL and RunPython: what they plan, what they refuse, and what a checksum of a function is about."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zdmigrate import Migration, Phase, RunPython, RunSQL, schema
from zdmigrate.changes.base import Change
from zdmigrate.engine import planned
from zdmigrate.errors import MigrationFileError, UsageError
from zdmigrate.migration import MigrationFile, load_file
from zdmigrate.plan import Direction, Mode, Plan, Step
from zdmigrate.planning import planner
from zdmigrate.sqltext import statements


def plan(*changes: Change) -> Plan:
    file = MigrationFile(id="0001", path=Path("0001.py"), title=None, migration=Migration(*changes))
    snapshot = schema.Snapshot(server_version=170000, role="app", may_suppress_triggers=False, tables=())
    return planner.plan(file, snapshot)


def steps(*changes: Change) -> list[Step]:
    return list(plan(*changes).steps())


# RunSQL.


def test_both_ends_and_the_way_back() -> None:
    made = plan(RunSQL("CREATE TABLE a (b int); SELECT 1;", contract="DROP TABLE c", revert="DROP TABLE a"))
    expand, contract = made.steps()
    assert expand.do == ("CREATE TABLE a (b int)", "SELECT 1")
    assert (expand.undo, expand.undo_mode, expand.irreversible) == (("DROP TABLE a",), Mode.TRANSACTION, False)
    assert (contract.phase, contract.takes_away, contract.irreversible) == (Phase.CONTRACT, True, True)
    assert expand.is_recorded
    assert contract.is_recorded
    assert (made.window.old_until, made.window.new_from) == (Phase.RETIRE, Phase.EXPAND)
    assert [gate.name for gate in made.phase(Phase.CONTRACT).gates] == ["retire_soak", "drained"]
    assert [gate.direction for gate in made.phase(Phase.EXPAND).gates] == [Direction.BACKWARD]
    assert (made.automatic_target, made.undoable_until) == (Phase.RETIRE, Phase.RETIRE)


def test_without_revert_it_is_irreversible_and_with_an_empty_one_it_is_not() -> None:
    assert plan(RunSQL("SELECT 1")).automatic_target is Phase.NONE
    assert plan(RunSQL("SELECT 1")).undoable_until is Phase.NONE
    assert plan(RunSQL("SELECT 1", revert=[])).automatic_target is Phase.CONTRACT
    (step,) = steps(RunSQL("SELECT 1", revert=[]))
    assert (step.undo, step.irreversible) == ((), False)


def test_what_takes_nothing_away_waits_for_nobody() -> None:
    made = plan(RunSQL(contract="DROP TYPE mood", takes_away=False))
    assert made.phase(Phase.CONTRACT).gates == ()
    assert (made.window.old_until, made.window.new_from) == (Phase.CONTRACT, Phase.NONE)


def test_a_probe_is_a_query_of_the_first_step() -> None:
    expand, contract = steps(RunSQL("SELECT 1", contract="SELECT 2", probe="SELECT true;"))
    assert expand.probe == "SELECT CASE WHEN (SELECT true) THEN 'done' ELSE 'todo' END"
    assert contract.is_recorded
    (only,) = steps(RunSQL(contract="SELECT 2", probe="SELECT true"))
    assert "SELECT true" in only.probe


def test_locks_and_tables_by_any_name() -> None:
    change = RunSQL(
        "SELECT 1", locks=[("users", "share"), ("sales.orders", "ACCESS  EXCLUSIVE"), (("a b", "c.d"), "EXCLUSIVE")],
        tables=["users", ("a b", "c.d")],
    )  # fmt: skip
    assert [(lock.schema, lock.name, lock.mode) for lock in change.locks] == [
        ("public", "users", "SHARE"), ("sales", "orders", "ACCESS EXCLUSIVE"), ("a b", "c.d", "EXCLUSIVE"),
    ]  # fmt: skip
    assert [str(target) for target in change.targets()] == ["public.users", "a b.c.d"]
    assert plan(change).touches == ("public.users", "a b.c.d")


def test_a_plan_survives_being_stored() -> None:
    made = plan(RunSQL("SELECT '{table} 100%'", revert=[], locks={"users": "SHARE"}), RunPython(fill, revert=[]))
    assert msgspec.json.decode(msgspec.json.encode(made.to_json()), type=Plan) == made


def test_its_own_renames_are_nobody_elses() -> None:
    (step,) = steps(RunSQL("ALTER TABLE t RENAME TO u", revert=[]))
    assert not step.renames


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "nothing to run"),
    "empty": ({"expand": " "}, "must be a statement"),
    "a comment": ({"expand": ["SELECT 1", "-- none"]}, "must be a statement"),
    "no text": ({"expand": [1]}, "must be a statement"),
    "no list": ({"expand": 1}, "must be a statement"),
    "commit": ({"expand": "SELECT 1; COMMIT"}, "transactions are zdmigrate's"),
    "begin": ({"expand": "/* a */ begin"}, "transactions are zdmigrate's"),
    "savepoint": ({"contract": "SAVEPOINT a"}, "transactions are zdmigrate's"),
    "two-phase": ({"expand": "PREPARE TRANSACTION 'x'"}, "transactions are zdmigrate's"),
    "session": ({"expand": "SET lock_timeout = 0"}, "about the session"),
    "copy": ({"expand": "COPY a FROM STDIN"}, "about the session"),
    "concurrently": ({"expand": "CREATE INDEX CONCURRENTLY ON a (b)"}, "cannot run in a transaction"),
    "vacuum": ({"expand": "vacuum a"}, "cannot run in a transaction"),
    "database": ({"expand": "CREATE DATABASE a"}, "cannot run in a transaction"),
    "no probe": ({"expand": "VACUUM a", "autocommit": True}, "needs a probe"),
    "two ends": ({"expand": "VACUUM", "contract": "VACUUM", "autocommit": True, "probe": "SELECT 1"}, "one probe"),
    "a lock": (
        {"expand": "VACUUM a", "autocommit": True, "probe": "SELECT true", "locks": {"a": "SHARE"}}, "held briefly",
    ),
    "alter": ({"expand": "ALTER TABLE a ADD b int", "autocommit": True, "probe": "SELECT true"}, "nobody checks"),
    "full": ({"expand": "VACUUM (FULL) a", "autocommit": True, "probe": "SELECT true"}, "nobody checks"),
    "only back": ({"contract": "SELECT 1", "revert": "SELECT 1"}, "contract cannot be undone"),
    "probe": ({"expand": "SELECT 1", "probe": "DELETE FROM a"}, "probe must be one query"),
    "probes": ({"expand": "SELECT 1", "probe": "SELECT 1; SELECT 2"}, "probe must be one query"),
    "mode": ({"expand": "SELECT 1", "locks": {"a": "EXTREME"}}, "there is no lock 'EXTREME'"),
    "locks": ({"expand": "SELECT 1", "locks": "a"}, "locks must be a mapping"),
    "pairs": ({"expand": "SELECT 1", "locks": ["a"]}, "a pair of table and mode"),
    "table": ({"expand": "SELECT 1", "tables": ["a."]}, "a table is"),
    "tables": ({"expand": "SELECT 1", "tables": "a"}, "tables must be a list"),
    "taken away": ({"expand": "SELECT 1", "takes_away": True}, "only contract may take something away"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_at_once(name: str) -> None:
    arguments, said = REFUSED[name]
    with pytest.raises(UsageError, match=said):
        RunSQL(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL work_mem = '1GB'", "SET CONSTRAINTS ALL DEFERRED", "REFRESH MATERIALIZED VIEW CONCURRENTLY a",
        "SELECT 'COMMIT'; SELECT $$ COMMIT; $$", "SELECT system FROM a", "DO $x$ BEGIN PERFORM 1; END $x$",
    ],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    assert RunSQL(text).expand


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("a; b ;; -- c\n", ["a", "b"]),
        ("SELECT ';', \";\", $$;$$ /* ; */", ["SELECT ';', \";\", $$;$$ /* ; */"]),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO (a; b); c", ["CREATE RULE r AS ON INSERT TO t DO ALSO (a; b)", "c"]),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; c",
            ["CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", "c"],
        ),
        ("SELECT (1; b", ["SELECT (1; b"]),
        ("SELECT CASE WHEN a THEN b END; c", ["SELECT CASE WHEN a THEN b END", "c"]),
    ],
)
def test_scripts_in_statements(script: str, parts: list[str]) -> None:
    assert list(statements(script)) == parts


# RunPython.


def fill(connection: Any) -> None:
    """A function at the top level."""
    connection.execute("SELECT 1")


async def waiting(connection: Any) -> None:
    """A function that nobody awaits."""


def two(connection: Any, other: Any) -> None:
    """A function of too much."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nothing to call"),
        ({"expand": lambda _: None}, "at the top level"),
        ({"expand": functools.partial(fill)}, "must be a function of the migration file"),
        ({"expand": "fill"}, "must be a function of the migration file"),
        ({"expand": waiting}, "is async"),
        ({"expand": two}, "must take one argument"),
        ({"contract": fill, "revert": fill}, "contract cannot be undone"),
        ({"expand": fill, "revert": [1]}, "must be a function of the migration file"),
        ({"expand": fill, "takes_away": True}, "only contract"),
        ({"expand": fill, "locks": {"a": "?"}}, "there is no lock"),
    ],
    ids=str,
)
def test_functions_that_a_plan_cannot_hold(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RunPython(**arguments)


def test_a_function_in_a_function() -> None:
    def inner(connection: Any) -> None:
        fill(connection)

    with pytest.raises(UsageError, match="at the top level"):
        RunPython(inner)


def test_the_plan_holds_a_reference() -> None:
    change = RunPython(fill, contract=fill, revert=[])
    expand, contract = steps(change)
    assert (expand.mode, contract.mode, expand.undo, expand.irreversible) == (Mode.PYTHON, Mode.PYTHON, (), False)
    assert change.functions() == {expand.do[0]: fill}
    assert plan(change).to_sql().count("-- fill(connection)") == 2


FILE = """
'''A title.'''
from zdmigrate import Migration, RunPython

SIZE = 10
OTHER = 1

def batches(connection):
    return range(SIZE)

def unrelated(connection):
    return OTHER

def go(connection):
    for batch in batches(connection):
        connection.execute("SELECT 1")
        print(f"{batch:>3} of " f"{SIZE}", end="")

migration = Migration(RunPython(go, revert=[]))
"""


def checksum(path: Path, source: str) -> str:
    path.write_text(textwrap.dedent(source))
    return load_file(path).checksum


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("# nothing", "# nothing", False),
        ("'''A title.'''", "'''Another title.'''\n\n# and a comment", False),
        ('connection.execute("SELECT 1")', "connection.execute(\n            'SELECT 1',\n        )", False),
        ("OTHER = 1", "OTHER = 2", False),
        ("return OTHER", "return 7", False),
        ("SELECT 1", "SELECT 2", True),
        ("SIZE = 10", "SIZE = 11", True),
        ("return range(SIZE)", "return range(3)", True),
        ("revert=[]", "revert=None", True),
    ],
)
def test_what_the_checksum_is_about(tmp_path: Path, before: str, after: str, *, counts: bool) -> None:
    path = tmp_path / "0001_go.py"
    assert (checksum(path, FILE) != checksum(path, FILE.replace(before, after))) is counts


def test_the_digest_is_the_same_on_every_python(tmp_path: Path) -> None:
    """A deployment may plan on one and advance on another."""
    path = tmp_path / "0001_go.py"
    path.write_text(FILE)
    (reference,) = load_file(path).functions
    assert reference == "go@5c859c11a638f3f1"


def test_a_helper_module_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "_helpers_of_a_test.py").write_text("def go(connection):\n    return 1\n")
    path = tmp_path / "0001_go.py"
    path.write_text(
        "from _helpers_of_a_test import go\nfrom zdmigrate import Migration, RunPython\n"
        "migration = Migration(RunPython(go))\n"
    )
    assert load_file(path).functions


def test_a_wrong_function_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "0001_go.py"
    path.write_text("from zdmigrate import Migration, RunPython\n\nmigration = Migration(RunPython(lambda c: None))\n")
    with pytest.raises(
        MigrationFileError, match=r"0001_go.py:3: RunPython: expand must be a function at the top level"
    ):
        load_file(path)


# Two in flight.


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        ("public.users", "public.users", True), ("public.users", "public.users.email", True),
        ("public.users: users_email_key", "public.users", True), ("public.users", "public.users_old.email", False),
        ("public.users.email", "public.users.email_old", False), ("public.users.email", "public.users: email", False),
    ],
)  # fmt: skip
def test_a_claim_of_a_whole_table(mine: str, theirs: str, *, shared: bool) -> None:
    for one, other in ((mine, theirs), (theirs, mine)):
        found = {*planned._within({one}, {other}), *planned._within({other}, {one})}
        assert bool(found) is shared


def test_the_fields_of_a_step_have_defaults() -> None:
    """A stored plan of an older version is read."""
    stored = plan(RunSQL("SELECT 1", revert=[])).to_json()
    for phase in stored["phases"]:
        for step in phase["steps"]:
            del step["authored"]
    assert not next(msgspec.json.decode(msgspec.json.encode(stored), type=Plan).steps()).authored
    assert {field.name for field in dataclasses.fields(Step)} >= {"authored"}
