"""Probes that are made from a version's models: what an ORM would send for each of its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from zdmigrate.compat.footprint import MappedColumn, MappedTable
from zdmigrate.compat.probing import values
from zdmigrate.compat.probing.probes import Probe
from zdmigrate.compat.probing.rows import Row, Samples
from zdmigrate.postgres.shapes import Relation, Shapes
from zdmigrate.sqltext import ident

__all__ = ["Mapped", "full_row", "insert", "mapped", "minimal", "probes_of"]

NEW = values.FIRST + 5_000
"""The number of the row that a probe inserts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A table of a footprint, and what it is in the database. `columns` are those that are there."""

    table: MappedTable
    relation: Relation
    columns: tuple[MappedColumn, ...]

    @property
    def target(self) -> str:
        """As the application names it: through the search path, where it does not say a schema."""
        table = self.table
        return ident(table.name) if table.schema is None else ident(table.schema, table.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the mapped columns."""
        return tuple(column.name for column in self.columns)

    @property
    def sent(self) -> tuple[MappedColumn, ...]:
        """The columns that may be given a value."""
        refused = {c.name for c in self.relation.columns if c.generated or c.identity == "a"}
        return tuple(c for c in self.columns if c.filled != "generated" and c.name not in refused)

    @property
    def numbered(self) -> frozenset[str]:
        """The key, where the server numbers the rows."""
        return frozenset(c.name for c in self.columns if c.filled == "server" and c.name in self.table.key)


def mapped(table: MappedTable, shapes: Shapes) -> Mapped | None:
    """Where the table is found, or None."""
    relation = shapes.find(table.name, table.schema)
    if relation is None:
        return None
    there = tuple(column for column in table.columns if relation.column(column.name) is not None)
    return Mapped(table=table, relation=relation, columns=there)


def probes_of(mapped: Mapped, samples: Samples) -> Iterator[Probe]:
    """Every round trip; those that the server refuses where the version is at home do not count anywhere."""
    whole = samples.make(mapped.relation, NEW)
    yield from _reading(mapped, samples)
    if not mapped.sent:
        return
    full = full_row(mapped, whole)
    yield _inserting(mapped, "insert", full)
    yield _inserting(mapped, "insert_minimal", minimal(mapped, full))
    yield _inserting(mapped, "insert_nulls", {**full, **_nulls(mapped)})
    fresh = samples.make(mapped.relation, NEW + 1, fresh=True)
    yield _inserting(mapped, "insert_fresh", full_row(mapped, fresh))
    if mapped.numbered:
        yield _inserting(mapped, "insert_key", {**full, **{n: whole[n] for n in mapped.numbered if n in whole}})
    yield from _edges(mapped, full)
    yield from _upserts(mapped, full, whole)
    yield from _changing(mapped, samples, full)


def full_row(mapped: Mapped, whole: Row) -> dict[str, str | None]:
    """What an application writes of a made row: its own columns, and labels and kinds that it knows."""
    row = {c.name: whole[c.name] for c in mapped.sent if c.name in whole and c.name not in mapped.numbered}
    known = {column.name: column.labels for column in mapped.sent if not (row.get(column.name) or "").startswith("{")}
    if mapped.table.discriminator is not None:
        known[mapped.table.discriminator] = mapped.table.identities
    for name, labels in known.items():
        if labels and row.get(name) is not None and row[name] not in labels:
            row[name] = labels[0]
    return row


def minimal(mapped: Mapped, full: Row) -> Row:
    """What an ORM sends where nothing was set: NULLs, but for what somebody else fills."""
    return {
        column.name: None if column.nullable and column.filled != "client" else full[column.name]
        for column in mapped.sent
        if column.name in full and column.filled != "server"
    }


def _nulls(mapped: Mapped) -> Row:
    keys = {name for key in mapped.relation.unique for name in key}
    return {c.name: None for c in mapped.sent if c.nullable and c.name not in keys and c.name not in mapped.numbered}


def _reading(mapped: Mapped, samples: Samples) -> Iterator[Probe]:
    listed = ", ".join(map(ident, mapped.names))
    if not listed:
        return
    query = f"SELECT {listed} FROM {mapped.target}"
    yield _probe(mapped, "select", query, ())
    where, given = _found(mapped, samples, 1)
    if given:
        yield _probe(mapped, "select_by_key", f"{query} WHERE {where}", given)
        yield _probe(mapped, "select_for_update", f"{query} WHERE {where} FOR UPDATE", given)


