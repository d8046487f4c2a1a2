"""INSERT and UPDATE statements of SQLAlchemy, so that they write both columns of a pair.

Values that come as parameters get further parameters, and the statement stays the object that it was: it is compiled
once, and a batch stays a batch. Values within a statement get others beside them, of the same form for the same form, so
the compiled statement is found in the cache, too. What a statement assigns has no public name in SQLAlchemy: it is
looked up defensively (`_assigned`, `_extended`, `_upsert`), and what is not found is not rewritten.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from zdmigrate.app.dual.pairs import ABSENT, Pair, Unsayable, Way, as_sql, without_value

Told = Callable[[str], None]
"""Hears of what could not be said."""
Sets = list[dict[str, Any]]
Assigned = dict[str, Any]
"""Values by the columns' keys: plain ones, or SQL expressions."""


def rewritten(pairs: Iterable[Pair], statement: Any, sets: Sequence[Mapping[str, Any]], told: Told) -> tuple[Any, Any]:
    """The statement and its sets of parameters, writing both columns of each pair; the very objects where they do.

    Raises:
        FunctionFailed: the application's function raised.
    """
    for pair in pairs:
        if statement.is_update:
            statement, sets = _Single(pair, statement, sets, told).made()
            continue
        if statement.select is not None:
            statement = _selected(pair, statement, told)
        elif getattr(statement, "_multi_values", ()):
            statement = _several(pair, statement, told)
        else:
            statement, sets = _Single(pair, statement, sets, told).made()
        statement = _upsert(pair, statement, told)
    return statement, sets


class _Single:
    """A statement with one row of values, from itself or for each set of parameters."""

    def __init__(self, pair: Pair, statement: Any, sets: Sequence[Mapping[str, Any]], told: Told) -> None:
        self.pair, self.statement, self.sets, self.told = pair, statement, sets, told
        self.values = _assigned(statement)
        self.first: Mapping[str, Any] = sets[0] if sets else {}
        self.more: list[tuple[str, Callable[[Mapping[str, Any]], Any]]] = []
        """Parameters that each set gets."""

    def made(self) -> tuple[Any, Any]:
        old, new = self.pair.old.key, self.pair.new.key
        try:
            if (old in self.first or new in self.first) and not (old in self.values or new in self.values):
                return self.by_parameters()
            if old not in self.values and new not in self.values and self.sets:
                return self.by_defaults()
            if (old in self.values) != (new in self.values) and (old in self.first or new in self.first):
                return self.statement, self.sets  # one here, one there: both are written
            if self.statement.is_update and not self.values:
                return self.statement, self.sets
            return self.by_values()
        except Unsayable as reason:
            self.told(str(reason))
            return self.statement, self.sets

    # Values in the parameters.

    def by_parameters(self) -> tuple[Any, Any]:
        pair, old, new = self.pair, self.pair.old.key, self.pair.new.key
        if old in self.first and new in self.first:
            return self.statement, self.sets if self.statement.is_update else self.blanks_filled()
        way = pair.up if old in self.first else pair.down
        source, target = way.source.key, way.target.key
        if way.in_python:
            return self.statement, [{**row, target: way.plain(row[source])} for row in self.sets]
        value = way.over(self.parameter(way.source), self.other)
        return self.extended({way.target: value})

    def blanks_filled(self) -> Sequence[Mapping[str, Any]]:
        """Rows in which one of the sides is there, but says nothing."""
        pair, made = self.pair, None
        old_key, new_key, plainly = pair.old.key, pair.new.key, not pair.inserts
        for number, row in enumerate(self.sets):
            old, new = row[old_key], row[new_key]
            if plainly and (old is None) == (new is None):
                continue
            old, new = pair.inserted(old, new, self.other)
            if old is not ABSENT or new is not ABSENT:
                made = made if made is not None else list(self.sets)
                key, value = (old_key, old) if old is not ABSENT else (new_key, new)
                if isinstance(value, ClauseElement):
                    raise Unsayable(f"{key} is a parameter, NULL in some rows, and only SQL is known for its value")
                made[number] = {**row, key: value}
        return self.sets if made is None else made

    def by_defaults(self) -> tuple[Any, Any]:
        """Nobody sets a side: each row gets one value of the default for both."""
        pair = self.pair
        old, new = self.unset()
        if old is ABSENT:
            return self.statement, self.sets
        if isinstance(old, ClauseElement) or isinstance(new, ClauseElement):
            return self.extended({pair.old: old, pair.new: new})
        pairs = [(old, new), *(self.unset() for _ in self.sets[1:])]
        keys = (pair.old.key, pair.new.key)
        return self.statement, [
            {**row, **dict(zip(keys, p, strict=True))} for row, p in zip(self.sets, pairs, strict=True)
        ]

    def unset(self) -> tuple[Any, Any]:
        given = self.pair.updated if self.statement.is_update else self.pair.inserted
        return given(ABSENT, ABSENT, self.other)

    # Values in the statement.

    def by_values(self) -> tuple[Any, Any]:
        pair = self.pair
        old, new = (self.values.get(column.key, ABSENT) for column in (pair.old, pair.new))
        if old is not ABSENT and new is not ABSENT and (_named(old) or _named(new)):
            return self.statement, self.sets
        for way, value in ((pair.up, old), (pair.down, new)):
            if _named(value) and way.function is not None:
                return self.by_named(way, value)
        given = pair.updated if self.statement.is_update else pair.inserted
        old, new = given(old, new, self.other)
        added = {column: value for column, value in ((pair.old, old), (pair.new, new)) if value is not ABSENT}
        return self.extended(added) if added else (self.statement, self.sets)

    def by_named(self, way: Way, value: BindParameter[Any]) -> tuple[Any, Any]:
        """The value comes under a name of its own: ``values(email=bindparam("e"))``."""
        if value.key not in self.first:
            return self.extended({way.target: way.plain(value.effective_value)})
        name = f"zd_{way.target.key}"
        self.more.append((name, lambda row: way.plain(row[value.key])))
        return self.extended({way.target: sa.bindparam(name, type_=way.target.type)})

    # Both.

    def parameter(self, column: sa.Column[Any]) -> ClauseElement:
        """A column's parameter, for an expression: its own name is reserved for the column."""
        name, key = f"zd_{column.key}", column.key
        self.more.append((name, lambda row: row[key]))
        return sa.cast(sa.bindparam(name, type_=column.type), column.type)

    def other(self, column: sa.Column[Any]) -> Any:
        if column.key in self.values:
            return as_sql(self.values[column.key], column)
        if column.key in self.first:
            return self.parameter(column)
        return _column(self.statement, column) if self.statement.is_update else without_value(column)

    def extended(self, added: Mapping[sa.Column[Any], Any]) -> tuple[Any, Any]:
        sets = self.sets
        if self.more:
            sets = [{**row, **{name: value(row) for name, value in self.more}} for row in sets]
        return _extended(self.statement, added), sets


