"""What is compared: ways to fill the same column of the same rows."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.backfill import ours

_RANGE, _RANGE_PAUSE = 10_000, 0.5
_KEYSET = 1_000
_COMPUTING, _BURST, _REST = 30.0, 0.003, 0.007

_UPDATE = "UPDATE public.users SET email_address = user_email WHERE email_address IS NULL"
_TOUCH = """
WITH batch AS (SELECT id FROM public.users WHERE id > %s ORDER BY id LIMIT %s),
     touched AS (UPDATE public.users SET user_email = user_email FROM batch WHERE users.id = batch.id)
SELECT max(id) FROM batch
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way.

    Args:
        title: in tables.
        fill: fill the column, in the database with this connection string; return when all is committed.
        trigger: whether the sync triggers are in place.
        compression: whether its role may set `wal_compression`, and it is on.
        paced: it leaves room for others by itself: measured in pairs with the load alone.
        control: it fills nothing, and shows what a machine of so few cores does to the load by itself.
    """

    title: str
    fill: Callable[[str], None]
    fillfactor: int = 100
    trigger: bool = True
    compression: bool = False
    paced: bool = False
    control: bool = False


def is_available(name: str) -> bool:
    """Whether the program is here that a variant is about."""
    return name != "pgroll" or shutil.which("pgroll") is not None


def one_update(conninfo: str) -> None:
    """All rows in one statement."""
    with _connect(conninfo) as connection:
        connection.execute(_UPDATE)


def id_ranges(conninfo: str) -> None:
    """The usual advice: 10,000 ids, then half a second of rest."""
    with _connect(conninfo) as connection:
        last = _last_id(connection)
        for first in range(1, last + 1, _RANGE):
            connection.execute(f"{_UPDATE} AND id >= %s AND id < %s".encode(), (first, first + _RANGE))
            time.sleep(_RANGE_PAUSE if first + _RANGE <= last else 0)


def touch(conninfo: str) -> None:
    """1,000 rows after another by key, each set to what it is, so that the trigger does the work."""
    with _connect(conninfo) as connection:
        last, at = _last_id(connection), 0
        while at < last:
            row = connection.execute(_TOUCH, (at, _KEYSET)).fetchone()
            assert row is not None
            at = row[0]


def compute(_: str) -> None:
    """No database at all: three tenths of one core, in bursts of 3 ms, for half a minute."""
    end = time.monotonic() + _COMPUTING
    while (now := time.monotonic()) < end:
        while time.monotonic() < now + _BURST:
            pass
        time.sleep(_REST)


def pgroll(conninfo: str) -> None:
    """`pgroll start` of a migration that adds the column with `up`: it makes a trigger of its own, and fills."""
    column = {"name": "email_copy", "type": "text", "nullable": True}
    migration = {"operations": [{"add_column": {"table": "users", "up": "user_email", "column": column}}]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "0001_email_copy.json")
        file.write_text(json.dumps(migration), encoding="utf-8")
        for command in (("init",), ("start", str(file))):
            subprocess.run(["pgroll", *command, "--postgres-url", conninfo], check=True, stdout=subprocess.DEVNULL)


VARIANTS = {
    "update_bare": Variant(title="one `UPDATE`, no trigger", fill=one_update, trigger=False),
    "update": Variant(title="one `UPDATE`", fill=one_update),
    "ranges": Variant(title="id ranges of 10,000, 500 ms pause", fill=id_ranges),
    "touch": Variant(title="keyset of 1,000, touched", fill=touch),
    "pgroll": Variant(title="pgroll", fill=pgroll, trigger=False),
    "ours": Variant(title="**zdmigrate, default pace**", fill=ours.at_default_pace, paced=True),
    "control": Variant(
        title="control: no database, 30 % of one core in bursts of 3 ms", fill=compute, paced=True, control=True
    ),
    "ours_fast": Variant(title="**zdmigrate, unthrottled**", fill=ours.unthrottled),
    "ours_compressed": Variant(
        title="**zdmigrate, unthrottled, wal_compression**", fill=ours.unthrottled, compression=True
    ),
    "update_bare_90": Variant(
        title="one `UPDATE`, no trigger, fillfactor 90", fill=one_update, trigger=False, fillfactor=90
    ),
    "ours_fast_90": Variant(title="**zdmigrate, unthrottled, fillfactor 90**", fill=ours.unthrottled, fillfactor=90),
    "ours_compressed_90": Variant(
        title="**zdmigrate, unthrottled, wal_compression, fillfactor 90**",
        fill=ours.unthrottled,
        compression=True,
        fillfactor=90,
    ),
}


def _connect(conninfo: str) -> psycopg.Connection[Any]:
    return psycopg.connect(conninfo, autocommit=True)


def _last_id(connection: psycopg.Connection[Any]) -> int:
    """Whoever inserts later has the trigger."""
    row = connection.execute("SELECT max(id) FROM public.users").fetchone()
    assert row is not None
    return int(row[0])
