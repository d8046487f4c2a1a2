"""Families share an address."""

from zdmigrate import DropConstraint, Migration

migration = Migration(
    DropConstraint("users", "users_email_key"),
)
