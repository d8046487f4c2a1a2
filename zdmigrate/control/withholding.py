"""What is withheld from applications for a while, and giving it back: the control schema's rows and routines."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

from zdmigrate.control.store import Store
from zdmigrate.errors import Contended
from zdmigrate.postgres import session
from zdmigrate.postgres.grants import Withheld
from zdmigrate.postgres.session import Connection, Cursor

_PATIENCE = timedelta(seconds=3)
"""Of the server's own watch: the command asks for something twenty times a second."""
_TRIES = 40
"""Of half a second each, and a pause of `_AGAIN` seconds: half a minute."""
_AGAIN = 0.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Withholding:
    """The last time that a migration's old shape was withheld. `spared`: roles that it did not bind.

    `changed`: rights that were not given back, for somebody else has revoked what was left of them meanwhile.
    """

    began_at: datetime
    until: datetime
    roles: tuple[str, ...]
    spared: tuple[str, ...]
    given_back_at: datetime | None
    outcome: str | None
    detail: str | None
    changed: tuple[str, ...]

    @property
    def whole(self) -> str:
        """How much was given back, for people."""
        return "everything else" if self.changed else "everything"


def last(connection: Connection, store: Store, migration: int) -> Withholding | None:
    """The last time; None where it never was."""
    names = [field.name for field in dataclasses.fields(Withholding)]
    query = f"SELECT {', '.join(names)} FROM {store.table('withholding')} WHERE migration = %s"
    row = connection.execute(query.encode(), (migration,)).fetchone()
    if row is None:
        return None
    given = dict(zip(names, row, strict=True))
    return Withholding(**given | {name: tuple(given[name]) for name in ("roles", "spared", "changed")})


def note(
    cursor: Cursor, store: Store, migration: int, epoch: int, duration: timedelta, withheld: Sequence[Withheld],
    spared: Sequence[str],
) -> None:  # fmt: skip
    """Record what to give back, in the transaction that takes it away."""
    statement = f"""
INSERT INTO {store.table("withholding")} AS w (migration, epoch, host, until, rights, roles, spared)
VALUES (%s, %s, %s, clock_timestamp() + %s, %s, %s, %s)
ON CONFLICT (migration) DO UPDATE
SET epoch = excluded.epoch, host = excluded.host, began_at = excluded.began_at, until = excluded.until,
    rights = excluded.rights, roles = excluded.roles, spared = excluded.spared, given_back_at = NULL, outcome = NULL,
    detail = NULL, changed = DEFAULT
WHERE w.given_back_at IS NOT NULL"""
    rights = Jsonb([each.to_json() for each in withheld])
    roles = sorted(set().union(*(each.names for each in withheld)))
    values = (migration, epoch, store.author.host, duration, rights, roles, list(spared))
    if cursor.execute(statement.encode(), values).rowcount != 1:
        raise Contended("something is withheld already", hint="run the command again")


def give_back(connection: Connection, store: Store, migration: int, outcome: str, detail: str) -> bool:
    """Give everything back; False: it was already, or nothing was withheld.

    Raises:
        Contended: for half a minute another transaction has kept the table's rights from being changed.
    """
    call = f"SELECT {store.table('give_back')}(%s, %s, %s)"
    said = ""
    for _ in range(_TRIES):
        try:
            with session.transaction(connection, lock_timeout=timedelta(milliseconds=500)) as cursor:
                row = cursor.execute(call.encode(), (migration, outcome, detail)).fetchone()
                return bool(row and row[0])
        # Somebody else changes the rights, or the table: he is waited for, or came first ("tuple concurrently updated").
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.DeadlockDetected,
            psycopg.errors.InternalError_,
        ) as error:
            said = error.diag.message_primary or str(error)
            time.sleep(_AGAIN)
    raise Contended(
        f"what is withheld could not be given back: {said}",
        hint="end the transaction that changes the table (pg_locks), then run the command again",
    )


class ServerWatch:
    """A session in which the server itself sees to it that what `backend` withholds is given back.

    It needs no client for that: killed, stopped or cut off, we do no harm for longer than its patience. It ends when all is
    given back.
    """

    def __init__(self, connection: Connection, store: Store, migration: int, epoch: int, backend: int) -> None:
        self._connection = connection
        call = f"CALL {store.table('keep_watch')}(%s, %s, %s, %s)"
        values = (migration, epoch, backend, _PATIENCE)

        def run() -> None:
            with contextlib.suppress(psycopg.Error):
                connection.execute(call.encode(), values)

        self._thread = threading.Thread(target=run, name="zdmigrate withholding", daemon=True)

    def start(self) -> None:
        """Begin. The server must not end it when we are gone."""
        self._connection.execute(
            "SELECT set_config('statement_timeout', '0', false), set_config('client_connection_check_interval', '0', false)"
        )
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its server process."""
        return self._connection.info.backend_pid

    @property
    def is_alive(self) -> bool:
        """Whether it is on watch, as far as we have heard."""
        return self._thread.is_alive()

    def dismiss(self) -> None:
        """Nothing is withheld any more. Where this is not known, it is left alone: it outlives us."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=5)
        self._thread.join(10)
        self._connection.close()
