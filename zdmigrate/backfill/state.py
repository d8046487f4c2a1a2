"""What a backfill knows of itself in the control schema: relations, windows under way, processes that take part.

A relation's row says up to which page windows were claimed (`page`) and what finished windows have filled (`rows`). A
window that is under way has a row of its own, which its batches change in their own transactions: whoever dies, and
wherever, another process takes the window over where its last batch was committed. Nothing is done on behalf of a window
that was taken over, or of a relation whose file was replaced: the same statement that fills asks for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from zdmigrate.backfill import statements
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Row, Session
from zdmigrate.backfill.windows import Pages

LEFTOVERS = -1
"""The page of the window that stands for what all others of its relation have left."""

# The bound is read here, after the sync trigger's transaction has committed: whoever writes beyond it has the trigger.
# A filenode that changed means that rows have moved (VACUUM FULL, CLUSTER) or gone (TRUNCATE): from the start again, and
# what was filled in windows under way is still counted.
_ADOPT = """
WITH size(filenode, pages) AS ({size}), stale AS (
    SELECT FROM {backfill} AS state, size WHERE {key} AND ({again} OR state.filenode <> size.filenode) FOR UPDATE OF state
), dropped AS (
    DELETE FROM {window} WHERE {key} AND EXISTS (SELECT FROM stale) RETURNING rows
)
INSERT INTO {backfill} AS state (migration, step, relation, relation_name, filenode, bound)
SELECT {migration}, {step}, {oid}, {name}, size.filenode, size.pages FROM size WHERE size.pages IS NOT NULL
ON CONFLICT (migration, step, relation) DO UPDATE
SET relation_name = excluded.relation_name, filenode = excluded.filenode, bound = excluded.bound, page = 0, stripe = 0,
    rows = state.rows + (SELECT coalesce(sum(rows), 0) FROM dropped), done = false, updated_at = clock_timestamp()
WHERE {again} OR state.filenode <> excluded.filenode
RETURNING 1
"""

# A relation that was dropped keeps its row.
_FIND = (
    "SELECT filenode::bigint, bound, page, done FROM {backfill} "
    "WHERE {key} AND pg_catalog.pg_relation_filenode(relation) IS NOT NULL"
)

_CLAIM = """
WITH next AS (
    SELECT page, least({pages}, bound - page) AS pages FROM {backfill}
    WHERE {key} AND page < bound AND NOT done AND {unmoved} FOR UPDATE
), moved AS (
    UPDATE {backfill} AS state SET page = next.page + next.pages, updated_at = clock_timestamp() FROM next WHERE {key}
)
INSERT INTO {window} (migration, step, relation, page, pages, stripes, process)
SELECT {migration}, {step}, {oid}, page, pages, {stripes}, {process} FROM next
RETURNING page, pages, stripe, stripes
"""

_ORPHANED = """
NOT EXISTS (
    SELECT FROM {process_table} AS owner LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = owner.backend
    WHERE owner.process = orphan.process AND owner.expires_at > clock_timestamp()
      AND session.pid IS NOT NULL AND coalesce(session.backend_start = owner.backend_start, true))
"""

_TAKE_OVER = (
    "UPDATE {window} AS taken SET process = {process}, claimed_at = clock_timestamp() WHERE {key} AND page = ("
    "SELECT page FROM {window} AS orphan WHERE {key} AND "
    + _ORPHANED
    + " ORDER BY page DESC LIMIT 1 FOR UPDATE SKIP LOCKED) "
    "RETURNING page, pages, stripe, stripes"
)

# Not before all others are done; whoever comes first has it.
_CLAIM_LEFTOVERS = """
INSERT INTO {window} (migration, step, relation, page, pages, stripes, process)
SELECT {migration}, {step}, {oid}, -1, bound, {stripes}, {process} FROM {backfill} AS state
WHERE {key} AND page >= bound AND NOT done AND {unmoved} AND NOT EXISTS (SELECT FROM {window} WHERE {key})
ON CONFLICT DO NOTHING
RETURNING page, pages, stripe, stripes
"""

# Locked first, so that nobody takes the window over between the two halves. Both ask whose it is, for the lease (which the
# fence has locked), and for the filenode under the lock that the UPDATE has on the relation: either both happen or none.
#
# How many of the updates were HOT is counted since the session's statistics were last sent, and WAL for the whole server:
# so both are read before and after.
_LOCK = """
SELECT FROM {window} WHERE {mine} FOR UPDATE;
SELECT pg_catalog.set_config('zdmigrate.hot', pg_catalog.pg_stat_get_xact_tuples_hot_updated({oid})::text, true),
       pg_catalog.set_config('zdmigrate.wal', pg_catalog.pg_current_wal_insert_lsn()::text, true)
