"""Every example runs: through all phases, with the models of the version that each phase is for."""

from __future__ import annotations

import importlib.util
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.support.servers import Database, connect
from zdmigrate.config import Config
from zdmigrate.engine.project import Project
from zdmigrate.phases import PHASES, Phase

EXAMPLES = Path(__file__).parents[2] / "migrations_examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/seed.sql"))


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row_of(model: Any, number: int) -> Any:
    values: dict[str, Any] = {
        column.name: f"{number}@example.org" for column in model.__table__.columns if column.name != "id"
    }
    if "locale" in values:
        values["locale"] = "fr"
    return model(**values)


def write_and_read(engine: sa.Engine, module: ModuleType, number: int) -> None:
    """Insert, read back and change a row as an application of that version does."""
    with Session(engine) as session:
        row = row_of(module.User, number)
        session.add(row)
        session.commit()
        found = session.get_one(module.User, row.id)
        found.name = "renamed"
        session.commit()
        assert session.get_one(module.User, row.id).name == "renamed"
        assert len(session.scalars(sa.select(module.User)).all()) >= 500


@pytest.mark.parametrize("folder", FOLDERS)
def test_both_versions_work_in_their_windows(folder: str, database: Database) -> None:
    example = EXAMPLES / folder
    old, new = loaded(example / "models_old.py"), loaded(example / "models_new.py")
    with connect(database) as connection:
        connection.execute((example / "seed.sql").read_bytes())
    config = Config(url=database.conninfo, dir=example / "migrations", lock_budget=timedelta(seconds=20))
    engine = sa.create_engine(database.sqlalchemy_url)
    with Project.open(config, report=lambda _: None) as project:
        project.init(environment="development", app_role=None, confirmed=True)
        (plan,) = project.plan([])
        for number, phase in enumerate(PHASES[1:]):
            assert project.advance([], target=phase).exit_code == 0
            if phase.position <= plan.window.old_until.position:
                write_and_read(engine, old, 2 * number)
            if phase.position >= plan.window.new_from.position:
                write_and_read(engine, new, 2 * number + 1)
        (status,) = project.status([]).migrations
        assert status.phase is Phase.CONTRACT
    engine.dispose()


def test_the_index_is_current() -> None:
    assert (EXAMPLES / "README.md").read_text(encoding="utf-8") == loaded(EXAMPLES / "index.py").index()
