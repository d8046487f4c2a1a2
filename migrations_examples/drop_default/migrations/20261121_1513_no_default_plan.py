"""The plan is chosen, not guessed."""

from zdmigrate import DropDefault, Migration

migration = Migration(
    DropDefault("users", "plan"),
)
