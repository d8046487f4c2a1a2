"""People and their plans, explained."""

from zdmigrate import Migration, SetComment

migration = Migration(
    SetComment("users", "people who may log in"),
    SetComment("users", "what they pay for: free, basic or gold", column="plan"),
    SetComment("users", "the list of all users is sorted by it", index="users_name"),
)
