"""Statements that a live database has counted: `pg_stat_statements`."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.compat.footprint import Parameter, Statement
from zdmigrate.compat.normalising.normalise import normalised
from zdmigrate.errors import ZdmigrateError

__all__ = ["counted_statements"]

_QUERY = sql.SQL("""
    SELECT s.query FROM {view} s JOIN pg_catalog.pg_roles r ON r.oid = s.userid
    WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND s.toplevel AND (r.rolname = {role} OR {role} IS NULL)
""")
_WHERE = """
    SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'pg_stat_statements'
"""
_HIDDEN = "<insufficient privilege>"
UNKNOWN = Parameter(types=("unknown",))


def counted_statements(connection: psycopg.Connection[Any], *, role: str | None = None) -> tuple[Statement, ...]:
    """The statements of the connection's database that use data, those of `role` only if one is given.

    They come without types of parameters and without places: the server has put its own ``$1`` for constants.

    Raises:
        ZdmigrateError: the extension is not there, or its texts must not be read.
    """
    row = connection.execute(_WHERE).fetchone()
    if row is None:
        raise ZdmigrateError(
            "this database has no pg_stat_statements",
            hint="CREATE EXTENSION pg_stat_statements, with shared_preload_libraries = 'pg_stat_statements'",
        )
    query = _QUERY.format(view=sql.Identifier(row[0], "pg_stat_statements"), role=sql.Literal(role))
    texts = [text for (text,) in connection.execute(query)]
    if _HIDDEN in texts:
        raise ZdmigrateError(
            "pg_stat_statements hides the texts of other roles' statements",
            hint="GRANT pg_read_all_stats TO the role of the URL",
        )
    found = (each for text in texts if text is not None for each in normalised(text, bound=True))
    return tuple(
        Statement(sql=each.sql, parameters=(UNKNOWN,) * len(each.sources), prepared=not each.once) for each in found
    )
