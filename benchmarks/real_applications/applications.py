"""The applications: two releases each, what their environments need, and where their models are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

__all__ = ["APPLICATIONS", "Application"]

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A code base on PyPI. `folder` has three things for both releases, and runs in the environment of each:

    ``upgrade.py`` brings the database of ``DATABASE_URL`` to the release's schema, with the release's own means;
    ``exercise.py`` does what users do; ``migrations`` is what the newer release's revisions do, as zdmigrate has it.
    """

    name: str
    package: str
    old: str
    new: str
    models: str
    """The MODULE:ATTRIBUTE of `zdmigrate record --models`."""
    pins: tuple[str, ...] = ()
    """What else is installed, because the release itself does not say which versions it works with today."""

    emptied: tuple[str, ...] = ()
    """Tables that the newer release's revisions need empty: without them, the plain way is checked once more."""

    @property
    def folder(self) -> Path:
        """Where its scripts are."""
        return HERE / self.name

    def requirements(self, version: str) -> tuple[str, ...]:
        """What pip is given."""
        return (f"{self.package}=={version}", "psycopg2-binary", *self.pins)


APPLICATIONS = (
    Application(
        name="optuna", package="optuna", old="2.10.1", new="3.1.1", models="optuna.storages._rdb.models:BaseModel",
        pins=("SQLAlchemy<2", "setuptools<80"),
    ),
    Application(
        name="jupyterhub", package="jupyterhub", old="2.3.1", new="3.1.1", models="jupyterhub.orm:Base",
        pins=("SQLAlchemy<2", "setuptools<80"),
    ),
    Application(
        name="mlflow", package="mlflow", old="3.9.0", new="3.10.1", models="mlflow.store.db.utils:SqlExperiment",
    ),
    Application(
        name="airflow", package="apache-airflow-core", old="3.0.6", new="3.1.8",
        models="benchmarks.real_applications.airflow.models:base", pins=("asyncpg",), emptied=("deadline",),
    ),
)  # fmt: skip
