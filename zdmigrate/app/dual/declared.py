"""The pairs of columns that a migration's file declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from zdmigrate import migration as files
from zdmigrate.app.dual.pairs import Function, Pair, Way, alike, paired, way
from zdmigrate.changes.add_column import AddColumn
from zdmigrate.changes.change_type import ChangeType
from zdmigrate.changes.rename_column import RenameColumn
from zdmigrate.changes.set_not_null import SetNotNull
from zdmigrate.errors import ZdmigrateError
from zdmigrate.sqltext import ident, replace_columns


@dataclasses.dataclass(slots=True)
class Declared:
    """A column that changes, as the changes so far have it.

    `up` and `down` are SQL over the columns of the old shape, in which `called` stands for the value to convert; None:
    a cast. `type`: the new one, where it changes. `filled`: NULLs of the new values are replaced.
    """

    schema: str
    table: str
    old: str
    new: str
    up: str | None = None
    down: str | None = None
    called: str = ""
    type: str | None = None
    filled: bool = False


def declared_pairs(
    name: str, folder: str | Path, metadata: sa.MetaData, up: Mapping[str, Function], down: Mapping[str, Function]
) -> list[Pair]:
    """The pairs of the migration that `name` is the id of, or the beginning of it.

    `up` by new names and `down` by old ones are functions that the application gives.

    Raises:
        ValueError: they cannot be kept equal by the application.
    """
    try:
        found = _file(name, folder)
    except ZdmigrateError as error:
        raise ValueError(error.message + (f"; {error.hint}" if error.hint else "")) from error
    columns = list(_changed(found))
    if not columns:
        raise ValueError(f"{found.id} has no two columns side by side: there is nothing to write twice")
    unknown = sorted({*up} - {column.new for column in columns} | {*down} - {column.old for column in columns})
    if unknown:
        raise ValueError(f"{found.id} has no pair for {', '.join(unknown)}: up= goes by new names, down= by old ones")
    return [_pair(found.id, metadata, column, up.get(column.new), down.get(column.old)) for column in columns]


def _file(name: str, folder: str | Path) -> files.MigrationFile:
    paths = {path.stem: path for path in files.migration_paths(Path(folder))}
    found = files.load_file(paths[files.find_id(paths, name)])
    if found.sync != "app":
        raise ValueError(
            f'{found.id} has sync="{found.sync}": the database\'s triggers keep both shapes equal, whoever writes, and the '
            'application has nothing to do. sync="app" in the migration makes it the application\'s business'
        )
    return found


def _changed(found: files.MigrationFile) -> Iterator[Declared]:
    columns: dict[tuple[str, str, str], Declared] = {}
    added: set[tuple[str, str, str]] = set()
    for change in found.changes:
        match change:
            case AddColumn(schema=schema, table=table, name=name):
                added.add((schema, table, name))  # nothing old is beside it
            case RenameColumn(schema=schema, table=table, old=old, new=new) if (schema, table, old) in added:
                added.add((schema, table, new))
            case RenameColumn(schema=schema, table=table, old=old, new=new):
                column = columns.pop((schema, table, old), Declared(schema, table, old, new))
                columns[schema, table, new] = column
                column.new = new
            case ChangeType(schema=schema, table=table, column=name) if (schema, table, name) not in added:
                column = columns.setdefault((schema, table, name), Declared(schema, table, name, name))
                olds = {
                    c.new: c.old for c in columns.values() if (c.schema, c.table) == (schema, table) and c != column
                }
                column.up, column.down = _over(change.up, olds), _over(change.down, olds)
                column.called, column.type = name, change.type
            case SetNotNull(schema=schema, table=table, column=name, backfill=str()):
                if (schema, table, name) in columns:
                    columns[schema, table, name].filled = True
    yield from columns.values()


def _over(text: str | None, olds: dict[str, str]) -> str | None:
    """Over the old shape's names, but for the column itself."""
    if text is None:
        return None
    return replace_columns(text, lambda name: ident(olds[name]) if name in olds else None)


def _pair(name: str, metadata: sa.MetaData, found: Declared, up: Function | None, down: Function | None) -> Pair:
    shown = f"{found.schema}.{found.table}.{found.old}"
    if found.old == found.new:
        raise ValueError(
            f"{name} gives {shown} another type under the same name: no version can write both. Rename it in the same "
            'migration, or leave sync="app" out'
        )
    if found.filled and found.type is not None and up is None:
        raise ValueError(
            f"{name} replaces NULLs of {shown}, too: say what becomes of values, up={{{found.new!r}: function}}"
        )
    table = _table(name, metadata, found)
    old, new = _column(name, table, found.old), _column(name, table, found.new)
    return paired(_way(old, new, up, found.up, found), _way(new, old, down, found.down, found))


def _table(name: str, metadata: sa.MetaData, found: Declared) -> sa.Table:
    for schema in (found.schema, None):
        for table in metadata.tables.values():
            if (table.schema, table.name) == (schema, found.table):
                return table
    raise ValueError(f"{name} changes {found.schema}.{found.table}, and the metadata has no such table")


def _column(name: str, table: sa.Table, column: str) -> sa.Column[Any]:
    for found in table.columns:
        if found.name == column:
            return found
    raise ValueError(f"{name} needs both columns to be mapped, and {table} has no {column}: map it as well")


def _way(
    source: sa.Column[Any], target: sa.Column[Any], function: Function | None, text: str | None, found: Declared
) -> Way:
    if isinstance(function, str):
        return way(source, target, function)
    if text is None and (found.type is None or alike(source.type, target.type)):
        return way(source, target, function)
    type_ = target.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    text = text or f"CAST({ident(found.called)} AS {type_})"
    return Way(source=source, target=target, function=function, text=text, called=found.called)
