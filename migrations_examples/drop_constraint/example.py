"""Facts for the tests and for `zdmigrate demo --example drop_constraint`."""

VALUES = {"User.email": lambda _, number: f"new{number}@example.org"}
