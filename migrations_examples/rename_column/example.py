"""Facts for the tests and for `zdmigrate demo --example rename_column`."""

VALUES = {"User.user_email": lambda _, number: f"user{number}@example.org"}
