"""The application's side of ``sync="app"``: a version that maps both shapes of a column, and writes both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm.interfaces import EXT_CONTINUE
from sqlalchemy.sql.dml import Insert, Update

from zdmigrate.app.dual import objects
from zdmigrate.app.dual.pairs import Function, FunctionFailed, Pair, Way, by_table, column_of, paired, way
from zdmigrate.app.dual.statements import is_of, rewritten, table_of, writes_one_side

log = logging.getLogger("zdmigrate.app")

Column = sa.Column[Any] | orm.InstrumentedAttribute[Any]


class DualWrite:
    """Writes both columns where the application writes one, whatever writes through SQLAlchemy.

    Declared once, where the models are; it works from then on, in every engine and session of the process, sync and async::

        DualWrite.of("20261121_1432_email_address", metadata=Base.metadata)
        DualWrite(User.user_email, User.email_address)

    What the two columns hold is the same value, unless `up` (from the old column's to the new one's) and `down` (back) say
    otherwise: a Python function of one value, or a SQL expression over the row's columns. Functions are asked for None,
    too; where one cannot take it (TypeError, AttributeError), None stays None. What else they raise reaches the caller
    before anything is written. A SQL expression goes into the statement: objects are then inserted one by one, and the
    attribute is expired after the flush.

    Covered: objects of mapped classes (when they are flushed), bulk operations, ``insert()`` and ``update()`` of the ORM and
    of Core, on sessions and connections: values, lists of values, parameters, ``from_select``, ``on_conflict_do_update``,
    ``returning``; also on ``sa.table()`` and on a `Table` of another `MetaData`, where those have both columns.
    Compiled statements stay in the cache, and batches stay batches.

    * Where only one side is written, the other one follows. Where both are, both stay as written, also if they disagree.
    * Of a new row, a side that is NULL or the column's constant default counts as not written beside one that is not.
      Python-side defaults (``default=``, ``onupdate=``) are called once for both sides.
    * Values that the server makes (``server_default``) are the server's business.

    Not covered, and found by the guard that the migration puts on the table: SQL as text, ``exec_driver_sql``, COPY, a statement
    within a CTE, and volatile SQL expressions, which the server computes once for each column. For statements by hand there
    is `values`. A statement that cannot be rewritten is executed as it is, and named once in the log ``zdmigrate.app``.

    It sends nothing, takes no lock, and never fails for what it does not know. `remove` undoes it.

    Raises:
        ValueError: the columns cannot be kept equal in this way; the message says why.
    """

    def __init__(self, old: Column, new: Column, *, up: Function | None = None, down: Function | None = None) -> None:
        if (up is None) != (down is None):
            raise ValueError("give both up= (from the old value to the new one) and down= (back), or neither")
        source, target = column_of(old), column_of(new)
        self._begin([paired(way(source, target, up), way(target, source, down))])

    @classmethod
    def of(
        cls,
        migration: str,
        *,
        metadata: sa.MetaData,
        folder: str | Path = "migrations",
        up: Mapping[str, Function] | None = None,
        down: Mapping[str, Function] | None = None,
    ) -> Self:
        """All pairs of columns of a migration with ``sync="app"``, from its file.

        `migration` is its id, or a unique beginning of it; the `folder` of the migrations is part of the application's image,
        as Alembic's is. Where a type changes along with the name, `up` by the new column's name and `down` by the old one's
        may give functions, ``up={"email_address": str.lower}``; else the migration's SQL is used. With both, SQL is used for
        values that are SQL expressions themselves.

        Raises:
            ValueError: there is no such migration or it is wrong; a column is not mapped; triggers do the work; or a new
                column has no name of its own.
        """
        from zdmigrate.app.dual.declared import declared_pairs

        made = cls.__new__(cls)
        made._begin(declared_pairs(migration, folder, metadata, up or {}, down or {}))
        return made

    def _begin(self, pairs: Sequence[Pair]) -> None:
        self._pairs = tuple(pairs)
        self._tables = by_table(self._pairs)
        self._names = frozenset(pair.table.name for pair in self._pairs)
        self._attributes: dict[Any, tuple[objects.Attributes, ...]] = {}
        self._said: set[str] = set()
        self.install()

    @property
    def columns(self) -> tuple[tuple[sa.Column[Any], sa.Column[Any]], ...]:
        """The pairs, old and new."""
        return tuple((pair.old, pair.new) for pair in self._pairs)

    def values(self, values: Mapping[str, Any], *, table: str | None = None) -> dict[str, Any]:
        """`values` by columns' names, and what belongs beside them: for statements without SQLAlchemy.

        ``dual.values({"user_email": "x"})`` is ``{"user_email": "x", "email_address": "x"}``. `table` tells columns of one
        name apart.

        Raises:
            ValueError: only SQL is known for a value.
        """
        made = dict(values)
        for pair in self._pairs:
            if table not in (None, pair.table.name):
                continue
            for one in (pair.up, pair.down):
                if one.source.name in values and one.target.name not in values:
                    made[one.target.name] = _by_hand(one, values[one.source.name])
        return made

    # Hooks.

    def install(self) -> Self:
        """Once more, after `remove`. Where it is installed already, nothing happens."""
        for target, name, listener, options in self._hooks():
            if not event.contains(target, name, listener):
                event.listen(target, name, listener, **options)
        return self

    def remove(self) -> None:
        """Nothing is written twice from now on."""
        for target, name, listener, _ in self._hooks():
            if event.contains(target, name, listener):
                event.remove(target, name, listener)

    def _hooks(self) -> Sequence[tuple[Any, str, Any, dict[str, Any]]]:
        # Of all mappers: so classes that are mapped later are found, and those that inherit.
        raw = {"raw": True, "retval": True}
        return (
            (orm.Mapper, "before_insert", self._before_insert, raw),
            (orm.Mapper, "before_update", self._before_update, raw),
            (orm.Mapper, "refresh", self._refresh, {"raw": True}),
            (sa.Engine, "before_execute", self._before_execute, {"retval": True}),
        )

    def _before_insert(self, mapper: orm.Mapper[Any], connection: sa.Connection, state: Any) -> Any:
        found = self._attributes.get(mapper)
        if found is None:
            found = self._mapped(mapper)
        if found:
            try:
                objects.before_insert(found, state, self._tell)
            except FunctionFailed as failed:
                raise _cause(failed) from None
        return EXT_CONTINUE

    def _before_update(self, mapper: orm.Mapper[Any], connection: sa.Connection, state: Any) -> Any:
        found = self._attributes.get(mapper)
        if found is None:
            found = self._mapped(mapper)
        if found:
            try:
                objects.before_update(found, state, self._tell)
            except FunctionFailed as failed:
                raise _cause(failed) from None
        return EXT_CONTINUE

    def _mapped(self, mapper: orm.Mapper[Any]) -> tuple[objects.Attributes, ...]:
        found = self._attributes.get(mapper)
        if found is None:
            found = self._attributes[mapper] = objects.attributes(self._pairs, mapper)
        return found

    def _refresh(self, state: Any, context: Any, attributes: Any) -> None:
        """Without a context: a session that has executed an UPDATE takes over its values."""
        if context is None and (found := self._mapped(state.mapper)):
            try:
                objects.synchronised(found, state, attributes or ())
            except FunctionFailed as failed:
                raise _cause(failed) from None

    def _before_execute(
        self, connection: sa.Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        if not isinstance(statement, Insert | Update):
            return statement, multiparams, params
        given = multiparams or ([params] if params else [])
        try:
            statement, sets = self._rewritten(statement, given)
        except FunctionFailed as failed:
            raise _cause(failed) from None
        if sets is given:
            return statement, multiparams, params
        return (statement, [], sets[0]) if len(sets) == 1 else (statement, sets, {})

    def _rewritten(self, statement: Any, sets: Any) -> tuple[Any, Any]:
        table = table_of(statement)
        pairs: Sequence[Pair] | None = self._tables.get(table)
        if pairs is None and isinstance(table, sa.Alias):
            pairs = self._tables.get(table.element)
        if pairs is None and getattr(table, "name", None) not in self._names:
            return statement, sets
        try:
            if pairs is None:
                return rewritten(self._of_that_name(table, statement, sets), statement, sets, self._tell)
            return rewritten(pairs, statement, sets, self._tell)
        except FunctionFailed:
            raise
        except Exception as error:  # noqa: BLE001  # another release of SQLAlchemy: the application goes on
            self._tell(f"{type(error).__name__}: {error}")
            return statement, sets

    def _of_that_name(self, table: Any, statement: Any, sets: Any) -> list[Pair]:
        """An object that is not the declared table, and may well mean it."""
        found = []
        for pair in self._pairs:
            declared = pair.table
            if (table.name, table.schema or "public") != (declared.name, declared.schema or "public"):
                continue
            if is_of(pair, table):
                found.append(pair)
            elif writes_one_side(pair, statement, sets):
                self._tell(
                    f"it uses another object for the table {table.name}, which does not have {pair.old.name} and "
                    f"{pair.new.name} as {declared.fullname} of the declaration has them"
                )
        return found

    def _tell(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning("a statement writes only one side of %s: %s", self, reason)

    def __repr__(self) -> str:
        return f"DualWrite({', '.join(f'{pair.old} and {pair.new.name}' for pair in self._pairs)})"


def _cause(failed: FunctionFailed) -> BaseException:
    assert failed.__cause__ is not None
    return failed.__cause__


def _by_hand(one: Way, value: Any) -> Any:
    if not one.in_python:
        raise ValueError(f"only SQL is known for {one.target}: give a Python function")
    try:
        return one.plain(value)
    except FunctionFailed as failed:
        raise _cause(failed) from None
