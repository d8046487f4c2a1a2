"""What the harness and the demo need to know."""

VALUES = {
    "Order.euros": lambda rng, _: rng.randrange(1_000_000),
    "Order.cents": lambda rng, _: 100 * rng.randrange(1_000_000),
}
