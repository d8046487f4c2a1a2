"""Events can be told apart."""

from zdmigrate import AddPrimaryKey, Migration

migration = Migration(
    AddPrimaryKey("events", "id"),
)
