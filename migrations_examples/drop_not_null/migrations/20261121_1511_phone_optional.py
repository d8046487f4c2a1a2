"""Users need not have a telephone."""

from zdmigrate import DropNotNull, Migration

migration = Migration(
    DropNotNull("users", "phone"),
)
