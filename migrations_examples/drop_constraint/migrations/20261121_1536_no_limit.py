"""Orders may cost more."""

from zdmigrate import DropConstraint, Migration

migration = Migration(
    DropConstraint("orders", "orders_cents_small"),
)
