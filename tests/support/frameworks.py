"""The examples of ``docs/examples``, run as their documentation says, and asked over a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import DEADLINE, RENAME, ROOT, Site, until, with_users
from tests.support.servers import connect

EXAMPLES = ROOT / "docs" / "examples"
ROLE = "shop_app"
SCRIPTS = Path(sys.executable).parent


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self._path))


class Server:
    """One that answers requests."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
        self.process, self._path, self._log = process, path, log

    def get(self, path: str) -> tuple[int, Any]:
        """Status and document."""
        with closing(_OverSocket(self._path)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if answer.headers.get_content_subtype() == "json" else None

    def wait(self) -> None:
        """Until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            try:
                self.get("/ready")
            except OSError:
                return False
            return True

        until(answers, f"an answer of {self.process.args!r}")

    def everyone(self, path: str, processes: int) -> list[Any]:
        """The last answer of each process, once as many have answered."""
        found: dict[int, Any] = {}

        def asked() -> bool:
            status, document = self.get(path)
            assert status == 200, document
            found[document["process"]] = document
            return len(found) == processes

        until(asked, f"{processes} processes answer")
        return list(found.values())

    def stop(self) -> None:
        """SIGTERM, and its end, for which it has the time that it needs."""
        stop(self.process, self._log)


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """End it as an orchestrator does."""
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE)
    assert process.returncode in (0, -signal.SIGTERM), log.read_text()


@contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], *, cwd: Path = EXAMPLES
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process with all its children, and what it says; they are killed at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ZDMIGRATE_", "PG"))}
    with tempfile.TemporaryDirectory(prefix="zdm-") as directory:
        log = Path(directory) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=clean | {"PYTHONPATH": f"{ROOT}:{cwd}", "HEARTBEAT": "0.2", "PYTHONDONTWRITEBYTECODE": "1"} | dict(env),
            )  # fmt: skip
        try:
            yield process, log
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str], *, cwd: Path = EXAMPLES) -> Iterator[Server]:
    """A server that answers on the socket that ``SOCKET`` stands for."""
    with tempfile.TemporaryDirectory(prefix="zdm-") as directory:
        path = Path(directory) / "socket"  # the name of a socket has at most 107 bytes
        full = [part.replace("SOCKET", str(path)) for part in command]
        with started([str(SCRIPTS / full[0]), *full[1:]], env, cwd=cwd) as (process, log):
            server = Server(process, path, log)
            server.wait()
            yield server


def shop(site: Site) -> Site:
    """The control schema, the application's role, and a migration that has not begun."""
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
    with_users(site)
    site.run("init", "--app-role", ROLE).expect(0)
    site.sql(f"GRANT SELECT ON users TO {ROLE}")
    return site


def environment(site: Site, driver: str | None = None) -> dict[str, str]:
    """Whom to connect to, and which version it is."""
    return {"DATABASE_URL": site.database.server.url(site.database.name, user=ROLE, driver=driver), "VERSION": "2.4.0"}


def instances(site: Site, application: str = "shop") -> tuple[int, int]:
    """How many processes of the version are alive, and how many have said goodbye."""
    rows = site.rows(
        "SELECT version, retired_at IS NULL FROM zdmigrate.app_instance WHERE application = %s", application
    )
    assert {version for version, _ in rows} <= {"2.4.0"}
    alive = sum(living for _, living in rows)
    return alive, len(rows) - alive


def follows(site: Site, server: Server, processes: int) -> None:
    """Whether it is ready when it should be, and reads what the switch says, in each of its processes."""
    status, document = server.get("/ready")
    assert status == 503
    assert f"{RENAME} has not begun" in str(document) or "has not answered yet" in str(document)
    assert {each["column"] for each in server.everyone("/users/1", processes)} == {"user_email"}
    site.run("advance", "--to", "backfill").expect(0)
    until(lambda: all(server.get("/ready") == (200, READY) for _ in range(4 * processes)), "it is ready")
    site.run("switch", RENAME, "100").expect(0)
    until(
        lambda: all(each["column"] == "email_address" for each in server.everyone("/users/1", processes)), "it follows"
    )
    assert {each["email"] for each in server.everyone("/users/1", processes)} == {"u1"}
    assert server.get("/users/0")[0] == 404


READY = {"ready": True, "missing": []}
