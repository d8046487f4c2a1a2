"""Users come from Germany, and begin with the basic plan."""

from zdmigrate import Migration, SetDefault

migration = Migration(
    SetDefault("users", "country", "'DE'"),
    SetDefault("users", "plan", "'basic'"),
)
