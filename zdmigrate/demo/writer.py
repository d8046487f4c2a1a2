"""How one version writes rows through its models: INSERT, UPDATE and upsert, and the values for them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert_into
from sqlalchemy.orm import Session

from zdmigrate.demo.entities import Entity, Field, Reference, Satellite, table_of
from zdmigrate.demo.reader import Reader
from zdmigrate.demo.registry import Registry, Row
from zdmigrate.demo.values import as_model
from zdmigrate.demo.workload import Version, WrongValue

__all__ = ["Writer"]

_BEYOND = 1_000_000_000
"""Where numbers begin that are given to a column which the database counts."""


class Writer(Reader):
    """Writes, tells the registry what was written, and reads it back."""

    def __init__(
        self,
        version: Version,
        registry: Registry,
        engine: sa.Engine,
        numbers: itertools.count[int],
        chance: random.Random,
    ) -> None:
        super().__init__(version, registry, engine)
        self.numbers = numbers
        self.chance = chance

    def insert_row(self, entity: Entity, values: Mapping[str, object], *, pinned: bool = False) -> Row:
        """Through the unit of work, with the satellites that have values."""
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
        return self.inserted(entity, key, values, pinned=pinned)

    def inserted(
        self, entity: Entity, key: tuple[object, ...], values: Mapping[str, object], *, pinned: bool = False
    ) -> Row:
        """Read a new row back, and let the others know of it."""
        row = Row(entity, key, seeded=False)
        row.pinned = pinned
        row.wrote(self.version, values, inserted=True)
        self.compare(row)
        self.registry.add(row)
        return row

    def update_row(self, row: Row, values: Mapping[str, object]) -> None:
        """Read, change and save it as an ORM does, or change it without looking."""
        entity = row.entity
        mine = {field.name for field in entity.mine(self.version)}
        if {*values} <= mine and self.chance.random() < 0.5:
            statement = sa.update(entity.classes[self.version]).where(*self.where(row))
            given = self.given(entity, values)
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
                holder = self._holder(session, entity, attribute.cls, main)
                setattr(holder, attribute.name, _sent(attribute.column, value))
            session.commit()

    def upsert_row(self, entity: Entity, key: tuple[str, ...], row: Row | None) -> None:
        """Insert what conflicts with `row` in `key`, or with nothing."""
        mine = entity.mine(self.version)
        values = self.values_for(entity, [field for field in self.insertable(entity) if field in mine])
        for name in key:
            if row is not None:
                values[name] = row.values[name]
            elif name not in values:
                values[name] = _BEYOND + next(self.numbers)
        identity = [entity.fields[name].attributes[self.version].column for name in entity.identity]
        columns = {name: entity.fields[name].attributes[self.version].column for name in values}
        statement = upsert_into(table_of(entity.classes[self.version])).values(
            {columns[name]: _sent(columns[name], value) for name, value in values.items()}
        )
        changes = {name: value for name, value in values.items() if name in self._changed(entity, key)}
        statement = statement.on_conflict_do_update(
            index_elements=[columns[name] for name in key],
            set_={columns[name].name: statement.excluded[columns[name].name] for name in changes},
        )
        with self.engine.begin() as connection:
            found = tuple(connection.execute(statement.returning(*identity)).one())
        if row is None:
            self.inserted(entity, found, values)
            return
        if found != row.key:
            raise WrongValue(f"{self.version} upserted {row}, and found {found!r}")
        row.wrote(self.version, changes)
        self.compare(row)

    def upserts(self, entity: Entity) -> list[tuple[str, ...]]:
        """The keys to upsert on, as far as something is left to be set."""
        return [
            key
            for key in entity.unique_keys(self.version)
            if self._changed(entity, key) and self._can_make(entity, key)
        ]

    def _can_make(self, entity: Entity, key: Iterable[str]) -> bool:
        fields = [entity.fields[name] for name in key]
        return not any(entity.reference(f.name) or f.make is None for f in fields)

    def _changed(self, entity: Entity, key: tuple[str, ...]) -> set[str]:
        mine = {field.name for field in entity.mine(self.version)}
        return {field.name for field in entity.writable(self.version)} & mine - {*key}

    def given(self, entity: Entity, values: Mapping[str, object]) -> dict[str, object]:
        """Values by the names of the model's attributes."""
        attributes = {name: entity.fields[name].attributes[self.version] for name in values}
        return {attribute.name: _sent(attribute.column, values[name]) for name, attribute in attributes.items()}

    # -- values --------------------------------------------------------------------------------------------------------

    def insertable(self, entity: Entity) -> list[Field]:
        """What an INSERT may give a value."""
        found = []
        for field in entity.of(self.version):
            attribute = field.attributes[self.version]
            if not attribute.read_only and not attribute.numbered:
                found.append(field)
        return found

    def takes_null(self, entity: Entity, field: Field) -> bool:
        """Whether this version may write NULL."""
        column = field.attributes[self.version].column
        accepted = not field.chosen or field.nulls is not None
        return bool(column.nullable) and accepted and field in self.insertable(entity)

    def values_for(self, entity: Entity, fields: Iterable[Field]) -> dict[str, object]:
        """New values; those of a foreign key all from one row."""
        values: dict[str, object] = {}
        wanted = list(fields)
        for field in wanted:
            reference = entity.reference(field.name)
            if reference is not None:
                if field.name not in values:
                    values |= self._referred(entity, reference)
            elif field.make is not None:
                values[field.name] = field.make(self.chance, next(self.numbers))
        return {field.name: values[field.name] for field in wanted if field.name in values}

    def _referred(self, entity: Entity, reference: Reference) -> dict[str, object]:
        """A row of the seed, which stays; a new one where no two rows may refer to the same."""
        target = self.registry.entities[reference.entity]
        parent = None
        if not reference.unique:
            parent = self.registry.choose(target, self.chance, lambda row: row.seeded)
        if parent is None and target is not entity:
            parent = self.insert_row(target, self.values_for(target, self.insertable(target)), pinned=True)
        if parent is None:
            return dict.fromkeys(reference.fields)
        return {name: parent.values[remote] for name, remote in zip(reference.fields, reference.remote, strict=True)}

    # -- reading -------------------------------------------------------------------------------------------------------

    def locked(self, entity: Entity, fits: Callable[[Row], bool]) -> Row | None:
        """A row with its lock held; somebody may have deleted the first choice meanwhile."""
        while (row := self.registry.choose(entity, self.chance, fits)) is not None:
            row.lock.acquire()
            if row.alive and fits(row):
                return row
            row.lock.release()
        return None

    # -- satellites ----------------------------------------------------------------------------------------------------

    def _holder(self, session: Session, entity: Entity, cls: type[Any], main: Any) -> Any:
        """The object of a class that belongs to the row: it is made where it is not there yet."""
        if cls is entity.classes[self.version]:
            return main
        satellite = next(s for s in entity.satellites[self.version] if s.cls is cls)
        found = session.scalars(sa.select(cls).where(*self.joined(satellite, main))).one_or_none()
        if found is None:
            fields = [field for field in entity.of(self.version) if field.attributes[self.version].cls is cls]
            required = [field for field in fields if field.attributes[self.version].required]
            found = self._join(satellite, cls(**self.given(entity, self.values_for(entity, required))), main)
            session.add(found)
        return found

    def _join(self, satellite: Satellite, obj: Any, main: Any) -> Any:
        for mine, its in satellite.join:
            setattr(obj, mine, getattr(main, its))
        return obj


def _sent(column: sa.Column[Any], value: object) -> object:
    """As the model wants it. NULL is said outright: for None, the ORM may leave the column to its default."""
    return sa.null() if value is None else as_model(column.type, value)
