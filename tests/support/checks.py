"""`zdmigrate.compat.checking.check` on a schema, a migration and footprints that a test makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.orm import DeclarativeBase

from tests.support.scratch import project, written
from zdmigrate.compat.checking import Pair, check
from zdmigrate.compat.footprint import Footprint, Statement
from zdmigrate.compat.footprints.models import tables_of
from zdmigrate.compat.report import Cell, Layer, Run, Version
from zdmigrate.compat.scratch import schemas
from zdmigrate.config import Config
from zdmigrate.demo.example import Example
from zdmigrate.postgres.servers import ScratchServer

NOTHING = Footprint()


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """A server, and a directory for files."""

    server: ScratchServer
    directory: Path

    def check(self, schema: str, changes: str, old: Footprint, new: Footprint, role: str | None = None) -> Run:
        """One migration of a schema; `changes` are the source text of the changes."""
        config = project(self.directory, m0001=changes)
        dump = written(self.directory / "schema.sql", schema)
        return self.run(config, dump, old, new, role)

    def run(self, config: Config, dump: Path, old: Footprint, new: Footprint, role: str | None = None) -> Run:
        """All migrations of a directory."""
        start = schemas.start(schemas.from_dump(dump), config=config)
        pair = Pair(name="app", old=old, new=new)
        (found,) = check(self.server, start, config, [], [pair], app_role=role).runs
        return found

    def example(self, example: Example) -> Run:
        """An example of migrations_examples/, with its own models."""
        old, new = of_models(example.old), of_models(example.new)
        return self.run(Config(dir=example.migrations), example.folder / "seed.sql", old, new)


def of_models(classes: Mapping[str, type[DeclarativeBase]]) -> Footprint:
    """What mapped classes of one base need."""
    return Footprint.of(tables=tables_of(next(iter(classes.values())).registry))


def of_statements(*texts: str, prepared: bool = True) -> Footprint:
    """Statements without parameters."""
    return Footprint.of(statements=(Statement(sql=text, prepared=prepared) for text in texts))


def told(run: Run) -> set[tuple[Version, Layer, str | None]]:
    """What counts against the versions where they should work."""
    return {(finding.version, finding.layer, finding.hazard) for finding in run.broken}


def clean(run: Run) -> list[str]:
    """What is wrong where the changes say that the versions work, for people: nothing, it is hoped."""
    lines = [
        f"{f.state} {f.version} {f.layer} {f.hazard}: {f.subject}: {f.message} [{f.statement}]" for f in run.broken
    ]
    return lines + [f"unproven {each.version}: {each.subject}: {each.reason}" for each in run.unproven]


def cells(run: Run) -> set[Cell]:
    """What is said of all states that exist, inside and outside of the windows."""
    return {run.cell(version, state) for version in Version for state in run.reached}
