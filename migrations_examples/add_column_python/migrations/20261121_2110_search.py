"""Customers are found without accents, whatever the case."""

import unicodedata

import sqlalchemy as sa

from zdmigrate import AddColumn, Migration


def plain(text):
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def search_keys(rows):
    return [plain(f"{row['name']} {row['city'] or ''}").strip() for row in rows]


migration = Migration(
    AddColumn(
        "customers",
        sa.Column("search", sa.Text, nullable=False, server_default=""),
        backfill=search_keys,
        reads=("name", "city"),
    ),
)
