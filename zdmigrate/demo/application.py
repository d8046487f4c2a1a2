"""The application of one version: what it asks of the database through its models, and what it must get.

Everything goes through SQLAlchemy's mapped classes, on connections that prepare nothing: what prepared statements meet
is another question, and has tests of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from zdmigrate.demo.entities import Entity
from zdmigrate.demo.registry import Row
from zdmigrate.demo.workload import WrongValue
from zdmigrate.demo.writer import Writer

__all__ = ["Application"]

_KEPT = 10
"""Rows that a version leaves of those it inserted, for the others to read."""


class Application(Writer):
    """One version's requests, by one thread. The names of `OPERATIONS` are its methods."""

    def operations(self, entity: Entity, *, both: bool) -> list[str]:
        """What the version can do with an entity; `both` versions are at work, or this one alone."""
        if self.version not in entity.classes:
            return []
        fields = entity.of(self.version)
        possible = {
            "insert": True,
            "insert_minimal": any(not field.attributes[self.version].required for field in self.insertable(entity)),
            "insert_nulls": any(self.takes_null(entity, field) for field in fields),
            "read": True,
            "read_other": both and len(entity.classes) == 2,
            "update": bool(entity.writable(self.version)),
            "delete": True,
            "upsert": bool(self.upserts(entity)),
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
        self.insert_row(entity, self.values_for(entity, self.insertable(entity)))

    def insert_nulls(self, entity: Entity) -> None:
        """The same, with NULL wherever the model allows it."""
        nulls = {field.name for field in entity.of(self.version) if self.takes_null(entity, field)}
        given = [field for field in self.insertable(entity) if field.name not in nulls]
        self.insert_row(entity, self.values_for(entity, given) | dict.fromkeys(nulls))

    def insert_minimal(self, entity: Entity) -> None:
        """Only what is required, with an INSERT that names nothing else."""
        required = [field for field in self.insertable(entity) if field.attributes[self.version].required]
        values = self.values_for(entity, [f for f in required if f in entity.mine(self.version)])
        cls = entity.classes[self.version]
        identity = [entity.fields[name].attributes[self.version].mapped for name in entity.identity]
        statement = sa.insert(cls).values(self.given(entity, values)).returning(*identity)
        with Session(self.engine) as session:
            key = tuple(session.execute(statement).one())
            session.commit()
        self.inserted(entity, key, values)

    def read(self, entity: Entity) -> None:
        """Any row, of which there are more from the seed than from anybody else."""
        row = self.locked(entity, lambda _: True)
        if row is None:
            self.insert(entity)
        else:
            self._read_back(row)

    def read_other(self, entity: Entity) -> None:
        """A row that the other version wrote last."""
        row = self.locked(entity, lambda row: row.writer not in (None, self.version))
        if row is None:
            self.read(entity)
        else:
            self._read_back(row)

    def update(self, entity: Entity) -> None:
        """One attribute of any row: read it, change it, save it, as an ORM does; or without looking."""
        row = self.locked(entity, lambda row: not row.reserved)
        if row is None:
            return self.insert(entity)
        fields = [self.chance.choice(entity.writable(self.version))]
        reference = entity.reference(fields[0].name)
        if reference is not None:
            fields = [entity.fields[name] for name in reference.fields]
        try:
            values = self.values_for(entity, fields)
            self.update_row(row, values)
            row.wrote(self.version, values)
            self.compare(row)
        except BaseException:
            self.registry.doubt(row)
            raise
        finally:
            row.lock.release()
        return None

    def delete(self, entity: Entity) -> None:
        """A row that was inserted since the beginning, and that nobody refers to."""
        spare = sum(1 for row in self.registry.rows(entity) if not row.seeded)
        row = self.locked(entity, lambda row: not (row.seeded or row.pinned)) if spare > _KEPT else None
        if row is None:
            return self.insert(entity)
        try:
            self.registry.remove(row)
            with Session(self.engine) as session:
                self._delete(session, row)
        except BaseException:
            self.registry.doubt(row)
            raise
        finally:
            row.lock.release()
        return None

    def _delete(self, session: Session, row: Row) -> None:
        found = self.load(session, row)
        if found is None:
            raise WrongValue(f"{row} is lost: {self.version} wanted to delete it")
        for satellite in row.entity.satellites[self.version]:
            session.execute(sa.delete(satellite.cls).where(*self.joined(satellite, found)))
        session.delete(found)
        session.commit()
        if self.load(session, row) is not None:
            raise WrongValue(f"{row} is there after {self.version} deleted it")

    def upsert(self, entity: Entity) -> None:
        """``INSERT … ON CONFLICT`` on a unique key, for a row that is there, or is not."""
        key = self.chance.choice(self.upserts(entity))
        row = None
        if self.chance.random() < 0.5:
            row = self.locked(entity, lambda r: not r.reserved and all(r.values.get(name) is not None for name in key))
        try:
            self.upsert_row(entity, key, row)
        except BaseException:
            if row is not None:
                self.registry.doubt(row)
            raise
        finally:
            if row is not None:
                row.lock.release()

    def _read_back(self, row: Row) -> None:
        try:
            self.compare(row)
        finally:
            row.lock.release()
