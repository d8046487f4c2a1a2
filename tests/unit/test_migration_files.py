"""Migration files: what is loaded, in which order, under which checksum, and what their errors say."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from zdmigrate import RenameColumn
from zdmigrate.changes.base import Change, OneShot
from zdmigrate.errors import MigrationFileError, UsageError
from zdmigrate.migration import (
    Migration,
    find,
    find_id,
    load_directory,
    load_file,
    migration_paths,
    new_file,
)
from zdmigrate.planning.parts import ChangePlan, Scope, Target

HEAD = "from zdmigrate import AddColumn, DropColumn, Migration, RenameColumn\n"
RENAME = 'RenameColumn("users", "user_email", "email_address")'
NOW = datetime(2026, 11, 21, 14, 32, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Fake(Change):
    """Claims one column, and says so."""

    table: str
    column: str | None = None
    schema: str = "public"

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, self.column),)

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def plan(self, scope: Scope) -> ChangePlan:
        raise NotImplementedError

    def one_shot(self, scope: Scope) -> OneShot:
        raise NotImplementedError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


Write = Callable[..., Path]


@pytest.fixture
def write(directory: Path) -> Write:
    def write(name: str, body: str = f"migration = Migration({RENAME})\n", head: str = HEAD) -> Path:
        path = directory / f"{name}.py"
        path.write_text(head + body, encoding="utf-8")
        return path

    return write


def failure(call: Callable[[], object]) -> MigrationFileError:
    with pytest.raises(MigrationFileError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert "Traceback" not in caught.value.message
    return caught.value


def test_the_file_of_the_readme(directory: Path, write: Write) -> None:
    path = write(
        "20261121_1432_email_address",
        'from zdmigrate import Migration, RenameColumn\n\nmigration = Migration(\n    RenameColumn("users", '
        '"user_email", "email_address"),\n)\n',
        head='"""Rename users.user_email to users.email_address.\n\nBecause."""\n',
    )
    [loaded] = load_directory(directory)
    assert (loaded.id, loaded.path) == ("20261121_1432_email_address", path)
    assert loaded.title == "Rename users.user_email to users.email_address."
    assert loaded.changes == (RenameColumn("users", "user_email", "email_address"),)
    assert (loaded.requires, loaded.sync, loaded.migration.id) == ((), "trigger", None)


def test_what_is_not_a_migration_is_left_alone(directory: Path, write: Write) -> None:
    write("a")
    write("_helper", "raise RuntimeError\n")
    write(".hidden", "raise RuntimeError\n")
    (directory / "notes.txt").write_text("x")
    (directory / "sub.py").mkdir()
    assert [file.id for file in load_directory(directory)] == ["a"]
    assert [path.name for path in migration_paths(directory)] == ["a.py"]


def test_a_file_runs_in_a_module_of_its_own(directory: Path, write: Write) -> None:
    (directory / "names.txt").write_text("user_email email_address")
    write(
        "a",
        "from __future__ import annotations\nimport dataclasses\nfrom pathlib import Path\n" + HEAD + "\n"
        "@dataclasses.dataclass\nclass Names:\n    old: str\n    new: str\n\n"
        "names = Names(*(Path(__file__).parent / 'names.txt').read_text().split())\n"
        "migration: Migration = Migration(RenameColumn('users', names.old, names.new))\n",
        head='"""Title."""\n',
    )
    write("b", "assert 'names' not in globals()\nmigration = Migration(DropColumn('users', 'x'))\n")
    before = set(sys.modules)
    first, _ = load_directory(directory)
    assert first.changes == (RenameColumn("users", "user_email", "email_address"),)
    assert not [name for name in set(sys.modules) - before if "migration " in name or name in ("a", "b")]
    assert not list(directory.glob("__pycache__"))


def test_a_coding_cookie_and_a_byte_order_mark(directory: Path) -> None:
    text = f"{HEAD}migration = Migration(RenameColumn('t', 'straße', 'weg'))\n"
    (directory / "a.py").write_bytes(b"# coding: latin-1\n" + text.encode("latin-1"))
    (directory / "b.py").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = load_directory(directory)
    assert first.changes == second.changes == (RenameColumn("t", "straße", "weg"),)


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("migration = Migration(\n    RenameColumn('t', 'a' 'b',\n", 3, "syntax error: '(' was never closed"),
        ("x = 1\n\ny = 1 / 0\n", 4, "ZeroDivisionError: division by zero"),
        ("def f():\n    raise ValueError('no')\n\nf()\n", 3, "ValueError: no"),
        ("import json\njson.loads('{')\n", 3, "JSONDecodeError: Expecting property name"),
        ("import sys\nsys.exit('bye')\n", 3, "SystemExit: bye"),
        ("import zdmigrate_has_no_such_module\n", 2, "ModuleNotFoundError: No module named"),
        ("from zdmigrate import RenameEverything\n", 2, "ImportError: cannot import name 'RenameEverything'"),
        ("assert False\n", 2, "AssertionError"),
        ("migrations = Migration(DropColumn('t', 'a'))\n", 1, "it does not define `migration`"),
        ("x = 1\nmigration = 'rename'\n", 3, "`migration` must be a Migration, not a str"),
        ("migration = RenameColumn('t', 'a', 'b')\n", 2, "`migration` must be a Migration, not a RenameColumn"),
        ("migration = Migration()\n", 2, "the migration declares no change"),
        ("migration = Migration(\n    'x',\n)\n", 2, "argument 1 of Migration must be a change, not 'x'"),
        (
            "migration = Migration(\n\n    RenameColumn('t', 'a'),\n)\n",
            4,
            "RenameColumn() missing 1 required positional",
        ),
        ("migration = Migration(\n    DropColumn('t', 'a'),\n    DropColumn('t', ''),\n)\n", 4, "DropColumn"),
        (f"migration = Migration({RENAME}, sync='x')\n", 2, 'sync must be "trigger" or "app", got \'x\''),
        (f"migration = Migration({RENAME}, colour=1)\n", 2, "Migration() got an unexpected keyword argument 'colour'"),
        (f"migration = Migration({RENAME}, requires='a')\n", 2, "requires must be a list of ids, not a string"),
        (f"migration = Migration({RENAME}, requires=[3])\n", 2, "requires must be a list of ids, but holds 3"),
        (f"migration = Migration(\n  {RENAME},\n  id='other',\n)\n", 4, "id is 'other', but the file's name says 'a'"),
        ("migration = Migration(RenameColumn('t', 'a', 'b'), AddColumn('t', None))\n", 2, ""),
        ("x = '\0'\n", 1, ""),
        ("(" * 1000 + ")" * 1000, 2, "syntax error: too many nested parentheses"),
        ("def f(): f()\nf()\n", 2, "RecursionError: maximum recursion depth"),
    ],
)
def test_messages_start_with_file_and_line(write: Write, directory: Path, body: str, line: int, message: str) -> None:
    write("a", body)
    caught = failure(lambda: load_directory(directory))
    start = f"m{os.sep}a.py:{line}: "
    assert caught.message.startswith(start + message), caught.message
    assert "\n" not in caught.message


def test_a_file_elsewhere_is_named_in_full(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a", "x = 1\n")
    monkeypatch.chdir("/")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/nowhere"))
    assert failure(lambda: load_file(path)).message.startswith(f"{path}:1: ")


def test_ids_that_clash(directory: Path, write: Write) -> None:
    write("a")
    write("b", f"migration = Migration({RENAME}, id='a')\n")
    assert "b.py:2: duplicate id 'a': it is that of a.py" in failure(lambda: load_directory(directory)).message
    write("b", f"migration = Migration({RENAME}, id='b')\n")
    assert [file.id for file in load_directory(directory)] == ["a", "b"]
    write("A", "")
    if (directory / "A.py").samefile(directory / "a.py"):
        pytest.skip("the file system does not tell A.py from a.py")
    assert "a.py:1: duplicate id: 'a' is A.py where case" in failure(lambda: load_directory(directory)).message


@pytest.mark.parametrize("name", ["a b", "-a", "a;b", 'a"b'])
def test_names_that_are_no_ids(directory: Path, write: Write, name: str) -> None:
    write(name)
    assert f"{name}.py:1: {name!r} cannot be an id" in failure(lambda: load_directory(directory)).message


def test_required_ones_first_then_by_id(directory: Path, write: Write) -> None:
    write("a", f"migration = Migration({RENAME}, requires=['d'])\n")
    write("b")
    write("c", f"migration = Migration({RENAME}, requires=('a', 'gone'))\n")
    write("d")
    files = load_directory(directory)
    assert [file.id for file in files] == ["b", "d", "a", "c"]
    error = files[-1].unknown_requirement("gone", known=["gone_by", "x"])
    assert error.message.startswith(f"m{os.sep}c.py:2: requires 'gone', which is neither")
    assert error.hint == "did you mean gone_by?"


def test_circles(directory: Path, write: Write) -> None:
    write("a", f"migration = Migration(\n  {RENAME},\n  requires=['b'],\n)\n")
    write("b", f"migration = Migration(\n  {RENAME},\n  requires=['a'],\n)\n")
    message = failure(lambda: load_directory(directory)).message
    assert "requires goes in a circle: " in message
    assert message.startswith((f"m{os.sep}a.py:4: ", f"m{os.sep}b.py:4: "))
    write("a", f"migration = Migration({RENAME}, requires=['a'])\n")
    (directory / "b.py").unlink()
    assert failure(lambda: load_directory(directory)).message.endswith("a circle: a -> a")


def test_the_checksum_ignores_how_it_is_written(directory: Path, write: Write) -> None:
    def checksum(body: str) -> str:
        return load_file(write("a", body)).checksum

    plain = checksum(f"migration = Migration({RENAME}, requires=['x', 'y'])\n")
    assert len(plain) == 64
    assert plain == checksum(f"# why\nmigration = (Migration(\n  {RENAME},\n  id='a', requires=('y', 'x')))\n")
    others = {
        checksum(f"migration = Migration({RENAME})\n"),
        checksum(f"migration = Migration({RENAME}, requires=['x'])\n"),
        checksum(f"migration = Migration({RENAME}, requires=['x', 'y'], sync='app')\n"),
        checksum("migration = Migration(RenameColumn('users', 'user_email', 'mail'), requires=['x', 'y'])\n"),
        checksum(f"migration = Migration({RENAME}, DropColumn('t', 'x'), requires=['x', 'y'])\n"),
    }
    assert len(others) == 5
    assert plain not in others


def test_a_migration_is_a_value() -> None:
    assert Migration(Fake("t"), requires=["a"]) == Migration(Fake("t"), requires=("a",))
    assert Migration(Fake("t")) != Migration(Fake("t"), sync="app")
    assert hash(Migration(Fake("t"))) == hash(Migration(Fake("t")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Migration(Fake("t")).sync = "app"  # type: ignore[misc]


def test_find(directory: Path, write: Write) -> None:
    for name in ("20260101_a", "20260101_ab", "20260202_b"):
        write(name)
    files = load_directory(directory)
    assert find(files, "20260101_a").id == "20260101_a"
    assert find(files, "202602").id == "20260202_b"
    with pytest.raises(UsageError, match=r"'2026010' is the beginning of 2 ids: 20260101_a, 20260101_ab"):
        find(files, "2026010")
    with pytest.raises(UsageError, match="there is no migration '20260101_b'") as caught:
        find(files, "20260101_b")
    assert "20260101_a" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="there is no migration ''"):
        find_id([], "")


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no migrations directory") as caught:
        load_directory(tmp_path / "nope")
    assert "zdmigrate new" in (caught.value.hint or "")


def test_a_new_file(directory: Path) -> None:
    path = new_file(directory / "deeper", "email address", NOW)
    assert path == directory / "deeper" / "20261121_1432_email_address.py"
    untouched = failure(lambda: load_directory(path.parent))
    assert untouched.message.endswith("email_address.py:7: the migration declares no change")
    text = path.read_text()
    examples = [line for line in text.splitlines() if line.startswith("    # ") and line.endswith("),")]
    assert len(examples) == 3
    for example in examples:
        path.write_text(text.replace(example, "    " + example.removeprefix("    # ")))
        assert load_file(path).title == "email address."
    with pytest.raises(UsageError, match="is there already"):
        new_file(directory / "deeper", "Email-Address!", NOW)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Größe ändern", "20261121_1432_große_andern".replace("ß", "")),
        ('say "hi" \\ """', "20261121_1432_say_hi"),
        ("x" * 200, "20261121_1432_" + "x" * 60),
        ("../../etc", "20261121_1432_etc"),
        ("two\nlines", "20261121_1432_two_lines"),
    ],
)
def test_titles(directory: Path, title: str, name: str) -> None:
    path = new_file(directory, title, NOW)
    assert path == directory / f"{name}.py"
    path.write_text(path.read_text().replace("Migration(\n", f"Migration(\n    {RENAME},\n"))
    assert (load_file(path).title or "").rstrip(".") == " ".join(title.split())


def test_a_title_without_a_letter(directory: Path) -> None:
    with pytest.raises(UsageError, match="has no letter or digit"):
        new_file(directory, "!?", NOW)
    assert list(directory.iterdir()) == []
