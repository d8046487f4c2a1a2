"""Users get a customer number."""

import sqlalchemy as sa

from zdmigrate import AddColumn, Migration

migration = Migration(
    AddColumn("users", sa.Column("number", sa.BigInteger, sa.Identity(start=1000))),
)
