"""Migrations, and the directory that holds them: loading, checking, ordering, checksums, new files.

What is wrong in a file by itself is a `MigrationFileError` whose message starts with ``file:line: ``; whether it
fits the live catalog is the planner's business.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import hashlib
import heapq
import json
import re
import sys
import types
import unicodedata
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from zdmigrate.changes.base import Change
from zdmigrate.demands import ShadowReads
from zdmigrate.errors import MigrationFileError, UsageError

SYNC_MODES = ("trigger", "app")
_ID = re.compile(r"\w[\w.-]*")


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Migration:
    """What a migration file declares: changes that go through the phases together.

    Args:
        changes: one or more; each sees what those before it made. All of them go through the phases together.
        id: needed nowhere; if given, it must equal the file's stem.
        requires: ids of migrations that come before this one.
        sync: ``"trigger"``: the database keeps old and new shape equal; ``"app"``: the application writes both.
        shadow_reads: what applications must have compared before reads are switched; None for nothing.

    Raises:
        UsageError: there is no change, or an argument is wrong.
    """

    changes: tuple[Change, ...]
    id: str | None
    requires: tuple[str, ...]
    sync: str
    shadow_reads: ShadowReads | None

    def __init__(
        self,
        *changes: Change,
        id: str | None = None,  # noqa: A002  # it is what everybody calls it
        requires: Iterable[str] = (),
        sync: str = "trigger",
        shadow_reads: ShadowReads | None = None,
    ) -> None:
        object.__setattr__(self, "changes", changes)
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "requires", _checked_requires(requires))
        object.__setattr__(self, "sync", sync)
        object.__setattr__(self, "shadow_reads", shadow_reads)
        if sync not in SYNC_MODES:
            raise UsageError(f'sync must be "trigger" or "app", got {sync!r}')
        if shadow_reads is not None and not isinstance(shadow_reads, ShadowReads):
            raise UsageError(f"shadow_reads must be ShadowReads(…), got {shadow_reads!r}")
        if id is not None and not isinstance(id, str):
            raise UsageError(f"id must be a string, got {id!r}")
        _check_changes(changes)

    @property
    def checksum(self) -> str:
        """SHA-256 (hexadecimal) of what is declared: formatting, comments and the order in `requires` do not count."""
        declared: dict[str, Any] = {
            "changes": [change.describe() for change in self.changes],
            "requires": sorted(self.requires),
            "sync": self.sync,
        }
        if self.shadow_reads is not None:  # else files from before there was any keep their checksum
            declared["shadow_reads"] = dataclasses.asdict(self.shadow_reads)
        canonical = json.dumps(declared, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFile:
    """A loaded migration: its id, where it stands, and what it declares.

    `requires` may name ids that no file has (finished and deleted): the engine asks the database about those, and
    raises what `unknown_requirement` returns.
    """

    id: str
    path: Path
    title: str | None
    """The first line of the module's docstring."""
    migration: Migration
    requires_line: int = 1
    change_lines: tuple[int, ...] = ()

    def place(self, position: int | None) -> str:
        """``file:line`` of the change at `position`, for messages; the id where that is not known."""
        if position is None or position >= len(self.change_lines):
            return self.id
        return f"{_shown(self.path)}:{self.change_lines[position]}"

    @property
    def changes(self) -> tuple[Change, ...]:
        return self.migration.changes

    @property
    def requires(self) -> tuple[str, ...]:
        return self.migration.requires

    @property
    def sync(self) -> str:
        return self.migration.sync

    @property
    def shadow_reads(self) -> ShadowReads | None:
        return self.migration.shadow_reads

    @property
    def checksum(self) -> str:
        return self.migration.checksum

    @property
    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """What the steps of its plan may call, by reference."""
        return {name: function for change in self.changes for name, function in change.functions().items()}

    def unknown_requirement(self, required: str, *, known: Iterable[str] = ()) -> MigrationFileError:
        """The error for a `requires` that neither the directory nor the database knows."""
        return _error(
            self.path,
            self.requires_line,
            f"requires {required!r}, which is neither in this directory nor known to the database",
            hint=_did_you_mean(required, known),
        )


def load_directory(directory: Path, *, without: Container[str] = ()) -> list[MigrationFile]:
    """All migrations of a directory but those `without`, which are not executed: required ones first, then by id.

    Files whose names start with ``_`` or ``.`` are not migrations.

    Raises:
        UsageError: there is no such directory.
        MigrationFileError: a file is wrong, ids clash, or `requires` goes in circles.
    """
    paths = migration_paths(directory)
    _check_ids(paths)
    return ordered(load_file(path) for path in paths if path.stem not in without)


