"""What one version writes, read by the other: at once, and after every phase that follows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from zdmigrate.compat.footprint import Footprint, MappedColumn
from zdmigrate.compat.probing import judging, roundtrips
from zdmigrate.compat.probing.client import Client, Failure, Rows
from zdmigrate.compat.probing.needs import Needs
from zdmigrate.compat.probing.roundtrips import Mapped, full_row, mapped, minimal
from zdmigrate.compat.probing.rows import Row, Samples
from zdmigrate.compat.report import Finding, Layer, State, Version
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan, queries_in
from zdmigrate.postgres.shapes import Shapes
from zdmigrate.sqltext import ident

__all__ = ["Crossing"]

_FIRST = 40_000
_COMPARED = (Phase.BACKFILL, Phase.SWITCH_READS, Phase.RETIRE)
"""States in which every row is in both shapes, and both are there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A row that a version wrote, as it read it itself."""

    writer: Version
    table: str
    key: Row
    own: Row
    what: str


class Crossing:
    """Both versions at work on one database; `names` are those of what changes."""

    def __init__(
        self, needs: Mapping[Version, Needs], clients: Mapping[Version, Client], names: frozenset[str]
    ) -> None:
        self._needs = needs
        self._clients = clients
        self._names = names | _disagreed(needs[Version.OLD].footprint, needs[Version.NEW].footprint)
        self._written: list[_Written] = []
        self._numbers = itertools.count(_FIRST)

    def work(
        self, state: State, shapes: Shapes, live: Sequence[Version], plans: Sequence[Plan], owner: Client
    ) -> Iterator[Finding]:
        """Those who live write; then everything that was ever written is read by all of them."""
        tables = {v: self._tables(v, shapes) for v in live}
        found: dict[tuple[Version, str, str], Finding] = {}
        for version in live:
            for each in tables[version].values():
                for finding in self._write(version, each, shapes, state):
                    found.setdefault((finding.version, finding.subject, finding.message), finding)
        for written in self._written:
            for reader in live:
                table = tables[reader].get(written.table)
                if table is not None:
                    for finding in self._read(reader, table, written, state):
                        found.setdefault((finding.version, finding.subject, finding.message), finding)
        yield from found.values()
        if state.phase in _COMPARED:
            yield from _diverged(state, Version.NEW if Version.NEW in live else Version.OLD, plans, owner)

    def _tables(self, version: Version, shapes: Shapes) -> dict[str, Mapped]:
        needs = self._needs[version]
        every = (mapped(table, shapes) for table in needs.footprint.tables if table.name in self._names)
        return {str(each.relation): each for each in every if each is not None and each.table.key}

    # -- writing

    def _write(self, version: Version, table: Mapped, shapes: Shapes, state: State) -> Iterator[Finding]:
        client = self._clients[version]
        samples = Samples(client, shapes)
        for what, changed in self._rows(version, table):
            whole = samples.make(table.relation, next(self._numbers))
            full = full_row(table, whole)
            row = minimal(table, full) if what == "minimal" else {**full, **changed}
            written = self._insert(client, version, table, row, what)
            if written is not None:
                yield from self._mangled(version, table, row, written, state)
                yield from self._filled(version, table, row, written, state)
        # Rows with a NULL or a label that the other version may not know stay as they are until it has read them.
        mine = [w for w in self._written if (w.writer, w.table, w.what) == (version, str(table.relation), "full")]
        if mine:
            fresh = samples.make(table.relation, next(self._numbers))
            given, written = self._update(client, table, mine[-1], fresh)
            if written is not None:
                yield from self._mangled(version, table, given, written, state)

    def _mangled(
        self, version: Version, table: Mapped, given: Row, written: _Written, state: State
    ) -> Iterator[Finding]:
        """What a version does not read back as it has just written it."""
        subject = _row(written)
        for name, value in given.items():
            faithful = (str(table.relation), name) in self._needs[version].faithful
            if faithful and value is not None and written.own.get(name) != value:
                message = f"{name} is {_said(written.own.get(name))} at once, and {_said(value)} was written"
                yield self._finding(version, state, subject, message, "C29")

    def _filled(
        self, version: Version, table: Mapped, given: Row, written: _Written, state: State
    ) -> Iterator[Finding]:
        """A default that the old version relies on; the new one gets the old one until `contract`, and knows it."""
        if version is Version.NEW:
            return
        for (relation, name), value in self._needs[version].defaults.items():
            mine = relation == str(table.relation) and name in written.own and name not in given
            if mine and written.own[name] != value and self._same_type(table, name):
                message = f"{name} is {_said(written.own[name])} where it is left out, and was {_said(value)}"
                yield self._finding(version, state, _row(written), message, "C10")

    def _rows(self, version: Version, table: Mapped) -> Iterator[tuple[str, Row]]:
        """A minimal row, a full one, and one for each value that the other version may not know."""
        yield "minimal", {}
        yield "full", {}
        theirs = self._theirs(version, table)
        for column in table.sent:
            other = theirs.get(column.name)
            if other is None:
                continue
            if column.nullable and not other.nullable:
                yield f"{column.name} = NULL", {column.name: None}
            for label in sorted({*column.labels} - {*other.labels}):
                if other.labels:
                    yield f"{column.name} = {label!r}", {column.name: label}
        for identity in self._identities(version, table):
            assert table.table.discriminator is not None
            yield f"{table.table.discriminator} = {identity!r}", {table.table.discriminator: identity}

    def _theirs(self, version: Version, table: Mapped) -> dict[str, MappedColumn]:
        other = self._needs[_other(version)].footprint
        found = next((t for t in other.tables if (t.schema, t.name) == (table.table.schema, table.table.name)), None)
        return {} if found is None else {column.name: column for column in found.columns}

    def _identities(self, version: Version, table: Mapped) -> list[str]:
        other = self._needs[_other(version)].footprint
        known = {i for t in other.tables if t.name == table.table.name for i in t.identities}
        return sorted({*table.table.identities} - known) if known and table.table.discriminator else []

    def _insert(self, client: Client, version: Version, table: Mapped, row: Row, what: str) -> _Written | None:
        sql = f"{roundtrips.insert(table, row)} RETURNING {', '.join(map(ident, table.table.key))}"
        if client.prepare("", sql) is not None:
            return None
        answer = client.execute("", tuple(row.values()))
        if isinstance(answer, Rows) and answer.rows:
            key = dict(zip(answer.columns, answer.rows[0], strict=True))
            own = _find(client, table, key)
            if isinstance(own, dict):
                written = _Written(writer=version, table=str(table.relation), key=key, own=own, what=what)
                self._written.append(written)
                return written
        return None

    def _update(self, client: Client, table: Mapped, written: _Written, fresh: Row) -> tuple[Row, _Written | None]:
        """Save the row with other values, as an ORM does."""
        keys = {*table.table.key} | {name for reference in table.relation.references for name in reference.columns}
        row = {name: value for name, value in full_row(table, fresh).items() if name not in keys}
        if not row:
            return row, None
        sets = ", ".join(f"{ident(name)} = ${number}" for number, name in enumerate(row, start=1))
        where = _where(written.key, len(row) + 1)
        if client.prepare("", f"UPDATE {table.target} SET {sets} WHERE {where}") is not None:
            return row, None
        if isinstance(client.execute("", (*row.values(), *written.key.values())), Rows):
            own = _find(client, table, written.key)
            if isinstance(own, dict):
                updated = dataclasses.replace(written, own=own, what="updated")
                self._written[self._written.index(written)] = updated
                return row, updated
        return row, None

    # -- reading

    def _read(self, reader: Version, table: Mapped, written: _Written, state: State) -> Iterator[Finding]:
        found = _find(self._clients[reader], table, written.key)
        subject = _row(written)
        if isinstance(found, Failure):
            return  # the other layers say so
        if found is None:
            yield self._finding(reader, state, subject, "the row is not there", "C29")
            return
        yield from self._compared(reader, table, written, found, state, subject)
        if reader is not written.writer:
            yield from self._loaded(reader, table, found, state, subject)

    def _compared(
        self, reader: Version, table: Mapped, written: _Written, found: Row, state: State, subject: str
    ) -> Iterator[Finding]:
        for name, value in written.own.items():
            if name in found and value is not None and found[name] != value and self._same_type(table, name):
                hazard = "C10" if written.what == "minimal" else "C29"
                message = f"{name} is {_said(found[name])}, and was {_said(value)} for the {written.writer} version"
                yield self._finding(reader, state, subject, message, hazard)

    def _same_type(self, table: Mapped, name: str) -> bool:
        """Whether both versions mean the same by a column of this name."""
        relation = table.relation
        columns = [
            home.column(name) if home is not None else None
            for home in (n.home.relations.get((relation.schema, relation.name)) for n in self._needs.values())
        ]
        return all(column is not None for column in columns) and len({c.type for c in columns if c}) == 1

    def _loaded(self, reader: Version, table: Mapped, found: Row, state: State, subject: str) -> Iterator[Finding]:
        """What the database gives, and the version's models cannot hold."""
        for column in table.columns:
            value = found.get(column.name)
            if value is None and not column.nullable and column.name in found:
                # Who does not know the column cannot have filled it: that was to be somebody else's work.
                hazard = "C16" if column.name in self._theirs(reader, table) else "C29"
                yield self._finding(reader, state, subject, f"{column.name} is NULL, which it does not expect", hazard)
            if value is not None and column.labels and not value.startswith("{") and value not in column.labels:
                yield self._finding(
                    reader, state, subject, f"{column.name} is {value!r}, a label that it does not know", "C21"
                )
        kind = table.table.discriminator
        if kind is not None and table.table.identities and found.get(kind) not in (None, *table.table.identities):
            yield self._finding(reader, state, subject, f"{kind} is {found[kind]!r}: it has no class for it", "C20")

    def _finding(self, version: Version, state: State, subject: str, message: str, hazard: str) -> Finding:
        return Finding(
            version=version, state=state, layer=Layer.CROSS, subject=subject, message=message,
            remedy=judging.remedy_of(hazard), hazard=hazard,
        )  # fmt: skip


