"""Nobody sends a fax any more."""

from zdmigrate import DropColumn, Migration

migration = Migration(
    DropColumn("users", "fax", down="''"),
)
