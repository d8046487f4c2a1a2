"""The cursor of a backfill in the control schema: one row per relation, written in the batch's own transaction."""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill import statements
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session

# The bound is read here, after the sync trigger's transaction has committed: whoever writes beyond it has the trigger.
# A filenode that changed means that rows have moved (VACUUM FULL, CLUSTER) or gone (TRUNCATE): from the start again.
_ADOPT = """
INSERT INTO {state} AS state (migration, step, relation, relation_name, filenode, bound)
SELECT {migration}, {step}, {oid}, {name}, size.filenode, size.pages
FROM ({size}) AS size(filenode, pages) WHERE size.pages IS NOT NULL
ON CONFLICT (migration, step, relation) DO UPDATE
SET relation_name = excluded.relation_name, filenode = excluded.filenode, bound = excluded.bound, page = 0, stripe = 0,
    done = false, updated_at = clock_timestamp()
WHERE {again} OR state.filenode <> excluded.filenode
"""

_FIND = "SELECT filenode::bigint, bound, page, done FROM {state} WHERE {key}"

# Both halves ask for the filenode, under the lock that the UPDATE has on the relation: either both happen or none.
_FILL = """
WITH filled AS ({fill} RETURNING 1)
UPDATE {state} SET page = {page}, stripe = {stripe}, rows = rows + number.filled, updated_at = clock_timestamp()
FROM (SELECT count(*) AS filled FROM filled) AS number
WHERE {key} AND {unmoved}
RETURNING number.filled
"""

_UNMOVED = "filenode = pg_catalog.pg_relation_filenode(relation)"


class Moved(Exception):
    """The relation's file was replaced, or its state is gone: adopt it again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The stripe of the window at `page` that is next."""

    page: int
    stripe: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a relation's backfill stands."""

    relation: Relation
    filenode: int
    bound: int
    page: int
    done: bool


class Store:
    """The state rows of one step."""

    def __init__(self, session: Session, *, control_schema: str, migration: int, step: str) -> None:
        self._session = session
        self._table = sql.Identifier(control_schema, "backfill")
        self._migration, self._step = sql.Literal(migration), sql.Literal(step)

    def adopt(self, relation: Relation, *, again: bool) -> Cursor | None:
        """The relation's cursor, new where there was none or its file was replaced; None when it is gone.

        Args:
            again: begin at its first page, whatever was done.
        """
        statement = sql.SQL(_ADOPT).format(
            state=self._table,
            migration=self._migration,
            step=self._step,
            oid=sql.Literal(relation.oid),
            name=sql.Literal(str(relation)),
            size=statements.size(relation),
            again=sql.Literal(again),
        )
        self._session.patiently(lambda: self._insert(statement), schema=relation.schema, table=relation.name)
        found = self._session.read(sql.SQL(_FIND).format(state=self._table, key=self._key(relation)))
        if not found:
            return None
        filenode, bound, page, done = found[0]
        return Cursor(relation=relation, filenode=filenode, bound=bound, page=page, done=done)

    def all_done(self, relations: list[Relation]) -> bool:
        """Whether every relation was finished by an earlier run."""
        query = sql.SQL("SELECT count(*) FROM {} WHERE migration = {} AND step = {} AND done AND relation = ANY({})")
        oids = sql.Literal([relation.oid for relation in relations])
        return bool(
            self._session.read(query.format(self._table, self._migration, self._step, oids))[0][0] == len(relations)
        )

    def rows(self) -> int:
        """What was filled so far."""
        query = sql.SQL("SELECT coalesce(sum(rows), 0)::bigint FROM {} WHERE migration = {} AND step = {}")
        return int(self._session.read(query.format(self._table, self._migration, self._step))[0][0])

    def fill(
        self, relation: Relation, update: sql.Composable, position: Position, *, before: sql.Composable | None
    ) -> int:
        """Run `update` and move the cursor in one transaction.

        Raises:
            Moved: nothing was done.
        """
        statement = sql.SQL(_FILL).format(
            fill=sql.SQL("{} AND EXISTS (SELECT FROM {} WHERE {} AND {})").format(
                update, self._table, self._key(relation), sql.SQL(_UNMOVED)
            ),
            state=self._table,
            page=sql.Literal(position.page),
            stripe=sql.Literal(position.stripe),
            key=self._key(relation),
            unmoved=sql.SQL(_UNMOVED),
        )
        return self._one(self._session.write(statement, before=before))

    def move(self, relation: Relation, position: Position) -> None:
        """Move the cursor past pages without unfilled rows.

        Raises:
            Moved: it was not moved.
        """
        self._one(self._session.write(self._set(relation, sql.SQL("page = {}, stripe = {}"), position)))

    def finish(self, cursor: Cursor) -> None:
        """The relation is done.

        Raises:
            Moved: its file was replaced meanwhile.
        """
        position = Position(page=cursor.bound)
        done = self._set(cursor.relation, sql.SQL("page = {}, stripe = {}, done = true"), position)
        self._one(self._session.write_durably(done))

    def _insert(self, statement: sql.Composed) -> None:
        self._session.write(sql.SQL("{} RETURNING 1").format(statement))

    def _set(self, relation: Relation, values: sql.SQL, position: Position) -> sql.Composed:
        return sql.SQL("UPDATE {} SET {}, updated_at = clock_timestamp() WHERE {} AND {} RETURNING 0").format(
            self._table,
            values.format(sql.Literal(position.page), sql.Literal(position.stripe)),
            self._key(relation),
            sql.SQL(_UNMOVED),
        )

    def _key(self, relation: Relation) -> sql.Composed:
        return sql.SQL("(migration, step, relation) = ({}, {}, {})").format(
            self._migration, self._step, sql.Literal(relation.oid)
        )

    @staticmethod
    def _one(returned: list[tuple[Any, ...]]) -> int:
        if not returned:
            raise Moved
        return int(returned[0][0])


def forget(cursor: psycopg.Cursor[Any], *, control_schema: str, migration: int, step: str) -> None:
    """Delete what is known of a step's progress, in the caller's transaction: its data is about to be taken away."""
    cursor.execute(
        sql.SQL("DELETE FROM {} WHERE migration = %s AND step = %s").format(sql.Identifier(control_schema, "backfill")),
        (migration, step),
    )
