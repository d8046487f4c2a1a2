"""Scratch servers: a PostgreSQL of our own, in a temporary directory, for demos, checks and tests.

A scratch server goes when its context ends, when the process ends, and when the process is killed: a watchdog
process waits for the end of a pipe that only we hold (`_watchdog`), so no signal handler of the caller is touched.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres import _watchdog, scratch
from zdmigrate.postgres.binaries import (
    ServerBinaries,
    account,
    available_majors,
    find_binaries,
    run,
    temporary_base,
    usable_by,
)

__all__ = ["Access", "Listen", "ScratchServer", "ServerBinaries", "available_majors", "find_binaries"]

Listen = Literal["socket", "tcp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who is superuser, and the password over TCP of all roles that log in; None trusts every local user."""

    superuser: str = "postgres"
    password: str | None = dataclasses.field(default=None, repr=False)


_NOTHING: Mapping[str, str] = MappingProxyType({})
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "dynamic_shared_memory_type": "mmap",  # inside the directory, so that a crash leaves nothing behind
        "hot_standby": "on",
        "log_line_prefix": "%m [%p] %a ",
        "log_lock_waits": "on",
        "log_timezone": "UTC",
        "max_connections": "100",
        "max_prepared_transactions": "10",
        "max_wal_senders": "10",
        "shared_buffers": "32MB",
        "timezone": "UTC",
        "wal_keep_size": "128MB",
        "wal_level": "logical",
    }
)
_SOCKET_NAME = ".s.PGSQL.65535"
_SOCKET_PATH_BYTES = 100  # the limit is 107 on Linux and 103 on macOS


