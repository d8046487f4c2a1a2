"""The options that say where a check's schema and server come from, and what they mean. Imports click and nothing else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from zdmigrate.compat.scratch.project import Environment
    from zdmigrate.compat.scratch.schemas import Source, Start
    from zdmigrate.config import Config
    from zdmigrate.postgres.scratch import Scratch

F = TypeVar("F", bound=Callable[..., Any])

SERVERS = ("url", "container", "local", "embedded")
"""The values of `zdmigrate.compat.scratch.servers.KINDS`; a test compares them."""
_SOURCES = {"alembic": "--alembic", "dump": "--dump", "from_url": "--from-url", "metadata": "--metadata"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """What the options of `start_options` said; what they left out, the configuration's ``[check]`` says."""

    alembic: str | None = None
    alembic_x: tuple[str, ...] = ()
    dump: str | None = None
    from_url: str | None = dataclasses.field(default=None, repr=False)
    metadata: str | None = None
    app_role: str | None = None
    extensions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    url_variables: tuple[str, ...] = ()
    driver: str | None = None

    def start(self, config: Config, *, before: Sequence[str] = ()) -> Start:
        """Makes databases with the starting schema; `before` are the migrations that come before the checked ones."""
        from zdmigrate.compat.scratch import schemas

        return schemas.start(
            self._source(config), config=config, before=before, extensions=self.extensions or config.check.extensions,
            roles=self._roles(config),
        )  # fmt: skip

    def application(self, config: Config) -> str | None:
        """The name of the application's role, if somebody named it."""
        return self.app_role or config.check.app_role

    def environment(self, config: Config) -> Environment:
        """How the project's own commands learn where their database is."""
        from zdmigrate.compat.scratch.project import Environment

        variables = self.url_variables or config.check.url_variables
        return Environment(variables=variables, driver=self.driver or config.check.driver)

    def origin(self, config: Config) -> str | None:
        """The URL of the live database whose schema it is, if it is one's."""
        key, value = self._chosen(config)
        return value if key == "from_url" else None

    def _source(self, config: Config) -> Source:
        from zdmigrate.compat.scratch import schemas

        key, value = self._chosen(config)
        match key:
            case "alembic":
                ini, _, revision = (value, "", "") if Path(value).is_file() else value.rpartition("@")
                environment = self.environment(config)
                x = self.alembic_x or config.check.alembic_x
                return schemas.from_alembic(Path(ini or value), revision or "heads", environment=environment, x=x)
            case "dump":
                return schemas.from_dump(Path(value))
            case "from_url":
                return schemas.from_database(value, config=config)
            case "metadata":
                return schemas.from_metadata(value, environment=self.environment(config))
        return schemas.nothing

    def _chosen(self, config: Config) -> tuple[str, str]:
        """The one source, of the options or else of the configuration; empty: the migrations alone."""
        for place in (self, config.check):
            given = {key: value for key in _SOURCES if (value := getattr(place, key)) is not None}
            if len(given) > 1:
                names = " and ".join(_SOURCES[key] if place is self else f"check.{key}" for key in given)
                raise click.UsageError(f"{names} both say where the schema comes from: give one of them")
            for key, value in given.items():
                return key, value
        return "", ""

    def _roles(self, config: Config) -> tuple[str, ...]:
        """Those that are named, and the application's: a project's own migrations may grant rights to it."""
        named = self.roles or config.check.roles
        application = self.application(config)
        if application is None or self._chosen(config)[0] not in ("alembic", "metadata"):
            return named
        return (*named, application)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What the options of `server_options` said; what they left out, the configuration's ``[check]`` says."""

    server: str | None = None
    images: tuple[str, ...] = ()
    server_url: str | None = dataclasses.field(default=None, repr=False)
    pg: int | None = None

    def open(
        self, config: Config, *, like: str | None = None, report: Callable[[str], None] = lambda _: None
    ) -> AbstractContextManager[list[Scratch]]:
        """The servers. Their version is the one that is asked for, else that of the database `like` (default: the
        configured one), else the newest."""
        from zdmigrate.compat.scratch.servers import open_servers

        check = config.check
        kind, images, url = self.server, self.images, self.server_url
        if not (kind or images or url):
            kind, images, url = check.server, check.images, check.server_url
        major = self.pg or check.pg
        if major is None and not images and not url:
            major = _major_of(like or config.url, report)
        return open_servers(
            (kind,) if kind else (), images=images, url=url or check.server_url, major=major, report=report
        )


