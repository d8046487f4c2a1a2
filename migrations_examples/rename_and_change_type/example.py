"""What the harness and the demo need to know."""

VALUES = {
    "Order.euros": lambda rng, _: rng.choice([None, rng.randrange(1_000_000)]),
    "Order.cents": lambda rng, _: rng.randrange(100_000_000),
}
UP = {"Order.cents": lambda row: (row["euros"] or 0) * 100}
DOWN = {"Order.euros": lambda row: row["cents"] // 100}
