"""Traffic of versions N and N+1, and of a writer that knows both shapes, against one renamed column.

Two threads stand for users whose requests are answered now by one version and now by the other: each knows what must
be in its own rows, whoever wrote them, and reads them back through any version that is at work. Some rows and keys are
written by everybody at once; a `revision` orders those writes, so that afterwards every read can be held against what
was written. `travel` drives the real engine through its phases meanwhile, and stays in each until every version has
done everything it may do there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from zdmigrate.config import Config
from zdmigrate.engine.outcome import Outcome
from zdmigrate.engine.project import Project
from zdmigrate.phases import Phase
from zdmigrate.sqltext import ident

MIGRATION = "0001_rename"
ROWS = 240
HOT_ROWS = 4
ANYTHING = "anything"
ENOUGH = 25
"""Violations after which there is no point in going on."""
PATIENCE = 90.0

Place = tuple[int | str, int]
"""A hot row's id or a hot key, and a revision of it."""


class Version(enum.StrEnum):
    """Who writes: N, N+1, and an application that writes both shapes itself."""

    OLD = "N"
    NEW = "N+1"
    BOTH = "both"


class Duty(enum.IntEnum):
    """What a version may do: nothing; insert, write non-NULL values blindly and read what it wrote; everything."""

    REST = 0
    BLIND = 1
    FULL = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A table with the column to rename.

    `column` is the column's definition after its name, where ``{old}`` is the quoted name. `value` makes the nth
    value, as the server prints it; `twist` the same value with another image, where the type has such. `omitted` is
    what the column holds where an INSERT leaves it out.
    """

    name: str
    column: str = "text"
    type: str = "text"
    value: Callable[[int], str] = "value{}".format
    twist: Callable[[str], str] | None = None
    nullable: bool = True
    omitted: str | None = None
    may_omit: bool = True
    unique: bool = False
    schema: str = "public"
    table: str = "users"
    old: str = "user_email"
    new: str = "email_address"
    primary_key: bool = True
    partitions: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    trims: bool = False
    """Whether the table's own trigger strips the old column."""
    prepare_threshold: int = 5

    @property
    def target(self) -> str:
        return ident(self.schema, self.table)

    def columns(self, version: Version) -> list[str]:
        """Quoted names of the columns that a version writes."""
        known = {Version.OLD: [self.old], Version.NEW: [self.new], Version.BOTH: [self.old, self.new]}
        return [ident(name) for name in known[version]]

    def ddl(self) -> Iterator[str]:
        """Statements that make the table; ``{table}`` stands for its quoted name in `before` and `after`."""
        yield f"CREATE SCHEMA IF NOT EXISTS {ident(self.schema)}"
        yield from self.before
        old = ident(self.old)
        columns = [
            "id bigint NOT NULL", "region integer NOT NULL DEFAULT 0", f"{old} {self.column.format(old=old)}",
            "note text", "revision integer NOT NULL DEFAULT 0", "updated_at timestamptz NOT NULL DEFAULT 'epoch'",
        ]  # fmt: skip
        if self.primary_key:
            columns.append("PRIMARY KEY (id, region)" if self.partitions else "PRIMARY KEY (id)")
        by = " PARTITION BY LIST (region)" if self.partitions else ""
        yield f"CREATE TABLE {self.target} ({', '.join(columns)}){by}"
        for number in range(self.partitions):
            part = ident(self.schema, f"{self.table}_{number}")
            yield f"CREATE TABLE {part} PARTITION OF {self.target} FOR VALUES IN ({number})"
        yield from (statement.format(table=self.target) for statement in self.after)


class WrongValue(Exception):
    """A request saw something else than what was written."""


@dataclasses.dataclass(slots=True)
class Findings:
    """What went wrong, and how much was done: requests by (version, stage), operations by (version, operation)."""

    failed: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    requests: Counter[tuple[Version, str]] = dataclasses.field(default_factory=Counter)
    operations: Counter[tuple[Version, str]] = dataclasses.field(default_factory=Counter)

    @property
    def violations(self) -> list[str]:
        return [*self.failed, *self.wrong]


