"""Another revision of the application's repository, checked out for a moment."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zdmigrate.errors import UsageError

__all__ = ["checked_out", "moved_path"]


@contextmanager
def checked_out(revision: str, *, start: Path) -> Iterator[tuple[Path, Path]]:
    """A worktree of `revision`, removed afterwards; nothing of the repository's own worktree is touched.

    Yields:
        The root of the repository, and that of the worktree.

    Raises:
        UsageError: no git repository, or no such revision.
    """
    root = Path(_git(start, "rev-parse", "--show-toplevel", hint="--git needs a git repository"))
    commit = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}",
        hint=f"git knows no revision {revision!r} here; in CI fetch it first: git fetch --tags --unshallow",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="zdmigrate-git-") as name:
        worktree = Path(name).resolve() / "worktree"
        try:
            _git(root, "worktree", "add", "--detach", "--force", str(worktree), commit, hint="git worktree add failed")
            yield root, worktree
        finally:
            _remove(root, worktree)


def moved_path(environ: Mapping[str, str], *, root: Path, worktree: Path) -> dict[str, str]:
    """The environment for processes in the worktree: what of PYTHONPATH is in the repository, is in there."""
    entries = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    moved = [str(_moved(Path(entry), root, worktree)) for entry in entries]
    return {**environ, "PYTHONPATH": os.pathsep.join(moved)}


def _moved(entry: Path, root: Path, worktree: Path) -> Path:
    path = entry.resolve()
    return worktree / path.relative_to(root) if path.is_relative_to(root) else path


def _remove(root: Path, worktree: Path) -> None:
    """Also when it was not made whole; what git says of it does not matter then."""
    for command in (["worktree", "remove", "--force", str(worktree)], ["worktree", "prune"]):
        subprocess.run(["git", "-C", str(root), *command], capture_output=True, check=False)


def _git(where: Path, *command: str, hint: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(where), *command], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("git is not installed", hint="record that revision where it is checked out") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise UsageError(f"git {command[0]} failed" + (f": {said}" if said else ""), hint=hint)
    return done.stdout.strip()
