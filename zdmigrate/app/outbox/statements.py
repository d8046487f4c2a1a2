"""What is asked of the outbox, as statements that return one text, for any driver. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from zdmigrate.sqltext import ident

_IDS = "SELECT CAST(jsonb_array_elements_text(CAST(CAST(? AS text) AS jsonb)) AS bigint)"
_MOST = 10_000
"""Rows of one key that are dealt with at once: what is left over delivers the key once more."""
_FIRST = 1.0
"""Seconds between the first attempt and the second one; twice as many before each further one."""


class Sql(NamedTuple):
    """A statement between whose `pieces` its arguments stand, all of them text."""

    pieces: Sequence[str]
    values: list[str]

    @property
    def formatted(self) -> str:
        """With ``%s`` for arguments (psycopg, psycopg2, pg8000)."""
        if not self.values:
            return self.pieces[0]
        return "%s".join(piece.replace("%", "%%") for piece in self.pieces)

    @property
    def numbered(self) -> str:
        """With ``$1``, ``$2``, … (asyncpg)."""
        places = (f"${number}" for number in range(1, len(self.values) + 1))
        return "".join(piece + next(places, "") for piece in self.pieces)


def plain(text: str) -> Sql:
    """Without arguments."""
    return Sql((text,), [])


READ_COMMITTED = plain("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
SAVEPOINT = plain("SAVEPOINT zdmigrate_read")
ROLLBACK_TO = plain("ROLLBACK TO SAVEPOINT zdmigrate_read")
"""Gives back the locks of what was read since, too (manual, section 13.3)."""


class Outbox:
    """The statements of one writer."""

    def __init__(
        self, writer: str, table: str, schema: str | None, *, hold: float, longest: float, versions: bool
    ) -> None:
        self._writer = writer
        self._table = ident(table) if schema is None else ident(schema, table)
        self._hold, self._longest, self._versions = hold, longest, versions

    def changed(self, keys: Sequence[str]) -> Sql:
        """These keys differ, or may."""
        return self._sql(
            "INSERT INTO <outbox> (writer, key)"
            " SELECT CAST(? AS text), jsonb_array_elements_text(CAST(CAST(? AS text) AS jsonb))",
            self._writer, json.dumps(list(dict.fromkeys(keys))),
        )  # fmt: skip

    def now(self) -> Sql:
        """The database's time, in seconds."""
        return plain("SELECT CAST(extract(epoch FROM clock_timestamp()) AS text)")

    def pick(self, until: str) -> Sql:
        """A key that was due at `until` and that nobody else is busy with: it is locked from now to the transaction's end.

        The answer is ``[key, version, timeout]``; the key's lock is on (writer, key). The subquery is not flattened
        (OFFSET), so that the lock is tried on one row after the other, and on none that is not wanted. A key that has
        failed waits for its next attempt also when it changes. No row is locked: that would take a transaction id, which
        holds up VACUUM everywhere as long as the call of the other store takes.
        """
        version = "CAST(pg_current_xact_id() AS text)" if self._versions else "NULL"
        return self._sql(
            f"SELECT CAST(json_build_array(key, {version},"
            " set_config('idle_in_transaction_session_timeout', CAST(? AS text), true)) AS text)"
            " FROM (SELECT key, hashtextextended(key, hashtextextended(writer, 0)) AS lock FROM <outbox> AS due"
            " WHERE writer = CAST(? AS text) AND next_at <= to_timestamp(CAST(CAST(? AS text) AS double precision))"
            " AND NOT EXISTS (SELECT FROM <outbox> AS failed WHERE failed.writer = due.writer AND failed.key = due.key"
            " AND failed.attempts > 0 AND failed.next_at > to_timestamp(CAST(CAST(? AS text) AS double precision)))"
            " ORDER BY next_at, id OFFSET 0) AS due WHERE pg_try_advisory_xact_lock(lock) LIMIT 1",
            str(round(self._hold * 1000)), self._writer, until, until,
        )  # fmt: skip

    def seen(self, key: str) -> Sql:
        """The rows of a key that are there now, as JSON; nothing where somebody else has just dealt with them."""
        return self._sql(
            "SELECT CAST(json_agg(id) AS text) FROM (SELECT id FROM <outbox>"
            f" WHERE writer = CAST(? AS text) AND key = CAST(? AS text) ORDER BY id LIMIT {_MOST}) AS seen",
            self._writer, key,
        )  # fmt: skip

    def done(self, seen: str) -> Sql:
        """These rows are dealt with: those and no others."""
        return self._sql(f"DELETE FROM <outbox> WHERE id IN ({_IDS})", seen)

    def failed(self, seen: str, error: str) -> Sql:
        """They are not: one of them stays, with what went wrong and when to try again: in so many seconds, is the answer."""
        return self._sql(
            f"WITH seen AS (SELECT min(id) AS kept, max(attempts) AS attempts, min(changed_at) AS changed_at"
            f" FROM <outbox> WHERE id IN ({_IDS})),"
            f" gone AS (DELETE FROM <outbox> WHERE id IN ({_IDS}) AND id <> (SELECT kept FROM seen))"
            " UPDATE <outbox> SET attempts = seen.attempts + 1, changed_at = seen.changed_at,"
            " last_error = CAST(? AS text), next_at = clock_timestamp() + make_interval(secs => (0.75 + random() / 2)"
            f" * least(CAST(CAST(? AS text) AS double precision), {_FIRST} * 2 ^ least(seen.attempts, 30)))"
            " FROM seen WHERE id = seen.kept RETURNING CAST(extract(epoch FROM <outbox>.next_at - clock_timestamp()) AS text)",
            seen, seen, error, str(self._longest),
        )  # fmt: skip

    def pending(self) -> Sql:
        """``[keys, failing keys, age of the oldest]``."""
        return self._sql(
            "SELECT CAST(json_build_array(count(DISTINCT key), count(DISTINCT key) FILTER (WHERE attempts > 0),"
            " coalesce(extract(epoch FROM clock_timestamp() - min(changed_at)), 0)) AS text)"
            " FROM <outbox> WHERE writer = CAST(? AS text)",
            self._writer,
        )  # fmt: skip

    def _sql(self, text: str, *values: str) -> Sql:
        return Sql([piece.replace("<outbox>", self._table) for piece in text.split("?")], list(values))