class Traffic:
    """Everybody at work. A context manager; create the table before, with `prepare`."""

    def __init__(self, conninfo: str, spec: Spec, *, users: int = 2) -> None:
        self.spec = spec
        self.conninfo = conninfo
        self.findings = Findings()
        self.stage = ""
        self.duties: Mapping[Version, Duty] = dict.fromkeys(Version, Duty.REST)
        self.numbers = itertools.count(ROWS + 1)
        self.hot_writes: dict[Place, str] = {}
        self.changed = threading.Condition()
        self.stopping = False
        self.orders = 0
        self._users = [User(self, number, users) for number in range(users)]
        self._threads = [threading.Thread(target=user.serve, daemon=True) for user in self._users]

    def prepare(self) -> None:
        """Create the table and its rows."""
        spec = self.spec
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            for statement in spec.ddl():
                connection.execute(statement.encode())
            rows = [(n, n % max(spec.partitions, 1), spec.value(n), "x" * 100) for n in range(1, ROWS + 1)]
            insert = (
                f"INSERT INTO {spec.target} (id, region, {ident(spec.old)}, note) VALUES (%s, %s, %s::{spec.type}, %s)"
            )
            with connection.cursor() as cursor:
                cursor.executemany(insert.encode(), rows)

    def __enter__(self) -> Self:
        for user in self._users:
            user.connect()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let everybody finish a last request."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=PATIENCE)
                assert not thread.is_alive(), "a request hangs"
        for user in self._users:
            user.close()

    def assign(self, duties: Mapping[Version, Duty]) -> None:
        """Give versions other duties; nobody is inside a request under the former ones when it returns."""
        with self.changed:
            self.duties = {**self.duties, **duties}
            self.orders += 1
            order = self.orders
            self.changed.notify_all()
            done = self.changed.wait_for(lambda: all(user.order >= order for user in self._users), timeout=PATIENCE)
        assert done, "a request hangs"

    def hold(self, minimum: int) -> None:
        """Stay until each version at work has done each of its operations, and `minimum` requests, from now on."""
        at_work = [version for version, duty in self.duties.items() if duty is not Duty.REST]
        wanted = {(v, name): self.findings.operations[v, name] + 1 for v in at_work for name in self.operations(v)}
        counts = {(v, self.stage): self.findings.requests[v, self.stage] + minimum for v in at_work}

        def enough() -> bool:
            if len(self.findings.violations) >= ENOUGH:
                return True
            found = self.findings
            return all(found.requests[k] >= n for k, n in counts.items()) and all(
                found.operations[k] >= n for k, n in wanted.items()
            )

        with self.changed:
            assert self.changed.wait_for(enough, timeout=PATIENCE), f"too little traffic in {self.stage}"

    def operations(self, version: Version) -> list[str]:
        """What the version may do now: names of methods of `User`."""
        spec, full = self.spec, self.duties[version] is Duty.FULL
        when = {
            "insert": True,
            "insert_null": spec.nullable,
            "insert_omitting": spec.may_omit,
            "insert_default": spec.may_omit,
            "copy": True,
            "update": True,
            "update_many": version is not Version.BOTH,
            "upsert": spec.primary_key,
            "merge": True,
            "update_hot": not spec.unique or spec.primary_key,
            "unrelated": True,
            "move": spec.partitions > 1,
            "retouch": spec.twist is not None,
            "read": True,
            "read_hot": full,
            "update_null": full and spec.nullable,
            "rewrite": full,
            "delete": full,
            "upsert_key": full and spec.unique,
        }
        return [name for name, possible in when.items() if possible]

    def diverging(self) -> int:
        """Rows whose sides differ, in one snapshot, while everybody goes on."""
        old, new = ident(self.spec.old), ident(self.spec.new)
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            row = connection.execute(
                f"SELECT count(*) FROM {self.spec.target} WHERE {old}::text IS DISTINCT FROM {new}::text".encode()
            ).fetchone()
        assert row is not None
        return int(row[0])

    def compare(self, version: Version) -> None:
        """After `stop`: every row against what was written to it last."""
        expected: dict[int, str | None] = {}
        touched: set[int] = set()
        for user in self._users:
            expected.update(user.rows)
            touched |= user.touched
        keys: dict[int | str, tuple[int, str | None]] = {}
        column = self.spec.columns(version)[0]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            found = connection.execute(
                f"SELECT id, {column}::text, note, revision, updated_at = 'epoch' FROM {self.spec.target}".encode()
            ).fetchall()
        for id_, value, note, revision, untouched in found:
            if id_ <= HOT_ROWS:
                keys[id_] = (revision, value)
            elif id_ not in expected:
                keys[value] = (revision, note)
            elif value != expected.pop(id_):
                self.findings.wrong.append(f"in the end row {id_} holds {value!r}")
            elif not untouched and id_ not in touched and id_ <= ROWS:
                self.findings.wrong.append(f"the table's own trigger fired for row {id_}, which nobody updated")
        self.findings.wrong += [f"row {id_} is lost" for id_ in expected]
        self.findings.wrong += self._compare_hot(keys)

    def _compare_hot(self, found: Mapping[int | str, tuple[int, str | None]]) -> Iterator[str]:
        written: dict[Place, str] = {(n, 0): self.spec.value(n) for n in range(1, HOT_ROWS + 1)} | self.hot_writes
        revisions = Counter(key for key, _ in written)
        for key, (revision, value) in found.items():
            if revisions[key] != revision + 1 or written.get((key, revision)) != value:
                yield f"{key!r} holds {value!r} in revision {revision} after {revisions[key]} writes"
        yield from (f"the hot row {key!r} is lost" for key in revisions if key not in found)
        for user in self._users:
            for place, value in user.hot_reads:
                if written.get(place) != value:
                    yield f"read {value!r} in revision {place[1]} of {place[0]!r}, written was {written.get(place)!r}"


