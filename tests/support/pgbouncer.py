"""PgBouncer in front of a scratch server, in transaction mode."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.servers import Database

PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
MISSING = "PgBouncer is not installed (Debian: apt install pgbouncer)"


@contextmanager
def pooled(database: Database, role: str) -> Iterator[str]:
    """A connection string that goes through it, as `role`; three server connections are shared by all clients."""
    assert PROGRAM is not None, MISSING
    with tempfile.TemporaryDirectory(prefix="zdm-bouncer-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "users.txt").write_text(f'"{role}" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"""
[databases]
{database.name} = host={database.server.host} port={database.server.port}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""
        )
        user = database.server.directory.stat().st_uid  # whose directory of sockets it is
        with subprocess.Popen(
            [PROGRAM, "-q", str(folder / "pgbouncer.ini")], user=user, stderr=subprocess.DEVNULL
        ) as process:
            try:
                url = f"host={folder} port=6432 dbname={database.name} user={role}"
                _answers(url)
                yield url
            finally:
                process.terminate()


def _answers(url: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url, prepare_threshold=None).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end, "PgBouncer does not answer"
            time.sleep(0.05)
        else:
            return
