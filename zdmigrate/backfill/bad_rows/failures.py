"""What went wrong with a batch: worth splitting it, or a row that can never be filled."""

from __future__ import annotations

import psycopg
from psycopg import errors

from zdmigrate.backfill.bad_rows.quarantine import Failure
from zdmigrate.errors import ZdmigrateError

CONTENTION = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected, errors.SerializationFailure)
"""A smaller batch, or the same one later, may succeed."""

# Classes of Appendix A of the manual: cardinality, data, integrity, routine exceptions, check options, program limits
# (a value too long for its index), RAISE in a function or trigger.
_OF_A_ROW = frozenset(("21", "22", "23", "2F", "38", "39", "44", "54", "P0"))


class RowFailed(ZdmigrateError):
    """The expression, the function or a constraint refuses one row; the message names it and shows no more of its data.

    `row` is its primary key or ctid, `sqlstate` the server's code.
    """

    def __init__(self, row: str, failure: Failure) -> None:
        self.row = row
        self.sqlstate = failure.sqlstate
        super().__init__(
            f"{row} cannot be filled: {failure.message} (SQLSTATE {failure.sqlstate})",
            hint="correct the row, or what computes its value in the migration, then run the command again",
        )


def is_of_a_row(error: psycopg.Error) -> bool:
    """Whether the error comes from a row's data, and not from the statement or the connection."""
    return (error.sqlstate or "")[:2] in _OF_A_ROW
