"""Facts for the tests and for `zdmigrate demo --example rename_column`."""

SAME = {"User.user_email": "User.email_address"}
VALUES = {"User.user_email": lambda _, number: f"user{number}@example.org"}
