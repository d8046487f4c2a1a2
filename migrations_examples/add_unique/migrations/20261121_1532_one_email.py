"""One user for one address."""

from zdmigrate import AddUnique, Migration

migration = Migration(
    AddUnique("users", "email"),
)
