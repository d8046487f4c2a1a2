"""An order belongs to somebody."""

from zdmigrate import AddForeignKey, Migration

migration = Migration(
    AddForeignKey("orders", "user_id", "users", "id"),
)
