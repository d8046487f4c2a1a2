"""One account for each address."""

from zdmigrate import AddUnique, Migration

migration = Migration(
    AddUnique("users", "email"),
)
