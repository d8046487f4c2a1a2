"""Many clients that write at once, each on a connection of its own."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql


class Crowd:
    """Clients that execute a statement again and again, from the moment when all are connected until the block is left.

    Each rests for `rest` seconds in between: not to see who gets the processor. Leaving raises what a client's statement has.
    """

    def __init__(self, conninfo: str, statement: str, *, clients: int, rest: float) -> None:
        self._conninfo, self._statement, self._rest = conninfo, sql.SQL(statement), rest
        self._stopping, self._all_there = threading.Event(), threading.Barrier(clients + 1, timeout=60)
        self._errors: list[BaseException] = []
        self._rows = [0] * clients
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"client {number}") for number in range(clients)
        ]

    @property
    def rows(self) -> int:
        """How many rows they have written so far."""
        return sum(self._rows)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self._all_there.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        if self._errors and error is None:
            raise self._errors[0]

    def _run(self, number: int) -> None:
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                self._all_there.wait()
                while not self._stopping.wait(self._rest):
                    self._rows[number] += connection.execute(self._statement).rowcount
        except BaseException as error:  # noqa: BLE001  # raised where the block is left
            self._errors.append(error)
            self._all_there.abort()
