"""An order costs something."""

from zdmigrate import AddCheck, Migration

migration = Migration(
    AddCheck("orders", "orders_cents_positive", "cents > 0"),
)
