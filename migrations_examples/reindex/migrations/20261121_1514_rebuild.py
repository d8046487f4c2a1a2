"""All indexes of users, after the upgrade of the C library."""

from zdmigrate import Migration, Reindex

migration = Migration(
    Reindex(table="users"),
)
