"""Facts for the tests and for `zdmigrate demo --example add_unique`."""

VALUES = {"User.email": lambda _, number: f"new{number}@example.org"}
