"""Mapped objects whose attributes are the columns of a pair: when they are flushed, the attribute that was not set follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import exc
from sqlalchemy.orm.attributes import instance_dict

from zdmigrate.app.dual.pairs import ABSENT, Pair, Unsayable, as_sql, without_value
from zdmigrate.app.dual.statements import Told

_PLAIN = frozenset((str, int, float, bool, bytes))


class Attributes(NamedTuple):
    """A pair of a mapped class, by its attributes' names."""

    old: str
    new: str
    pair: Pair
    same: bool
    """Whether a value is the other side's as it is, and None says nothing."""


def attributes(pairs: tuple[Pair, ...], mapper: orm.Mapper[Any]) -> tuple[Attributes, ...]:
    """The pairs both of whose columns a class maps, inherited ones included."""
    found = []
    for pair in pairs:
        try:
            old, new = (mapper.get_property_by_column(column).key for column in (pair.old, pair.new))
        except exc.UnmappedColumnError:
            continue
        same = pair.up.same and pair.down.same and not pair.closely
        found.append(Attributes(old, new, pair, same))
    return tuple(found)


def before_insert(found: tuple[Attributes, ...], state: Any, told: Told) -> None:
    """None says nothing of a new object: its column's default would be used."""
    target = state.obj()
    values = instance_dict(target)
    for old_key, new_key, pair, same in found:
        old, new = values.get(old_key), values.get(new_key)
        if same and new is None and type(old) in _PLAIN:  # nearly all there is: it costs least
            setattr(target, new_key, old)
            continue
        if old is None and new is None and not pair.closely:
            continue
        if old is not None and new is not None and not pair.inserts:
            continue
        _set(state, old_key, new_key, pair, (old, new), inserting=True, told=told)


def before_update(found: tuple[Attributes, ...], state: Any, told: Told) -> None:
    """The side whose value is another one than before has been changed."""
    before, target = state.committed_state, state.obj()
    values = instance_dict(target)
    for old_key, new_key, pair, same in found:
        if same and new_key not in before and type(value := values.get(old_key)) in _PLAIN:  # as above
            if old_key in before and not pair.old.type.compare_values(value, before[old_key]):
                setattr(target, new_key, value)
                continue
            if not pair.updates:
                continue
        elif old_key not in before and new_key not in before and not pair.updates:
            continue
        old = values.get(old_key) if _changed(pair.old, old_key, before, values) else ABSENT
        new = values.get(new_key) if _changed(pair.new, new_key, before, values) else ABSENT
        if (old is ABSENT) != (new is ABSENT) or (old is ABSENT and pair.updates and _flushed(state)):
            _set(state, old_key, new_key, pair, (old, new), inserting=False, told=told)


def _set(state: Any, old_key: str, new_key: str, pair: Pair, given: Any, *, inserting: bool, told: Told) -> None:
    target, values, mapper = state.obj(), state.dict, state.mapper

    def said(key: str, value: Any, column: sa.Column[Any]) -> Any:
        return ABSENT if value is None and not (column.type.should_evaluate_none and key in values) else value

    def other(column: sa.Column[Any]) -> Any:
        try:
            key = mapper.get_property_by_column(column).key
        except exc.UnmappedColumnError:
            key = None
        if key not in values:
            return without_value(column) if inserting else column
        return as_sql(values[key], column)

    old, new = given
    try:
        if inserting:
            old, new = pair.inserted(said(old_key, old, pair.old), said(new_key, new, pair.new), other)
        else:
            old, new = pair.updated(old, new, other)
    except Unsayable as reason:
        told(str(reason))
        return
    if old is not ABSENT:
        setattr(target, old_key, old)
    if new is not ABSENT:
        setattr(target, new_key, new)


def _changed(column: sa.Column[Any], key: str, before: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether the flush will write it, as SQLAlchemy decides that."""
    if key not in before:
        return False
    was, value = before[key], values.get(key)
    return was is not value and column.type.compare_values(value, was) is not True


def _flushed(state: Any) -> bool:
    """Whether there will be an UPDATE at all, in which defaults (``onupdate=``) are called."""
    session = state.session
    return session is not None and bool(session.is_modified(state.obj(), include_collections=False))


def synchronised(found: tuple[Attributes, ...], state: Any, keys: Collection[str]) -> None:
    """After an UPDATE the session has given an object the values of these attributes: the other side's follow. What the
    server has computed is expired already, on both sides.

    Raises:
        FunctionFailed: the application's function raised.
    """
    values, target = state.dict, state.obj()
    for old_key, new_key, pair, _ in found:
        if old_key not in keys and new_key not in keys and pair.updates:
            _expire(state, old_key, new_key)  # a default that was called for both
        for source, follower, way in ((old_key, new_key, pair.up), (new_key, old_key, pair.down)):
            if source not in keys or follower in keys:
                continue
            if source in values and way.in_python:
                orm.attributes.set_committed_value(target, follower, way.plain(values[source]))
            else:
                _expire(state, follower)


def _expire(state: Any, *keys: str) -> None:
    there = [key for key in keys if key in state.dict]
    if there and state.persistent:
        state.session.expire(state.obj(), there)
