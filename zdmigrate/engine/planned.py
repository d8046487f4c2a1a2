"""Plans of migration files: read the catalog, ask the server, decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from zdmigrate import schema
from zdmigrate.control.store import Record
from zdmigrate.errors import Drift, Unsafe, UsageError, ZdmigrateError
from zdmigrate.migration import MigrationFile
from zdmigrate.plan import Plan
from zdmigrate.planning import planner
from zdmigrate.planning.draft import Unanswered
from zdmigrate.postgres import catalog
from zdmigrate.postgres.session import Connection

Ask = Callable[[MigrationFile, schema.Snapshot], Iterable[schema.Question]]


def read(
    connection: Connection, files: Iterable[MigrationFile], control_schema: str, ask: Ask = planner.questions
) -> schema.Snapshot:
    """The snapshot that the files' changes need: the planner says what it must still know, until it asks nothing."""
    files = list(files)
    names = {(target.schema, target.table) for f in files for change in f.changes for target in change.targets()}
    questions: dict[schema.Question, None] = {}
    while True:
        snapshot = catalog.snapshot(connection, names, tuple(questions), control_schema=control_schema)
        asked = [q for file in files for q in ask(file, snapshot) if q not in questions]
        if not asked:
            return snapshot
        questions |= dict.fromkeys(asked)
        names |= {(q.schema, q.table) for q in asked if q.table}


def make(file: MigrationFile, snapshot: schema.Snapshot) -> Plan:
    """The plan of one file.

    Raises:
        ZdmigrateError: it does not fit the catalog; the message says which file and line.
    """
    try:
        return planner.plan(file, snapshot)
    except ZdmigrateError as error:
        raise type(error)(f"{file.place(error.change)}: {error.message}", hint=error.hint) from error
    except Unanswered as unanswered:
        asked = ", ".join(
            str(q.expression or q.trial or q.type or f"{q.schema}.{q.table}") for q in unanswered.questions
        )
        raise Unsafe(
            f"{file.id}: the snapshot says nothing about {asked}",
            hint="write it again: zdmigrate plan --write-stats FILE",
        ) from unanswered


def refuse_conflicts(
    id_: str, touches: Iterable[str], reads: Iterable[str], mine: int | None, others: Sequence[Record]
) -> None:
    """Two migrations in flight must not touch the same columns, indexes and constraints, nor what the other reads.

    Raises:
        Unsafe: names the other one.
    """
    touches, reads = set(touches), set(reads)
    for other in others:
        read = set() if other.plan is None else set(other.plan.reads)
        theirs = set(other.touches)
        common = sorted({*_within(touches, theirs | read), *_within(theirs, touches | reads)})
        if other.key != mine and common:
            raise Unsafe(
                f"{id_} needs {', '.join(common)}, and so does {other.id}, which is in flight ({other.phase})",
                hint=f"finish or revert {other.id} first",
            )


def _within(claimed: set[str], needed: set[str]) -> Iterator[str]:
    """What is needed of what somebody claims: the same, or a column, index or constraint of a whole table."""
    for name in needed:
        parents = {name[:place] for place, character in enumerate(name) if character in ".:"}
        if not claimed.isdisjoint({name, *parents}):
            yield name


def refuse_edited(file: MigrationFile, record: Record) -> None:
    """A file must not change while its migration is in flight.

    Raises:
        Drift: it did.
    """
    if record.in_flight and record.checksum != file.checksum:
        raise Drift(
            f"{file.id} was edited while it is in flight ({record.phase}); the database runs the plan it began with",
            hint=f"restore the file, or: zdmigrate revert {file.id} --to none, edit, unhold, advance",
        )


def to_bytes(snapshot: schema.Snapshot) -> bytes:
    """A snapshot as a file for ``plan --stats``."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=2)


def from_bytes(data: bytes) -> schema.Snapshot:
    """A snapshot that ``plan --write-stats`` wrote.

    Raises:
        UsageError: it is not one.
    """
    try:
        return msgspec.json.decode(data, type=schema.Snapshot)
    except msgspec.MsgspecError as error:
        raise UsageError(f"this is not a file of zdmigrate plan --write-stats: {error}") from error