class ScratchServer:
    """A PostgreSQL server that lives as long as this object, at most as long as this process.

    Use as a context manager, or call `stop`. Everybody who can reach it is trusted: only the owner of the temporary
    directory can (``listen="socket"``), or every local user (``listen="tcp"``), who needs the password if `access` has
    one.
    """

    def __init__(
        self, binaries: ServerBinaries, *, listen: Listen, base: Path | None, access: Access | None = None
    ) -> None:
        self._user = account()
        self._binaries = usable_by(self._user, binaries)
        self._listen: Listen = listen
        self._base = base
        self._access = access or Access()
        self._replicas: list[ScratchServer] = []
        self._settings: dict[str, str] = {}
        self._owner = os.getpid()
        longest = _SOCKET_PATH_BYTES - len(f"/zdm-12345678/{_SOCKET_NAME}")
        within = temporary_base(self._user, longest=longest, preferred=base)
        self._directory = Path(tempfile.mkdtemp(prefix="zdm-", dir=within))
        self._lifeline: subprocess.Popen[bytes] | None = _guard(self._directory)
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=_let_go(weakref.ref(self)))
        if self._user is not None:
            os.chown(self._directory, self._user.uid, self._user.gid)
        # A port nobody listens on by default: a client that loses the host must not end up in somebody's database.
        self._port = 20000 + secrets.randbelow(12000)

    @classmethod
    def start(
        cls,
        binaries: ServerBinaries | None = None,
        *,
        settings: Mapping[str, str] = _NOTHING,
        listen: Listen = "socket",
        fsync: bool = False,
        base: Path | None = None,
        access: Access | None = None,
    ) -> Self:
        """A new, empty server that accepts connections.

        Its files go into a new directory in `base`, or where temporary files go if the server cannot use `base`.
        In memory (``/dev/shm``) it creates a database in a twentieth of the time.

        Raises:
            ServerUnavailable: no installation was found, or it does not start; the message has the end of its log.
        """
        server = cls(binaries or find_binaries(), listen=listen, base=base, access=access)
        try:
            server._initialise()
            server._configure({**_SETTINGS, "fsync": "on" if fsync else "off", **settings})
            server._start()
        except BaseException:
            server.stop()
            raise
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<ScratchServer PostgreSQL {self.major} in {self._directory}>"

    @property
    def binaries(self) -> ServerBinaries:
        return self._binaries

    @property
    def major(self) -> int:
        return self._binaries.major

    @property
    def directory(self) -> Path:
        """Where everything is: the socket, ``data`` and ``server.log``."""
        return self._directory

    @property
    def host(self) -> str:
        return "127.0.0.1" if self._listen == "tcp" else str(self._directory)

    @property
    def port(self) -> int:
        return self._port

    @property
    def log(self) -> str:
        """What the server has written to its log."""
        with contextlib.suppress(FileNotFoundError):
            return self._log_file.read_text(errors="replace")
        return ""

    @property
    def postmaster_pid(self) -> int:
        """The process to signal; raises ServerUnavailable where none is running."""
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            if pid in {process.pid for process in _watchdog.serving(str(self._directory), _watchdog.processes())}:
                return pid
        raise ServerUnavailable(f"the server in {self._directory} is not running")

    @functools.cached_property
    def label(self) -> str:
        """``PostgreSQL 17.5``."""
        with self.connect() as connection:
            return scratch.label(connection)

    def conninfo(self, database: str = "postgres", *, user: str | None = None) -> str:
        """A libpq connection string."""
        access = self._access
        return make_conninfo(
            "", host=self.host, port=self._port, dbname=database, user=user or access.superuser,
            password=access.password,
        )  # fmt: skip

    def url(self, database: str = "postgres", *, user: str | None = None, driver: str | None = None) -> str:
        """A URL that libpq and SQLAlchemy read; ``driver="psycopg"`` names the driver for SQLAlchemy.

        SQLAlchemy before 2.1 does not decode the name of the database: it should be a plain word.
        """
        return scratch.url_of(self.conninfo(database, user=user), driver=driver)

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A connection as superuser, in autocommit mode unless said otherwise."""
        return psycopg.connect(self.conninfo(database), **({"autocommit": True} | options))

    def create_database(self, name: str, template: str | None = None) -> None:
        """A database with the template's contents, owner and settings; without one, an empty database."""
        with self.connect() as connection:
            scratch.create(connection, name, template)

    def drop_database(self, name: str) -> None:
        """Drop it where it exists, and whoever is connected to it."""
        with self.connect() as connection:
            scratch.drop(connection, name)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start it, on the same port; also after `kill`."""
        if self._is_running():
            self._run("pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", str(self._data))
        # After a crash: PostgreSQL itself takes a zombie that nobody has reaped yet for a running server. Its check
        # for processes that still use the shared memory does not need these files.
        for stale in (self._data / "postmaster.pid", self._directory / f".s.PGSQL.{self._port}.lock"):
            stale.unlink(missing_ok=True)
        self._start()

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children: a crash. `restart` recovers."""
        _watchdog.crash(str(self._directory))

    def stop(self) -> None:
        """Take the server and its replicas down and remove their files. May be called again."""
        if self._lifeline is None or os.getpid() != self._owner:
            return
        while self._replicas:
            self._replicas.pop().stop()
        lifeline, self._lifeline = self._lifeline, None
        atexit.unregister(self.stop)
        _release(lifeline)
        if self._directory.exists():  # somebody killed the watchdog
            _watchdog.take_down(str(self._directory))

    def start_replica(self, name: str, settings: Mapping[str, str] = _NOTHING) -> ScratchServer:
        """A hot standby that streams from this server; in ``pg_stat_replication`` it is called `name`."""
        replica = ScratchServer(self._binaries, listen=self._listen, base=self._base, access=self._access)
        try:
            replica._copy_from(self, name)
            replica._configure({**self._settings, "cluster_name": name, **settings})
            replica._start()
            self._wait_for(replica, name)
        except BaseException:
            replica.stop()
            raise
        self._replicas.append(replica)
        return replica

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log_file(self) -> Path:
        return self._directory / "server.log"

    def _is_running(self) -> bool:
        with contextlib.suppress(ServerUnavailable):
            return self.postmaster_pid > 0
        return False

    def _initialise(self) -> None:
        # C.UTF-8 sorts alike everywhere; macOS has no such locale.
        locale = "C.UTF-8" if sys.platform.startswith("linux") else "C"
        options = (f"--username={self._access.superuser}", "--encoding=UTF8", f"--locale={locale}", "--no-sync")
        with self._authentication() as authentication:
            self._run("initdb", "-D", str(self._data), "--no-instructions", *options, *authentication)

    @contextlib.contextmanager
    def _authentication(self) -> Iterator[tuple[str, ...]]:
        """initdb's options; a password is handed over in a file, as arguments are everybody's to see."""
        if self._access.password is None:
            yield ("--auth=trust",)
            return
        file = self._directory / "password"
        file.touch(mode=0o600)
        file.write_text(self._access.password, encoding="utf-8")
        if self._user is not None:
            os.chown(file, self._user.uid, self._user.gid)
        try:
            yield "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={file}"
        finally:
            file.unlink()

    def _copy_from(self, primary: ScratchServer, name: str) -> None:
        source = make_conninfo(primary.conninfo("replication"), dbname=None, application_name=name)
        options = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-manifest")
        self._run("pg_basebackup", "-D", str(self._data), "-d", source, *options)

    def _configure(self, settings: Mapping[str, str]) -> None:
        """Append `settings` to postgresql.conf, where the last line for a name counts."""
        self._settings = dict(settings)
        ours = {"unix_socket_directories": str(self._directory), "listen_addresses": ""}
        if self._listen == "tcp":
            self._port = _free_port()
            ours["listen_addresses"] = "127.0.0.1"
        lines = [f"{name} = {_quoted(value)}" for name, value in {**settings, **ours, "port": str(self._port)}.items()]
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))

    def _start(self) -> None:
        try:
            self._run("pg_ctl", "start", "-w", "-t", "60", "-D", str(self._data), "-l", str(self._log_file), "-s")
        except ServerUnavailable as error:
            tail = "\n".join(self.log.splitlines()[-20:])
            raise ServerUnavailable(
                f"PostgreSQL {self.major} does not start: {error.message}\nthe end of its log:\n{tail}"
            ) from error

    def _wait_for(self, replica: ScratchServer, name: str) -> None:
        query = "SELECT count(*) FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"
        deadline = time.monotonic() + 60
        with self.connect() as connection:
            while time.monotonic() < deadline:
                if connection.execute(query, (name,)).fetchone() != (0,):
                    return
                time.sleep(0.02)
        tail = "\n".join(replica.log.splitlines()[-20:])
        raise ServerUnavailable(f"the replica {name} does not stream from its primary\nthe end of its log:\n{tail}")

    def _run(self, program: str, *arguments: str) -> str:
        return run(self._binaries, program, *arguments, user=self._user)


def _guard(directory: Path) -> subprocess.Popen[bytes]:
    """Start the watchdog of a directory; it acts when its standard input ends."""
    # In a session of its own: Ctrl-C in our terminal must not reach it before it reaches us.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _watchdog.__file__, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _release(lifeline: subprocess.Popen[bytes]) -> None:
    if lifeline.stdin is not None:
        lifeline.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        lifeline.wait(timeout=60)


def _let_go(reference: weakref.ref[ScratchServer]) -> Any:
    """For a forked child of ours: a copy of the pipe in it would keep the server alive when we are dead."""

    def close() -> None:
        server = reference()
        if server is not None and server._lifeline is not None and server._lifeline.stdin is not None:
            server._lifeline.stdin.close()

    return close


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