def migration_paths(directory: Path) -> list[Path]:
    """The files of a directory that are migrations, by name; nothing is executed.

    Raises:
        UsageError: there is no such directory.
    """
    if not directory.is_dir():
        raise UsageError(
            f"there is no migrations directory {_shown(directory)}",
            hint='write a first migration with `zdmigrate new "title"`, or name the directory with --dir',
        )
    return sorted(path for path in directory.glob("*.py") if path.name[0] not in "_." and path.is_file())


def load_file(path: Path) -> MigrationFile:
    """One migration file, executed in a module of its own that is not left in `sys.modules`.

    Raises:
        MigrationFileError: for whatever is wrong in it.
    """
    path = path.absolute()
    if not _ID.fullmatch(path.stem):
        raise _error(path, 1, f"{path.stem!r} cannot be an id: use letters, digits, _, - and .")
    tree, code = _compiled(path)
    namespace = _executed(path, code)
    if "migration" not in namespace:
        raise _error(path, 1, "it does not define `migration`", hint="migration = Migration(…), at the top level")
    migration = namespace["migration"]
    source = _Source(tree)
    if not isinstance(migration, Migration):
        raise _error(path, source.line, f"`migration` must be a Migration, not {_article(type(migration).__name__)}")
    if migration.id is not None and migration.id != path.stem:
        raise _wrong_id(path, source.argument_line("id"), migration.id)
    return MigrationFile(
        id=path.stem,
        path=path,
        title=(ast.get_docstring(tree) or "").partition("\n")[0].strip() or None,
        migration=migration,
        requires_line=source.argument_line("requires"),
        change_lines=tuple(source.change_line(i, source.line) for i in range(len(migration.changes))),
    )


def ordered(files: Iterable[MigrationFile]) -> list[MigrationFile]:
    """`files` in the order in which they are worked on: required ones first, else by id.

    Raises:
        MigrationFileError: `requires` goes in circles.
    """
    by_id = {file.id: file for file in files}
    sorter = graphlib.TopologicalSorter(
        {file.id: [required for required in file.requires if required in by_id] for file in by_id.values()}
    )
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1][::-1]  # graphlib lists it from the required one on
        first = by_id[cycle[0]]
        raise _error(first.path, first.requires_line, f"requires goes in a circle: {' -> '.join(cycle)}") from None
    ready = list(sorter.get_ready())
    heapq.heapify(ready)
    result: list[MigrationFile] = []
    while ready:
        name = heapq.heappop(ready)
        result.append(by_id[name])
        sorter.done(name)
        for follower in sorter.get_ready():
            heapq.heappush(ready, follower)
    return result


def find(migrations: Iterable[MigrationFile], prefix: str) -> MigrationFile:
    """The migration with this id, or the only one whose id starts so.

    Raises:
        UsageError: there is none, or several.
    """
    by_id = {migration.id: migration for migration in migrations}
    return by_id[find_id(by_id, prefix)]


def find_id(ids: Iterable[str], prefix: str) -> str:
    """The id that is `prefix`, or the only one that starts so.

    Raises:
        UsageError: there is none, or several.
    """
    ids = sorted(ids)
    if prefix in ids:
        return prefix
    matches = [candidate for candidate in ids if prefix and candidate.startswith(prefix)]
    match matches:
        case [only]:
            return only
        case []:
            raise UsageError(f"there is no migration {prefix!r}", hint=_did_you_mean(prefix, ids))
        case _:
            raise UsageError(f"{prefix!r} is the beginning of {len(matches)} ids: {_some(matches)}")


def new_file(directory: Path, title: str, now: datetime) -> Path:
    """Write an empty migration, named after the minute and the title; the directory is made if need be.

    Raises:
        UsageError: the title has no letter or digit, or the file is there already.
    """
    title = " ".join(title.split())
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:60].rstrip("_")
    if not slug:
        raise UsageError(f"the title {title!r} has no letter or digit to name a file after (a-z, 0-9)")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{now:%Y%m%d_%H%M}_{slug}.py"
    docstring = title.replace("\\", "\\\\").replace('"', '\\"')
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.format(docstring=f"{docstring}." if docstring[-1].isalnum() else docstring))
    except FileExistsError:
        raise UsageError(f"{_shown(path)} is there already") from None
    return path


