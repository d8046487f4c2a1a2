"""Fresh databases: the final schema at once, by the equivalent one-shot DDL."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from zdmigrate.backfill import transforming
from zdmigrate.control.store import Event, Store
from zdmigrate.engine import functions, planned
from zdmigrate.errors import Drift, Irreversible, Unsafe, ZdmigrateError
from zdmigrate.migration import MigrationFile
from zdmigrate.phases import Phase
from zdmigrate.plan import RowWork
from zdmigrate.planning import authored, planner
from zdmigrate.postgres import session
from zdmigrate.postgres.session import Connection

MOST_ROWS = 10_000
"""A table with more rows is not that of a fresh database: one-shot DDL would lock it for long."""


def refuse_live(connection: Connection, store: Store) -> None:
    """No one-shot DDL under a running application.

    Raises:
        Unsafe: instances are registered and alive.
    """
    if store.any_live_instance(connection):
        raise Unsafe(
            "live application instances are registered: this is not a fresh database", hint="zdmigrate advance"
        )


def one(connection: Connection, store: Store, file: MigrationFile) -> str | None:
    """Apply, or adopt, one migration in one transaction; says which, unless it was done before.

    Raises:
        Drift: a mixture of old and new shape, or the migration is in flight.
    """
    record = store.record(connection, file.id)
    if record is not None and record.phase is Phase.CONTRACT:
        return None
    if record is not None and record.in_flight:
        raise Drift(f"{file.id} is in flight ({record.phase}): this is not a fresh database", hint="zdmigrate advance")
    snapshot = planned.read(connection, [file], store.schema)
    large = [f"{t.schema}.{t.name} ({t.rows} rows)" for t in snapshot.tables if t.rows > MOST_ROWS]
    if large:
        raise Unsafe(f"{file.id}: {', '.join(large)}: this is not a fresh database", hint="zdmigrate advance")
    with session.transaction(connection, lock_timeout=timedelta(seconds=5)) as cursor:
        statements = _bring(connection, cursor, file, store.schema)
        store.register(cursor, file.id, file.title or "", file.checksum)
        made = store.record(cursor, file.id)
        assert made is not None
        store.adopt(cursor, made.key)
        digest = hashlib.sha256("\n".join(statements).encode()).hexdigest()
        detail = f"{len(statements)} statements" if statements else "adopted: the new shape was there"
        store.log(cursor, Event(migration=file.id, action="bootstrap", outcome="done", sql_hash=digest, detail=detail))
    return detail


def _bring(connection: Connection, cursor: session.Cursor, file: MigrationFile, control: str) -> list[str]:
    """Execute what is not there; each change sees what those before it made.

    Raises:
        Drift: some of the changes are there and some are not.
    """
    statements: list[str] = []
    there: set[bool] = set()
    for position, change in enumerate(file.changes):
        snapshot = planned.read(
            connection,
            [file],
            control,
            lambda f, s, at=position: planner.one_shot_questions(f, s, at),  # type: ignore[misc]
        )
        cursor.execute("SELECT set_config('search_path', %s, true)", (authored.SEARCH_PATH,))  # reading has changed it
        one = change.one_shot(planner.scope_of(file, snapshot, position))
        is_there = one.there
        if is_there is None and one.probe is not None:
            row = cursor.execute(one.probe.encode()).fetchone()
            is_there = bool(row and row[0])
        there |= set() if is_there is None else {is_there}
        if len(there) > 1:
            raise Drift(
                f"{file.id}: some of its changes are there and some are not", hint="bring the database to one side"
            )
        if is_there or there == {True}:
            continue
        for statement in one.statements:
            cursor.execute(statement.encode())
            statements.append(statement)
        for function in one.functions:
            for _ in functions.called(file.id, function, connection):
                pass  # one that yields goes on in the same transaction
            statements.append(f"{function.__name__}()")
        statements += [_fill(cursor, file, rows) for rows in one.fills]
        for statement in one.last:
            cursor.execute(statement.encode())
            statements.append(statement)
    return statements


def _fill(cursor: session.Cursor, file: MigrationFile, rows: RowWork) -> str:
    """Fill the few rows that are there by a function of the file."""
    assert rows.transform is not None
    function = functions.find(file.functions, file.id, rows.transform.function)
    failure = transforming.fill_all(cursor, function, rows)
    if failure is not None:
        raise ZdmigrateError(
            f"{file.id}: rows of {rows.schema}.{rows.table} cannot be filled: {failure.message}",
            hint="correct them, or the function; nothing of the migration stays",
        )
    return rows.transform.call


def adopted_cannot_go_back(id_: str) -> Irreversible:
    """The error of reverting what never went through phases."""
    return Irreversible(
        f"{id_} was adopted or bootstrapped; there are no phases to go back through",
        hint="write a new migration the other way round",
    )
