"""Users are listed by their initials."""

import sqlalchemy as sa

from zdmigrate import AddColumn, Migration

migration = Migration(
    AddColumn("users", sa.Column("initial", sa.Text, sa.Computed("upper(left(name, 1))", persisted=True))),
)
