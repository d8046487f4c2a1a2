"""An order is about something."""

from zdmigrate import AddCheck, Migration

migration = Migration(
    AddCheck("orders", "positive_amount", "amount > 0"),
)
