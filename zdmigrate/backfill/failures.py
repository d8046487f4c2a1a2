"""What went wrong with a batch: worth splitting it, or a row that can never be filled."""

from __future__ import annotations

import psycopg
from psycopg import errors

from zdmigrate.errors import ZdmigrateError

CONTENTION = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected, errors.SerializationFailure)
"""A smaller batch, or the same one later, may succeed."""

# Classes of Appendix A of the manual: cardinality, data, integrity, routine exceptions, check options, program limits
# (a value too long for its index), RAISE in a function or trigger.
_OF_A_ROW = frozenset(("21", "22", "23", "2F", "38", "39", "44", "54", "P0"))


class RowFailed(ZdmigrateError):
    """The expression, or a constraint, refuses one row; the message names it and shows no more of its data.

    `row` is its primary key or ctid, `sqlstate` the server's code.
    """

    def __init__(self, row: str, error: psycopg.Error) -> None:
        self.row = row
        self.sqlstate = error.sqlstate or ""
        super().__init__(
            f"{row} cannot be filled: {error.diag.message_primary or type(error).__name__} (SQLSTATE {self.sqlstate})",
            hint="correct the row, or the expression in the migration, then run the command again",
        )


def is_of_a_row(error: psycopg.Error) -> bool:
    """Whether the error comes from a row's data, and not from the statement or the connection."""
    return (error.sqlstate or "")[:2] in _OF_A_ROW
