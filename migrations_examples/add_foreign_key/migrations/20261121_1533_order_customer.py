"""Every order has a customer."""

from zdmigrate import AddForeignKey, Migration

migration = Migration(
    AddForeignKey("orders", "customer_id", "customers", "id"),
)
