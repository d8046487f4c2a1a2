"""The login looks for the address in lower case; reports go by country."""

from zdmigrate import CreateIndex, Key, Migration

migration = Migration(
    CreateIndex("users", None, Key.sql("lower(email)")),
    CreateIndex("users", "users_by_country", "country", "id", where="country IS NOT NULL"),
)
