"""An autovacuum that keeps the server from running out of transaction ids, on the table that is filled.

It does not give way to others (manual, section 24.1.5), has to do again what we dirty, and wants the disk to itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from zdmigrate.backfill.throttles.reading import Reading
from zdmigrate.postgres.session import Connection

# Autovacuum is the one session without a role. What it does is shown to pg_read_all_stats only, and not at all with
# track_activities = off; then the table's age says what kind it is.
_QUERY = """
WITH RECURSIVE tree(oid) AS (
    SELECT to_regclass(given.name)::oid FROM unnest(%s::text[]) AS given(name)
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
), files(oid) AS (
    SELECT oid FROM tree UNION SELECT c.reltoastrelid FROM pg_class c JOIN tree USING (oid)
)
SELECT n.nspname || '.' || c.relname, l.pid
FROM files
JOIN pg_class c USING (oid)
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_locks l ON l.relation = c.oid AND l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
JOIN pg_stat_activity a ON a.pid = l.pid AND a.usesysid IS NULL
CROSS JOIN LATERAL (
    SELECT min(option_value::int) FILTER (WHERE option_name = 'autovacuum_freeze_max_age') AS freeze,
           min(option_value::int) FILTER (WHERE option_name = 'autovacuum_multixact_freeze_max_age') AS multixact
    FROM pg_options_to_table(c.reloptions)
) AS own
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND CASE WHEN a.query LIKE 'autovacuum:%%' THEN a.query LIKE '%%(to prevent wraparound)'
      ELSE age(c.relfrozenxid) > least(own.freeze, current_setting('autovacuum_freeze_max_age')::int)
        OR mxid_age(c.relminmxid) > least(own.multixact, current_setting('autovacuum_multixact_freeze_max_age')::int) END
ORDER BY 1
"""


class Wraparound:
    """One reading.

    Args:
        tables: quoted, qualified names; partitions and TOAST tables are looked at, too.
    """

    name = "anti-wraparound vacuum"

    def __init__(self, tables: Sequence[str]) -> None:
        self._tables = list(tables)

    def read(self, connection: Connection) -> Sequence[Reading]:
        """Ask the primary."""
        found = connection.execute(_QUERY, (self._tables,)).fetchall()
        running = ", ".join(f"pid {pid} on {table}" for table, pid in found)
        return [
            Reading(
                name=self.name,
                value=running or "none",
                threshold="none",
                healthy=not found,
                reason=f"autovacuum prevents wraparound: {running}" if found else None,
                hint="let it finish: its progress is in pg_stat_progress_vacuum" if found else None,
            )
        ]
