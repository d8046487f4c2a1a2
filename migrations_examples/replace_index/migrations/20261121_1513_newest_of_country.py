"""The report shows a country's newest users first."""

from zdmigrate import Key, Migration, ReplaceIndex

migration = Migration(
    ReplaceIndex("users_country", "country", Key("id", order="desc"), table="users", include=["email"]),
)
