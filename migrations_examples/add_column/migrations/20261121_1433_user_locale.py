"""Every user gets a locale."""

import sqlalchemy as sa

from zdmigrate import AddColumn, Migration

migration = Migration(
    AddColumn(
        "users",
        sa.Column("locale", sa.String(8), nullable=False, comment="BCP 47 language tag"),
        backfill="CASE WHEN country = 'DE' THEN 'de' ELSE 'en' END",
    ),
)