class User:
    """One user of the application, whose requests any version may answer. Public methods are the operations."""

    def __init__(self, traffic: Traffic, number: int, users: int) -> None:
        self.order = 0
        self.rows: dict[int, str | None] = {
            id_: traffic.spec.value(id_) for id_ in range(HOT_ROWS + 1, ROWS + 1) if id_ % users == number
        }
        self.touched: set[int] = set()
        self.hot_reads: list[tuple[Place, str | None]] = []
        self._traffic = traffic
        self._spec = traffic.spec
        self._random = random.Random(number)
        self._decks: dict[Version, list[str]] = {}
        self._by_new: set[int] = set()
        self._duties = traffic.duties
        self._connections: dict[Version, psycopg.Connection[tuple[Any, ...]]] = {}
        self._engines: dict[Version, sa.Engine] = {}

    def connect(self) -> None:
        """The connections live from here to the end: those of N have prepared statements from before `expand`."""
        spec = self._spec
        for version in Version:
            connection = psycopg.connect(
                self._traffic.conninfo, autocommit=True, prepare_threshold=spec.prepare_threshold
            )
            self._connections[version] = connection
            self._engines[version] = sa.create_engine(
                "postgresql+psycopg://",
                creator=lambda: psycopg.connect(self._traffic.conninfo, prepare_threshold=spec.prepare_threshold),
                poolclass=StaticPool,
            )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        for engine in self._engines.values():
            engine.dispose()

    def serve(self) -> None:
        """Requests until the end; the versions take turns."""
        traffic = self._traffic
        for version in itertools.cycle(Version):
            with traffic.changed:
                if self.order != traffic.orders:
                    self._duties, self.order = traffic.duties, traffic.orders
                    traffic.changed.notify_all()
                if all(duty is Duty.REST for duty in self._duties.values()):
                    traffic.changed.wait_for(lambda: traffic.stopping or traffic.orders != self.order)
                if traffic.stopping:
                    return
                if self.order != traffic.orders:
                    continue
                operations = traffic.operations(version)
            if self._duties[Version.NEW] is Duty.REST:
                self._by_new.clear()
            if self._duties[version] is not Duty.REST:
                self._request(version, self._next(version, operations))

    def _next(self, version: Version, operations: list[str]) -> str:
        """Every operation in turn, in a random order."""
        deck = [name for name in self._decks.get(version, ()) if name in operations]
        if not deck:
            deck = self._random.sample(operations, len(operations))
        name = deck.pop()
        self._decks[version] = deck
        return name

    def _request(self, version: Version, name: str) -> None:
        traffic, stage = self._traffic, self._traffic.stage
        failed = wrong = None
        try:
            getattr(self, name)(version)
        except WrongValue as error:
            wrong = f"{stage}: {version} {name}: {error}"
        except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
            failed = f"{stage}: {version} {name}: {type(error).__name__}: {' '.join(str(error).split())}"
        with traffic.changed:
            traffic.findings.failed += [failed] if failed else []
            traffic.findings.wrong += [wrong] if wrong else []
            traffic.findings.requests[version, stage] += 1
            traffic.findings.operations[version, name] += 1
            traffic.changed.notify_all()

    # -- operations ------------------------------------------------------------------------------------------------

    def insert(self, version: Version) -> None:
        self._insert(version, self._value())

    def insert_null(self, version: Version) -> None:
        self._insert(version, None)

    def insert_omitting(self, version: Version) -> None:
        id_ = self._new_id()
        sql = f"INSERT INTO {self._spec.target} (id, note) VALUES (%s, 'omitted')"
        self._insert_default(version, id_, sql)

    def insert_default(self, version: Version) -> None:
        id_, columns = self._new_id(), self._spec.columns(version)
        defaults = ", ".join("DEFAULT" for _ in columns)
        sql = f"INSERT INTO {self._spec.target} (id, {', '.join(columns)}) VALUES (%s, {defaults})"
        self._insert_default(version, id_, sql)

    def copy(self, version: Version) -> None:
        columns = self._spec.columns(version)
        rows = {self._new_id(): self._value() for _ in range(3)}
        statement = f"COPY {self._spec.target} (id, note, {', '.join(columns)}) FROM STDIN"
        with self._connections[version].cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for id_, value in rows.items():
                copy.write_row((id_, "copied", *(self._sent(value) for _ in columns)))
        self._wrote(version, rows)

    def update(self, version: Version) -> None:
        self._update(version, self._any(), self._value())

    def update_null(self, version: Version) -> None:
        self._update(version, self._any(), None)

    def retouch(self, version: Version) -> None:
        """An equal value with another image."""
        id_ = self._any()
        value = self.rows[id_]
        if value is not None and self._spec.twist is not None:
            self._update(version, id_, self._spec.twist(value))

    def update_many(self, version: Version) -> None:
        """Several rows with SQLAlchemy Core's ``update()``."""
        spec = self._spec
        name = spec.old if version is Version.OLD else spec.new
        table = sa.Table(spec.table, sa.MetaData(), sa.Column("id"), sa.Column(name), schema=spec.schema)
        value = sa.cast(sa.bindparam("b_value", type_=sa.Text()), _Raw(spec.type))
        statement = sa.update(table).where(table.c.id == sa.bindparam("b_id", type_=sa.BigInteger()))
        rows = {self._any(): self._value() for _ in range(4)}
        with self._engines[version].begin() as connection:
            connection.execute(
                statement.values({table.c[name]: value}),
                [{"b_id": id_, "b_value": self._sent(value)} for id_, value in sorted(rows.items())],
            )
        self._wrote(version, rows)

    def upsert(self, version: Version) -> None:
        """``ON CONFLICT`` on the primary key, for a row that is there or is not."""
        columns = self._spec.columns(version)
        key = "id, region" if self._spec.partitions else "id"
        id_ = self._any() if self._random.random() < 0.5 else self._new_id()
        value = self._value()
        sql = (
            f"INSERT INTO {self._spec.target} AS t (id, region, note, {', '.join(columns)}) "
            f"SELECT %s, coalesce((SELECT region FROM {self._spec.target} WHERE id = %s), 0), 'upserted', "
            f"{self._holders(columns)} ON CONFLICT ({key}) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in columns)
        )
        self._execute(version, sql, (id_, id_, *self._params(columns, value)))
        self._wrote(version, {id_: value})

    def upsert_key(self, version: Version) -> None:
        """``ON CONFLICT`` on the column itself; all of the users insert the same keys at about the same time."""
        columns = self._spec.columns(version)
        key = self._spec.value(10_000_000 + sum(self._traffic.findings.requests.values()) // 12)
        note = f"note {next(self._traffic.numbers)}"
        sql = (
            f"INSERT INTO {self._spec.target} AS t (id, note, {', '.join(columns)}) VALUES (%s, %s, "
            f"{self._holders(columns)}) ON CONFLICT ({columns[0]}) DO UPDATE SET note = excluded.note, "
            "revision = t.revision + 1 RETURNING revision"
        )
        ((revision,),) = self._execute(version, sql, (self._new_id(), note, *(key for _ in columns)))
        self._wrote_hot(key, revision, note)
        reader = self._reader(None)
        if reader is not None:
            column = self._spec.columns(reader)[0]
            sql = f"SELECT revision, note FROM {self._spec.target} WHERE {column} = %s::{self._spec.type}"
            self._read_hot(reader, key, sql)

    def merge(self, version: Version) -> None:
        spec, columns = self._spec, self._spec.columns(version)
        id_ = self._any() if self._random.random() < 0.5 else self._new_id()
        value = self._value()
        sql = (
            f"MERGE INTO {spec.target} AS t USING (SELECT %s::bigint AS id, %s::{spec.type} AS value) AS s ON t.id = s.id "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{column} = s.value' for column in columns)} "
            f"WHEN NOT MATCHED THEN INSERT (id, note, {', '.join(columns)}) "
            f"VALUES (s.id, 'merged', {', '.join('s.value' for _ in columns)})"
        )
        self._execute(version, sql, (id_, self._sent(value)))
        self._wrote(version, {id_: value})

    def update_hot(self, version: Version) -> None:
        id_, value, columns = self._random.randint(1, HOT_ROWS), self._value(), self._spec.columns(version)
        sql = f"UPDATE {self._spec.target} SET {self._assign(columns)}, revision = revision + 1 WHERE id = %s"
        ((revision,),) = self._execute(version, f"{sql} RETURNING revision", (*self._params(columns, value), id_))
        self._wrote_hot(id_, revision, value)

    def read_hot(self, version: Version) -> None:
        id_ = self._random.randint(1, HOT_ROWS)
        column = self._spec.columns(version)[-1]
        self._read_hot(version, id_, f"SELECT revision, {column}::text FROM {self._spec.target} WHERE id = %s")

    def unrelated(self, version: Version) -> None:
        """Another column of a row that perhaps nobody has filled yet."""
        id_ = self._any()
        self._execute(version, f"UPDATE {self._spec.target} SET note = note || 'x' WHERE id = %s", (id_,))
        self._wrote(version, {id_: self.rows[id_]}, by_new=False)

    def move(self, version: Version) -> None:
        """To the next partition; half of the time the value changes in the same statement."""
        id_, columns = self._any(), self._spec.columns(version)
        value = self._value() if self._random.random() < 0.5 else self.rows[id_]
        changes = f"region = (region + 1) %% {self._spec.partitions}"
        parameters: tuple[object, ...] = (id_,)
        if value != self.rows[id_]:
            changes, parameters = f"{changes}, {self._assign(columns)}", (*self._params(columns, value), id_)
        self._execute(version, f"UPDATE {self._spec.target} SET {changes} WHERE id = %s", parameters)
        self._wrote(version, {id_: value}, by_new=value != self.rows[id_])

    def rewrite(self, version: Version) -> None:
        """Read a row, then save all of it, in one transaction: what an ORM may do."""
        id_, connection, columns = self._any(), self._connections[version], self._spec.columns(version)
        with connection.transaction():
            found = self._select(version, id_)
            self._expect(version, id_, found)
            sql = f"UPDATE {self._spec.target} SET note = 'saved', {self._assign(columns)} WHERE id = %s"
            self._execute(version, sql, (*self._params(columns, found), id_))
        self._wrote(version, {id_: found})

    def delete(self, version: Version) -> None:
        id_ = self._any()
        self._execute(version, f"DELETE FROM {self._spec.target} WHERE id = %s", (id_,))
        del self.rows[id_]
        if self._select(version, id_) is not None:
            raise WrongValue(f"row {id_} is there after it was deleted")

    def read(self, version: Version) -> None:
        id_ = self._readable(version)
        self._expect(version, id_, self._select(version, id_))

    # -- parts of them ---------------------------------------------------------------------------------------------

    def _insert(self, version: Version, value: str | None) -> None:
        id_, columns = self._new_id(), self._spec.columns(version)
        sql = (
            f"INSERT INTO {self._spec.target} (id, note, {', '.join(columns)}) "
            f"VALUES (%s, 'inserted', {self._holders(columns)})"
        )
        self._execute(version, sql, (id_, *self._params(columns, value)))
        self._wrote(version, {id_: value})

    def _insert_default(self, version: Version, id_: int, sql: str) -> None:
        column = self._spec.columns(version)[-1]
        ((value,),) = self._execute(version, f"{sql} RETURNING {column}::text", (id_,))
        if self._spec.omitted not in (ANYTHING, value):
            raise WrongValue(f"the default of {column} is {value!r}")
        self._wrote(version, {id_: value})

    def _update(self, version: Version, id_: int, value: str | None) -> None:
        columns = self._spec.columns(version)
        sql = f"UPDATE {self._spec.target} SET {self._assign(columns)} WHERE id = %s"
        self._execute(version, sql, (*self._params(columns, value), id_))
        self._wrote(version, {id_: value})

    def _wrote(self, version: Version, rows: Mapping[int, str | None], *, by_new: bool = True) -> None:
        """Remember, and read one of the rows back through any version that may read it."""
        self.rows.update(rows)
        self.touched.update(rows)
        if by_new and version is not Version.OLD:
            self._by_new.update(rows)
        id_ = self._random.choice(list(rows))
        reader = self._reader(id_)
        if reader is not None:
            self._expect(reader, id_, self._select(reader, id_))

    def _reader(self, id_: int | None) -> Version | None:
        readers = [
            version
            for version, duty in self._duties.items()
            if duty is Duty.FULL or (duty is Duty.BLIND and id_ in self._by_new)
        ]
        return self._random.choice(readers) if readers else None

    def _select(self, version: Version, id_: int) -> str | None:
        columns = self._spec.columns(version)
        shown = ", ".join(f"{column}::text" for column in columns)
        found = self._execute(version, f"SELECT {shown} FROM {self._spec.target} WHERE id = %s", (id_,))
        if not found:
            if id_ in self.rows:
                raise WrongValue(f"row {id_} is lost")
            return None
        if len(set(found[0])) > 1 or len(found) > 1:
            raise WrongValue(f"row {id_} has diverged: {found}")
        value: str | None = found[0][0]
        return value

    def _expect(self, version: Version, id_: int, found: str | None) -> None:
        if found != self.rows[id_]:
            raise WrongValue(f"{version} reads {found!r} in row {id_}, written was {self.rows[id_]!r}")

    def _wrote_hot(self, key: int | str, revision: int, value: str) -> None:
        if self._traffic.hot_writes.setdefault((key, revision), value) != value:
            raise WrongValue(f"revision {revision} of {key!r} was written twice: an update is lost")

    def _read_hot(self, version: Version, key: int | str, sql: str) -> None:
        found = self._execute(version, sql, (key,))
        if len(found) != 1:
            raise WrongValue(f"{version} finds {len(found)} rows for {key!r}")
        self.hot_reads.append(((key, found[0][0]), found[0][1]))

    def _execute(self, version: Version, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor = self._connections[version].execute(sql.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _holders(self, columns: list[str]) -> str:
        return ", ".join(f"%s::{self._spec.type}" for _ in columns)

    def _assign(self, columns: list[str]) -> str:
        return ", ".join(f"{column} = %s::{self._spec.type}" for column in columns)

    def _params(self, columns: list[str], value: str | None) -> tuple[str | None, ...]:
        return tuple(self._sent(value) for _ in columns)

    def _sent(self, value: str | None) -> str | None:
        """What is sent for a value: with blanks around it where the table's own trigger, which is N's, strips them."""
        stripped = self._spec.trims and self._duties[Version.OLD] is Duty.FULL
        return f"{value}  " if stripped and value is not None else value

    def _any(self) -> int:
        return self._random.choice(list(self.rows))

    def _readable(self, version: Version) -> int:
        """A row that the version may read: under `Duty.BLIND`, one that it wrote."""
        if self._duties[version] is Duty.FULL:
            return self._any()
        if not any(id_ in self.rows for id_ in self._by_new):
            self.insert(version)
        return self._random.choice([id_ for id_ in self._by_new if id_ in self.rows])

    def _new_id(self) -> int:
        return next(self._traffic.numbers)

    def _value(self) -> str:
        return self._spec.value(next(self._traffic.numbers))


class _Raw(sa.types.UserDefinedType[Any]):
    """A type by its SQL."""

    cache_ok = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def get_col_spec(self, **_: Any) -> str:
        return self.sql


# -- the way through the phases ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One move of the engine, and what each version does after it."""

    title: str
    phase: Phase
    old: Duty = Duty.FULL
    new: Duty = Duty.REST
    back: bool = False

    @property
    def duties(self) -> dict[Version, Duty]:
        both = self.new if self.old is not Duty.REST else Duty.REST
        return {Version.OLD: self.old, Version.NEW: self.new, Version.BOTH: both}


STRAIGHT = (
    Stage(title="baseline", phase=Phase.NONE),
    Stage(title="expand", phase=Phase.EXPAND),
    Stage(title="dual_write", phase=Phase.DUAL_WRITE, new=Duty.BLIND),
    Stage(title="backfill", phase=Phase.BACKFILL, new=Duty.FULL),
    Stage(title="switch_reads", phase=Phase.SWITCH_READS, new=Duty.FULL),
)
LAST = (
    Stage(title="retire", phase=Phase.RETIRE, old=Duty.REST, new=Duty.FULL),
    Stage(title="contract", phase=Phase.CONTRACT, old=Duty.REST, new=Duty.FULL),
)
JOURNEY = (
    *STRAIGHT,
    Stage(title="revert to dual_write", phase=Phase.DUAL_WRITE, new=Duty.BLIND, back=True),
    Stage(title="switch_reads again", phase=Phase.SWITCH_READS, new=Duty.FULL),
    Stage(title="retire, first time", phase=Phase.RETIRE, old=Duty.REST, new=Duty.FULL),
    Stage(title="revert to backfill", phase=Phase.BACKFILL, new=Duty.FULL, back=True),
    Stage(title="revert to none", phase=Phase.NONE, back=True),
    Stage(title="backfill again", phase=Phase.BACKFILL, new=Duty.FULL),
    Stage(title="switch_reads at last", phase=Phase.SWITCH_READS, new=Duty.FULL),
    *LAST,
)
_NOTHING: Mapping[str, Callable[[Traffic], None]] = MappingProxyType({})


class Refused(Exception):
    """The engine did not do what it was asked."""


@contextlib.contextmanager
def project(url: str, spec: Spec, directory: Path) -> Iterator[Project]:
    """The engine on a development database, with the one migration."""
    names = f"{spec.table!r}, {spec.old!r}, {spec.new!r}, schema={spec.schema!r}"
    text = f"from zdmigrate import Migration, RenameColumn\n\nmigration = Migration(RenameColumn({names}))\n"
    (directory / f"{MIGRATION}.py").write_text(text, encoding="utf-8")
    with Project.open(Config(url=url, dir=directory), report=lambda _: None) as opened:
        opened.init(environment="development", app_role=None, confirmed=True)
        yield opened


def travel(
    engine: Project,
    traffic: Traffic,
    stages: Sequence[Stage] = JOURNEY,
    *,
    minimum: int = 25,
    after: Mapping[str, Callable[[Traffic], None]] = _NOTHING,
) -> Findings:
    """Go through `stages` under traffic, and stay in each until everybody did enough; `after` is called at its end.

    Raises:
        Refused: by the engine.
    """
    stage = stages[0]
    for stage in stages:
        # Nobody may still do what the move takes away, or do already what it makes possible.
        lower = {version: min(traffic.duties[version], duty) for version, duty in stage.duties.items()}
        traffic.assign(lower)
        traffic.stage = stage.title
        _move(engine, stage)
        traffic.assign(stage.duties)
        traffic.hold(minimum)
        if stage.old is Duty.FULL and stage.new is Duty.FULL and (count := traffic.diverging()):
            traffic.findings.wrong.append(f"{stage.title}: {count} rows diverge")
        if stage.title in after:
            after[stage.title](traffic)
        if len(traffic.findings.violations) >= ENOUGH:
            break
    traffic.stop()
    traffic.compare(Version.NEW if stage.new is Duty.FULL else Version.OLD)
    return traffic.findings


def _move(engine: Project, stage: Stage) -> None:
    if stage.back:
        _accept(engine.revert(MIGRATION, target=stage.phase))
        _accept(engine.unhold(MIGRATION))
    elif stage.phase is not Phase.NONE:
        _accept(engine.advance([MIGRATION], target=stage.phase))


def _accept(outcome: Outcome) -> None:
    for status in outcome.migrations:
        if status.exit_code:
            raise Refused(f"exit {status.exit_code}: {status.message} ({status.hint})")
