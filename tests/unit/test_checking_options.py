"""What the options of a check's schema and servers become."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from zdmigrate import config
from zdmigrate.cli.checking_options import SERVERS, Serving, Starting, server_options, start_options
from zdmigrate.compat.scratch.project import Environment
from zdmigrate.compat.scratch.servers import KINDS
from zdmigrate.config import Check, Config
from zdmigrate.errors import ConfigError, ServerUnavailable, UsageError


def parsed(*args: str) -> tuple[Starting, Serving]:
    found: list[Any] = []

    @click.command()
    @start_options
    @server_options
    def command(*, starting: Starting, serving: Serving) -> None:
        found.extend((starting, serving))

    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    return found[0], found[1]


def test_options_arrive_as_two_objects() -> None:
    starting, serving = parsed(
        "--alembic", "alembic.ini@abc", "--app-role", "shop", "--extension", "citext", "--extension", "hstore", "--role",
        "ops", "--url-variable", "DB", "--driver", "asyncpg", "--server", "container", "--image", "postgres:15", "--image",
        "postgres:17", "--pg", "17",
    )  # fmt: skip
    assert starting == Starting(
        alembic="alembic.ini@abc", app_role="shop", extensions=("citext", "hstore"), roles=("ops",), url_variables=("DB",),
        driver="asyncpg",
    )  # fmt: skip
    assert serving == Serving(server="container", images=("postgres:15", "postgres:17"), pg=17)
    assert parsed() == (Starting(), Serving())


def test_the_option_wins_over_the_configuration() -> None:
    configured = Config(check=Check(dump="a.sql", app_role="shop", url_variables=("DB",), driver="psycopg2"))
    starting = Starting(metadata="app:Base", app_role="other")
    assert starting._chosen(configured) == ("metadata", "app:Base")
    assert starting.application(configured) == "other"
    assert starting.environment(configured) == Environment(variables=("DB",), driver="psycopg2")
    assert Starting()._chosen(configured) == ("dump", "a.sql")
    assert Starting()._chosen(Config()) == ("", "")


@pytest.mark.parametrize(
    ("starting", "check", "message"),
    [
        (Starting(dump="a", from_url="b"), Check(), "--dump and --from-url both"),
        (Starting(), Check(alembic="a", metadata="b"), r"check\.alembic and check\.metadata both"),
    ],
)
def test_two_sources_are_refused(starting: Starting, check: Check, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        starting.start(Config(check=check))


def test_the_applications_role_is_made_before_the_projects_own_migrations() -> None:
    assert Starting(alembic="a", app_role="shop", roles=("ops",))._roles(Config()) == ("ops", "shop")
    assert Starting(dump="a", app_role="shop")._roles(Config()) == ()


def test_urls_are_not_shown() -> None:
    starting, serving = Starting(from_url="postgresql://u:geheim@h/d"), Serving(server_url="postgresql://u:geheim@h/d")
    check = Check(from_url="postgresql://u:geheim@h/d", server_url="postgresql://u:geheim@h/d")
    assert "geheim" not in f"{starting} {serving} {check} {Config(check=check)}"


def test_the_kinds_of_servers_are_those_of_the_engine() -> None:
    assert SERVERS == KINDS
    for kind in KINDS:
        assert config.load(start=Path("/"), environ={"ZDMIGRATE_CHECK_SERVER": kind}).check.server == kind


def test_an_unknown_kind_is_refused() -> None:
    from zdmigrate.compat.scratch.servers import open_servers

    with pytest.raises(UsageError, match="no kind of server 'vm'"), open_servers(["vm"]):
        pass


def test_what_was_tried_is_said() -> None:
    from zdmigrate.compat.scratch.servers import open_servers

    with pytest.raises(ServerUnavailable) as caught, open_servers(["url", "local", "embedded"], major=99):
        pass
    lines = caught.value.message.splitlines()
    assert lines[0] == "no scratch server:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["url", "local", "embedded"]
    assert "no installation of PostgreSQL 99 was found" in lines[2]


def test_everything_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "zdmigrate.toml").write_text(
        """
        [check]
        alembic = "db/alembic.ini@abc"
        app_role = "shop"
        extensions = ["citext"]
        url_variables = ["DB", "OTHER"]
        server = "container"
        images = ["postgres:15", "postgres:17"]
        pg = 17
        """
    )
    found = config.load(start=tmp_path, environ={"ZDMIGRATE_CHECK_EXTENSIONS": "hstore, citext"}).check
    assert found == Check(
        alembic=str(tmp_path / "db/alembic.ini@abc"), app_role="shop", extensions=("hstore", "citext"),
        url_variables=("DB", "OTHER"), server="container", images=("postgres:15", "postgres:17"), pg=17,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('server = "vm"', r"check\.server: invalid enum value 'vm'"),
        ("pg = 14", r"check\.pg: expected int >= 15"),
        ("image = 1", r"check\.image: unknown key"),
        ("url_variables = []", r"check\.url_variables: "),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "zdmigrate.toml").write_text(f"[check]\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        config.load(start=tmp_path, environ={})


def test_parsing_imports_click_only() -> None:
    code = "import sys, zdmigrate.cli.checking_options; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("sqlalchemy", "psycopg", "docker", "testcontainers", "alembic", "msgspec"):
        assert f"'{heavy}'" not in done.stdout
