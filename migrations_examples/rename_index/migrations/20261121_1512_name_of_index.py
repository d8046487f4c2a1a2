"""An index with a name that says what it is."""

from zdmigrate import Migration, RenameIndex

migration = Migration(
    RenameIndex("idx1", "users_country_idx", table="users"),
)
