"""The message names the rule."""

from zdmigrate import Migration, RenameConstraint

migration = Migration(
    RenameConstraint("users", "users_email_key", "one_account_per_address"),
)