def _row(written: _Written) -> str:
    return f"row ({written.what}) of {written.table} that the {written.writer} version wrote"


def _disagreed(one: Footprint, other: Footprint) -> frozenset[str]:
    """Tables that the versions map differently: what one writes may be news to the other on an unchanged schema."""
    known = {(table.schema, table.name): table for table in one.tables}
    return frozenset(t.name for t in other.tables if known.get((t.schema, t.name), t) != t)


def _diverged(state: State, version: Version, plans: Sequence[Plan], owner: Client) -> Iterator[Finding]:
    for comparison in (each for plan in plans for each in plan.comparisons):
        for queries in (comparison.diverged, comparison.lossy):
            for query in queries_in(queries, state.phase):
                answer = owner.run(query)
                said = answer.message if isinstance(answer, Failure) else "; ".join(str(row[0]) for row in answer.rows)
                if said:
                    yield Finding(
                        version=version, state=state, layer=Layer.CROSS, subject=comparison.table, message=said,
                        remedy=judging.remedy_of("C29"), hazard="C29",
                    )  # fmt: skip


def _find(client: Client, table: Mapped, key: Row) -> Row | Failure | None:
    if not {*key} <= {column.name for column in table.relation.columns}:
        return Failure(sqlstate="42703", message="the key has another name")
    sql = f"SELECT {', '.join(map(ident, table.names))} FROM {table.target} WHERE {_where(key, 1)}"
    failure = client.prepare("", sql)
    if failure is not None:
        return failure
    answer = client.execute("", tuple(key.values()))
    if isinstance(answer, Failure):
        return answer
    return dict(zip(answer.columns, answer.rows[0], strict=True)) if answer.rows else None


def _where(key: Row, first: int) -> str:
    return " AND ".join(f"{ident(name)} = ${number}" for number, name in enumerate(key, start=first))


def _other(version: Version) -> Version:
    return Version.NEW if version is Version.OLD else Version.OLD


def _said(value: str | None) -> str:
    return "NULL" if value is None else repr(value)
