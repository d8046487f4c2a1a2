"""Containers as a check's servers: a matrix of versions, and nothing left however the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.test_check_servers import owner
from tests.support.processes import until
from tests.support.scratch import connected, project, rows, written
from zdmigrate.compat.scratch import containers, roles, schemas
from zdmigrate.compat.scratch.servers import open_servers
from zdmigrate.errors import ServerUnavailable

pytestmark = pytest.mark.containers

_NO_RYUK = {"TESTCONTAINERS_RYUK_DISABLED": "true"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(containers.engine())
        except ServerUnavailable as error:
            pytest.skip(error.message)


@pytest.fixture(scope="module")
def images(engine: Any) -> list[str]:
    """Those that are there, one for each version; where there is none, one that may be pulled."""
    tags = {tag for image in engine.images.list(name="postgres") for tag in image.tags}
    found = sorted(tag for tag in tags if tag.removeprefix("postgres:").isdecimal())
    if not found:
        try:
            containers._have(engine, "postgres:17")
        except ServerUnavailable as error:
            pytest.skip(error.message)
    return found or ["postgres:17"]


def ours(engine: Any, pid: int) -> list[Any]:
    """The containers of a process, running or not."""
    found = engine.containers.list(all=True, filters={"label": containers._LABEL}, ignore_removed=True)
    return [each for each in found if each.labels[containers._LABEL].split("/")[2] == str(pid)]


def test_several_images_are_a_matrix_of_versions(engine: Any, images: list[str], tmp_path: Path) -> None:
    dump = written(
        tmp_path / "schema.sql",
        "CREATE TABLE t (id int); ALTER TABLE t OWNER TO postgres; GRANT SELECT ON t TO shop_app;",
    )
    with open_servers(images=images) as servers:
        assert [server.major for server in servers] == [int(image.partition(":")[2]) for image in images]
        for server in servers:
            assert server.label.startswith(f"PostgreSQL {server.major}.")
            assert rows(server, "postgres", "SHOW fsync") == ["off"]
            schemas.start(schemas.from_dump(dump), config=project(tmp_path))(server, "start")
            with connected(server, "start") as connection:
                assert roles.migrating_role(connection) == "postgres"
                assert roles.application_role(connection) == "shop_app"
            server.create_database("copy", template="start")
            assert rows(server, "copy", "SELECT count(*) FROM t", "shop_app") == [0]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                rows(server, "copy", "DELETE FROM t RETURNING id", "shop_app")
            server.drop_database("copy")
        assert len(ours(engine, os.getpid())) == len(images)
    assert ours(engine, os.getpid()) == []


def test_an_exception_removes_the_containers(engine: Any, images: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), open_servers(images=images[:1]):
        raise ZeroDivisionError
    assert ours(engine, os.getpid()) == []


def test_an_image_that_cannot_be_had_is_named(engine: Any) -> None:
    image = "localhost:1/nowhere/postgres:17"
    with (
        pytest.raises(ServerUnavailable, match="container: the image localhost:1/nowhere"),
        open_servers(images=[image]),
    ):
        pass


def test_a_server_that_does_not_start_shows_its_log(
    engine: Any, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(containers._SETTINGS, "wal_level", "wrong")
    with pytest.raises(ServerUnavailable, match='invalid value for parameter "wal_level": "wrong"'):  # noqa: SIM117
        with open_servers(images=images[:1]):
            pass
    assert ours(engine, os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_an_interrupted_process_removes_its_container(engine: Any, images: list[str], number: signal.Signals) -> None:
    with owner(kind="container", images=images[0]) as (process, said):
        said()
        assert len(ours(engine, process.pid)) == 1
        process.send_signal(number)
        process.wait(timeout=60)
    assert ours(engine, process.pid) == []


def test_a_process_interrupted_while_its_container_starts_removes_it(engine: Any, images: list[str]) -> None:
    with owner(kind="container", images=images[0]) as (process, _):
        until(lambda: ours(engine, process.pid), "the container is made")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert ours(engine, process.pid) == []


def test_the_container_of_a_killed_process_is_removed_by_the_next_one_and_no_other(
    engine: Any, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*next(iter(_NO_RYUK.items())))
    with owner(kind="container", images=images[0]) as (alive, said_alive):
        said_alive()
        with owner(kind="container", images=images[0]) as (killed, said):
            said()
            killed.kill()
            killed.wait(timeout=60)
        left = [each.short_id for each in ours(engine, killed.pid)]
        told: list[str] = []
        containers.remove_dead(engine, report=told.append)
        # Another worker of this test run may have been the next one.
        assert {*told} <= {f"removed the container {each}, which a check that was killed had left" for each in left}
        assert ours(engine, killed.pid) == []
        assert len(ours(engine, alive.pid)) == 1
        alive.send_signal(signal.SIGINT)
        alive.wait(timeout=60)


def test_only_what_can_be_known_to_be_gone_counts_as_gone() -> None:
    boot, space, pid, started = containers.owner().split("/")
    assert not containers.is_gone(f"{boot}/{space}/{pid}/{started}")
    assert containers.is_gone(f"{boot}/{space}/{pid}/1")
    assert not containers.is_gone(f"another/{space}/{pid}/1")
    assert not containers.is_gone(f"{boot}/pid:[1]/{pid}/1")