"""
_FILL = """
WITH filled AS ({fill} AND EXISTS (SELECT FROM {window} WHERE {mine}) AND EXISTS ({current}) RETURNING 1)
UPDATE {window} SET stripe = {stripe}, rows = rows + number.filled
FROM (SELECT count(*) AS filled FROM filled) AS number
WHERE {mine} AND EXISTS ({current})
RETURNING number.filled,
    pg_catalog.pg_stat_get_xact_tuples_hot_updated({oid}) - pg_catalog.current_setting('zdmigrate.hot')::bigint,
    (pg_catalog.pg_current_wal_insert_lsn() - pg_catalog.current_setting('zdmigrate.wal')::pg_lsn)::bigint,
    pg_catalog.pg_current_xact_id()::text::bigint
"""

_CURRENT = "SELECT FROM {backfill} WHERE {key} AND {unmoved} AND EXISTS ({held})"

_KEY = "(migration, step, relation) = ({migration}, {step}, {oid})"
_MINE = "{key} AND page = {page} AND process = {process}"

_FINISH_WINDOW = """
WITH finished AS (DELETE FROM {window} WHERE {mine} AND EXISTS ({current}) RETURNING rows)
UPDATE {backfill} SET rows = {backfill}.rows + finished.rows, done = {done}, updated_at = clock_timestamp()
FROM finished WHERE {key}
RETURNING 1
"""

_UNMOVED = "filenode = pg_catalog.pg_relation_filenode(relation)"


class Moved(Exception):
    """The relation's file was replaced, or the window is no longer ours: nothing was done."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a relation's backfill stands: pages before `page` were claimed."""

    relation: Relation
    filenode: int
    bound: int
    page: int
    done: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Pages that this process has claimed, of which the stripes before `stripe` are done."""

    relation: Relation
    pages: Pages
    stripe: int
    stripes: int
    leftovers: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What a batch has done: `hot` of its `rows` were updated in their page, without touching an index.

    `wal` are the bytes that the whole server has written meanwhile, `transaction` is the batch's id.
    """

    rows: int
    hot: int
    wal: int
    transaction: int


class Store:
    """The rows of one step, as one process uses them. Its methods are called by one thread at a time."""

    def __init__(self, session: Session, *, control_schema: str, migration: int, step: str, process: int) -> None:
        self._session = session
        self._about: dict[Relation, dict[str, str]] = {}
        self._names = self._as_text({
            "backfill": sql.Identifier(control_schema, "backfill"),
            "window": sql.Identifier(control_schema, "backfill_window"),
            "process_table": sql.Identifier(control_schema, "backfill_process"),
            "migration": sql.Literal(migration),
            "step": sql.Literal(step),
            "process": sql.Literal(process),
            "unmoved": sql.SQL(_UNMOVED),
        })  # fmt: skip

    def adopt(self, relation: Relation, *, again: bool) -> Cursor | None:
        """The relation's cursor, new where there was none or its file was replaced; None when it is gone.

        Args:
            again: begin at its first page, whatever was done.
        """
        statement = self._sql(
            _ADOPT, relation, name=sql.Literal(str(relation)), size=statements.size(relation), again=sql.Literal(again)
        )
        self._patiently(relation, statement)
        found = self._session.read(self._sql(_FIND, relation))
        if not found:
            return None
        filenode, bound, page, done = found[0]
        return Cursor(relation=relation, filenode=filenode, bound=bound, page=page, done=done)

    def all_done(self, relations: list[Relation]) -> bool:
        """Whether every relation was finished by an earlier run."""
        query = (
            "SELECT count(*) FROM {backfill} "
            "WHERE migration = {migration} AND step = {step} AND done AND relation = ANY({oids})"
        )
        oids = sql.Literal([relation.oid for relation in relations])
        return bool(self._session.read(self._sql(query, oids=oids))[0][0] == len(relations))

    def rows(self) -> int:
        """What was filled so far, by whomever."""
        query = (
            "SELECT (coalesce((SELECT sum(rows) FROM {backfill} WHERE migration = {migration} AND step = {step}), 0) + "
            "coalesce((SELECT sum(rows) FROM {window} WHERE migration = {migration} AND step = {step}), 0))::bigint"
        )
        return int(self._session.read(self._sql(query))[0][0])

    def claim(self, relation: Relation, *, pages: int, stripes: int) -> Window | None:
        """The next pages that nobody has claimed; None: there are none."""
        wanted = self._sql(_CLAIM, relation, pages=sql.Literal(pages), stripes=sql.Literal(stripes))
        return self._window(relation, self._patiently(relation, wanted))

    def take_over(self, relation: Relation) -> Window | None:
        """A window whose process is gone. The leftovers are among them."""
        return self._window(relation, self._patiently(relation, self._sql(_TAKE_OVER, relation)))

    def claim_leftovers(self, relation: Relation, *, stripes: int) -> Window | None:
        """What all windows have left; None while one of them is under way, or where another process has it."""
        wanted = self._sql(_CLAIM_LEFTOVERS, relation, stripes=sql.Literal(stripes))
        return self._window(relation, self._patiently(relation, wanted))

    def fill(self, window: Window, update: sql.Composable, *, stripe: int, before: Iterable[sql.Composable]) -> Filled:
        """Run `update` and note in one transaction that the stripes before `stripe` are done; `before` goes first.

        Raises:
            Moved: nothing was done.
        """
        statement = self._of(window, _FILL, fill=update, stripe=sql.Literal(stripe))
        returned = self._session.write_batch(*before, self._of(window, _LOCK), statement)
        if not returned:
            self._session.refuse_lost()
            raise Moved
        rows, hot, wal, transaction = returned[0]
        return Filled(rows=rows, hot=hot, wal=wal, transaction=transaction)

    def finish(self, window: Window) -> None:
        """The window is done; with the leftovers, its relation. That is on disk when this returns.

        Raises:
            Moved: it was not noted.
        """
        statement = self._of(window, _FINISH_WINDOW, done=sql.Literal(window.leftovers))
        if not self._patiently(window.relation, statement, durably=window.leftovers):
            raise Moved

    def give_back(self, relation: Relation, windows: Sequence[Window]) -> None:
        """Leave windows of the relation that are still this process's to whoever comes first."""
        pages = sql.Literal([LEFTOVERS if window.leftovers else window.pages.first for window in windows])
        statement = (
            "UPDATE {window} SET process = 0 WHERE {key} AND process = {process} AND page = ANY({pages}) RETURNING 1"
        )
        self._patiently(relation, self._sql(statement, relation, pages=pages))

    def _patiently(self, relation: Relation, statement: sql.SQL, *, durably: bool = False) -> list[Row]:
        # A batch that gives way may have ended when it is told to: then what comes after it is cancelled.
        write = self._session.write_durably if durably else self._session.write
        return self._session.patiently(
            lambda: write(statement), schema=relation.schema, table=relation.name, despite=(errors.QueryCanceled,)
        )

    def _window(self, relation: Relation, found: list[Row]) -> Window | None:
        if not found:
            return None
        page, pages, stripe, stripes = found[0]
        leftovers = page == LEFTOVERS
        span = Pages(0, pages) if leftovers else Pages(page, page + pages)
        done = 0 if leftovers else stripe
        return Window(relation=relation, pages=span, stripe=done, stripes=stripes, leftovers=leftovers)

    def _of(self, window: Window, text: str, **more: sql.Composable) -> sql.SQL:
        page = LEFTOVERS if window.leftovers else window.pages.first
        mine = _MINE.format(**self._names_about(window.relation), page=page)
        return self._sql(text, window.relation, mine=sql.SQL(mine), **more)

    def _sql(self, text: str, relation: Relation | None = None, **more: sql.Composable) -> sql.SQL:
        names = self._names if relation is None else self._names_about(relation)
        return sql.SQL(text.format(**names, **self._as_text(more)))

    def _names_about(self, relation: Relation) -> dict[str, str]:
        """Composed once: with many short batches, composing is most of what this process does."""
        if relation not in self._about:
            names = self._names | self._as_text({"oid": sql.Literal(relation.oid), "held": self._session.held})
            names["key"] = _KEY.format(**names)
            self._about = {relation: names | {"current": _CURRENT.format(**names)}}
        return self._about[relation]

    def _as_text(self, names: Mapping[str, sql.Composable]) -> dict[str, str]:
        return {name: composed.as_string(self._session.connection) for name, composed in names.items()}


def forget(cursor: psycopg.Cursor[Any], *, control_schema: str, migration: int, step: str) -> None:
    """Delete what is known of a step's progress, in the caller's transaction: its data is about to be taken away."""
    cursor.execute(
        sql.SQL("DELETE FROM {} WHERE migration = %s AND step = %s").format(sql.Identifier(control_schema, "backfill")),
        (migration, step),
    )
