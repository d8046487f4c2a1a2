"""What SQLAlchemy models map, as the tables of a footprint."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper, registry

from zdmigrate.compat.footprint import Filled, MappedColumn, MappedTable, Reference
from zdmigrate.errors import UsageError

__all__ = ["mapped_tables", "tables_of"]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_USAGE = "write MODULE:ATTRIBUTE, for example myapp.models:Base"


def mapped_tables(name: str, *, within: Path | None = None) -> tuple[MappedTable, ...]:
    """The tables of ``myapp.models:Base``: a declarative base, a registry, a MetaData, or a function that returns one.

    The current directory is looked in first, as ``python -m`` does it.

    Args:
        name: module and attribute, which may have dots (``myapp:db.Model``).
        within: the directory that the module must come from.

    Raises:
        UsageError: there is no such module or attribute, its import fails, or it maps no table.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{name!r} names no models", hint=_USAGE)
    module = _imported(module_name)
    _check_origin(module, within)
    found = tables_of(_attribute(module, attribute), name=name)
    if not found:
        raise UsageError(
            f"{name} maps no table",
            hint="are the modules with the models imported? name one that imports them all",
        )
    return found


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {name}", hint=f"it was looked for in {here} and on PYTHONPATH; {_USAGE}"
            ) from error
        raise UsageError(f"{name} cannot be imported: {_last_line(error)}", hint=_TRY.format(name)) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name} cannot be imported: {_last_line(error)}", hint=_TRY.format(name)) from error


_TRY = "try: python -c 'import {}'"


def _last_line(error: BaseException) -> str:
    """``file:line: ValueError: …``, of the innermost frame that is not the machinery of imports."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
        return f"{place}SyntaxError: {error.msg}"
    return f"{place}{type(error).__name__}: {error}"


def _check_origin(module: ModuleType, within: Path | None) -> None:
    file = getattr(module, "__file__", None)
    if within is None or file is None or Path(file).resolve().is_relative_to(within.resolve()):
        return
    raise UsageError(
        f"{module.__name__} was imported from {file}, and not from the revision",
        hint="it is installed there; with its sources first on PYTHONPATH (PYTHONPATH=src) the revision's are taken",
    )


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            names = sorted(name for name, value in vars(module).items() if _metadata(value) is not None)
            raise UsageError(
                f"{module.__name__} has no {path}",
                hint=f"it has: {', '.join(f'{module.__name__}:{name}' for name in names[:5])}" if names else _USAGE,
            ) from error
    return found


def _metadata(value: Any) -> sa.MetaData | None:
    found = value if isinstance(value, sa.MetaData) else getattr(value, "metadata", None)
    return found if isinstance(found, sa.MetaData) else None


def tables_of(source: Any, *, name: str = "it") -> tuple[MappedTable, ...]:
    """The tables of a declarative base, a registry, a MetaData, or a function that returns one.

    Raises:
        UsageError: it is none of these.
    """
    metadata = _metadata(source)
    if metadata is None and callable(source):
        source = source()
        metadata = _metadata(source)
    if metadata is None:
        raise UsageError(
            f"{name} is neither a declarative base, nor a registry, nor a MetaData, nor a function that returns one",
            hint=_USAGE,
        )
    mappers = _mappers(source)
    return tuple(_table(table, mappers) for table in metadata.tables.values())


def _mappers(source: Any) -> list[Mapper[Any]]:
    found = source if isinstance(source, registry) else getattr(source, "registry", None)
    return list(found.mappers) if isinstance(found, registry) else []


def _table(table: sa.Table, mappers: Iterable[Mapper[Any]]) -> MappedTable:
    discriminator, identities = _identities(table, mappers)
    return MappedTable(
        name=str(table.name),
        schema=table.schema and str(table.schema),
        columns=tuple(_column(column) for column in table.columns),
        key=_names(table.primary_key.columns),
        unique=tuple(sorted(set(_unique(table)))),
        references=tuple(sorted(map(_reference, table.foreign_key_constraints), key=lambda r: (r.columns, r.table))),
        discriminator=discriminator,
        identities=identities,
    )


def _column(column: sa.Column[Any]) -> MappedColumn:
    return MappedColumn(
        name=str(column.name),
        type=_type(column),
        nullable=bool(column.nullable),
        filled=_filled(column),
        labels=_labels(column.type),
    )


def _type(column: sa.Column[Any]) -> str:
    """Its DDL; empty where SQLAlchemy knows none, as of a foreign key to a table that is not mapped."""
    try:
        return str(column.type.compile(dialect=_DIALECT))
    except sa.exc.CompileError:
        return ""


def _filled(column: sa.Column[Any]) -> Filled:
    """A Python default is sent in any case, so that one of the server beside it is not used."""
    if column.computed is not None or (column.identity is not None and column.identity.always):
        return "generated"
    if column.default is not None and not (isinstance(column.default, sa.Sequence) and column.default.optional):
        return "client"
    return "server" if column.identity is not None or column.server_default is not None or _is_serial(column) else ""


def _is_serial(column: sa.Column[Any]) -> bool:
    name = "autoincrement_column" if hasattr(column.table, "autoincrement_column") else "_autoincrement_column"
    return getattr(column.table, name) is column  # private in SQLAlchemy 2.0.0


def _labels(type_: sa.types.TypeEngine[Any]) -> tuple[str, ...]:
    """Of an enum, native or not, also below decorators and arrays: as they are stored, and the version can load."""
    while isinstance(type_, sa.TypeDecorator):
        type_ = type_.load_dialect_impl(_DIALECT)
    found = type_.dialect_impl(_DIALECT)
    if isinstance(found, sa.ARRAY):
        return _labels(found.item_type)
    return tuple(str(label) for label in found.enums) if isinstance(found, sa.Enum) else ()


def _names(columns: Iterable[sa.Column[Any]]) -> tuple[str, ...]:
    """As plain text: SQLAlchemy's names know whether they are to be quoted."""
    return tuple(str(column.name) for column in columns)


def _unique(table: sa.Table) -> Iterator[tuple[str, ...]]:
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint):
            yield _names(constraint.columns)
    for index in table.indexes:
        plain = all(isinstance(expression, sa.Column) for expression in index.expressions)
        if index.unique and plain and index.dialect_options["postgresql"]["where"] is None:
            yield _names(index.columns)


def _reference(constraint: sa.ForeignKeyConstraint) -> Reference:
    """By the text of the declaration: the table may be one that the models do not map."""
    targets = [element.target_fullname.rsplit(".", 1) for element in constraint.elements]
    schema, _, table = targets[0][0].rpartition(".")
    return Reference(
        columns=_names(constraint.columns),
        table=str(table),
        remote=tuple(str(column) for _, column in targets),
        schema=str(schema) or None,
    )


def _identities(table: sa.Table, mappers: Iterable[Mapper[Any]]) -> tuple[str | None, tuple[str, ...]]:
    for mapper in mappers:
        column = mapper.polymorphic_on
        if isinstance(column, sa.Column) and column.table is table:
            stored = {_stored(column, identity) for identity in mapper.base_mapper.polymorphic_map}
            return str(column.name), tuple(sorted(stored))
    return None, ()


def _stored(column: sa.Column[Any], identity: Any) -> str:
    """As the server has it: a Python enum's member may be stored under another name."""
    process = column.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    return str(identity if process is None else process(identity))
