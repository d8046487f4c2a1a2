"""Containers as scratch servers, through testcontainers (extra ``[containers]``), their data in memory and never synced."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from zdmigrate.compat.scratch.roles import SUPERUSER
from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres import scratch

_LABEL = "zdmigrate.check.owner"
_MEMORY = "/zdmigrate"
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "wal_level": "logical",
    "max_prepared_transactions": "10", "timezone": "UTC",
}  # fmt: skip
_SECONDS_TO_ANSWER = 10
_SECONDS_TO_START = 120
_POLL = 0.1
_LONG = dt.timedelta(days=1)


class Container:
    """A server in a container. Its superuser and all roles have one random password."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self._where: dict[str, str | int] = {"host": host, "port": port, "password": password}

    @functools.cached_property
    def major(self) -> int:
        """The major version."""
        with self._connected() as connection:
            return connection.info.server_version // 10000

    @functools.cached_property
    def label(self) -> str:
        """``PostgreSQL 17.5``."""
        with self._connected() as connection:
            return scratch.label(connection)

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """A database with the template's contents, owner and settings; without one, an empty database."""
        with self._connected() as connection:
            scratch.create(connection, name, template)

    def drop_database(self, name: str) -> None:
        """Drop it where it exists, and whoever is connected to it."""
        with self._connected() as connection:
            scratch.drop(connection, name)

    def conninfo(self, database: str, *, user: str | None = None) -> str:
        """A libpq connection string."""
        return make_conninfo("", **self._where, dbname=database, user=user or SUPERUSER)

    def url(self, database: str, *, user: str | None = None, driver: str | None = None) -> str:
        """A URL as the project's own commands take it."""
        return scratch.url_of(self.conninfo(database, user=user), driver=driver)

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo("postgres"), autocommit=True)


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """The client of the Docker engine that testcontainers uses, once it has answered.

    Raises:
        ServerUnavailable: testcontainers is not installed, or no engine answers.
    """
    try:
        import docker.errors
        from testcontainers.core.docker_client import DockerClient
    except ImportError as error:
        raise ServerUnavailable(
            "testcontainers is not installed", hint="pip install 'zdmigrate[containers]'"
        ) from error
    _refuse_missing_socket()
    try:
        with contextlib.closing(DockerClient(timeout=_SECONDS_TO_ANSWER).client) as first:
            first.ping()
        client = DockerClient().client
    except docker.errors.DockerException as error:
        raise ServerUnavailable(f"no Docker engine answers: {_one_line(error)}") from error
    with contextlib.closing(client):
        yield client


def _refuse_missing_socket() -> None:
    """The usual reason why there is no engine, found without docker, which would leave a socket open then."""
    from testcontainers.core.docker_client import get_docker_host

    host = get_docker_host() or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise ServerUnavailable(f"no Docker engine answers at {host}: {error.strerror}") from error


@contextlib.contextmanager
def start(client: Any, image: str) -> Iterator[Container]:
    """A server of that image, which is pulled where it is not there; gone at the end, with its volumes.

    Raises:
        ServerUnavailable: the image is not there and cannot be pulled, or its server does not start.
    """
    from testcontainers.core.container import DockerContainer

    with contextlib.ExitStack() as stack:
        with _unavailable(f"no server of the image {image}"):
            _have(client, image)
            password = secrets.token_urlsafe(16)
            made = DockerContainer(image).with_exposed_ports(5432).with_tmpfs_mount(_MEMORY)
            made.with_envs(POSTGRES_USER=SUPERUSER, POSTGRES_PASSWORD=password, POSTGRES_DB="postgres")
            made.with_env("PGDATA", f"{_MEMORY}/data").with_kwargs(labels={_LABEL: owner()})
            made.with_command(["postgres", *(part for item in _SETTINGS.items() for part in ("-c", "=".join(item)))])
            # Interrupted while the engine makes it, nobody would know what to remove.
            with _ryuk_where_it_can_be(client), _signals_wait():
                stack.enter_context(made)
            server = Container(made.get_container_host_ip(), int(made.get_exposed_port(5432)), password)
            _wait_for(server, made)
        yield server


def _wait_for(server: Container, made: Any) -> None:
    """Until it answers. While the image's entrypoint prepares the data, its server has no TCP port."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        made.reload()
        try:
            _ = server.label
            return
        except psycopg.OperationalError as error:
            if made.status not in ("created", "running") or time.monotonic() > deadline:
                log = b"".join(made.get_logs()).decode(errors="replace").strip().splitlines()[-20:]
                ended = "\n".join(("the end of its log:", *log))
                raise ServerUnavailable(
                    f"the container is {made.status}, and does not answer: {error}\n{ended}"
                ) from error
        time.sleep(_POLL)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM take effect afterwards, as they would have."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda which, _: came.append(which)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for which in came[:1]:
            signal.raise_signal(which)


def remove_dead(client: Any, *, report: Callable[[str], None]) -> None:
    """Remove the containers of checks that were killed; say which others have been there for long."""
    for container in client.containers.list(all=True, filters={"label": _LABEL}, ignore_removed=True):
        if container.status in ("exited", "dead") or is_gone(container.labels[_LABEL]):
            if _removed(container):
                report(f"removed the container {container.short_id}, which a check that was killed had left")
        elif (age := _age(container)) > _LONG:
            report(
                f"the container {container.short_id} of another check is {age.days} days old; docker rm -fv removes it"
            )


def owner() -> str:
    """This process, told from all others: the boot, the space in which its number counts, the number, its start."""
    return "/".join((_boot(), _pid_space(), str(os.getpid()), _started(os.getpid()) or "?"))


def is_gone(owner: str) -> bool:
    """Whether that process is known to have ended; False for one on another machine, which nobody here can know."""
    boot, space, pid, started = owner.split("/")
    return (boot, space) == (_boot(), _pid_space()) and _started(int(pid)) != started


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _pid_space() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return "host"


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the boot; None where there is none. Without /proc only that it is there."""
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            # "pid (name) state …", and the name may contain anything; the start is field 22.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return None if fields[0] in "ZX" else fields[19]
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "?"


def _removed(container: Any) -> bool:
    import docker.errors

    try:
        container.remove(force=True, v=True)
    except docker.errors.APIError:  # somebody else is removing it
        return False
    return True


def _age(container: Any) -> dt.timedelta:
    created = dt.datetime.fromisoformat(container.attrs["Created"][:19]).replace(tzinfo=dt.UTC)
    return dt.datetime.now(dt.UTC) - created


def _have(client: Any, image: str) -> None:
    """Pull an image that is not there."""
    import docker.errors

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(image)
        except docker.errors.DockerException as error:
            raise ServerUnavailable(
                f"the image {image} is not there, and cannot be pulled: {_one_line(error)}"
            ) from error


@contextlib.contextmanager
def _ryuk_where_it_can_be(client: Any) -> Iterator[None]:
    """Ryuk removes containers when their owner was killed. Where its image cannot be had, the next call of ours does."""
    from testcontainers.core.config import testcontainers_config

    before = testcontainers_config.ryuk_disabled
    if not before:
        try:
            _have(client, testcontainers_config.ryuk_image)
        except ServerUnavailable:
            testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before


@contextlib.contextmanager
def _unavailable(failure: str) -> Iterator[None]:
    import docker.errors

    try:
        yield
    except (docker.errors.DockerException, RuntimeError, TimeoutError, psycopg.Error) as error:
        raise ServerUnavailable(f"{failure}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
