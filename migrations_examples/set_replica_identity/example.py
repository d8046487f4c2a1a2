"""Facts for the tests and for `zdmigrate demo --example set_replica_identity`."""

VALUES = {"User.public_id": lambda _, number: 2_000_000 + number}
