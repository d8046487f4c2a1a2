"""Rename users.user_email to users.email_address."""

from zdmigrate import Migration, RenameColumn

migration = Migration(
    RenameColumn("users", "user_email", "email_address"),
)
