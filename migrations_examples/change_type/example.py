"""What the harness and the demo need to know."""

OVERRIDES = {"warm_connections": "every connection has prepare_threshold=None"}
VALUES = {"Order.cents": lambda rng, _: rng.randrange(1_000_000)}
