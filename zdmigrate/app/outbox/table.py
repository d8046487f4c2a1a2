"""The outbox table: one row says that the other store may differ from the truth at a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zdmigrate.sqltext import ident

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

NAME = "zdmigrate_outbox"


def outbox_table(metadata: MetaData, name: str = NAME, *, schema: str | None = None) -> Table:
    """The table for the application's own metadata, so that ``create_all`` and Alembic know it. One serves all writers."""
    import sqlalchemy as sa

    def since(column: str) -> sa.Column[Any]:
        return sa.Column(column, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()"))

    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("writer", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        since("changed_at"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text),
        since("next_at"),
        sa.Index(f"{name}_due", "writer", "next_at", "id"),
        sa.Index(f"{name}_key", "writer", "key"),
        schema=schema,
    )


def outbox_ddl(name: str = NAME, *, schema: str | None = None) -> str:
    """The same table as SQL, for those without SQLAlchemy: three statements. Locks: nothing that is there already."""
    table = ident(name) if schema is None else ident(schema, name)
    return f"""\
CREATE TABLE {table} (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT {ident(f"{name}_pkey")} PRIMARY KEY,
    writer text NOT NULL,
    key text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    next_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX {ident(f"{name}_due")} ON {table} (writer, next_at, id);
CREATE INDEX {ident(f"{name}_key")} ON {table} (writer, key);
"""
