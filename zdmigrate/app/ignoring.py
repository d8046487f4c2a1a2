"""Columns that a version does not know any more, while the database still has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import MetaData

IGNORED: Mapping[str, str] = {"zdmigrate": "ignored"}
"""The `info` of a column of a ``Table`` that `IgnoredColumns` leaves out of the mapping."""
_KEY = "zdmigrate_ignored"


class IgnoredColumns:
    """A mixin for mapped classes: the ORM neither loads, inserts nor updates these columns.

    ::

        class User(IgnoredColumns, Base):
            __tablename__ = "users"
            __ignored_columns__ = ("user_email",)

    Whether the table is declared, reflected (``__table__ = Table(…, autoload_with=engine)``) or has columns with
    ``info=IGNORED``, they are not mapped. `include_object` keeps Alembic from dropping what the models do not name.
    """

    __ignored_columns__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        table = cls.__dict__.get("__table__")
        flagged = [] if table is None else [column.name for column in table.columns if is_ignored(column)]
        names = (*cls.__ignored_columns__, *flagged)
        if names:
            given = dict(cls.__dict__.get("__mapper_args__", {}))
            given["exclude_properties"] = [*given.get("exclude_properties", ()), *names]
            cls.__mapper_args__ = given  # type: ignore[attr-defined]
        super().__init_subclass__(**options)
        mapped = getattr(cls, "__table__", None)
        if names and mapped is not None:
            remembered = mapped.metadata.info.setdefault(_KEY, {})
            remembered.setdefault((mapped.schema, mapped.name), set()).update(names)


def is_ignored(column: Any) -> bool:
    """Whether a column has the flag."""
    return bool(column.info.get("zdmigrate") == "ignored")


def ignored(metadata: MetaData) -> dict[tuple[str | None, str], set[str]]:
    """The ignored columns by (schema, table)."""
    found: dict[tuple[str | None, str], set[str]] = {
        key: set(names) for key, names in metadata.info.get(_KEY, {}).items()
    }
    for table in metadata.tables.values():
        flagged = {column.name for column in table.columns if is_ignored(column)}
        if flagged:
            found.setdefault((table.schema, table.name), set()).update(flagged)
    return found


def include_object(metadata: MetaData) -> Any:
    """For ``context.configure(include_object=include_object(Base.metadata))`` of Alembic's ``env.py``: autogenerate proposes
    nothing for the columns that are ignored."""

    def include(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:  # noqa: ARG001, FBT001
        if type_ != "column":
            return True
        return name not in ignored(metadata).get((item.table.schema, item.table.name), ())

    return include
