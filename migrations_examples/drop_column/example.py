"""Facts for the tests and for `zdmigrate demo --example drop_column`."""

DOWN = {"User.fax": lambda _: ""}