def _inserting(mapped: Mapped, what: str, row: Row) -> Probe:
    returned = f" RETURNING {', '.join(map(ident, mapped.table.key))}" if mapped.table.key else ""
    return _probe(mapped, what, insert(mapped, row) + returned, tuple(row.values()))


def insert(mapped: Mapped, row: Row) -> str:
    """An INSERT with a parameter for each value."""
    if not row:
        return f"INSERT INTO {mapped.target} DEFAULT VALUES"
    given = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    return f"INSERT INTO {mapped.target} ({', '.join(map(ident, row))}) VALUES ({given})"


def _edges(mapped: Mapped, full: Row) -> Iterator[Probe]:
    keys = {name for reference in mapped.relation.references for name in reference.columns}
    for column in mapped.sent:
        live = mapped.relation.column(column.name)
        if live is None or column.name in keys or column.name not in full:
            continue
        for edge in column.labels or values.boundaries(live):
            yield _inserting(mapped, f"insert {column.name} = {_short(edge)}", {**full, column.name: edge})


def _short(text: str) -> str:
    return repr(text) if len(text) <= 20 else f"{text[:8]!r}… ({len(text)} characters)"


def _upserts(mapped: Mapped, full: Row, whole: Row) -> Iterator[Probe]:
    known = {frozenset(key) for key in mapped.relation.unique}
    for key in dict.fromkeys((mapped.table.key, *mapped.table.unique)):
        row = {**full, **{name: whole.get(name) for name in key}}
        if key and frozenset(key) in known and {*key} <= {c.name for c in mapped.sent}:
            changed = next((c.name for c in mapped.sent if c.name not in key), key[0])
            conflict = f" ON CONFLICT ({', '.join(map(ident, key))}) DO UPDATE SET {ident(changed)} = excluded.{ident(changed)}"
            subject = f"upsert on {', '.join(key)}"
            yield _probe(mapped, subject, insert(mapped, row) + conflict, tuple(row.values()))


def _changing(mapped: Mapped, samples: Samples, full: Row) -> Iterator[Probe]:
    where, given = _found(mapped, samples, len(full) + 1)
    if not given:
        return
    keys = {name for key in mapped.relation.unique for name in key}
    changed = [name for name in full if name not in mapped.table.key]
    if changed:
        sets = ", ".join(f"{ident(name)} = ${number}" for number, name in enumerate(changed, start=1))
        where, given = _found(mapped, samples, len(changed) + 1)
        row = tuple(full[name] for name in changed)
        yield _probe(mapped, "update", f"UPDATE {mapped.target} SET {sets} WHERE {where}", (*row, *given))
    for name in (name for name in changed if name not in keys):
        where, given = _found(mapped, samples, 2)
        update = f"UPDATE {mapped.target} SET {ident(name)} = $1 WHERE {where}"
        yield _probe(mapped, f"update {name}", update, (full[name], *given))
    where, given = _found(mapped, samples, 1)
    yield _probe(mapped, "delete", f"DELETE FROM {mapped.target} WHERE {where}", given)
    # The last row is the one that other tables' rows refer to.
    where, given = _found(mapped, samples, 1, place=-1)
    yield _probe(mapped, "delete last", f"DELETE FROM {mapped.target} WHERE {where}", given)


def _found(mapped: Mapped, samples: Samples, first: int, *, place: int = 0) -> tuple[str, tuple[str | None, ...]]:
    """A condition by which a row that is there is found, and its values."""
    rows = samples.existing(mapped.relation)
    if not rows or not mapped.table.key or not {*mapped.table.key} <= {*rows[0]}:
        return "true", ()
    equal = [f"{ident(name)} = ${number}" for number, name in enumerate(mapped.table.key, start=first)]
    return " AND ".join(equal), tuple(rows[place][name] for name in mapped.table.key)


def _probe(mapped: Mapped, what: str, sql: str, given: Sequence[str | None]) -> Probe:
    return Probe(subject=f"{what} of {mapped.relation}", sql=sql, values=tuple(given))
