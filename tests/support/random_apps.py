"""Random applications that use nothing of what a random migration changes: each in its own tables, and all beside it.

Their own tables are those of `random_tables`. They also write a table that the migration changes, but none of its columns
that change, and may refer to it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg
from hypothesis import strategies as st

from tests.support import random_versions
from tests.support.random_tables import ID, tables
from tests.support.random_versions import Column, Relation
from zdmigrate.compat.footprint import Filled, Footprint, MappedColumn, MappedTable, Parameter, Statement
from zdmigrate.sqltext import ident

SUBJECT = """
CREATE TABLE subject (id serial PRIMARY KEY, kept text NOT NULL, a text, b int, c varchar(20), "Some Column" int DEFAULT 3);
INSERT INTO subject (kept, a, b, c) SELECT 'kept ' || n, 'a ' || n, n, 'c' || n FROM generate_series(1, 5) n;
CREATE TABLE leaving (id serial PRIMARY KEY, a text);
CREATE TABLE pointing (id serial PRIMARY KEY, subject_id int REFERENCES subject, leaving_id int);
INSERT INTO pointing (subject_id) VALUES (1);
CREATE VIEW seen AS SELECT id, kept FROM subject;
"""
CHANGES = (
    ("a", 'RenameColumn("subject", "a", "z")'),
    ("a", 'DropColumn("subject", "a")'),
    ("b", 'ChangeType("subject", "b", sa.BigInteger())'),
    ("b", 'AddCheck("subject", "positive b", "b > 0")'),
    ("b", 'AddUnique("subject", "b")'),
    ("b", 'SetDefault("subject", "b", "7")'),
    ("c", 'ChangeType("subject", "c", sa.Text())'),
    ("c", 'CreateIndex("subject", "c of subject", "c", unique=True)'),
    ("c", 'SetComment("subject", "said", column="c")'),
    ("Some Column", 'DropDefault("subject", "Some Column")'),
    ("Some Column", 'DropColumn("subject", "Some Column")'),
    ("new", 'AddColumn("subject", sa.Column("d", sa.Text))'),
    ("new", 'AddColumn("subject", sa.Column("e", sa.Integer, nullable=False, server_default="1"))'),
    (
        "new",
        'RunSQL("ALTER TABLE subject ADD f int", revert="ALTER TABLE subject DROP f", locks={"subject": "ACCESS EXCLUSIVE"})',
    ),
    ("leaving", 'DropTable("leaving")'),
    ("leaving", 'RenameTable("leaving", "left")'),
    ("leaving", 'RunSQL(contract="DROP TABLE leaving", locks={"leaving": "ACCESS EXCLUSIVE"})'),
)
"""What a change is about, of which a migration has one, and its source."""


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """Tables, and the changes of one migration."""

    schema: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def dump(self) -> str:
        """As SQL."""
        return SUBJECT + "".join(f"{statement};\n" for statement in self.schema)


@st.composite
def applications(draw: st.DrawFn, major: int) -> Drawn:
    """Its tables, and one to three changes of others that do not contradict each other."""
    _, schema = tables(draw, major)
    chosen = draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3, unique_by=lambda change: change[0]))
    # The application's role has the rights of an ordinary one, and not those that somebody happened to get.
    own = tuple(statement for statement in schema if not statement.startswith("GRANT"))
    return Drawn(own, tuple(source for _, source in chosen))


def footprint(connection: psycopg.Connection[Any]) -> Footprint:
    """What the application needs of the database that is there."""
    relations = [r for r in random_versions.version(connection).relations if r.name not in ("subject", "leaving")]
    mine = [r for r in relations if r.name != "pointing"]
    return Footprint.of(
        tables=[*map(_mapped, mine), _SUBJECT, _POINTING],
        statements=[*_BESIDE, *(statement for relation in mine for statement in _statements(relation))],
    )


_SERIAL = MappedColumn(name="id", type="INTEGER", nullable=False, filled="server")
_SUBJECT = MappedTable(
    name="subject", columns=(_SERIAL, MappedColumn(name="kept", type="TEXT", nullable=False)), key=("id",)
)
_POINTING = MappedTable(
    name="pointing", columns=(_SERIAL, MappedColumn(name="subject_id", type="INTEGER")), key=("id",)
)
_BESIDE = tuple(
    Statement(sql=sql, parameters=tuple(Parameter(types=("unknown",)) for _ in range(sql.count("$"))))
    for sql in (
        "SELECT s.kept FROM subject s JOIN pointing p ON p.subject_id = s.id WHERE s.id = $1",
        "INSERT INTO subject (kept) VALUES ($1) RETURNING id",
        "UPDATE subject SET kept = $1 WHERE id = $2",
        "SELECT kept FROM seen ORDER BY id",
        "DELETE FROM pointing WHERE subject_id = $1",
    )
)


def _mapped(relation: Relation) -> MappedTable:
    key: Filled = "server" if relation.numbered else ""
    columns = [MappedColumn(name=ID, type="BIGINT", nullable=False, filled=key), *map(_column, relation.columns)]
    keys = (ID,) if relation.arbiter else ()
    return MappedTable(name=relation.name, schema=relation.schema, columns=tuple(columns), key=keys)


def _column(column: Column) -> MappedColumn:
    given = column.needed or column.nullable
    filled: Filled = "generated" if not column.written else "" if given else "server"
    return MappedColumn(name=column.name, type=column.type, nullable=column.nullable, filled=filled)


def _statements(relation: Relation) -> list[Statement]:
    """`SELECT *` too: these tables do not change."""
    one = (Parameter(types=("unknown",)),)
    columns = [c.sql for c in relation.columns if c.written]
    found = [
        Statement(sql=f"SELECT * FROM {relation.sql}"),
        Statement(sql=f"SELECT count(*) FROM {relation.sql} WHERE {ident(ID)} > $1", parameters=one),
        Statement(sql=f"DELETE FROM {relation.sql} WHERE {ident(ID)} = $1", parameters=one),
    ]
    if columns:
        update = f"UPDATE {relation.sql} SET {columns[0]} = $1 WHERE {ident(ID)} = $2 RETURNING *"
        found.append(Statement(sql=update, parameters=one * 2))
    return found
