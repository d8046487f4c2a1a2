"""What the role may set for the length of a batch. No superuser is needed: `GRANT SET ON PARAMETER … TO …`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from zdmigrate.backfill import statements
from zdmigrate.backfill.relations import Relation

_RIGHTS = """
SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET') AS triggers,
       pg_catalog.has_parameter_privilege('wal_compression', 'SET') AS compression
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """`triggers`: keep a table's own triggers from firing; `compression`: compress page images in the WAL."""

    triggers: bool
    compression: bool

    @classmethod
    def of(cls, connection: psycopg.Connection[Any]) -> Rights:
        """Those of the connection's role; a superuser has both."""
        with connection.cursor(row_factory=class_row(cls)) as cursor:
            found = cursor.execute(_RIGHTS).fetchone()
        assert found is not None
        return found

    def settings(self, relation: Relation) -> Iterator[sql.Composable]:
        """What is said first in a transaction that fills rows of the relation."""
        if self.triggers:
            yield statements.suppress_triggers(relation)
        if self.compression:
            yield statements.compress_wal()
