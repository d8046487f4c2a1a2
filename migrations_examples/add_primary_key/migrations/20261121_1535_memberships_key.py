"""Memberships get a primary key."""

from zdmigrate import AddPrimaryKey, Migration

migration = Migration(
    AddPrimaryKey("memberships", "member"),
)