def selected(config: Config, prefixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ids that are meant, and those of the directory that come before them; without prefixes, none of either.

    Raises:
        UsageError: there is no such migration, or there are several.
    """
    from zdmigrate.migration import find_id, migration_paths

    here = [path.stem for path in migration_paths(config.dir)]
    chosen = [find_id(here, prefix) for prefix in prefixes]
    return chosen, [id_ for id_ in here if chosen and id_ < min(chosen)]


def _major_of(url: str, report: Callable[[str], None]) -> int | None:
    """The version of a database, so that the proof is against the real one; None where there is none, or no answer."""
    import psycopg

    from zdmigrate.postgres import url as urls

    if not url:
        return None
    conninfo = urls.conninfo(url)
    try:
        with psycopg.connect(conninfo, connect_timeout=5) as connection:
            return connection.info.server_version // 10000
    except psycopg.OperationalError:
        report(f"{urls.display(conninfo)} does not answer, so the check is not made for its version; --pg says which")
        return None


def start_options(function: F) -> F:
    """Where the starting schema comes from; the command gets it as `starting`, a `Starting`."""
    return _gathered(
        function,
        "starting",
        Starting,
        click.option("--alembic", metavar="INI[@REV]", help="Start with the schema of alembic upgrade REV (heads)."),
        click.option("--alembic-x", multiple=True, metavar="NAME=VALUE", help="What env.py gets as alembic -x. Repeatable."),
        click.option("--dump", metavar="FILE", help="Start with a file of SQL, as pg_dump writes it."),
        click.option("--from-url", metavar="URL", help="Start with a live database's catalog, without its rows."),
        click.option("--metadata", metavar="MODULE:ATTR", help="Start with metadata.create_all, in a process of its own."),
        click.option("--app-role", metavar="NAME", help="The application's role, with the schema's grants to it."),
        click.option("--extension", "extensions", multiple=True, metavar="NAME", help="Make it first. Repeatable."),
        click.option("--role", "roles", multiple=True, metavar="NAME", help="Make it first. Repeatable."),
        click.option(
            "--url-variable", "url_variables", multiple=True, metavar="NAME",
            help="Where the project looks for its URL (default: DATABASE_URL). Repeatable.",
        ),
        click.option("--driver", metavar="NAME", help="SQLAlchemy's driver in that URL: psycopg, psycopg2, asyncpg."),
    )  # fmt: skip


def server_options(function: F) -> F:
    """Where the check's servers come from; the command gets it as `serving`, a `Serving`."""
    return _gathered(
        function,
        "serving",
        Serving,
        click.option("--server", type=click.Choice(SERVERS), help="Only this kind of server (default: the first that works)."),
        click.option(
            "--image", "images", multiple=True, metavar="IMAGE",
            help="A container of this image, as postgres:17. Several are a matrix of versions.",
        ),
        click.option("--server-url", metavar="URL", help="A server where databases may be made, and dropped again."),
        click.option("--pg", type=click.IntRange(min=15), metavar="MAJOR", help="Its version (default: the database's)."),
    )  # fmt: skip


def _gathered(function: F, name: str, kind: type[Any], *options: Callable[[Any], Any]) -> F:
    """Options whose values arrive as one object."""
    fields = [field.name for field in dataclasses.fields(kind)]

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        return function(**{name: kind(**{field: values.pop(field) for field in fields})}, **values)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]
