"""The rows of users number themselves."""

from zdmigrate import AddIdentity, Migration

migration = Migration(
    AddIdentity("users", "id"),
)