def _several(pair: Pair, statement: Any, told: Told) -> Any:
    """``insert(…).values([{…}, {…}])``"""
    try:
        made = [[_row(pair, _named_row(statement, row)) for row in rows] for rows in statement._multi_values]
    except Unsayable as reason:
        told(str(reason))
        return statement
    changed = statement.execution_options()  # a copy
    changed._multi_values = tuple(made)
    return changed


def _named_row(statement: Any, row: Any) -> Mapping[Any, Any]:
    """One without names has values of the first columns, in their order."""
    return row if isinstance(row, Mapping) else dict(zip(statement.table.c.keys(), row, strict=False))


def _row(pair: Pair, row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    given = {_key(column): _value(value) for column, value in row.items()}

    def other(column: sa.Column[Any]) -> ClauseElement | None:
        return as_sql(given[column.key], column) if column.key in given else without_value(column)

    old, new = pair.inserted(given.get(pair.old.key, ABSENT), given.get(pair.new.key, ABSENT), other)
    names = {_key(column): column for column in row}
    return {
        **row,
        **({} if old is ABSENT else {names.get(pair.old.key, pair.old): old}),
        **({} if new is ABSENT else {names.get(pair.new.key, pair.new): new}),
    }


def _selected(pair: Pair, statement: Any, told: Told) -> Any:
    """``insert(…).from_select([…], select(…))``"""
    names = [_key(name) for name in getattr(statement, "_select_names", None) or ()]
    rows = statement.select.subquery()
    columns: dict[str, Any] = dict(zip(names, rows.c, strict=True))
    old, new = (columns.get(column.key, ABSENT) for column in (pair.old, pair.new))
    if old is not ABSENT and new is not ABSENT:
        return statement
    try:
        old, new = pair.inserted(old, new, lambda column: columns.get(column.key, without_value(column)))
    except Unsayable as reason:
        told(str(reason))
        return statement
    added = {column: value for column, value in ((pair.old, old), (pair.new, new)) if value is not ABSENT}
    if not added:
        return statement
    return statement.from_select(
        [*names, *(column.key for column in added)],
        sa.select(*rows.c, *(as_sql(value, column).label(f"zd_{column.key}") for column, value in added.items())),
        include_defaults=statement.include_insert_from_select_defaults,
    )


def _upsert(pair: Pair, statement: Any, told: Told) -> Any:
    """``ON CONFLICT … DO UPDATE SET``"""
    clause = getattr(statement, "_post_values_clause", None)
    if clause is None or isinstance(clause, postgresql.dml.OnConflictDoNothing):
        return statement
    given = getattr(clause, "update_values_to_set", None)
    if given is None:
        told(f"the clause {type(clause).__name__} after the values is not known")
        return statement
    values = {_key(column): _value(value) for column, value in dict(given).items()}
    try:
        added = dict(_conflicting(pair, statement, values))
    except Unsayable as reason:
        told(str(reason))
        return statement
    if not added:
        return statement
    changed, clause = statement.execution_options(), copy.copy(clause)
    columns = table_of(statement).c  # the declared table's may be another object's
    items = [*dict(given).items(), *((columns.get(column.key, column), value) for column, value in added.items())]
    clause.update_values_to_set = type(given)(items)
    changed._post_values_clause = clause
    return changed


def _conflicting(pair: Pair, statement: Any, values: Assigned) -> Iterable[tuple[sa.Column[Any], Any]]:
    def other(column: sa.Column[Any]) -> ClauseElement:
        return as_sql(values[column.key], column) if column.key in values else _column(statement, column)

    for way, back in ((pair.up, pair.down), (pair.down, pair.up)):
        if way.source.key not in values or back.source.key in values:
            continue
        value = values[way.source.key]
        row: Any = getattr(value, "table", None)
        if getattr(row, "name", None) == "excluded" and value.key == way.source.key:
            made: Any = row.c[way.target.key]  # what the row would have been inserted with
        else:
            made = way.of(value, other)
        yield way.target, made if isinstance(made, ClauseElement) else sa.literal(made, way.target.type)


# What SQLAlchemy has no public name for.


def table_of(statement: Any) -> Any:
    """The table that is written: of a class in several tables, a bulk operation has one statement for each."""
    notes = getattr(statement, "_annotations", None)
    if notes:
        for name in ("_emit_insert_table", "_emit_update_table"):
            if (table := notes.get(name)) is not None:
                return table
    return statement.table


def is_of(pair: Pair, table: Any) -> bool:
    """Whether another object for the same table (``sa.table()``, or a `Table` of another `MetaData`) does as well as the
    declared one: it may be of another database, so it has to know both columns itself."""
    there = [table.c.get(column.key) for column in (pair.old, pair.new)]
    names = [getattr(column, "name", None) for column in there]
    return table.schema == pair.table.schema and names == [pair.old.name, pair.new.name]


def writes_one_side(pair: Pair, statement: Any, sets: Sequence[Mapping[str, Any]]) -> bool:
    """Of a statement on such an object, by the columns' names."""
    keys = {
        *_assigned(statement),
        *(sets[0] if sets else ()),
        *map(_key, getattr(statement, "_select_names", None) or ()),
    }
    for rows in getattr(statement, "_multi_values", ()):
        keys.update(_key(column) for row in rows for column in _named_row(statement, row))
    columns = statement.table.c
    names = {columns[key].name if key in columns else key for key in keys}
    return (pair.old.name in names) != (pair.new.name in names)


def _assigned(statement: Any) -> Assigned:
    """What the statement itself assigns."""
    ordered = getattr(statement, "_ordered_values", None)  # up to 2.0
    given = dict(ordered) if ordered else getattr(statement, "_values", None)
    return {_key(column): _value(value) for column, value in given.items()} if given else {}


def _extended(statement: Any, added: Mapping[sa.Column[Any], Any]) -> Any:
    """The statement, assigning these as well."""
    ordered = getattr(statement, "_ordered_values", None)
    if ordered is None and getattr(statement, "_maintain_values_ordering", False):
        ordered = tuple(statement._values.items())
    if not ordered:
        return statement.values(dict(added))
    changed = statement.execution_options()
    changed._values = None
    changed.__dict__.pop("_ordered_values", None)
    changed.__dict__.pop("_maintain_values_ordering", None)
    return changed.ordered_values(*ordered, *added.items())


def _key(column: Any) -> str:
    return column if isinstance(column, str) else str(column.key)


def _value(value: Any) -> Any:
    """Plain, where a statement has only wrapped it for its parameters."""
    if isinstance(value, BindParameter) and value.unique and not value.required:
        return value.effective_value
    return value.__clause_element__() if hasattr(value, "__clause_element__") else value


def _named(value: Any) -> bool:
    """Whether it is a parameter with a name of the application's."""
    return isinstance(value, BindParameter)


def _column(statement: Any, column: sa.Column[Any]) -> ClauseElement:
    """In the table as the statement calls it.

    Raises:
        Unsayable: another object stands for the table there, without this column. The declared one would be a second table.
    """
    table = statement.table
    found: ClauseElement | None = table.c.get(column.key)
    if found is None and table is not column.table and getattr(table, "name", None) == column.table.name:
        raise Unsayable(f"{column} is read, too, and the statement's own Table object has no such column")
    return column if found is None else found
