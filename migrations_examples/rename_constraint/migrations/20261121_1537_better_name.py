"""A better name in error messages."""

from zdmigrate import Migration, RenameConstraint

migration = Migration(
    RenameConstraint("orders", "orders_reference_key", "one_order_per_reference"),
)
