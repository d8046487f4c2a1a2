"""What the processes of a recording have written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from zdmigrate.compat.footprint import Footprint, Parameter, Statement
from zdmigrate.compat.normalising.selection import temporary_tables
from zdmigrate.compat.probing.binding import relations_of

__all__ = ["Recording", "collect"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The statements, how many Python processes were listened to, and what could not be recorded.

    `temporary` are the tables that were made for a session, where statements used them: those are not among the others.
    """

    statements: tuple[Statement, ...] = ()
    processes: int = 0
    errors: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What people must know of it."""
        told = tuple(f"not everything was recorded: {error}" for error in self.errors)
        if not self.temporary:
            return told
        # A table of the schema may be called the same: what is left out is never left out in silence.
        return (*told, f"not kept, because they use temporary tables: statements that name {', '.join(self.temporary)}")


class _Line(msgspec.Struct):
    sql: str | None = None
    parameters: tuple[Parameter, ...] = ()
    prepared: bool = True
    place: str | None = None
    process: int | None = None
    error: str | None = None
    temporary: str | None = None


def collect(directory: Path) -> Recording:
    """The recording in a directory. A line that its process could not finish is left out."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in _lines(path)]
    statements = Footprint.of(statements=(_statement(line) for line in lines if line.sql is not None)).statements
    made = {line.temporary for line in lines if line.temporary is not None}
    used = {statement.sql: names for statement in statements if (names := _temporary(statement, made))}
    return Recording(
        statements=tuple(_typed(each) for each in statements if each.sql not in used),
        processes=sum(line.process is not None for line in lines),
        errors=tuple(sorted({line.error for line in lines if line.error is not None})),
        temporary=tuple(sorted({name for names in used.values() for name in names})),
    )


def _temporary(statement: Statement, made: Collection[str]) -> list[str]:
    """The tables of a session that a statement makes or uses."""
    named = [name for schema, name in relations_of(statement.sql) if schema in (None, "pg_temp")]
    return [*temporary_tables(statement.sql), *(name for name in named if name in made)]


def _lines(path: Path) -> Iterator[_Line]:
    decoder = msgspec.json.Decoder(_Line)
    *whole, _unfinished = path.read_bytes().split(b"\n")
    for data in whole:
        try:
            yield decoder.decode(data)
        except msgspec.MsgspecError as error:
            yield _Line(error=f"a line of the recording is broken: {error}")


def _statement(line: _Line) -> Statement:
    assert line.sql is not None
    places = () if line.place is None else (line.place,)
    return Statement(sql=line.sql, parameters=line.parameters, prepared=line.prepared, places=places)


def _typed(statement: Statement) -> Statement:
    """A parameter that was None each time: the driver declares no type for it."""
    found = (p if p.types else dataclasses.replace(p, types=("unknown",)) for p in statement.parameters)
    return dataclasses.replace(statement, parameters=tuple(found))
