"""Which classes and attributes of version N are which of N+1: an example's models and facts become entities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from zdmigrate.demo.entities import (
    Attribute,
    Entity,
    Field,
    Reference,
    Satellite,
    allowed_operations,
    attributes_of,
    table_of,
    unique_columns,
)
from zdmigrate.demo.example import Derived, Example, Values
from zdmigrate.demo.values import generic
from zdmigrate.demo.workload import Version
from zdmigrate.errors import UsageError

__all__ = ["entities"]


def entities(example: Example) -> list[Entity]:
    """The entities of an example.

    Raises:
        UsageError: a fact names what is not there, or one is missing; the message says which.
    """
    return list(_Pairing(example).entities())


class _Pairing:
    """The work of `entities`: classes, then fields, then references between what was found."""

    def __init__(self, example: Example) -> None:
        self._example = example
        self._path = example.folder / "example.py"
        self._models: Mapping[Version, Mapping[str, type[Any]]] = {Version.N: example.old, Version.NEXT: example.new}
        self._attributes = {
            (version, name): attributes_of(cls)
            for version, models in self._models.items()
            for name, cls in models.items()
        }
        self._same = {self._find(Version.N, old): self._find_or_none(new) for old, new in example.same.items()}
        self._nulls = {self._find_any(name): value for name, value in example.nulls.items()}
        self._up = {self._find(Version.NEXT, name): derived for name, derived in example.up.items()}
        self._down = {self._find(Version.N, name): derived for name, derived in example.down.items()}
        self._values = dict(self._chosen())
        self._counterparts = {name: self._counterpart(name) for name in example.old}

    def entities(self) -> Iterator[Entity]:
        """Without references first: those need to know all fields."""
        groups = list(self._groups())
        found = [self._entity(classes, satellites) for classes, satellites in groups]
        for entity in found:
            yield dataclasses.replace(entity, references=tuple(self._references(entity, found)))

    # -- names ---------------------------------------------------------------------------------------------------------

    def _find(self, version: Version, name: str) -> Attribute:
        class_, _, attribute = name.partition(".")
        found = self._attributes.get((version, class_), {}).get(attribute)
        if found is None:
            raise UsageError(f"{self._path}: version {version} maps no {name}")
        return found

    def _find_any(self, name: str) -> Attribute:
        """An attribute of N, or of N+1 alone."""
        class_, _, attribute = name.partition(".")
        found = self._attributes.get((Version.N, class_), {}).get(attribute)
        return found or self._find(Version.NEXT, name)

    def _find_or_none(self, name: str | None) -> Attribute | None:
        return None if name is None else self._find(Version.NEXT, name)

    def _chosen(self) -> Iterator[tuple[Attribute, Values]]:
        """`VALUES` by attribute; a name with a version in front of it comes last, and wins."""
        prefixes = {"old.": (Version.N,), "new.": (Version.NEXT,)}
        for name, values in sorted(self._example.values.items(), key=lambda item: item[0][:4] in prefixes):
            versions = prefixes.get(name[:4], tuple(Version))
            short = name[4:] if name[:4] in prefixes else name
            class_, _, attribute = short.partition(".")
            found = [self._attributes.get((version, class_), {}).get(attribute) for version in versions]
            if not any(found):
                raise UsageError(f"{self._path}: VALUES names {name}, which no version maps")
            yield from ((each, values) for each in found if each is not None)

    # -- classes -------------------------------------------------------------------------------------------------------

    def _counterpart(self, name: str) -> str | None:
        """The class of N+1 for a class of N."""
        for old, new in self._same.items():
            if new is not None and old.cls.__name__ == name and old.column.primary_key:
                return new.cls.__name__
        if name in self._example.new:
            return name
        targets = {n.cls.__name__ for o, n in self._same.items() if n is not None and o.cls.__name__ == name}
        free = targets - {*self._example.old}
        return free.pop() if len(free) == 1 else None

    def _groups(self) -> Iterator[tuple[dict[Version, type[Any]], dict[Version, tuple[Satellite, ...]]]]:
        satellites = dict(self._satellites())
        for name, cls in self._example.old.items():
            if (Version.N, name) in satellites:
                continue
            classes: dict[Version, type[Any]] = {Version.N: cls}
            counterpart = self._counterparts[name]
            if counterpart is not None:
                classes[Version.NEXT] = self._example.new[counterpart]
            yield classes, self._belonging(classes, satellites)
        for name, cls in self._example.new.items():
            if name not in self._counterparts.values() and (Version.NEXT, name) not in satellites:
                yield {Version.NEXT: cls}, {}

    def _satellites(self) -> Iterator[tuple[tuple[Version, str], type[Any]]]:
        """(version, satellite) -> the class it belongs to."""
        for old, new in self._same.items():
            if new is None:
                continue
            counterpart = self._counterparts[old.cls.__name__]
            if counterpart == new.cls.__name__:
                continue
            if counterpart is not None:
                yield (Version.NEXT, new.cls.__name__), self._example.new[counterpart]
            else:
                owner = next(o for o, n in self._counterparts.items() if n == new.cls.__name__)
                yield (Version.N, old.cls.__name__), self._example.old[owner]

    def _belonging(
        self, classes: dict[Version, type[Any]], satellites: dict[tuple[Version, str], type[Any]]
    ) -> dict[Version, tuple[Satellite, ...]]:
        return {
            version: tuple(
                self._satellite(self._models[v][name], owner)
                for (v, name), owner in satellites.items()
                if v is version and owner is cls
            )
            for version, cls in classes.items()
        }

    def _satellite(self, cls: type[Any], owner: type[Any]) -> Satellite:
        names = {attribute.column: attribute.name for attribute in attributes_of(owner).values()}
        for constraint in table_of(cls).foreign_key_constraints:
            if constraint.referred_table is table_of(owner):
                mine = {attribute.column: attribute.name for attribute in attributes_of(cls).values()}
                return Satellite(cls=cls, join=tuple((mine[e.parent], names[e.column]) for e in constraint.elements))
        raise UsageError(
            f"{self._path}: SAME says that {cls.__name__} belongs to {owner.__name__}, but it has no foreign key to it"
        )

    # -- fields --------------------------------------------------------------------------------------------------------

    def _entity(self, classes: dict[Version, type[Any]], satellites: dict[Version, tuple[Satellite, ...]]) -> Entity:
        mine = {version: list(self._all(version, classes, satellites)) for version in Version}
        fields = {field.name: field for field in self._fields(mine[Version.N], mine[Version.NEXT])}
        names = {cls.__name__ for cls in classes.values()}
        return Entity(
            name=classes.get(Version.N, classes.get(Version.NEXT, object)).__name__,
            classes=classes,
            satellites={version: satellites.get(version, ()) for version in Version},
            fields=fields,
            identity=self._identity(classes, fields),
            references=(),
            allowed=allowed_operations(self._example, names),
        )

    def _all(
        self, version: Version, classes: dict[Version, type[Any]], satellites: dict[Version, tuple[Satellite, ...]]
    ) -> Iterator[Attribute]:
        """The version's attributes; a satellite's key is nobody's business but its own."""
        if version not in classes:
            return
        yield from attributes_of(classes[version]).values()
        for satellite in satellites.get(version, ()):
            joined = {name for name, _ in satellite.join}
            for attribute in attributes_of(satellite.cls).values():
                if attribute.name not in joined and not attribute.numbered:
                    yield attribute

    def _fields(self, old: list[Attribute], new: list[Attribute]) -> Iterator[Field]:
        left = list(new)
        for attribute in old:
            partner = self._partner(attribute, left)
            if partner is None:
                yield self._field({Version.N: attribute}, self._down.get(attribute))
            else:
                left.remove(partner)
                yield self._field({Version.N: attribute, Version.NEXT: partner}, None)
        if left:
            self._refuse_silence([attribute for attribute in old if self._partner(attribute, new) is None], left)
        for attribute in left:
            yield self._field({Version.NEXT: attribute}, self._up.get(attribute))

    def _refuse_silence(self, old: list[Attribute], new: list[Attribute]) -> None:
        """Where both have something of their own it may be the same thing: compared is only what somebody paired."""
        silent = [str(attribute) for attribute in old if attribute not in self._same and attribute not in self._down]
        if silent:
            raise UsageError(
                f"{self._path}: is {', '.join(silent)} of N the same as {', '.join(map(str, new))} of N+1?",
                hint="give SAME, with None where it is not; DOWN and UP where one is computed from the other",
            )

    def _partner(self, attribute: Attribute, new: list[Attribute]) -> Attribute | None:
        if attribute in self._same:
            found = self._same[attribute]
            return found if found in new else None
        taken = {*self._same.values(), *self._up}
        if attribute in self._down:
            return None
        return next((a for a in new if a.name == attribute.name and a not in taken), None)

    def _field(self, attributes: dict[Version, Attribute], derive: Derived | None) -> Field:
        chosen = [self._values[attribute] for attribute in attributes.values() if attribute in self._values]
        make = chosen[0] if chosen else generic([attribute.column.type for attribute in attributes.values()])
        first = next(iter(attributes.values()))
        known = [a for a in attributes.values() if a.read_only or a.numbered or a.column.foreign_keys]
        if make is None and not known:
            types = " and ".join(f"{a.column.type!r} of {v}" for v, a in attributes.items())
            raise UsageError(
                f"{self._path}: no values can be made for {first} ({types})",
                hint="give VALUES; where both versions hold something else under one name, UP and DOWN",
            )
        only = next(iter(attributes)) if len(attributes) == 1 else None
        name = str(first) if only is None else f"{first} ({only})"
        nulls = next((self._nulls[attribute] for attribute in attributes.values() if attribute in self._nulls), None)
        return Field(name=name, attributes=attributes, make=make, chosen=bool(chosen), derive=derive, nulls=nulls)

    def _identity(self, classes: dict[Version, type[Any]], fields: dict[str, Field]) -> tuple[str, ...]:
        """The primary key of either version, if the other has its columns too; else a unique key of both."""
        keys = [
            [_field_of(column, version, fields) for column in table_of(cls).primary_key.columns]
            for version, cls in classes.items()
        ]
        keys += [[f.name] for f in fields.values() if _is_unique(f)]
        for key in keys:
            found = [name for name in key if name is not None and {*fields[name].attributes} == {*classes}]
            if found and len(found) == len(key):
                return tuple(found)
        names = " and ".join(cls.__name__ for cls in classes.values())
        raise UsageError(f"{self._path}: nothing identifies a row of {names} in both versions", hint="give SAME")

    # -- references ----------------------------------------------------------------------------------------------------

    def _references(self, entity: Entity, everything: list[Entity]) -> Iterator[Reference]:
        seen: set[tuple[str, ...]] = set()
        for version, cls in entity.classes.items():
            classes = [cls, *(satellite.cls for satellite in entity.satellites[version])]
            for constraint in (each for cls in classes for each in table_of(cls).foreign_key_constraints):
                found = self._reference(entity, version, constraint, everything)
                if found is not None and found.fields not in seen:
                    seen.add(found.fields)
                    yield found

    def _reference(
        self, entity: Entity, version: Version, constraint: sa.ForeignKeyConstraint, everything: list[Entity]
    ) -> Reference | None:
        locals_ = [_field_of(element.parent, version, entity.fields) for element in constraint.elements]
        fields = [name for name in locals_ if name is not None]
        if len(fields) < len(locals_) or any(entity.fields[name].chosen for name in fields):
            return None  # it is what joins a satellite, or somebody knows better
        writers = {writer for name in fields for writer in entity.fields[name].attributes}
        for target in everything:
            if writers <= {*target.classes} and table_of(target.classes[version]) is constraint.referred_table:
                remote = [_field_of(element.column, version, target.fields) for element in constraint.elements]
                columns = frozenset(element.parent.name for element in constraint.elements)
                return Reference(
                    fields=tuple(fields),
                    entity=target.name,
                    remote=tuple(name for name in remote if name is not None),
                    unique=any(columns >= unique for cls in entity.classes.values() for unique in unique_columns(cls)),
                )
        raise UsageError(
            f"{self._path}: {', '.join(fields)} refers to {constraint.referred_table.name}, which not every writing version maps",
            hint="give VALUES",
        )


def _field_of(column: sa.Column[Any], version: Version, fields: Mapping[str, Field]) -> str | None:
    """The name of the field that a version's column is."""
    return next(
        (f.name for f in fields.values() if version in f.attributes and f.attributes[version].column is column), None
    )


def _is_unique(field: Field) -> bool:
    return all(
        frozenset([attribute.column.name]) in unique_columns(attribute.cls) for attribute in field.attributes.values()
    )
