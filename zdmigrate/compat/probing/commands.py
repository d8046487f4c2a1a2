"""The project's own commands, its tests for example, run against the database of a state."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from zdmigrate.compat.report import Finding, Layer, State, Version
from zdmigrate.compat.scratch.project import Environment
from zdmigrate.errors import UsageError
from zdmigrate.postgres.scratch import Scratch

__all__ = ["Commands"]

_TAIL = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """A command line for either version. It finds the database as `environment` says; `directory` is where it runs.

    The variable ``ZDMIGRATE_PHASE`` names the state. A command that ends with another exit code than 0 is a finding.
    """

    lines: Mapping[Version, str]
    environment: Environment
    directory: Path
    report: Callable[[str], None] = lambda _: None

    def findings(self, server: Scratch, database: str, user: str, version: Version, state: State) -> Iterator[Finding]:
        """What the version's command has to say of a state; `database` is its own to change."""
        line = self.lines.get(version)
        if line is None:
            return
        self.report(f"{state}: {line}")
        variables = self.environment.of(server, database, user=user) | {"ZDMIGRATE_PHASE": state.phase.value}
        try:
            done = subprocess.run(
                shlex.split(line), env=variables, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"--run-{version}: {line} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-_TAIL:])
            yield Finding(
                version=version, state=state, layer=Layer.COMMAND, subject=line,
                message=f"exit code {done.returncode}; the end of its output:\n{tail}",
                remedy=f"run it alone with {self.environment.variables[0]} naming a database in this state",
            )  # fmt: skip
