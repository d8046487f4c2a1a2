"""Facts for the tests and for `zdmigrate demo --example add_check`."""

VALUES = {"Order.amount": lambda rng, _: rng.randint(1, 100)}
