"""What statements lock, read off the server in their own transaction and held against what is declared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import psycopg

from zdmigrate.errors import Unsafe
from zdmigrate.plan import LockMode, TableLock
from zdmigrate.postgres.session import Cursor

_STRENGTH = {mode: strength for strength, mode in enumerate(LockMode)}
# As pg_locks names them.
_MODES = {mode.title().replace(" ", "") + "Lock": mode for mode in LockMode}

# Our own tables are left out, and so are those of the system: every statement reads them.
_RELATIONS = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, coalesce(i.indrelid, c.oid)::bigint,
       ARRAY(SELECT h.inhparent::bigint FROM pg_inherits h WHERE h.inhrelid = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I') AND n.nspname <> ALL (%s) AND n.nspname !~ '^pg_(toast|temp)'
"""

_HELD = """
SELECT relation::bigint, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_REWRITES = "rewriting table"
_READS = ("verifying table", "validating foreign key constraint")
"""What the server says at debug1 when it reads all rows, also where there are none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Relation:
    schema: str
    name: str
    kind: str
    table: int
    """Itself, or the table that an index belongs to."""
    parents: tuple[int, ...]


class Watch:
    """Refuses a stronger lock than declared, on any relation that was there when the transaction began.

    What is declared for a partitioned table holds for its partitions, and an index counts as its table. Without a
    declaration a table may be read, rows that foreign keys point to may be locked, and a sequence may be drawn from.
    """

    def __init__(self, cursor: Cursor, declared: Sequence[TableLock], *, control: str, rewrites: bool) -> None:
        self._cursor = cursor
        self._rewrites = rewrites
        hidden = ["pg_catalog", "information_schema", control]
        self._relations = {
            oid: _Relation(schema=schema, name=name, kind=kind, table=table, parents=tuple(parents))
            for oid, schema, name, kind, table, parents in cursor.execute(_RELATIONS, (hidden,)).fetchall()
        }
        self._declared: dict[tuple[str, str], LockMode] = {}
        for lock in declared:
            self._declared[lock.schema, lock.name] = _stronger(self._declared.get((lock.schema, lock.name)), lock.mode)
        row = cursor.execute("SELECT pg_current_xact_id()::text").fetchone()
        self._transaction = None if row is None else row[0]

    @contextlib.contextmanager
    def over(self, what: str) -> Iterator[None]:
        """Look at what is executed inside; `what` is named in errors.

        Raises:
            Unsafe: it locked more than is declared, read or rewrote a table under a lock that blocks, or ended the
                transaction. The caller's transaction must not be committed.
        """
        said: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            said.append(diagnostic.message_primary or "")

        connection = self._cursor.connection
        self._cursor.execute("SET LOCAL client_min_messages = debug1")
        connection.add_notice_handler(note)
        try:
            yield
        finally:
            connection.remove_notice_handler(note)
        if self._current() != self._transaction:
            raise Unsafe(
                f"{what}: it ended the transaction in which it runs; what it did before is committed, but not recorded",
                hint="leave COMMIT and ROLLBACK to zdmigrate",
            )
        blocking = self._refuse_locks(what)
        if not self._rewrites:
            self._refuse_long(what, said, blocking=blocking)

    def _current(self) -> str | None:
        row = self._cursor.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
        return None if row is None else row[0]

    def _refuse_locks(self, what: str) -> bool:
        """Whether anything is blocked meanwhile."""
        blocking = False
        held = [(oid, _MODES[name]) for oid, name in self._cursor.execute(_HELD).fetchall() if oid in self._relations]
        for oid, mode in sorted(held, key=lambda lock: -_STRENGTH[lock[1]]):  # the worst is said
            relation = self._relations[oid]
            blocking = blocking or mode.blocks != "nothing"
            table = self._relations.get(relation.table, relation)
            allowed = self._allowed(table)
            if _STRENGTH[mode] > _STRENGTH[allowed or _undeclared(table)]:
                said = f"declares {allowed}" if allowed else "does not declare it"
                shown = f"{table.schema}.{table.name}"
                raise Unsafe(
                    f"{what}: it takes {mode} on {shown}, which blocks {mode.blocks}; the migration {said}",
                    hint=f'nothing was changed; declare what is meant, locks={{"{shown}": "{mode}"}}, or write it so that '
                    "it takes less",
                )
        return blocking

    def _allowed(self, table: _Relation) -> LockMode | None:
        """What is declared for the table or one that it is a partition of."""
        found = self._declared.get((table.schema, table.name))
        for oid in table.parents:
            if (parent := self._relations.get(oid)) is not None and (more := self._allowed(parent)) is not None:
                found = _stronger(found, more)
        return found

    def _refuse_long(self, what: str, said: Sequence[str], *, blocking: bool) -> None:
        for message in said:
            if message.startswith(_REWRITES) or (blocking and message.startswith(_READS)):
                raise Unsafe(
                    f"{what}: the server says {message!r}, under a lock that blocks others as long as that takes",
                    hint="nothing was changed; a constraint can be added NOT VALID and validated on its own, another type "
                    "needs another column; where the table is small: rewrites=True",
                )


def _undeclared(table: _Relation) -> LockMode:
    return LockMode.ROW_EXCLUSIVE if table.kind == "S" else LockMode.ROW_SHARE


def _stronger(one: LockMode | None, other: LockMode) -> LockMode:
    return other if one is None else max(one, other, key=_STRENGTH.__getitem__)
