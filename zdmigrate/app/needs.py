"""What a version needs, from its models or from a footprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zdmigrate.app.ignoring import ignored
from zdmigrate.app.shapes import Needed, NeededTable, Needs

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def of_metadata(metadata: MetaData) -> Needs:
    """The tables and columns of ``Base.metadata``, but for those that are ignored (`zdmigrate.app.ignored`)."""
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.exc import SQLAlchemyError

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    left_out = ignored(metadata)

    def ddl(type_: Any) -> str:
        try:
            return str(type_.compile(dialect=dialect))
        except SQLAlchemyError:  # NullType, or a type of nobody's
            return ""

    return tuple(
        NeededTable(
            schema=table.schema,
            name=table.name,
            columns=tuple(
                Needed(name=column.name, type=ddl(column.type), nullable=bool(column.nullable))
                for column in table.columns
                if column.name not in left_out.get((table.schema, table.name), ())
            ),
        )
        for table in metadata.sorted_tables
    )


def of_footprint(path: Path) -> Needs:
    """The tables and columns of a file that ``zdmigrate record`` made.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no footprint.
    """
    try:
        document = json.loads(path.read_bytes())
        return tuple(
            NeededTable(
                schema=table.get("schema"),
                name=table["name"],
                columns=tuple(
                    Needed(name=c["name"], type=c.get("type", ""), nullable=c.get("nullable", True))
                    for c in table.get("columns", ())
                ),
            )
            for table in document["tables"]
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no footprint: zdmigrate record makes one") from error
