"""The report by country is gone."""

from zdmigrate import DropIndex, Migration

migration = Migration(
    DropIndex("users_country", table="users"),
)
