"""How one version reads rows through its models, and holds what it gets against the registry."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from zdmigrate.demo.entities import Entity, Satellite, other
from zdmigrate.demo.registry import Registry, Row
from zdmigrate.demo.values import as_neutral
from zdmigrate.demo.workload import Version, WrongValue

__all__ = ["Reader"]


class Reader:
    """Reads, compares, and takes down what is there before anybody writes."""

    def __init__(self, version: Version, registry: Registry, engine: sa.Engine) -> None:
        self.version = version
        self.registry = registry
        self.engine = engine

    def take_down(self, entity: Entity) -> None:
        """Enter every row that is there; every other one is reserved."""
        with Session(self.engine) as session:
            for number, main in enumerate(session.scalars(sa.select(entity.classes[self.version])).all()):
                row = Row(entity, self.key(entity, main), seeded=True, reserved=number % 2 == 1)
                row.saw(self.version, self.values_in(session, row, main))
                row.forget(other(self.version))
                self.registry.add(row)

    def compare(self, row: Row) -> None:
        with Session(self.engine) as session:
            row.saw(self.version, self.values_in(session, row, self.load(session, row)))

    def compare_all(self, entity: Entity) -> tuple[int, list[str]]:
        """Every row of an entity against the registry, while nobody is at work: how many there are, and what is wrong."""
        expected, wrong = {row.key: row for row in self.registry.rows(entity)}, []
        with Session(self.engine) as session:
            mains = session.scalars(sa.select(entity.classes[self.version])).all()
            for main in mains:
                key = self.key(entity, main)
                row = expected.pop(key, None)
                if row is not None:
                    try:
                        row.saw(self.version, self.values_in(session, row, main))
                    except WrongValue as error:
                        wrong.append(str(error))
                elif len(entity.classes) == 2 and not self.registry.is_doubtful(entity, key):
                    wrong.append(f"{self.version} finds {entity.name} {key!r}, which nobody inserted")
        wrong += [f"{row} is lost: {self.version} does not find it" for row in expected.values()]
        return len(mains), wrong

    def load(self, session: Session, row: Row) -> Any:
        return session.scalars(sa.select(row.entity.classes[self.version]).where(*self.where(row))).one_or_none()

    def values_in(self, session: Session, row: Row, main: Any) -> dict[str, object]:
        """The values of the version's fields in a row that was loaded."""
        if main is None:
            raise WrongValue(f"{row} is lost: {self.version} does not find it")
        objects = {row.entity.classes[self.version]: main}
        for satellite in row.entity.satellites[self.version]:
            statement = sa.select(satellite.cls).where(*self.joined(satellite, main))
            objects[satellite.cls] = session.scalars(statement).one_or_none()
        return {
            field.name: as_neutral(attribute.column.type, getattr(objects[attribute.cls], attribute.name, None))
            for field in row.entity.of(self.version)
            for attribute in [field.attributes[self.version]]
        }

    def where(self, row: Row) -> list[Any]:
        attributes = [row.entity.fields[name].attributes[self.version] for name in row.entity.identity]
        return [attribute.mapped == value for attribute, value in zip(attributes, row.key, strict=True)]

    def name(self, entity: Entity, field: str) -> str:
        return entity.fields[field].attributes[self.version].name

    def joined(self, satellite: Satellite, main: Any) -> list[Any]:
        return [getattr(satellite.cls, mine) == getattr(main, its) for mine, its in satellite.join]

    def key(self, entity: Entity, main: Any) -> tuple[object, ...]:
        """The identity of a row that was loaded."""
        return tuple(getattr(main, self.name(entity, name)) for name in entity.identity)
