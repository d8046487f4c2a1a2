"""Calling the functions of migration files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import psycopg

from zdmigrate.errors import Drift, ZdmigrateError
from zdmigrate.plan import name_of
from zdmigrate.postgres.session import Connection


def find(functions: Mapping[str, Callable[[Any], Any]], migration: str, reference: str) -> Callable[[Any], Any]:
    """What a plan refers to.

    Raises:
        Drift: the migration's file is gone, or has another function of that name.
    """
    found = functions.get(reference)
    if found is None:
        raise Drift(
            f"{migration}: the plan calls {name_of(reference)}(), which is no longer in the migration's file as it "
            "was when the migration began",
            hint="restore the file",
        )
    return found


def called(migration: str, function: Callable[[Any], Any], connection: Connection) -> Iterator[object]:
    """Call a function of a migration's file; yields where it does.

    Raises:
        ZdmigrateError: it failed; errors of the server, and ours that it raises on purpose, are passed on.
    """
    try:
        result = function(connection)
        if isinstance(result, Generator):
            yield from result
    except (ZdmigrateError, psycopg.Error):
        raise
    except (Exception, SystemExit) as error:  # sys.exit(0) would end the command as if all were done
        raise ZdmigrateError(
            f"{migration}: {function.__name__}() failed: {type(error).__name__}: {error}",
            hint="its last transaction was rolled back; correct what it stumbled over, and run the command again",
        ) from error
