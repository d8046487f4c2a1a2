"""What the harness and the demo need to know."""

VALUES = {"Order.cents": lambda rng, _: 1 + rng.randrange(1_000_000)}
