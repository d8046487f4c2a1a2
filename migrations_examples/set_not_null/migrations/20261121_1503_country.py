"""Every user has a country."""

from zdmigrate import Migration, SetNotNull

migration = Migration(
    SetNotNull("users", "country", backfill="'??'"),
)
