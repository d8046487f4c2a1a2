"""What must be in every row: the values that were written to it last, by whichever version."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zdmigrate.demo.entities import Attribute, Entity, other
from zdmigrate.demo.workload import Version, WrongValue

__all__ = ["Registry", "Row"]

_TRIES = 20


class Row:
    """One row. Whoever asks the database about it holds `lock` meanwhile, and so knows what the answer must be.

    `values` has what is known, by field. What a version alone has becomes unknown when the other one inserts the row
    or writes what only that one has; the next read then finds it out, and it must stay so.
    """

    def __init__(self, entity: Entity, key: tuple[object, ...], *, seeded: bool, reserved: bool = False) -> None:
        self.entity = entity
        self.key = key
        self.seeded = seeded
        self.reserved = reserved
        """Nobody writes it, so that it can be compared with what another way of migrating makes of it."""
        self.lock = threading.Lock()
        self.alive = True
        self.pinned = False
        """Others refer to it."""
        self.writer: Version | None = None
        self.values: dict[str, object] = dict(zip(entity.identity, key, strict=True))
        self.nulls: set[str] = set()
        """Fields in which NULL was written, and not every version can hold it."""

    def __str__(self) -> str:
        return f"{self.entity.name} {self.key[0]!r}" if len(self.key) == 1 else f"{self.entity.name} {self.key!r}"

    def wrote(self, version: Version, values: Mapping[str, object], *, inserted: bool = False) -> None:
        """A version wrote these fields."""
        changed = {name for name, value in values.items() if inserted or self.values.get(name, _NEVER) != value}
        self.writer = version
        for name, value in values.items():
            self._know(name, value)
        alone = any(self.entity.fields[name].only is version for name in changed)
        for field in self.entity.only(other(version)):
            if field.derive is not None:
                self._derive(field.name, version, changed, inserted=inserted)
            elif inserted or alone:
                self.values.pop(field.name, None)
        for field in self.entity.generated(version):
            if field.derive is not None:
                self._derive(field.name, other(version), changed, inserted=inserted)
            elif changed:
                self.values.pop(field.name, None)

    def saw(self, version: Version, found: Mapping[str, object]) -> None:
        """A version read these fields: what is known must be so.

        Raises:
            WrongValue: it is not.
        """
        for name, value in found.items():
            attribute = self.entity.fields[name].attributes[version]
            must = [self.values[name]] if name in self.values else self._of_null(name, attribute)
            if must and value not in must:
                raise WrongValue(
                    f"{version} reads {value!r} in {attribute} of {self}, "
                    f"it must be {' or '.join(map(repr, must))}, last written by {self.writer or 'the seed'}"
                )
            if name not in self.values:
                self._know(name, value)

    def forget(self, version: Version) -> None:
        """What only this version has is gone, or will be made anew of what the other one has."""
        for field in self.entity.only(version):
            if field.derive is not None:
                self._derive(field.name, other(version), set(), inserted=True)
            else:
                self.values.pop(field.name, None)

    def _know(self, name: str, value: object) -> None:
        if value is None and not self.entity.fields[name].holds_null:
            self.values.pop(name, None)
            self.nulls.add(name)
        else:
            self.values[name] = value
            self.nulls.discard(name)

    def _of_null(self, name: str, attribute: Attribute) -> list[object]:
        """What a NULL may have become: it stays one for a while, but never for a version that cannot hold it."""
        nulls = self.entity.fields[name].nulls
        if name not in self.nulls or nulls is None:
            return []
        return [nulls, None] if attribute.column.nullable else [nulls]

    def _derive(self, name: str, version: Version, changed: set[str], *, inserted: bool) -> None:
        field = self.entity.fields[name]
        assert field.derive is not None
        inputs = _Inputs(self, version)
        try:
            value = field.derive(inputs)
        except _Unknown:
            self.values.pop(name, None)
        else:
            if inserted or inputs.used & changed:
                self._know(name, value)


class _Unknown(Exception):
    """A value that is asked for was never seen."""


class _Inputs(dict[str, Any]):
    """A row's values by a version's attributes; remembers which fields were asked for."""

    def __init__(self, row: Row, version: Version) -> None:
        super().__init__()
        self._values = row.values
        self._names = {field.attributes[version].name: field.name for field in row.entity.of(version)}
        self.used: set[str] = set()

    def __missing__(self, name: str) -> Any:
        field = self._names[name]
        self.used.add(field)
        if field not in self._values:
            raise _Unknown(name)
        return self._values[field]


_NEVER = object()


class Registry:
    """All rows of all entities."""

    def __init__(self, entities: list[Entity]) -> None:
        self.entities = {entity.name: entity for entity in entities}
        self._lock = threading.Lock()
        self._doubtful: set[tuple[str, tuple[object, ...]]] = set()
        self._rows: dict[str, list[Row]] = {entity.name: [] for entity in entities}

    def add(self, row: Row) -> None:
        with self._lock:
            self._rows[row.entity.name].append(row)

    def remove(self, row: Row) -> None:
        """It is about to be deleted."""
        with self._lock:
            if row.alive:
                rows = self._rows[row.entity.name]
                rows[rows.index(row)] = rows[-1]
                rows.pop()
            row.alive = False

    def doubt(self, row: Row) -> None:
        """A request failed, and nobody knows what is in the row now: one finding is enough."""
        self.remove(row)
        self._doubtful.add((row.entity.name, row.key))

    def is_doubtful(self, entity: Entity, key: tuple[object, ...]) -> bool:
        """Whether a row is among those that nobody knows any more."""
        return (entity.name, key) in self._doubtful

    def rows(self, entity: Entity) -> list[Row]:
        with self._lock:
            return list(self._rows[entity.name])

    def choose(self, entity: Entity, chance: random.Random, fits: Callable[[Row], bool]) -> Row | None:
        """A row that fits, at random."""
        with self._lock:
            rows = self._rows[entity.name]
            if not rows:
                return None
            tried = [chance.choice(rows) for _ in range(_TRIES)]
            found = next((row for row in tried if row.alive and fits(row)), None)
            return found or next((row for row in rows if row.alive and fits(row)), None)

    def stop(self, version: Version) -> None:
        """The version's shape is about to go."""
        for entity in self.entities.values():
            if {*entity.classes} == {version}:
                with self._lock:
                    self._rows[entity.name].clear()
            else:
                for row in self.rows(entity):
                    row.forget(version)

    def untouched(self) -> Iterator[Row]:
        """Rows of the seed that nobody wrote."""
        for entity in self.entities.values():
            yield from (row for row in self.rows(entity) if row.seeded and row.writer is None)
