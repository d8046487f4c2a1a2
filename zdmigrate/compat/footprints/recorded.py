"""A footprint from whatever is there: models, a command, other footprints, the server's statistics."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from zdmigrate.compat.footprint import Footprint
from zdmigrate.errors import UsageError, ZdmigrateError
from zdmigrate.wording import counted

__all__ = ["Wanted", "footprint", "summary", "write"]

STDERR = 2
"""Where commands print: stdout is for the footprint."""

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The sources of one footprint. `url`: where pg_stat_statements is asked; `within`: where models must come from."""

    models: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    merge: tuple[Path, ...] = ()
    literals: bool = False
    application: str = ""
    version: str = ""
    url: str | None = dataclasses.field(default=None, repr=False)
    role: str | None = None
    within: Path | None = None


def footprint(wanted: Wanted, *, revision: str | None = None, report: Report = lambda _: None) -> Footprint:
    """All sources in one footprint. `report` is told what could not be recorded.

    Args:
        wanted: what to record.
        revision: of git: models and command are recorded there, in a process of its own.
        report: gets a line at a time.

    Raises:
        UsageError: there is no source, or one of them is wrong.
        CommandFailed: the command failed.
        ZdmigrateError: a source gave nothing.
    """
    if not (wanted.models or wanted.command or wanted.merge or wanted.url is not None):
        raise UsageError(
            "nothing to record from",
            hint="name models (--models myapp.models:Base), or a command (zdmigrate record -- pytest tests)",
        )
    found = Footprint(application=wanted.application, version=wanted.version)
    for part in _parts(wanted, revision, report):
        found = found.merged(part)
    return found


def _parts(wanted: Wanted, revision: str | None, report: Report) -> Iterator[Footprint]:
    yield from (Footprint.read(path) for path in wanted.merge)
    if wanted.url is not None:
        yield _counted(wanted.url, wanted.role)
    if revision is not None:
        yield _of_revision(wanted, revision)
        return
    for name in wanted.models:
        from zdmigrate.compat.footprints.models import mapped_tables

        yield Footprint.of(tables=mapped_tables(name, within=wanted.within))
    if wanted.command:
        yield _of_command(wanted, report)


def _of_command(wanted: Wanted, report: Report) -> Footprint:
    from zdmigrate.compat.recording.command import record_command

    found = record_command(wanted.command, literals=wanted.literals, stdout=STDERR)
    for remark in found.remarks:
        report(remark)
    return Footprint.of(statements=found.statements)


def _counted(url: str, role: str | None) -> Footprint:
    import psycopg

    from zdmigrate.compat.footprints.statistics import counted_statements
    from zdmigrate.postgres.url import conninfo

    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        return Footprint.of(statements=counted_statements(connection, role=role))


def _of_revision(wanted: Wanted, revision: str) -> Footprint:
    """What `zdmigrate record` gives in a worktree: the modules of this process are those of another revision."""
    from zdmigrate.compat.footprints.revisions import checked_out, moved_path

    if not (wanted.models or wanted.command):
        raise UsageError("--git needs --models or a command", hint="both are taken from that revision")
    here = Path.cwd().resolve()
    with checked_out(revision, start=here) as (root, worktree), tempfile.TemporaryDirectory() as name:
        out = Path(name) / "footprint.json"
        models = [word for model in wanted.models for word in ("--models", model)]
        call = [
            sys.executable, "-m", "zdmigrate", "record", "--out", str(out), "--within", str(worktree), *models,
            *(["--literals"] if wanted.literals else []), *(["--", *wanted.command] if wanted.command else []),
        ]  # fmt: skip
        directory = worktree / here.relative_to(root)
        if not directory.is_dir():
            raise UsageError(f"{revision} has no directory {here.relative_to(root)}", hint="call it from another one")
        env = moved_path(os.environ, root=root, worktree=worktree)
        done = subprocess.run(call, cwd=directory, env=env, stdout=STDERR, check=False)
        if done.returncode:
            failed = ZdmigrateError(f"{revision} could not be recorded", hint="the reason is above")
            failed.exit_code = done.returncode
            raise failed
        return Footprint.read(out)


def write(path: Path, data: bytes) -> None:
    """Write a footprint whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(data)
        os.chmod(file.name, 0o666 & ~_umask())  # noqa: PTH101
        os.replace(file.name, path)  # noqa: PTH105
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="--out names the file") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def summary(found: Footprint, data: bytes) -> str:
    """One line about a footprint."""
    of = " ".join(filter(None, (found.application, found.version))) or "the footprint"
    size = f"{len(data) / 1000:,.0f} kB" if len(data) >= 1000 else f"{len(data)} bytes"
    holds = f"{counted(len(found.tables), 'table')}, {counted(len(found.statements), 'statement')}"
    return f"{of}: {holds}, {size}, digest {found.digest[:12]}"
