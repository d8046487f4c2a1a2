"""Faxes are history."""

from zdmigrate import DropTable, Migration

migration = Migration(
    DropTable("faxes"),
)
