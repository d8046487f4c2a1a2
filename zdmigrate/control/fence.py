"""What goes first in every transaction that writes on behalf of a lease."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.errors import LeaseLost


def lost() -> LeaseLost:
    """The error of a holder that was replaced."""
    return LeaseLost(
        "another process took over this migration, or the database has not answered for as long as a lease lasts; nothing of "
        "ours was committed since",
        hint="run: zdmigrate status",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Makes a transaction one that a takeover waits for, and refuses it after the takeover.

    Args:
        held: a query that has one row while we may write, and none from the takeover on.
        is_lost: whether that is known already.
    """

    held: sql.Composable
    is_lost: Callable[[], bool] = lambda: False

    @property
    def lock(self) -> sql.Composed:
        """The statement that a takeover waits for."""
        return sql.Composed([self.held, sql.SQL(" FOR KEY SHARE")])

    def refuse_lost(self) -> None:
        """Raise where it is known that we may not write.

        Raises:
            LeaseLost: somebody took over.
        """
        if self.is_lost():
            raise lost()

    def __call__(self, cursor: psycopg.Cursor[Any]) -> None:
        """Take the lock in the cursor's transaction.

        Raises:
            LeaseLost: somebody took over.
        """
        self.refuse_lost()
        if cursor.execute(self.lock).rowcount != 1:
            raise lost()
