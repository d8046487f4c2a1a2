"""No seat is sold twice."""

from zdmigrate import AddExclusion, Migration

migration = Migration(
    AddExclusion("bookings", [("seats", "&&")]),
)
