"""One application: both releases' schemas and footprints, and two checks of the way between them."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg

from benchmarks.real_applications.applications import Application
from benchmarks.real_applications.environments import Environment
from zdmigrate.compat import checking
from zdmigrate.compat.checking import Checked, Pair
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.report import Run
from zdmigrate.compat.scratch import schemas
from zdmigrate.compat.walking import Walk
from zdmigrate.config import Config
from zdmigrate.phases import PHASES
from zdmigrate.postgres import shapes as catalog
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.shapes import Relation, Shapes
from zdmigrate.sqltext import ident

__all__ = ["Result", "Trial"]

_FIRST = "0000"
"""How the names of migrations begin that come before the checked ones."""
_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
_ACL = re.compile(r"^\S*=[a-zA-Z*]+/")
_RUN = "import sys; from zdmigrate.cli import main; sys.exit(main())"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one migration was found to be. `seconds` is the check alone."""

    application: Application
    way: str
    """``plain``: what the release's own revisions send, in one phase; ``emptied``: the same, when tables that they need
    empty are; ``phases``: our changes."""
    run: Run
    checked: Checked
    old: Footprint
    new: Footprint
    seconds: float
    drift: tuple[str, ...] = ()
    """What is not as the newer release's own upgrade leaves it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Everything about one application on one server. `folder` keeps environments, footprints and reports."""

    application: Application
    server: Scratch
    folder: Path
    report: Callable[[str], None]

    def results(self) -> Iterator[Result]:
        """The two checks, each when it is done."""
        old, new = (self._environment(version) for version in (self.application.old, self.application.new))
        self._database("old", lambda url: self._upgrade(old, url))
        captured = self.folder / f"{self.application.name}.sql.json"
        self._database("new", lambda url: self._upgrade(new, url, captured), template="old")
        pair = Pair(
            name=self.application.name,
            old=self._footprint(old, self.application.old, "old"),
            new=self._footprint(new, self.application.new, "new"),
        )
        sent = json.loads(captured.read_text(encoding="utf-8"))
        yield self._check("plain", self._plain("plain", sent), pair)
        if self.application.emptied:
            clearing = [f"DELETE FROM {ident(table)}" for table in self.application.emptied]
            yield self._check("emptied", self._plain("emptied", [*clearing, *sent]), pair)
        yield self._check("phases", self.application.folder / "migrations", pair)

    def _environment(self, version: str) -> Environment:
        found = Environment(folder=self.folder / f"{self.application.name}-{version}")
        self.report(f"{self.application.name} {version}: environment in {found.folder}")
        found.install(self.application.requirements(version))
        return found

    def _name(self, database: str) -> str:
        return f"{self.application.name}_{database}"

    def _database(self, name: str, fill: Callable[[str], None], *, template: str | None = None) -> None:
        name = self._name(name)
        self.report(f"{self.application.name}: database {name}")
        self.server.create_database(name, template=None if template is None else self._name(template))
        fill(self.server.url(name, driver="psycopg2"))

    def _upgrade(self, environment: Environment, url: str, captured: Path | None = None) -> None:
        script = str(self.application.folder / "upgrade.py")
        capturing = str(Path(__file__).with_name("capturing.py"))
        command = [script] if captured is None else [capturing, str(captured), script]
        environment.run(command, url=url, home=self._home())

    def _home(self) -> Path:
        home = self.folder / f"{self.application.name}.home"
        home.mkdir(exist_ok=True)
        return home

    def _footprint(self, environment: Environment, version: str, database: str) -> Footprint:
        out = self.folder / f"{self.application.name}-{version}.json"
        exercise = self.application.folder / "exercise.py"
        arguments = [
            "-c", _RUN, "record", "--models", self.application.models, "--application", self.application.name,
            "--version", version, "--out", str(out), "--", environment.python, str(exercise),
        ]  # fmt: skip
        self._database(
            f"{database}_used", lambda url: environment.run(arguments, url=url, home=self._home()), template=database
        )
        return Footprint.read(out)

    def _plain(self, way: str, statements: Sequence[str]) -> Path:
        """A migration that is nothing but the revisions' statements."""
        folder = self.folder / f"{self.application.name}.{way}"
        folder.mkdir(exist_ok=True)
        with psycopg.connect(self.server.conninfo(self._name("old"))) as connection:
            tables = connection.execute(_TABLES).fetchall()
        locks = {name: "ACCESS EXCLUSIVE" for (name,) in tables}
        change = f"RunSQL({statements!r}, rewrites=True, locks={locks!r})"
        text = f"from zdmigrate import Migration, RunSQL\n\nmigration = Migration({change})\n"
        (folder / "0001_plain.py").write_text(text, encoding="utf-8")
        return folder

    def _check(self, way: str, migrations: Path, pair: Pair) -> Result:
        self.report(f"{self.application.name}: check of the {way} way")
        config = Config(dir=migrations)
        ids = [path.stem for path in sorted(migrations.glob("[0-9]*.py"))]
        before = [id_ for id_ in ids if id_.startswith(_FIRST)]
        source = schemas.from_database(self.server.conninfo(self._name("old")), config=config)
        start = schemas.start(source, config=config, before=before)
        wanted = [id_ for id_ in ids if id_ not in before]
        began = time.perf_counter()
        checked = checking.check(self.server, start, config, wanted, [pair])
        seconds = time.perf_counter() - began
        return Result(
            application=self.application, way=way, run=checked.runs[0], checked=checked, old=pair.old, new=pair.new,
            seconds=seconds, drift=tuple(self._drift(start, config, wanted)) if way == "phases" else (),
        )  # fmt: skip

    def _drift(self, start: schemas.Start, config: Config, ids: Sequence[str]) -> list[str]:
        name = self._name("contracted")
        start(self.server, name)
        walk = Walk(dataclasses.replace(config, url=self.server.conninfo(name)), ids)
        walk.begin()
        for phase in PHASES[1:]:
            if (stopped := walk.advance(phase)) is not None:
                return [f"{stopped.migration} stops at {phase}: {stopped.message}"]
        # By the same road: a dump writes some conditions otherwise.
        upgraded = self._name("upgraded")
        schemas.start(schemas.from_database(self.server.conninfo(self._name("new")), config=config), config=config)(
            self.server, upgraded
        )
        return _differences(self._shapes(name), self._shapes(upgraded))

    def _shapes(self, database: str) -> Shapes:
        with psycopg.connect(self.server.conninfo(database), autocommit=True) as connection:
            return catalog.read(connection, control_schema="zdmigrate")


def _differences(ours: Shapes, theirs: Shapes) -> list[str]:
    found = []
    for name in sorted({*ours.relations, *theirs.relations}):
        here, there = ours.relations.get(name), theirs.relations.get(name)
        if here is None or there is None:
            found.append(f"{ident(*name)} is {'not there' if here is None else 'too much'}")
        elif difference := _parts(here) ^ _parts(there):
            found.append(f"{ident(*name)}: {'; '.join(sorted(map(str, difference)))}")
    return found


def _parts(relation: Relation) -> set[object]:
    """Without the order of columns, which nobody can choose for one that is added, and without privileges."""
    definition = (each for each in relation.definition if not _ACL.match(each))
    return {*relation.columns, *relation.references, *definition, ("key", relation.key), *relation.unique}