_TEMPLATE = '''"""{docstring}"""

import sqlalchemy as sa

from zdmigrate import AddColumn, DropColumn, Migration, RenameColumn

migration = Migration(
    # Keep what this migration does, and delete the other lines and the imports that are not needed.
    # RenameColumn("users", "user_email", "email_address"),
    # AddColumn("users", sa.Column("nickname", sa.Text), backfill="split_part(email_address, '@', 1)"),
    # DropColumn("users", "legacy_note"),
)
'''


def _checked_requires(requires: Iterable[str]) -> tuple[str, ...]:
    if isinstance(requires, str):
        raise UsageError(f"requires must be a list of ids, not a string: write requires=[{requires!r}]")
    result = tuple(requires)
    for required in result:
        if not isinstance(required, str) or not _ID.fullmatch(required):
            raise UsageError(f"requires must be a list of ids, but holds {required!r}")
    return result


def _check_changes(changes: Sequence[object]) -> None:
    if not changes:
        raise UsageError(
            "the migration declares no change",
            hint="declare one inside Migration(…), for example RenameColumn(table, old, new), or delete the file",
        )
    for position, change in enumerate(changes, start=1):
        if not isinstance(change, Change):
            raise UsageError(f"argument {position} of Migration must be a change, not {change!r:.80}")


class _Source:
    """Where in a file the pieces of ``migration = Migration(…)`` stand."""

    def __init__(self, tree: ast.Module) -> None:
        self.line = 1
        self.call: ast.Call | None = None
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "migration" for target in targets):
                self.line = node.lineno
                value = getattr(node, "value", None)
                self.call = value if isinstance(value, ast.Call) else None

    def change_line(self, position: int, default: int) -> int:
        """Of the change at `position`; `default` where the source does not tell (``*changes``)."""
        args = self.call.args if self.call is not None else []
        if position >= len(args) or any(isinstance(arg, ast.Starred) for arg in args):
            return default
        return args[position].lineno

    def argument_line(self, name: str) -> int:
        """Of the keyword argument `name`, else of the assignment."""
        keywords = self.call.keywords if self.call is not None else []
        return next((keyword.value.lineno for keyword in keywords if keyword.arg == name), self.line)


def _compiled(path: Path) -> tuple[ast.Module, types.CodeType]:
    try:
        source = path.read_bytes()
        tree = ast.parse(source, filename=str(path))
        return tree, compile(tree, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise _error(path, 1, f"cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise _error(path, error.lineno or 1, f"syntax error: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; nested too deeply
        raise _error(path, 1, f"is not Python: {error}") from error


def _executed(path: Path, code: types.CodeType) -> dict[str, Any]:
    # The module has to be found in sys.modules while it runs: dataclasses look their annotations up there.
    name = f"zdmigrate migration {path.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    # So that modules beside the file can be imported: those whose names begin with _ are no migrations.
    here = str(path.parent)
    sys.path.append(here)
    try:
        exec(code, module.__dict__)  # noqa: S102  # migration files are programs
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    finally:
        sys.path.remove(here)
        del sys.modules[name]
    return module.__dict__


def _failed(path: Path, error: BaseException) -> MigrationFileError:
    line = _line_in(path, error)
    match error:
        case UsageError():
            return _error(path, line, error.message, hint=error.hint)
        case TypeError():
            return _error(path, line, str(error).replace(".__init__()", "()"))
        case _:
            return _error(path, line, f"{type(error).__name__}: {error}".rstrip(": "))


def _line_in(path: Path, error: BaseException) -> int:
    line = 1
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _check_ids(paths: Sequence[Path]) -> None:
    """Ids that differ only in case or normalisation are one file on other people's disks."""
    seen: dict[str, Path] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path.stem).casefold()
        if folded in seen:
            raise _error(path, 1, f"duplicate id: {path.stem!r} is {seen[folded].name} where case does not count")
        seen[folded] = path


def _wrong_id(path: Path, line: int, given: str) -> MigrationFileError:
    other = path.with_name(f"{given}.py")
    if other.is_file():
        return _error(path, line, f"duplicate id {given!r}: it is that of {other.name}", hint="leave id= out")
    return _error(path, line, f"id is {given!r}, but the file's name says {path.stem!r}", hint="leave id= out")


def _error(path: Path, line: int, message: str, *, hint: str | None = None) -> MigrationFileError:
    return MigrationFileError(f"{_shown(path)}:{line}: {message}", hint=hint)


def _shown(path: Path) -> Path:
    """Relative to the current directory where it is inside, as compilers do."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    import difflib

    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if nearest:
        return f"did you mean {' or '.join(nearest)}?"
    return f"there are {_some(known)}" if known else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
