"""The application of one version: what it asks of the database through its models, and what it must get.

Everything goes through SQLAlchemy's mapped classes, on connections that prepare nothing: what prepared statements meet
is another question, and has tests of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert_into
from sqlalchemy.orm import Session

from zdmigrate.demo.entities import Entity, Field, Reference, Satellite, table_of
from zdmigrate.demo.reader import Reader
from zdmigrate.demo.registry import Registry, Row
from zdmigrate.demo.workload import Version, WrongValue

__all__ = ["Application"]

_KEPT = 10
"""Rows that a version leaves of those it inserted, for the others to read."""
_BEYOND = 1_000_000_000
"""Where numbers begin that are given to a column which the database counts."""


class Application(Reader):
    """One version's requests, by one thread. The names of `OPERATIONS` are its methods."""

    def __init__(
        self, version: Version, registry: Registry, engine: sa.Engine, numbers: itertools.count[int], chance: random.Random
    ) -> None:
        super().__init__(version, registry, engine)
        self._numbers = numbers
        self._chance = chance

    def operations(self, entity: Entity, *, both: bool) -> list[str]:
        """What the version can do with an entity; `both` versions are at work, or this one alone."""
        if self.version not in entity.classes:
            return []
        fields = entity.of(self.version)
        possible = {
            "insert": True,
            "insert_minimal": any(not field.attributes[self.version].required for field in self._insertable(entity)),
            "insert_nulls": any(self._takes_null(entity, field) for field in fields),
            "read": True,
            "read_other": both and len(entity.classes) == 2,
            "update": bool(entity.writable(self.version)),
            "delete": True,
            "upsert": bool(self._upserts(entity)),
        }
        return [name for name, can in possible.items() if can and name in entity.allowed]

    def request(self, entity: Entity, operation: str) -> None:
        """Do one of the operations.

        Raises:
            WrongValue: something else was read than what was written.
            sqlalchemy.exc.SQLAlchemyError: the request failed.
        """
        getattr(self, operation)(entity)

    # -- operations ----------------------------------------------------------------------------------------------------

    def insert(self, entity: Entity) -> None:
        """A row with a value in every column, through the unit of work."""
        self._insert(entity, self._values(entity, self._insertable(entity)))

    def insert_nulls(self, entity: Entity) -> None:
        """The same, with NULL wherever the model allows it."""
        nulls = {field.name for field in entity.of(self.version) if self._takes_null(entity, field)}
        given = [field for field in self._insertable(entity) if field.name not in nulls]
        self._insert(entity, self._values(entity, given) | dict.fromkeys(nulls))

    def insert_minimal(self, entity: Entity) -> None:
        """Only what is required, with an INSERT that names nothing else."""
        required = [field for field in self._insertable(entity) if field.attributes[self.version].required]
        values = self._values(entity, [f for f in required if f in entity.mine(self.version)])
        cls = entity.classes[self.version]
        identity = [entity.fields[name].attributes[self.version].mapped for name in entity.identity]
        statement = sa.insert(cls).values({self.name(entity, n): v for n, v in values.items()}).returning(*identity)
        with Session(self.engine) as session:
            key = tuple(session.execute(statement).one())
            session.commit()
        self._inserted(entity, key, values)

    def read(self, entity: Entity) -> None:
        """Any row, of which there are more from the seed than from anybody else."""
        row = self._locked(entity, lambda row: True)
        if row is None:
            self.insert(entity)
        else:
            self._read_back(row)

    def read_other(self, entity: Entity) -> None:
        """A row that the other version wrote last."""
        row = self._locked(entity, lambda row: row.writer not in (None, self.version))
        if row is None:
            self.read(entity)
        else:
            self._read_back(row)

    def update(self, entity: Entity) -> None:
        """One attribute of any row: read it, change it, save it, as an ORM does; or without looking."""
        row = self._locked(entity, lambda row: not row.reserved)
        if row is None:
            return self.insert(entity)
        fields = [self._chance.choice(entity.writable(self.version))]
        reference = entity.reference(fields[0].name)
        if reference is not None:
            fields = [entity.fields[name] for name in reference.fields]
        try:
            values = self._values(entity, fields)
            self._update(row, values)
            row.wrote(self.version, values)
            self.compare(row)
        except BaseException:
            self.registry.remove(row)
            raise
        finally:
            row.lock.release()
        return None

    def delete(self, entity: Entity) -> None:
        """A row that was inserted since the beginning, and that nobody refers to."""
        spare = sum(1 for row in self.registry.rows(entity) if not row.seeded)
        row = self._locked(entity, lambda row: not (row.seeded or row.pinned)) if spare > _KEPT else None
        if row is None:
            return self.insert(entity)
        try:
            self.registry.remove(row)
            with Session(self.engine) as session:
                found = self.load(session, row)
                if found is None:
                    raise WrongValue(f"{row} is lost: {self.version} wanted to delete it")
                for satellite in entity.satellites[self.version]:
                    session.execute(sa.delete(satellite.cls).where(*self.joined(satellite, found)))
                session.delete(found)
                session.commit()
                if self.load(session, row) is not None:
                    raise WrongValue(f"{row} is there after {self.version} deleted it")
        finally:
            row.lock.release()
        return None

    def upsert(self, entity: Entity) -> None:
        """``INSERT … ON CONFLICT`` on a unique key, for a row that is there, or is not."""
        key = self._chance.choice(self._upserts(entity))
        row = None
        if self._chance.random() < 0.5:
            row = self._locked(entity, lambda r: not r.reserved and all(r.values.get(name) is not None for name in key))
        try:
            self._upsert(entity, key, row)
        except BaseException:
            if row is not None:
                self.registry.remove(row)
            raise
        finally:
            if row is not None:
                row.lock.release()

    # -- what they are made of -----------------------------------------------------------------------------------------

    def _insert(self, entity: Entity, values: Mapping[str, object]) -> Row:
        made: dict[type[Any], Any] = {}
        for name, value in values.items():
            attribute = entity.fields[name].attributes[self.version]
            obj = made.setdefault(attribute.cls, attribute.cls())
            setattr(obj, attribute.name, _sent(attribute.column, value))
        main = made.pop(entity.classes[self.version], None) or entity.classes[self.version]()
        with Session(self.engine, expire_on_commit=False) as session:
            session.add(main)
            session.flush()
            for satellite in entity.satellites[self.version]:
                if satellite.cls in made:
                    session.add(self._join(satellite, made[satellite.cls], main))
            key = self.key(entity, main)
            session.commit()
        return self._inserted(entity, key, values)

    def _inserted(self, entity: Entity, key: tuple[object, ...], values: Mapping[str, object]) -> Row:
        row = Row(entity, key, seeded=False)
        row.wrote(self.version, values, inserted=True)
        self.compare(row)
        self.registry.add(row)
        return row

    def _update(self, row: Row, values: Mapping[str, object]) -> None:
        entity = row.entity
        mine = {field.name for field in entity.mine(self.version)}
        if {*values} <= mine and self._chance.random() < 0.5:
            statement = sa.update(entity.classes[self.version]).where(*self.where(row))
            given = {self.name(entity, name): value for name, value in values.items()}
            with Session(self.engine) as session:
                result = session.execute(statement.values(given), execution_options={"synchronize_session": False})
                session.commit()
            if result.rowcount != 1:  # type: ignore[attr-defined]
                raise WrongValue(f"{row} is lost: {self.version} wanted to update it")
            return
        with Session(self.engine) as session:
            main = self.load(session, row)
            row.saw(self.version, self.values_in(session, row, main))
            for name, value in values.items():
                attribute = entity.fields[name].attributes[self.version]
                setattr(self._holder(session, entity, attribute.cls, main), attribute.name, value)
            session.commit()

    def _upsert(self, entity: Entity, key: tuple[str, ...], row: Row | None) -> None:
        mine = entity.mine(self.version)
        values = self._values(entity, [field for field in self._insertable(entity) if field in mine])
        for name in key:
            if row is not None:
                values[name] = row.values[name]
            elif name not in values:
                values[name] = _BEYOND + next(self._numbers)
        identity = [entity.fields[name].attributes[self.version].column for name in entity.identity]
        columns = {name: entity.fields[name].attributes[self.version].column for name in values}
        statement = upsert_into(table_of(entity.classes[self.version])).values(
            {columns[name]: value for name, value in values.items()}
        )
        changes = {name: value for name, value in values.items() if name in self._changed(entity, key)}
        statement = statement.on_conflict_do_update(
            index_elements=[columns[name] for name in key],
            set_={columns[name].name: statement.excluded[columns[name].name] for name in changes},
        )
        with self.engine.begin() as connection:
            found = tuple(connection.execute(statement.returning(*identity)).one())
        if row is None:
            self._inserted(entity, found, values)
            return
        if found != row.key:
            raise WrongValue(f"{self.version} upserted {row}, and found {found!r}")
        row.wrote(self.version, changes)
        self.compare(row)

    def _upserts(self, entity: Entity) -> list[tuple[str, ...]]:
        """The keys to upsert on, as far as something is left to be set."""
        return [key for key in entity.unique_keys(self.version) if self._changed(entity, key) and self._can_make(entity, key)]

    def _can_make(self, entity: Entity, key: Iterable[str]) -> bool:
        fields = [entity.fields[name] for name in key]
        return not any(entity.reference(f.name) or f.make is None for f in fields)

    def _changed(self, entity: Entity, key: tuple[str, ...]) -> set[str]:
        mine = {field.name for field in entity.mine(self.version)}
        return {field.name for field in entity.writable(self.version)} & mine - {*key}

    # -- values --------------------------------------------------------------------------------------------------------

    def _insertable(self, entity: Entity) -> list[Field]:
        found = []
        for field in entity.of(self.version):
            attribute = field.attributes[self.version]
            if not attribute.read_only and not attribute.numbered:
                found.append(field)
        return found

    def _takes_null(self, entity: Entity, field: Field) -> bool:
        column = field.attributes[self.version].column
        return bool(column.nullable) and not field.chosen and field in self._insertable(entity)

    def _values(self, entity: Entity, fields: Iterable[Field]) -> dict[str, object]:
        values: dict[str, object] = {}
        wanted = list(fields)
        for field in wanted:
            reference = entity.reference(field.name)
            if reference is not None:
                if field.name not in values:
                    values |= self._referred(entity, reference)
            elif field.make is not None:
                values[field.name] = field.make(self._chance, next(self._numbers))
        return {field.name: values[field.name] for field in wanted if field.name in values}

    def _referred(self, entity: Entity, reference: Reference) -> dict[str, object]:
        """A row of the seed, which stays; a new one where no two rows may refer to the same."""
        target = self.registry.entities[reference.entity]
        parent = None
        if not reference.unique:
            parent = self.registry.choose(target, self._chance, lambda row: row.seeded)
        if parent is None and target is not entity:
            parent = self._insert(target, self._values(target, self._insertable(target)))
        if parent is None:
            return dict.fromkeys(reference.fields)
        parent.pinned = True
        return {name: parent.values[remote] for name, remote in zip(reference.fields, reference.remote, strict=True)}

    # -- reading -------------------------------------------------------------------------------------------------------

    def _locked(self, entity: Entity, fits: Any) -> Row | None:
        """A row with its lock held; somebody may have deleted the first choice meanwhile."""
        while (row := self.registry.choose(entity, self._chance, fits)) is not None:
            row.lock.acquire()
            if row.alive and fits(row):
                return row
            row.lock.release()
        return None

    def _read_back(self, row: Row) -> None:
        try:
            self.compare(row)
        finally:
            row.lock.release()

    # -- satellites ----------------------------------------------------------------------------------------------------

    def _holder(self, session: Session, entity: Entity, cls: type[Any], main: Any) -> Any:
        """The object of a class that belongs to the row: it is made where it is not there yet."""
        if cls is entity.classes[self.version]:
            return main
        satellite = next(s for s in entity.satellites[self.version] if s.cls is cls)
        found = session.scalars(sa.select(cls).where(*self.joined(satellite, main))).one_or_none()
        if found is None:
            fields = [field for field in entity.of(self.version) if field.attributes[self.version].cls is cls]
            given = {field.attributes[self.version].name: value for field in fields if (value := self._made(field))}
            found = self._join(satellite, cls(**given), main)
            session.add(found)
        return found

    def _made(self, field: Field) -> object:
        if field.make is None or not field.attributes[self.version].required:
            return None
        return field.make(self._chance, next(self._numbers))

    def _join(self, satellite: Satellite, obj: Any, main: Any) -> Any:
        for mine, its in satellite.join:
            setattr(obj, mine, getattr(main, its))
        return obj


def _sent(column: sa.Column[Any], value: object) -> object:
    """NULL, also where None would be the JSON value null."""
    return sa.null() if value is None and isinstance(column.type, sa.JSON) else value
