"""Rows for probes: those that are there, and new ones that the server accepts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from zdmigrate.compat.probing import values
from zdmigrate.compat.probing.binding import names_in
from zdmigrate.compat.probing.client import Client, Failure, Rows
from zdmigrate.compat.probing.values import MANNERS, Manner
from zdmigrate.postgres.shapes import Column, ForeignKey, Relation, Shapes
from zdmigrate.sqltext import ident, literal

__all__ = ["Row", "Samples", "fill", "insert"]

Row = Mapping[str, str | None]
"""Values by column, as text."""

_ROWS = 3
_ATTEMPTS = 60


def insert(relation: Relation, row: Row) -> str:
    """An INSERT without parameters."""
    if not row:
        return f"INSERT INTO {ident(relation.schema, relation.name)} DEFAULT VALUES"
    columns = ", ".join(map(ident, row))
    given = ", ".join("NULL" if value is None else literal(value) for value in row.values())
    return f"INSERT INTO {ident(relation.schema, relation.name)} ({columns}) VALUES ({given})"


def fill(client: Client, shapes: Shapes) -> dict[str, str]:
    """Put a few rows into every table that has none. Returns the tables that stayed empty, and why.

    Must be called outside a transaction; every row is committed.
    """
    samples = Samples(client, shapes)
    reasons = {}
    for relation in _parents_first(shapes):
        if relation.kind in "rp" and not samples.existing(relation):
            problem = _fill_one(client, samples, relation, _ROWS + _height(relation, shapes))
            samples.forget(relation)
            if problem is not None and not samples.existing(relation):
                reasons[str(relation)] = problem
    return reasons


class Samples:
    """The rows of a database in one state."""

    def __init__(self, client: Client, shapes: Shapes) -> None:
        self._client = client
        self._shapes = shapes
        self._existing: dict[tuple[str, str], list[Row]] = {}
        self._manners: dict[tuple[str, str], Manner] = {}
        self.refusals: dict[tuple[str, str], str] = {}
        """Why the server took no row, by schema and table."""

    def forget(self, relation: Relation) -> None:
        """There are others now."""
        self._existing.pop((relation.schema, relation.name), None)

    def existing(self, relation: Relation) -> list[Row]:
        """A few rows, in the order of the key."""
        name = relation.schema, relation.name
        if name not in self._existing:
            self._existing[name] = self._select(relation, "true", order=relation.key)
        return self._existing[name]

    def count(self, schema: str, name: str) -> int:
        """How many rows a table has."""
        answer = self._client.run(f"SELECT count(*) FROM {ident(schema, name)}")
        return 0 if isinstance(answer, Failure) else int(answer.rows[0][0] or 0)

    def make(self, relation: Relation, number: int, *, fresh: bool = False) -> dict[str, str | None]:
        """Values for a new row: like one that is there, but for what must be unique; `fresh`: none as there.

        Columns that the server alone fills are left out. Texts are made in the first manner that the server accepts.
        """
        name = relation.schema, relation.name
        if name not in self._manners:
            self._manners[name] = self._accepted(relation, number)
        return self.made(relation, number, self._manners[name], fresh=fresh)

    def _accepted(self, relation: Relation, number: int) -> Manner:
        for manner in MANNERS:
            self._client.begin()
            answer = self._client.run(insert(relation, self.made(relation, number, manner)))
            self._client.end()
            if not isinstance(answer, Failure):
                return manner
            self.refusals[relation.schema, relation.name] = answer.message
        return MANNERS[0]

    def made(self, relation: Relation, number: int, manner: Manner, *, fresh: bool = False) -> dict[str, str | None]:
        """As `make`, in one manner."""
        base = next(iter(self.existing(relation)), {})
        keys = {column for key in relation.unique for column in key}
        distinct = set(_distinct(relation))
        row: dict[str, str | None] = {}
        for column in relation.columns:
            if _writable(column):
                there = base.get(column.name)
                again = column.name in base and column.name not in distinct and not fresh
                row[column.name] = there if again else manner(column, number, there)
        for reference in relation.references:
            row.update({c: v for c, v in self._parent(relation, reference, unique=keys).items() if c in row})
        return row

    def _parent(self, relation: Relation, reference: ForeignKey, unique: set[str]) -> Row:
        """The columns of a foreign key; where they must be unique, of a row that nobody refers to yet."""
        target = self._shapes.relations.get(reference.target)
        if target is None:
            return {}
        found = self.existing(target)
        if unique & {*reference.columns}:
            equal = " AND ".join(
                f"x.{ident(ours)} = t.{ident(theirs)}"
                for ours, theirs in zip(reference.columns, reference.remote, strict=True)
            )
            free = f"NOT EXISTS (SELECT FROM {ident(relation.schema, relation.name)} x WHERE {equal})"
            found = self._select(target, free) or found
        return {
            ours: found[-1].get(theirs) if found else None
            for ours, theirs in zip(reference.columns, reference.remote, strict=True)
        }

    def _select(self, relation: Relation, where: str, order: Iterable[str] = ()) -> list[Row]:
        names = [column.name for column in relation.columns]
        if not names:
            return []
        listed = ", ".join(f"t.{ident(name)}::text" for name in names)
        ordered = ", ".join(f"t.{ident(name)}" for name in order)
        answer = self._client.run(
            f"SELECT {listed} FROM {ident(relation.schema, relation.name)} t WHERE {where}"
            f"{f' ORDER BY {ordered}' if ordered else ''} LIMIT {_ROWS}"
        )
        return [dict(zip(names, row, strict=True)) for row in answer.rows] if isinstance(answer, Rows) else []


def _distinct(relation: Relation) -> Iterator[str]:
    """The columns in which new rows differ from those that are there: of each key all that no condition speaks of (it may
    say to which partition a row belongs). One of them would not do where the key is a shorter one in another state."""
    bound = frozenset(name for check in relation.checks for name in names_in(check))
    for key in relation.unique:
        yield from [name for name in key if name not in bound] or key[:1]
    yield from relation.excluding


def _writable(column: Column) -> bool:
    return column.generated == "" and column.identity != "a"


def _parents_first(shapes: Shapes) -> list[Relation]:
    """Referenced tables before those that refer to them, as far as there are no circles."""
    ordered: dict[tuple[str, str], Relation] = {}

    def visit(relation: Relation, above: frozenset[tuple[str, str]]) -> None:
        name = relation.schema, relation.name
        for reference in relation.references:
            target = shapes.relations.get(reference.target)
            if target is not None and reference.target not in {*above, name, *ordered}:
                visit(target, above | {name})
        ordered[name] = relation

    for relation in shapes.relations.values():
        if (relation.schema, relation.name) not in ordered:
            visit(relation, frozenset())
    return list(ordered.values())


def _height(relation: Relation, shapes: Shapes, above: frozenset[tuple[str, str]] = frozenset()) -> int:
    """How many tables, one under the other, take the rows of this one for themselves: each leaves one for a row that is
    made later."""
    name = relation.schema, relation.name
    if name in above:
        return 0
    below = [each for each in shapes.relations.values() if name in _taken(each) and each is not relation]
    return max((1 + _height(each, shapes, above | {name}) for each in below), default=0)


def _taken(relation: Relation) -> set[tuple[str, str]]:
    """The tables of which it refers to no row twice."""
    keys = {column for key in relation.unique for column in key}
    return {reference.target for reference in relation.references if keys & {*reference.columns}}


def _fill_one(client: Client, samples: Samples, relation: Relation, rows: int) -> str | None:
    problem: str | None = None
    # One row of each table whose rows it takes for itself is left for a row that is made later.
    room = min((samples.count(*name) - 1 for name in _taken(relation)), default=rows)
    for number in range(values.FIRST, values.FIRST + min(rows, room)):
        for row in itertools.islice(_attempts(samples, relation, number), _ATTEMPTS):
            answer = client.run(insert(relation, row))
            samples.forget(relation)
            if not isinstance(answer, Failure):
                break
            problem = problem or answer.message
        else:
            return problem
    return None


def _attempts(samples: Samples, relation: Relation, number: int) -> Iterator[Row]:
    """The whole row; the same with what the checks allow; only what must be given."""
    row: Row = {}
    for manner in reversed(MANNERS):
        row = samples.made(relation, number, manner)
        yield row
    names = frozenset(row)
    checked = sorted({name for check in relation.checks for name in names_in(check) & names})
    choices = [(*values.from_checks(relation), None, row[name]) for name in checked]
    needed = {
        column.name: row[column.name]
        for column in relation.columns
        if column.name in row and column.not_null and not column.filled
    }
    yield needed
    for name, allowed in zip(checked, choices, strict=True):
        yield from ({**row, name: value} for value in allowed)
        yield from ({**needed, name: value} for value in allowed)
    for chosen in itertools.product(*choices):
        yield {**row, **dict(zip(checked, chosen, strict=True))}
