"""VACUUM now and then, where the order of work cannot keep a table from growing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill.relations import Relation
from zdmigrate.errors import Unsafe

_LOOK = 0.5
"""Seconds between two looks."""


class Vacuuming:
    """A thread with a connection of its own, where one is needed: what is left dead becomes room for what comes next.

    VACUUM takes SHARE UPDATE EXCLUSIVE, keeps nobody from reading or writing, and gives way to whoever has locked the table.
    It never truncates it, which would take ACCESS EXCLUSIVE.
    """

    def __init__(self, due: Callable[[], Relation | None], connect: Callable[[], psycopg.Connection[Any]]) -> None:
        """`due` names a relation that should be vacuumed now."""
        self._due, self._connect = due, connect
        self._connection: psycopg.Connection[Any] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zdmigrate vacuum", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        while self._thread.is_alive():
            connection = self._connection
            if connection is not None:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=5)
            self._thread.join(timeout=_LOOK)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK):
            relation = self._due()
            if relation is not None:
                with contextlib.suppress(
                    psycopg.Error, Unsafe
                ):  # it may be gone, or locked: the next tenth is soon done
                    self._vacuum(relation)

    def _vacuum(self, relation: Relation) -> None:
        with self._connect() as connection:
            self._connection = connection
            try:
                # Nobody waits for it, and a large table takes its time.
                connection.execute("SET vacuum_cost_delay = 2; SET statement_timeout = 0")
                if not self._stopping.is_set():
                    connection.execute(
                        sql.SQL("VACUUM (TRUNCATE false, SKIP_LOCKED, PARALLEL 0) {}").format(relation.identifier)
                    )
            finally:
                self._connection = None
