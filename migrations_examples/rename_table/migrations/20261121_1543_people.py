"""Not everybody in users is one."""

from zdmigrate import Migration, RenameTable

migration = Migration(
    RenameTable("users", "people"),
)
