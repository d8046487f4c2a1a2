"""No two bookings at a time."""

from zdmigrate import AddExclusion, Migration

migration = Migration(
    AddExclusion("bookings", [("during", "&&")]),
)
