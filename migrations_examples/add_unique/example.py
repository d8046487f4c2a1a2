"""What the harness and the demo need to know."""

VALUES = {"User.email": lambda rng, number: f"{number}-{rng.getrandbits(60):x}@example.org"}
